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

// Ranks that hold some rows of a batch drop what one rank drops in these rows, to the bit, forward and
// backward, and their generators move on alike. Axis 0 may hold several entries for each row.
func TestDropoutOfRowsIsThatOfTheBatch(t *testing.T) {
	type op func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	ops := map[string]op{
		"dropout": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.Dropout(x, 0.3, true) },
		"lean":    func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.DropoutLean(x, 0.3, true) },
		"feature": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.FeatureDropout(x, 0.3, true) },
	}
	const all = 5
	for _, device := range []string{"cpu", "cuda"} {
		for name, f := range ops {
			for _, c := range []struct {
				shape  []int64
				format torch.MemoryFormat
			}{
				{[]int64{all, 7, 5, 11, 13}, torch.Contiguous},
				{[]int64{all, 7, 5, 11, 13}, torch.ChannelsLast3d},
				{[]int64{all, 1, 3, 33, 31}, torch.ChannelsLast3d},
				{[]int64{all * 8, 49, 12}, torch.Contiguous},
			} {
				t.Run(fmt.Sprint(device, "/", name, c), func(t *testing.T) {
					device := torchtest.Device(t, device)
					torchtest.NoLeak(t)
					run := func(s *torch.Scope, r torch.Rows) (out, after []float32) {
						require.NoError(t, torch.ManualSeed(7))
						k := c.shape[0] / all
						first, count := int64(0), int64(all)
						if r.All > 0 {
							first, count = r.First, r.Count
						}
						x := s.AddScalar(torchtest.Tensor(s, 3, c.shape...), 5)
						x = s.Contiguous(s.To(s.Narrow(x, 0, first*k, count*k), torch.Float32, device),
							c.format)
						require.NoError(t, x.SetRequiresGrad(true))
						s.SetRows(r)
						s.Block(func(s *torch.Scope) *torch.Tensor { // a child has the rows of its parent
							for range 2 {
								y := f(s, x)
								require.NoError(t, s.Err())
								require.NoError(t, s.Sum(s.Mul(y, y)).Backward())
								out = append(out, torchtest.Float32s(t, s.Detach(y))...)
							}
							return nil
						})
						s.SetRows(torch.Rows{})
						g := torchtest.Float32s(t, s.Grad(x))
						u := s.Zeros([]int64{4}, torch.Float32, device)
						s.Uniform_(u, 0, 1, nil)
						return append(out, g...), torchtest.Float32s(t, u)
					}
					require.NoError(t, torch.With(func(s *torch.Scope) error {
						whole, after := run(s, torch.Rows{})
						entry := len(whole) / 3 / all // twice the result, and the gradient
						for _, r := range []torch.Rows{{0, 1, all}, {1, 2, all}, {3, 2, all}, {0, all, all}} {
							part, next := run(s, r)
							n := int(r.Count) * entry
							for i := range 3 {
								want := whole[i*all*entry+int(r.First)*entry:][:n]
								require.Equal(t, want, part[i*n:][:n], "rows %v, part %d", r, i)
							}
							require.Equal(t, after, next)
						}
						return s.Err()
					}))
				})
			}
		}
	}
}

func TestDropoutOfImpossibleRows(t *testing.T) {
	torchtest.NoLeak(t)
	for want, r := range map[string]torch.Rows{
		"rows 1 to before 3 of 2":                         {First: 1, Count: 2, All: 2},
		"rows -1 to before 0 of 2":                        {First: -1, Count: 1, All: 2},
		"rows 0 to before 0 of 2":                         {First: 0, Count: 0, All: 2},
		"[3, 4], expected a first axis that 2 rows share": {First: 0, Count: 2, All: 4},
	} {
		for _, f := range []func(s *torch.Scope, x *torch.Tensor) *torch.Tensor{
			func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.Dropout(x, 0.3, true) },
			func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.DropoutLean(x, 0.3, true) },
		} {
			require.ErrorContains(t, torch.With(func(s *torch.Scope) error {
				x := torchtest.Tensor(s, 1, 3, 4)
				s.SetRows(r)
				f(s, x)
				return s.Err()
			}), "dropout: "+want)
		}
	}
}
