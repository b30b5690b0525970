package experiment

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/pipeline"
)

// predicted is what predictions follow from, besides the weights.
type predicted struct {
	Test     map[string]string `json:"test"` // content by case
	NoMirror bool              `json:"disable_tta"`
	StepSize float64           `json:"step_size"`
	Engine   int               `json:"engine"`
}

func (a *attempt) predicted() predicted {
	s := a.plan.Splits.Datasets[a.run.Dataset]
	p := predicted{Test: map[string]string{}, NoMirror: a.plan.File.Evaluate.NoMirror,
		StepSize: a.plan.File.Evaluate.StepSize, Engine: Engine}
	for _, c := range s.Test {
		p.Test[c] = s.Content[c]
	}
	return p
}

// earlier finds, by train_key, runs in the folder that the file does not ask for any more: of other metrics,
// say, whose weights are these.
func (w *worker) earlier(trainKey string) ([]string, error) {
	if w.others == nil {
		w.others = map[string][]string{}
		folders, err := w.plan.unasked()
		if err != nil {
			return nil, err
		}
		for _, folder := range folders {
			if !isDone(folder) {
				continue
			}
			var rec runRecord
			if readJSON(filepath.Join(folder, RunFile), &rec) == nil && rec.TrainKey != "" {
				w.others[rec.TrainKey] = append(w.others[rec.TrainKey], folder)
			}
		}
	}
	return w.others[trainKey], nil
}

// reuse takes weights, or predictions of the same cases, that an earlier run has left. It reports false
// where none are left.
func (a *attempt) reuse() (bool, error) {
	folders, err := a.earlier(a.run.TrainKey)
	for _, folder := range folders {
		if reused, err := a.reuseOf(folder); reused || err != nil {
			return reused, err
		}
	}
	return false, err
}

// reuseOf takes them from one run.
func (a *attempt) reuseOf(folder string) (bool, error) {
	var rec runRecord
	if err := readJSON(filepath.Join(folder, RunFile), &rec); err != nil {
		return false, err
	}
	fold := filepath.Join(folder, modelFolder, foldFolder)
	now := a.predicted()
	predicted := isThere(filepath.Join(folder, predictions)) && rec.Predicted.NoMirror == now.NoMirror &&
		rec.Predicted.StepSize == now.StepSize && rec.Predicted.Engine == now.Engine && maps.Equal(rec.Predicted.Test, now.Test)
	change := ""
	switch {
	case isThere(filepath.Join(fold, finalName)):
	case isThere(filepath.Join(fold, adapterName)):
		change = filepath.Join(fold, adapterName)
	case isThere(filepath.Join(fold, deltaName)):
		change = filepath.Join(fold, deltaName)
	case !predicted:
		return false, nil
	}
	results := a.path(resultsFolder)
	if err := os.RemoveAll(results); err != nil {
		return false, err
	}
	if err := linkFolder(filepath.Join(folder, modelFolder), filepath.Join(results, modelFolder)); err != nil {
		return false, err
	}
	if change != "" {
		base, err := a.plan.Checkpoint(a.run)
		if err != nil {
			return false, err
		}
		_, err = pipeline.Merge(pipeline.MergeConfig{Change: change, Base: base, WeightsOutput: pipeline.WeightsOutput{
			Path: filepath.Join(results, modelFolder, foldFolder, finalName), Force: true}}, a.output())
		if err != nil {
			return false, err
		}
	}
	what := "weights"
	if predicted {
		what = "predictions"
		if err := linkFolder(filepath.Join(folder, predictions), a.final(predictions)); err != nil {
			return false, err
		}
	}
	a.out.Printf("%s: %s of run %s", a.name(a.run), what, rec.Key)
	return true, writeJSON(a.path(trainedFile), trained{Seconds: rec.TrainedIn, PeakBytes: rec.PeakBytes, Model: modelFolder,
		Earlier: &rec, Predicted: predicted})
}

// linkFolder makes a folder that has the files of another: the same ones, where the file system can do that,
// since nobody writes into the files of a run that is done.
func linkFolder(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o777)
		case strings.HasPrefix(e.Name(), "."):
			return nil
		}
		if err := os.Link(path, target); err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return atomicfile.Copy(target, io.Reader(f), time.Time{})
	})
}
