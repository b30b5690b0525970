package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// number is a JSON number; null is NaN.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = number(math.NaN())
		return nil
	}
	var v float64
	err := json.Unmarshal(b, &v)
	*n = number(v)
	return err
}

// reference is what scripts/golden/experiment_stats.py writes.
type reference struct {
	Crossed []struct {
		X              [][]float64
		Alpha, Scale   float64
		Mean, T, DF, P number
		CI             []float64
	}
	Wilcoxon []struct {
		D            []float64
		Statistic, P float64
	}
	Bootstrap []struct {
		X         []float64
		Seed      uint32
		Resamples int
		Alpha     float64
		CI        [2]float64
	}
	Holm  []struct{ P, Holm []float64 }
	Slope []struct {
		X, Y  []float64
		Slope float64
	}
	Describe []struct {
		X                     []float64
		Mean, SD, Median, IQR float64
	}
}

func TestNumbersAreThoseOfSciPyAndStatsmodels(t *testing.T) {
	var g reference
	golden.LoadJSON(t, "experiment_stats.json", &g)
	check(t, &g)
}

// Far out the tail is a power of t. Expected: scipy.stats.t.isf(p, df).
func TestQuantilesOfFewDegreesOfFreedom(t *testing.T) {
	for _, c := range []struct{ p, df, want float64 }{
		{0.025, 0.02, 8.026113906397358e63}, {0.025, 0.0103, 1.0490742750170278e125},
		{0.025, 0.01, 6.364181928400334e128},
	} {
		near(t, c.want, studentQuantile(c.p, c.df), 1e-11, fmt.Sprint(c.df))
	}
	require.True(t, math.IsInf(studentQuantile(0.025, 0.001), 1))
}

// The same with other numbers, drawn anew.
func TestLiveNumbersAreThoseOfSciPy(t *testing.T) {
	golden.Python(t)
	seed := golden.Seed(t)
	out := filepath.Join(t.TempDir(), "stats.json")
	golden.Run(t, "experiment_stats.py", "--seed", seed, "--out", out)
	text, err := os.ReadFile(out)
	require.NoError(t, err)
	var g reference
	require.NoError(t, json.Unmarshal(text, &g))
	check(t, &g)
}

func check(t *testing.T, g *reference) {
	require.NotEmpty(t, g.Crossed)
	require.NotEmpty(t, g.Wilcoxon)
	require.NotEmpty(t, g.Bootstrap)
	require.NotEmpty(t, g.Holm)
	require.NotEmpty(t, g.Slope)
	require.NotEmpty(t, g.Describe)
	for i, c := range g.Crossed {
		what := fmt.Sprintf("crossed %d: %d patients, %d draws", i, len(c.X), len(c.X[0]))
		got := Crossed(c.X, c.Alpha, c.Scale)
		near(t, float64(c.Mean), got.Mean, 1e-11, what+", mean")
		near(t, float64(c.DF), got.DF, 1e-8, what+", df")
		if math.IsNaN(float64(c.T)) {
			require.False(t, got.T == got.T && !math.IsInf(got.T, 0), "%s: t %g", what, got.T)
		} else {
			near(t, float64(c.T), got.T, 1e-8, what+", t")
		}
		near(t, float64(c.P), got.P, 1e-7, what+", p")
		if c.CI == nil {
			require.True(t, math.IsInf(got.High, 1) || math.IsNaN(got.High), what)
			continue
		}
		near(t, c.CI[0], got.Low, 1e-8, what+", low")
		near(t, c.CI[1], got.High, 1e-8, what+", high")
	}
	for i, c := range g.Wilcoxon {
		what := fmt.Sprintf("wilcoxon %d of %d", i, len(c.D))
		got := Wilcoxon(c.D)
		require.Equal(t, c.Statistic, got.Statistic, what)
		near(t, c.P, got.P, 1e-12, what)
	}
	for i, c := range g.Bootstrap {
		low, high := NewBootstrap(c.Seed, c.Resamples).Mean(c.X, c.Alpha)
		near(t, c.CI[0], low, 1e-12, fmt.Sprint("bootstrap ", i))
		near(t, c.CI[1], high, 1e-12, fmt.Sprint("bootstrap ", i))
	}
	for i, c := range g.Holm {
		got := Holm(c.P)
		require.Len(t, got, len(c.Holm))
		for k := range got {
			near(t, c.Holm[k], got[k], 1e-14, fmt.Sprint("holm ", i, k))
		}
	}
	for _, c := range g.Slope {
		near(t, c.Slope, Slope(c.X, c.Y), 1e-12, "slope")
	}
	for _, c := range g.Describe {
		near(t, c.Mean, Mean(c.X), 1e-14, "mean")
		near(t, c.SD, SD(c.X), 1e-13, "sd")
		near(t, c.Median, Percentile(c.X, 0.5), 1e-14, "median")
		near(t, c.IQR, Percentile(c.X, 0.75)-Percentile(c.X, 0.25), 1e-13, "iqr")
	}
}

