package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/settings"
)

// AdoptConfig is the planning of a dataset for a pretrained model.
type AdoptConfig struct {
	Model   string // checkpoint or model folder
	Dataset string `flag:"dataset" short:"d" help:"dataset that adopts: number or name"`
	RawFolder
	PreprocessedFolder
	ModelConfiguration string  `flag:"model-configuration" help:"configuration of the model's plans (default: the one it was trained with)"`
	PatchSize          []int   `flag:"patch-size" range:"1.." help:"voxels of a patch along the axes of the network (default: the model's)"`
	BatchSize          int     `flag:"batch-size" range:"1.." help:"patches of a batch (default: the model's)"`
	MemoryGB           float64 `flag:"memory" range:">0.." help:"GB to fit the patch and the batch to (default: the GPU's, else the machine's)"`
	KeepSpacing        bool    `flag:"keep-spacing" help:"keep the dataset's own target spacing and order of axes"`
	KeepNormalisation  bool    `flag:"keep-normalisation" help:"keep the dataset's own intensity statistics and normalisation"`
	Recipe             bool    `flag:"recipe" help:"change the dataset's own plans as LN-Seg-FM's readme says"`
	OwnPlans           string  `flag:"plans" bare:"true" short:"p" help:"with --recipe: the plans to add to (default: nnUNetPlans)"`
	Inherit            string  `flag:"inherit" help:"with --recipe: the configuration to inherit from (default: 3d_fullres)"`
	PlansName          string  `flag:"plans-name" bare:"true" help:"name of the new plans (default: nnUNetPlansAdopted)"`
	Name               string  `flag:"name" bare:"true" help:"name of the configuration (default: the model's; with --recipe, that and _adopted)"`
	Workers            int     `flag:"np" nnunet:"np" range:"1.." help:"cases at a time, if the dataset must be measured (default: the cores, eight at most)"`
	Force              bool    `flag:"force" help:"replace plans, or with --recipe a configuration, of that name"`
}

// Adopted is what Adopt made.
type Adopted struct {
	File          string            `json:"file"`
	Plans         string            `json:"plans"`
	Configuration string            `json:"configuration"`
	Patch         []int             `json:"patch_size"`
	Batch         int               `json:"batch_size"`
	Findings      []planner.Finding `json:"findings"`
	Notes         []string          `json:"notes"`
	Dataset       string            `json:"-"`
	Summary       PlansSummary      `json:"-"`
}

// check refuses settings that exclude each other.
func (c *AdoptConfig) check() error {
	if c.Dataset == "" {
		return settings.Usage("no dataset is given: -d NUMBER or NAME")
	}
	refuse := func(given bool, flag, why string) error {
		if given {
			return settings.Usage("--%s is %s", flag, why)
		}
		return nil
	}
	if c.Recipe {
		const why = "not for --recipe, which keeps all of the dataset's plans"
		return errors.Join(refuse(c.KeepSpacing, "keep-spacing", why), refuse(c.KeepNormalisation, "keep-normalisation", why),
			refuse(c.PlansName != "", "plans-name", why))
	}
	return errors.Join(refuse(c.OwnPlans != "", "plans", "for --recipe"), refuse(c.Inherit != "", "inherit", "for --recipe"))
}

// Adopt writes plans for a raw dataset whose configuration fits a pretrained model.
func Adopt(ctx context.Context, c AdoptConfig, o Output) (*Adopted, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	model, warnings, err := openModel(c.Model, c.ModelConfiguration, nil)
	if err != nil {
		return nil, err
	}
	d, err := openRaw(c.Dataset, c.RawFolder, c.PreprocessedFolder)
	if err != nil {
		return nil, err
	}
	if err := given("preprocessed", c.Preprocessed); err != nil {
		return nil, err
	}
	dir := filepath.Join(c.Preprocessed, d.Name)
	fp, _, err := fingerprint.ExtractFolder(ctx, d, dir, false, fingerprint.Options{Workers: cmp.Or(c.Workers, casesAtATime()), Progress: o.progress()})
	if err != nil {
		return nil, err
	}
	reader, err := d.Reader()
	if err != nil {
		return nil, err
	}
	in := planner.Input{DatasetName: d.Name, Dataset: d.JSON, Fingerprint: fp, Reader: reader.Name()}
	options := planner.AdoptOptions{PatchSize: c.PatchSize, BatchSize: c.BatchSize, MemoryGB: c.MemoryGB, KeepSpacing: c.KeepSpacing,
		KeepNormalisation: c.KeepNormalisation, PlansName: cmp.Or(c.PlansName, "nnUNetPlansAdopted"), Name: c.Name, Parent: cmp.Or(c.Inherit, "3d_fullres")}
	memoryOf := "--memory"
	if options.MemoryGB == 0 {
		options.MemoryGB, memoryOf = trainingMemory()
	}
	var a *planner.Adopted
	var path string
	if c.Recipe {
		path = filepath.Join(dir, cmp.Or(c.OwnPlans, "nnUNetPlans")+".json")
		a, err = c.recipe(path, model, in, options)
	} else {
		a, path, err = c.adopt(dir, d.Folder, model, in, options)
	}
	if err != nil {
		return nil, err
	}
	if err := plans.WriteJSON(path, a.Plans, false); err != nil {
		return nil, err
	}
	out := &Adopted{File: path, Plans: a.Name, Configuration: a.Configuration, Patch: a.PatchSize, Batch: a.BatchSize,
		Findings: append([]planner.Finding{}, a.Findings...), Notes: []string{}, Dataset: d.Name}
	for _, n := range a.Notes {
		out.Notes = append(out.Notes, n+" (memory: "+memoryOf+")")
	}
	for _, w := range warnings {
		out.Notes = append(out.Notes, "the model's weights are not what its plans say: "+w)
	}
	if out.Summary, err = summarisePlans(a.Plans, path); err != nil {
		return nil, err
	}
	out.Summary.Notes = out.Notes
	return out, nil
}

// recipe adds a configuration to plans that the dataset has.
func (c *AdoptConfig) recipe(path string, model planner.Model, in planner.Input, o planner.AdoptOptions) (*planner.Adopted, error) {
	p, err := plans.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--recipe adds to plans that are there, and %s is not: run `lntorch plan -d %s` with the planner of the model's network first", path, c.Dataset)
	}
	if err != nil {
		return nil, err
	}
	a, err := planner.Recipe(model, p, in, o)
	if err != nil {
		return nil, err
	}
	if slices.Contains(p.ConfigurationNames(), a.Configuration) && !c.Force {
		return nil, fmt.Errorf("%s has a configuration %s already: give another --name, or --force to replace it", path, a.Configuration)
	}
	return a, nil
}

// adopt makes new plans.
func (c *AdoptConfig) adopt(dir, rawFolder string, model planner.Model, in planner.Input, o planner.AdoptOptions) (*planner.Adopted, string, error) {
	a, err := planner.Adopt(model, in, o)
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, a.Name+".json")
	if _, err := os.Stat(path); err == nil && !c.Force {
		return nil, "", fmt.Errorf("%s is there already: give another --plans-name, or --force to replace it with all of its configurations", path)
	}
	return a, path, errors.Join(planner.CopyDatasetJSON(rawFolder, dir), planner.CopySplits(rawFolder, dir))
}
