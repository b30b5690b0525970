package torch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// chain is two layers, each a segment with recomputation; the first one's result is used twice.
func chain(t *testing.T, s *torch.Scope, recompute bool, calls *int) (loss *torch.Tensor,
	params []*torch.Tensor) {
	t.Helper()
	x := torchtest.Tensor(s, 1, 4, 3)
	for i := range 2 {
		p := torchtest.Tensor(s, uint64(2+i), 3, 3)
		require.NoError(t, p.SetRequiresGrad(true))
		params = append(params, p)
	}
	layer := func(p *torch.Tensor) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
		return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			*calls++
			return s.Tanh(s.MatMul(x, p))
		}
	}
	run := func(p, x *torch.Tensor) *torch.Tensor {
		if recompute {
			return s.Recompute(x, []*torch.Tensor{p}, layer(p))
		}
		return layer(p)(s, x)
	}
	y := run(params[0], x)
	z := run(params[1], y)
	return s.Sum(s.Add(s.Mul(y, y), z)), params
}

func TestRecomputeChangesNoGradient(t *testing.T) {
	torchtest.NoLeak(t)
	grads := func(recompute bool, autocast bool) (all [][]float32, calls int) {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			var loss *torch.Tensor
			var params []*torch.Tensor
			forward := func() error {
				loss, params = chain(t, s, recompute, &calls)
				return s.Err()
			}
			if autocast {
				require.NoError(t, torch.Autocast(torch.DeviceCPU, torch.BFloat16, forward))
			} else {
				require.NoError(t, forward())
			}
			require.NoError(t, loss.Backward())
			for _, p := range params {
				all = append(all, torchtest.Float32s(t, s.Grad(p)))
			}
			return nil
		}))
		return all, calls
	}
	for _, autocast := range []bool{false, true} {
		want, once := grads(false, autocast)
		got, twice := grads(true, autocast)
		require.Equal(t, want, got, "autocast %v", autocast)
		require.Equal(t, [2]int{2, 4}, [2]int{once, twice})
	}
	plain, _ := grads(false, false)
	mixed, _ := grads(false, true)
	require.NotEqual(t, plain, mixed, "autocast has an effect to lose")
}

// Two losses of one scope keep their segments apart; without autograd, or with nothing to train,
// nothing runs twice.
func TestRecomputeRunsWhatABackwardReaches(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		var calls int
		first, _ := chain(t, s, true, &calls)
		second, params := chain(t, s, true, &calls)
		require.NoError(t, first.Backward())
		require.Equal(t, 6, calls)
		require.False(t, params[0].HasGrad())
		require.NoError(t, second.Backward())
		require.Equal(t, 8, calls)
		require.True(t, params[0].HasGrad())

		calls = 0
		require.NoError(t, torch.NoGrad(func() error {
			chain(t, s, true, &calls)
			return nil
		}))
		y := s.Recompute(torchtest.Tensor(s, 1, 2), nil,
			func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.Neg(x) })
		require.False(t, y.RequiresGrad())
		require.Equal(t, 2, calls)
		return nil
	}))
}

func TestRecomputeRefuses(t *testing.T) {
	torchtest.NoLeak(t)
	err := fails(t, func(s *torch.Scope) error {
		p := torchtest.Tensor(s, 1, 2)
		require.NoError(t, p.SetRequiresGrad(true))
		s.Recompute(s.Neg(p), nil, func(s *torch.Scope,
			x *torch.Tensor) *torch.Tensor {
			return s.Neg(x)
		})
		return nil
	})
	require.ErrorContains(t, err, "the operand has a gradient and is not the result of another "+
		"recompute")

	// An error in the second run is returned by Backward.
	err = fails(t, func(s *torch.Scope) error {
		p, runs := torchtest.Tensor(s, 1, 2), 0
		require.NoError(t, p.SetRequiresGrad(true))
		y := s.Recompute(torchtest.Tensor(s, 2, 2), []*torch.Tensor{p},
			func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				if runs++; runs == 2 {
					return s.MatMul(x, torchtest.Tensor(s, 3, 3, 3))
				}
				return s.Mul(x, p)
			})
		return s.Sum(y).Backward()
	})
	require.ErrorContains(t, err, "matmul")

	// A loss in another scope would miss gradients, which is a programming error.
	require.PanicsWithError(t, "torch: Recompute and the Backward that reached it belong to "+
		"different outermost scopes: gradients are missing", func() {
		torch.With(func(s *torch.Scope) error {
			var calls int
			loss, _ := chain(t, s, true, &calls)
			return torch.With(func(other *torch.Scope) error { return other.Sum(loss).Backward() })
		})
	})
}
