package experiment

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	times := timings{figures: p.readFigures()}
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
		switch {
		case r.State == Done:
			times.finished(r, p.record(r))
		case there[r.Key]:
			times.begun(p, r)
		}
	}
	times.measured(p)
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
