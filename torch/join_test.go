package torch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// joined returns the output of f and the gradients of its four operands, computed in dtype from the
// same values.
func joined(t *testing.T, dtype torch.DType, trained []bool,
	f func(s *torch.Scope, x, w, b, skip *torch.Tensor) *torch.Tensor) [][]float64 {
	t.Helper()
	var all [][]float64
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		leaf := func(seed uint64, on bool, shape ...int64) *torch.Tensor {
			x := s.To(torchtest.Tensor(s, seed, shape...), dtype, torch.CPU)
			if len(shape) == 5 && seed != 2 {
				x = s.Contiguous(x, torch.ChannelsLast3d)
			}
			require.NoError(t, x.SetRequiresGrad(on))
			return x
		}
		leaves := []*torch.Tensor{leaf(1, trained[0], 2, 6, 2, 9, 7),
			leaf(2, trained[1], 6, 19, 1, 2, 2), leaf(3, trained[2], 19),
			leaf(4, trained[3], 2, 5, 2, 18, 14)}
		y := f(s, leaves[0], leaves[1], leaves[2], leaves[3])
		all = append(all, values64(t, s, y))
		require.NoError(t, y.BackwardFrom(s.To(torchtest.Tensor(s, 5, 2, 24, 2, 18, 14), y.DType(),
			torch.CPU), false))
		for i, l := range leaves {
			require.Equal(t, trained[i], l.HasGrad(), "operand %d of trained %v", i, trained)
			if l.HasGrad() {
				all = append(all, values64(t, s, s.Grad(l)))
			}
		}
		return s.Err()
	}))
	return all
}

func TestConvTransposeCatIsItsParts(t *testing.T) {
	torchtest.NoLeak(t)
	stride := []int64{1, 2, 2}
	plain := func(s *torch.Scope, x, w, b, skip *torch.Tensor) *torch.Tensor {
		return s.Cat(1, s.ConvTranspose(x, w, b, stride), skip)
	}
	fused := func(s *torch.Scope, x, w, b, skip *torch.Tensor) *torch.Tensor {
		return s.ConvTransposeCat(x, w, b, skip, stride)
	}
	check := func(t *testing.T, limit float64, want, got [][]float64) {
		t.Helper()
		require.Len(t, got, len(want))
		for i := range want {
			most := 0.0
			for _, v := range want[i] {
				most = max(most, v, -v)
			}
			require.InDeltaSlice(t, want[i], got[i], limit*most, "result %d", i)
		}
	}
	for _, trained := range [][]bool{{true, true, true, true}, {false, false, true, false},
		{true, false, false, true}, {false, false, false, true}, {false, true, false, false}} {
		check(t, 1e-13, joined(t, torch.Float64, trained, plain),
			joined(t, torch.Float64, trained, fused))
		check(t, 2e-6, joined(t, torch.Float32, trained, plain),
			joined(t, torch.Float32, trained, fused))
		check(t, 2e-2, joined(t, torch.Float64, trained, plain),
			joined(t, torch.BFloat16, trained, fused))
	}
	// Autocast applies to the operator although it is not one of libtorch's.
	require.NoError(t, torch.Autocast(torch.DeviceCPU, torch.BFloat16, func() error {
		all := []bool{true, true, true, true}
		check(t, 2e-2, joined(t, torch.Float32, all, plain), joined(t, torch.Float32, all, fused))
		return torch.With(func(s *torch.Scope) error {
			y := fused(s, torchtest.Tensor(s, 1, 2, 6, 2, 9, 7),
				torchtest.Tensor(s, 2, 6, 19, 1, 2, 2), nil,
				torchtest.Tensor(s, 4, 2, 5, 2, 18, 14))
			require.Equal(t, torch.BFloat16, y.DType())
			return s.Err()
		})
	}))
}

func TestConvTransposeCatRefusesWhatDoesNotFit(t *testing.T) {
	torchtest.NoLeak(t)
	for _, shape := range [][]int64{{2, 5, 2, 18, 15}, {1, 5, 2, 18, 14}, {2, 5, 18, 14}} {
		err := torch.With(func(s *torch.Scope) error {
			s.ConvTransposeCat(torchtest.Tensor(s, 1, 2, 6, 2, 9, 7),
				torchtest.Tensor(s, 2, 6, 19, 1, 2, 2), nil, torchtest.Tensor(s, 4, shape...),
				[]int64{1, 2, 2})
			return s.Err()
		})
		require.ErrorContains(t, err, "skip connection")
	}
}
