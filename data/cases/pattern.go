package cases

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/data/pairing"
)

// place stands in a pattern for the name of a case.
const place = "{case}"

// A pattern is the path of a case's file below the folder, such as {case}/*nodes*.mha: {case}
// stands for any text without a separator, the same wherever it stands, * for any text and ? for
// one character.
type pattern struct {
	text  string
	parts []string
}

// parse reads a pattern.
func parse(text string) (*pattern, error) {
	if _, err := pairing.ParsePattern(text); err != nil {
		return nil, err
	}
	p := &pattern{text, strings.Split(text, "/")}
	for _, part := range p.parts {
		at := strings.Index(part, place)
		if at < 0 {
			continue
		}
		if behind := part[at+len(place):]; strings.ContainsAny(part[:at], "*?") &&
			(strings.ContainsAny(behind, "*?") || strings.Contains(behind, place)) {
			return nil, fmt.Errorf("%q: * or ? before %s, and what is behind it is not clear "+
				"either: where a case's name begins and ends is not known", text, place)
		}
		break
	}
	return p, nil
}

// names are the names of cases whose file a path may be, the longest first: with a * beside {case}
// there are several.
func (p *pattern) names(rel string) []string {
	parts := strings.Split(rel, "/")
	if len(parts) != len(p.parts) {
		return nil
	}
	k := slices.IndexFunc(p.parts, func(s string) bool { return strings.Contains(s, place) })
	at := strings.Index(p.parts[k], place)
	before, after := p.parts[k][:at], p.parts[k][at+len(place):]
	var candidates []string
	add := func(name string) {
		if name != "" && !strings.HasPrefix(name, ".") {
			candidates = append(candidates, name)
		}
	}
	text := parts[k]
	switch {
	case strings.ContainsAny(before, "*?"): // the end is fixed, if nothing else is
		for from := range len(text) {
			for _, to := range ends(text, from, after) {
				add(text[from:to])
			}
		}
	case strings.HasPrefix(text, before):
		for _, to := range ends(text, len(before), after) {
			add(text[len(before):to])
		}
	}
	slices.SortStableFunc(candidates, func(a, b string) int { return len(b) - len(a) })
	return slices.DeleteFunc(slices.Compact(candidates),
		func(name string) bool { return !p.match(rel, name) })
}

// ends are the places where a name that begins at from may end: one if only text follows, else all.
func ends(text string, from int, after string) []int {
	if !strings.ContainsAny(after, "*?") && !strings.Contains(after, place) {
		to := len(text) - len(after)
		if to <= from || text[to:] != after {
			return nil
		}
		return []int{to}
	}
	var all []int
	for to := from + 1; to <= len(text); to++ {
		all = append(all, to)
	}
	return all
}

// match reports whether a path is that of a case's file.
func (p *pattern) match(rel, name string) bool {
	parts := strings.Split(rel, "/")
	if len(parts) != len(p.parts) {
		return false
	}
	for i, part := range p.parts {
		if !glob(part, name, parts[i]) {
			return false
		}
	}
	return true
}

// glob matches a part of a path with a part of a pattern, in a time that grows with the product of
// their lengths.
func glob(part, name, file string) bool {
	const any, one = -1, -2
	var tokens []rune // of the text, or one of these
	for len(part) > 0 {
		if rest, ok := strings.CutPrefix(part, place); ok {
			tokens = append(tokens, []rune(name)...)
			part = rest
			continue
		}
		r, n := utf8.DecodeRuneInString(part)
		switch part = part[n:]; r {
		case '*':
			tokens = append(tokens, any)
		case '?':
			tokens = append(tokens, one)
		default:
			tokens = append(tokens, r)
		}
	}
	text := []rune(file)
	star, from := -1, 0 // of the last *, and how much of the text it has taken
	i, k := 0, 0
	for k < len(text) {
		switch {
		case i < len(tokens) && tokens[i] == any:
			star, from = i, k
			i++
		case i < len(tokens) && (tokens[i] == one || tokens[i] == text[k]):
			i, k = i+1, k+1
		case star >= 0:
			from++
			i, k = star+1, from
		default:
			return false
		}
	}
	for i < len(tokens) && tokens[i] == any {
		i++
	}
	return i == len(tokens)
}

