package report

import (
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/report/nnlog"
)

// exampleLog is a log of n epochs that looks like a training.
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

// picture is where a test's PNG goes: REPORT_PICTURES is not read here, go test
// -args is; by default a folder that is removed.
func picture(t testing.TB, name string) string { return filepath.Join(t.TempDir(), name) }

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
		path := picture(t, name+".png")
		start := time.Now()
		require.NoError(t, Progress(path, log), name)
		t.Logf("%s: %v", name, time.Since(start))
		f, err := os.Open(path)
		require.NoError(t, err)
		img, err := png.Decode(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.Equal(t, 1200, img.Bounds().Dx())
		require.Equal(t, 1800, img.Bounds().Dy())
		left, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, left, 1, "no temporary file stays")
	}
}
