package train

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// part is where the time of an iteration goes.
type part int

// Parts in the order of iteration.txt.
const (
	partRead part = iota // the first three: of the worker that prepared the batch
	partAugment
	partTargets
	partCopy
	partForward
	partLoss
	partBackward
	partStep
	partWait
	partRest
	partIteration
	parts
)

var partNames = [parts]string{"read", "augment", "targets", "copy", "forward", "loss", "backward",
	"step", "wait", "rest", "iteration"}

// profile is what a training with --profile writes: the processor's profile, and where the time of
// an iteration goes. A nil profile does nothing.
type profile struct {
	dir   string
	watch stopwatch
	cpu   *atomicfile.File
	times [parts][]time.Duration // of each iteration, the run's first too
}

// openProfile begins to profile.
func openProfile(dir string, device torch.Device) (*profile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := atomicfile.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Abort()
		return nil, err
	}
	return &profile{dir: dir, cpu: f, watch: stopwatch{device: device}}, nil
}

// begin starts the time of an iteration's step.
func (p *profile) begin() error {
	if p == nil {
		return nil
	}
	return p.watch.begin()
}

// waited ends the wait for a batch in the middle of a step.
func (p *profile) waited() error {
	if p == nil {
		return nil
	}
	return p.watch.lap(partWait)
}

// partOf is what a phase ends.
var partOf = map[Phase]part{Cleared: partStep, Uploaded: partCopy, Predicted: partForward,
	Forwarded: partLoss, Differentiated: partBackward}

// hook is a Session's.
func (p *profile) hook(_ *torch.Scope, phase Phase, _ []optim.Mask) error {
	if of, ends := partOf[phase]; ends {
		return p.watch.lap(of)
	}
	return nil
}

// end is the end of an iteration's step.
func (p *profile) end() error {
	if p == nil {
		return nil
	}
	return p.watch.lap(partStep)
}

// iteration takes in what else is known of an iteration that has ended.
func (p *profile) iteration(whole, waited time.Duration, batch loader.Times) error {
	if p == nil {
		return nil
	}
	for of, d := range map[part]time.Duration{partRead: batch.Read, partAugment: batch.Augment,
		partTargets: batch.Targets, partWait: waited, partIteration: whole} {
		p.times[of] = append(p.times[of], d)
	}
	return p.take(1)
}

// take takes in the steps of the iterations that have ended, but for the last few: the device may
// not have reached their end.
func (p *profile) take(left int) error {
	for len(p.times[partIteration])-len(p.times[partStep]) > left {
		laps, err := p.watch.take()
		if err != nil {
			return err
		}
		i := len(p.times[partStep])
		rest := p.times[partIteration][i] - p.times[partWait][i]
		for of := partCopy; of <= partStep; of++ {
			p.times[of] = append(p.times[of], laps[of])
			rest -= laps[of]
		}
		p.times[partRest] = append(p.times[partRest], max(rest, 0))
	}
	return nil
}

// close ends the profile and writes it. about says what was trained.
func (p *profile) close(about string) error {
	if p == nil {
		return nil
	}
	pprof.StopCPUProfile()
	defer p.watch.close()
	err := errors.Join(p.cpu.Commit(), p.take(0))
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(p.dir, "iteration.txt"), []byte(p.page(about)))
}

// page is iteration.txt.
func (p *profile) page(about string) string {
	var b strings.Builder
	n := max(len(p.times[partIteration])-1, 0)
	clock := "the host's clock"
	if p.watch.onDevice() {
		clock = "the device's events"
	}
	fmt.Fprintf(&b, "%s\n%d iterations, the run's first left out\n", about, n)
	if n == 0 {
		return b.String()
	}
	var sum [parts]time.Duration
	for of := range p.times {
		for _, d := range p.times[of][1:] {
			sum[of] += d
		}
	}
	line := func(of part) {
		list := p.times[of][1:]
		fmt.Fprintf(&b, "%-12s%12.3f%12.3f%9.1f %%\n", partNames[of], milliseconds(quantile(list, 0.5)),
			milliseconds(quantile(list, 0.9)), 100*share(sum[of], sum[partIteration]))
	}
	fmt.Fprintf(&b, "\n%-12s%12s%12s%11s\n", "", "median ms", "p90 ms", "share")
	for of := range parts {
		switch of {
		case partRead:
			b.WriteString("a batch, in the worker that prepared it beside the rest\n")
		case partCopy:
			fmt.Fprintf(&b, "a step, by %s\n", clock)
		case partWait:
			b.WriteString("the iteration, by the host's clock\n")
		}
		line(of)
	}
	b.WriteString(`
read: cases, and what is not in memory; augment: transforms, with the reading of the patch;
targets: what follows for the loss; copy: until the batch is on the device (on CUDA, and with
--augment-on device, what is left of that: it is under way since the step before); step: gradients
cleared, clipped and checked, the method's choice, SGD; wait: for the next batch; rest: what is in
none of copy to wait. Shares are of the sum of the iterations.
`)
	return b.String()
}

// stopwatch tells what the parts of a step take: by the host's clock where work is over when a call
// returns, otherwise by events of the device, which are read when it has reached them.
type stopwatch struct {
	device torch.Device
	steps  [][]lap // oldest first
	free   []*torch.Event
}

// lap is the end of a part, or the beginning of a step.
type lap struct {
	of    part
	at    time.Time
	event *torch.Event // instead of at
}

func (w *stopwatch) onDevice() bool { return w.device.Type != torch.DeviceCPU }

func (w *stopwatch) begin() error {
	w.steps = append(w.steps, nil)
	return w.lap(partRest)
}

func (w *stopwatch) lap(of part) error {
	l := lap{of: of}
	if w.onDevice() {
		var err error
		if l.event, err = w.event(); err != nil {
			return err
		}
	} else {
		l.at = time.Now()
	}
	last := &w.steps[len(w.steps)-1]
	*last = append(*last, l)
	return nil
}

// event is one at the end of what the device has to do.
func (w *stopwatch) event() (e *torch.Event, err error) {
	if n := len(w.free); n > 0 {
		e, w.free = w.free[n-1], w.free[:n-1]
	} else if e, err = w.device.NewTimedEvent(); err != nil {
		return nil, err
	}
	if err = e.Record(); err != nil {
		e.Free()
		return nil, err
	}
	return e, nil
}

// take gives the parts of the oldest step, once it is over.
func (w *stopwatch) take() (sum [parts]time.Duration, err error) {
	step := w.steps[0]
	w.steps = w.steps[1:]
	if w.onDevice() {
		defer func() {
			for _, l := range step {
				w.free = append(w.free, l.event)
			}
		}()
		if err := step[len(step)-1].event.Synchronize(); err != nil {
			return sum, err
		}
	}
	for i := 1; i < len(step); i++ {
		d := step[i].at.Sub(step[i-1].at)
		if w.onDevice() {
			if d, err = step[i-1].event.Elapsed(step[i].event); err != nil {
				return sum, err
			}
		}
		sum[step[i].of] += d
	}
	return sum, nil
}

func (w *stopwatch) close() {
	for _, step := range w.steps {
		for _, l := range step {
			if l.event != nil {
				l.event.Free()
			}
		}
	}
	for _, e := range w.free {
		e.Free()
	}
}
