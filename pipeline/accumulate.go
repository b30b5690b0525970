package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/settings"
)

// AccumulateConfig joins the validations of the folds of a model.
type AccumulateConfig struct {
	Dataset       string // number or name
	Configuration string `flag:"configuration" short:"c" help:"configuration, such as 3d_fullres"`
	Output        string `flag:"output" short:"o" path:"true" help:"folder to write to (default: crossval_results_folds_… in the model's folder)"`
	Folds         []int  `flag:"folds" short:"f" list:"true" default:"0,1,2,3,4" range:"0.." help:"folds; several may follow"`
	PlansName     string `flag:"plans" nnunet:"p" default:"nnUNetPlans" help:"name of the plans file, without .json"`
	Trainer       string `flag:"trainer" nnunet:"tr" default:"nnUNetTrainer" help:"trainer of the model"`
	RawFolder
	PreprocessedFolder
	ResultsFolder
	Workers int `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
}

// Accumulated is the joined validation.
type Accumulated struct {
	Folder  string        `json:"folder"`
	Cases   int           `json:"cases"`
	Dice    float64       `json:"dice"` // mean over the foreground
	Summary *eval.Summary `json:"-"`
}

// Accumulate copies the validation predictions of the folds into one folder and scores them there, as nnU-Net does. A folder
// of the default name is replaced when all is done; one that is named must be empty.
// Source: nnunetv2/evaluation/accumulate_cv_results.py and find_best_configuration.py.
func Accumulate(ctx context.Context, c AccumulateConfig, o Output) (*Accumulated, error) {
	if c.Configuration == "" || len(c.Folds) == 0 {
		return nil, settings.Usage("-c and -f must be given")
	}
	if err := given("results", c.Results); err != nil {
		return nil, err
	}
	name, err := raw.FindName(c.Dataset, c.Preprocessed, c.Raw, c.Results)
	if err != nil {
		return nil, err
	}
	model := trained{c.Trainer, c.PlansName, c.Configuration}.folder(c.Results, name)
	if _, err := os.Stat(model); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: train the model, or name another one with -tr, -p "+
			"and -c", model)
	}
	v, err := openCrossValidation(model, c.Folds)
	if err != nil {
		return nil, err
	}
	references, err := referenceFolder(c.rawLabels(v.plans.DatasetName),
		c.preprocessedLabels(v.plans.DatasetName))
	if err != nil {
		return nil, err
	}
	out := c.Output
	if out == "" {
		out = v.joined()
	} else if err := emptyFolder(out); err != nil {
		return nil, err
	}
	f := scoredFolder{path: out, references: references, named: c.Output != "", workers: cmp.Or(c.Workers, casesAtATime())}
	s, err := v.accumulate(ctx, f, o)
	if err != nil {
		return nil, err
	}
	return &Accumulated{out, len(s.Cases), s.Foreground(eval.Dice), s}, nil
}

// emptyFolder refuses a -o that is there and is anything but an empty folder: it would be replaced.
func emptyFolder(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return settings.Usage("-o %s is a file: name an empty folder, or one that is not there", path)
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > 0 {
		err = settings.Usage("-o %s holds files already: name an empty folder, or one that is not there",
			path)
	}
	return err
}
