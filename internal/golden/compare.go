package golden

import (
	"fmt"
	"math"
	"testing"
)

// A Difference describes how two arrays of the same shape differ.
type Difference struct {
	Count int // elements with different bits; NaN equals NaN, +0 differs from -0
	// the largest |got-want|; +Inf if exactly one is NaN or they are different infinities
	Abs       float64
	Index     []int   // its index; nil if Count is 0
	Want, Got float64 // the elements at Index
	ULPs      uint64  // distance in representable values; MaxUint64 if one is NaN
	// the largest |got-want| divided by the allowed difference: at most 1 within the tolerance
	Excess  float64
	At      []int   // its index
	Largest float64 // the largest finite |want|
}

// String describes the difference in one line.
func (d Difference) String() string {
	if d.Count == 0 {
		return "same bits"
	}
	return fmt.Sprintf("%d elements differ; largest difference %.3g at %v (%d ulp): want %v, got "+
		"%v; largest |want| %.3g",
		d.Count, d.Abs, d.Index, d.ULPs, d.Want, d.Got, d.Largest)
}

// Compare compares got with want, both row-major of the given shape (nil: one axis). It panics if
// the lengths do not match the shape: callers check shapes first.
func Compare[T float32 | float64](shape []int, want, got []T, tol Tolerance) Difference {
	if shape == nil {
		shape = []int{len(want)}
	}
	n := 1
	for _, s := range shape {
		n *= s
	}
	if len(want) != n || len(got) != n {
		panic(fmt.Sprintf("golden: shape %v holds %d elements, want has %d, got %d", shape, n,
			len(want), len(got)))
	}
	var d Difference
	for _, w := range want {
		if a := math.Abs(float64(w)); a > d.Largest && !math.IsInf(a, 1) {
			d.Largest = a
		}
	}
	at, worst := -1, -1
	for i := range want {
		w, g := float64(want[i]), float64(got[i])
		if math.Float64bits(w) == math.Float64bits(g) || w != w && g != g {
			continue
		}
		d.Count++
		abs := math.Abs(g - w)
		if math.IsNaN(abs) || math.IsInf(abs, 1) {
			abs = math.Inf(1)
		}
		if at < 0 || abs > d.Abs {
			at, d.Abs = i, abs
		}
		excess := math.Inf(1)
		if limit := tol.Abs + tol.Rel*math.Abs(w) +
			tol.Scale*d.Largest; !math.IsInf(limit, 1) && (limit > 0 || abs == 0) {
			excess = abs / math.Max(limit, math.SmallestNonzeroFloat64)
		}
		if worst < 0 || excess > d.Excess {
			worst, d.Excess = i, excess
		}
	}
	if d.Count > 0 {
		d.Index, d.Want, d.Got = unravel(at, shape), float64(want[at]), float64(got[at])
		d.ULPs = ulps(want[at], got[at])
		d.At = unravel(worst, shape)
	}
	return d
}

// Close fails the test unless got equals want within the named tolerance of Tolerances. It returns
// the difference and logs the largest one, so that go test -v shows how much of the tolerance was
// used.
func Close[T float32 | float64](t testing.TB, what, tolerance string, shape []int, want,
	got []T) Difference {
	t.Helper()
	tol, ok := Tolerances[tolerance]
	if !ok {
		t.Fatalf("%s: no tolerance %q in golden.Tolerances", what, tolerance)
	}
	checkLength(t, what, shape, want, got)
	d := Compare(shape, want, got, tol)
	if d.Count > 0 && !(d.Excess <= 1) {
		t.Errorf("%s: %v\n\ttolerance %s (%v) is exceeded %.3g times at %v", what, d, tolerance,
			tol, d.Excess, d.At)
	} else {
		t.Logf("%s: %v; %.2g of tolerance %s", what, d, d.Excess, tolerance)
	}
	return d
}

// Equal fails the test unless got and want are bit-identical; any NaN equals any NaN.
func Equal[T float32 | float64](t testing.TB, what string, shape []int, want, got []T) {
	t.Helper()
	checkLength(t, what, shape, want, got)
	if d := Compare(shape, want, got, Tolerance{}); d.Count > 0 {
		t.Errorf("%s: not bit for bit the same: %v", what, d)
	}
}

// WithinULPs fails the test unless every element of got is at most n representable values away from
// want's.
func WithinULPs[T float32 | float64](t testing.TB, what string, n uint64, shape []int, want,
	got []T) {
	t.Helper()
	checkLength(t, what, shape, want, got)
	worst, at := uint64(0), -1
	for i := range want {
		if u := ulps(want[i], got[i]); u > worst {
			worst, at = u, i
		}
	}
	if worst > n {
		if shape == nil {
			shape = []int{len(want)}
		}
		t.Errorf("%s: %d ulp at %v, allowed %d: want %v, got %v", what, worst, unravel(at, shape),
			n, want[at], got[at])
	}
}

func checkLength[T any](t testing.TB, what string, shape []int, want, got []T) {
	t.Helper()
	n := len(want)
	if shape != nil {
		n = 1
		for _, s := range shape {
			n *= s
		}
	}
	if len(want) != n || len(got) != n {
		t.Fatalf("%s: shape %v holds %d elements, want has %d, got %d", what, shape, n, len(want),
			len(got))
	}
}

// unravel converts a row-major position to an index, like numpy.unravel_index.
func unravel(i int, shape []int) []int {
	index := make([]int, len(shape))
	for axis := len(shape) - 1; axis >= 0; axis-- {
		index[axis] = i % shape[axis]
		i /= shape[axis]
	}
	return index
}

// ulps returns the distance between two values of type T in representable values; +0 and -0 are
// equal.
func ulps[T float32 | float64](a, b T) uint64 {
	if a != a && b != b {
		return 0
	}
	if a != a || b != b {
		return math.MaxUint64
	}
	x, y := order(a), order(b)
	if x < y {
		x, y = y, x
	}
	return uint64(x) - uint64(y)
}

// order maps the values of T to consecutive integers in the same order.
func order[T float32 | float64](v T) int64 {
	switch v := any(v).(type) {
	case float32:
		bits := int64(math.Float32bits(v))
		if bits >= 1<<31 {
			return 1<<31 - bits
		}
		return bits
	case float64:
		bits := math.Float64bits(v)
		if bits >= 1<<63 {
			return -int64(bits - 1<<63)
		}
		return int64(bits)
	}
	panic("unreachable")
}
