package dist

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// standIn has Gloo stand in for NCCL, which wants GPUs: both wait in their first collective until
// all ranks have come to it. then is done to the group of rank 1.
func standIn(t *testing.T, limit time.Duration, then func(pg *torch.ProcessGroup)) func(c Config) error {
	real := newNCCL
	t.Cleanup(func() { newNCCL = real })
	newNCCL = func(s *torch.Store, rank, size int, limit time.Duration) (*torch.ProcessGroup, error) {
		pg, err := torch.NewGloo(s, rank, size, "@127.0.0.1", time.Minute)
		if err == nil && rank == 1 {
			then(pg)
		}
		return pg, err
	}
	return func(c Config) error {
		c.Backend, c.Timeout = NCCL, limit
		g, err := connect(t.Context(), c)
		if err == nil {
			g.Close()
		}
		return err
	}
}

// NCCL connects the ranks in the first collective, in C: a rank where it fails is named on all of
// them, none of which is left waiting.
func TestARankThatNCCLDoesNotConnectIsNamed(t *testing.T) {
	errs := meet(t, standIn(t, time.Minute, func(pg *torch.ProcessGroup) { pg.Abort("no socket interface found") }))
	for rank, err := range errs {
		var failed *Failed
		require.ErrorAs(t, err, &failed, "rank %d", rank)
		require.Equal(t, 1, failed.Rank)
		require.Contains(t, failed.Message, "no socket interface found")
	}
}

// One that hangs there is named when the time is over.
func TestARankThatHangsInNCCLIsNamed(t *testing.T) {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	for rank, err := range meet(t, standIn(t, 5*time.Second, func(*torch.ProcessGroup) { <-end })) {
		require.ErrorContains(t, err, "rank 1 (host ", "rank %d", rank)
	}
}

// Ranks that are connected add up.
func TestRanksThatNCCLConnects(t *testing.T) {
	for rank, err := range meet(t, standIn(t, time.Minute, func(*torch.ProcessGroup) {})) {
		require.NoError(t, err, "rank %d", rank)
	}
}

func init() {
	bodies["NCCL"] = func(g *Group, _ string) (any, error) {
		var sum float64
		return &sum, torch.With(func(s *torch.Scope) error {
			t := s.Full([]int64{4096}, float64(g.Rank()+1), torch.Float32, g.config.Device)
			if err := g.AllReduce(s, t); err != nil {
				return err
			}
			var err error
			if sum, err = s.Mean(t).Item(); err != nil {
				return err
			}
			return g.Check()
		})
	}
	// Rank 1 dies before a collective that the others have on their GPUs.
	bodies["NCCL, dead"] = func(g *Group, _ string) (any, error) {
		if g.Rank() == 1 {
			return nil, syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil, torch.With(func(s *torch.Scope) error {
			t := s.Full([]int64{4096}, 1, torch.Float32, g.config.Device)
			w, err := g.pg.AllReduce(t, torch.OpSum)
			if err != nil {
				return err
			}
			defer w.Free()
			<-g.Done()
			if _, err = t.Item(); err == nil { // which waits for the device
				err = g.Check()
			}
			time.Sleep(time.Second) // ten times what c10d's watchdog sleeps
			return g.Explain(err)
		})
	}
}

// startNCCL starts as many ranks as this machine has GPUs, two at most, and at least so many.
func startNCCL(t *testing.T, name string, least int) *running {
	torchtest.Device(t, "cuda")
	if _, err := os.Stat(filepath.Join(filepath.Dir(torch.LibraryPath()), "liblntorch_nccl.so")); err != nil {
		t.Skip(err)
	}
	n, err := torch.DeviceCount(torch.DeviceCUDA)
	require.NoError(t, err)
	if n < least {
		t.Skipf("needs %d GPUs", least)
	}
	return startAs(t, name, min(n, 2), "", 60*time.Second, func(c *Config) {
		c.Backend, c.Device = NCCL, torch.Device{Type: torch.DeviceCUDA, Index: c.Rank}
	})
}

// The end of a group is a quiet one.
func TestNCCLAddsUpAndEnds(t *testing.T) {
	torchtest.Device(t, "cuda")
	p := startNCCL(t, "NCCL", 1)
	reports := p.wait()
	for r, sum := range values[float64](t, reports) {
		require.Equal(t, float64(len(reports)*(len(reports)+1)/2), sum)
		require.NotContains(t, strings.ToLower(p.stderr[r].String()), "destroy", "c10d's complaint that the group was left to itself")
	}
}

// A lost rank is a sentence on the others, not the end of their processes by c10d's watchdog.
func TestNCCLSurvivesADeadRank(t *testing.T) {
	torchtest.Device(t, "cuda")
	p := startNCCL(t, "NCCL, dead", 2)
	p.ended.Wait()
	var got report
	require.NoError(t, json.Unmarshal(p.stdout[0].Bytes(), &got), "%.2000s", p.stderr[0].String())
	require.Equal(t, "*dist.Gone", got.Kind)
	require.Less(t, got.Took, 30*time.Second)
}
