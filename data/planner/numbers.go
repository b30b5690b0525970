package planner

import (
	"math"
	"slices"
)

// median is numpy's: for an even number of values the mean of the two middle ones.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// percentile is numpy's, with linear interpolation between neighbours; q is in percent.
func percentile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	at := float64(len(v)-1) * (q / 100)
	i := int(at)
	t := at - float64(i)
	a, b := v[i], v[min(i+1, len(v)-1)]
	if d := b - a; t < 0.5 {
		return a + float64(d*t)
	} else {
		return b - float64(d*(1-t))
	}
}

// columns applies f to each of the three columns.
func columns(rows [][]float64, f func([]float64) float64) []float64 {
	out := make([]float64, 3)
	for a := range out {
		column := make([]float64, len(rows))
		for i, r := range rows {
			column[i] = r[a]
		}
		out[a] = f(column)
	}
	return out
}

func permute[T any](v []T, order []int) []T {
	out := make([]T, len(order))
	for i, j := range order {
		out[i] = v[j]
	}
	return out
}

// argmax is the first index of the largest value.
func argmax(v []float64) int { return slices.Index(v, slices.Max(v)) }

func product(v []float64) float64 {
	p := 1.0
	for _, x := range v {
		p *= x
	}
	return p
}

func productOf(v []int) float64 { return product(floatsOf(v)) }

func floatsOf(v []int) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

func toFloats(rows [][]int) [][]float64 {
	out := make([][]float64, len(rows))
	for i, r := range rows {
		out[i] = floatsOf(r)
	}
	return out
}

// floats converts values to a JSON list.
func floats(v []float64) []any { return anyList(v) }

func anyList[T any](v []T) []any {
	out := make([]any, len(v))
	for i, x := range v {
		out[i] = x
	}
	return out
}

// finite reports whether x is neither NaN nor infinite.
func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
