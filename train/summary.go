package train

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
)

// summary says for each layer group how many numbers it has, how many train, and how many move in a step.
func (t *trainer) summary() string {
	type sums struct{ all, trained, moved int64 }
	groups := map[string]*sums{}
	var order []string
	trains := map[string]bool{}
	for _, p := range t.Trained {
		trains[p.Name] = true
	}
	sparse, ok := t.cfg.Method.(finetune.Sparse)
	var total sums
	for _, p := range t.Params {
		name := finetune.Group(p.Name)
		if groups[name] == nil {
			groups[name] = &sums{}
			order = append(order, name)
		}
		for _, g := range []*sums{groups[name], &total} {
			n := p.T.Numel()
			g.all += n
			if !trains[p.Name] {
				continue
			}
			g.trained += n
			if ok {
				n = sparse.Entries(p.Name, p.Shape)
			}
			g.moved += n
		}
	}
	table := report.Table{Columns: []report.Column{{Name: "layers"}, {Name: "parameters", Right: true}, {Name: "train", Right: true}}}
	if total.moved < total.trained {
		table.Columns = append(table.Columns, report.Column{Name: "each step", Right: true})
	}
	row := func(name string, g sums) {
		table.Add([]string{name, thousands(g.all), thousands(g.trained), thousands(g.moved)}[:len(table.Columns)]...)
	}
	for _, name := range order {
		row(name, *groups[name])
	}
	row("all", total)
	var b strings.Builder
	table.Text(&b)
	head := fmt.Sprintf("method %s trains %s of %s parameters", t.cfg.MethodName, thousands(total.trained), thousands(models.ParameterCount(t.Net)))
	if total.moved < total.trained {
		head += fmt.Sprintf("; a step moves %s", thousands(total.moved))
	}
	return head + "\n" + strings.TrimRight(b.String(), "\n")
}

// untrained warns of parameters that do not come from the checkpoint and do not train either.
func (t *trainer) untrained() []string {
	if t.loading == nil {
		return nil
	}
	trains := map[string]bool{}
	for _, p := range t.Trained {
		trains[p.Name] = true
	}
	var lines []string
	for _, row := range t.loading.Rows {
		if (row.Status == checkpoint.Kept || row.Status == checkpoint.Adapted) && !trains[row.Name] {
			lines = append(lines, fmt.Sprintf("WARNING: %s starts anew and method %s does not train it: add --train '%s'", row.Name, t.cfg.MethodName, row.Name))
		}
	}
	return lines
}
