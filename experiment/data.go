package experiment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// anyMemory in GB keeps adopted plans from depending on the machine of the worker that happens to make
// them: patch and batch stay the network's.
const anyMemory = 1e9

// dataReady is the file of a folder of training data that is whole.
const dataReady = "ready.json"

// prepared is what trainings need to know of their data.
type prepared struct {
	Dataset       string `json:"dataset"` // nnU-Net's name
	Plans         string `json:"plans"`
	Configuration string `json:"configuration"`
	folder        string // nnU-Net's folder of preprocessed datasets
}

// readPrepared reads what is there; an fs.ErrNotExist says that it is not whole yet.
func readPrepared(folder string) (*prepared, error) {
	path := filepath.Join(folder, dataReady)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &prepared{folder: folder}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("%s: %w: delete the folder, and the data is made again", path, err)
	}
	return d, nil
}

// data adopts plans for the dataset of a run from its network, and preprocesses it: once for all runs of
// both. A *heldError says that another worker is doing it.
func (w *worker) data(ctx context.Context, r *Run) (*prepared, error) {
	adopt, err := w.plan.Adoption(r)
	if err != nil {
		return nil, err
	}
	folder := adopt.Preprocessed
	if d, err := readPrepared(folder); !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o777); err != nil {
		return nil, err
	}
	k, err := w.locks.take(folder + lockEnding)
	if err != nil {
		return nil, err
	}
	defer k.release()
	ctx = k.keep(ctx, w.locks.touchEvery())
	if d, err := readPrepared(folder); !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	w.out.Printf("data of %s for %s: plans are adopted and cases preprocessed", r.Dataset, r.Network)
	d, err := w.prepare(ctx, adopt)
	var held *folderlock.HeldError
	if errors.As(err, &held) { // by a worker that was frozen, and whose lock this is now
		return nil, &heldError{path: folder + lockEnding}
	}
	if err != nil {
		return nil, fmt.Errorf("data of %s for %s: %w", r.Dataset, r.Network, err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return d, atomicfile.Write(filepath.Join(folder, dataReady), append(text, '\n'))
}

// prepare makes the data in its folder; what an earlier worker has made there stays.
func (w *worker) prepare(ctx context.Context, adopt pipeline.AdoptConfig) (*prepared, error) {
	quiet := pipeline.Output{Version: w.out.Version}
	adopt.Force, adopt.MemoryGB = true, anyMemory
	adopted, err := pipeline.Adopt(ctx, adopt, quiet)
	if err != nil {
		return nil, err
	}
	c := settings.New[pipeline.PreprocessConfig]()
	c.Names, c.RawFolder, c.PreprocessedFolder = []string{adopted.Dataset}, adopt.RawFolder, adopt.PreprocessedFolder
	c.PlansName, c.Configurations, c.Threads = adopted.Plans, []string{adopted.Configuration}, w.threads
	err = pipeline.Preprocess(ctx, c, quiet, func(p pipeline.Preprocessed) error {
		if len(p.Failed) > 0 {
			return nil // the error says why
		}
		w.out.Printf("%s: %d cases made, %d kept", p.Dataset, p.Made, p.Kept)
		return nil
	})
	return &prepared{Dataset: adopted.Dataset, Plans: adopted.Plans, Configuration: adopted.Configuration,
		folder: adopt.Preprocessed}, err
}
