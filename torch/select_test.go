package torch_test

import (
	"math"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// topKRows sorts every row: largest |g| first, ties to the lowest index.
func topKRows(g []float32, rows, width, k int) []int64 {
	var out []int64
	for r := range rows {
		order := make([]int, width)
		for i := range order {
			order[i] = i
		}
		row := g[r*width : (r+1)*width]
		sort.SliceStable(order, func(a, b int) bool {
			return math.Abs(float64(row[order[a]])) > math.Abs(float64(row[order[b]]))
		})
		for _, i := range order[:min(k, width)] {
			out = append(out, int64(r*width+i))
		}
	}
	return out
}

func TestTopKRowsEqualsSorting(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) { equalsSorting(t, torchtest.Device(t, name)) })
	}
}

func equalsSorting(t *testing.T, device torch.Device) {
	torchtest.NoLeak(t)
	check := func(values []float32, rows, width int, ks ...int) {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			g := s.To(torch.FromSlice(s, values, int64(rows), int64(width)), torch.Float32, device)
			for _, k := range ks {
				x := s.TopKRows(g, int64(k))
				require.NoError(t, s.Err())
				require.Equal(t, []int64{int64(rows), int64(min(k, width))}, x.Shape())
				got, err := torch.Slice[int64](x)
				require.NoError(t, err)
				require.Equal(t, topKRows(values, rows, width, k), got, "rows %d, width %d, k %d",
					rows, width, k)
			}
			require.Equal(t, values, torchtest.Float32s(t, g), "the gradient was modified")
			return nil
		}))
	}
	r := torchtest.Rand(5)
	for _, width := range []int{1, 2, 31, 32, 33, 62, 63, 64, 65, 66, 127, 128, 129, 191, 192, 193,
		300} {
		values := torchtest.Fill(uint64(width), int64(5*width))
		check(values, 5, width, 1, 2, 3, 7, 31, 32, 33, 64, 65, 400)
		ties := make([]float32, 4*width) // few distinct values, of both signs
		for i := range ties {
			ties[i] = float32(r.IntN(5) - 2)
		}
		check(ties, 4, width, 1, 2, 5, 32, 40)
		check(make([]float32, 3*width), 3, width, 1, 3, 33) // all zero
	}
	rising, falling := make([]float32, 600), make([]float32, 600)
	for i := range rising {
		rising[i], falling[i] = float32(i), float32(-600+i)
	}
	check(rising, 2, 300, 1, 5, 32)
	check(falling, 2, 300, 1, 5, 32)
	// Enough for several threads, with extreme float32 values.
	check(torchtest.Fill(9, 200*2000), 200, 2000, 1, 10)
	check([]float32{math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 0,
		float32(math.Copysign(0, -1)), 1}, 1, 6, 1, 3, 6)
}

func TestTopKRowsSeesTheLogicalOrder(t *testing.T) {
	torchtest.NoLeak(t)
	for _, shape := range [][]int64{{3, 5}, {3, 2, 4}, {4, 3, 3, 3}, {4, 2, 3, 3, 3},
		{2, 7, 1, 5, 5}} {
		for _, k := range []int64{1, 4, 40} {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				g := torchtest.Tensor(s, 3, shape...)
				views := []*torch.Tensor{g,
					s.Transpose(s.Contiguous(s.Transpose(g, 0, 1), torch.Contiguous), 0, 1),
					s.To(g, torch.Float64, torch.CPU)}
				switch len(shape) {
				case 4:
					views = append(views, s.Contiguous(g, torch.ChannelsLast))
				case 5:
					views = append(views, s.Contiguous(g, torch.ChannelsLast3d))
				}
				rows := int(shape[0])
				want := topKRows(torchtest.Fill(3, g.Numel()), rows, int(g.Numel())/rows, int(k))
				for i, v := range views {
					got, err := torch.Slice[int64](s.TopKRows(v, k))
					require.NoError(t, err)
					require.Equal(t, want, got, "shape %v k %d view %d", shape, k, i)
				}
				return nil
			}))
		}
	}
}

func TestTopKRowsRefuses(t *testing.T) {
	torchtest.NoLeak(t)
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, at := range []int{0, 63, 64, 130, 299} { // in any block, below the largest values too
			for _, k := range []int64{1, 40} {
				v := torchtest.Fill(1, 300)
				v[at] = float32(bad)
				require.EqualError(t, fails(t, func(s *torch.Scope) error {
					s.TopKRows(torch.FromSlice(s, v, 2, 150), k)
					return nil
				}), "torch: topk_rows([2 150]): topk_rows: gradient is not finite")
			}
		}
	}
	require.ErrorContains(t, fails(t,
		func(s *torch.Scope) error { s.TopKRows(torchtest.Tensor(s, 1, 4), 1); return nil }),
		"topk_rows: gradient has 1 dims, at least 2 are needed")
	require.ErrorContains(t, fails(t,
		func(s *torch.Scope) error { s.TopKRows(torchtest.Tensor(s, 1, 4, 4), 0); return nil }),
		"topk_rows: k is 0, at least 1 is needed")
}
