package scores

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// goldenCase is a case of scripts/golden/scores.py.
type goldenCase struct {
	Name                  string // of those that are easily got wrong
	Shape                 [3]int
	Spacing, Origin       [3]float64
	Direction             [9]float64
	Reference, Prediction [][2]int
	Ignore                *int
	Targets               [][]int
	Labels                []any
}

func (c *goldenCase) volume(runs [][2]int, small bool) *labelmap.Map {
	m := &labelmap.Map{Shape: c.Shape, Geometry: volume.Geometry{Spacing: c.Spacing,
		OriginXYZ: c.Origin, DirectionXYZ: c.Direction}}
	for _, r := range runs {
		for range r[1] {
			if small {
				m.Small = append(m.Small, uint8(r[0]))
			} else {
				m.Wide = append(m.Wide, int32(r[0]))
			}
		}
	}
	return m
}

func (c *goldenCase) targets() (all []eval.Target) {
	for _, t := range c.Targets {
		if len(t) == 1 {
			all = append(all, eval.Label(t[0]))
		} else {
			all = append(all, eval.Region(t...))
		}
	}
	return all
}

// plain is a value as JSON has it.
func plain(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	var out any
	require.NoError(t, json.Unmarshal(data, &out))
	return out
}

// near requires two JSON values to be equal, numbers to 1e-9 of their size.
func near(t *testing.T, want, got any, where string) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		require.True(t, ok, where)
		require.Len(t, g, len(w), where)
		for k, v := range w {
			near(t, v, g[k], where+"."+k)
		}
	case []any:
		g, ok := got.([]any)
		require.True(t, ok, where)
		require.Len(t, g, len(w), where)
		for i, v := range w {
			near(t, v, g[i], fmt.Sprintf("%s[%d]", where, i))
		}
	case float64:
		g, ok := got.(float64)
		require.True(t, ok, "%s: %v", where, got)
		require.InDelta(t, w, g, 1e-9*math.Max(1, math.Abs(w)), where)
	default:
		require.Equal(t, want, got, where)
	}
}

func TestScoresAreThoseOfTheirDefinitions(t *testing.T) {
	data, err := os.ReadFile("../../testdata/golden/scores.json")
	require.NoError(t, err)
	named := map[string]bool{}
	for _, c := range checkCases(t, data) {
		named[c.Name] = true
	}
	for _, name := range []string{"both empty", "reference empty", "prediction empty", "single voxel",
		"at every border", "touching by a corner", "a gap of one voxel", "one blob over two nodes",
		"sagittal", "oblique", "one slice", "two labels that touch", "ten labels"} {
		require.True(t, named[name], name)
	}
}

func TestLiveImagesAreScoredAsByDefinition(t *testing.T) {
	checkCases(t, golden.RunImages(t, "scores.py", "--seed", golden.Seed(t), "--cases", "60"))
}

func checkCases(t *testing.T, data []byte) []goldenCase {
	t.Helper()
	var cases []goldenCase
	require.NoError(t, json.Unmarshal(data, &cases))
	require.NotEmpty(t, cases)
	for i, c := range cases {
		// Stored as one byte or more, on either side.
		r, p := c.volume(c.Reference, i%2 == 0), c.volume(c.Prediction, i%4 < 2)
		got, err := Default().Score(r, p, c.targets(), c.Ignore)
		require.NoError(t, err)
		for k, target := range c.targets() {
			near(t, c.Labels[k], plain(t, got[target.Key()]), fmt.Sprintf("case %d %s, %s", i, c.Name, target.Key()))
		}
	}
	return cases
}

func goldenCases(t *testing.T) []goldenCase {
	t.Helper()
	data, err := os.ReadFile("../../testdata/golden/scores.json")
	require.NoError(t, err)
	var cases []goldenCase
	require.NoError(t, json.Unmarshal(data, &cases))
	return cases
}

// Swapping the sides swaps recall and precision, what is missed and what is invented, and the two
// directions of distances; nothing else changes.
func TestSwappingTheSidesSwapsRecallAndPrecision(t *testing.T) {
	other := map[string]string{"ASD_ref_to_pred": "ASD_pred_to_ref", "ASD_pred_to_ref": "ASD_ref_to_pred",
		"volume_ref_mm3": "volume_pred_mm3", "volume_pred_mm3": "volume_ref_mm3"}
	compared := 0
	for i, c := range goldenCases(t) {
		if c.Ignore != nil {
			continue // it belongs to the reference
		}
		r, p := c.volume(c.Reference, true), c.volume(c.Prediction, true)
		one, err := Default().Score(r, p, c.targets(), nil)
		require.NoError(t, err)
		two, err := Default().Score(p, r, c.targets(), nil)
		require.NoError(t, err)
		for key, a := range one {
			b, where := two[key], fmt.Sprintf("case %d %s, label %s", i, c.Name, key)
			for _, m := range a.Metrics {
				name := m.Name
				if other[name] != "" {
					name = other[name]
				}
				near(t, plain(t, m.Value), plain(t, b.Metrics.Get(name)), where+" "+m.Name)
			}
			for rule, d := range a.Detection {
				e := b.Detection[rule]
				near(t, plain(t, []Number{d.Recall, d.Precision, d.F1}),
					plain(t, []Number{e.Precision, e.Recall, e.F1}), where+" "+rule)
				require.Equal(t, [2]int{d.FN, d.FP}, [2]int{e.FP, e.FN}, where)
				require.Equal(t, d.MissedMM3, e.InventedMM3, where)
				for class, d := range d.BySize {
					near(t, plain(t, []Number{d.Recall, d.Precision}), plain(t, []Number{
						e.BySize[class].Precision, e.BySize[class].Recall}), where+" "+rule+" "+class)
				}
			}
			require.Equal(t, a.Nodes.Reference, b.Nodes.Prediction, where)
			require.Equal(t, a.Nodes.Prediction, b.Nodes.Reference, where)
			compared++
		}
	}
	require.Greater(t, compared, 40)
}

