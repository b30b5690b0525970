package stats

import (
	"math"
	"slices"
)

// exactUpTo is the number of patients up to which Wilcoxon's p is exact.
const exactUpTo = 200

// A SignedRank is the result of Wilcoxon's test.
type SignedRank struct {
	Statistic float64 // the smaller of the rank sums of positive and negative differences
	P         float64 // two-sided
}

// Wilcoxon tests paired differences, one for each patient, by signed ranks, two-sided. Differences
// are rounded to 10 decimals first, so that equal ones are ties. Zeros keep their rank, half of
// which counts to each sign (zsplit). Up to 200 differences the distribution is exact, over all
// signs that the ranks at hand may have; above it is the normal one, corrected for ties, without
// continuity correction. NaN of nothing.
//
// Differs: SciPy's is exact without ties alone, and with ties up to 13 differences; here with ties
// up to 200.
// Source: Wilcoxon 1945; SciPy 1.17, scipy.stats.wilcoxon.
func Wilcoxon(d []float64) SignedRank {
	n := len(d)
	if n == 0 {
		return SignedRank{math.NaN(), math.NaN()}
	}
	r := make([]float64, n)
	for i, v := range d {
		r[i] = math.RoundToEven(v*1e10) / 1e10
	}
	slices.SortFunc(r, func(a, b float64) int {
		switch a, b = math.Abs(a), math.Abs(b); {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	})
	// Ranks are halves of whole numbers; twice the rank, and four times a sum, are whole.
	var plus, minus, zero, ties int
	var free []int // twice the ranks whose sign is open
	for i := 0; i < n; {
		j := i + 1
		for j < n && math.Abs(r[j]) == math.Abs(r[i]) {
			j++
		}
		rank := i + 1 + j // twice the mean of i+1 … j
		t := j - i
		ties += t*t*t - t
		for ; i < j; i++ {
			switch {
			case r[i] > 0:
				plus += 2 * rank
			case r[i] < 0:
				minus += 2 * rank
			default:
				zero += rank
				continue
			}
			free = append(free, rank)
		}
	}
	out := SignedRank{Statistic: float64(min(plus, minus)+zero) / 4}
	if n <= exactUpTo {
		out.P = signs(free, min(plus, minus)/2)
		return out
	}
	count := float64(n)
	mean := count * (count + 1) / 4
	se := math.Sqrt((count*(count+1)*(2*count+1) - float64(ties)/2) / 24)
	out.P = math.Erfc(math.Abs(float64(plus+zero)/4-mean) / se / math.Sqrt2)
	return out
}

// signs returns the two-sided p of the rank sum at, the smaller one, in units of half ranks: twice
// the chance that a sum over ranks that each count or not with probability 1/2 is not larger. By
// convolution, rank by rank; sums above at do not matter.
func signs(ranks []int, at int) float64 {
	chance := make([]float64, at+1)
	chance[0] = 1
	for _, r := range ranks {
		for s := at; s >= r; s-- {
			chance[s] = (chance[s] + chance[s-r]) / 2
		}
		for s := min(r-1, at); s >= 0; s-- {
			chance[s] /= 2
		}
	}
	sum := 0.0
	for _, c := range chance {
		sum += c
	}
	return min(2*sum, 1)
}
