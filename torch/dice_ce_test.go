package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

const smooth = 1e-5

// diceCE is the reference for DiceCE: separate operators in float64.
func diceCE(s *torch.Scope, x, target *torch.Tensor, batch bool) *torch.Tensor {
	x = s.To(x, torch.Float64, torch.CPU)
	shape := x.Shape()
	labels := s.To(target, torch.Int64, torch.CPU)
	y := s.To(s.Scatter(s.Zeros(shape, torch.Bool, torch.CPU), 1, labels, 1), torch.Float64,
		torch.CPU)
	foreground := func(t *torch.Tensor) *torch.Tensor { return s.SliceDim(t, 1, 1, shape[1], 1) }
	p, y := foreground(s.Softmax(x, 1)), foreground(y)
	over := []int64{2, 3, 4}[:len(shape)-2]
	if batch {
		over = append([]int64{0}, over...)
	}
	sum := func(t *torch.Tensor) *torch.Tensor { return s.SumDims(t, false, over...) }
	numerator := s.AddScalar(s.MulScalar(sum(s.Mul(p, y)), 2), smooth)
	dice := s.Mean(s.Div(numerator, s.AddScalar(s.Add(sum(p), sum(y)), smooth)))
	return s.Sub(s.CrossEntropy(x, s.Select(labels, 1, 0), torch.IgnoreNothing, torch.ReduceMean),
		dice)
}

// fromSums is DiceCE of a batch, from its sums.
func fromSums(t *testing.T, s *torch.Scope, x, target *torch.Tensor) *torch.Tensor {
	t.Helper()
	sums, known := s.DiceCESums(x, target)
	require.True(t, known)
	c := x.Shape()[1]
	require.Equal(t, []int64{3*c + 1}, sums.Shape())
	require.Equal(t, torch.Float64, sums.DType())
	part := func(i int64) *torch.Tensor { return s.Narrow(sums, 0, i*c+1, c-1) }
	numerator := s.AddScalar(s.MulScalar(part(0), 2), smooth)
	dice := s.Mean(s.Div(numerator, s.AddScalar(s.Add(part(1), part(2)), smooth)))
	return s.Sub(s.DivScalar(s.Select(sums, 0, 3*c), float64(target.Numel())), dice)
}

func TestDiceCEIsItsParts(t *testing.T) {
	torchtest.NoLeak(t)
	for _, c := range []struct {
		shape []int64
		dtype torch.DType
		limit float64
	}{
		{[]int64{2, 2, 3, 9, 31}, torch.Float64, 1e-12},
		{[]int64{2, 5, 33, 29}, torch.Float64, 1e-12},
		{[]int64{2, 2, 6, 9, 31}, torch.Float32, 1e-6},
		{[]int64{1, 3, 2, 3, 3}, torch.Float32, 1e-6},
		{[]int64{3, 19, 33, 29}, torch.Float32, 1e-6},
		{[]int64{2, 4, 3, 9, 31}, torch.BFloat16, 4e-3},
	} {
		for _, batch := range []bool{false, true} {
			for _, last := range []bool{false, true} {
				run := func(f func(s *torch.Scope, x, target *torch.Tensor) *torch.Tensor) (value,
					gradient []float64) {
					require.NoError(t, torch.With(func(s *torch.Scope) error {
						x := s.To(s.MulScalar(torchtest.Tensor(s, 3, c.shape...), 8), c.dtype,
							torch.CPU)
						if format := torch.ChannelsLast3d; last {
							if len(c.shape) == 4 {
								format = torch.ChannelsLast
							}
							x = s.Contiguous(x, format)
						}
						require.NoError(t, x.SetRequiresGrad(true))
						shape := append([]int64{}, c.shape...)
						shape[1] = 1
						labels := make([]int16, c.shape[0])
						for _, n := range c.shape[2:] {
							labels = make([]int16, int64(len(labels))*n)
						}
						r := torchtest.Rand(9)
						for i := range labels {
							labels[i] = int16(r.IntN(int(c.shape[1])))
						}
						l := f(s, x, torch.FromSlice(s, labels, shape...))
						require.NoError(t, s.Err())
						require.NoError(t, s.MulScalar(l, 3).Backward())
						value, gradient = values64(t, s, l), values64(t, s, s.Grad(x))
						return s.Err()
					}))
					return value, gradient
				}
				want, wantGradient := run(func(s *torch.Scope, x,
					target *torch.Tensor) *torch.Tensor {
					return diceCE(s, x, target, batch)
				})
				got, gotGradient := run(func(s *torch.Scope, x,
					target *torch.Tensor) *torch.Tensor {
					l, known := s.DiceCE(x, target, batch, smooth)
					require.True(t, known)
					return l
				})
				require.InDelta(t, want[0], got[0], 1e-6*math.Abs(want[0]), "%+v", c)
				most := 0.0
				for _, v := range wantGradient {
					most = math.Max(most, math.Abs(v))
				}
				require.InDeltaSlice(t, wantGradient, gotGradient, c.limit*most, "%+v", c)
				if !batch {
					continue
				}
				got, gotGradient = run(func(s *torch.Scope, x,
					target *torch.Tensor) *torch.Tensor {
					return fromSums(t, s, x, target)
				})
				require.InDelta(t, want[0], got[0], 1e-6*math.Abs(want[0]), "%+v", c)
				require.InDeltaSlice(t, wantGradient, gotGradient, c.limit*most, "%+v", c)
			}
		}
	}
}

// NaN in the logits makes the loss NaN, whatever the class and label.
func TestDiceCEKeepsNaN(t *testing.T) {
	torchtest.NoLeak(t)
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		for class := range 3 {
			for label := range 3 {
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					x := torchtest.Fill(1, 3*4*4)
					x[class*16+5] = bad
					labels := make([]int16, 16)
					labels[5] = int16(label)
					l, known := s.DiceCE(torch.FromSlice(s, x, 1, 3, 4, 4),
						torch.FromSlice(s, labels, 1, 1, 4, 4), false, smooth)
					require.True(t, known)
					v, err := l.Item()
					require.NoError(t, err)
					require.True(t, math.IsNaN(v), "%v in class %d, label %d: %v", bad, class,
						label, v)
					return nil
				}))
			}
		}
	}
}

func TestDiceCEKnowsItsLabels(t *testing.T) {
	torchtest.NoLeak(t)
	for label, want := range map[int16]bool{-1: false, 0: true, 2: true, 3: false, 255: false,
		-32768: false} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			labels := make([]int16, 16)
			labels[7] = label
			l, known := s.DiceCE(torchtest.Tensor(s, 1, 1, 3, 4, 4),
				torch.FromSlice(s, labels, 1, 1, 4, 4), false, smooth)
			require.Equal(t, want, known, "label %d", label)
			require.Equal(t, want, l != nil)
			l, known = s.DiceCESums(torchtest.Tensor(s, 1, 1, 3, 4, 4),
				torch.FromSlice(s, labels, 1, 1, 4, 4))
			require.Equal(t, want, known, "label %d", label)
			require.Equal(t, want, l != nil)
			return s.Err()
		}))
	}
}
