package experiment

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sample is what is known of the time of a run, or of iterations that were measured.
type sample struct {
	*combination
	from   source
	device string
	whole  float64 // seconds, of a finished run
	rest   float64 // of them those beside the training
	step   float64 // seconds of an iteration; a finished run's has its share of all that the training did; 0: not known
}

// source is where a sample is from, best first.
type source int

const (
	finished source = iota
	underWay        // a run that was begun
	measured        // by Measure
	sources
)

// timings are what finished runs took, what those under way take, and what was measured.
type timings struct {
	samples []sample
	figures *figuresOf
	peak    int64 // memory, the most of finished runs
}

// finished takes a finished run in.
func (t *timings) finished(r *Run, record *RunRecord) {
	if record == nil {
		return
	}
	if record.Seconds > 0 {
		seconds := record.Seconds
		r.Seconds = &seconds
	}
	one := sample{combination: r.base, device: record.Device, whole: record.Seconds,
		rest: max(0, record.Seconds-record.TrainedIn)}
	if n := r.base.steps(); n > 0 {
		one.step = record.TrainedIn / n
	}
	t.samples = append(t.samples, one)
	t.peak = max(t.peak, record.PeakBytes)
}

// begun takes in a run that was begun, if its training has come so far that it says what an iteration takes.
func (t *timings) begun(p *Plan, r *Run) {
	var at Progress
	read(filepath.Join(p.Folder(r), progressFile), &at)
	if at.IterationSeconds > 0 {
		t.samples = append(t.samples, sample{combination: r.base, from: underWay, device: at.Device, step: at.IterationSeconds})
	}
}

// validationShare is what a validation iteration takes, which goes forward only, of an iteration.
const validationShare = 1.0 / 3

// steps is how many iterations a training makes, those of its validation by what they take.
func (c *combination) steps() float64 {
	number := func(name string) float64 {
		n, _ := c.settings[name].(int)
		return float64(n)
	}
	return number("epochs") * (number("iterations") + validationShare*number("val-iterations"))
}

// estimate is what a run will take.
type estimate struct {
	seconds float64
	device  string
	covers  string // what
}

// What an estimate covers.
const (
	CoversAll      = "training and prediction"
	CoversTraining = "training"
)

// mean is the mean of a value over samples, and the device of one. Where no device is preferred those of GPUs count
// before those of CPUs: a mean over both says nothing of either.
func (t *timings) mean(like func(s *sample) bool, value func(s *sample) float64) (mean float64, device string, ok bool) {
	n := 0
	for i := range t.samples {
		s := &t.samples[i]
		if !t.figures.prefer.counts(s.device) || !like(s) || n > 0 && IsGPU(device) && !IsGPU(s.device) {
			continue
		}
		if n > 0 && IsGPU(s.device) && !IsGPU(device) {
			mean, n = 0, 0
		}
		mean += value(s)
		device = s.device
		n++
	}
	return mean / float64(max(n, 1)), device, n > 0
}

// of says how long a run takes: the mean of finished runs of the same settings, whatever the cases; else from the
// time of an iteration, and of what comes beside the training. nil: nothing is known.
func (t *timings) of(c *combination) *estimate {
	whole, device, ok := t.mean(func(s *sample) bool { return s.combination == c && s.whole > 0 },
		func(s *sample) float64 { return s.whole })
	if ok {
		return &estimate{whole, device, CoversAll}
	}
	rest, restDevice, restKnown := t.rest(c)
	if !c.trains() {
		if !restKnown {
			return nil
		}
		return &estimate{rest, restDevice, CoversAll}
	}
	step, device, ok := t.step(c)
	if !ok {
		return nil
	}
	e := &estimate{step * c.steps(), device, CoversTraining}
	if restKnown {
		e.seconds, e.covers = e.seconds+rest, CoversAll
	}
	return e
}

// step is the time of an iteration: of the same work, else of the same method on the same network, or of any.
func (t *timings) step(c *combination) (seconds float64, device string, ok bool) {
	for _, alike := range []func(o *combination) bool{
		func(o *combination) bool { return o.work == c.work },
		func(o *combination) bool {
			return o.network == c.network && o.settings["method"] == c.settings["method"]
		},
		func(o *combination) bool { return o.network == c.network },
	} {
		for from := range sources {
			seconds, device, ok = t.mean(func(s *sample) bool { return s.from == from && s.step > 0 && alike(s.combination) },
				func(s *sample) float64 { return s.step })
			if ok {
				return seconds, device, true
			}
		}
	}
	return 0, "", false
}

// rest is the time of what comes beside the training: as finished runs on the same dataset had it; else that of the
// prediction, as it was measured; else as on another dataset.
func (t *timings) rest(c *combination) (seconds float64, device string, ok bool) {
	value := func(s *sample) float64 { return s.rest }
	same := func(s *sample) bool { return s.whole > 0 && s.network == c.network && s.dataset == c.dataset }
	if seconds, device, ok = t.mean(same, value); ok {
		return seconds, device, true
	}
	if f := t.figures.best(c.predicts); f != nil {
		return f.Seconds, f.Device, true
	}
	return t.mean(func(s *sample) bool { return s.whole > 0 && s.network == c.network }, value)
}

// cost adds up what is left.
func (p *Plan) cost(t *timings) {
	p.Cost = Cost{Peak: t.peak, Memory: p.Cost.Memory}
	total, known, hours := 0.0, true, 0.0
	covers, gpu := CoversAll, false
	of := map[*combination]*estimate{}
	for _, r := range p.Runs {
		if r.State == Done {
			continue
		}
		p.Cost.Bytes += p.bytes(r)
		e, ok := of[r.base]
		if !ok {
			e = t.of(r.base)
			of[r.base] = e
		}
		if e == nil {
			known = false
			continue
		}
		r.Seconds = &e.seconds
		total += e.seconds
		if IsGPU(e.device) {
			gpu = true
			hours += e.seconds / 3600
		}
		if e.covers != CoversAll {
			covers = e.covers
		}
	}
	p.timed = ""
	if i := slices.IndexFunc(t.samples, func(s sample) bool { return IsGPU(s.device) }); len(t.samples) > 0 {
		p.timed = t.samples[max(0, i)].device
	}
	if !known {
		return
	}
	p.Cost.Seconds, p.Cost.Covers = &total, covers
	if gpu || slices.ContainsFunc(t.samples, func(s sample) bool { return IsGPU(s.device) && p.prefer.counts(s.device) }) {
		p.Cost.GPUHours = &hours
	}
}

// bytes is about what a run keeps on disk: nnU-Net's checkpoints hold the momentum beside the weights; a
// delta is at most the weights.
func (p *Plan) bytes(r *Run) int64 {
	if !r.Trains() {
		return 0
	}
	weights := r.base.network.bytes
	switch p.File.Keep.Checkpoints {
	case keepAll:
		return 6 * weights
	case keepFinal:
		return 2 * weights
	case keepDelta:
		return weights
	}
	return 0
}

// Duration writes seconds for people; nil: they are not known.
func Duration(seconds *float64) string {
	if seconds == nil {
		return "unknown time"
	}
	d := time.Duration(*seconds * float64(time.Second))
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	case d >= time.Minute:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}
