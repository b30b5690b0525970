package pynum_test

import (
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/pynum"
	"github.com/lntorch/lntorch/internal/golden"
)

// hex is a float that the golden script wrote as hexadecimal text.
type hex float64

func (h *hex) UnmarshalJSON(b []byte) error {
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return err
	}
	v, err := strconv.ParseFloat(s, 64)
	*h = hex(v)
	return err
}

type printed struct {
	X       hex
	Text    string
	Rounded map[string]string
}

type numbers struct {
	Float64, Float32 []printed
	Sums             []struct {
		A, Holes, B                       []hex
		Sum, Mean, NanMean, Sum32, Mean32 hex
	}
}

func load(t *testing.T) numbers {
	var g numbers
	golden.LoadJSON(t, "eval/numbers.json", &g)
	require.Greater(t, len(g.Float64), 100)
	require.Greater(t, len(g.Float32), 100)
	require.Greater(t, len(g.Sums), 10)
	return g
}

func TestReprAndRoundEqualPython(t *testing.T) {
	g := load(t)
	check(t, g.Float64, func(v hex) float64 { return float64(v) })
	check(t, g.Float32, func(v hex) float32 { return float32(v) })
}

func check[F pynum.Float](t *testing.T, rows []printed, as func(hex) F) {
	for _, p := range rows {
		require.Equal(t, p.Text, pynum.Repr(as(p.X)))
		for d, want := range p.Rounded {
			n, err := strconv.Atoi(d)
			require.NoError(t, err)
			require.Equal(t, want, pynum.Repr(pynum.Round(as(p.X), n)), "%s to %s places as %T", p.Text, d, as(0))
		}
	}
}

func TestSumsEqualNumpyBitForBit(t *testing.T) {
	for _, s := range load(t).Sums {
		b := convert[float32](s.B)
		a := convert[float64](s.A)
		require.Equal(t, float64(s.Sum), pynum.Sum(a), "sum of %d", len(a))
		require.Equal(t, float64(s.Mean), pynum.Mean(a), "mean of %d", len(a))
		require.Equal(t, float32(s.Sum32), pynum.Sum(b), "float32 sum of %d", len(a))
		require.Equal(t, float32(s.Mean32), pynum.Mean(b), "float32 mean of %d", len(a))
		got := pynum.NanMean(convert[float64](s.Holes))
		if math.IsNaN(float64(s.NanMean)) {
			require.True(t, math.IsNaN(got))
		} else {
			require.Equal(t, float64(s.NanMean), got, "nanmean of %d", len(a))
		}
	}
}

func convert[F pynum.Float](h []hex) []F {
	out := make([]F, len(h))
	for i, v := range h {
		out[i] = F(v)
	}
	return out
}

func TestMeansOfNothingAreNaN(t *testing.T) {
	require.True(t, math.IsNaN(pynum.Mean[float64](nil)))
	require.True(t, math.IsNaN(pynum.NanMean([]float64{math.NaN()})))
}

func ExampleRepr() {
	fmt.Println(pynum.Repr(10.0), pynum.Repr(1e-5), pynum.Repr(pynum.Round(float32(-0.70598), 4)))
	// Output: 10.0 1e-05 -0.706
}
