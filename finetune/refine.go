package finetune

import (
	"fmt"
	"path"
	"strings"
)

// Refine changes what a method trains: Train adds parameters, Freeze takes them away, and has the last word. A pattern is
// a glob over a parameter's whole name: * stands for any characters, dots included, ? for one, [abc] for one of several.
type Refine struct {
	Train  []string `flag:"train" keep:"train" help:"parameters that train too, as a glob over whole names such as 'encoder.stages.0.*'; may be given several times"`
	Freeze []string `flag:"freeze" keep:"freeze" help:"parameters that do not train, likewise; has the last word"`
}

// Apply says whether a parameter trains that the method would train or not. Check finds patterns that are none.
func (r Refine) Apply(name string, trains bool) bool {
	return (trains || matches(r.Train, name)) && !matches(r.Freeze, name)
}

// Check makes sure that every pattern is one and matches at least one of the names.
func (r Refine) Check(names []string) error {
	for _, c := range []struct {
		flag     string
		patterns []string
	}{{"train", r.Train}, {"freeze", r.Freeze}} {
		for _, p := range c.patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("finetune: --%s %q is no pattern: expected a glob such as encoder.stages.0.* or *norm*", c.flag, p)
			}
			found := false
			for _, n := range names {
				found = found || matches([]string{p}, n)
			}
			if !found {
				return fmt.Errorf("finetune: --%s %q matches none of the %d parameters, whose names are such as %s (`lntorch inspect` lists a checkpoint's)",
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

// Group is the layer group that a parameter belongs to in a summary: its name up to the first part with a number, at most three
// parts, and never the parameter's own part: encoder.stages.0, decoder.seg_layers.1, swinViT.layers1.
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