// near allows a relative difference; a difference below its square counts as none.
func near(t *testing.T, want, got, tolerance float64, what string) {
	t.Helper()
	if math.IsNaN(want) && math.IsNaN(got) {
		return
	}
	if d := math.Abs(want - got); !(d <= tolerance*math.Abs(want) || d <= 1e-15) {
		t.Errorf("%s: found %.17g, expected %.17g (relative difference %.2g)", what, got, want,
			d/math.Abs(want))
	}
}

func TestHolmLeavesTestsThatWereNotMadeOut(t *testing.T) {
	nan := math.NaN()
	got := Holm([]float64{nan, 0.02, 0.01, nan})
	require.True(t, math.IsNaN(got[0]) && math.IsNaN(got[3]))
	require.Equal(t, []float64{0.02, 0.02}, got[1:3])
	require.Empty(t, Holm(nil))
}

func TestTooLittleToSayAnything(t *testing.T) {
	require.True(t, math.IsNaN(Crossed(nil, 0.05, 1).Mean))
	for _, x := range [][][]float64{{{0.5, 0.7}}, {{0.5}, {0.7}}, {{0.6}}} {
		e := Crossed(x, 0.05, 1)
		require.InDelta(t, 0.6, e.Mean, 1e-15)
		for _, v := range []float64{e.Low, e.High, e.T, e.DF, e.P} {
			require.True(t, math.IsNaN(v))
		}
	}
	low, high := NewBootstrap(1, 10).Mean([]float64{1}, 0.05)
	require.True(t, math.IsNaN(low) && math.IsNaN(high))
	require.True(t, math.IsNaN(Wilcoxon(nil).P))
	require.Equal(t, SignedRank{0, 1}, Wilcoxon([]float64{0.3}))
	require.True(t, math.IsNaN(Slope([]float64{1, 1}, []float64{1, 2})))
}

// Many patients are drawn in blocks, not kept; the numbers are the same.
func TestDrawsInBlocksAreTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float64, 3000)
	for i := range x {
		x[i] = r.Float64()
	}
	whole, parts := NewBootstrap(3, 500), NewBootstrap(3, 500)
	parts.size = kept
	low, high := whole.Mean(x, 0.05)
	l, h := parts.Mean(x, 0.05)
	require.Len(t, whole.draws, 1)
	require.Empty(t, parts.draws)
	require.Equal(t, [2]float64{low, high}, [2]float64{l, h})
	l, h = whole.Mean(x, 0.05)
	require.Equal(t, [2]float64{low, high}, [2]float64{l, h}, "begins anew")
}

// study draws the paired differences of two methods that are equally good: difference[p][d][s] of
// patients, draws and seeds, with what both share left out.
func study(r *rand.Rand, patients, draws, seeds int, drawSD float64) [][][]float64 {
	const patientSD, seedSD, rest = 0.04, 0.006, 0.035
	normal := func(sd float64) float64 { return sd * math.Sqrt2 * r.NormFloat64() } // of a difference
	run := make([][]float64, draws)
	for d := range run {
		of := normal(drawSD)
		for range seeds {
			run[d] = append(run[d], of+normal(seedSD))
		}
	}
	x := make([][][]float64, patients)
	for p := range x {
		of := normal(patientSD)
		x[p] = make([][]float64, draws)
		for d := range x[p] {
			for s := range seeds {
				x[p][d] = append(x[p][d], of+run[d][s]+normal(rest))
			}
		}
	}
	return x
}

// resampleBoth is the percentile interval of the mean over patients and draws, both of which are drawn again.
func resampleBoth(r *rand.Rand, x [][]float64) (low, high float64) {
	n, d := len(x), len(x[0])
	means := make([]float64, 500)
	for i := range means {
		times := make([]float64, d)
		for range d {
			times[r.IntN(d)]++
		}
		for range n {
			for k, v := range x[r.IntN(n)] {
				means[i] += times[k] * v / float64(n*d)
			}
		}
	}
	return Percentile(means, 0.025), Percentile(means, 0.975)
}

