package experiment

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/settings"
)

// dataWorker is a worker that has a run that trains.
func dataWorker(t *testing.T, p *Plan) (*worker, *Run, string) {
	t.Helper()
	c := settings.New[WorkConfig]()
	c.Threads = 1
	w, err := newWorker(p, p.Runs, &c, noMemory{}, p.options.Output)
	require.NoError(t, err)
	t.Cleanup(func() { w.journal.close() })
	for _, r := range p.Runs {
		if r.Trains() {
			adopt, err := p.Adoption(r)
			require.NoError(t, err)
			return w, r, adopt.Preprocessed
		}
	}
	panic("no run trains")
}

func casesIn(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "*", "nnUNetPlans*", "*.npz"))
	require.NoError(t, err)
	return found
}

// A worker whose lock another one takes while it makes training data drops what it did, and asks again; the other
// one goes on with the cases that are there, though a process that is only frozen has the kernel's lock on them.
func TestDataOfAFrozenWorkerIsTakenOver(t *testing.T) {
	p := newDemo(t).plan()
	first, r, folder := dataWorker(t, p)
	first.locks.timeout = time.Second / 5 // it looks after its lock often
	ended := make(chan error, 1)
	go func() {
		_, err := first.dataOf(context.Background(), r)
		ended <- err
	}()
	work := folder + dataWork + first.locks.self.Worker
	require.Eventually(t, func() bool { return len(casesIn(t, work)) > 0 }, time.Minute, time.Millisecond)
	lock := folder + lockEnding
	hold(t, lock, remote("far"))
	require.ErrorIs(t, <-ended, errLost)
	first.locks.timeout = time.Minute
	require.NoDirExists(t, work)
	require.NoDirExists(t, folder)
	var held *heldError
	clear(first.waits)
	_, err := first.dataOf(context.Background(), r)
	require.ErrorAs(t, err, &held, "it asks again")

	// The other one is frozen behind its first case.
	require.NoError(t, os.Remove(lock))
	clear(first.waits)
	_, err = first.dataOf(context.Background(), r)
	require.NoError(t, err)
	work = folder + dataWork + "far-1-00000000"
	require.NoError(t, os.Rename(folder, work))
	require.NoError(t, os.Remove(filepath.Join(work, dataReady)))
	made := casesIn(t, work)
	for _, c := range made[1:] {
		require.NoError(t, os.Remove(c))
	}
	kept, err := os.Stat(made[0])
	require.NoError(t, err)
	kernel, err := folderlock.Beside(filepath.Dir(made[0]))
	require.NoError(t, err)
	defer kernel.Release()
	hold(t, lock, remote("far"))
	age(t, lock, time.Hour)
	second, r, _ := dataWorker(t, p)
	d, err := second.dataOf(context.Background(), r)
	require.NoError(t, err)
	require.Equal(t, folder, d.folder)
	require.Len(t, casesIn(t, folder), len(made))
	now, err := os.Stat(casesIn(t, folder)[0])
	require.NoError(t, err)
	require.Equal(t, kept.ModTime(), now.ModTime(), "it is not made again")
	left, err := os.ReadDir(filepath.Dir(folder))
	require.NoError(t, err)
	require.Len(t, left, 1)
}
