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
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/brief"
	"github.com/lntorch/lntorch/internal/regular"
)

// labelling is what the label volumes of a folder mean, and how they are read.
type labelling struct {
	plans   *plans.Plans
	dataset *plans.Dataset
	reader  images.Reader
	targets []eval.Target // foreground regions, or labels

	plansPath, datasetPath string
}

// copyInto puts plans.json and dataset.json into a folder of label volumes, where later steps look for them.
func (l *labelling) copyInto(folder string) error {
	return errors.Join(copyFile(l.plansPath, filepath.Join(folder, "plans.json")), copyFile(l.datasetPath, filepath.Join(folder, "dataset.json")))
}

// openLabelling reads plans.json and dataset.json; an empty path stands for the file in folder.
func openLabelling(folder, plansPath, datasetPath string) (*labelling, error) {
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s: found no folder there, expected one of label volumes", folder)
	}
	for _, f := range []struct {
		path       *string
		name, flag string
	}{{&plansPath, "plans.json", "-plans_json"}, {&datasetPath, "dataset.json", "-dataset_json"}} {
		if *f.path != "" {
			continue
		}
		*f.path = filepath.Join(folder, f.name)
		if _, err := os.Stat(*f.path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not there: prediction writes it; name that of the model with %s", *f.path, f.flag)
		}
	}
	l := &labelling{plansPath: plansPath, datasetPath: datasetPath}
	var err error
	if l.plans, err = plans.Load(plansPath); err != nil {
		return nil, err
	}
	if l.dataset, err = plans.LoadDataset(datasetPath); err != nil {
		return nil, err
	}
	if l.reader, err = images.ForName(l.plans.ImageReaderWriter); err != nil {
		return nil, fmt.Errorf("%s: %w", plansPath, err)
	}
	if l.dataset.FileEnding == "" {
		return nil, fmt.Errorf("%s: file_ending is empty, expected one such as .nii.gz", datasetPath)
	}
	l.targets = labelmap.Targets(l.dataset.Labels)
	return l, nil
}

func (l *labelling) read(path string) (*labelmap.Map, error) { return labelmap.Read(l.reader, path) }

// labelCases pairs files of predictions with those of their names among the references. A reference that is missing is an error.
func labelCases(predictions []string, references string) (*raw.Dataset, error) {
	d := &raw.Dataset{}
	var missing []string
	for _, path := range predictions {
		name := filepath.Base(path)
		reference := joined(references, name)
		if _, err := os.Stat(reference); err != nil {
			missing = append(missing, name)
		}
		d.Cases = append(d.Cases, raw.Case{ID: name, Images: []string{path}, Label: reference})
	}
	if missing != nil {
		return nil, fmt.Errorf("%s: found no reference for %s: every prediction needs the file of its name there", references, several(missing))
	}
	return d, nil
}

// score compares predictions with references, workers at a time. edit, where there is one, changes the labels first. The
// summary names the predictions as files of folder shown.
// Source: nnunetv2/evaluation/evaluate_predictions.py, compute_metrics_on_folder.
func (l *labelling) score(ctx context.Context, d *raw.Dataset, shown string, workers int, o Output, edit func(*labelmap.Map) error) (*eval.Summary, error) {
	cases := make([]eval.Case, len(d.Cases))
	err := d.Each(ctx, workers, "scoring", o.progress(), func(i int, c raw.Case) error {
		pred, err := l.read(c.Images[0])
		if err != nil {
			return err
		}
		if edit != nil {
			if err := edit(pred); err != nil {
				return err
			}
		}
		ref, err := l.read(c.Label)
		if err != nil {
			return err
		}
		counts, err := labelmap.Compare(ref, pred, l.targets, l.dataset.Labels.IgnoreLabel)
		if err != nil {
			return fmt.Errorf("%s and %s: %w: both must be of the same image", c.Label, c.Images[0], err)
		}
		cases[i] = eval.Case{ReferenceFile: c.Label, PredictionFile: joined(shown, c.ID), Counts: counts}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return eval.Summarise(l.targets, cases)
}

// filesEnding lists the paths of the files in folder whose names end so, sorted by name. None is an error that says what
// the folder holds.
func filesEnding(folder, ending string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var found, others []string
	for _, e := range entries {
		path := joined(folder, e.Name())
		if !strings.HasSuffix(e.Name(), ending) {
			others = append(others, e.Name())
		} else if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			found = append(found, path)
		}
	}
	if found == nil && others == nil {
		return nil, fmt.Errorf("%s is empty, expected files that end in %s", folder, ending)
	}
	if found == nil {
		err := fmt.Errorf("%s holds no files that end in %s; there are %s", folder, ending, several(others))
		if image.ForName(ending) != nil && dicom.Holds(folder, "") {
			err = fmt.Errorf("%w. DICOM objects become label maps by `lntorch image convert OBJECT LABELS%s "+
				"--reference SERIES`", err, ending)
		}
		return nil, err
	}
	slices.Sort(found)
	return found, nil
}

// several names the first of a list.
func several(names []string) string {
	return brief.Join(names, ", ", 10)
}

// joined puts a name behind a folder as Python does, which summary.json shows: the folder stays as it was written.
func joined(folder, name string) string {
	if folder == "" || strings.HasSuffix(folder, "/") {
		return folder + name
	}
	return folder + "/" + name
}

// copyFile copies a file. The copy appears whole or not at all.
func copyFile(path, target string) error {
	from, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	return atomicfile.Copy(target, from, time.Time{})
}