// TestTheCrossedAnalysisHoldsItsSize simulates studies of two equally good methods, as in the table
// of docs/experiments.md: 20 patients, 3 draws, 3 seeds, and a draw's effect of no, 0.01 and 0.03 of
// Dice. Of 1000 studies a test at 5 % may call about 50 significant (standard error 7). The
// analysis that papers use, Wilcoxon over every case of every run, calls about half of them.
func TestTheCrossedAnalysisHoldsItsSize(t *testing.T) {
	const patients, draws, seeds, studies = 20, 3, 3, 1000
	for _, c := range []struct {
		drawSD                           float64
		crossed, naive, mean, runs, both [2]float64 // percent of studies called significant
	}{
		{0, [2]float64{2, 6.5}, [2]float64{35, 60}, [2]float64{3, 9}, [2]float64{36, 54}, [2]float64{4, 10}},
		{0.01, [2]float64{2, 7}, [2]float64{40, 65}, [2]float64{6, 16}, [2]float64{27, 44}, [2]float64{4, 11}},
		{0.03, [2]float64{3, 9}, [2]float64{55, 80}, [2]float64{20, 45}, [2]float64{23, 39}, [2]float64{10, 19}},
	} {
		r, again := rand.New(rand.NewPCG(17, uint64(c.drawSD*1000))), rand.New(rand.NewPCG(18, 0))
		var crossed, naive, means, runs, both int
		for i := range studies {
			var every, patient []float64
			x, run := make([][]float64, patients), make([]float64, draws*seeds)
			for p, byDraw := range study(r, patients, draws, seeds, c.drawSD) {
				for d, bySeed := range byDraw {
					x[p] = append(x[p], Mean(bySeed))
					every = append(every, bySeed...)
					for s, v := range bySeed {
						run[d*seeds+s] += v / patients
					}
				}
				patient = append(patient, Mean(x[p]))
			}
			if Crossed(x, 0.05, 1).P < 0.05 {
				crossed++
			}
			if i%4 == 0 && Wilcoxon(every).P < 0.05 { // of every fourth study: it takes long
				naive += 4
			}
			if Wilcoxon(patient).P < 0.05 {
				means++
			}
			if Wilcoxon(run).P < 0.05 {
				runs++
			}
			if low, high := resampleBoth(again, x); low > 0 || high < 0 {
				both++
			}
		}
		percent := func(n int) float64 { return 100 * float64(n) / studies }
		t.Logf("draw effect %.2f: called significant: crossed %.1f %%, Wilcoxon over everything %.1f %%, "+
			"over patients' means %.1f %%, over runs' means %.1f %%, bootstrap of patients and draws %.1f %%", c.drawSD,
			percent(crossed), percent(naive), percent(means), percent(runs), percent(both))
		within := func(what string, n int, limits [2]float64) {
			if v := percent(n); v < limits[0] || v > limits[1] {
				t.Errorf("draw effect %.2f: %s: %.1f %%, expected %g to %g", c.drawSD, what, v,
					limits[0], limits[1])
			}
		}
		within("crossed", crossed, c.crossed)
		within("Wilcoxon over everything", naive, c.naive)
		within("Wilcoxon over patients' means", means, c.mean)
		within("Wilcoxon over runs' means", runs, c.runs)
		within("bootstrap of patients and draws", both, c.both)
	}
}

// Intervals of the crossed analysis hold the true difference about as often as they say.
func TestIntervalsCover(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	const studies, truth = 1000, 0.02
	held := 0
	for range studies {
		x := study(r, 20, 3, 1, 0.01)
		flat := make([][]float64, len(x))
		for p := range x {
			for d := range x[p] {
				flat[p] = append(flat[p], truth+x[p][d][0])
			}
		}
		if e := Crossed(flat, 0.1, 1); e.Low <= truth && truth <= e.High {
			held++
		}
	}
	require.InDelta(t, 0.9*studies, held, 35, "of %d studies; a 90 %% interval", studies)
}

func BenchmarkBootstrap(b *testing.B) {
	boot := NewBootstrap(0, 10000)
	x := make([]float64, 40)
	for i := range x {
		x[i] = math.Sin(float64(i))
	}
	for b.Loop() {
		boot.Mean(x, 0.05)
	}
}

func BenchmarkWilcoxon(b *testing.B) {
	for _, n := range []int{20, 40, 200} {
		x := make([]float64, n)
		for i := range x {
			x[i] = math.Sin(float64(i))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				Wilcoxon(x)
			}
		})
	}
}
