// Package pynum formats, rounds and sums floating-point numbers as Python and numpy do, digit for
// digit, so that nnU-Net's summary.json, training log and pseudo-Dice can be compared with the
// reference byte by byte.
//
// It does not parse numbers and has no multi-dimensional arrays; values are float32 or float64.
// Source: CPython 3 float.__repr__, numpy 1.26 scalar str, np.round, np.sum and np.mean; the tests
// compare with them.
package pynum

import (
	"math"
	"strconv"
)

// Float is one of the two numpy types that nnU-Net logs.
type Float interface{ float32 | float64 }

// Repr formats x as Python's repr(float) and numpy's str(scalar) do: the shortest digits that parse
// to x in its own precision, always with a point or an exponent, exponents below 1e-4 and from 1e16
// on; "nan", "inf", "-inf".
func Repr[F Float](x F) string {
	v := float64(x)
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	}
	// numpy compares as double, so float32(1e-4), slightly below, is "1e-04".
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(v, 'e', -1, bits[F]())
	}
	s := strconv.FormatFloat(v, 'f', -1, bits[F]())
	for i := range len(s) {
		if s[i] == '.' {
			return s
		}
	}
	return s + ".0"
}

// Round returns np.round(x, decimals) for decimals from 0 to 22: x times a power of ten, rounded
// half to even, divided again, each step in x's type. As in numpy, this is not correctly rounded
// decimal arithmetic.
func Round[F Float](x F, decimals int) F {
	p := F(math.Pow10(decimals))
	scaled := F(x * p)
	return F(math.RoundToEven(float64(scaled))) / p
}

// Sum returns np.sum of a contiguous array in the values' own type. numpy's iterators pass Buffer
// values at a time; each of these blocks is summed pairwise, and the sums are added one by one.
// Source: numpy 1.26 (2.3 and later sum the whole array pairwise).
func Sum[F Float](a []F) F {
	var s F
	for len(a) > Buffer {
		s += pairwise(a[:Buffer])
		a = a[Buffer:]
	}
	return s + pairwise(a)
}

// Buffer is the number of values in the buffer of numpy's iterators.
const Buffer = 8192

// pairwise sums blocks of up to 128 values with eight accumulators, and longer arrays by halves.
// Source: numpy 1.26, loops_utils.h.src, FLOAT_pairwise_sum.
func pairwise[F Float](a []F) F {
	const block = 128 // numpy: PW_BLOCKSIZE
	n := len(a)
	switch {
	case n < 8:
		var s F
		for _, v := range a {
			s += v
		}
		return s
	case n <= block:
		r := [8]F(a[:8])
		i := 8
		for ; i+8 <= n; i += 8 {
			for j := range r {
				r[j] += a[i+j]
			}
		}
		s := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
		for ; i < n; i++ {
			s += a[i]
		}
		return s
	}
	half := n / 2
	half -= half % 8
	return pairwise(a[:half]) + pairwise(a[half:])
}

// Mean returns np.mean(a); NaN for an empty a.
func Mean[F Float](a []F) F { return F(float64(Sum(a)) / float64(len(a))) }

// NanMean returns np.nanmean(a): the mean over the values that are not NaN, NaN if there are none.
// Source: numpy, which sums the array with NaN replaced by zero, so the zeros affect the order of
// summation.
func NanMean(a []float64) float64 {
	filled := make([]float64, len(a))
	n := 0
	for i, v := range a {
		if !math.IsNaN(v) {
			filled[i] = v
			n++
		}
	}
	return Sum(filled) / float64(n)
}

func bits[F Float]() int {
	if _, ok := any(F(0)).(float32); ok {
		return 32
	}
	return 64
}
