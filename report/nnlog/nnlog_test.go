package nnlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/golden"
)

// phantomMini returns the log in the checkpoint of phantom-mini and its best average.
func phantomMini(t *testing.T) (*Log, float64) {
	var g struct {
		Keys    []string
		BestEMA string `json:"best_ema"`
		Logging map[string]json.RawMessage
	}
	golden.LoadJSON(t, "nnlog/phantom_mini.json", &g)
	require.Equal(t, g.Keys, Keys())
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err)
		return v
	}
	floats := func(key string) (out []float64) {
		var texts []string
		require.NoError(t, json.Unmarshal(g.Logging[key], &texts))
		for _, s := range texts {
			out = append(out, number(s))
		}
		return out
	}
	singles := func(key string) (out []float32) {
		for _, v := range floats(key) {
			out = append(out, float32(v))
		}
		return out
	}
	l := &Log{
		MeanFgDice: floats("mean_fg_dice"), EMAFgDice: floats("ema_fg_dice"),
		TrainLosses: singles("train_losses"), ValLosses: singles("val_losses"),
		LRs: floats("lrs"), EpochStart: floats("epoch_start_timestamps"), EpochEnd: floats("epoch_end_timestamps"),
	}
	var dice [][]string
	require.NoError(t, json.Unmarshal(g.Logging["dice_per_class_or_region"], &dice))
	for _, row := range dice {
		var d []float64
		for _, s := range row {
			d = append(d, number(s))
		}
		l.Dice = append(l.Dice, d)
	}
	require.Equal(t, 30, l.Epochs())
	return l, number(g.BestEMA)
}

func TestEpochLinesEqualARealLogByteForByte(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/phantom-mini/results/*/*/fold_0/training_log_*.txt")
	require.NoError(t, err)
	require.Len(t, paths, 1)
	raw, err := os.ReadFile(paths[0])
	require.NoError(t, err)
	var want []string
	var times []time.Time
	for _, line := range strings.SplitAfter(string(raw), "\n") {
		if len(line) < 27 || line[26] != ':' {
			continue
		}
		at, err := time.Parse("2006-01-02 15:04:05.000000", line[:26])
		require.NoError(t, err)
		if strings.Contains(line, "Training done.") {
			break
		}
		if len(want) > 0 || strings.HasSuffix(line, ":  \n") { // from the first epoch's empty line on
			want, times = append(want, line), append(times, at)
		}
	}
	require.Greater(t, len(want), 30*7)

	l, best := phantomMini(t)
	f, err := Create(t.TempDir(), time.Date(2026, 11, 23, 7, 5, 0, 0, time.Local), nil)
	require.NoError(t, err)
	require.Equal(t, filepath.Base(paths[0]), filepath.Base(f.Path()))
	f.clock = func() time.Time {
		now := times[0]
		times = times[1:]
		return now
	}
	var bestEMA *float64
	for e := range l.Epochs() {
		f.EpochStart(e, l.LRs[e])
		require.NoError(t, f.EpochEnd(l, e))
		if eval.Better(l.EMAFgDice[e], bestEMA) {
			bestEMA = &l.EMAFgDice[e]
			f.NewBest(*bestEMA)
		}
	}
	got, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	require.Equal(t, strings.Join(want, ""), string(got))
	require.Equal(t, best, *bestEMA)
}

func TestReplayedLogEqualsTheOneInTheCheckpoint(t *testing.T) {
	want, _ := phantomMini(t)
	at := func(s float64) time.Time { return time.Unix(0, int64(math.Round(s*1e9))) }
	got := &Log{}
	for e := range want.Epochs() {
		for range 1 + e%2 { // every other epoch is interrupted and repeated
			require.NoError(t, got.StartEpoch(e, at(want.EpochStart[e]), want.LRs[e]))
			require.NoError(t, got.TrainLoss(e, want.TrainLosses[e]))
			require.NoError(t, got.Validation(e, want.Dice[e], want.MeanFgDice[e], want.ValLosses[e]))
		}
		require.Equal(t, e, got.Epochs())
		require.NoError(t, got.EndEpoch(e, at(want.EpochEnd[e])))
	}
	require.InDeltaSlice(t, want.EpochStart, got.EpochStart, 1e-6)
	require.InDeltaSlice(t, want.EpochEnd, got.EpochEnd, 1e-6)
	got.EpochStart, got.EpochEnd = want.EpochStart, want.EpochEnd
	require.Equal(t, want, got)

	require.NoError(t, got.Check(30))
	got.Truncate(7)
	require.Equal(t, 7, got.Epochs())
	require.EqualError(t, got.Check(8), "nnlog: mean_fg_dice has 7 entries, but the checkpoint has 8 complete epochs")
	got.Truncate(20)
	require.Equal(t, 7, got.Epochs())
}

func TestGapsAreErrors(t *testing.T) {
	l := &Log{}
	require.EqualError(t, l.TrainLoss(1, 0.5), "nnlog: train_losses of epoch 1: found 0 entries, expected 1 or 2 (one per epoch)")
	require.Error(t, l.Validation(2, nil, 0, 0))
	require.Empty(t, l.EMAFgDice)
}

func TestLinesArePrintedAsPythonPrintsThem(t *testing.T) {
	var echo bytes.Buffer
	f, err := Create(t.TempDir(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), &echo)
	require.NoError(t, err)
	require.Equal(t, "training_log_2026_1_2_03_04_05.txt", filepath.Base(f.Path()))
	f.clock = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) } // no fraction when it is zero
	f.Print("")
	f.Print("do_dummy_2d_data_aug:", true, nil, 3, 1e-5, float32(1e-4), []float64{0.5, math.NaN()}, []int{1, 29}, errors.New("oops"))
	f.PrintPlain("These are the global plan.json settings:\n", "{}", "\n")
	got, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	// print_to_log_file of the reference with the same arguments writes the same bytes.
	require.Equal(t, "2026-01-02 03:04:05:  \n"+
		"2026-01-02 03:04:05: do_dummy_2d_data_aug: True None 3 1e-05 1e-04 [0.5, nan] [1, 29] oops \n"+
		"These are the global plan.json settings:\n {} \n \n", string(got))
	require.Equal(t, "2026-01-02 03:04:05: \n", echo.String()[:22])
}

func TestALogThatCannotBeWrittenDoesNotStopTheTraining(t *testing.T) {
	var echo bytes.Buffer
	folder := t.TempDir()
	f, err := Create(folder, time.Now(), &echo)
	require.NoError(t, err)
	f.pause = 0
	require.NoError(t, os.RemoveAll(folder))
	f.Print("Epoch 3")
	require.Contains(t, echo.String(), "Epoch 3\n")
	require.Contains(t, echo.String(), "failed to log: open "+f.Path())

	_, err = Create(filepath.Join(folder, "missing"), time.Now(), nil)
	require.ErrorContains(t, err, "no such file or directory")
}

func ExampleLog() {
	l := &Log{}
	start := time.Unix(0, 0)
	for epoch, dice := range []float64{0.5, 0.7} {
		_ = l.StartEpoch(epoch, start, 0.01)
		_ = l.TrainLoss(epoch, -0.3)
		_ = l.Validation(epoch, []float64{dice}, dice, -0.4)
		_ = l.EndEpoch(epoch, start.Add(time.Second))
	}
	fmt.Println(l.Epochs(), Str(l.EMAFgDice[1]))
	// Output: 2 0.52
}
