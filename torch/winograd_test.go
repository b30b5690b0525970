package torch_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// Convolutions that use minimal filtering: odd and even sizes, flat kernels, two axes, channel
// counts that are not multiples of 32 (whose last outputs are half a block), different input and
// output channels.
var winogradCases = []convCase{
	{x: []int64{2, 32, 8, 16, 16}, w: []int64{32, 32, 3, 3, 3}},
	{x: []int64{1, 16, 11, 13, 19}, w: []int64{48, 16, 3, 3, 3}},
	{x: []int64{3, 80, 9, 12, 10}, w: []int64{16, 80, 3, 3, 3}},
	{x: []int64{1, 48, 1, 34, 33}, w: []int64{32, 48, 3, 3, 3}},
	{x: []int64{2, 16, 5, 15, 17}, w: []int64{32, 16, 1, 3, 3}},
	{x: []int64{2, 32, 30, 27}, w: []int64{16, 32, 3, 3}},
	// Wide enough for the point-by-point weight gradient, large enough for several rounds of it.
	{x: []int64{1, 528, 13, 16, 18}, w: []int64{32, 528, 3, 3, 3}},
}

// convResults are the output and the gradients of x, w and b, as float64.
type convResults map[string][]float64

// results runs the forward and backward pass of a convolution.
func (c convCase) results(t *testing.T, dtype torch.DType, mixed, lean bool) convResults {
	r := convResults{}
	c.stride, c.groups = make([]int64, len(c.w)-2), 1
	for i := range c.stride {
		c.stride[i] = 1
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		leaf := map[string]*torch.Tensor{}
		for i, shape := range [][]int64{c.x, c.w, c.w[:1]} {
			l := s.To(torchtest.Tensor(s, uint64(i+1), shape...), dtype, torch.CPU)
			if mixed && i == 0 { // activations are already bfloat16, weights are not
				l = s.To(s.To(l, torch.BFloat16, torch.CPU), dtype, torch.CPU)
			}
			require.NoError(t, l.SetRequiresGrad(true))
			leaf["xwb"[i:i+1]] = l
		}
		// Input and output gradient are slices of wider tensors, like the gradient of a skip
		// connection.
		cut := func(x *torch.Tensor) *torch.Tensor {
			wide := s.Contiguous(s.Cat(1, x, x), map[int]torch.MemoryFormat{4: torch.ChannelsLast,
				5: torch.ChannelsLast3d}[len(c.x)])
			return s.Narrow(wide, 1, 0, x.Shape()[1])
		}
		x := cut(leaf["x"])
		var out *torch.Tensor
		f := func() error { out = c.run(s, x, leaf["w"], leaf["b"], lean); return s.Err() }
		if mixed && dtype == torch.Float32 {
			require.NoError(t, torch.Autocast(torch.DeviceCPU, torch.BFloat16, f))
			require.Equal(t, torch.BFloat16, out.DType())
		} else {
			require.NoError(t, f())
		}
		up := s.To(s.To(torchtest.Tensor(s, 4, out.Shape()...), torch.BFloat16, torch.CPU),
			out.DType(), torch.CPU)
		require.NoError(t, out.BackwardFrom(cut(up), false))
		r["output"] = asFloat64(t, s, s.Detach(out))
		for name, l := range leaf {
			require.Equal(t, dtype, s.Grad(l).DType())
			r["gradient of "+name] = asFloat64(t, s, s.Grad(l))
		}
		return s.Err()
	}))
	return r
}

func asFloat64(t *testing.T, s *torch.Scope, x *torch.Tensor) []float64 {
	v, err := torch.Slice[float64](s.Contiguous(s.To(x, torch.Float64, torch.CPU),
		torch.Contiguous))
	require.NoError(t, err)
	return v
}

// far returns the RMS of the differences relative to the RMS of the values, and the largest
// difference relative to the largest value.
func far(want, got []float64) (mean, most float64) {
	var d, n, largest float64
	for i := range want {
		e := math.Abs(got[i] - want[i])
		d, n = d+e*e, n+want[i]*want[i]
		most, largest = max(most, e), max(largest, math.Abs(want[i]))
	}
	return math.Sqrt(d / n), most / largest
}

// Compared with the plain sum in float64, output and gradients are as accurate as libtorch's
// convolution in float32 except for a few roundings; under autocast the error is at most four times
// libtorch's.
func TestWinogradIsTheConvolution(t *testing.T) {
	for i, c := range winogradCases {
		for _, mixed := range []bool{false, true} {
			t.Run(fmt.Sprint(i, " ", mixed), func(t *testing.T) {
				torchtest.NoLeak(t)
				want, plain, got := c.results(t, torch.Float64, mixed, false),
					c.results(t, torch.Float32, mixed, false),
					c.results(t, torch.Float32, mixed, true)
				for name := range want {
					pm, pl := far(want[name], plain[name])
					gm, gl := far(want[name], got[name])
					t.Logf("%s: %.2g, at the most %.2g; libtorch's %.2g, %.2g", name, gm, gl, pm,
						pl)
					if !mixed {
						require.Less(t, gm, 1e-6, name)
						require.Less(t, gl, 2e-6, name)
					} else {
						require.Less(t, gm, 4*pm+1e-6, name)
						require.Less(t, gl, 4*pl+1e-6, name)
					}
				}
			})
		}
	}
}

// Under autocast, inputs with fewer slices than the kernel have the gradients of the plain sum,
// whatever is in freed memory, which libtorch 2.4.1's own weight gradient reads.
func TestShallowConvolutionsUnderAutocast(t *testing.T) {
	for _, c := range []convCase{
		{x: []int64{2, 32, 2, 4, 4}, w: []int64{32, 32, 3, 3, 3}},
		{x: []int64{2, 32, 2, 6, 6}, w: []int64{48, 32, 3, 3, 3}},
		{x: []int64{2, 16, 1, 8, 8}, w: []int64{32, 16, 3, 3, 3}},
	} {
		t.Run(fmt.Sprint(c.x, c.w), func(t *testing.T) {
			torchtest.NoLeak(t)
			want := c.results(t, torch.Float64, true, false)
			for range 10 {
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					for size := int64(1 << 8); size <= 1<<20; size *= 2 {
						s.Full([]int64{size}, math.Inf(1), torch.Float32, torch.CPU)
					}
					return s.Err()
				}))
				got := c.results(t, torch.Float32, true, true)
				for name := range want {
					mean, most := far(want[name], got[name])
					require.Less(t, mean, 0.005, name)
					require.Less(t, most, 0.005, name)
				}
			}
		})
	}
}
