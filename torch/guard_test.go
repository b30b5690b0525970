package torch_test

import (
	"errors"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// recording reports whether autograd records on the calling goroutine's thread.
func recording(t testing.TB) bool {
	t.Helper()
	var on bool
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		on = s.MulScalar(param(s, 1, 2), 2).RequiresGrad()
		return nil
	}))
	return on
}

func TestNoGradIsRestored(t *testing.T) {
	torchtest.NoLeak(t)
	stop := errors.New("stop")
	runtime.LockOSThread() // so that the state is read on the guard's thread
	defer runtime.UnlockOSThread()
	require.True(t, recording(t))
	require.NoError(t, torch.NoGrad(func() error {
		require.False(t, recording(t))
		require.NoError(t, torch.EnableGrad(func() error {
			require.True(t, recording(t))
			return torch.NoGrad(func() error { require.False(t, recording(t)); return nil })
		}))
		require.False(t, recording(t))
		return nil
	}))
	require.True(t, recording(t))
	require.Equal(t, stop, torch.NoGrad(func() error { return stop }))
	require.True(t, recording(t))
	require.Panics(t, func() { torch.NoGrad(func() error { panic("boom") }) })
	require.True(t, recording(t))
	require.Error(t, torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			s.Add(torchtest.Tensor(s, 1, 2),
				torchtest.Tensor(s, 1, 3))
			return nil
		})
	}))
	require.True(t, recording(t))
}

