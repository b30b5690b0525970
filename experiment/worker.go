package experiment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/pipeline"
)

// How long a worker waits that finds every run that is left in other hands: at first, and at most. A shared
// folder is asked for its names once each time, and for looksEach locks.
const (
	firstWait = time.Second
	longWait  = 10 * time.Second
	looksEach = 4
)

// worker takes runs until none is left.
type worker struct {
	plan    *Plan
	runs    []*Run
	out     pipeline.Output
	locks   *locks
	journal *journal
	memory  memory
	device  string
	threads int
	began   time.Time // by the file system's clock; zero if that cannot be had
	next    int       // of the locks to look at
	listed  listing

	datas  map[[2]string]*dataState // by dataset and network
	waits  map[[2]string]error      // for data that another worker makes; asked for again after a run or a pass
	others map[string][]string      // folders of earlier runs by train_key; nil until it is asked for
	ended  map[string]bool          // keys: done, or failed while this worker was there
	bad    map[string]bool          // of them, those that failed
}

// newWorker begins to take part in a grid.
func newWorker(p *Plan, runs []*Run, c *WorkConfig, m memory, o pipeline.Output) (*worker, error) {
	self := newHolder()
	folder := filepath.Join(p.Dir, RunsFolder)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, fmt.Errorf("-o %s: %w: name a folder that can be written", p.Dir, err)
	}
	w := &worker{plan: p, out: o, memory: m, device: c.Device, threads: c.Threads,
		locks: newLocks(self, folder, c.lockTimeout()), datas: map[[2]string]*dataState{}, waits: map[[2]string]error{},
		ended: map[string]bool{}, bad: map[string]bool{}}
	w.runs = workOrder(runs)
	w.began, _ = w.locks.now()
	var err error
	w.journal, err = openJournal(p.Dir, &self)
	return w, err
}

// workOrder keeps shots and draws outermost, and begins at any run of each block, so that workers do not all
// ask for the same one.
func workOrder(runs []*Run) []*Run {
	var list []*Run
	for len(runs) > 0 {
		n := 1
		for n < len(runs) && runs[n].Shots == runs[0].Shots && runs[n].Draw == runs[0].Draw {
			n++
		}
		at := rand.IntN(n)
		list = slices.Concat(list, runs[at:n], runs[:at])
		runs = runs[n:]
	}
	return list
}

// work takes runs until all are done or have failed. It returns an error if ctx ends it, or for what
// concerns all runs.
func (w *worker) work(ctx context.Context) error {
	wait := firstWait
	for {
		left, took, err := w.pass(ctx)
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		if took {
			wait = firstWait
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, longWait, max(w.locks.timeout/4, 50*time.Millisecond))
	}
}

// pass tries every run that is left once. took: it did one of them.
func (w *worker) pass(ctx context.Context) (left int, took bool, err error) {
	clear(w.waits)
	there, err := w.list(filepath.Join(w.plan.Dir, RunsFolder))
	if err != nil {
		return 0, false, err
	}
	var held []*Run
	for _, r := range w.runs {
		if w.ended[r.Key] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return 0, took, err
		}
		if there[r.Key+lockEnding] && !took {
			held = append(held, r)
			left++
			continue
		}
		did, over, err := w.try(ctx, r)
		if err != nil {
			return 0, took, err
		}
		if did {
			took = true
			clear(w.waits)
		}
		if !over {
			left++
		}
	}
	// Of locks a few are looked at each time.
	for i := 0; i < min(looksEach, len(held)) && !took; i++ {
		r := held[w.next%len(held)]
		w.next++
		if live, err := w.locks.live(w.plan.Lock(r)); err != nil || live {
			continue // an error comes back when the run is tried
		}
		did, over, err := w.try(ctx, r)
		if err != nil {
			return 0, took, err
		}
		took = took || did
		if over {
			left--
		}
	}
	return left, took, nil
}

// listing is what was found in the folder of runs, and when the folder had been changed at last. final: a change
// after it has another time.
type listing struct {
	names   map[string]bool
	changed time.Time
	final   bool
}

