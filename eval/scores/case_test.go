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
	checkCases(t, data)
}

func TestLiveImagesAreScoredAsByDefinition(t *testing.T) {
	checkCases(t, golden.RunImages(t, "scores.py", "--seed", golden.Seed(t), "--cases", "60"))
}

func checkCases(t *testing.T, data []byte) {
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
			near(t, c.Labels[k], plain(t, got[target.Key()]), fmt.Sprintf("case %d, %s", i, target.Key()))
		}
	}
}
