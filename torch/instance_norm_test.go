package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// normed is one use of InstanceNormLeakyReLU.
type normed struct {
	shape    []int64
	dtype    torch.DType
	affine   bool
	residual bool
	last     bool    // x is channels-last
	slope    float64 //
	bias     float64 // added to the bias; a large one prevents recovering the input from the output
	far      float64 // distance of the first voxel of each channel from the others
	narrow   bool    // the output gradient is a slice of a wider tensor
	device   torch.Device
}

// run returns the output and the gradients of x, w, b and the residual as float64, computed by f.
func (n normed) run(t *testing.T, seed uint64,
	f func(s *torch.Scope, x, w, b, r *torch.Tensor) *torch.Tensor) [][]float64 {
	t.Helper()
	var all [][]float64
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		format := torch.ChannelsLast3d
		if len(n.shape) == 4 {
			format = torch.ChannelsLast
		}
		leaf := func(seed uint64, dtype torch.DType, plus float64, shape ...int64) *torch.Tensor {
			x := s.To(s.AddScalar(torchtest.Tensor(s, seed, shape...), plus), dtype, torch.CPU)
			if len(shape) > 1 && n.far != 0 {
				first := x
				for axis := 2; axis < len(shape); axis++ {
					first = s.Select(first, 2, 0)
				}
				s.AddScalar_(first, n.far)
			}
			if len(shape) > 1 && n.last {
				x = s.Contiguous(x, format)
			}
			x = s.To(x, dtype, n.device)
			require.NoError(t, x.SetRequiresGrad(true))
			return x
		}
		param := n.dtype
		if param == torch.BFloat16 || param == torch.Float16 {
			param = torch.Float32
		}
		leaves := []*torch.Tensor{leaf(seed, n.dtype, 3, n.shape...), nil, nil, nil}
		if n.affine {
			leaves[1], leaves[2] = leaf(seed+1, param, 1.5, n.shape[1]),
				leaf(seed+2, param, n.bias, n.shape[1])
		}
		if n.residual {
			leaves[3] = leaf(seed+3, n.dtype, 0, n.shape...)
		}
		y := f(s, leaves[0], leaves[1], leaves[2], leaves[3])
		all = append(all, values64(t, s, y))
		wide := append([]int64{}, n.shape...)
		wide[1] *= 2
		dy := s.To(torchtest.Tensor(s, seed+4, wide...), n.dtype, torch.CPU)
		if n.narrow {
			dy = s.Narrow(s.Contiguous(dy, format), 1, 1, n.shape[1])
		} else {
			dy = s.Clone(s.Narrow(dy, 1, 1, n.shape[1]))
		}
		// A copy to a device would make a narrow gradient contiguous.
		if n.device.Type != torch.DeviceCPU {
			wide := s.To(torchtest.Tensor(s, seed+4, wide...), n.dtype, n.device)
			dy = s.Narrow(s.Contiguous(wide, format), 1, 1, n.shape[1])
			if !n.narrow {
				dy = s.Contiguous(dy, torch.Contiguous)
			}
		}
		require.NoError(t, y.BackwardFrom(dy, false))
		for _, l := range leaves {
			if l != nil {
				all = append(all, values64(t, s, s.Grad(l)))
			}
		}
		return s.Err()
	}))
	return all
}

func values64(t testing.TB, s *torch.Scope, x *torch.Tensor) []float64 {
	t.Helper()
	v, err := torch.Slice[float64](s.To(s.Clone(x), torch.Float64, torch.CPU))
	require.NoError(t, err)
	return v
}

func (n normed) fused(s *torch.Scope, x, w, b, r *torch.Tensor) *torch.Tensor {
	return s.InstanceNormLeakyReLU(x, w, b, r, 1e-5, n.slope)
}

// plain is the reference for fused, in float64 for any dtype of x.
func (n normed) plain(s *torch.Scope, x, w, b, r *torch.Tensor) *torch.Tensor {
	double := func(x *torch.Tensor) *torch.Tensor {
		if x == nil {
			return nil
		}
		return s.To(x, torch.Float64, torch.CPU)
	}
	z := s.InstanceNorm(double(x), double(w), double(b), 1e-5)
	if r != nil {
		z = s.Add(z, double(r))
	}
	if n.slope != 1 {
		z = s.LeakyRelu(z, n.slope)
	}
	return s.To(z, x.DType(), torch.CPU)
}

