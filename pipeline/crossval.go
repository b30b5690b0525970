package pipeline

import (
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
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/settings"
)

// trained names a trained model as nnU-Net does.
type trained struct{ trainer, plans, configuration string }

// String is the name of the model's folder.
func (m trained) String() string { return m.trainer + "__" + m.plans + "__" + m.configuration }

func (m trained) folder(results, dataset string) string {
	return joined(joined(results, dataset), m.String())
}

// crossValidation is the validations of the folds of a trained model.
type crossValidation struct {
	*labelling
	model       string // its folder
	folds       []int
	predictions []string // label volumes, sorted by case
}

func openCrossValidation(model string, folds []int) (*crossValidation, error) {
	for _, name := range []string{"plans.json", "dataset.json"} {
		if _, err := os.Stat(filepath.Join(model, name)); err != nil {
			return nil, fmt.Errorf("%s is not there: training writes it into the folder of a model; "+
				"copy the one that it was trained with", joined(model, name))
		}
	}
	l, err := openLabelling(model, "", "")
	if err != nil {
		return nil, err
	}
	v := &crossValidation{labelling: l, model: model, folds: folds}
	var missing, there []string
	for i, f := range folds {
		if slices.Contains(folds[:i], f) {
			return nil, settings.Usage("-f: fold %d is named twice", f)
		}
		if _, err := os.Stat(v.fold(f)); err != nil {
			missing = append(missing, fmt.Sprint(f))
		} else {
			there = append(there, fmt.Sprint(f))
		}
	}
	if missing != nil {
		found := "there is none"
		if there != nil {
			found = "it has folds " + strings.Join(there, ", ")
		}
		return nil, fmt.Errorf("%s has no validation of fold %s; %s: train them (lntorch train … "+
			"--val for one that is trained), or name those that there are with -f", model, strings.Join(missing, ", "), found)
	}
	v.predictions, err = v.files(l.dataset.FileEnding, "--val")
	return v, err
}

// fold is the folder of a fold's validation.
func (v *crossValidation) fold(f int) string {
	return joined(v.model, fmt.Sprintf("fold_%d/validation", f))
}

// joined is where the validations lie together.
func (v *crossValidation) joined() string {
	return joined(v.model, "crossval_results_folds_"+foldsText(v.folds))
}

