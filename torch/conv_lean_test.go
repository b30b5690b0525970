package torch_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// convCase is a convolution; lean selects ConvLean.
type convCase struct {
	x, w, stride []int64
	groups       int64
}

func (c convCase) run(s *torch.Scope, x, w, b *torch.Tensor, lean bool) *torch.Tensor {
	pad, one := make([]int64, len(c.stride)), make([]int64, len(c.stride))
	for i := range one {
		one[i] = 1
		pad[i] = (c.w[i+2] - 1) / 2
	}
	if lean {
		return s.ConvLean(x, w, b, c.stride, pad, one, c.groups)
	}
	return s.Conv(x, w, b, c.stride, pad, one, c.groups)
}

var convCases = []convCase{
	{x: []int64{2, 3, 6, 8, 5}, w: []int64{4, 3, 1, 3, 3}, stride: []int64{1, 2, 2}, groups: 1},
	{x: []int64{1, 4, 8, 8, 8}, w: []int64{6, 2, 3, 3, 3}, stride: []int64{1, 1, 1}, groups: 2},
	{x: []int64{2, 4, 9, 7}, w: []int64{5, 4, 3, 3}, stride: []int64{1, 1}, groups: 1},
	{x: []int64{2, 16, 4, 8, 6}, w: []int64{16, 16, 3, 3, 3}, stride: []int64{1, 1, 1}, groups: 1},
}

// Output and input gradient are bit-equal to libtorch's convolution, in float32 and under autocast;
// the bias gradient is summed in another order, and the weight has none.
func TestLeanConvolutionIsTheConvolution(t *testing.T) {
	for i, c := range convCases {
		for _, mixed := range []bool{false, true} {
			for _, trains := range []string{"x", "b", "xb", "x without b"} {
				t.Run(fmt.Sprintf("%d %v %s", i, mixed, trains), func(t *testing.T) {
					torchtest.NoLeak(t)
					var y, gx, gb [2][]float32
					for way := range 2 {
						require.NoError(t, torch.With(func(s *torch.Scope) error {
							x, w, b := torchtest.Tensor(s, 1, c.x...),
								torchtest.Tensor(s, 2, c.w...), torchtest.Tensor(s, 3, c.w[0])
							require.NoError(t, x.SetRequiresGrad(trains != "b"))
							require.NoError(t, b.SetRequiresGrad(trains == "b" || trains == "xb"))
							if trains == "x without b" {
								b = nil
							}
							var out *torch.Tensor
							f := func() error {
								out = s.To(c.run(s, x, w, b, way == 1),
									torch.Float32, torch.CPU)
								return s.Err()
							}
							if mixed {
								require.NoError(t, torch.Autocast(torch.DeviceCPU, torch.BFloat16,
									f))
							} else {
								require.NoError(t, f())
							}
							y[way] = torchtest.Float32s(t, s.Detach(out))
							require.NoError(t,
								out.BackwardFrom(torchtest.Tensor(s, 4, out.Shape()...), false))
							require.False(t, w.HasGrad())
							require.Equal(t, trains != "b", x.HasGrad())
							require.Equal(t, trains == "b" || trains == "xb", b.HasGrad())
							if x.HasGrad() {
								gx[way] = torchtest.Float32s(t, s.Grad(x))
							}
							if b.HasGrad() {
								gb[way] = torchtest.Float32s(t, s.Grad(b))
							}
							return nil
						}))
					}
					golden.Equal(t, "output", nil, y[0], y[1])
					golden.Equal(t, "gradient of the input", nil, gx[0], gx[1])
					if mixed {
						for i := range gb[0] { // both round to bfloat16, but at different points
							require.InDelta(t, gb[0][i], gb[1][i], 0.02*max(1, abs32(gb[0][i])))
						}
					} else {
						golden.Close(t, "gradient of the bias", "op", nil, gb[0], gb[1])
					}
				})
			}
		}
	}
}

func abs32(x float32) float64 { return max(float64(x), -float64(x)) }

