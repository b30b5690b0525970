package eval_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/golden"
)

func unhex(t *testing.T, s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	require.NoError(t, err)
	return v
}

func requireSame(t *testing.T, want string, got float64, name string, epoch int) {
	t.Helper()
	w := unhex(t, want)
	if math.IsNaN(w) && math.IsNaN(got) {
		return
	}
	require.Equal(t, w, got, "%s, epoch %d", name, epoch)
}

func TestOnlineEqualsTheTrainersPseudoDice(t *testing.T) {
	var g struct {
		Runs []struct {
			Name    string
			Classes int
			Regions bool
			Epochs  []struct {
				TP [][]int64 `json:"tp_hard"`
				FP [][]int64 `json:"fp_hard"`
				FN [][]int64 `json:"fn_hard"`
			}
			Dice [][]string `json:"dice_per_class_or_region"`
			Mean []string   `json:"mean_fg_dice"`
			EMA  []string   `json:"ema_fg_dice"`
		}
	}
	golden.LoadJSON(t, "eval/online.json", &g)
	require.Len(t, g.Runs, 5)
	for _, run := range g.Runs {
		ema := 0.0
		for e, epoch := range run.Epochs {
			pool := eval.NewOnline(run.Classes, run.Regions)
			for b := range epoch.TP {
				counts := make([]eval.Counts, run.Classes)
				for c := range counts {
					counts[c] = eval.Counts{TP: epoch.TP[b][c], FP: epoch.FP[b][c], FN: epoch.FN[b][c], TN: 1 << 40}
				}
				require.NoError(t, pool.Add(counts))
			}
			dice, mean := pool.Dice()
			for c := range dice {
				requireSame(t, run.Dice[e][c], dice[c], run.Name, e)
			}
			requireSame(t, run.Mean[e], mean, run.Name, e)
			ema = eval.EMA(ema, mean, e == 0)
			requireSame(t, run.EMA[e], ema, run.Name, e)
		}
	}
}

func TestOnlineRefusesOtherClassCounts(t *testing.T) {
	require.EqualError(t, eval.NewOnline(2, false).Add(make([]eval.Counts, 3)), "eval: found counts of 3 classes, expected 2")
}

func TestNaNDoesNotStayBest(t *testing.T) {
	nan := math.NaN()
	require.True(t, eval.Better(nan, nil), "the first epoch is always the best so far")
	require.False(t, eval.Better(nan, &nan))
	require.True(t, eval.Better(0.1, &nan))
	half := 0.5
	require.False(t, eval.Better(0.5, &half))
	require.False(t, eval.Better(nan, &half))
	require.True(t, eval.Better(0.6, &half))
}

func TestEMARecoversFromNaN(t *testing.T) {
	require.Equal(t, 0.4, eval.EMA(math.NaN(), 0.4, false))
	require.Equal(t, 0.4, eval.EMA(0.4, math.NaN(), false))
	require.True(t, math.IsNaN(eval.EMA(0, math.NaN(), true)))
}
