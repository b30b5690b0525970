package nodes_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/mask"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/volume"
)

// scripts/golden/nodes.py measures every node by its definition, over all points.
func TestNodesAreMeasuredAsByDefinition(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/golden/nodes.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Shape     [3]int
			Reference string
			Grid      [3][]float64
			Sizes     [][]float64
		}
	}
	require.NoError(t, json.Unmarshal(raw, &golden))
	measured, axes := 0, map[int]bool{}
	for i, c := range golden.Cases {
		labels := []uint8(c.Reference)
		for i := range labels {
			labels[i] -= '0'
		}
		g := volume.Geometry{Spacing: [3]float64(c.Grid[0]), OriginXYZ: [3]float64(c.Grid[1]),
			DirectionXYZ: [9]float64(c.Grid[2])}
		axes[nodes.Axial(g)] = true
		pairs, err := mask.NewPairs(labels, labels, c.Shape, nil, []int{1})
		require.NoError(t, err)
		m, _ := pairs.Of([]int{1})
		found, err := components.FindMask(m, components.Full)
		require.NoError(t, err)
		sizes := nodes.Measure(m, found, g)
		require.Len(t, sizes, len(c.Sizes), i)
		for k, want := range c.Sizes {
			s := sizes[k]
			got := []float64{s.MM3, s.LongAxis, s.ShortAxis, float64(s.Slice), s.Centroid[0],
				s.Centroid[1], s.Centroid[2]}
			require.InDeltaSlice(t, want, got, 1e-9, "case %d, node %d", i, k)
			require.Equal(t, found.Voxels[k], s.Voxels)
			measured++
		}
	}
	require.Greater(t, measured, 60)
	require.Len(t, axes, 3)
}