// files lists the files of the folds' validations that end so, sorted by case. Every fold that has
// none is named; flags are those of train that write such files.
func (v *crossValidation) files(ending, flags string) ([]string, error) {
	var all, twice []string
	var wrong []error
	fold := map[string]int{}
	for _, f := range v.folds {
		files, err := filesEnding(v.fold(f), ending)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%w: lntorch train … %s writes them", err, flags))
			continue
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
	if twice != nil {
		wrong = append(wrong, fmt.Errorf("%s: found cases more than once: %s: the folds were trained "+
			"with different splits", v.model, several(twice)))
	}
	slices.SortFunc(all, func(a, b string) int {
		return strings.Compare(filepath.Base(a), filepath.Base(b))
	})
	return all, errors.Join(wrong...)
}

// accumulate fills f with the predictions of all folds.
// Source: nnunetv2/evaluation/accumulate_cv_results.py.
func (v *crossValidation) accumulate(ctx context.Context, f scoredFolder, o Output) (*eval.Summary, error) {
	f.source = map[string]string{}
	var names []string
	for _, p := range v.predictions {
		names = append(names, filepath.Base(p))
		f.source[filepath.Base(p)] = p
	}
	return v.fill(ctx, f, names, "copying", o, func(name, folder string) error {
		return copyFile(f.source[name], filepath.Join(folder, name))
	})
}

// scoredFolder is a folder of label volumes with the scores of all of them in summary.json.
type scoredFolder struct {
	path       string
	references string // folder of files of the same names
	keep       bool   // label volumes that are there stay
	named      bool   // by the user: must be empty or missing
	workers    int    // cases at a time
	// source is the files that label volumes are copied from, by name: errors name them
	source map[string]string
}

// fill has put write the label volumes of these names (sorted, with their ending) into a folder
// beside f, scores them, and gives the folder its name when all is done. With f.keep it only adds
// to a folder that is there what it lacks.
func (l *labelling) fill(ctx context.Context, f scoredFolder, names []string, task string, o Output,
	put func(name, folder string) error) (s *eval.Summary, err error) {

	clean := filepath.Clean(f.path)
	work, lacking := clean, names
	_, missing := os.Stat(clean)
	if f.keep && missing == nil {
		if s, lacking = f.kept(names); s != nil {
			return s, nil
		}
		// Scores of fewer cases must not outlive a run that ends early.
		if err := os.RemoveAll(filepath.Join(work, "summary.json")); err != nil {
			return nil, err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(clean), 0o777); err != nil {
			return nil, err
		}
		work = filepath.Join(filepath.Dir(clean), "."+filepath.Base(clean)+".accumulating")
		lock, err := folderlock.Beside(work)
		if err != nil {
			return nil, err
		}
		defer lock.Release()
		if err := os.RemoveAll(work); err != nil { // of a run that was killed
			return nil, err
		}
		if err := os.Mkdir(work, 0o755); err != nil {
			return nil, err
		}
		defer os.RemoveAll(work) // it has its name by then, or failed
	}
	var paths []string
	for _, name := range names {
		path := filepath.Join(work, name)
		if from := f.source[name]; from != "" && slices.Contains(lacking, name) {
			path = from
		}
		paths = append(paths, path)
	}
	cases, err := labelCases(paths, f.references)
	if err != nil {
		return nil, err
	}
	if err := l.copyInto(work); err != nil {
		return nil, err
	}
	todo := &raw.Dataset{}
	for _, name := range lacking {
		todo.Cases = append(todo.Cases, raw.Case{ID: name})
	}
	err = todo.Each(ctx, f.workers, task, o.progress(), func(_ int, c raw.Case) error {
		return put(c.ID, work)
	})
	if err != nil {
		return nil, err
	}
	if s, err = l.score(ctx, cases, f.path, f.workers, o, nil); err != nil {
		return nil, err
	}
	if err := s.Save(filepath.Join(work, "summary.json")); err != nil || work == clean {
		return s, err
	}
	remove := os.RemoveAll
	if f.named {
		remove = os.Remove // empty when the run began
	}
	if err := remove(clean); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return s, os.Rename(work, clean)
}

// kept gives the scores in the folder if they are those of the cases, or else which label volumes
// are not there.
func (f *scoredFolder) kept(names []string) (s *eval.Summary, lacking []string) {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(f.path, name)); err != nil {
			lacking = append(lacking, name)
		}
	}
	s, err := eval.ReadSummary(filepath.Join(f.path, "summary.json"))
	if lacking != nil || err != nil {
		return nil, lacking
	}
	same := slices.EqualFunc(s.Cases, names, func(c eval.Case, name string) bool {
		return filepath.Base(c.PredictionFile) == name
	})
	if !same {
		return nil, nil
	}
	return s, nil
}

// rawLabels is where the labels of a dataset's training cases lie, "" if no folder is given.
func (r RawFolder) rawLabels(dataset string) string {
	if r.Raw == "" {
		return ""
	}
	return joined(joined(r.Raw, dataset), "labelsTr")
}

// preprocessedLabels is where preprocessing copies those labels to.
func (p PreprocessedFolder) preprocessedLabels(dataset string) string {
	if p.Preprocessed == "" {
		return ""
	}
	return joined(joined(p.Preprocessed, dataset), "gt_segmentations")
}

// referenceFolder is the first of the folders that is there; "" is skipped.
func referenceFolder(folders ...string) (string, error) {
	folders = slices.DeleteFunc(folders, func(f string) bool { return f == "" })
	for _, folder := range folders {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			return folder, nil
		}
	}
	if len(folders) == 0 {
		return "", settings.Usage("neither --raw nor --preprocessed is given, and nnUNet_raw and " +
			"nnUNet_preprocessed are not set: one of them holds the references")
	}
	return "", fmt.Errorf("found no references: expected the folder %s; it holds a label volume for "+
		"every case that was trained with", strings.Join(folders, " or "))
}

func foldsText(folds []int) string {
	texts := make([]string, len(folds))
	for i, f := range folds {
		texts[i] = fmt.Sprint(f)
	}
	return strings.Join(texts, "_")
}
