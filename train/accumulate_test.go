package train_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// record is what run.json says of a training's batches and settings.
func record(t *testing.T, folder string) (batches []string, settings map[string]any) {
	t.Helper()
	var run struct {
		Settings map[string]any
		Data     struct {
			Batches []string `json:"batch_sha256"`
		}
	}
	b, err := os.ReadFile(filepath.Join(folder, "run.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &run))
	return run.Data.Batches, run.Settings
}

// An iteration takes its batches from the stream one after another, where it stands; a stopped training
// goes on to the same bits, wherever it was stopped.
func TestAccumulatedIterationsTakeTheStreamInOrder(t *testing.T) {
	torchtest.NoLeak(t)
	plain := tiny{dropout: "0.3"}.config(t, "plain", "full", nil)
	plain.Iterations = 6
	want, settings := record(t, run(t, plain).Folder)
	require.Len(t, want, 4)
	require.EqualValues(t, 1, settings["accumulate"])
	begin := func() train.Config {
		c := tiny{dropout: "0.3"}.config(t, "plain", "full", nil)
		c.Accumulate = 2
		return c
	}
	whole := run(t, begin())
	got, settings := record(t, whole.Folder)
	require.Equal(t, want, got)
	require.EqualValues(t, 2, settings["accumulate"])
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(got))), 4)
	final := state(t, whole.Checkpoint)
	c := begin()
	c.Workers = 1
	require.Equal(t, final, state(t, run(t, c).Checkpoint))
	c = begin()
	c.AugmentOn = train.AugmentOnDevice // a goroutine is a batch ahead
	got, _ = record(t, run(t, c).Folder)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(got))), 4)
	for _, stop := range []int{2, 4, 8} {
		c := begin()
		ctx, cancel := context.WithCancel(context.Background())
		c.Progress = &stopper{stop, cancel}
		_, err := train.Run(ctx, c)
		var stopped *train.Interrupted
		require.ErrorAs(t, err, &stopped)
		c = again(t, c, nil)
		c.Progress, c.Continue, c.Accumulate = nil, true, 3
		_, err = train.Run(context.Background(), c)
		require.ErrorContains(t, err, "accumulate 2 (now 3)")
		c = again(t, c, nil)
		c.Accumulate = 2
		require.Equal(t, final, state(t, run(t, c).Checkpoint), "stopped after %d", stop)
	}
}

// Batches of one row each whose gradients are joined are a batch of these rows, as long as the loss is a
// mean over rows.
func TestAccumulatedRowsAreABatch(t *testing.T) {
	torchtest.Require(t)
	var file struct{ Spec trainSpec }
	golden.LoadJSON(t, "train/binary.json", &file)
	f := golden.Load(t, "train/binary.npz")
	dir := t.TempDir()
	whole := rankProcess{Spec: file.Spec, Method: "full", Start: filepath.Join(dir, "start.pth"), Batches: filepath.Join(dir, "batches"),
		Output: filepath.Join(dir, "whole"), Numerics: machine.Fast, Accumulate: 1, World: 1}
	single := whole
	single.Batches, single.Output, single.Accumulate = filepath.Join(dir, "rows"), filepath.Join(dir, "single"), 2
	hashStart(t, file.Spec, whole.Start)
	writeBatches(t, f, whole.Batches)
	require.NoError(t, os.MkdirAll(single.Batches, 0o755))
	for _, name := range f.Names() {
		a, err := f.Read(name)
		require.NoError(t, err)
		require.Equal(t, 2, a.Shape[0])
		prefix, what, _ := strings.Cut(name, "/")
		i, err := strconv.Atoi(strings.TrimPrefix(prefix, "batch_"))
		require.NoError(t, err)
		for row := range 2 {
			file, err := os.Create(filepath.Join(single.Batches, fmt.Sprintf("batch_%02d_%s.npy", 2*i+row, what)))
			require.NoError(t, err)
			require.NoError(t, npz.WriteNpy(file, rowOf(t, a, row)))
			require.NoError(t, file.Close())
		}
	}
	require.NoError(t, whole.trace(t))
	require.NoError(t, single.trace(t))
	want, got := readLosses(t, filepath.Join(whole.Output, "losses.json")), readLosses(t, filepath.Join(single.Output, "losses.json"))
	require.InEpsilonSlice(t, want.Losses, got.Losses, 1e-5)
	require.InEpsilonSlice(t, want.Norms, got.Norms, 1e-3)
	require.Equal(t, want.LRs, got.LRs)
	require.NoError(t, os.Remove(filepath.Join(single.Batches, "batch_07_data.npy")))
	require.ErrorContains(t, single.trace(t), "holds 7 batches, expected a multiple of --accumulate 2")
}

// rowOf is one row of a, which keeps its axis.
func rowOf(t *testing.T, a *npz.Array, row int) *npz.Array {
	t.Helper()
	shape := slices.Clone(a.Shape)
	shape[0] = 1
	n := 1
	for _, s := range shape {
		n *= s
	}
	if x, err := a.Float32s(); err == nil {
		out, err := npz.New(x[row*n:][:n], shape...)
		require.NoError(t, err)
		return out
	}
	y, err := a.Int16s()
	require.NoError(t, err)
	out, err := npz.New(y[row*n:][:n], shape...)
	require.NoError(t, err)
	return out
}
