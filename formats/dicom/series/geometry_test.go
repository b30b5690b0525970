package series

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Where the rules change their mind. The corpus has the cases themselves, as files.
func TestMeasureAtItsLimits(t *testing.T) {
	a, err := axesOf([6]float64{1, 0, 0, 0, 1, 0})
	require.NoError(t, err)
	pixel := [2]float64{0.8, 0.6}
	line := func(t ...float64) []vector {
		at := make([]vector, len(t))
		for i := range t {
			at[i] = vector{5, 6, t[i]}
		}
		return at
	}
	moved := func(x, y float64) []vector { return []vector{{0, 0, 0}, {0, 0, 2}, {x, y, 4}} }
	for _, test := range []struct {
		name     string
		at       []vector
		problems []string
		spacing  float64
		missing  []float64
	}{
		{"one", line(7), nil, 0, nil},
		{"two", line(7, 9), nil, 2, nil},
		{"half a pixel, less", moved(0.299, 0), nil, 2, nil},
		{"half a pixel, more", moved(0.301, 0), []string{Tilt}, 2, nil},
		{"half a pixel across", moved(0.22, 0.22), []string{Tilt}, 2, nil},
		{"sideways and back", []vector{{0, 0, 0}, {0.5, 0, 2}, {0, 0, 4}}, []string{Tilt}, 2, nil},
		{"5 % off, less", line(0, 2.09, 4), nil, 2, nil},
		{"5 % off, more", line(0, 2.11, 4), []string{Irregular}, 2, nil},
		{"one missing", line(0, 2, 6, 8), []string{Missing}, 8.0 / 3, []float64{4}},
		{"one missing, 4 % off", line(0, 2, 6.08, 8.08), []string{Missing}, 8.08 / 3, []float64{4.04}},
		{"one missing, 12 % off", line(0, 2, 6.24, 8.24), []string{Irregular}, 8.24 / 3, nil},
		{"at the end", line(0, 2, 4, 8), []string{Missing}, 8.0 / 3, []float64{6}},
		{"at both ends", line(0, 4, 6, 10), []string{Missing}, 10.0 / 3, []float64{2, 8}},
		{"a gap beyond reason", line(0, 0.02, 1000), []string{Irregular}, 500, nil},
		{"missing and tilted", []vector{{0, 0, 0}, {0, 1, 2}, {0, 3, 6}}, []string{Tilt, Missing}, 3, []float64{4}},
	} {
		g, spacing := measure(test.at, a, pixel)
		if test.problems == nil {
			test.problems = []string{}
		}
		require.Equal(t, test.problems, g.Problems, test.name)
		require.Equal(t, len(test.problems) == 0, g.Regular, test.name)
		require.Equal(t, len(test.problems) == 0, g.Refusal() == nil, test.name)
		require.InDelta(t, test.spacing, spacing, 1e-12, test.name)
		require.Len(t, g.Missing, len(test.missing), test.name)
		for i, m := range test.missing {
			require.InDelta(t, m, g.Missing[i], 1e-9, test.name)
		}
	}
	g, _ := measure(moved(3, 4), a, pixel)
	require.InDelta(t, math.Atan2(5, 4)*180/math.Pi, g.TiltDegrees, 1e-12)
	require.InDelta(t, 5, g.MaxDeviation, 1e-12)
	g, _ = measure(line(0, 2.5, 4), a, pixel)
	require.InDelta(t, 0.5, g.MaxDeviation, 1e-12)
}
