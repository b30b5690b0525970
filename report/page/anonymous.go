package page

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
)

// hidden stands where a text could name a patient.
const hidden = "(hidden)"

// names hides what could name a patient.
type names struct {
	cases map[string]string // case-1 and so on by the cases' names
	order []string          // what is replaced within texts, long ones first
	parts map[string]string // names of files and folders: the case that has it, "" if several have
}

// anonymous is a copy of the report in which cases are numbered, in the order of cases.json, and no
// file or folder is named: a text with a path is hidden as a whole, and so is one that is a part of
// a case's path. What only one case has in its path, such as a patient's folder, is hidden within
// texts, too.
func (a *Adaptation) anonymous() (*Adaptation, error) {
	var rows []any
	if err := decode(a.Cases, &rows); err != nil {
		return nil, err
	}
	n := &names{cases: map[string]string{}, parts: map[string]string{}}
	for _, r := range rows {
		if r, ok := r.(map[string]any); ok {
			name, _ := r["case"].(string)
			n.add(name)
			n.path(name, paths(r["image"]))
			n.path(name, paths(r["label"]))
		}
	}
	for _, s := range []*scores.Scores{a.Before, a.After} {
		if s == nil {
			continue
		}
		for _, c := range s.Cases {
			n.add(c.Case)
			n.path(c.Case, c.ReferenceFile)
			n.path(c.Case, c.PredictionFile)
		}
		for _, f := range s.Failed {
			n.add(f.Case)
			n.path(f.Case, f.ReferenceFile)
			n.path(f.Case, f.PredictionFile)
		}
	}
	for _, p := range a.Pictures {
		n.add(p.Case)
	}
	for part, owner := range n.parts {
		if owner != "" && n.cases[part] == "" {
			n.order = append(n.order, part)
		}
	}
	slices.SortFunc(n.order, func(x, y string) int { return len(y) - len(x) })

	b := *a
	b.Title = n.text(a.Title)
	if strings.ContainsAny(a.Checkpoint, `/\`) {
		b.Checkpoint = path.Base(filepath.ToSlash(strings.ReplaceAll(a.Checkpoint, `\`, "/")))
	}
	b.Checkpoint = n.text(b.Checkpoint)
	b.Before, b.After = n.scores(a.Before), n.scores(a.After)
	roles := make([]any, len(rows))
	for i, r := range rows {
		if r, ok := r.(map[string]any); ok {
			delete(r, "image")
			delete(r, "label")
			roles[i] = r["role"]
		}
	}
	b.Cases = n.value(rows)
	for i, r := range rows { // a folder may be called train, and the role is no name
		if r, ok := r.(map[string]any); ok && slices.Contains([]any{"train", "val", "test"}, roles[i]) {
			r["role"] = roles[i]
		}
	}
	var run any
	if err := decode(a.Run, &run); err != nil {
		return nil, err
	}
	b.Run = n.value(run)
	b.Notes = nil
	for _, text := range a.Notes {
		b.Notes = append(b.Notes, n.text(text))
	}
	b.Pictures = slices.Clone(a.Pictures)
	for i := range b.Pictures {
		p := &b.Pictures[i]
		p.Case, p.What, p.Alt = n.cases[p.Case], n.text(p.What), n.text(p.Alt)
	}
	return &b, nil
}

func (n *names) add(name string) {
	if n.cases[name] == "" && name != "" {
		n.cases[name] = fmt.Sprintf("case-%d", len(n.cases)+1)
		n.order = append(n.order, name)
	}
}

// path remembers the parts of a case's path, or of several with commas between them.
func (n *names) path(name, path string) {
	for _, part := range regexp.MustCompile(`[/\\]|, `).Split(path, -1) {
		stem, _, _ := strings.Cut(part, ".")
		for _, s := range []string{part, stem} {
			if owner, ok := n.parts[s]; s != "" && (!ok || owner == name) {
				n.parts[s] = name
			} else {
				n.parts[s] = ""
			}
		}
	}
}

// text hides a text that holds a path or is part of one, and replaces the names of cases in others.
func (n *names) text(s string) string {
	if strings.ContainsAny(s, `/\`) {
		return hidden
	}
	if n.cases[s] != "" {
		return n.cases[s]
	}
	if _, ok := n.parts[s]; ok && s != "" {
		return hidden
	}
	return n.within(s)
}

// within replaces names inside a text where no letter or digit stands beside them.
func (n *names) within(s string) string {
	inside := func(r byte) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= 0x80
	}
	var out strings.Builder
next:
	for i := 0; i < len(s); {
		for _, name := range n.order {
			end := i + len(name)
			if strings.HasPrefix(s[i:], name) && (i == 0 || !inside(s[i-1])) &&
				(end == len(s) || !inside(s[end])) {
				out.WriteString(cmp.Or(n.cases[name], hidden))
				i = end
				continue next
			}
		}
		out.WriteByte(s[i])
		i++
	}
	return out.String()
}

// value hides names in all texts of what JSON holds, and in the keys of its objects.
func (n *names) value(v any) any {
	switch v := v.(type) {
	case string:
		return n.text(v)
	case []any:
		for i := range v {
			v[i] = n.value(v[i])
		}
		return v
	case map[string]any:
		out := map[string]any{}
		for key, one := range v {
			if key == "host" || key == "hostname" || key == "user" {
				continue
			}
			out[n.key(key)] = n.value(one)
		}
		return out
	}
	return v
}

func (n *names) key(s string) string {
	if n.cases[s] != "" {
		return n.cases[s]
	}
	if strings.ContainsAny(s, `/\`) {
		return hidden
	}
	return n.within(s)
}

// scores is a copy without names.
func (n *names) scores(s *scores.Scores) *scores.Scores {
	if s == nil {
		return nil
	}
	c := *s
	c.Cases = make([]*scores.Case, len(s.Cases))
	for i, one := range s.Cases {
		copied := *one
		copied.Case, copied.ReferenceFile, copied.PredictionFile = n.cases[one.Case], hidden, hidden
		c.Cases[i] = &copied
	}
	c.Failed = make([]scores.Failed, len(s.Failed))
	for i, f := range s.Failed {
		c.Failed[i] = scores.Failed{Case: n.cases[f.Case], ReferenceFile: hidden, PredictionFile: hidden,
			Error: n.text(f.Error)}
	}
	return &c
}
