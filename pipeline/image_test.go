package pipeline

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

func TestIntensitiesAreNumpys(t *testing.T) {
	// numpy.percentile of [3, 1, 2, 10] at 0.5, 5, 50, 95, 99.5; population standard deviation
	for _, pixels := range []volume.Pixels{volume.Slice[int16]{3, 1, 2, 10}, volume.Slice[uint8]{3, 1, 2, 10}, volume.Slice[uint16]{3, 1, 2, 10}, volume.Slice[float32]{3, 1, 2, 10}, volume.Slice[float64]{3, float64Inf, 1, 2, 10, float64NaN}} {
		r := intensities(pixels)
		require.Equal(t, [4]float64{1, 10, 4, 3.5355339059327378}, [4]float64{*r.Min, *r.Max, *r.Mean, *r.Std})
		for q, want := range map[string]float64{"0.5": 1.015, "5": 1.15, "50": 2.5, "95": 8.95, "99.5": 9.895} {
			require.InDelta(t, want, r.Percentiles[q], 1e-12, q)
		}
	}
	r := intensities(volume.Slice[float64]{float64NaN, 1, float64Inf, float64NaN})
	require.Equal(t, [2]int{2, 1}, [2]int{r.NaN, r.Inf})
	require.Nil(t, r.Labels)
	r = intensities(volume.Slice[float32]{float32(math.NaN())})
	require.Nil(t, r.Min)
	require.Equal(t, map[string]int{"0": 2, "7": 1}, intensities(volume.Slice[uint8]{0, 7, 0}).Labels)
	require.Nil(t, intensities(volume.Slice[float32]{0.5}).Labels)
}

var float64NaN, float64Inf = math.NaN(), math.Inf(1)