// paths lists what a pattern may mean for any case: files of an image format or of DICOM, and
// folders of DICOM.
func (f *finder) paths(p *pattern) ([]entry, error) {
	level := []string{""}
	for i, part := range p.parts {
		last := i == len(p.parts)-1
		anything := strings.ReplaceAll(part, place, "*")
		var next []string
		var found []entry
		for _, rel := range level {
			entries, err := f.list(rel)
			if err != nil {
				if f.ctx.Err() != nil || rel == "" {
					return nil, err
				}
				f.note("%v", err)
				continue
			}
			entries = slices.DeleteFunc(entries, func(e entry) bool {
				return !glob(anything, "", e.name)
			})
			if last {
				found = append(found, f.usable(entries)...)
				continue
			}
			for _, e := range entries {
				if e.kind == folder {
					next = append(next, e.path)
				}
			}
		}
		if last {
			return found, nil
		}
		level = next
	}
	return nil, nil
}

// patterns finds the cases that the flags say.
func (f *finder) patterns(images, labels string) (*Found, error) {
	var both [2]*pattern
	var entries [2][]entry
	for i, text := range []string{images, labels} {
		p, err := parse(text)
		if err != nil {
			return nil, err
		}
		both[i] = p
		if entries[i], err = f.paths(p); err != nil {
			return nil, err
		}
	}
	names := func(i int) (of [][]string, all map[string]bool) {
		all = map[string]bool{}
		for _, e := range entries[i] {
			list := both[i].names(e.path)
			of = append(of, list)
			for _, n := range list {
				all[n] = true
			}
		}
		return of, all
	}
	imageNames, ofImages := names(0)
	labelNames, ofLabels := names(1)
	groups := [2]map[string][]entry{{}, {}}
	group := func(i int, of [][]string, others map[string]bool) {
		for k, e := range entries[i] {
			if len(of[k]) == 0 {
				continue
			}
			at := slices.IndexFunc(of[k], func(n string) bool { return others[n] })
			name := of[k][max(at, 0)] // the longest that both have
			groups[i][name] = append(groups[i][name], e)
		}
	}
	group(0, imageNames, ofLabels)
	group(1, labelNames, ofImages)
	found := &Found{Layout: Patterns}
	used := map[string]bool{} // files of cases
	var alone []Case
	for i := range groups {
		for name := range groups[i] {
			c := f.said(name, groups[0][name], groups[1][name])
			switch {
			case len(groups[0][name]) == 0 || len(groups[1][name]) == 0:
				alone = append(alone, c)
			case i == 0:
				found.Cases = append(found.Cases, c)
				for _, e := range slices.Concat(groups[0][name], groups[1][name]) {
					used[e.path] = true
				}
			}
		}
	}
	for _, c := range alone { // what one pattern means is nothing that the other one misses
		if !slices.ContainsFunc(append(slices.Clone(c.Images), c.Label),
			func(p string) bool { return used[p] }) {
			found.Cases = append(found.Cases, c)
		}
	}
	if len(groups[0]) == 0 || len(groups[1]) == 0 {
		return nil, f.nothingSaid(both, len(groups[0]))
	}
	return found, nil
}

// said makes a case of the files that the patterns say.
func (f *finder) said(name string, images, labels []entry) Case {
	same := slices.DeleteFunc(slices.Clone(images), func(e entry) bool {
		return !slices.ContainsFunc(labels, func(l entry) bool { return l.path == e.path })
	})
	if len(same) > 0 { // the wider pattern means it, too
		without := func(list []entry) []entry {
			return slices.DeleteFunc(slices.Clone(list), func(e entry) bool {
				return slices.ContainsFunc(same, func(s entry) bool { return s.path == e.path })
			})
		}
		if len(images) > len(same) {
			images = without(images)
		} else {
			labels = without(labels)
		}
	}
	return decide(name, images, labels)
}

// nothingSaid is the error of a pattern that no file has.
func (f *finder) nothingSaid(both [2]*pattern, images int) error {
	flag, at := "--images", 0
	if images > 0 {
		flag, at = "--labels", 1
	}
	list, err := f.list("")
	if err != nil {
		return err
	}
	example := ""
	for _, e := range list {
		if e.kind == folder {
			if x := f.example(e, 3); x != nil {
				example = ", such as " + x.path
				break
			}
		}
	}
	if len(list) == 0 {
		example = " nothing"
	}
	return fmt.Errorf("%s %s: found no such file below %s, which holds %s%s", flag,
		both[at].text, f.root, listed(list, 8), example)
}