// A turn about the patient's axis and another origin move centroids, by that, and nothing else.
func TestARigidChangeMovesCentroidsAlone(t *testing.T) {
	angle := 0.7
	turn := [3][3]float64{{math.Cos(angle), -math.Sin(angle), 0}, {math.Sin(angle), math.Cos(angle), 0}, {0, 0, 1}}
	shift := [3]float64{31, -7, 400}
	moved := func(p [3]float64) (q [3]float64) {
		for i := range q {
			q[i] = shift[i]
			for k := range p {
				q[i] += turn[i][k] * p[k]
			}
		}
		return q
	}
	compared := 0
	for i, c := range goldenCases(t) {
		before, err := Default().Score(c.volume(c.Reference, true), c.volume(c.Prediction, true), c.targets(), c.Ignore)
		require.NoError(t, err)
		old := c.Direction
		for row := range 3 {
			for column := range 3 {
				c.Direction[3*row+column] = 0
				for k := range 3 {
					c.Direction[3*row+column] += turn[row][k] * old[3*k+column]
				}
			}
		}
		c.Origin = moved(c.Origin)
		after, err := Default().Score(c.volume(c.Reference, true), c.volume(c.Prediction, true), c.targets(), c.Ignore)
		require.NoError(t, err)
		for key, a := range before {
			b, where := after[key], fmt.Sprintf("case %d %s, label %s", i, c.Name, key)
			for _, side := range [][2][]Node{{a.Nodes.Reference, b.Nodes.Reference},
				{a.Nodes.Prediction, b.Nodes.Prediction}} {
				require.Len(t, side[1], len(side[0]), where)
				for k := range side[0] {
					want := moved(side[0][k].Centroid)
					require.InDeltaSlice(t, want[:], side[1][k].Centroid[:], 1e-9, where)
					require.NotEqual(t, side[0][k].Centroid, side[1][k].Centroid)
					side[1][k].Centroid = side[0][k].Centroid
					compared++
				}
			}
			require.Equal(t, plain(t, a), plain(t, b), where)
		}
	}
	require.Greater(t, compared, 50)
}

// speckled is a map of single voxels, of two labels in its two halves, 500 of each.
func speckled() *labelmap.Map {
	m := &labelmap.Map{Shape: [3]int{20, 20, 20}, Small: make([]uint8, 8000), Geometry: volume.Geometry{
		Spacing: [3]float64{3, 1, 1}, DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}}
	for z := 0; z < 20; z += 2 {
		for y := 0; y < 20; y += 2 {
			for x := 0; x < 20; x += 2 {
				m.Small[(z*20+y)*20+x] = uint8(1 + z/10)
			}
		}
	}
	return m
}

// What noise would take is known before it is taken: nodes of all labels, and the surfaces of one.
func TestNoiseIsRefusedBeforeItTakesMemory(t *testing.T) {
	m := speckled()
	one, both := []eval.Target{eval.Label(1)}, []eval.Target{eval.Label(1), eval.Label(2)}
	// A single voxel has eight elements.
	nodes, surfaces := int64(2*500*NodeBytes), int64(2*500*8*elementBytes)
	for _, c := range []struct {
		bytes   int64
		targets []eval.Target
		says    string // nothing: it is scored
	}{
		{nodes - 1, one, "label 1: found 500 nodes in the reference and 500 in the prediction: more than memory"},
		{nodes, one, "label 1: found rugged surfaces of 500 voxels in the reference and 500 in the prediction: more"},
		{nodes + surfaces/2, one, "rugged surfaces"},
		{nodes + surfaces - 1, one, "rugged surfaces"},
		{nodes + surfaces, one, ""},
		{2*nodes - 1, both, "label 2: found 500 nodes"},
		{2*nodes + surfaces - 1, both, "label 2: found rugged surfaces"},
		{2*nodes + surfaces, both, ""},
	} {
		got, err := Default().ScoreWithin(c.bytes, m, m, c.targets, nil)
		if c.says != "" {
			require.ErrorIs(t, err, ErrMemory)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, got)
			continue
		}
		require.NoError(t, err)
		want, err := Default().Score(m, m, c.targets, nil)
		require.NoError(t, err)
		require.Equal(t, plain(t, want), plain(t, got))
	}
}
