package finetune

import (
	"fmt"
	"path"
	"strings"
)

// Refine overrides a method's choice of trained parameters: Train adds parameters, Freeze removes
// them and takes precedence. A pattern is a glob over the full parameter name: * matches any
// characters, dots included, ? one character, [abc] one of several.
type Refine struct {
	Train  []string `flag:"train" keep:"train" help:"parameters to train in addition, as a glob over full names such as 'encoder.stages.0.*'; may be repeated"`
	Freeze []string `flag:"freeze" keep:"freeze" help:"parameters to freeze, as a glob; may be repeated; overrides --train"`
}

// Apply reports whether a parameter trains, given whether the method trains it. It ignores
// malformed patterns, which Check reports.
func (r Refine) Apply(name string, trains bool) bool {
	return (trains || matches(r.Train, name)) && !matches(r.Freeze, name)
}

// Check returns an error unless every pattern is well-formed and matches at least one name.
func (r Refine) Check(names []string) error {
	for _, c := range []struct {
		flag     string
		patterns []string
	}{{"train", r.Train}, {"freeze", r.Freeze}} {
		for _, p := range c.patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("finetune: --%s %q is not a valid pattern: expected a glob "+
					"such as encoder.stages.0.* or *norm*", c.flag, p)
			}
			found := false
			for _, n := range names {
				found = found || matches([]string{p}, n)
			}
			if !found {
				return fmt.Errorf("finetune: --%s %q matches none of the %d parameters, which "+
					"have names such as %s (`lntorch inspect` lists those of a checkpoint)",
					c.flag, p, len(names), strings.Join(names[:min(2, len(names))], ", "))
			}
		}
	}
	return nil
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}

// Group returns the layer group of a parameter for summaries: its name up to the first component
// with a digit, at most three components, without the parameter's own component: encoder.stages.0,
// decoder.seg_layers.1, swinViT.layers1.
func Group(name string) string {
	parts := strings.Split(name, ".")
	n := max(1, min(3, len(parts)-1))
	for i := range n {
		if strings.ContainsAny(parts[i], "0123456789") {
			n = i + 1
			break
		}
	}
	return strings.Join(parts[:n], ".")
}
