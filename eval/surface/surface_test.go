package surface

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
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
	pairs, err := mask.NewPairs(voxels(c.Reference, n), voxels(c.Prediction, n), c.Shape, nil, []int{1})
	require.NoError(t, err)
	r, p := pairs.Of([]int{1})
	return Of(r, c.Spacing, math.MaxInt), Of(p, c.Spacing, math.MaxInt)
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

// MONAI's compute_surface_dice with subvoxels is NSD, where both masks hold something or one does.
// How its other scores differ, which are of voxels at the edge without areas, goes to the log.
func TestLiveMonaiSurfaceDiceIsNSD(t *testing.T) {
	text := tests.Run(t, "monai_surface.py", "--seed", tests.Seed(t), "--cases", "20")
	var got struct {
		Cases []struct {
			goldenCase
			PlainNSD [3]*float64 `json:"plain_nsd"`
			ASSD     *float64
		}
	}
	require.NoError(t, json.Unmarshal(text, &got))
	require.Len(t, got.Cases, 42)
	compared := 0
	var nsd, hd95, assd []float64 // MONAI's less ours
	for i, c := range got.Cases {
		r, p := c.surfaces(t)
		there, back := Between(r, p)
		for k, want := range c.NSD {
			mm := float64(k + 1)
			share := (there.Within(mm) + back.Within(mm)) / (there.Total() + back.Total())
			if want == nil {
				require.True(t, math.IsNaN(share), i)
				continue
			}
			require.InDelta(t, *want, share, 1e-6, "case %d at %v mm", i, mm) // float32
			compared++
			if c.PlainNSD[k] != nil {
				nsd = append(nsd, *c.PlainNSD[k]-share)
			}
		}
		if c.HD95 != nil {
			hd95 = append(hd95, *c.HD95-max(there.Percentile(0.95), back.Percentile(0.95)))
			assd = append(assd, *c.ASSD-(there.Weighted()+back.Weighted())/(there.Total()+back.Total()))
		}
	}
	require.Greater(t, compared, 100)
	for _, d := range []struct {
		what   string
		values []float64
	}{{"NSD without subvoxels", nsd}, {"HD95", hd95}, {"ASSD", assd}} {
		slices.SortFunc(d.values, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
		n := len(d.values)
		t.Logf("MONAI's %s less surface-distance's, of %d: median size %.4f, most %+.4f", d.what, n,
			math.Abs(d.values[n/2]), d.values[n-1])
	}
}
