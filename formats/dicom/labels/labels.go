// Package labels makes label maps from the parts of DICOM objects: ROIs of an RTSTRUCT, segments of
// a SEG. It holds what both need: the grid of the image that they are drawn on, the choice of parts
// by name, and the map, in which a later label wins. What the parts look like it does not know.
//
// Names of parts are texts of a patient's file. They reach a message only where a pattern matches
// none of them.
package labels

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/volume"
)

// A Choice makes one label of all parts whose name a pattern matches.
type Choice struct {
	Name string
	// Optional: the label may have no part, if another one has.
	Optional bool
	pattern  *regexp.Regexp
	text     string
}

// ParseChoices reads NAME=PATTERN or PATTERN, which is its own name. A pattern is a Go regular
// expression for the whole name, and case is ignored.
func ParseChoices(texts []string) ([]Choice, error) {
	var all []Choice
	for _, text := range texts {
		name, pattern, named := strings.Cut(text, "=")
		if !named {
			pattern = text
		}
		if name == "" || pattern == "" {
			return nil, fmt.Errorf("%q: expected NAME=PATTERN or PATTERN", text)
		}
		re, err := regexp.Compile(`(?i)\A(?:` + pattern + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("%q: %q is no regular expression: %w", text, pattern, err)
		}
		if slices.ContainsFunc(all, func(c Choice) bool { return c.Name == name }) {
			return nil, fmt.Errorf("%q: the name %q is there twice: join its patterns with |",
				text, name)
		}
		all = append(all, Choice{Name: name, pattern: re, text: pattern})
	}
	return all, nil
}

// A Part is a ROI or a segment.
type Part struct {
	Number int
	Name   string
	Empty  bool // nothing is drawn for it
}

// A Label is a value of the map.
type Label struct {
	Name   string
	Names  []string // of its parts
	Parts  []int    // indices
	Voxels int
}

// maxLabels is what the largest type of pixels holds.
const maxLabels = math.MaxUint16

// Choose returns the labels for values 1, 2, …: those of the choices in their order, or without any
// one label for each part that is not empty. kind names the parts for messages: "ROI".
func Choose(choices []Choice, parts []Part, kind string) ([]Label, error) {
	var all []Label
	for i, p := range parts {
		if len(choices) == 0 && !p.Empty {
			all = append(all, Label{Name: p.Name, Names: []string{p.Name}, Parts: []int{i}})
		}
	}
	if len(choices) == 0 && len(all) == 0 {
		return nil, fmt.Errorf("found no %s with anything in it", kind)
	}
	var none error
	matched := false
	for _, c := range choices {
		l := Label{Name: c.Name, Names: []string{}}
		for i, p := range parts {
			if c.pattern.MatchString(p.Name) {
				l.Names, l.Parts = append(l.Names, p.Name), append(l.Parts, i)
			}
		}
		if l.Parts != nil {
			matched = true
		} else if none = (&NoMatchError{c.text, kind, parts}); !c.Optional {
			return nil, none
		}
		all = append(all, l)
	}
	if !matched && none != nil {
		return nil, none
	}
	if len(all) > maxLabels {
		return nil, fmt.Errorf("found %d labels, expected at most %d: choose with --roi", len(all),
			maxLabels)
	}
	return all, nil
}

// NoMatchError says that no name matches a pattern, and which names there are.
type NoMatchError struct {
	Pattern, Kind string
	Parts         []Part
}

func (e *NoMatchError) Error() string {
	const show = 200
	var names []string
	for _, p := range e.Parts[:min(len(e.Parts), show)] {
		names = append(names, fmt.Sprintf("%q", p.Name))
	}
	if len(e.Parts) > show {
		names = append(names, "…")
	}
	if names == nil {
		names = []string{"none"}
	}
	return fmt.Sprintf("no name of a %s matches %q; there are %s", e.Kind, e.Pattern,
		strings.Join(names, ", "))
}

