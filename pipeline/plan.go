package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/train"
)

// casesAtATime is how many cases are read at a time where nothing is asked for. Source: nnUNet_def_n_proc, 8;
// more than the cores do not help.
func casesAtATime() int { return min(8, system.Cores()) }

// Datasets names raw datasets.
type Datasets struct {
	Names []string `flag:"dataset" short:"d" list:"true" help:"datasets: numbers or names; several may follow"`
	RawFolder
	PreprocessedFolder
}

// open opens the raw datasets.
func (d Datasets) open() ([]*raw.Dataset, error) {
	if len(d.Names) == 0 {
		return nil, settings.Usage("no dataset is given: -d NUMBER or NAME")
	}
	var list []*raw.Dataset
	for _, name := range d.Names {
		r, err := openRaw(name, d.RawFolder, d.PreprocessedFolder)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// openRaw opens a raw dataset that is named in full or by its number.
func openRaw(name string, r RawFolder, p PreprocessedFolder) (*raw.Dataset, error) {
	if err := given("raw", r.Raw); err != nil {
		return nil, err
	}
	name, err := raw.FindName(name, r.Raw, p.Preprocessed)
	if err != nil {
		return nil, err
	}
	return raw.Open(r.Raw, name)
}

// verify checks the datasets; problems are logged, and are an error in the end.
func (d Datasets) verify(ctx context.Context, workers int, o Output) error {
	if err := given("raw", d.Raw); err != nil {
		return err
	}
	problems := 0
	for _, name := range d.Names {
		name, err := raw.FindName(name, d.Raw)
		if err != nil {
			return err
		}
		r, err := raw.Verify(ctx, filepath.Join(d.Raw, name), workers, o.progress())
		if err != nil {
			return err
		}
		for _, w := range r.Warnings {
			o.Print("WARNING:", w)
		}
		for _, p := range r.Problems {
			o.Print("PROBLEM:", p)
		}
		o.Printf("%s: %d cases, %d problems, %d warnings", name, r.Cases, len(r.Problems), len(r.Warnings))
		problems += len(r.Problems)
	}
	if problems > 0 {
		return fmt.Errorf("the integrity check found %d problems, listed above: repair them, and run it again", problems)
	}
	return nil
}

// Measurement holds how a dataset is measured.
type Measurement struct {
	Extractor string `flag:"fpe" nnunet:"fpe" default:"DatasetFingerprintExtractor" values:"DatasetFingerprintExtractor" help:"nnU-Net's class; there is one"`
	Verify    bool   `flag:"verify-dataset-integrity" help:"check the dataset first"`
	Clean     bool   `flag:"clean" help:"do again what is done already"`
	Verbose   bool   `flag:"verbose" hidden:"true" help:"accepted as nnU-Net's; see --quiet"`
}

// open opens the raw datasets to measure, checked where that is asked for.
func (m Measurement) open(ctx context.Context, d Datasets, workers int, o Output) ([]*raw.Dataset, error) {
	if err := given("preprocessed", d.Preprocessed); err != nil {
		return nil, err
	}
	if m.Verify {
		if err := d.verify(ctx, workers, o); err != nil {
			return nil, err
		}
	}
	return d.open()
}

// FingerprintConfig is the measurement of raw datasets.
type FingerprintConfig struct {
	Datasets
	Measurement
	Workers int `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
}

// Fingerprinted is the fingerprint of a dataset.
type Fingerprinted struct {
	Dataset  string            `json:"dataset"`
	File     string            `json:"file"`
	Found    bool              `json:"found"` // it was there already
	Cases    int               `json:"cases"`
	Channels []plans.Intensity `json:"channels"`
	Names    []string          `json:"-"` // of the channels
}

// Fingerprint measures raw datasets; done is called for each.
func Fingerprint(ctx context.Context, c FingerprintConfig, o Output, done func(Fingerprinted) error) error {
	workers := cmp.Or(c.Workers, casesAtATime())
	list, err := c.Measurement.open(ctx, c.Datasets, workers, o)
	if err != nil {
		return err
	}
	for _, d := range list {
		folder := filepath.Join(c.Preprocessed, d.Name)
		fp, found, err := fingerprint.ExtractFolder(ctx, d, folder, c.Clean, fingerprint.Options{Workers: workers, Progress: o.progress()})
		if err != nil {
			return err
		}
		err = done(Fingerprinted{d.Name, filepath.Join(folder, fingerprint.File), found, len(fp.Shapes), fp.Channels, d.JSON.ChannelNames})
		if err != nil {
			return err
		}
	}
	return nil
}

// Planner holds how training is planned.
type Planner struct {
	Planner       string    `flag:"planner" nnunet:"pl" default:"ExperimentPlanner" help:"nnU-Net's planner class"`
	MemoryGB      float64   `flag:"gpu-memory-target" nnunet:"gpu_memory_target" range:">0.." help:"GB to plan for (default: the planner's own)"`
	Preprocessor  string    `flag:"preprocessor-name" nnunet:"preprocessor_name" default:"DefaultPreprocessor" help:"class that the plans name"`
	TargetSpacing []float64 `flag:"overwrite-target-spacing" nnunet:"overwrite_target_spacing" range:">0.." list:"true" help:"mm of 3d_fullres along the axes z y x of the images"`
	OwnName       string    `flag:"overwrite-plans-name" bare:"true" nnunet:"overwrite_plans_name" help:"name of the plans instead of the planner's"`
}

func (p Planner) read() (*planner.Planner, planner.Options, error) {
	o := planner.Options{MemoryGB: p.MemoryGB, PreprocessorName: p.Preprocessor, PlansName: p.OwnName, TargetSpacing: p.TargetSpacing}
	own, err := planner.ForName(p.Planner)
	if err != nil {
		return nil, o, &settings.UsageError{Err: err}
	}
	if n := len(p.TargetSpacing); n != 0 && n != 3 {
		return nil, o, settings.Usage("-overwrite_target_spacing: found %d numbers, expected 3", n)
	}
	return own, o, nil
}

// PlanConfig is the planning of datasets that were measured.
type PlanConfig struct {
	Datasets
	Planner
}

// Plan plans training from fingerprints; done is called for each dataset.
func Plan(c PlanConfig, done func(PlansSummary) error) error {
	p, o, err := c.Planner.read()
	if err != nil {
		return err
	}
	if err := given("preprocessed", c.Preprocessed); err != nil {
		return err
	}
	list, err := c.open()
	if err != nil {
		return err
	}
	for _, d := range list {
		r, path, err := p.PlanFolder(d, filepath.Join(c.Preprocessed, d.Name), o)
		if err != nil {
			return err
		}
		s, err := summarisePlans(r.Plans, path)
		if err != nil {
			return err
		}
		s.Dataset, s.Notes = d.Name, append([]string{}, r.Notes...)
		if err := done(s); err != nil {
			return err
		}
	}
	return nil
}

// PlansSummary is what plans say, in short.
type PlansSummary struct {
	Dataset        string                 `json:"dataset"`
	File           string                 `json:"file"`
	Transpose      []int                  `json:"transpose_forward"`
	Configurations []ConfigurationSummary `json:"configurations"`
	Notes          []string               `json:"notes"`
}

// ConfigurationSummary is one configuration of plans. Sizes are (z, y, x) after transposition, spacing
// is in mm.
type ConfigurationSummary struct {
	Name    string    `json:"name"`
	Spacing []float64 `json:"spacing"`
	Median  []float64 `json:"median_image_size"`
	Patch   []int     `json:"patch_size"`
	Batch   int       `json:"batch_size"`
	Stages  int       `json:"stages"`
	Network string    `json:"network"`
	Error   string    `json:"error,omitempty"` // a configuration of the user's that cannot be read
}

func summarisePlans(o *plans.Object, path string) (PlansSummary, error) {
	s := PlansSummary{File: path}
	b, err := plans.EncodeJSON(o, -1, false)
	if err != nil {
		return s, err
	}
	v, err := plans.DecodeJSON(b)
	if err != nil {
		return s, err
	}
	p, err := plans.FromObject(v.(*plans.Object), path)
	if err != nil {
		return s, err
	}
	s.Transpose = p.TransposeForward
	for _, name := range p.ConfigurationNames() {
		line := ConfigurationSummary{Name: name}
		c, err := p.Configuration(name)
		if err == nil {
			line.Spacing, line.Median, line.Patch, line.Batch = c.Spacing, c.MedianImageSize, c.PatchSize, c.BatchSize
			var a models.Architecture
			if a, err = models.Parse(c); err == nil {
				line.Stages, line.Network = a.Stages(), a.Class()
			}
		}
		if err != nil {
			line.Error = err.Error()
		}
		s.Configurations = append(s.Configurations, line)
	}
	return s, nil
}

// MovePlansConfig is plans that go to another dataset.
type MovePlansConfig struct {
	Source      string `flag:"source" short:"s" help:"dataset that has the plans: number or name"`
	Target      string `flag:"target" short:"t" help:"dataset that gets them"`
	SourcePlans string `flag:"source-plans" bare:"true" nnunet:"sp" help:"name of the plans, without .json"`
	TargetPlans string `flag:"target-plans" bare:"true" nnunet:"tp" help:"their name at the target (default: the same)"`
	RawFolder
	PreprocessedFolder
}

// MovePlans copies plans to another dataset and gives the path of the new file.
func MovePlans(c MovePlansConfig) (string, error) {
	if c.Source == "" || c.Target == "" || c.SourcePlans == "" {
		return "", settings.Usage("-s, -t and -sp must be given")
	}
	if err := given("preprocessed", c.Preprocessed); err != nil {
		return "", err
	}
	source, err := raw.FindName(c.Source, c.Preprocessed, c.Raw)
	if err != nil {
		return "", err
	}
	target, err := openRaw(c.Target, c.RawFolder, c.PreprocessedFolder)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(c.Preprocessed, target.Name)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return "", err
	}
	return planner.Move(filepath.Join(c.Preprocessed, source), c.SourcePlans, target, folder, c.TargetPlans)
}

// PlanAndPreprocessConfig is all of it in one.
type PlanAndPreprocessConfig struct {
	Datasets
	Measurement
	MeasureWorkers int  `flag:"npfp" nnunet:"npfp" range:"1.." help:"cases at a time for the fingerprint (default: the cores, eight at most)"`
	NoPreprocess   bool `flag:"no-pp" help:"only fingerprint and plans"`
	Planner
	Preprocessing
}

// PlanAndPreprocess measures, plans and preprocesses; done is called for each configuration that was made.
func PlanAndPreprocess(ctx context.Context, c PlanAndPreprocessConfig, o Output, done func(Preprocessed) error) error {
	p, options, err := c.Planner.read()
	if err != nil {
		return err
	}
	workers := cmp.Or(c.MeasureWorkers, casesAtATime())
	list, err := c.Measurement.open(ctx, c.Datasets, workers, o)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, d := range list {
		to := filepath.Join(c.Preprocessed, d.Name)
		if !c.NoPreprocess {
			if err := refuseForeignData(to, cmp.Or(options.PlansName, p.PlansName), c.Configurations); err != nil {
				return fmt.Errorf("%s: nothing was planned: %w", d.Name, err)
			}
		}
		if _, _, err := fingerprint.ExtractFolder(ctx, d, to, c.Clean, fingerprint.Options{Workers: workers, Progress: o.progress()}); err != nil {
			return err
		}
		r, path, err := p.PlanFolder(d, to, options)
		if err != nil {
			return err
		}
		for _, n := range r.Notes {
			o.Print(n)
		}
		o.Print(path)
		names[d.Name] = r.Name
	}
	if c.NoPreprocess {
		return nil
	}
	return c.Preprocessing.run(ctx, list, c.Preprocessed, c.Clean, func(d *raw.Dataset) string { return names[d.Name] }, o, done)
}

// refuseForeignData is an error where the data of one of the configurations was preprocessed by another
// program: new plans would no longer describe it.
func refuseForeignData(folder, plansName string, configurations []string) error {
	own, err := plans.Load(filepath.Join(folder, plansName+".json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // the planner reports it
	}
	for _, name := range configurations {
		data := plansName + "_" + name // as the planner names it
		if own != nil {
			if c, err := own.Configuration(name); err == nil {
				data = c.DataIdentifier
			}
		}
		owner, err := preprocess.FindOwner(filepath.Join(folder, data))
		if err != nil {
			return err
		}
		if err := owner.Refusal(); err != nil {
			return err
		}
	}
	return nil
}

// planTraining plans a raw dataset for a training that lacks its plans: for the weights to start from, or
// by the planner whose plans have the wanted name.
func planTraining(ctx context.Context, c train.Config, d *raw.Dataset, o Output) (*plans.Plans, error) {
	path := filepath.Join(c.Preprocessed, c.PlansName+".json")
	o.Printf("%s: there are no plans %s: measuring and planning", d.Name, c.PlansName)
	fp, _, err := fingerprint.ExtractFolder(ctx, d, c.Preprocessed, false, fingerprint.Options{Workers: casesAtATime(), Progress: o.progress()})
	if err != nil {
		return nil, err
	}
	if c.Pretrained == "" {
		for _, n := range planner.Names() {
			p, err := planner.ForName(n)
			if err != nil {
				return nil, err
			}
			if p.PlansName != c.PlansName {
				continue
			}
			if _, _, err = p.PlanFolder(d, c.Preprocessed, planner.Options{}); err != nil {
				return nil, err
			}
			return plans.Load(path)
		}
		return nil, fmt.Errorf("%s is not there, and no planner makes plans of that name: run `lntorch plan -d %s -overwrite_plans_name %s`", path, d.Name, c.PlansName)
	}
	model, warnings, err := openModel(c.Pretrained, "", c.Source)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		o.Print("WARNING: the model's weights are not what its plans say:", w)
	}
	reader, err := d.Reader()
	if err != nil {
		return nil, err
	}
	options := planner.AdoptOptions{PlansName: c.PlansName, Name: c.Configuration, PatchSize: c.PatchSize, BatchSize: c.BatchSize}
	options.MemoryGB, _ = trainingMemory()
	a, err := planner.Adopt(model, planner.Input{DatasetName: d.Name, Dataset: d.JSON, Fingerprint: fp, Reader: reader.Name()}, options)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(planner.CopyDatasetJSON(d.Folder, c.Preprocessed), planner.CopySplits(d.Folder, c.Preprocessed)); err != nil {
		return nil, err
	}
	if err := plans.WriteJSON(path, a.Plans, false); err != nil {
		return nil, err
	}
	for _, x := range a.Findings {
		what := "differs from the model's data"
		if x.Warning {
			what = "WARNING: far from the model's data"
		}
		o.Printf("%s: %v", what, x)
	}
	o.Printf("%s: configuration %s of %s: patch %v, batch %d", path, a.Configuration, model.Source, a.PatchSize, a.BatchSize)
	return plans.Load(path)
}
