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
// both. A *heldError says that another worker is doing it, errLost that one has taken it over.
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
	what := fmt.Sprintf("data of %s for %s", r.Dataset, r.Network)
	lockContext := k.keep(ctx, w.locks.touchEvery())
	m := &making{worker: w, what: what, lock: k, folder: folder, work: folder + dataWork + k.holder.Worker}
	d, err := m.do(lockContext, adopt)
	switch {
	case err == nil:
		return d, nil
	case k.lost(lockContext, err):
		w.out.Printf("%s: lost: %v", what, errLost)
		return nil, errors.Join(errLost, os.RemoveAll(m.work))
	}
	return nil, fmt.Errorf("%s: %w", what, err)
}

// making is one worker's work on the data of a dataset and network. As with runs, all of it is made in a
// folder of the worker's own beside the final one, and moved there when it is whole.
type making struct {
	*worker
	what   string
	lock   *lock
	folder string
	work   string
}

// dataWork comes between the names of a data folder and of the worker in that of a work folder.
const dataWork = "." + workFolder

// do makes the data, or goes on where an earlier worker was.
func (m *making) do(ctx context.Context, adopt pipeline.AdoptConfig) (*prepared, error) {
	if err := m.open(); err != nil {
		return nil, err
	}
	if d, err := readPrepared(m.folder); !errors.Is(err, fs.ErrNotExist) { // moved there before open
		return d, errors.Join(err, os.RemoveAll(m.work))
	}
	d, err := readPrepared(m.work)
	if errors.Is(err, fs.ErrNotExist) {
		d, err = m.prepare(ctx, adopt)
	}
	if err != nil {
		return nil, err
	}
	own, err := m.lock.own()
	if err != nil {
		return nil, err
	}
	if !own {
		return nil, errLost
	}
	d.folder = m.folder
	if err := os.Rename(m.work, m.folder); err != nil {
		return nil, err
	}
	return d, atomicfile.SyncFolder(filepath.Dir(m.folder))
}

// open makes the work folder, or takes that of an earlier worker.
func (m *making) open() error {
	earlier, err := filepath.Glob(escape(m.folder+dataWork) + "*")
	if err != nil {
		return err
	}
	// Data that is not whole in the final folder is that of an earlier version.
	if len(earlier) == 0 && isThere(m.folder) && !isThere(filepath.Join(m.folder, dataReady)) {
		earlier = []string{m.folder}
	}
	if err := takeWork(earlier, m.work); err != nil {
		return err
	}
	if err := os.MkdirAll(m.work, 0o777); err != nil {
		return err
	}
	return sweep(m.work)
}

// prepare makes the data in the work folder; the cases that an earlier worker has made there stay.
func (m *making) prepare(ctx context.Context, adopt pipeline.AdoptConfig) (*prepared, error) {
	from := ""
	if m.lock.over {
		from = ", taken over from a worker that is gone"
	}
	m.out.Printf("%s: plans are adopted and cases preprocessed%s", m.what, from)
	quiet := pipeline.Output{Version: m.out.Version}
	adopt.Preprocessed, adopt.Force, adopt.MemoryGB = m.work, true, anyMemory
	adopted, err := pipeline.Adopt(ctx, adopt, quiet)
	if err != nil {
		return nil, err
	}
	c := settings.New[pipeline.PreprocessConfig]()
	c.Names, c.RawFolder, c.PreprocessedFolder = []string{adopted.Dataset}, adopt.RawFolder, adopt.PreprocessedFolder
	c.PlansName, c.Configurations, c.Threads = adopted.Plans, []string{adopted.Configuration}, m.threads
	var made pipeline.Preprocessed
	err = pipeline.Preprocess(ctx, c, quiet, func(p pipeline.Preprocessed) error {
		made = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.out.Printf("%s: %d cases made, %d kept", made.Dataset, made.Made, made.Kept)
	d := &prepared{Dataset: adopted.Dataset, Plans: adopted.Plans, Configuration: adopted.Configuration}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return d, atomicfile.Write(filepath.Join(m.work, dataReady), append(text, '\n'))
}
