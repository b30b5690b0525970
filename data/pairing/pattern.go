package pairing

import (
	"fmt"
	"path"
	"strings"
)

// place stands in a Pattern for what is a case's own.
const place = "{case}"

// A Pattern is the path of a case's file below a folder, such as "{case}-ct.nrrd": {case} stands for
// any text without a separator, the same wherever it stands.
type Pattern struct {
	literals []string // before, between and behind the places
}

// ParsePattern reads a pattern. Separators are slashes.
func ParsePattern(text string) (*Pattern, error) {
	p := &Pattern{strings.Split(text, place)}
	if len(p.literals) < 2 {
		return nil, fmt.Errorf("%q: expected %s in it, which stands for the name of a case", text, place)
	}
	if named := p.Path("a"); path.Clean(named) != named || path.IsAbs(named) ||
		strings.HasPrefix(named, "../") {
		return nil, fmt.Errorf("%q: expected a path without . and .., below the folder that is given",
			text)
	}
	return p, nil
}

// Path is the path of a case's file.
func (p *Pattern) Path(name string) string { return strings.Join(p.literals, name) }

// Depth is the number of folders in the path.
func (p *Pattern) Depth() int { return strings.Count(p.Path(""), "/") }

// Match returns the case whose file a path is, and whether it is one.
func (p *Pattern) Match(file string) (name string, ok bool) {
	places := len(p.literals) - 1
	n := len(file) - len(p.Path(""))
	if n < places || n%places != 0 || len(p.literals[0])+n/places > len(file) {
		return "", false
	}
	name = file[len(p.literals[0]):][:n/places]
	return name, p.Path(name) == file && !strings.Contains(name, "/")
}
