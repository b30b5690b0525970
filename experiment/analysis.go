package experiment

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/pipeline"
)

// Analysis is how the scores of the experiment are analysed: of the runs that the file asks for, with
// what must stand below each table.
func (p *Plan) Analysis() pipeline.ExperimentTableConfig {
	c := p.File.Analysis(p.Dir)
	c.Warnings = slices.Concat(p.Warnings, p.MixedMachines())
	for _, r := range p.Runs {
		for _, at := range r.Places() {
			c.Places = append(c.Places, figures.Place{Key: r.Key, Dataset: at.Dataset, Network: at.Network,
				Method: at.Method, Shots: at.Shots, Draw: figures.Name(strconv.Itoa(at.Draw)),
				Seed: figures.Name(strconv.FormatUint(at.Seed, 10))})
		}
	}
	return c
}

// Analysis is how the file has scores analysed: those of the experiment in a folder, whose tables,
// pictures and page go there, too. Datasets, networks and methods are in the order of the file.
func (f *File) Analysis(folder string) pipeline.ExperimentTableConfig {
	t := f.Table()
	c := pipeline.ExperimentTableConfig{Scores: filepath.Join(folder, ScoresFile), Out: folder,
		Primary: t.Primary, Reference: t.Reference, Alpha: t.Alpha, Resamples: t.Resamples, Seed: int(t.Seed),
		Order: f.order()}
	for _, name := range slices.Sorted(maps.Keys(t.Tie)) {
		c.Tie = append(c.Tie, name+"="+strconv.FormatFloat(t.Tie[name], 'g', -1, 64))
	}
	return c
}

// order is the order of names in the file.
func (f *File) order() (o table.Order) {
	for _, d := range f.Datasets {
		o.Datasets = append(o.Datasets, d.Name)
	}
	for _, n := range f.Networks {
		o.Networks = append(o.Networks, n.Name)
	}
	for _, m := range f.Methods {
		o.Methods = append(o.Methods, m.Name)
	}
	return o
}
