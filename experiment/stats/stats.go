// Package stats holds the statistics of fine-tuning experiments: scores of patients by models that
// were trained on several draws of training cases, with several seeds. Trainings are a sample as
// patients are: one draw's model is good or bad for all patients at once, so that patients × draws
// × seeds are not that many observations. Crossed is the analysis that knows it.
//
// It takes plain numbers; tables of scores are package experiment/table's. Not a general
// statistics package: gonum's stat is one.
package stats

import (
	"math"
	"slices"
)

// Mean returns the arithmetic mean, NaN of nothing.
func Mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// Variance returns the sample variance, with n-1, NaN below two values.
func Variance(x []float64) float64 {
	if len(x) < 2 {
		return math.NaN()
	}
	mean, sum := Mean(x), 0.0
	for _, v := range x {
		sum += (v - mean) * (v - mean)
	}
	return sum / float64(len(x)-1)
}

// SD returns the sample standard deviation, with n-1, NaN below two values.
func SD(x []float64) float64 { return math.Sqrt(Variance(x)) }

// Percentile returns the q-quantile (q in [0, 1]) by linear interpolation between order statistics,
// numpy.percentile's default, NaN of nothing. x is not modified.
func Percentile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	s := slices.Clone(x)
	slices.Sort(s)
	return percentile(q, len(s), func(k int) float64 { return s[k] })
}

// percentile interpolates between the order statistics of n values.
func percentile(q float64, n int, order func(k int) float64) float64 {
	at := q * float64(n-1)
	k := min(max(int(at), 0), n-1)
	low := order(k)
	part := at - float64(k)
	if part == 0 || k == n-1 {
		return low
	}
	return low + part*(order(k+1)-low)
}

// Holm adjusts the p values of one family for their number: sorted upwards, the i-th (from 0) of m
// is multiplied by m-i, never falls below the one before, and is at most 1. NaN, a test that was
// not made, stays NaN and does not count. The result is in the order of p.
// Source: Holm 1979, Scand. J. Statist. 6:65; statsmodels, multipletests(method="holm").
func Holm(p []float64) []float64 {
	order := make([]int, 0, len(p))
	out := make([]float64, len(p))
	for i, v := range p {
		if math.IsNaN(v) {
			out[i] = v
			continue
		}
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	largest := 0.0
	for k, i := range order {
		largest = max(largest, p[i]*float64(len(order)-k))
		out[i] = min(largest, 1)
	}
	return out
}

// Slope returns the least-squares slope of y over x, NaN if x has fewer than two different values.
func Slope(x, y []float64) float64 {
	mx, my := Mean(x), Mean(y)
	var xy, xx float64
	for i := range x {
		xy += (x[i] - mx) * (y[i] - my)
		xx += (x[i] - mx) * (x[i] - mx)
	}
	if xx == 0 {
		return math.NaN()
	}
	return xy / xx
}
