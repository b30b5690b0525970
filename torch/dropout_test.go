package torch_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// The expected number of elements is dropped, evenly distributed; the others are scaled, and the
// gradient has the same mask, in any memory format. A seed gives the same mask for any thread
// count, another seed another mask.
func TestLeanDropout(t *testing.T) {
	for _, dtype := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
		t.Run(fmt.Sprint(dtype), func(t *testing.T) {
			torchtest.NoLeak(t)
			const p = 0.1
			run := func(seed uint64, threads int) (y, g []float64) {
				require.NoError(t, torch.OnThread(threads, func() error {
					return torch.With(func(s *torch.Scope) error {
						require.NoError(t, torch.ManualSeed(seed))
						x := s.Contiguous(s.Full([]int64{2, 24, 10, 31, 37}, 2, dtype, torch.CPU),
							torch.ChannelsLast3d)
						require.NoError(t, x.SetRequiresGrad(true))
						out := s.DropoutLean(x, p, true)
						y = asFloat64(t, s, s.Detach(out))
						require.NoError(t,
							out.BackwardFrom(s.Full(out.Shape(), 4, dtype, torch.CPU), false))
						g = asFloat64(t, s, s.Grad(x))
						return s.Err()
					})
				}))
				return y, g
			}
			y, g := run(1, 1)
			kept, runs := 0, 0
			for i := range y {
				require.InDelta(t, 2*y[i], g[i], 1e-12)
				if y[i] != 0 {
					require.InEpsilon(t, 2/(1-p), y[i], 0.004)
					kept++
					if i > 0 && y[i-1] == 0 {
						runs++
					}
				}
			}
			n := float64(len(y))
			require.InDelta(t, 1-p, float64(kept)/n, 5*math.Sqrt(p*(1-p)/n))
			require.InDelta(t, p*(1-p), float64(runs)/n, 5*math.Sqrt(p/n),
				"neighbours fall independently")
			for seed, want := range map[uint64]bool{1: true, 2: false} {
				again, _ := run(seed, 2)
				require.Equal(t, want, fmt.Sprint(y[:20000]) == fmt.Sprint(again[:20000]), seed)
			}
		})
	}
}

// In evaluation mode, and with p = 0, it is the identity.
func TestLeanDropoutAtRest(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 1, 3, 50)
		for _, y := range []*torch.Tensor{s.DropoutLean(x, 0.5, false), s.DropoutLean(x, 0, true)} {
			require.Equal(t, torchtest.Float32s(t, x), torchtest.Float32s(t, y))
		}
		require.Equal(t, make([]float32, 150), torchtest.Float32s(t, s.DropoutLean(x, 1, true)))
		return s.Err()
	}))
	require.ErrorContains(t, torch.With(func(s *torch.Scope) error {
		s.DropoutLean(torchtest.Tensor(s, 1, 3), 2, true)
		return s.Err()
	}), "probability 2")
}
