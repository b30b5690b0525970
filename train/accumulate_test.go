package train_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

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
