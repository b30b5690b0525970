package nn_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

func names(list []nn.Named) (out []string) {
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

// block is shaped like nnU-Net's: a convolution known under two names.
func block(b nn.Builder) (*nn.Module, *nn.Conv, *nn.InstanceNorm) {
	conv, norm := b.NewConv(2, 4, []int64{3, 3}, []int64{1, 1}, true),
		b.NewInstanceNorm(4, 1e-5, true)
	m := nn.NewModule()
	m.Child("conv", conv.Module)
	m.Child("norm", norm.Module)
	m.Child("all_modules", nn.Sequence(conv.Module, norm.Module))
	return m, conv, norm
}

func TestNamesComeInPyTorchsOrderWithAliases(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		m, conv, _ := block(nn.Builder{Scope: s, Device: torch.CPU})
		conv.Add("running", &nn.Param{T: s.Zeros([]int64{1}, torch.Float32, torch.CPU),
			Shape: []int64{1}, Buffer: true})
		root := nn.Sequence(m)
		require.Equal(t, []string{"0.conv.weight", "0.conv.bias", "0.conv.running", "0.norm.weight",
			"0.norm.bias",
			"0.all_modules.0.weight", "0.all_modules.0.bias", "0.all_modules.0.running",
			"0.all_modules.1.weight", "0.all_modules.1.bias"},
			names(root.StateDict()))
		require.Equal(t, []string{"0.conv.weight", "0.conv.bias", "0.norm.weight", "0.norm.bias"},
			names(root.Parameters()))
		dict := root.StateDict()
		require.Same(t, dict[0].Param, dict[5].Param)
		require.Equal(t, []nn.Metadata{{"", 1}, {"0", 1}, {"0.conv", 1}, {"0.norm", 2},
			{"0.all_modules", 1}, {"0.all_modules.0", 1},
			{"0.all_modules.1", 2}}, root.Metadata())
		return nil
	}))
}

func TestParametersHavePyTorchsShapes(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		b := nn.Builder{Scope: s, Device: torch.CPU}
		conv := b.NewConv(2, 5, []int64{1, 3, 3}, []int64{1, 2, 2}, false)
		require.Equal(t, []int64{5, 2, 1, 3, 3}, conv.Weight.T.Shape())
		require.Equal(t, conv.Weight.Shape, conv.Weight.T.Shape())
		require.True(t, conv.Weight.T.RequiresGrad())
		require.Nil(t, conv.Bias)
		up := b.NewConvTranspose(5, 3, []int64{1, 2, 2}, true)
		require.Equal(t, []int64{5, 3, 1, 2, 2}, up.Weight.T.Shape())
		require.Equal(t, []int64{3}, up.Bias.T.Shape())
		x := torchtest.Tensor(s, 1, 1, 2, 4, 6, 8)
		y := conv.Forward(s, x)
		require.Equal(t, []int64{1, 5, 4, 3, 4}, y.Shape())
		require.Equal(t, []int64{1, 3, 4, 6, 8}, up.Forward(s, y).Shape())
		bare := b.NewInstanceNorm(2, 1e-5, false)
		require.Empty(t, bare.Parameters())
		require.Equal(t, x.Shape(), bare.Forward(s, x).Shape())
		return nil
	}))
}

func TestLinearAndLayerNormUseWeightAndBias(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		b := nn.Builder{Scope: s, Device: torch.CPU}
		l, n := b.NewLinear(2, 3, true), b.NewLayerNorm(2)
		require.NoError(t, torch.CopyIn(l.Weight.T, []float32{1, 0, 0, 1, 1, 1}))
		require.NoError(t, torch.CopyIn(l.Bias.T, []float32{10, 20, 30}))
		require.Equal(t, []float32{11, 22, 33},
			torchtest.Float32s(t, l.Forward(s, torch.FromSlice(s, []float32{1, 2}, 1, 2))))
		require.NoError(t, torch.CopyIn(n.Weight.T, []float32{2, 3}))
		require.NoError(t, torch.CopyIn(n.Bias.T, []float32{1, -1}))
		require.InDeltaSlice(t, []float32{-1, 2},
			torchtest.Float32s(t, n.Forward(s, torch.FromSlice(s, []float32{4, 8}, 1, 2))), 1e-5)
		require.Nil(t, b.NewLinear(2, 3, false).Bias)
		buffer := b.Buffer([]int64{1, 2, 3, 4}, 2, 2)
		require.True(t, buffer.Buffer)
		require.False(t, buffer.T.RequiresGrad())
		v, err := torch.Slice[int64](buffer.T)
		require.NoError(t, err)
		require.Equal(t, []int64{1, 2, 3, 4}, v)
		return nil
	}))
}

