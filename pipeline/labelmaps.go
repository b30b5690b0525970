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
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
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
	labels := l.dataset.Labels
	if labels.HasRegions {
		for _, r := range labels.Regions {
			if r.Region {
				l.targets = append(l.targets, eval.Region(r.Values...))
			} else {
				l.targets = append(l.targets, eval.Label(r.Values[0]))
			}
		}
		return l, nil
	}
	for _, v := range labels.ForegroundLabels {
		l.targets = append(l.targets, eval.Label(v))
	}
	return l, nil
}

// labelMap is a label volume as it lies in a file.
type labelMap struct {
	shape      [3]int
	small      []uint8 // labels of a byte; else wide
	wide       []int32
	properties *images.Properties
}

func (l *labelling) read(path string) (*labelMap, error) {
	im, p, err := l.reader.ReadSeg(path)
	if err != nil {
		return nil, err
	}
	if im.Shape[0] != 1 {
		return nil, fmt.Errorf("%s: found %d channels, expected one of labels", path, im.Shape[0])
	}
	m := &labelMap{shape: [3]int(im.Shape[1:]), properties: p}
	if small, ok := im.Pixels.(volume.Slice[uint8]); ok {
		m.small = small
		return m, nil
	}
	if i := volume.Fraction(im.Pixels); i >= 0 {
		return nil, fmt.Errorf("%s: found the value %v, expected whole numbers: these are no labels", path, im.Pixels.Value(i))
	}
	const limit = 1 << 30
	if least, most := volume.Range(im.Pixels); least < -limit || most > limit {
		return nil, fmt.Errorf("%s: found values from %v to %v, expected labels", path, least, most)
	}
	m.wide = volume.Cast[int32](im.Pixels)
	return m, nil
}

// write stores labels with the geometry that they were read with.
func (l *labelling) write(path string, m *labelMap) error {
	im := &volume.Image{Shape: [4]int{1, m.shape[0], m.shape[1], m.shape[2]}, Pixels: volume.Slice[uint8](m.small)}
	if m.small == nil {
		im.Pixels = volume.Slice[int32](m.wide)
	}
	return l.reader.WriteSeg(path, im, m.properties)
}

// widened are the labels as int32.
func (m *labelMap) widened() []int32 {
	if m.small == nil {
		return m.wide
	}
	return volume.Cast[int32](volume.Slice[uint8](m.small))
}

func compareLabels(ref, pred *labelMap, targets []eval.Target, ignore *int) ([]eval.Counts, error) {
	if ref.small != nil && pred.small != nil {
		return eval.Compare(eval.Map[uint8]{Data: ref.small, Shape: ref.shape[:]}, eval.Map[uint8]{Data: pred.small, Shape: pred.shape[:]}, targets, ignore)
	}
	return eval.Compare(eval.Map[int32]{Data: ref.widened(), Shape: ref.shape[:]}, eval.Map[int32]{Data: pred.widened(), Shape: pred.shape[:]}, targets, ignore)
}

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
func (l *labelling) score(ctx context.Context, d *raw.Dataset, shown string, workers int, o Output, edit func(*labelMap) error) (*eval.Summary, error) {
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
		counts, err := compareLabels(ref, pred, l.targets, l.dataset.Labels.IgnoreLabel)
		cases[i] = eval.Case{ReferenceFile: c.Label, PredictionFile: joined(shown, c.ID), Counts: counts}
		return err
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
		return nil, fmt.Errorf("%s holds no files that end in %s; there are %s", folder, ending, several(others))
	}
	slices.Sort(found)
	return found, nil
}

// several names the first of a list.
func several(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
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
