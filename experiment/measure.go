package experiment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// MeasureConfig is how Measure measures, and which figures a plan prefers.
type MeasureConfig struct {
	Measure bool   `flag:"measure" help:"before it: train a few iterations of each dataset, network and method that nothing is known of, time a pass of the prediction, and keep what they take in DIR/measured"`
	Device  string `flag:"device" help:"device that the runs will have: cpu, cuda or cuda:N (default: that of runs that were timed, a GPU before the CPU, else the CPU; to measure on: CUDA where libtorch and a GPU are there)"`
	Threads int    `flag:"threads" range:"1.." help:"with --measure: threads of libtorch's operators (default: all cores)"`
}

// figuresFolder is the folder of what was measured, below the experiment's: a file for each figure, so that machines
// may measure at the same time.
const figuresFolder = "measured"

// figure is what was measured on a machine.
type figure struct {
	Work    string  `json:"work"` // key of what it follows from: settings, weights, plans; for a prediction the test cases
	Of      string  `json:"of"`   // iteration, or prediction of all test cases
	Seconds float64 `json:"seconds"`
	Host    string  `json:"host"`
	Device  string  `json:"device"`
	Threads int     `json:"threads"`

	Dataset string `json:"dataset"` // names in the file when it was measured, for people
	Network string `json:"network"`
	Method  string `json:"method,omitempty"`
	Time    string `json:"time"` // RFC 3339
	Version string `json:"version"`
}

// Values of figure.Of.
const (
	ofIteration  = "iteration"
	ofPrediction = "prediction"
)

// name is that of the figure's file: a newer figure of the same work on the same machine takes its place.
func (f *figure) name() (string, error) {
	k, err := key(map[string]any{"work": f.Work, "host": f.Host, "device": f.Device, "threads": f.Threads})
	return k + ".json", err
}

// prefer says which times count: those of the same kind of device, GPU or CPU, and of figures those of the host and
// number of threads before others.
type prefer struct {
	host, device string // "": any
	threads      int    // 0: any
}

// counts says whether what was timed on a device tells about that of the runs.
func (p *prefer) counts(device string) bool {
	return p.device == "" || IsGPU(device) == IsGPU(p.device)
}

// figuresOf are figures by what they follow from.
type figuresOf struct {
	prefer prefer
	byWork map[string][]figure
}

// readFigures reads what was measured; what cannot be read is left out.
func (p *Plan) readFigures() *figuresOf {
	all := &figuresOf{p.prefer, map[string][]figure{}}
	if all.prefer.host == "" {
		all.prefer.host, _ = os.Hostname() // "" is nobody's
	}
	folder := filepath.Join(p.Dir, figuresFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return all
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var f figure
		if read(filepath.Join(folder, e.Name()), &f); f.Seconds > 0 {
			all.byWork[f.Work] = append(all.byWork[f.Work], f)
		}
	}
	return all
}

// best is the figure of some work that counts: of this host, then of the number of threads, then the newest. nil:
// there is none.
func (a *figuresOf) best(work string) *figure {
	list := a.byWork[work]
	list = slices.DeleteFunc(slices.Clone(list), func(f figure) bool { return !a.prefer.counts(f.Device) })
	if len(list) == 0 {
		return nil
	}
	right := func(yes bool) int {
		if yes {
			return 1
		}
		return 0
	}
	best := slices.MaxFunc(list, func(x, y figure) int {
		rank := func(f *figure) [2]int {
			return [2]int{right(f.Host == a.prefer.host), right(f.Threads == a.prefer.threads)}
		}
		xs, ys := rank(&x), rank(&y)
		return cmp.Or(slices.Compare(xs[:], ys[:]), strings.Compare(x.Time, y.Time))
	})
	return &best
}

// measured takes figures in.
func (t *timings) measured(p *Plan) {
	seen := map[*combination]bool{}
	for _, r := range p.Runs {
		if r.base == nil || seen[r.base] {
			continue
		}
		seen[r.base] = true
		if f := t.figures.best(r.base.work); f != nil {
			t.samples = append(t.samples, sample{combination: r.base, from: measured, device: f.Device, step: f.Seconds})
		}
	}
}

// Prefer says on what device, and with how many threads, runs will be done: what was timed on a CPU tells nothing
// about a GPU.
func (p *Plan) Prefer(c MeasureConfig) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if c.Device == autoDevice {
		c.Device = ""
	}
	if c.Device != "" {
		if _, err := torch.ParseDevice(c.Device); err != nil {
			return settings.Usage("--device: %w", err)
		}
	}
	before := p.prefer
	if p.prefer = (prefer{device: c.Device, threads: c.Threads}); p.prefer == before {
		return nil
	}
	return p.Refresh()
}

// autoDevice is CUDA where it is there.
const autoDevice = "auto"

// measurer measures on this machine.
type measurer struct {
	*worker
	host string
}

