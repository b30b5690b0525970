package report

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

type inner struct {
	Shape []int64 `json:"shape"`
	Note  string  `json:"note,omitempty"`
}

type embedded struct {
	Depth int `json:"depth"`
}

// If all numbers are finite, the output is encoding/json's.
func TestJSONIsThatOfTheStandardLibrary(t *testing.T) {
	x := 0.1
	for _, v := range []any{
		nil, 1, "a<b>\u2028é", true, []int{}, []int(nil), map[string]any{"b": 1, "a": []any{nil, "x", 1e300, float32(0.1)}}, map[int]string{2: "b", 1: "a"},
		[]byte("bytes"), [2]bool{true}, json.RawMessage(`{"raw": [1]}`), json.Number("12"),
		[]netip.Addr{netip.IPv6Loopback()}, // has a text
		struct {
			embedded
			A      *float64       `json:"a"`
			B      *float64       `json:"b,omitempty"`
			C      *inner         `json:"c,omitempty"`
			D      map[string]any `json:"d"`
			E      []inner        `json:"e,omitempty"`
			F      any            `json:"f"`
			G      string         `json:"-"`
			Plain  float64
			hidden int
		}{A: &x, C: &inner{}, E: []inner{{Shape: []int64{1}, Note: "n"}}, F: inner{}, hidden: 1},
	} {
		var want, got bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		require.NoError(t, e.Encode(v))
		nonFinite, err := JSON(&got, v)
		require.NoError(t, err)
		require.Empty(t, nonFinite)
		require.Equal(t, want.String(), got.String())
	}
}

func TestJSONReplacesNonFiniteNumbersByNull(t *testing.T) {
	nan := math.NaN()
	var out bytes.Buffer
	nonFinite, err := JSON(&out, struct {
		Best  *float64       `json:"best_ema,omitempty"`
		Cases []any          `json:"cases"`
		More  map[string]any `json:"more"`
	}{&nan, []any{1.5, map[string]float64{"dice": math.Inf(1)}}, map[string]any{"x": float32(math.Inf(-1)), "y": 2}})
	require.NoError(t, err)
	require.Equal(t, []string{"best_ema", "cases[1].dice", "more.x"}, nonFinite)
	require.JSONEq(t, `{"best_ema": null, "cases": [1.5, {"dice": null}], "more": {"x": null, "y": 2}}`, out.String())
	_, err = JSON(&out, func() {})
	require.Error(t, err)
}