// 16 goroutines, 100 sections each, each of which sleeps or yields, next to others that record:
// gradient mode is per thread, and an unlocked goroutine may wake on another thread.
func TestGuardsKeepTheirStateWhileGoroutinesMove(t *testing.T) {
	torchtest.NoLeak(t)
	var wg sync.WaitGroup
	lost := make(chan int, 3200)
	for g := range 32 {
		wg.Go(func() {
			guard, want := torch.NoGrad, false
			if g%2 == 1 {
				guard, want = torch.EnableGrad, true
			}
			for i := range 100 {
				err := guard(func() error {
					if i%2 == 0 {
						time.Sleep(50 * time.Microsecond)
					} else {
						runtime.Gosched()
					}
					if recording(t) != want {
						lost <- i
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, lost, "sections that lost their state")
}

func TestAutocastRunsConvolutionsInBFloat16(t *testing.T) {
	torchtest.NoLeak(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	one := []int64{1, 1, 1}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x, w := torchtest.Tensor(s, 1, 1, 2, 4, 4, 4), param(s, 2, 3, 2, 3, 3, 3)
		dtype := func() torch.DType { return s.Conv(x, w, nil, one, one, one, 1).DType() }
		half := func(f func() error) error {
			return torch.Autocast(torch.DeviceCPU, torch.BFloat16,
				f)
		}
		require.Equal(t, torch.Float32, dtype())
		require.NoError(t, half(func() error {
			y := s.Conv(x, w, nil, one, one, one, 1)
			require.Equal(t, torch.BFloat16, y.DType())
			require.Equal(t, torch.BFloat16,
				s.MatMul(torchtest.Tensor(s, 1, 2, 2), torchtest.Tensor(s, 1, 2, 2)).DType())
			require.Equal(t, torch.Float32, s.Add(x, x).DType(), "autocast does not affect sums")
			if err := s.Sum(s.To(y, torch.Float32, torch.CPU)).Backward(); err != nil {
				return err
			}
			require.Equal(t, torch.Float32, s.Grad(w).DType(),
				"gradients have their parameter's type")
			// Nested: the inner end neither disables it nor clears the cache.
			require.NoError(t, half(func() error {
				require.Equal(t, torch.BFloat16,
					dtype())
				return nil
			}))
			require.Equal(t, torch.BFloat16, dtype())
			return nil
		}))
		require.Equal(t, torch.Float32, dtype())
		require.Panics(t, func() { half(func() error { panic("boom") }) })
		require.Equal(t, torch.Float32, dtype())
		stop := errors.New("stop")
		require.ErrorIs(t, half(func() error { return stop }), stop)
		require.Equal(t, torch.Float32, dtype())
		require.Error(t, torch.Autocast(torch.DeviceType(77), torch.BFloat16,
			func() error { t.Error("ran"); return nil }))
		require.Equal(t, torch.Float32, dtype())
		return nil
	}))
}

// Autocast caches the half-precision copy of a weight until its outermost end. A copy that outlived
// it would still be used after an optimizer step.
func TestAutocastCacheEndsWithTheOutermostGuard(t *testing.T) {
	torchtest.NoLeak(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x, w := s.Full([]int64{1, 1}, 1, torch.Float32, torch.CPU),
			s.Full([]int64{1, 1}, 1, torch.Float32, torch.CPU)
		require.NoError(t, w.SetRequiresGrad(true))
		product := func() float64 {
			v, err := s.Linear(x, w, nil).Item()
			require.NoError(t, err)
			return v
		}
		half := func(f func() error) error {
			return torch.Autocast(torch.DeviceCPU, torch.BFloat16,
				f)
		}
		require.NoError(t, half(func() error {
			require.Equal(t, 1.0, product())
			s.Fill_(w, 2)
			require.NoError(t, half(func() error {
				require.Equal(t, 1.0, product(),
					"an inner guard uses the cache")
				return nil
			}))
			require.Equal(t, 1.0, product(), "the cache outlives an inner guard")
			return nil
		}))
		return half(func() error { require.Equal(t, 2.0, product()); return nil })
	}))
}

func TestOnThreadSetsAndRestoresThreads(t *testing.T) {
	torchtest.Require(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := torch.Threads()
	require.Positive(t, was)
	inside := func(n int) {
		require.Equal(t, n, torch.Threads())
		got, err := torch.ParallelThreads(1000)
		require.NoError(t, err)
		require.LessOrEqual(t, got, n)
		if runtime.NumCPU() > 1 && n > 1 {
			require.Greater(t, got, 1)
		}
	}
	for _, n := range []int{1, 2, 3} {
		require.NoError(t, torch.OnThread(n, func() error {
			inside(n)
			require.NoError(t, torch.OnThread(0, func() error { inside(n); return nil }))
			require.NoError(t, torch.OnThread(1, func() error { inside(1); return nil }))
			inside(n)
			return nil
		}))
		require.Equal(t, was, torch.Threads())
	}
	require.Panics(t, func() { torch.OnThread(was+1, func() error { panic("boom") }) })
	require.Equal(t, was, torch.Threads())
	require.Error(t, torch.OnThread(math.MaxInt32+1, func() error { return nil }))
	require.Equal(t, was, torch.Threads())
}

func TestRandomSwitchesTakeEffect(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.Deterministic(true))
	require.NoError(t, torch.Deterministic(false))
	require.NoError(t, torch.BenchmarkCuDNN(false))
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		ones := s.Full([]int64{1000}, 1, torch.Float32, torch.CPU)
		drop := func() []float32 {
			require.NoError(t, torch.ManualSeed(7))
			return torchtest.Float32s(t, s.Dropout(ones, 0.25, true))
		}
		v := drop()
		require.Equal(t, v, drop(), "a seed gives the same draws")
		zeros := 0
		for _, x := range v {
			if x == 0 {
				zeros++
			} else {
				require.InDelta(t, 1/0.75, x, 1e-6)
			}
		}
		require.InDelta(t, 250, zeros, 60)

		channels := torchtest.Float32s(t,
			s.FeatureDropout(s.Full([]int64{4, 50, 3, 3}, 1, torch.Float32, torch.CPU), 0.5, true))
		dropped := 0
		for c := range 200 {
			for i := range 9 {
				require.Equal(t, channels[9*c], channels[9*c+i], "a channel is dropped whole")
			}
			if channels[9*c] == 0 {
				dropped++
			}
		}
		require.InDelta(t, 100, dropped, 40)
		return nil
	}))
}
