package experiment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/torch"
)

// Names in a run's folder. All of a run is made in work-WORKER, and moved up when it is whole. A worker that
// takes a run over renames that folder first: should the other one be only frozen, it finds nothing to
// write to when it wakes.
const (
	workFolder    = "work-"
	resultsFolder = "results"       // in the work folder: of the training
	finalFolder   = "final"         // in the work folder: what is moved up
	completeFile  = "complete"      // in the work folder: final is whole
	spentFile     = "spent.json"    // in the work folder: spent
	trainedFile   = "trained.json"  // in the work folder: the training is over
	modelFolder   = "model"         // a model folder of nnU-Net
	predictions   = "predictions"   // of the test cases
	scoresFile    = "scores.json"   // of the test cases
	logFile       = "run.log"       // what the roads said
	progressFile  = "progress.json" // Progress
	lockEnding    = ".lock"
)

// Progress is progress.json: where a run is.
type Progress struct {
	Stage  string `json:"stage"` // data, train, predict or score
	Epoch  int    `json:"epoch"` // from 1, while it trains
	Epochs int    `json:"epochs"`

	// What an iteration of the training takes here, once a few have been made.
	IterationSeconds float64 `json:"iteration_seconds,omitempty"`
	Device           string  `json:"device,omitempty"`
	Threads          int     `json:"threads,omitempty"`
}

// trained is what is known of a training when it is over.
type trained struct {
	Seconds   float64 `json:"seconds"`
	PeakBytes int64   `json:"peak_bytes"`
	Model     string  `json:"model"` // the model folder, below results

	Earlier   *runRecord `json:"earlier,omitempty"`   // of the run whose weights these are
	Predicted bool       `json:"predicted,omitempty"` // its predictions are here, too, and its weights need not be
}

// attempt is one worker's work on one run.
type attempt struct {
	*worker
	run    *Run
	lock   *lock
	folder string // of the run
	work   string
	log    *tail

	began, trains time.Time // the latter zero unless it trains
	pace          pace      // of its iterations
}

func (a *attempt) path(names ...string) string {
	return filepath.Join(append([]string{a.work}, names...)...)
}

func (a *attempt) final(names ...string) string {
	return a.path(append([]string{finalFolder}, names...)...)
}

// errDone says that another worker was faster.
var errDone = errors.New("the run is done")

