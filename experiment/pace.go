package experiment

import (
	"fmt"
	"time"

	"github.com/lntorch/lntorch/pipeline"
)

// warmUp is how many iterations of a training are no measure: the first ones load kernels, and wait for the
// first batch.
const warmUp = 2

// pace is how long iterations take, by when they end.
type pace struct {
	last  time.Time // end of iteration number at, or begin of the epoch there; zero: before the first
	at    int
	early int           // iterations that were left out
	first time.Duration // of the last one of them
	sum   time.Duration // of the others
	count int
}

// done takes in that n iterations of the epoch have ended.
func (p *pace) done(n int, now time.Time) {
	if k := n - p.at; !p.last.IsZero() && k > 0 {
		took := now.Sub(p.last)
		if p.early < warmUp {
			p.early, p.first = p.early+k, took/time.Duration(k)
		} else {
			p.sum, p.count = p.sum+took, p.count+k
		}
	}
	p.last, p.at = now, n
}

// seconds is the mean of an iteration; 0: it is not known yet.
func (p *pace) seconds() float64 {
	if p.count == 0 {
		return 0
	}
	return p.sum.Seconds() / float64(p.count)
}

// How often the epochs note what an iteration takes, within an epoch, and after how many the first time.
const (
	noteEach  = 10 * time.Second
	noteFirst = 3
)

// epochs notes the epoch of a training, and measures its iterations.
type epochs struct {
	pipeline.Progress
	pace  *pace
	note  func(Progress)
	at    Progress
	noted time.Time // last, with what an iteration takes
}

// Begin begins an epoch, or its validation.
func (e *epochs) Begin(task string, total int) {
	var p Progress
	if n, err := fmt.Sscanf(task, "epoch %d of %d", &p.Epoch, &p.Epochs); err == nil && n == 2 {
		p.Stage = "train"
		e.note(p)
	}
	e.at = p
	if e.Progress != nil {
		e.Progress.Begin(task, total)
	}
}

// Done says how many iterations have ended.
func (e *epochs) Done(n int, note string) {
	if e.at.Stage != "" {
		now := time.Now()
		e.pace.done(n, now)
		if e.pace.count >= noteFirst && now.Sub(e.noted) >= noteEach {
			e.noted = now
			e.note(e.at)
		}
	}
	if e.Progress != nil {
		e.Progress.Done(n, note)
	}
}

// End ends an epoch, or its validation.
func (e *epochs) End() {
	if e.Progress != nil {
		e.Progress.End()
	}
}