// On CUDA: with the shim's kernels, for channels-last tensors, if it has them, otherwise with
// torch's operators.
func TestInstanceNormLeakyReLUIsItsParts(t *testing.T) {
	for name, limits := range map[string]map[torch.DType]float64{
		"cpu": {torch.Float64: 1e-12, torch.Float32: 2e-5, torch.BFloat16: 4e-2},
		"cuda": {torch.Float64: 1e-12, torch.Float32: 2e-5, torch.BFloat16: 4e-2,
			torch.Float16: 5e-3},
	} {
		t.Run(name, func(t *testing.T) { isItsParts(t, torchtest.Device(t, name), limits) })
	}
}

func isItsParts(t *testing.T, device torch.Device, limits map[torch.DType]float64) {
	torchtest.NoLeak(t)
	for dtype, limit := range limits {
		for i, n := range []normed{
			{shape: []int64{2, 5, 3, 4, 6}, affine: true, last: true, slope: 0.01},
			{shape: []int64{2, 5, 3, 4, 6}, affine: true, slope: 0.01, narrow: true},
			{shape: []int64{1, 16, 7, 19, 33}, affine: true, last: true, slope: 0.01}, // more than one block of voxels
			{shape: []int64{3, 37, 4, 3, 5}, affine: true, last: true, slope: 0.2, narrow: true},
			{shape: []int64{2, 32, 4, 3, 5}, affine: true, last: true, residual: true, slope: 0.01},
			{shape: []int64{2, 19, 9, 17}, affine: true, last: true, residual: true, slope: 0.01,
				narrow: true},
			{shape: []int64{2, 19, 9, 17}, residual: true, slope: 0.01},
			{shape: []int64{2, 16, 9, 17}, last: true, slope: 1},
			{shape: []int64{2, 18, 9, 17}, affine: true, last: true, slope: 0}, // not invertible: a ReLU
			{shape: []int64{2, 17, 4, 3, 5}, affine: true, last: true, slope: 0.01, bias: 60},
			{shape: []int64{1, 1, 4, 3, 5}, affine: true, last: true, slope: 0.01},
			{shape: []int64{1, 16, 9, 19, 33}, affine: true, last: true, slope: 0.01, far: 50},
		} {
			n.dtype, n.device = dtype, torch.CPU
			want := n.run(t, uint64(10*i), n.plain)
			n.device = device
			got := n.run(t, uint64(10*i), n.fused)
			require.Len(t, got, len(want))
			for k := range want {
				most := 0.0
				for _, v := range want[k] {
					most = math.Max(most, math.Abs(v))
				}
				for j, v := range want[k] {
					// Within rounding of 0 the rectifier may be on the other side and have another
					// gradient.
					if d := math.Abs(got[k][j] - v); !(d <= limit*most) {
						t.Errorf("%+v: %s, element %d: %g, expected %g; the largest is %g", n,
							[]string{"output", "gradient 0", "gradient 1", "gradient 2",
								"gradient 3"}[k], j, got[k][j], v, most)
						break
					}
				}
			}
		}
	}
}

// Gradients equal finite differences of the operator in float64.
func TestInstanceNormLeakyReLUGradcheck(t *testing.T) {
	torchtest.NoLeak(t)
	for _, residual := range []bool{false, true} {
		n := normed{shape: []int64{2, 3, 2, 3, 2}, dtype: torch.Float64, affine: true,
			residual: residual, last: true, slope: 0.3, device: torch.CPU}
		got := n.run(t, 7, n.fused)[1:]
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			double := func(seed uint64, plus float64, shape ...int64) *torch.Tensor {
				return s.To(s.AddScalar(torchtest.Tensor(s, seed, shape...), plus), torch.Float64,
					torch.CPU)
			}
			in := []*torch.Tensor{double(7, 3, n.shape...), double(8, 1.5, 3), double(9, 0, 3), nil}
			if residual {
				in[3] = double(10, 0, n.shape...)
			}
			dy := s.Narrow(double(11, 0, 2, 6, 2, 3, 2), 1, 1, 3)
			value := func() float64 {
				v, err := s.Sum(s.Mul(n.fused(s, in[0], in[1], in[2], in[3]), dy)).Item()
				require.NoError(t, err)
				return v
			}
			const h = 1e-5
			for k, gradient := range got {
				x, err := torch.Slice[float64](in[k])
				require.NoError(t, err)
				for j, at := range x {
					x[j] = at + h
					require.NoError(t, torch.CopyIn(in[k], x))
					up := value()
					x[j] = at - h
					require.NoError(t, torch.CopyIn(in[k], x))
					down := value()
					x[j] = at
					require.NoError(t, torch.CopyIn(in[k], x))
					require.InDelta(t, (up-down)/(2*h), gradient[j], 1e-7, "operand %d, element %d",
						k, j)
				}
			}
			return s.Err()
		}))
	}
}

