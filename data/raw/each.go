package raw

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Progress reports progress over the cases. Its methods are called from several goroutines.
type Progress interface {
	Begin(task string, total int)
	Done(n int, note string)
	End()
}

// Each calls f for every case, workers at a time (at least one), and waits for all calls. A case
// that fails does not stop the others: the error names all that failed. progress may be nil.
func (d *Dataset) Each(ctx context.Context, workers int, task string, progress Progress,
	f func(i int, c Case) error) error {
	if progress != nil {
		progress.Begin(task, len(d.Cases))
		defer progress.End()
	}
	failed := make([]error, len(d.Cases))
	var next, done atomic.Int64
	var wait sync.WaitGroup
	for range min(max(workers, 1), len(d.Cases)) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(d.Cases) &&
				ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i, d.Cases[i]); err != nil {
					failed[i] = fmt.Errorf("case %s: %w", d.Cases[i].ID, err)
				}
				if n := done.Add(1); progress != nil {
					progress.Done(int(n), d.Cases[i].ID)
				}
			}
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(failed...)
}