// With a trainable weight, or without recording, libtorch's convolution runs.
func TestLeanConvolutionOfATrainingWeight(t *testing.T) {
	torchtest.NoLeak(t)
	c := convCases[3]
	var g [2][]float32
	for way := range 2 {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			x, w, b := torchtest.Tensor(s, 1, c.x...), torchtest.Tensor(s, 2, c.w...),
				torchtest.Tensor(s, 3, c.w[0])
			require.False(t, c.run(s, x, w, b, way == 1).RequiresGrad())
			require.NoError(t, w.SetRequiresGrad(true))
			require.NoError(t, b.SetRequiresGrad(true))
			out := c.run(s, x, w, b, way == 1)
			require.NoError(t, out.BackwardFrom(torchtest.Tensor(s, 4, out.Shape()...), false))
			g[way] = append(torchtest.Float32s(t, s.Grad(w)), torchtest.Float32s(t, s.Grad(b))...)
			require.NoError(t, torch.NoGrad(func() error {
				require.False(t, c.run(s, x, w, b, way == 1).RequiresGrad())
				return nil
			}))
			return s.Err()
		}))
	}
	golden.Equal(t, "gradients", nil, g[0], g[1])
}

// The weight is the largest tensor: computing its gradient, even if unused, would show in the
// process's peak memory. oneDNN allocates that memory outside libtorch's allocator.
func TestLeanConvolutionWorksOutNoGradientOfTheWeight(t *testing.T) {
	torchtest.NoLeak(t)
	const channels, weight = 512, 512 * 512 * 27 * 4
	growth := func(lean bool) (bytes int64) {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			x, w, b := torchtest.Tensor(s, 1, 2, channels, 4, 4, 4),
				s.Full([]int64{channels, channels, 3, 3, 3}, 1, torch.Float32, torch.CPU),
				s.Zeros([]int64{channels}, torch.Float32, torch.CPU)
			require.NoError(t, b.SetRequiresGrad(true)) // only the bias: nothing else needs memory
			out := s.Sum(convCase{w: w.Shape(), stride: []int64{1, 1, 1}, groups: 1}.run(s, x, w, b,
				lean))
			require.NoError(t, s.Err())
			if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
				t.Skipf("needs a system that can reset the peak memory: %v", err)
			}
			before := memory(t, "VmRSS:")
			require.NoError(t, out.Backward())
			require.True(t, b.HasGrad())
			require.False(t, w.HasGrad())
			bytes = memory(t, "VmHWM:") - before
			return s.Err()
		}))
		return bytes
	}
	// oneDNN handles this from two threads and batch size two.
	require.NoError(t, torch.OnThread(2, func() error {
		lean, plain := growth(true), growth(false)
		require.GreaterOrEqual(t, plain, int64(weight/2),
			"libtorch works the gradient out: if it no longer does, ConvLean has no purpose")
		require.Less(t, lean, int64(weight/2))
		return nil
	}))
}

// memory reads a line of /proc/self/status, in bytes.
func memory(t *testing.T, name string) (bytes int64) {
	b, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, line, _ := strings.Cut(string(b), name)
	_, err = fmt.Sscan(line, &bytes)
	require.NoError(t, err)
	return bytes << 10
}

// An input that its owner frees is not kept for the backward pass.
func TestLeanConvolutionKeepsNoInput(t *testing.T) {
	torchtest.NoLeak(t)
	kept := func(lean bool) (bytes int64) {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			x, w := s.Zeros([]int64{1, 1, 64, 128, 128}, torch.Float32, torch.CPU),
				s.Zeros([]int64{1, 1, 1, 1, 1}, torch.Float32, torch.CPU)
			require.NoError(t, x.SetRequiresGrad(true))
			before, _, _, err := torch.CPUMemory()
			require.NoError(t, err)
			input := s.MulScalar(x, 2)
			out := convCase{w: w.Shape(), stride: []int64{1, 1, 1}, groups: 1}.run(s, input, w, nil,
				lean)
			input.Free()
			require.NoError(t, s.Err())
			after, _, _, err := torch.CPUMemory()
			require.NoError(t, err)
			bytes = after - before - out.Numel()*4
			return nil
		}))
		return bytes
	}
	require.GreaterOrEqual(t, kept(false), int64(4<<20), "libtorch keeps the input")
	require.Less(t, kept(true), int64(1<<20))
}