// There are no atomics: the kernels are deterministic.
func TestInstanceNormLeakyReLUHasItsBitsOnADeviceEveryTime(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			if !device.Type.HasKernels() {
				t.Skip("this shim has no kernels for " + name)
			}
			n := normed{shape: []int64{2, 32, 16, 24, 31}, dtype: torch.Float32, affine: true,
				residual: true, last: true, slope: 0.01, device: device}
			first := n.run(t, 3, n.fused)
			for range 5 {
				require.Equal(t, first, n.run(t, 3, n.fused))
			}
		})
	}
}

func TestInstanceNormLeakyReLUHasItsBitsOnAnyNumberOfThreads(t *testing.T) {
	torchtest.NoLeak(t)
	n := normed{shape: []int64{2, 19, 6, 24, 31}, dtype: torch.Float32, affine: true, last: true,
		slope: 0.01, device: torch.CPU}
	var runs [][][]float64
	for _, threads := range []int{1, 2, 3} {
		require.NoError(t, torch.OnThread(threads, func() error {
			runs = append(runs, n.run(t, 3, n.fused))
			return nil
		}))
	}
	require.Equal(t, runs[0], runs[1])
	require.Equal(t, runs[0], runs[2])
}

// The kernels take 16, 8, 4, 2 or 1 channels at a time; a channel alone takes the last of these.
// The input is recovered from the output, saved because of a large bias, or saved for a residual.
func TestInstanceNormLeakyReLUHasItsBitsWithAnyNumberOfChannels(t *testing.T) {
	torchtest.NoLeak(t)
	for _, dtype := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16} {
		for _, n := range []normed{{}, {affine: true, bias: 100}, {affine: true, residual: true}} {
			n.shape, n.dtype, n.last, n.slope = []int64{2, 31, 5, 9, 31}, dtype, true, 0.01
			n.device = torch.CPU
			alone := func(s *torch.Scope, x, w, b, r *torch.Tensor) *torch.Tensor {
				var all []*torch.Tensor
				for i := range n.shape[1] {
					one := func(x *torch.Tensor, axis int64) *torch.Tensor {
						if x == nil {
							return nil
						}
						return s.Narrow(x, axis, i, 1)
					}
					all = append(all, n.fused(s, one(x, 1), one(w, 0), one(b, 0), one(r, 1)))
				}
				return s.Cat(1, all...)
			}
			want, got := n.run(t, 3, alone), n.run(t, 3, n.fused)
			for i := range want {
				require.Equal(t, want[i], got[i], "value %d of %v", i, n)
			}
		}
	}
}

// Frozen tensors get no gradient, trainable ones do.
func TestInstanceNormLeakyReLUSkipsFrozenOperands(t *testing.T) {
	torchtest.NoLeak(t)
	for _, trained := range [][]int{{0}, {1}, {2}, {3}, {0, 3}, {1, 2}} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			in := []*torch.Tensor{torchtest.Tensor(s, 1, 2, 3, 4, 4), torchtest.Tensor(s, 2, 3),
				torchtest.Tensor(s, 3, 3), torchtest.Tensor(s, 4, 2, 3, 4, 4)}
			for _, k := range trained {
				require.NoError(t, in[k].SetRequiresGrad(true))
			}
			y := s.InstanceNormLeakyReLU(in[0], in[1], in[2], in[3], 1e-5, 0.01)
			require.NoError(t, s.Sum(s.Mul(y, y)).Backward())
			for k, x := range in {
				has := false
				for _, want := range trained {
					has = has || want == k
				}
				require.Equal(t, has, x.HasGrad(), "operand %d of trained %v", k, trained)
			}
			return s.Err()
		}))
	}
}