// Measure measures what has no figure yet: an iteration of each work, by the training that a run makes, in a
// folder that is removed; and the prediction of the test cases by each network, of which a pass is timed. Training
// data is made, or taken, as runs do it. What cannot be measured is warned of.
func (p *Plan) Measure(ctx context.Context, c MeasureConfig, o pipeline.Output) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	m := machine.Machine{DeviceName: cmp.Or(c.Device, autoDevice), Threads: c.Threads}
	if _, err := m.Resolve(); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for _, folder := range []string{RunsFolder, figuresFolder} {
		if err := os.MkdirAll(filepath.Join(p.Dir, folder), 0o777); err != nil {
			return fmt.Errorf("-o %s: %w: name a folder that can be written", p.Dir, err)
		}
	}
	p.prefer = prefer{host, m.DeviceName, m.Threads}
	w := &measurer{host: host, worker: &worker{plan: p, out: o, device: m.DeviceName, threads: m.Threads,
		locks: newLocks(newHolder(), filepath.Join(p.Dir, RunsFolder), DefaultLockTimeout)}}
	tasks := w.tasks()
	for i, t := range tasks {
		began := time.Now()
		seconds, err := t.measure(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			o.Printf("WARNING: %s cannot be measured: %v", t.what, err)
			continue
		}
		t.Seconds, t.Time, t.Version = seconds, time.Now().Format(time.RFC3339), o.Version
		name, err := t.name()
		if err == nil {
			err = writeJSON(filepath.Join(p.Dir, figuresFolder, name), t.figure)
		}
		if err != nil {
			return err
		}
		round := time.Second
		if seconds < 100 {
			round = time.Millisecond
		}
		o.Printf("measured %d of %d: %s: %s (in %s)", i+1, len(tasks), t.what,
			time.Duration(seconds*float64(time.Second)).Round(round), time.Since(began).Round(time.Second/10))
	}
	return p.Refresh()
}

// task is a figure to measure.
type task struct {
	figure
	what    string
	measure func(ctx context.Context) (float64, error)
}

// tasks are what has to be measured: what no run that is done, or under way, says, and no figure of this machine.
func (w *measurer) tasks() (list []*task) {
	p := w.plan
	known := map[string]bool{}
	for _, figures := range p.readFigures().byWork {
		for _, f := range figures {
			if f.Host == w.host && f.Device == w.device && f.Threads == w.threads {
				known[f.Work] = true
			}
		}
	}
	for _, r := range p.Runs {
		var at Progress
		switch {
		case r.State == Done:
			if record := p.record(r); record != nil && p.prefer.counts(record.Device) {
				known[r.base.predicts], known[r.base.work] = true, known[r.base.work] || r.Trains()
			}
		case r.Trains():
			read(filepath.Join(p.Folder(r), progressFile), &at)
			if at.IterationSeconds > 0 && p.prefer.counts(at.Device) {
				known[r.base.work] = true
			}
		}
	}
	add := func(r *Run, work, of, method, what string, measure func(context.Context, *Run) (float64, error)) {
		if known[work] {
			return
		}
		known[work] = true
		list = append(list, &task{what: what, figure: figure{Work: work, Of: of, Host: w.host, Device: w.device,
			Threads: w.threads, Dataset: r.Dataset, Network: r.Network, Method: method},
			measure: func(ctx context.Context) (float64, error) { return measure(ctx, r) }})
	}
	for _, r := range p.Runs {
		if r.State == Done {
			continue
		}
		at := r.Dataset + " " + r.Network
		add(r, r.base.predicts, ofPrediction, "", at+", prediction of the test cases", w.prediction)
		if r.Trains() {
			add(r, r.base.work, ofIteration, r.Method, at+" "+r.Method+", an iteration", w.iteration)
		}
	}
	return list
}

// How much of a training is measured: so many iterations, and where they take long so many seconds.
const (
	measureMost    = 10
	measureLeast   = 2
	measureSeconds = 20
)

// iteration measures the iterations of a training, which is stopped when that is known.
func (w *measurer) iteration(ctx context.Context, r *Run) (float64, error) {
	data, err := w.wait(ctx, r)
	if err != nil {
		return 0, err
	}
	c, err := w.training(r, data)
	if err != nil {
		return 0, err
	}
	folder, err := os.MkdirTemp("", "lntorch-measure-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(folder)
	c.Results, c.DisableCheckpointing = folder, true
	enough, stop := context.WithCancel(ctx)
	defer stop()
	var pace pace
	progress := &measuring{epochs{Progress: w.out.Progress, pace: &pace, note: func(Progress) {}}, stop}
	_, err = pipeline.Train(enough, c, pipeline.Output{Progress: progress, Version: w.out.Version})
	var stopped *train.Interrupted
	if err != nil && !(errors.As(err, &stopped) && ctx.Err() == nil) {
		return 0, err
	}
	if s := pace.seconds(); s > 0 {
		return s, nil
	}
	return pace.first.Seconds(), nil // it has no more iterations than those
}

// measuring stops a training when enough is known.
type measuring struct {
	epochs
	stop func()
}

// Done says how many iterations have ended.
func (m *measuring) Done(n int, note string) {
	m.epochs.Done(n, note)
	if p := m.pace; p.count >= measureMost || p.count >= measureLeast && p.sum > measureSeconds*time.Second {
		m.stop()
	}
}

// wait is the data of a run, made by this process or by another one.
func (w *measurer) wait(ctx context.Context, r *Run) (*prepared, error) {
	for told := false; ; {
		d, err := w.data(ctx, r)
		var held *heldError
		if !errors.As(err, &held) && !errors.Is(err, errLost) {
			return d, err
		}
		if !told {
			told = true
			w.out.Printf("data of %s for %s: another worker makes it", r.Dataset, r.Network)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(firstWait):
		}
	}
}

// prediction forecasts the time of a prediction of the test cases, from a pass of the network that is timed.
func (w *measurer) prediction(ctx context.Context, r *Run) (seconds float64, err error) {
	c, err := w.plan.foundationPrediction(r)
	if err != nil {
		return 0, err
	}
	c.DeviceName, c.Threads = w.device, w.threads
	timed := 0
	err = pipeline.Predict(ctx, c, pipeline.Output{Version: w.out.Version}, func(p pipeline.Prediction) error {
		if p.Forecast != nil && p.Forecast.Seconds > 0 {
			seconds += p.Forecast.Seconds
			timed++
		}
		return nil
	})
	if err == nil && timed == 0 {
		err = fmt.Errorf("no case could be timed: %w", fs.ErrInvalid)
	}
	return seconds, err
}