// Modules draw in the order that the root names, then in that of their registration.
func TestResetOrder(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		var drawn []string
		var ms []*nn.Module
		for _, name := range []string{"a", "b", "c"} {
			m := nn.NewModule()
			m.OnReset(func(*torch.Scope, *torch.Generator) { drawn = append(drawn, name) })
			ms = append(ms, m)
		}
		root := nn.Sequence(ms...)
		g, err := torch.NewGenerator(torch.CPU, 1)
		require.NoError(t, err)
		defer g.Close()
		require.NoError(t, root.Reset(g, nil))
		root.ResetOrder(ms[2], ms[0])
		require.NoError(t, root.Reset(g, nil))
		require.NoError(t, root.Reset(g, func(path string) bool { return path == "0" }))
		require.Equal(t, []string{"a", "b", "c", "c", "a", "b", "a"}, drawn)
		return nil
	}))
}

func TestForwardUsesWeightAndBias(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		b := nn.Builder{Scope: s, Device: torch.CPU}
		conv := b.NewConv(1, 1, []int64{3, 3}, []int64{1, 1}, true)
		s.Fill_(conv.Weight.T, 1)
		s.Fill_(conv.Bias.T, 10)
		// A sum over the neighbourhood, zero beyond the border.
		x := torch.FromSlice(s, []float32{1, 2, 3, 4, 5, 6}, 1, 1, 2, 3)
		require.Equal(t, []float32{22, 31, 26, 22, 31, 26},
			torchtest.Float32s(t, conv.Forward(s, x)))
		up := b.NewConvTranspose(1, 1, []int64{1, 2}, true)
		require.NoError(t, torch.CopyIn(up.Weight.T, []float32{2, 3}))
		s.Fill_(up.Bias.T, -1)
		require.Equal(t, []float32{1, 2, 3, 5, 5, 8},
			torchtest.Float32s(t, up.Forward(s, torch.FromSlice(s, []float32{1, 2, 3}, 1, 1, 1,
				3))))
		norm := b.NewInstanceNorm(1, 0.25, true)
		s.Fill_(norm.Weight.T, 3)
		s.Fill_(norm.Bias.T, 1)
		// Mean 2, variance 1: ±1/sqrt(1.25)·3 + 1.
		got := torchtest.Float32s(t,
			norm.Forward(s, torch.FromSlice(s, []float32{1, 3, 1, 3}, 1, 1, 2, 2)))
		require.InDelta(t, 1-3/math.Sqrt(1.25), got[0], 1e-6)
		require.InDelta(t, 1+3/math.Sqrt(1.25), got[1], 1e-6)
		return nil
	}))
}

func TestResetDrawsTheReferencesDistributions(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		b := nn.Builder{Scope: s, Device: torch.CPU}
		conv, up := b.NewConv(16, 32, []int64{3, 3, 3}, []int64{1, 1, 1}, true),
			b.NewConvTranspose(16, 32, []int64{2, 2, 2}, true)
		norm, zero := b.NewInstanceNorm(3, 1e-5, true), b.NewInstanceNorm(3, 1e-5, true)
		zero.ZeroInit()
		root := nn.Sequence(conv.Module, up.Module, norm.Module, zero.Module)
		reset := func(seed uint64, match func(string) bool) {
			g, err := torch.NewGenerator(torch.CPU, seed)
			require.NoError(t, err)
			defer g.Close()
			require.NoError(t, root.Reset(g, match))
		}
		reset(1, nil)
		// Kaiming normal, negative slope 0.01; fan_in is axis 1 times the kernel size, also for
		// transposed convolutions.
		for _, c := range []struct {
			p   *nn.Param
			fan float64
		}{{conv.Weight, 16 * 27}, {up.Weight, 32 * 8}} {
			var sum, squares float64
			v := torchtest.Float32s(t, c.p.T)
			for _, x := range v {
				sum += float64(x)
				squares += float64(x) * float64(x)
			}
			std := math.Sqrt(2 / (1 + 1e-4) / c.fan)
			n := float64(len(v))
			require.InDelta(t, 0, sum/n, 5*std/math.Sqrt(n))
			require.InEpsilon(t, std, math.Sqrt(squares/n), 5/math.Sqrt(2*n))
		}
		require.Equal(t, make([]float32, 32), torchtest.Float32s(t, conv.Bias.T))
		require.Equal(t, []float32{1, 1, 1}, torchtest.Float32s(t, norm.Weight.T))
		require.Equal(t, []float32{0, 0, 0}, torchtest.Float32s(t, zero.Weight.T))
		require.True(t, conv.Weight.T.RequiresGrad())

		first := torchtest.Float32s(t, conv.Weight.T)
		upFirst := torchtest.Float32s(t, up.Weight.T)
		reset(2, func(path string) bool { return path == "0" })
		require.NotEqual(t, first, torchtest.Float32s(t, conv.Weight.T))
		require.Equal(t, upFirst, torchtest.Float32s(t, up.Weight.T),
			"a module that does not match keeps its values")
		reset(1, nil)
		require.Equal(t, first, torchtest.Float32s(t, conv.Weight.T),
			"a seed gives the same network")
		return nil
	}))
}
