package scores

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
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

// What noise would take is known before it is taken, nodes of all labels, and the surfaces of one: what needs
// them is undefined then, and all else is scored.
func TestNoiseIsNotMeasured(t *testing.T) {
	m := speckled()
	one, both := []eval.Target{eval.Label(1)}, []eval.Target{eval.Label(1), eval.Label(2)}
	// A single voxel has eight elements.
	nodes, surfaces := int64(2*500*NodeBytes), int64(2*500*8*elementBytes)
	const (
		left   = ", more than there is memory for: nodes and distances are not measured, and in no mean or count"
		many   = "500 nodes in the reference and 500 in the prediction" + left
		rugged = "500 nodes in the reference and 500 in the prediction, with rugged surfaces" + left
	)
	for _, c := range []struct {
		bytes   int64
		targets []eval.Target
		excess  map[string]string
	}{
		{nodes - 1, one, map[string]string{"1": many}},
		{nodes, one, map[string]string{"1": rugged}},
		{nodes + surfaces/2, one, map[string]string{"1": rugged}},
		{nodes + surfaces - 1, one, map[string]string{"1": rugged}},
		{nodes + surfaces, one, nil},
		{2*nodes - 1, both, map[string]string{"2": many}},
		{2*nodes + surfaces - 1, both, map[string]string{"2": rugged}},
		{2*nodes + surfaces, both, nil},
	} {
		got, err := Default().ScoreWithin(Room{Bytes: c.bytes}, m, m, c.targets, nil)
		require.NoError(t, err)
		want, err := Default().Score(m, m, c.targets, nil)
		require.NoError(t, err)
		for key, l := range want {
			require.Equal(t, c.excess[key], got[key].Excess)
			require.Equal(t, c.excess[key] == "", got[key].Measured())
			expected := plain(t, l).(map[string]any)
			if !got[key].Measured() {
				for _, name := range []string{"NSD_1", "NSD_2", "NSD_3", "HD95", "HD", "ASSD", "ASD_ref_to_pred",
					"ASD_pred_to_ref", "detection", "nodes"} {
					expected[name] = nil
				}
			}
			require.Equal(t, expected, plain(t, got[key]), c.bytes)
		}
	}
}

// Where a mask is empty distances need no surface.
func TestNoiseBesideNothingHasNoDistances(t *testing.T) {
	m, one := speckled(), []eval.Target{eval.Label(1)}
	nothing := *m
	nothing.Small = make([]uint8, len(m.Small))
	nodes := int64(500 * NodeBytes)
	want, err := Default().Score(&nothing, m, one, nil)
	require.NoError(t, err)
	got, err := Default().ScoreWithin(Room{Bytes: nodes}, &nothing, m, one, nil)
	require.NoError(t, err)
	require.Equal(t, plain(t, want), plain(t, got))
	got, err = Default().ScoreWithin(Room{Bytes: nodes - 1}, &nothing, m, one, nil)
	require.NoError(t, err)
	require.Contains(t, got["1"].Excess, ": nodes are not measured")
	require.False(t, got["1"].Measured())
	require.Equal(t, want["1"].Metrics.Get("NSD_1"), got["1"].Metrics.Get("NSD_1"))
	require.EqualValues(t, 0, got["1"].Metrics.Get("NSD_1"))
}

// Who has given the room learns of much before it is taken.
func TestMuchIsToldBeforeItIsTaken(t *testing.T) {
	m := speckled()
	little := Room{math.MaxInt64, func() { t.Error("told of little") }}
	_, err := Default().ScoreWithin(little, m, m, []eval.Target{eval.Label(1)}, nil)
	require.NoError(t, err)
	const size = 2 * 12 // 1728 nodes, of 9 MB
	noise := &labelmap.Map{Shape: [3]int{size, size, size}, Small: make([]uint8, size*size*size), Geometry: m.Geometry}
	for i := range noise.Small {
		if i%2 == 0 && i/size%2 == 0 && i/size/size%2 == 0 {
			noise.Small[i] = 1
		}
	}
	told := 0
	nothing := *noise
	nothing.Small = make([]uint8, len(noise.Small))
	_, err = Default().ScoreWithin(Room{math.MaxInt64, func() { told++ }}, noise, &nothing, []eval.Target{eval.Label(1)}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, told)
}

// A case whose nodes were not measured is in no count of nodes, and n says so.
func TestAggregatesLeaveOutWhatWasNotMeasured(t *testing.T) {
	s := scored(t, Default(), []*labelmap.Map{cubes(4, 6), cubes(4, 6)}, []*labelmap.Map{cubes(4), cubes(4, 6)})
	targets, names := []eval.Target{eval.Label(1)}, map[string]string{"1": "node"}
	want := New(Default(), targets, names, s.Cases[:1], nil).Aggregate["1"].Detection
	s.Cases[1].Labels["1"].Forget(7)
	require.Equal(t, "2 nodes in the reference and 2 in the prediction, after 7 in the cases before, more than there is "+
		"memory for: nodes are not measured, and in no mean or count", s.Cases[1].Labels["1"].Excess)
	got := New(Default(), targets, names, s.Cases, nil)
	require.Equal(t, plain(t, want), plain(t, got.Aggregate["1"].Detection))
	require.Equal(t, 1, got.Aggregate["1"].N)
	require.Equal(t, 2, got.Mean["1"]["HD95"].N)
	require.Equal(t, []string{"b"}, got.Unmeasured("1"))

	again, err := Read(fileOf(t, string(must(json.Marshal(got)))))
	require.NoError(t, err)
	require.False(t, again.Cases[1].Labels["1"].Measured())
	require.Equal(t, plain(t, got), plain(t, again))

	var doc map[string]any // without detection there are no nodes
	require.NoError(t, json.Unmarshal(must(json.Marshal(got)), &doc))
	doc["cases"].([]any)[0].(map[string]any)["labels"].(map[string]any)["1"].(map[string]any)["detection"] = nil
	_, err = Read(fileOf(t, string(must(json.Marshal(doc)))))
	require.ErrorContains(t, err, `case "a", label "1": detection: found none beside nodes`)

	var table, nodes bytes.Buffer
	require.NoError(t, again.WriteCSV(&table))
	require.Contains(t, table.String(), ",none,iou:0.3,,,,,,\n")
	require.NoError(t, again.WriteNodesCSV(&nodes))
	require.Equal(t, 1+3, strings.Count(nodes.String(), "\n"))

	got.Cases[0].Labels["1"].Forget(7)
	none := New(Default(), targets, names, got.Cases, nil).Aggregate["1"]
	require.Zero(t, none.N)
	require.False(t, none.Detection["any"].Recall.Defined())
	require.Nil(t, none.Detection["any"].MissedMM3)
}