// References are the UIDs of what an object belongs to, as far as it says.
type References struct {
	Series []string // that it was made from
	Frames []string // frames of reference
}

// A Map is a label map, x fastest. Paint draws on it in any order and from several goroutines.
type Map struct {
	Grid     *Grid
	Labels   []Label       // of values 1, 2, …
	Pixels   volume.Pixels // uint8, uint16 where there are more than 255 labels
	Warnings []string
	lock     sync.Mutex
	shared   []uint64 // a bit for each voxel of several labels; nil if there is none
}

// NewMap returns a map of zeros.
func NewMap(g *Grid, all []Label) *Map {
	m := &Map{Grid: g, Labels: all, Pixels: make(volume.Slice[uint8], 0)}
	if len(all) > math.MaxUint8 {
		m.Pixels = make(volume.Slice[uint16], 0)
	}
	m.Pixels = m.Pixels.Make(g.Voxels())
	return m
}

// Warn adds a warning.
func (m *Map) Warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

// An Area says which cells of a plane are drawn, and where: cell (x, y), at y·Stride + x, becomes
// voxel At + x·DX + y·DY. The caller sees to it that these exist.
type Area struct {
	X0, Y0, X1, Y1 int
	Stride         int
	At, DX, DY     int
}

// Paint draws cells, each times value. Where a voxel has a label already, the later one wins.
func Paint[C uint8 | uint16](m *Map, a Area, cells []C, value int) {
	m.lock.Lock()
	defer m.lock.Unlock()
	switch p := m.Pixels.(type) {
	case volume.Slice[uint8]:
		paint(m, p, a, cells, uint8(value))
	case volume.Slice[uint16]:
		paint(m, p, a, cells, uint16(value))
	}
}

func paint[P, C uint8 | uint16](m *Map, pixels []P, a Area, cells []C, value P) {
	for y := a.Y0; y < a.Y1; y++ {
		at := a.At + y*a.DY
		for x, c := range cells[y*a.Stride+a.X0 : y*a.Stride+a.X1] {
			if c == 0 {
				continue
			}
			i, v := at+(a.X0+x)*a.DX, P(c)*value
			was := pixels[i]
			if was != 0 && was != v {
				if m.shared == nil {
					m.shared = make([]uint64, (len(pixels)+63)/64)
				}
				m.shared[i/64] |= 1 << (i % 64)
			}
			pixels[i] = max(was, v)
		}
	}
}

// Finish counts the voxels of each label, and warns of those that have none and of overlaps.
func (m *Map) Finish() {
	counts := make([]int, len(m.Labels)+1)
	switch p := m.Pixels.(type) {
	case volume.Slice[uint8]:
		count(counts, p)
	case volume.Slice[uint16]:
		count(counts, p)
	}
	for i := range m.Labels {
		if m.Labels[i].Voxels = counts[i+1]; counts[i+1] == 0 {
			m.Warn("label %d has no voxel", i+1)
		}
	}
	if n := m.Overlaps(); n > 0 {
		m.Warn("%d voxels belong to several labels: they have the last of these", n)
	}
}

// Overlaps is the number of voxels that were drawn for several labels.
func (m *Map) Overlaps() int {
	n := 0
	for _, w := range m.shared {
		n += bits.OnesCount64(w)
	}
	return n
}

// count counts each value. Equal ones, of which there are long runs, are counted together.
func count[P uint8 | uint16](counts []int, pixels []P) {
	for len(pixels) >= 8 {
		p := (*[8]P)(pixels)
		if v := p[0]; p[1] == v && p[2] == v && p[3] == v && p[4] == v && p[5] == v && p[6] == v &&
			p[7] == v {
			counts[v] += 8
		} else {
			for _, v := range p {
				counts[v]++
			}
		}
		pixels = pixels[8:]
	}
	for _, v := range pixels {
		counts[v]++
	}
}