// open makes the work folder, or takes that of an earlier worker. event is what the journal says.
func (a *attempt) open() (event string, err error) {
	if err := os.MkdirAll(a.folder, 0o777); err != nil {
		return "", err
	}
	if isDone(a.folder) {
		return "", errDone
	}
	earlier, err := filepath.Glob(filepath.Join(escape(a.folder), workFolder+"*"))
	if err != nil {
		return "", err
	}
	if err := takeWork(earlier, a.work); err != nil {
		return "", err
	}
	event = eventStart
	if len(earlier) > 0 {
		event = eventResume
	}
	if a.lock.over {
		event = eventTakeover
	}
	if isDone(a.folder) {
		return "", errDone // written by the other one between the two looks
	}
	if err := os.MkdirAll(a.final(), 0o777); err != nil {
		return "", err
	}
	if err := sweep(a.work); err != nil {
		return "", err
	}
	for _, name := range []string{FailedFile, progressFile} {
		if err := os.Remove(filepath.Join(a.folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return event, nil
}

// takeWork gives the work folder of an earlier worker another name: should that one be only frozen, it finds
// nothing to write to, and nothing to move, when it wakes. Others are of workers that woke up just then.
func takeWork(earlier []string, work string) error {
	for i, old := range earlier {
		var err error
		if i == 0 {
			err = os.Rename(old, work)
		} else {
			err = os.RemoveAll(old)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what an earlier worker that was killed, or is frozen, has left in a folder and those below:
// temporary files, and the kernel's locks, whose files a frozen process still holds.
func sweep(folder string) error {
	return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return atomicfile.Sweep(path)
		case strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".lntorch.lock"):
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// do brings the run to its end from where it is.
func (a *attempt) do(ctx context.Context, data *prepared) (err error) {
	if isThere(a.path(completeFile)) { // an earlier attempt ended while it moved the run to its folder
		return a.finish()
	}
	if a.log, err = openTail(a.final(logFile)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.log.Close()) }()
	a.stage("run " + a.run.Key + ", worker " + a.lock.holder.Worker)
	if err := resetPeak(a.device); err != nil {
		return err
	}
	if !isThere(a.final(scoresFile)) {
		if err := a.scored(ctx, data); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.stage("keep")
	return a.finish()
}

// scored trains, predicts and scores.
func (a *attempt) scored(ctx context.Context, data *prepared) error {
	model, err := a.model(ctx, data)
	if err != nil {
		return err
	}
	out := a.output()
	var t trained
	if err := readJSON(a.path(trainedFile), &t); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !t.Predicted {
		a.stage("predict")
		if err := a.progress(Progress{Stage: "predict"}); err != nil {
			return err
		}
		p, err := a.plan.Prediction(a.run, model, a.final(predictions))
		if err != nil {
			return err
		}
		p.DeviceName, p.Threads, p.Continue = a.device, a.threads, true
		if err := pipeline.Predict(ctx, p, out, nil); err != nil {
			return fmt.Errorf("predict: %w", err)
		}
	}
	a.stage("score")
	if err := a.progress(Progress{Stage: "score"}); err != nil {
		return err
	}
	e, err := a.plan.Evaluation(a.run, a.final(predictions))
	if err != nil {
		return err
	}
	e.Summary, e.Workers = a.path("scores", "summary.json"), a.threads
	scored, err := pipeline.Evaluate(ctx, e, out)
	if err != nil {
		return fmt.Errorf("evaluate: %w", err)
	}
	for _, c := range scored.Cases { // the work folder will be gone
		c.PredictionFile = filepath.Join(predictions, filepath.Base(c.PredictionFile))
	}
	text, err := json.Marshal(scored.Scores)
	if err != nil {
		return err
	}
	return atomicfile.Write(a.final(scoresFile), append(text, '\n'))
}

// model is what predicts: the network as it is, weights that another run has trained, or those that this
// one trains.
func (a *attempt) model(ctx context.Context, data *prepared) (string, error) {
	if !a.run.Trains() {
		return a.plan.Checkpoint(a.run)
	}
	if model := a.final(modelFolder); isThere(model) {
		return model, nil
	}
	if !isThere(a.path(trainedFile)) {
		reused, err := a.reuse()
		if err == nil && !reused {
			err = a.train(ctx, data)
		}
		if err != nil {
			return "", err
		}
	}
	var t trained
	if err := readJSON(a.path(trainedFile), &t); err != nil {
		return "", err
	}
	model := a.final(modelFolder)
	return model, os.Rename(a.path(resultsFolder, t.Model), model)
}

// training is the call that trains a run here.
func (w *worker) training(r *Run, data *prepared) (pipeline.TrainConfig, error) {
	c, err := w.plan.Training(r)
	c.Dataset, c.PlansName, c.Configuration, c.Fold = data.Dataset, data.Plans, data.Configuration, "all"
	c.Preprocessed, c.NoPrepare, c.NoValidation = data.folder, true, true
	c.DeviceName, c.Threads = w.device, w.threads
	return c, err
}

// train trains, or goes on with a training.
func (a *attempt) train(ctx context.Context, data *prepared) error {
	c, err := a.training(a.run, data)
	if err != nil {
		return err
	}
	c.Results = a.path(resultsFolder)
	begun, err := filepath.Glob(filepath.Join(escape(c.Results), "*", "*", "fold_all", "checkpoint_*.pth"))
	if err != nil {
		return err
	}
	if len(begun) > 0 {
		c.Continue, c.Pretrained = true, ""
	}
	a.trains = time.Now()
	out := a.output()
	out.Progress = &epochs{Progress: out.Progress, pace: &a.pace, note: func(p Progress) {
		a.progress(p) // a full disk is found by the training itself
	}}
	result, err := pipeline.Train(ctx, c, out)
	if err != nil {
		return err
	}
	t := trained{Seconds: a.spent().Training + time.Since(a.trains).Seconds()}
	if t.PeakBytes, err = peak(a.device); err != nil {
		return err
	}
	freeCaches(a.device)
	if t.Model, err = filepath.Rel(c.Results, filepath.Dir(result.Folder)); err != nil {
		return err
	}
	a.trains = time.Time{}
	return writeJSON(a.path(trainedFile), t)
}

// spent is how long earlier attempts took that were stopped; one that was killed has left no note of it.
type spent struct {
	Seconds  float64 `json:"seconds"`
	Training float64 `json:"training"`
}

func (a *attempt) spent() (s spent) {
	readJSON(a.path(spentFile), &s)
	return s
}

// stop notes how long this attempt took.
func (a *attempt) stop() error {
	s := a.spent()
	s.Seconds += time.Since(a.began).Seconds()
	if !a.trains.IsZero() {
		s.Training += time.Since(a.trains).Seconds()
	}
	return writeJSON(a.path(spentFile), s)
}

// settle writes run.json and keeps what is to be kept. It may be interrupted anywhere and done again: the record
// comes before keep removes what it is read from.
func (a *attempt) settle() error {
	var record runRecord
	err := readJSON(a.final(RunFile), &record)
	if errors.Is(err, fs.ErrNotExist) {
		var made *runRecord
		if made, err = a.record(); err != nil {
			return err
		}
		record = *made
		err = writeJSON(a.final(RunFile), record)
	}
	if err != nil {
		return err
	}
	if err := a.keep(); err != nil {
		return err
	}
	if record.Bytes, err = size(a.final()); err != nil {
		return err
	}
	return writeJSON(a.final(RunFile), record)
}

// finish keeps what is to be kept, and moves it to the run's folder: done comes last, and only if the lock
// is still this worker's.
func (a *attempt) finish() error {
	if !isThere(a.path(completeFile)) {
		if err := a.settle(); err != nil {
			return err
		}
		if err := atomicfile.Write(a.path(completeFile), nil); err != nil {
			return err
		}
	}
	own, err := a.lock.own()
	if err != nil {
		return err
	}
	if !own {
		return errLost
	}
	entries, err := os.ReadDir(a.final())
	if err != nil {
		return err
	}
	if err := a.moveUp(entries); err != nil {
		return err
	}
	if err := atomicfile.SyncFolder(a.folder); err != nil {
		return err
	}
	// done has what a plan of thousands of runs asks each for: run.json is long.
	var record RunRecord
	if err := readJSON(filepath.Join(a.folder, RunFile), &record); err != nil {
		return err
	}
	text, err := json.Marshal(&record)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(a.folder, DoneFile), append(text, '\n')); err != nil {
		return err
	}
	os.Remove(filepath.Join(a.folder, progressFile))
	return os.RemoveAll(a.work)
}

// moveUp moves entries of final to the run's folder. A worker that was frozen in here, and has lost the run since, wakes
// without a work folder: it must remove nothing, so what is in the way is moved as well.
func (a *attempt) moveUp(entries []fs.DirEntry) error {
	away := a.path("away")
	for _, e := range entries {
		to := filepath.Join(a.folder, e.Name())
		if err := os.RemoveAll(away); err != nil {
			return err
		}
		if err := os.Rename(to, away); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(a.final(e.Name()), to); err != nil {
			return err
		}
	}
	return nil
}

// fail writes down why the run failed. A disk that is full may hold nothing of it.
func (a *attempt) fail(why error) error {
	f := FailedRecord{Time: time.Now().Format(time.RFC3339), Error: why.Error(), Log: []string{}}
	if a.log != nil {
		f.Log = a.log.lines()
	}
	return writeJSON(filepath.Join(a.folder, FailedFile), f)
}

// runRecord is run.json, with what pictures and tables show of it.
type runRecord struct {
	RunRecord
	Network string `json:"network"`
	Dataset string `json:"dataset"`
	Method  string `json:"method"`
	Shots   string `json:"shots"`
	Draw    int    `json:"draw"`
	Seed    uint64 `json:"seed"`

	Cases     []string            `json:"cases"`
	Predicted predicted           `json:"predicted"`
	Curves    figures.Curves      `json:"curves"`
	Touched   []figures.Layer     `json:"touched"`
	Sizes     []figures.SizeClass `json:"recall_by_size"`
}

// output is where the roads of this run log: its own file, and nowhere else but for progress.
func (a *attempt) output() pipeline.Output {
	return pipeline.Output{Log: a.log, Progress: a.out.Progress, Version: a.out.Version}
}

// stage says in the log, with the time, what is done next.
func (a *attempt) stage(what string) {
	fmt.Fprintf(a.log, "%s: %s\n", time.Now().Format("2006-01-02 15:04:05.000000"), what)
}

// progress writes progress.json, which `status` reads.
func (a *attempt) progress(p Progress) error {
	if p.IterationSeconds = a.pace.seconds(); p.IterationSeconds > 0 {
		p.Device, p.Threads = a.device, a.threads
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.folder, progressFile), append(text, '\n'), 0o666)
}

// tail is a run's log, whose last lines are remembered.
type tail struct {
	file *os.File
	mu   sync.Mutex
	last []byte
}

// tailBytes is how much of a log's end failed.json may hold.
const tailBytes = 4096

func openTail(path string) (*tail, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	return &tail{file: f}, err
}

// Write never fails: what is on a full disk is for the roads to find out.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if n := len(t.last); n > 2*tailBytes {
		t.last = slices.Clone(t.last[n-tailBytes:])
	}
	t.file.Write(b)
	return len(b), nil
}

// lines are the last twenty.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.ToValidUTF8(strings.TrimSpace(string(t.last)), "\uFFFD")
	if text == "" {
		return []string{}
	}
	list := strings.Split(text, "\n")
	return list[max(0, len(list)-20):]
}

func (t *tail) Close() error {
	t.file.Close()
	return nil
}

// peak is the most memory that the device that computes had in use since resetPeak.
func peak(device string) (int64, error) {
	d, err := torch.ParseDevice(device)
	if err != nil || d.Type == torch.DeviceCPU {
		return system.PeakRSS(), nil
	}
	return d.Peak(false)
}

func resetPeak(device string) error {
	d, err := torch.ParseDevice(device)
	if err != nil || d.Type == torch.DeviceCPU {
		system.ResetPeakRSS()
		return nil
	}
	_, err = d.Peak(true)
	return err
}

// freeCaches gives back the memory of tensors that are gone, which libtorch keeps for others: what is booked counts on it,
// by other workers and by the prediction after a training. Where there is no libtorch, it keeps nothing.
func freeCaches(device string) {
	torch.CPU.EmptyCache()
	if d, err := torch.ParseDevice(device); err == nil && d != torch.CPU {
		d.EmptyCache()
	}
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isDone says that a run's folder is complete.
func isDone(folder string) bool { return isThere(filepath.Join(folder, DoneFile)) }

// escape takes their meaning from the signs of a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// readJSON reads a small file of this package's.
func readJSON(path string, into any) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, doc any) error {
	var b bytes.Buffer
	if _, err := report.JSON(&b, doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(path, b.Bytes())
}

// size is how many bytes the files of a folder have.
func size(folder string) (bytes int64, err error) {
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}
