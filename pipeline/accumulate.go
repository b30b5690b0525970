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
	"strings"

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
	model := joined(joined(c.Results, name), c.Trainer+"__"+c.PlansName+"__"+c.Configuration)
	if _, err := os.Stat(model); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: train the model, or name another one with -tr, -p and -c", model)
	}
	l, err := openLabelling(model, "", "")
	if err != nil {
		return nil, err
	}
	predictions, err := foldPredictions(model, c.Folds, l.dataset.FileEnding)
	if err != nil {
		return nil, err
	}
	references, err := referenceFolder(l.plans.DatasetName, c.RawFolder, c.PreprocessedFolder)
	if err != nil {
		return nil, err
	}
	cases, err := labelCases(predictions, references)
	if err != nil {
		return nil, err
	}
	out := c.Output
	if out == "" {
		out = joined(model, "crossval_results_folds_"+foldsText(c.Folds))
	} else if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return nil, settings.Usage("-o %s holds files already: name an empty folder, or one that is not there", out)
	}
	s, err := l.score(ctx, cases, out, cmp.Or(c.Workers, casesAtATime()), o, nil)
	if err != nil {
		return nil, err
	}
	return &Accumulated{out, len(cases.Cases), s.Foreground(eval.Dice), s}, l.gather(ctx, out, predictions, s)
}

// gather fills a folder beside out, and gives it the name when it is complete.
func (l *labelling) gather(ctx context.Context, out string, predictions []string, s *eval.Summary) (err error) {
	clean := filepath.Clean(out)
	if err := os.MkdirAll(filepath.Dir(clean), 0o777); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(clean), ".accumulating-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(made)
		}
	}()
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	if err := l.copyInto(made); err != nil {
		return err
	}
	for _, p := range predictions {
		if err := errors.Join(ctx.Err(), copyFile(p, filepath.Join(made, filepath.Base(p)))); err != nil {
			return err
		}
	}
	if err := s.Save(filepath.Join(made, "summary.json")); err != nil {
		return err
	}
	if err := os.RemoveAll(clean); err != nil {
		return err
	}
	return os.Rename(made, clean)
}

// foldPredictions lists the validation predictions of the folds, sorted by case.
func foldPredictions(model string, folds []int, ending string) ([]string, error) {
	var all, missing, twice []string
	fold := map[string]int{}
	for i, f := range folds {
		if slices.Contains(folds[:i], f) {
			return nil, settings.Usage("-f: fold %d is named twice", f)
		}
		folder := joined(model, fmt.Sprintf("fold_%d/validation", f))
		files, err := filesEnding(folder, ending)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, fmt.Sprint(f))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the validation of lntorch train writes no label volumes yet; predict the fold's cases into its validation folder with lntorch predict", err)
		}
		for _, path := range files {
			name := filepath.Base(path)
			if other, ok := fold[name]; ok {
				twice = append(twice, fmt.Sprintf("%s in folds %d and %d", name, other, f))
			}
			fold[name] = f
		}
		all = append(all, files...)
	}
	if missing != nil {
		return nil, fmt.Errorf("%s has no validation of fold %s: train them, or name those that there are with -f", model, strings.Join(missing, ", "))
	}
	if twice != nil {
		return nil, fmt.Errorf("%s: found cases more than once: %s: the folds were trained with different splits", model, several(twice))
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return all, nil
}

// referenceFolder is where the labels of a dataset's training cases lie.
func referenceFolder(dataset string, r RawFolder, p PreprocessedFolder) (string, error) {
	var tried []string
	if r.Raw != "" {
		tried = append(tried, joined(joined(r.Raw, dataset), "labelsTr"))
	}
	if p.Preprocessed != "" {
		tried = append(tried, joined(joined(p.Preprocessed, dataset), "gt_segmentations"))
	}
	for _, folder := range tried {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			return folder, nil
		}
	}
	if tried == nil {
		return "", settings.Usage("neither --raw nor --preprocessed is given, and nnUNet_raw and nnUNet_preprocessed are not set: one of them holds the references")
	}
	return "", fmt.Errorf("found no references of %s: expected the folder %s", dataset, strings.Join(tried, " or "))
}

func foldsText(folds []int) string {
	texts := make([]string, len(folds))
	for i, f := range folds {
		texts[i] = fmt.Sprint(f)
	}
	return strings.Join(texts, "_")
}
