package surface

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/mask"
	tests "github.com/lntorch/lntorch/internal/golden"
)

type golden struct {
	Areas []struct {
		Spacing [3]float64
		Area    [256]float64
	}
	Cases []goldenCase
}

type goldenCase struct {
	Spacing               [3]float64
	Shape                 [3]int
	Reference, Prediction []int // runs, background first
	Elements              [2]int
	Area                  [2]float64
	Mean                  [2]*float64
	HD95, HD              *float64
	NSD                   [3]*float64
}

func read(t testing.TB) golden {
	t.Helper()
	data, err := os.ReadFile("../../testdata/golden/surface.json")
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(data, &g))
	require.NotEmpty(t, g.Cases)
	return g
}

func TestAreasAreDeepMinds(t *testing.T) {
	for _, want := range read(t).Areas {
		got := areas(want.Spacing)
		for code := range got {
			require.InEpsilon(t, want.Area[code]+1, got[code]+1, 1e-12, "%08b at %v", code,
				want.Spacing)
		}
	}
}

func voxels(runs []int, n int) []uint8 {
	v := make([]uint8, 0, n)
	for i, length := range runs {
		for range length {
			v = append(v, uint8(i%2))
		}
	}
	return v
}

func (c goldenCase) surfaces(t testing.TB) (reference, prediction *Surface) {
	n := c.Shape[0] * c.Shape[1] * c.Shape[2]
	pairs, err := mask.NewPairs(voxels(c.Reference, n), voxels(c.Prediction, n), c.Shape, nil)
	require.NoError(t, err)
	r, p := pairs.Of([]int{1})
	return Of(r, c.Spacing), Of(p, c.Spacing)
}

func TestDistancesAreDeepMinds(t *testing.T) {
	for i, c := range read(t).Cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) { c.check(t) })
	}
}

func TestLiveImagesLieApartAsByDeepMind(t *testing.T) {
	var other golden
	text := tests.RunImages(t, "surface.py", "--seed", tests.Seed(t), "--cases", "20")
	require.NoError(t, json.Unmarshal(text, &other))
	for i, c := range other.Cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) { c.check(t) })
	}
}

func (c goldenCase) check(t *testing.T) {
	near := func(want *float64, got float64, what string) {
		t.Helper()
		if want == nil {
			require.True(t, math.IsNaN(got) || math.IsInf(got, 1), "%s: %v", what, got)
			return
		}
		require.InDelta(t, *want, got, 1e-9*math.Max(1, *want), what)
	}
	r, p := c.surfaces(t)
	require.Equal(t, c.Elements, [2]int{r.Elements(), p.Elements()})
	near(&c.Area[0], r.Area(), "area of the reference")
	near(&c.Area[1], p.Area(), "area of the prediction")
	there, back := Between(r, p)
	if r.Elements() > 0 && p.Elements() > 0 {
		near(c.Mean[0], there.Weighted()/there.Total(), "mean of the reference")
		near(c.Mean[1], back.Weighted()/back.Total(), "mean of the prediction")
		near(c.HD95, max(there.Percentile(0.95), back.Percentile(0.95)), "HD95")
		near(c.HD, max(there.Percentile(1), back.Percentile(1)), "HD")
	}
	for i := range c.NSD {
		mm := float64(i + 1)
		near(c.NSD[i], (there.Within(mm)+back.Within(mm))/(there.Total()+back.Total()), "NSD")
	}
}
