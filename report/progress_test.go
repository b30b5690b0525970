package report

import (
	"image"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"

	"github.com/lntorch/lntorch/report/nnlog"
)

// exampleLog is a plausible log of n epochs.
func exampleLog(t testing.TB, n int) *nnlog.Log {
	rng := rand.New(rand.NewPCG(1, 2))
	l := &nnlog.Log{}
	now := time.Unix(1_700_000_000, 0)
	for e := range n {
		x := float64(e) / float64(n)
		dice := 0.85*(1-math.Exp(-4*x)) + 0.04*rng.NormFloat64()
		require.NoError(t, l.StartEpoch(e, now, 0.01*math.Pow(1-x, 0.9)))
		require.NoError(t, l.TrainLoss(e, float32(0.3-1.1*(1-math.Exp(-5*x))+0.02*rng.NormFloat64())))
		require.NoError(t, l.Validation(e, []float64{dice}, dice, float32(0.3-1.0*(1-math.Exp(-5*x))+0.05*rng.NormFloat64())))
		now = now.Add(time.Duration((40 + 2*rng.NormFloat64()) * float64(time.Second)))
		require.NoError(t, l.EndEpoch(e, now))
	}
	return l
}

func TestProgressDrawsAnyLog(t *testing.T) {
	nan := exampleLog(t, 40)
	nan.ValLosses[3], nan.TrainLosses[5] = float32(math.NaN()), float32(math.Inf(1))
	for e := range nan.MeanFgDice {
		nan.MeanFgDice[e], nan.EMAFgDice[e] = math.NaN(), math.NaN()
	}
	running := exampleLog(t, 40)
	running.EpochEnd = running.EpochEnd[:39]
	constant := exampleLog(t, 3)
	for e := range 3 {
		constant.TrainLosses[e], constant.ValLosses[e], constant.LRs[e], constant.EpochEnd[e] = 0, 0, 0, constant.EpochStart[e]
	}
	for name, log := range map[string]*nnlog.Log{"one": exampleLog(t, 1), "two": exampleLog(t, 2), "nan": nan, "running": running, "constant": constant, "1000": exampleLog(t, 1000)} {
		path := filepath.Join(t.TempDir(), name+".png")
		require.NoError(t, Progress(path, log), name)
		require.Equal(t, image.Rect(0, 0, 1200, 1800), readPNG(t, path).Bounds())
		left, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, left, 1, "no temporary file remains")
	}
}

func TestProgressNeedsAnEpoch(t *testing.T) {
	require.EqualError(t, Progress("progress.png", &nnlog.Log{}), "report: draw progress.png: the log has no complete epoch")
}

func TestTicksAreRound(t *testing.T) {
	labels := func(ticks []plot.Tick) (out []string) {
		for _, tick := range ticks {
			out = append(out, tick.Label)
		}
		return out
	}
	require.Equal(t, []string{"-0.8", "-0.6", "-0.4", "-0.2", "0.0", "0.2"}, labels(valueTicks(-0.9, 0.3)))
	require.Equal(t, []string{"0", "1", "2"}, labels(epochTicks(-0.1, 2.1)))
	require.Equal(t, []string{"0", "200", "400", "600", "800", "1000"}, labels(epochTicks(-20, 1019)))
	require.Equal(t, []string{"0", "2e-06", "4e-06", "6e-06", "8e-06", "1e-05"}, labels(valueTicks(0, 1e-5)))
}

func BenchmarkProgress1000(b *testing.B) {
	log := exampleLog(b, 1000)
	path := filepath.Join(b.TempDir(), "progress.png")
	for b.Loop() {
		require.NoError(b, Progress(path, log))
	}
}
