package experiment

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/pipeline"
)

// Analysis is how the scores of the experiment are analysed: of the runs that the file asks for, in its order,
// with what must stand below each table.
func (p *Plan) Analysis() pipeline.ExperimentTableConfig {
	c := p.File.Analysis(p.Dir)
	c.Warnings = slices.Concat(p.Warnings, p.MixedMachines())
	c.Grid = &pipeline.ExperimentGrid{}
	o := &c.Grid.Order
	for _, d := range p.File.Datasets {
		o.Datasets = append(o.Datasets, d.Name)
	}
	for _, n := range p.File.Networks {
		o.Networks = append(o.Networks, n.Name)
	}
	for _, m := range p.File.Methods {
		o.Methods = append(o.Methods, m.Name)
	}
	for _, r := range p.Runs {
		for _, at := range r.Places() {
			c.Grid.Places = append(c.Grid.Places, figures.Place{Key: r.Key, Dataset: at.Dataset, Network: at.Network,
				Method: at.Method, Shots: at.Shots, Draw: figures.Name(strconv.Itoa(at.Draw)),
				Seed: figures.Name(strconv.FormatUint(at.Seed, 10))})
		}
	}
	return c
}

// Analysis is how the file has scores analysed: those of the experiment in a folder, whose tables,
// pictures and page go there, too.
func (f *File) Analysis(folder string) pipeline.ExperimentTableConfig {
	t := f.Table()
	c := pipeline.ExperimentTableConfig{Scores: filepath.Join(folder, ScoresFile), Out: folder,
		Primary: t.Primary, Reference: t.Reference, Alpha: t.Alpha, Resamples: t.Resamples, Seed: int(t.Seed)}
	for _, name := range slices.Sorted(maps.Keys(t.Tie)) {
		c.Tie = append(c.Tie, name+"="+strconv.FormatFloat(t.Tie[name], 'g', -1, 64))
	}
	return c
}
