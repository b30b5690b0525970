package scores

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/regular"
)

// Read reads a scores.json and checks it: what it returns can be compared and shown. Errors name the
// file and the place.
func Read(path string) (*Scores, error) {
	data, err := regular.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s is no scores.json of `lntorch evaluate`: %w", path, err)
	}
	return s, nil
}

func parse(data []byte) (*Scores, error) {
	if err := dense(data); err != nil {
		return nil, err
	}
	s := &Scores{}
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(data, s); errors.As(err, &wrong) {
		where := "the document"
		if wrong.Field != "" {
			where = wrong.Field
		}
		return nil, fmt.Errorf("found %s as %s", wrong.Value, where)
	} else if err != nil {
		return nil, err
	}
	return s, s.check()
}

// dense refuses JSON of many objects with little in them, and null among the values of a list: read,
// they take a hundred times the memory of their text. scores.json has neither.
func dense(data []byte) error {
	const least = 24 // bytes of an object, on average
	objects := 0
	text, before := false, byte(0)
	for i := 0; i < len(data); i++ {
		c := data[i]
		switch {
		case text && c == '\\':
			i++
			continue
		case c == '"':
			text = !text
		case text || c == ' ' || c == '\n' || c == '\t' || c == '\r':
			continue
		case c == '{':
			objects++
		case c == 'n' && (before == '[' || before == ','):
			return fmt.Errorf("found null among the values of a list, at byte %d", i)
		}
		before = c
	}
	if objects > 64+len(data)/least {
		return fmt.Errorf("found %d objects in %d bytes", objects, len(data))
	}
	return nil
}

// check says where the scores lack something, or hold what cannot be.
func (s *Scores) check() error {
	if s.Version != version {
		return fmt.Errorf("version: found %d, expected %d", s.Version, version)
	}
	if err := s.Settings.Check(); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if len(s.Labels) == 0 {
		return fmt.Errorf("labels: found none, expected those that were scored")
	}
	for key := range s.Labels {
		if _, err := eval.ParseTarget(key); err != nil {
			return fmt.Errorf("labels: %w", err)
		}
	}
	classes := s.Settings.Classes()
	seen := map[string]bool{}
	for i, c := range s.Cases {
		if c == nil || c.Case == "" {
			return fmt.Errorf("cases[%d]: found no name of the case", i)
		}
		if seen[c.Case] {
			return fmt.Errorf("cases[%d]: case %q is there twice", i, c.Case)
		}
		seen[c.Case] = true
		if len(c.Labels) != len(s.Labels) {
			return fmt.Errorf("case %q: found %d labels, expected %d", c.Case, len(c.Labels),
				len(s.Labels))
		}
		for _, key := range s.Keys() {
			l := c.Labels[key]
			if l == nil {
				return fmt.Errorf("case %q: label %q is missing", c.Case, key)
			}
			if err := s.Settings.check(l, classes); err != nil {
				return fmt.Errorf("case %q, label %q: %w", c.Case, key, err)
			}
		}
	}
	return nil
}

// Metrics are the names of a label's metrics, in their order.
func (s Settings) Metrics() []string {
	names := []string{"Dice", "IoU"}
	for _, t := range s.Tolerances {
		names = append(names, "NSD_"+short(t))
	}
	return append(names, "HD95", "HD", "ASSD", "ASD_ref_to_pred", "ASD_pred_to_ref",
		"volume_ref_mm3", "volume_pred_mm3")
}

// check checks the scores of a label of a case.
func (s Settings) check(l *Label, classes []string) error {
	names := s.Metrics()
	for i, m := range l.Metrics {
		if !slices.Contains(names, m.Name) {
			return fmt.Errorf("found the metric %q, expected %v", m.Name, names)
		}
		if slices.ContainsFunc(l.Metrics[:i], func(o Metric) bool { return o.Name == m.Name }) {
			return fmt.Errorf("found the metric %q twice", m.Name)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(l.Metrics, func(m Metric) bool { return m.Name == name }) {
			return fmt.Errorf("the metric %q is missing", name)
		}
	}
	if !slices.Contains([]string{"none", "reference", "prediction", "both"}, l.Empty) {
		return fmt.Errorf("empty: found %q, expected none, reference, prediction or both", l.Empty)
	}
	for _, side := range []struct {
		name  string
		nodes []Node
	}{{"reference", l.Nodes.Reference}, {"prediction", l.Nodes.Prediction}} {
		for i, n := range side.nodes {
			if n.Node != i+1 || n.Voxels < 1 {
				return fmt.Errorf("nodes.%s[%d]: found node %d of %d voxels, expected node %d",
					side.name, i, n.Node, n.Voxels, i+1)
			}
			if !slices.Contains(classes, n.SizeClass) && (classes != nil || n.SizeClass != "") {
				return fmt.Errorf("nodes.%s[%d]: found the size class %q, expected one of %q",
					side.name, i, n.SizeClass, classes)
			}
		}
	}
	if !l.Measured() {
		if l.Nodes.Reference != nil || l.Nodes.Prediction != nil {
			return fmt.Errorf("detection: found none beside nodes, expected it for each rule, or null for both")
		}
		return nil
	}
	for _, rule := range s.Match {
		d := l.Detection[rule.String()]
		if d == nil {
			return fmt.Errorf("detection: the rule %s is missing", rule)
		}
		if d.TP < 0 || d.FN < 0 || d.FP < 0 || d.TP+d.FN != len(l.Nodes.Reference) ||
			d.FP > d.Predicted || d.Predicted != len(l.Nodes.Prediction) {
			return fmt.Errorf("detection by %s: found tp %d, fn %d, fp %d, predicted %d for %d and "+
				"%d nodes", rule, d.TP, d.FN, d.FP, d.Predicted, len(l.Nodes.Reference),
				len(l.Nodes.Prediction))
		}
	}
	return nil
}
