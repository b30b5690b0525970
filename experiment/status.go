package experiment

import (
	"encoding/json"
	"path/filepath"

	"github.com/lntorch/lntorch/internal/regular"
)

// PlanDocument is what `plan --json` prints: an entry for each place in the grid. Places with one key
// are one run.
type PlanDocument struct {
	Runs []*Run `json:"runs"`
	Cost Cost   `json:"cost"`
}

// Document lists the grid: Runs with an entry of its own for each place of a run.
func (p *Plan) Document() *PlanDocument {
	d := &PlanDocument{Runs: []*Run{}, Cost: p.Cost}
	for _, r := range p.Runs {
		for i, at := range r.Places() {
			one := r
			if i > 0 {
				other := *r
				one = &other
				one.Dataset, one.Network, one.Method = at.Dataset, at.Network, at.Method
				one.Shots, one.Draw, one.Seed = at.Shots, at.Draw, at.Seed
				if s := p.Splits.Datasets[at.Dataset]; s != nil && at.Draw < len(s.Draws) && r.Trains() {
					one.Cases = s.Draws[at.Draw].Shots[at.Shots]
				}
			}
			d.Runs = append(d.Runs, one)
		}
	}
	return d
}

// Status is how far an experiment is.
type Status struct {
	Runs    int          `json:"runs"`
	Done    int          `json:"done"`
	Left    int          `json:"left"` // runs that are not done, running and failed ones included
	Running []RunningRun `json:"running"`
	Partial []string     `json:"partial"` // keys
	Unseen  []UnseenRun  `json:"unseen"`  // of the partial ones
	Failed  []FailedRun  `json:"failed"`
	Seconds *float64     `json:"seconds"` // to go, with as many workers as now; nil: not known
}

// RunningRun is a run that a worker is at.
type RunningRun struct {
	HeldRun
	Progress
}

// HeldRun is a run whose lock is there.
type HeldRun struct {
	Run    string `json:"run"` // key
	What   string `json:"what"`
	Worker string `json:"worker"` // "": the lock cannot be read
	Host   string `json:"host"`
	PID    int    `json:"pid"`
}

// UnseenRun is a run whose worker was not seen for longer than the lock's time-out: it is gone with its host, or
// frozen, and the next worker takes the run over.
type UnseenRun struct {
	HeldRun
	Seconds float64 `json:"seconds"` // since it was seen
}

// FailedRun is a run that failed; the next `run` tries it again.
type FailedRun struct {
	Run   string `json:"run"` // key
	What  string `json:"what"`
	Error string `json:"error"`
}

// What names a run by its place in the grid.
func (r *Run) What() string {
	text := r.Dataset + " " + r.Network + " " + r.Method
	if !r.Trains() {
		return text
	}
	return text + ", " + r.Shots + " shots, draw " + number(r.Draw) + ", seed " + number(r.Seed)
}

// Status tells how far the runs were at the last Refresh, who is at them, and why some failed.
func (p *Plan) Status() *Status {
	s := &Status{Runs: len(p.Runs), Running: []RunningRun{}, Partial: []string{}, Unseen: []UnseenRun{}, Failed: []FailedRun{}}
	for _, r := range p.Runs {
		if r.unseen > 0 {
			s.Unseen = append(s.Unseen, UnseenRun{p.held(r), r.unseen.Seconds()})
		}
		switch r.State {
		case Done:
			s.Done++
		case Running:
			one := RunningRun{HeldRun: p.held(r)}
			read(filepath.Join(p.Folder(r), progressFile), &one.Progress)
			s.Running = append(s.Running, one)
		case Partial:
			s.Partial = append(s.Partial, r.Key)
		case Failed:
			var f FailedRecord
			read(filepath.Join(p.Folder(r), FailedFile), &f)
			s.Failed = append(s.Failed, FailedRun{r.Key, r.What(), f.Error})
		}
	}
	s.Left = s.Runs - s.Done
	if p.Cost.Seconds != nil {
		seconds := *p.Cost.Seconds / float64(max(1, len(s.Running)))
		s.Seconds = &seconds
	}
	return s
}

// held says who holds a run's lock, as far as that can be read.
func (p *Plan) held(r *Run) HeldRun {
	one := HeldRun{Run: r.Key, What: r.What()}
	if h, _, err := readLock(p.Lock(r)); err == nil && h != nil {
		one.Worker, one.Host, one.PID = h.Worker, h.Host, h.PID
	}
	return one
}

// read reads a small file of JSON that a worker may be writing; what cannot be read stays empty.
func read(path string, into any) {
	if text, err := regular.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, into)
	}
}
