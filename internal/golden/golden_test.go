package golden

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorder is a testing.TB that records what a check under test reports.
type recorder struct {
	testing.TB
	failed, skipped bool
	message         string
}

func (r *recorder) Helper() {}

func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Errorf(format string, args ...any) {
	r.failed, r.message = true, fmt.Sprintf(format, args...)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(r)
}

func (r *recorder) Skip(args ...any) {
	r.skipped, r.message = true, fmt.Sprint(args...)
	panic(r)
}

// record runs f and returns what it reported.
func record(t *testing.T, f func(t testing.TB)) *recorder {
	r := &recorder{TB: t}
	func() {
		defer func() {
			if e := recover(); e != nil && e != any(r) {
				panic(e)
			}
		}()
		f(r)
	}()
	return r
}

func TestMissingSkipsUnlessRequired(t *testing.T) {
	missing := func(tb testing.TB) { Missing(tb, "python", "no Python here") }

	t.Setenv("LNTORCH_REQUIRE", "")
	r := record(t, missing)
	require.True(t, r.skipped)
	require.False(t, r.failed)
	require.Equal(t, "no Python here", r.message)

	t.Setenv("LNTORCH_REQUIRE", "torch")
	require.True(t, record(t, missing).skipped)

	t.Setenv("LNTORCH_REQUIRE", "torch,python")
	r = record(t, missing)
	require.True(t, r.failed)
	require.Equal(t, "LNTORCH_REQUIRE names python: no Python here", r.message)
}

func TestPythonIsTheOneNamed(t *testing.T) {
	t.Setenv("LNTORCH_REQUIRE", "")
	t.Setenv("LNTORCH_PYTHON", "")
	require.True(t, record(t, func(tb testing.TB) { Python(tb) }).skipped)

	t.Setenv("LNTORCH_PYTHON", filepath.Join(t.TempDir(), "python"))
	r := record(t, func(tb testing.TB) { Python(tb) })
	require.True(t, r.failed, "a Python that is named but absent is an error, not a skip")
	require.Contains(t, r.message, "LNTORCH_PYTHON")

	self, err := os.Executable()
	require.NoError(t, err)
	t.Setenv("LNTORCH_PYTHON", self)
	require.Equal(t, self, Python(t))
}

func TestGoldenFilesAreFoundFromAnyPackage(t *testing.T) {
	shape, values := Float32s(t, Load(t, "network/plain-3d.npz"), "head_1")
	require.Equal(t, []int{2, 2, 4, 8, 4}, shape)
	require.Len(t, values, 2*2*4*8*4)

	var meta struct{ Loss float64 }
	LoadJSON(t, "network/plain-3d.json", &meta)
	require.NotZero(t, meta.Loss)

	r := record(t, func(tb testing.TB) { Load(tb, "no such file.npz") })
	require.True(t, r.failed)
	require.Contains(t, r.message, "make golden")
}

func TestCompareFindsTheLargestDifference(t *testing.T) {
	want := []float32{1, 2, 3, 4, 5, 6}
	got := []float32{1, 2, 3.5, 4, 5, 5.75}
	d := Compare([]int{2, 3}, want, got, Tolerance{Abs: 0.25})
	require.Equal(t, 2, d.Count)
	require.Equal(t, []int{0, 2}, d.Index)
	require.Equal(t, 0.5, d.Abs)
	require.Equal(t, 2.0, d.Excess)
	require.Equal(t, 6.0, d.Largest)
	require.Equal(t, uint64(1<<21), d.ULPs)
	require.Contains(t, d.String(), "[0 2]")

	require.Zero(t, Compare(nil, want, want, Tolerance{}).Count)
}

func TestCompareAllowsWhatTheToleranceSays(t *testing.T) {
	for _, c := range []struct {
		tol  Tolerance
		want float64
	}{
		{Tolerance{Abs: 0.1}, 10},
		{Tolerance{Rel: 0.1}, 5},     // of 2
		{Tolerance{Scale: 0.1}, 0.1}, // of 100
		{Tolerance{Abs: 0.8, Rel: 0.1}, 1},
	} {
		d := Compare(nil, []float64{2, -100}, []float64{3, -100}, c.tol)
		require.InDelta(t, c.want, d.Excess, 1e-12, "%v", c.tol)
	}
}

