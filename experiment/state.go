package experiment

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Refresh looks at the experiment's folder and says how far each run is, how long it took or will take,
// and what is left to do.
func (p *Plan) Refresh() error {
	entries, err := os.ReadDir(filepath.Join(p.Dir, RunsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	if p.locks == nil {
		p.locks = newLocks(newHolder(), filepath.Join(p.Dir, RunsFolder), DefaultLockTimeout)
	}
	var times timings
	for _, r := range p.Runs {
		r.State, r.Seconds, r.unseen = Missing, nil, 0
		if there[r.Key] {
			if r.State, err = p.folderState(r); err != nil {
				return err
			}
		}
		if r.State != Done && there[r.Key+lockEnding] {
			p.lockState(r)
		}
		if r.State == Done {
			times.add(r, p.record(r))
		}
	}
	p.cost(&times)
	return nil
}

// lockState looks who is at a run whose lock is there. A worker that was not seen for the time-out that workers
// have unless told otherwise is not at it any more: whatever that time-out is, they touch their locks more often.
func (p *Plan) lockState(r *Run) {
	holder, touched, err := readLock(p.Lock(r))
	if err != nil || holder != nil && holder.gone(&p.locks.self) {
		return
	}
	if idle := p.locks.idle(p.Lock(r), touched); idle > p.locks.timeout {
		r.State, r.unseen = Partial, idle
	} else {
		r.State = Running
	}
}

// folderState is the state that a run's folder shows.
func (p *Plan) folderState(r *Run) (State, error) {
	entries, err := os.ReadDir(p.Folder(r))
	if errors.Is(err, fs.ErrNotExist) {
		return Missing, nil
	}
	state := Partial
	for _, e := range entries {
		switch e.Name() {
		case DoneFile:
			return Done, nil
		case FailedFile:
			state = Failed
		}
	}
	return state, err
}

// record is a finished run's run.json, nil if it is not to be read: it is only for times.
func (p *Plan) record(r *Run) *RunRecord {
	for _, name := range []string{DoneFile, RunFile} { // the former was once empty
		var record RunRecord
		if readJSON(filepath.Join(p.Folder(r), name), &record) == nil && record.Key != "" {
			return &record
		}
	}
	return nil
}

// timings are what finished runs took.
type timings struct {
	runs   []timing
	memory int64
}

type timing struct {
	*combination
	whole, rest, perIteration float64 // seconds
	bytes                     int64
	cuda                      bool
}

func (t *timings) add(r *Run, record *RunRecord) {
	if record == nil {
		return
	}
	if record.Seconds > 0 {
		seconds := record.Seconds
		r.Seconds = &seconds
	}
	one := timing{combination: r.base, whole: record.Seconds, rest: max(0, record.Seconds-record.TrainedIn),
		bytes: record.Bytes, cuda: strings.HasPrefix(record.Device, "cuda")}
	if n := r.base.iterations(); n > 0 {
		one.perIteration = record.TrainedIn / float64(n)
	}
	t.runs = append(t.runs, one)
	t.memory = max(t.memory, record.PeakBytes)
}

// iterations is how many steps a training makes.
func (c *combination) iterations() int {
	epochs, _ := c.settings["epochs"].(int)
	iterations, _ := c.settings["iterations"].(int)
	return epochs * iterations
}

// seconds says how long a run takes: the mean of finished runs of the same settings, whatever the cases,
// else from the time of an iteration of the same method on the same network, or of any.
func (t *timings) seconds(c *combination) (float64, bool) {
	mean := func(like func(o timing) bool, value func(o timing) float64) (float64, bool) {
		sum, n := 0.0, 0
		for _, o := range t.runs {
			if like(o) && o.whole > 0 {
				sum += value(o)
				n++
			}
		}
		return sum / float64(max(n, 1)), n > 0
	}
	if s, ok := mean(func(o timing) bool { return o.combination == c }, func(o timing) float64 { return o.whole }); ok {
		return s, true
	}
	byIteration := func(o timing) float64 { return o.perIteration*float64(c.iterations()) + o.rest }
	for _, like := range []func(o timing) bool{
		func(o timing) bool {
			return o.network == c.network && o.settings["method"] == c.settings["method"] && o.trains()
		},
		func(o timing) bool { return o.network == c.network && o.trains() },
	} {
		if s, ok := mean(like, byIteration); ok {
			return s, true
		}
	}
	return 0, false
}

// cost adds up what is left.
func (p *Plan) cost(t *timings) {
	p.Cost = Cost{Memory: t.memory}
	total, known := 0.0, true
	of := map[*combination]*float64{}
	for _, r := range p.Runs {
		if r.State == Done {
			continue
		}
		p.Cost.Bytes += p.bytes(r)
		s, ok := of[r.base]
		if !ok {
			if seconds, found := t.seconds(r.base); found {
				s = &seconds
			}
			of[r.base] = s
		}
		if s == nil {
			known = false
			continue
		}
		r.Seconds = s
		total += *s
	}
	if !known {
		return
	}
	p.Cost.Seconds = &total
	if slices.ContainsFunc(t.runs, func(o timing) bool { return o.cuda }) {
		hours := total / 3600
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
	case "all":
		return 6 * weights
	case "final":
		return 2 * weights
	case "delta":
		return weights
	}
	return 0
}