// list returns the names in the folder of runs. It is read again when it has changed: a large one takes many calls.
func (w *worker) list(folder string) (map[string]bool, error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if l := &w.listed; l.final && info.ModTime().Equal(l.changed) {
		return l.names, nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	now, ok := w.locks.now()
	l := listing{make(map[string]bool, len(names)), info.ModTime(), ok && now.Sub(info.ModTime()) > 2*clockKept}
	for _, name := range names {
		l.names[name] = true
	}
	w.listed = l
	return l.names, nil
}

// try does a run unless it is over or in other hands. over: nothing is left to do of it.
func (w *worker) try(ctx context.Context, r *Run) (did, over bool, err error) {
	folder := w.plan.Folder(r)
	if w.over(r) {
		return false, true, nil
	}
	data, dataErr := w.dataOf(ctx, r)
	var held *heldError
	switch {
	case errors.As(dataErr, &held), errors.Is(dataErr, errLost):
		return false, false, nil
	case dataErr != nil && ctx.Err() != nil:
		return false, false, ctx.Err()
	}
	var need pipeline.Memory // what is not known counts as nothing, and fails in the run
	if m := w.plan.need(ctx, r, w.device); m != nil {
		need = *m
	}
	// The memory is asked for before the run is taken: nobody waits for a lock of one who waits.
	if err := w.memory.take(ctx, need); err != nil {
		return false, false, err
	}
	defer func() {
		if did {
			freeCaches(w.device)
		}
		w.memory.give()
	}()
	k, err := w.locks.take(w.plan.Lock(r))
	if errors.As(err, &held) {
		return false, false, nil
	}
	a := &attempt{worker: w, run: r, lock: k, folder: folder, began: time.Now()}
	if err != nil { // such as a disk that is full
		return true, true, w.failed(a, err)
	}
	a.work = filepath.Join(folder, workFolder+k.holder.Worker)
	defer func() { err = errors.Join(err, k.release()) }()
	if w.over(r) { // while it was free
		return false, true, nil
	}
	lockContext := k.keep(ctx, w.locks.touchEvery())
	event, err := a.open()
	if errors.Is(err, errDone) {
		w.ended[r.Key] = true
		return false, true, nil
	}
	if err == nil {
		err = w.journal.write(r.Key, event, nil)
	}
	if err == nil {
		w.out.Printf("%s: %s", w.name(r), doing[event])
		err = dataErr
	}
	if err == nil {
		err = a.do(lockContext, data)
	}
	switch {
	case err == nil:
		w.ended[r.Key] = true
		w.out.Printf("%s: done in %s", w.name(r), time.Since(a.began).Round(time.Second/10))
		w.note(r, eventDone)
		return true, true, nil
	case k.lost(lockContext, err):
		w.out.Printf("%s: lost: %v", w.name(r), errLost)
		w.note(r, eventLost)
		return true, false, nil
	case ctx.Err() != nil:
		err = errors.Join(a.stop(), w.journal.write(r.Key, eventStopped, nil))
		w.out.Printf("%s: stopped, saved", w.name(r))
		return true, false, errors.Join(ctx.Err(), err)
	}
	return true, true, w.failed(a, err)
}

// note writes an event of the past to the journal: a disk that is full stops no worker.
func (w *worker) note(r *Run, event string) {
	if err := w.journal.write(r.Key, event, nil); err != nil {
		w.out.Printf("WARNING: %s: the journal lacks this: %v", w.name(r), err)
	}
}

// doing says what an event is to people.
var doing = map[string]string{eventStart: "begins", eventResume: "goes on", eventTakeover: "goes on, taken over from a worker that is gone"}

// failed writes down that a run failed, where there is room for it.
func (w *worker) failed(a *attempt, why error) error {
	w.ended[a.run.Key], w.bad[a.run.Key] = true, true
	w.out.Printf("WARNING: %s: failed: %v", w.name(a.run), why)
	if err := errors.Join(a.fail(why), w.journal.write(a.run.Key, eventFailed, why)); err != nil {
		w.out.Printf("WARNING: that is not written down: %v", err)
	}
	return nil
}

// over says that a run is done, or that it failed since this worker began: another worker that began as
// this one did has tried it.
func (w *worker) over(r *Run) bool {
	folder := w.plan.Folder(r)
	if isDone(folder) {
		w.ended[r.Key] = true
		return true
	}
	info, err := os.Stat(filepath.Join(folder, FailedFile))
	if err != nil || w.began.IsZero() || info.ModTime().Before(w.began) {
		return false
	}
	w.ended[r.Key], w.bad[r.Key] = true, true
	return true
}

// dataState is what a worker knows of the data of a dataset and network: it is there, or cannot be made.
type dataState struct {
	data *prepared
	err  error
}

// dataOf is the data of a run that trains.
func (w *worker) dataOf(ctx context.Context, r *Run) (*prepared, error) {
	if !r.Trains() {
		return nil, nil
	}
	at := [2]string{r.Dataset, r.Network}
	if s := w.datas[at]; s != nil {
		return s.data, s.err
	}
	if err := w.waits[at]; err != nil {
		return nil, err
	}
	d, err := w.data(ctx, r)
	var held *heldError
	switch {
	case errors.As(err, &held), errors.Is(err, errLost):
		w.waits[at] = err
	case ctx.Err() == nil:
		w.datas[at] = &dataState{d, err}
	}
	return d, err
}

// name is what people call a run.
func (w *worker) name(r *Run) string { return r.What() + " (" + r.Key + ")" }

// Outcome is how a grid stands when a call of Work ends.
type Outcome struct {
	Done   int `json:"done"`
	Failed int `json:"failed"`
	Left   int `json:"left"`
}

// count finds how the runs stand.
func (p *Plan) count(runs []*Run) (o Outcome) {
	for _, r := range runs {
		switch folder := p.Folder(r); {
		case isDone(folder):
			o.Done++
		case isThere(filepath.Join(folder, FailedFile)):
			o.Failed++
		default:
			o.Left++
		}
	}
	return o
}

// Outcome is how the runs stand that only selects, as Work's does.
func (p *Plan) Outcome(only []string) (Outcome, error) {
	runs, err := p.only(only)
	return p.count(runs), err
}

// Error says what is wrong with a grid that is not done.
func (o Outcome) Error(p *Plan) error {
	if o.Failed == 0 && o.Left == 0 {
		return nil
	}
	next := "run it again"
	if o.Failed > 0 {
		next = filepath.Join(p.Dir, RunsFolder, "KEY", FailedFile) + " of each says why; the next run tries them again"
	}
	var parts []string
	for _, part := range []struct {
		n         int
		one, many string
	}{{o.Failed, "1 run failed", "runs failed"}, {o.Left, "1 is left", "are left"}, {o.Done, "1 is done", "are done"}} {
		switch {
		case part.n == 1:
			parts = append(parts, part.one)
		case part.n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.many))
		}
	}
	return fmt.Errorf("%s: %s", strings.Join(parts, ", "), next)
}
