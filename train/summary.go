package train

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
)

// summary lists, for each group of layers, how many parameters there are, how many train, and of how many
// the gradient reaches the optimizer in a step. Other entries may move in a step, too: momentum and
// weight decay are the method's matter (its Notes).
func (t *trainer) summary() string {
	type sums struct{ all, trained, selected int64 }
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
			g.selected += n
		}
	}
	table := report.Table{Columns: []report.Column{{Name: "layers"}, {Name: "parameters", Right: true}, {Name: "train", Right: true}}}
	if total.selected < total.trained {
		table.Columns = append(table.Columns, report.Column{Name: "gradient", Right: true})
	}
	row := func(name string, g sums) {
		table.Add([]string{name, thousands(g.all), thousands(g.trained), thousands(g.selected)}[:len(table.Columns)]...)
	}
	for _, name := range order {
		row(name, *groups[name])
	}
	row("all", total)
	var b strings.Builder
	table.Text(&b)
	head := fmt.Sprintf("method %s trains %s of %s parameters", t.cfg.MethodName, thousands(total.trained), thousands(models.ParameterCount(t.Net)))
	if total.selected < total.trained {
		head += fmt.Sprintf("; a step uses the gradient of %s", thousands(total.selected))
	}
	return head + "\n" + strings.TrimRight(b.String(), "\n")
}

// untrained warns of parameters that are neither loaded from the checkpoint nor trained.
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
			lines = append(lines, fmt.Sprintf("WARNING: %s is reinitialised and method %s does not train it: add --train '%s'",
				row.Name, t.cfg.MethodName, row.Name))
		}
	}
	return lines
}
