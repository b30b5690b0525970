package planner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
)

// PlanFolder plans a raw dataset whose fingerprint is in folder, its folder of preprocessed data,
// and writes what nnU-Net writes there: the plans, a copy of dataset.json, and splits_final.json if
// the raw dataset has one. path is the plans file.
func (p *Planner) PlanFolder(d *raw.Dataset, folder string,
	o Options) (r *Result, path string, err error) {
	fp, err := fingerprint.Load(filepath.Join(folder, fingerprint.File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("planner: %s is missing: run `lntorch fingerprint -d %s` first",
			filepath.Join(folder, fingerprint.File), d.Name)
	}
	if err != nil {
		return nil, "", err
	}
	reader, err := d.Reader()
	if err != nil {
		return nil, "", err
	}
	if err := CopySplits(d.Folder, folder); err != nil {
		return nil, "", err
	}
	in := Input{DatasetName: d.Name, Dataset: d.JSON, Fingerprint: fp, Reader: reader.Name()}
	if r, err = p.Plan(in, o); err != nil {
		return nil, "", err
	}
	if err := CopyDatasetJSON(d.Folder, folder); err != nil {
		return nil, "", err
	}
	path, err = r.Save(folder)
	return r, path, err
}

// Save writes the plans to the folder of the preprocessed dataset and returns the file's path.
// Configurations of an existing plans file are kept, after the new ones, unless a new one has their
// name: they may be the user's own.
// Compat: so is a 3d_lowres of earlier plans that the new ones do not have.
func (r *Result) Save(folder string) (string, error) {
	path := filepath.Join(folder, r.Name+".json")
	old, err := plans.Load(path)
	switch {
	case err == nil:
		v, _ := r.Plans.Get("configurations")
		configurations := v.(*plans.Object)
		kept, _ := old.Raw().Get("configurations")
		for _, name := range kept.(*plans.Object).Keys() {
			if _, ok := configurations.Get(name); !ok {
				c, _ := kept.(*plans.Object).Get(name)
				configurations.Set(name, c)
				r.Notes = append(r.Notes, fmt.Sprintf("configuration %s of the existing plans is "+
					"kept", name))
			}
		}
	case !errors.Is(err, fs.ErrNotExist) && !empty(path):
		return "", fmt.Errorf("planner: the existing plans cannot be read and may hold your own "+
			"configurations: %w; repair or remove them", err)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return "", fmt.Errorf("planner: %w", err)
	}
	if err := plans.WriteJSON(path, r.Plans, false); err != nil {
		return "", fmt.Errorf("planner: %w", err)
	}
	return path, nil
}

// empty reports whether a file is empty, as after a full disk.
func empty(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() == 0
}

// CopyDatasetJSON copies dataset.json of a raw dataset to its folder of preprocessed data, byte for
// byte.
func CopyDatasetJSON(rawFolder, folder string) error {
	return copyFile(rawFolder, folder, "dataset.json")
}

func copyFile(from, to, name string) error {
	b, err := regular.ReadFile(filepath.Join(from, name))
	if err == nil {
		err = os.MkdirAll(to, 0o777)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(to, name), b)
	}
	if err != nil {
		return fmt.Errorf("planner: %w", err)
	}
	return nil
}

// splitsFile is the name of the splits file in raw and preprocessed folders.
const splitsFile = "splits_final.json"

// CopySplits copies splits_final.json of a raw dataset, if it has one, to its folder of
// preprocessed data. If a file exists there, each fold of the raw file must have the same cases in
// it; additional folds are allowed.
// Source: nnU-Net 2.5.1, _maybe_copy_splits_file.
func CopySplits(rawFolder, folder string) error {
	source, err := readSplits(filepath.Join(rawFolder, splitsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("planner: %w", err)
	}
	path := filepath.Join(folder, splitsFile)
	target, err := readSplits(path)
	if errors.Is(err, fs.ErrNotExist) {
		return copyFile(rawFolder, folder, splitsFile)
	}
	if err != nil {
		return fmt.Errorf("planner: %w", err)
	}
	for i, fold := range source {
		if i >= len(target) {
			return fmt.Errorf("planner: %s has %d folds, the raw dataset's has %d: remove the "+
				"wrong file",
				path, len(target), len(source))
		}
		for j, part := range []string{"train", "val"} {
			if !slices.Equal(fold[j], target[i][j]) {
				return fmt.Errorf("planner: %s: fold %d, %s: found %s, expected %s as in the raw "+
					"dataset: remove the wrong file",
					path, i, part, strings.Join(target[i][j], " "), strings.Join(fold[j], " "))
			}
		}
	}
	return nil
}

// readSplits returns the training and validation cases of each fold, sorted and without duplicates.
func readSplits(path string) ([][2][]string, error) {
	v, err := plans.ReadJSON(path)
	if err != nil {
		return nil, err
	}
	folds, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: expected a list of folds", path)
	}
	out := make([][2][]string, len(folds))
	for i, f := range folds {
		for j, part := range []string{"train", "val"} {
			o, _ := f.(*plans.Object)
			list, _ := o.Get(part)
			cases, ok := list.([]any)
			if !ok {
				return nil, fmt.Errorf("%s: fold %d: expected a list of cases in %q", path, i, part)
			}
			for _, c := range cases {
				name, ok := c.(string)
				if !ok {
					return nil, fmt.Errorf("%s: fold %d: %s: expected case names, found %v", path, i, part, c)
				}
				out[i][j] = append(out[i][j], name)
			}
			slices.Sort(out[i][j])
			out[i][j] = slices.Compact(out[i][j])
		}
	}
	return out, nil
}