func TestCompareTreatsNonFiniteValuesStrictly(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	loose := Tolerance{Abs: 1e30, Rel: 1, Scale: 1}
	require.Zero(t, Compare(nil, []float32{nan, inf, -inf}, []float32{nan, inf, -inf}, loose).Count)
	for _, pair := range [][2]float32{{1, nan}, {nan, 1}, {1, inf}, {inf, 1}, {inf, -inf},
		{inf, nan}} {
		d := Compare(nil, []float32{0, pair[0]}, []float32{0, pair[1]}, loose)
		require.Equal(t, 1, d.Count, "%v", pair)
		require.True(t, math.IsInf(d.Excess, 1), "%v", pair)
		require.Equal(t, []int{1}, d.Index)
	}
}

func TestCloseFailsBeyondTheTolerance(t *testing.T) {
	within := func(tb testing.TB) {
		Close(tb, "x", "forward", nil, []float32{1, 2}, []float32{1, 2.00001})
	}
	beyond := func(tb testing.TB) {
		Close(tb, "x", "forward", nil, []float32{1, 2}, []float32{1, 2.125})
	}
	require.False(t, record(t, within).failed)
	r := record(t, beyond)
	require.True(t, r.failed)
	require.Contains(t, r.message, "largest difference 0.125 at [1]")

	require.True(t,
		record(t,
			func(tb testing.TB) { Close(tb, "x", "no such", nil, []float32{1}, []float32{1}) }).failed)
	require.True(t,
		record(t,
			func(tb testing.TB) { Close(tb, "x", "forward", nil, []float32{1}, []float32{}) }).failed)
	require.True(t,
		record(t,
			func(tb testing.TB) { Close(tb, "x", "forward", []int{2}, []float32{1}, []float32{1}) }).failed)
	nan := []float64{math.NaN()}
	require.True(t,
		record(t, func(tb testing.TB) { Close(tb, "x", "forward", nil, []float64{1}, nan) }).failed)
}

func TestEqualComparesBits(t *testing.T) {
	next := math.Nextafter32(1, 2)
	require.False(t,
		record(t, func(tb testing.TB) { Equal(tb, "x", nil, []float32{1}, []float32{1}) }).failed)
	require.True(t,
		record(t,
			func(tb testing.TB) { Equal(tb, "x", nil, []float32{1}, []float32{next}) }).failed)
	minus := []float64{math.Copysign(0, -1)}
	require.True(t,
		record(t, func(tb testing.TB) { Equal(tb, "x", nil, []float64{0}, minus) }).failed)
}

func TestWithinULPs(t *testing.T) {
	next := math.Nextafter32(1, 2)
	for _, c := range []struct {
		want, got float32
		ulps      uint64
	}{
		{1, 1, 0},
		{1, next, 1},
		{next, 1, 1},
		{0, float32(math.Copysign(0, -1)), 0},
		{math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 2},
		{1, 2, 1 << 23},
		{-1, 1, 2 * 0x3f800000},
	} {
		require.Equal(t, c.ulps, ulps(c.want, c.got))
		require.False(t, record(t, func(tb testing.TB) {
			WithinULPs(tb, "x", c.ulps, nil, []float32{c.want}, []float32{c.got})
		}).failed)
		if c.ulps > 0 {
			require.True(t, record(t, func(tb testing.TB) {
				WithinULPs(tb, "x", c.ulps-1, nil, []float32{c.want}, []float32{c.got})
			}).failed)
		}
	}
	require.Equal(t, uint64(2), ulps(math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64))
	require.Equal(t, uint64(math.MaxUint64), ulps(1, math.NaN()))
	require.Equal(t, 2*math.Float64bits(math.MaxFloat64), ulps(-math.MaxFloat64, math.MaxFloat64))
}

func TestEveryToleranceHasItsReason(t *testing.T) {
	for name, tol := range Tolerances {
		require.NotEmpty(t, tol.Reason, name)
		require.Positive(t, tol.Abs+tol.Rel+tol.Scale, name)
	}
}
