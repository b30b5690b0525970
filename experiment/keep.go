package experiment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/internal/atomicfile"
)

// What stays of weights.
const (
	keepAll   = "all"
	keepFinal = "final"
	keepDelta = "delta" // what the method leaves, where it does; else final
	keepNone  = "none"
)

// Names in the folder of a fold.
const (
	foldFolder  = "fold_all"
	finalName   = "checkpoint_final.pth"
	adapterName = "adapter"
	deltaName   = "delta.safetensors"
)

// keep removes what is not to stay of weights and predictions. Done twice it does the same as once.
func (a *attempt) keep() error {
	if !a.plan.File.Keep.Predictions {
		if err := os.RemoveAll(a.final(predictions)); err != nil {
			return err
		}
	}
	fold := a.final(modelFolder, foldFolder)
	if !isThere(fold) { // nothing was trained
		return nil
	}
	keep := a.plan.File.Keep.Checkpoints
	small := isThere(filepath.Join(fold, adapterName)) || isThere(filepath.Join(fold, deltaName))
	if keep == keepDelta && !small {
		keep = keepFinal
	}
	entries, err := os.ReadDir(fold)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, remove := e.Name(), false
		switch {
		case keep == keepAll:
		case name == finalName:
			remove = keep != keepFinal
		case name == adapterName || name == deltaName:
			remove = keep != keepDelta
		default:
			remove = strings.HasPrefix(name, "checkpoint_")
		}
		remove = remove || strings.HasPrefix(name, ".")
		if !remove {
			continue
		}
		if err := os.RemoveAll(filepath.Join(fold, name)); err != nil {
			return err
		}
	}
	return nil
}

// record is what becomes run.json. It needs the final checkpoint.
func (a *attempt) record() (*runRecord, error) {
	r := a.run
	rec := &runRecord{Dataset: r.Dataset, Network: r.Network, Method: r.Method, Shots: r.Shots, Draw: r.Draw,
		Seed: r.Seed, Cases: r.Cases, Predicted: a.predicted(),
		Touched: []figures.Layer{}, Sizes: []figures.SizeClass{}}
	rec.Key, rec.TrainKey, rec.Settings = r.Key, r.TrainKey, r.Settings
	rec.Threads, rec.Device, rec.Version = a.threads, a.device, a.out.Version
	rec.Seconds = a.spent().Seconds + time.Since(a.began).Seconds()
	if err := rec.readTraining(a); err != nil {
		return nil, err
	}
	s, err := scores.Read(a.final(scoresFile))
	if err != nil {
		return nil, err
	}
	rec.countSizes(s)
	return rec, nil
}

// readTraining takes what the training has left.
func (rec *runRecord) readTraining(a *attempt) error {
	var t trained
	err := readJSON(a.path(trainedFile), &t)
	if errors.Is(err, fs.ErrNotExist) {
		rec.PeakBytes, err = peak(a.device)
		return err
	}
	if err != nil {
		return err
	}
	rec.TrainedIn, rec.PeakBytes = t.Seconds, t.PeakBytes
	if e := t.Earlier; e != nil {
		rec.Trained, rec.Curves, rec.Touched = e.Trained, e.Curves, e.Touched
		return nil
	}
	fold := a.final(modelFolder, foldFolder)
	var run struct {
		Parameters struct {
			Trained int64 `json:"trained"`
		} `json:"parameters"`
	}
	if err := readJSON(filepath.Join(fold, RunFile), &run); err != nil {
		return err
	}
	rec.Trained = run.Parameters.Trained
	f, err := checkpoint.Open(filepath.Join(fold, finalName))
	if err != nil {
		return err
	}
	defer f.Close()
	log, extra, err := f.History()
	if err != nil {
		return err
	}
	rec.Curves = figures.Curves{Loss: curve(log.TrainLosses), ValLoss: curve(log.ValLosses), PseudoDice: curve(log.MeanFgDice)}
	rec.Touched = touched(f, extra)
	return nil
}

