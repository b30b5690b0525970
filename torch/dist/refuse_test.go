package dist

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// meet runs f for each of three ranks, in this process, and gives their errors.
func meet(t *testing.T, f func(c Config) error) []error {
	torchtest.Require(t)
	port := freePort(t)
	errs := make([]error, 3)
	var wait sync.WaitGroup
	start := time.Now()
	for rank := range errs {
		wait.Go(func() {
			errs[rank] = f(Config{Rank: rank, Size: len(errs), Host: "127.0.0.1", Port: port, Serve: rank == 0, Timeout: time.Minute})
		})
	}
	wait.Wait()
	require.Less(t, time.Since(start), 20*time.Second, "a time-out was waited for")
	return errs
}

// A rank that cannot take part tells those that it would have met, and those that come later.
func TestARankThatRefusesIsHeard(t *testing.T) {
	for refusing := range 3 {
		errs := meet(t, func(c Config) error {
			if c.Rank == refusing {
				Refuse(t.Context(), c, errors.New("no GPU here"))
				return nil
			}
			if c.Rank == 2 {
				time.Sleep(500 * time.Millisecond)
			}
			_, err := Connect(t.Context(), c)
			return err
		})
		for rank, err := range errs {
			var failed *Failed
			if rank != refusing {
				require.ErrorAs(t, err, &failed, "rank %d, refused by %d", rank, refusing)
				require.Equal(t, "no GPU here", failed.Message)
				require.Equal(t, refusing, failed.Rank)
			}
		}
	}
}

// Ctrl-C at a rank that waits for others is told as such to those that wait with it.
func TestCtrlCWhileMeetingIsTold(t *testing.T) {
	for stopped := range 2 {
		errs := meet(t, func(c Config) error {
			if c.Rank == 2 { // never comes
				return nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.Rank == stopped {
				time.AfterFunc(time.Second, cancel)
			}
			_, err := Connect(ctx, c)
			return err
		})
		var failed *Failed
		require.ErrorIs(t, errs[stopped], context.Canceled)
		require.ErrorAs(t, errs[1-stopped], &failed, "stopped: %d", stopped)
		require.Equal(t, StoppedByUser, failed.Message)
	}
}

// Ranks over different backends say so instead of waiting for each other.
func TestRanksOverDifferentBackendsDisagree(t *testing.T) {
	errs := meet(t, func(c Config) error {
		if c.Rank == 1 {
			c.Backend, c.Device = NCCL, torch.Device{Type: torch.DeviceCUDA}
		}
		_, err := Connect(t.Context(), c)
		return err
	})
	for rank, err := range errs {
		require.ErrorContains(t, err, "rank 0 has backend gloo, rank 1 has backend nccl, rank 2 has backend gloo", "rank %d", rank)
	}
}

// An interface that one host does not have is named on every rank.
func TestInterfacesThatAreNotThere(t *testing.T) {
	for _, names := range []string{"nosuch0", "lo,nosuch0"} {
		errs := meet(t, func(c Config) error {
			c.Interface = "lo"
			if c.Rank == 1 {
				c.Interface = names
			}
			_, err := Connect(t.Context(), c)
			return err
		})
		for rank, err := range errs {
			require.ErrorContains(t, err, `GLOO_SOCKET_IFNAME: found "nosuch0", expected interfaces of this host, which has `, "rank %d", rank)
			require.ErrorContains(t, err, "lo", "rank %d", rank)
		}
	}
}
