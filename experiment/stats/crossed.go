package stats

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// An Estimate is a mean with its interval and the test that the mean is 0, two-sided. What is not
// defined is NaN; T is infinite where nothing scatters.
type Estimate struct {
	Mean      float64
	Low, High float64 // the (1-alpha) interval
	T, DF, P  float64 // Student's t, its degrees of freedom, its p
}

// rounding is the part of the largest score that a standard error must exceed; below it, what
// scatters is the last digits of float64.
const rounding = 1e-14

// widest is the part of the largest score beyond which an interval says nothing. With few hundredths of a degree
// of freedom it is wider by a hundred orders of magnitude.
const widest = 1e6

// Crossed analyses x, rows of patients and columns of draws: scores of one method, or differences
// of two. Patients and draws are both random and crossed, so that the interval is one for new
// patients and newly drawn training cases, as the multi-reader multi-case analysis gives one for
// new cases and new readers. scale is the largest magnitude of the scores that x was computed from.
//
// With n patients, D draws and mean squares of draws, patients and the rest,
//
//	MS_d = n·Σ(x̄_d-x̄)²/(D-1)   MS_p = D·Σ(x̄_p-x̄)²/(n-1)   MS_e = Σ(x-x̄_p-x̄_d+x̄)²/((n-1)(D-1))
//
// and e = max(MS_p-MS_e, 0), the variance of x̄ is (MS_d+e)/(nD), and Satterthwaite's degrees of
// freedom are (MS_d+e)² / (MS_d²/(D-1) + [e>0]·(MS_p²/(n-1) + MS_e²/((n-1)(D-1)))).
//
// An interval wider than a million times scale is infinite. Where nothing scatters, it has no width
// and P is 1 if the mean is 0, else 0. With fewer than two patients or draws only Mean is defined.
// Source: Dorfman, Berbaum, Metz 1992; Obuchowski, Rockette 1995; Hillis 2007, Statist. Med. 26:596.
func Crossed(x [][]float64, alpha, scale float64) Estimate {
	nan := math.NaN()
	est := Estimate{Mean: nan, Low: nan, High: nan, T: nan, DF: nan, P: nan}
	if len(x) == 0 || len(x[0]) == 0 {
		return est
	}
	n, d := float64(len(x)), float64(len(x[0]))
	rows, cols := make([]float64, len(x)), make([]float64, len(x[0]))
	for p, row := range x {
		rows[p] = Mean(row)
		for k, v := range row {
			cols[k] += v / n
		}
	}
	est.Mean = Mean(rows)
	if math.Abs(est.Mean) <= rounding*scale {
		est.Mean = 0
	}
	if n < 2 || d < 2 {
		return est
	}
	mean := Mean(rows)
	var sd, sp, se float64
	for _, v := range cols {
		sd += (v - mean) * (v - mean)
	}
	for p, row := range x {
		sp += (rows[p] - mean) * (rows[p] - mean)
		for k, v := range row {
			r := v - rows[p] - cols[k] + mean
			se += r * r
		}
	}
	msD, msP, msE := n*sd/(d-1), d*sp/(n-1), se/((n-1)*(d-1))
	// What rounding left of equal sums would otherwise decide the degrees of freedom.
	small := rounding * scale * rounding * scale
	if msD <= small {
		msD = 0
	}
	e := msP - msE
	if e <= small || e <= 1e-13*msP {
		e = 0
	}
	v := (msD + e) / (n * d)
	if math.Sqrt(v) <= rounding*scale {
		est.Low, est.High, est.P = est.Mean, est.Mean, 0
		if est.Mean == 0 {
			est.P = 1
		} else {
			est.T = math.Copysign(math.Inf(1), est.Mean)
		}
		return est
	}
	divisor := msD * msD / (d - 1)
	if e > 0 {
		divisor += msP*msP/(n-1) + msE*msE/((n-1)*(d-1))
	}
	est.DF = (msD + e) * (msD + e) / divisor
	est.T = est.Mean / math.Sqrt(v)
	est.P = 2 * studentTail(math.Abs(est.T), est.DF)
	half := studentQuantile(alpha/2, est.DF) * math.Sqrt(v)
	if half > widest*scale {
		half = math.Inf(1)
	}
	est.Low, est.High = est.Mean-half, est.Mean+half
	return est
}

// studentTail returns P(T > t) of Student's t for t >= 0, exact in the far tail, too.
func studentTail(t, df float64) float64 {
	if math.IsInf(t, 0) {
		return 0
	}
	if t*t < df { // from the middle, where df/(df+t²) is near 1
		return 0.5 - 0.5*mathext.RegIncBeta(0.5, df/2, t*t/(df+t*t))
	}
	return 0.5 * mathext.RegIncBeta(df/2, 0.5, df/(df+t*t))
}

// studentQuantile returns the t with P(T > t) = p, for p in (0, 0.5): infinite where it overflows,
// as it does for degrees of freedom near 0.
func studentQuantile(p, df float64) float64 {
	low, high := 0.0, 1.0
	for studentTail(high, df) > p {
		low, high = high, high*2
		if high > 1e100 {
			// The tail is a power of t there: p = x^(df/2) / (df·B(df/2, 1/2)) with x = df/t².
			a, _ := math.Lgamma(df / 2)
			b, _ := math.Lgamma(0.5)
			ab, _ := math.Lgamma(df/2 + 0.5)
			return math.Exp(math.Log(df)/2 - (math.Log(p*df)+a+b-ab)/df)
		}
	}
	for range 200 {
		mid := low + (high-low)/2
		if mid == low || mid == high {
			break
		}
		if studentTail(mid, df) > p {
			low = mid
		} else {
			high = mid
		}
	}
	return low + (high-low)/2
}