// curve leaves out what is not a number.
func curve[T float32 | float64](values []T) []*float64 {
	list := make([]*float64, len(values))
	for i, v := range values {
		if f := float64(v); !math.IsNaN(f) && !math.IsInf(f, 0) {
			list[i] = &f
		}
	}
	return list
}

// touchedPrefix is that of the entries in which a sparse method remembers, as a bit each, which elements of
// a parameter it has ever updated.
const touchedPrefix = "method/touched/"

// touched counts them, in the order of the network's parameters.
func touched(f *checkpoint.File, extra []checkpoint.Entry) []figures.Layer {
	counts := map[string]int64{}
	for _, e := range extra {
		name, ok := strings.CutPrefix(e.Name, touchedPrefix)
		set, isBytes := e.Value.([]byte)
		if !ok || !isBytes {
			continue
		}
		for _, b := range set {
			counts[name] += int64(bits.OnesCount8(b))
		}
	}
	list := []figures.Layer{}
	for _, w := range f.Weights {
		if n, ok := counts[w.Name]; ok {
			list = append(list, figures.Layer{Name: w.Name, Touched: n, Entries: w.Numel()})
		}
	}
	return list
}

// countSizes adds up, over all test cases, the nodes by the first rule.
func (rec *runRecord) countSizes(s *scores.Scores) {
	rule := s.Settings.Match[0].String()
	for _, key := range s.Keys() {
		d := s.Aggregate[key].Detection[rule]
		if d == nil {
			continue
		}
		for _, class := range s.Settings.Classes() {
			if c := d.BySize[class]; c != nil {
				rec.Sizes = append(rec.Sizes, figures.SizeClass{Label: key, Class: class, Found: c.TP, Nodes: c.TP + c.FN})
			}
		}
	}
}

// Prune finds the runs in the folder that the file does not ask for any more: those that are done, or were
// begun, and are nobody's work now. With yes they are removed. It returns their keys and sizes.
func (p *Plan) Prune(yes bool) ([]Pruned, error) {
	folders, err := p.unasked()
	if err != nil {
		return nil, err
	}
	list := []Pruned{}
	locks := newLocks(newHolder(), filepath.Join(p.Dir, RunsFolder), DefaultLockTimeout)
	for _, path := range folders {
		one := Pruned{Key: filepath.Base(path)}
		var rec runRecord
		if err := readJSON(filepath.Join(path, RunFile), &rec); err == nil {
			one.Run = fmt.Sprintf("%s %s %s, %s shots, draw %d, seed %d", rec.Dataset, rec.Network, rec.Method, rec.Shots, rec.Draw, rec.Seed)
		}
		if one.Bytes, err = size(path); err != nil {
			return nil, err
		}
		if yes {
			removed, err := removeRun(locks, path)
			if err != nil {
				return nil, err
			}
			one.Held = !removed
		}
		list = append(list, one)
	}
	return list, nil
}

// unasked are the folders of runs that the file does not ask for.
func (p *Plan) unasked() ([]string, error) {
	folder := filepath.Join(p.Dir, RunsFolder)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	asked := map[string]bool{}
	for _, r := range p.Runs {
		asked[r.Key] = true
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() && isKey(e.Name()) && !asked[e.Name()] {
			list = append(list, filepath.Join(folder, e.Name()))
		}
	}
	return list, nil
}

// Pruned is a run that the file does not ask for.
type Pruned struct {
	Key   string `json:"key"`
	Run   string `json:"run"` // what it was, where that is known
	Bytes int64  `json:"bytes"`
	Held  bool   `json:"held"` // it was left, since a worker is at it
}

// isKey tells a run's folder from others.
func isKey(name string) bool {
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// removeRun removes a run's folder, done first, so that nobody takes the rest for a run.
func removeRun(locks *locks, path string) (bool, error) {
	k, err := locks.take(path + lockEnding)
	var held *heldError
	if errors.As(err, &held) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer k.release()
	if err := os.Remove(filepath.Join(path, DoneFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := atomicfile.SyncFolder(path); err != nil {
		return false, err
	}
	return true, os.RemoveAll(path)
}
