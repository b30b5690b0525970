package bench

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of docs/distributed.md: PlainConvUNet, ResEncL and SwinUNETR on an A100, steps that spread by 2 %.
func TestScalingIsTheTableOfTheDocs(t *testing.T) {
	networks := []struct {
		step      float64
		gradients int64
	}{{0.121, 125e6}, {0.472, 409e6}, {0.202, 249e6}}
	for _, row := range []struct {
		ranks     int
		bandwidth float64 // GB/s
		exchange  [3]float64
		percent   [3]float64
	}{
		{8, 230, [3]float64{1, 3, 2}, [3]float64{96, 96, 96}},
		{8, 18, [3]float64{12, 40, 24}, [3]float64{94, 96, 95}},
		{64, 22, [3]float64{11, 37, 23}, [3]float64{93, 94, 94}},
		{64, 10, [3]float64{25, 81, 49}, [3]float64{91, 94, 92}},
		{512, 120, [3]float64{2, 7, 4}, [3]float64{93, 93, 93}},
		{16, 1.1, [3]float64{213, 698, 424}, [3]float64{39, 50, 36}},
	} {
		for i, n := range networks {
			exchange, efficiency := scaling(row.ranks, row.bandwidth*1e9, []float64{0.98 * n.step, 1.02 * n.step}, n.gradients)
			require.InDelta(t, row.exchange[i], 1e3*exchange, 1, "%d ranks at %v GB/s, network %d", row.ranks, row.bandwidth, i)
			require.InDelta(t, row.percent[i], 100*efficiency, 1, "%d ranks at %v GB/s, network %d", row.ranks, row.bandwidth, i)
		}
	}
	_, alone := scaling(2, 1e3, []float64{1, 1, 1}, 4)
	require.InDelta(t, 1, alone, 0.01)
	require.False(t, math.IsNaN(alone))
}
