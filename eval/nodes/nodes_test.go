package nodes_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/nodes"
)

func find(t testing.TB, data []uint8, shape [3]int) *components.Components {
	t.Helper()
	c, err := components.Find(data, shape, []int{1}, components.Full)
	require.NoError(t, err)
	return c
}

// TestNodesMatchAsByBruteForce compares with scripts/golden/nodes.py, which agrees with panoptica.
func TestNodesMatchAsByBruteForce(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/golden/nodes.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Shape            [3]int
			Reference        string
			Prediction       string
			ReferenceVoxels  []int64 `json:"reference_voxels"`
			PredictionVoxels []int64 `json:"prediction_voxels"`
			Overlaps         [][3]int64
			Found, True      []bool
			Matches          []struct {
				Threshold  float64
				Pairs      [][2]int
				TP, FN, FP int
			}
		}
	}
	require.NoError(t, json.Unmarshal(raw, &golden))
	require.Greater(t, len(golden.Cases), 50)
	digits := func(s string) []uint8 {
		values := []uint8(s)
		for i := range values {
			values[i] -= '0'
		}
		return values
	}
	for i, c := range golden.Cases {
		ref := find(t, digits(c.Reference), c.Shape)
		pred := find(t, digits(c.Prediction), c.Shape)
		o, err := nodes.Compare(ref, pred)
		require.NoError(t, err)
		require.True(t, slices.Equal(c.ReferenceVoxels, o.Reference), i)
		require.True(t, slices.Equal(c.PredictionVoxels, o.Prediction), i)
		var overlaps [][3]int64
		for _, p := range o.Pairs {
			overlaps = append(overlaps, [3]int64{int64(p.Reference), int64(p.Prediction), p.Voxels})
		}
		require.True(t, slices.Equal(c.Overlaps, overlaps), i)
		for _, m := range c.Matches {
			var pairs [][2]int
			for _, p := range o.Match(m.Threshold) {
				pairs = append(pairs, [2]int{p.Reference, p.Prediction})
			}
			require.ElementsMatch(t, m.Pairs, pairs, "case %d at %v", i, m.Threshold)
			want := nodes.Counts{TP: m.TP, FN: m.FN, FP: m.FP, Predicted: m.TP + m.FP}
			require.Equal(t, want, o.Count(m.Threshold), "case %d at %v", i, m.Threshold)
		}
		want := nodes.Counts{Predicted: len(c.True)}
		for _, found := range c.Found {
			if found {
				want.TP++
			} else {
				want.FN++
			}
		}
		for _, right := range c.True {
			if !right {
				want.FP++
			}
		}
		require.Equal(t, want, o.CountAny(), i)
	}
}

// panoptica itself counted, in masks with one side empty, nodes at the border, that touch, under one
// blob, and in random ones.
func TestCountsArePanopticas(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/golden/panoptica.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Name                  string
			Shape                 [3]int
			Reference, Prediction string
			Counts                map[string][3]int
		}
	}
	require.NoError(t, json.Unmarshal(raw, &golden))
	digits := func(s string) []uint8 {
		values := []uint8(s)
		for i := range values {
			values[i] -= '0'
		}
		return values
	}
	named, found, missed, invented := 0, 0, 0, 0
	for i, c := range golden.Cases {
		o, err := nodes.Compare(find(t, digits(c.Reference), c.Shape), find(t, digits(c.Prediction), c.Shape))
		require.NoError(t, err)
		require.Len(t, c.Counts, 3)
		for text, want := range c.Counts {
			least, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			got := o.Count(least)
			require.Equal(t, want, [3]int{got.TP, got.FN, got.FP}, "case %d %s at %s", i, c.Name, text)
			found, missed, invented = found+want[0], missed+want[1], invented+want[2]
		}
		if c.Name != "" {
			named++
		}
	}
	require.Equal(t, 22, named)
	require.Greater(t, min(found, missed, invented), 50)
}

func TestRatiosAreUndefinedWhereNothingIsCounted(t *testing.T) {
	for _, c := range []struct {
		nodes.Counts
		recall, precision, f1 float64
	}{
		{nodes.Counts{}, math.NaN(), math.NaN(), math.NaN()},
		{nodes.Counts{FN: 2}, 0, math.NaN(), math.NaN()},
		{nodes.Counts{FP: 2, Predicted: 2}, math.NaN(), 0, math.NaN()},
		{nodes.Counts{FN: 1, FP: 1, Predicted: 1}, 0, 0, 0},
		{nodes.Counts{TP: 3, FN: 1, FP: 3, Predicted: 6}, 0.75, 0.5, 0.6},
		// By any shared voxel, one predicted node may find several.
		{nodes.Counts{TP: 4, Predicted: 1}, 1, 1, 1},
	} {
		require.Equal(t, fmt.Sprint(c.recall, c.precision, c.f1),
			fmt.Sprint(c.Recall(), c.Precision(), c.F1()))
	}
	sum := nodes.Counts{TP: 1, FN: 2, FP: 3, Predicted: 4}
	sum.Add(nodes.Counts{TP: 10, FN: 20, FP: 30, Predicted: 40})
	require.Equal(t, nodes.Counts{TP: 11, FN: 22, FP: 33, Predicted: 44}, sum)
}

func TestCompareExplainsMasksOfTwoShapes(t *testing.T) {
	_, err := nodes.Compare(find(t, make([]uint8, 6), [3]int{1, 2, 3}),
		find(t, make([]uint8, 6), [3]int{1, 3, 2}))
	require.EqualError(t, err, "components: rows of 3 and of 2 voxels, 2 and 3 of them: masks of one shape "+
		"are expected")
}

// ExampleOverlaps_Count scores the lymph nodes of a slice.
func ExampleOverlaps_Count() {
	shape := [3]int{1, 2, 6}
	reference := []uint8{
		1, 1, 0, 1, 0, 0,
		1, 1, 0, 0, 0, 0,
	}
	prediction := []uint8{
		1, 1, 0, 0, 0, 1,
		1, 0, 0, 0, 0, 1,
	}
	r, _ := components.Find(reference, shape, []int{1}, components.Full)
	p, _ := components.Find(prediction, shape, []int{1}, components.Full)
	o, _ := nodes.Compare(r, p)
	c := o.Count(0.3)
	fmt.Printf("found %d, missed %d, invented %d, F1 %.2f\n", c.TP, c.FN, c.FP, c.F1())
	// Output: found 1, missed 1, invented 1, F1 0.50
}

// BenchmarkCompare compares 50 slices of 512x512 with noise in both: 800,000 runs each.
func BenchmarkCompare(b *testing.B) {
	shape := [3]int{50, 512, 512}
	rng := rand.New(rand.NewPCG(1, 2))
	var found [2]*components.Components
	for k := range found {
		data := make([]uint8, shape[0]*shape[1]*shape[2])
		for i := range data {
			data[i] = uint8(rng.IntN(16) / 15)
		}
		found[k] = find(b, data, shape)
	}
	for b.Loop() {
		o, err := nodes.Compare(found[0], found[1])
		if err != nil {
			b.Fatal(err)
		}
		o.Count(0.3)
	}
}
