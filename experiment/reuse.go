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
	Test     map[string]string `json:"test"` // content and geometry by case
	NoMirror bool              `json:"disable_tta"`
	StepSize float64           `json:"step_size"`
	Engine   int               `json:"engine"`
}

func (a *attempt) predicted() predicted {
	s := a.plan.Splits.Datasets[a.run.Dataset]
	p := predicted{Test: map[string]string{}, NoMirror: a.plan.File.Evaluate.NoMirror,
		StepSize: a.plan.File.Evaluate.StepSize, Engine: Engine}
	for _, c := range s.Test {
		p.Test[c] = a.run.base.dataset.testing[c].all()
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

// remains is what an earlier run of the same training has left.
type remains struct {
	runRecord
	folder    string
	weights   string // the file, "" for none
	predicted bool   // the same cases in the same way
}

// isWhole: the weights need no other file.
func (r *remains) isWhole() bool { return filepath.Base(r.weights) == finalName }

// remainsOf looks at an earlier run.
func (a *attempt) remainsOf(folder string) (r remains, err error) {
	r.folder = folder
	if err := readJSON(filepath.Join(folder, RunFile), &r.runRecord); err != nil {
		return r, err
	}
	now := a.predicted()
	r.predicted = isThere(filepath.Join(folder, predictions)) && r.Predicted.NoMirror == now.NoMirror &&
		r.Predicted.StepSize == now.StepSize && r.Predicted.Engine == now.Engine && maps.Equal(r.Predicted.Test, now.Test)
	for _, name := range []string{finalName, adapterName, deltaName} {
		if path := filepath.Join(folder, modelFolder, foldFolder, name); isThere(path) {
			r.weights = path
			break
		}
	}
	return r, nil
}

// reuse takes what earlier runs have left: weights, and predictions of the same cases, of one run or of two. Predictions
// without weights do where the file keeps no weights. It reports false where there is too little.
func (a *attempt) reuse() (bool, error) {
	folders, err := a.earlier(a.run.TrainKey)
	if err != nil {
		return false, err
	}
	var model, scans *remains // with weights, the whole ones first, and with predictions
	for _, folder := range folders {
		r, err := a.remainsOf(folder)
		if err != nil {
			return false, err
		}
		if r.weights != "" && (model == nil || r.isWhole() && !model.isWhole()) {
			model = &r
		}
		if r.predicted && scans == nil {
			scans = &r
		}
	}
	if model == nil && scans != nil && a.plan.File.Keep.Checkpoints == keepNone {
		model = scans
	}
	if model == nil {
		return false, nil
	}
	return true, a.take(model, scans)
}

// take makes the model of one earlier run and the predictions of another, which may be nil, those of this run.
func (a *attempt) take(model, scans *remains) error {
	results := a.path(resultsFolder)
	if err := os.RemoveAll(results); err != nil {
		return err
	}
	if err := linkFolder(filepath.Join(model.folder, modelFolder), filepath.Join(results, modelFolder)); err != nil {
		return err
	}
	if model.weights != "" && !model.isWhole() {
		base, err := a.plan.Checkpoint(a.run)
		if err != nil {
			return err
		}
		_, err = pipeline.Merge(pipeline.MergeConfig{Change: model.weights, Base: base, WeightsOutput: pipeline.WeightsOutput{
			Path: filepath.Join(results, modelFolder, foldFolder, finalName), Force: true}}, a.output())
		if err != nil {
			return err
		}
	}
	if model != scans && model.weights != "" {
		a.out.Printf("%s: weights of run %s", a.name(a.run), model.Key)
	}
	if scans != nil {
		if err := linkFolder(filepath.Join(scans.folder, predictions), a.final(predictions)); err != nil {
			return err
		}
		a.out.Printf("%s: predictions of run %s", a.name(a.run), scans.Key)
	}
	return writeJSON(a.path(trainedFile), trained{Seconds: model.TrainedIn, PeakBytes: model.PeakBytes, Model: modelFolder,
		Earlier: &model.runRecord, Predicted: scans != nil})
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
