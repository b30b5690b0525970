package train_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// replan replaces text in the plans of a training's data.
func replan(t *testing.T, c train.Config, old, now string) {
	t.Helper()
	path := filepath.Join(c.Preprocessed, "nnUNetPlans.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(b), old)
	write(t, path, strings.ReplaceAll(string(b), old, now))
}

// Weights see other intensities and sizes than they were trained on where the plans differ: both training
// and validation warn, with both values.
func TestDataOfOtherPlansIsWarnedOf(t *testing.T) {
	torchtest.NoLeak(t)
	// The plans of tiny name one scheme for three channels; those of the first are compared.
	source := run(t, tiny{}.config(t, "plain", "full", nil))
	for name, x := range map[string]struct{ old, now, want string }{
		"spacing":    {`"spacing": [1.0,1.0,1.0]`, `"spacing": [3.0,1.0,1.0]`, "spacing 3 × 1 × 1 mm (checkpoint: 1 × 1 × 1)"},
		"axes":       {`"transpose_forward": [0, 1, 2]`, `"transpose_forward": [1, 0, 2]`, "axes in the order [1 0 2] (checkpoint: [0 1 2])"},
		"scheme":     {`["CTNormalization"]`, `["ZScoreNormalization"]`, "channel 0 (x): ZScoreNormalization (checkpoint: CTNormalization with mean 0, standard deviation 1"},
		"mask":       {`"use_mask_for_norm": [false]`, `"use_mask_for_norm": [true]`, "channel 0 (x): CTNormalization inside the nonzero region"},
		"mean":       {`"mean": 0.0`, `"mean": 0.02`, "with mean 0.02, standard deviation 1, clipped to -1 to 1 (checkpoint: CTNormalization with mean 0,"},
		"clipping":   {`"percentile_99_5": 1.0`, `"percentile_99_5": 1.5`, "clipped to -1 to 1.5 (checkpoint:"},
		"rounding":   {`"spacing": [1.0,1.0,1.0]`, `"spacing": [1.005,1.0,1.0]`, ""},
		"median":     {`"median": 0.0`, `"median": 5.0`, ""}, // not used by the normalisation
		"unmodified": {`"mean": 0.0`, `"mean": 0.0`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, validate := range []bool{false, true} {
				c := tiny{}.config(t, "plain", "full", nil)
				replan(t, c, x.old, x.now)
				var log strings.Builder
				c.Echo, c.Epochs, c.Iterations, c.ValIterations = &log, 1, 1, 1
				if validate {
					c.ValidateOnly, c.Checkpoint, c.ValidationFolder = true, source.Checkpoint, filepath.Join(t.TempDir(), "v")
				} else {
					c.Pretrained = source.Checkpoint
				}
				run(t, c)
				if x.want == "" {
					require.NotContains(t, log.String(), "is not prepared like")
					continue
				}
				require.Equal(t, 1, strings.Count(log.String(), "is not prepared like"), log.String())
				require.Contains(t, log.String(), "WARNING: the data of nnUNetPlans, configuration tiny, is not prepared like the data that "+source.Checkpoint)
				require.Contains(t, log.String(), x.want)
				require.Contains(t, log.String(), "lntorch adopt")
			}
		})
	}
}

// The log claims no more than a step does: with gradmask, momentum and weight decay move other entries, too.
func TestTheLogSaysWhichEntriesMove(t *testing.T) {
	torchtest.NoLeak(t)
	for mode, want := range map[string]string{
		"gradmask": "have no gradient, but momentum and weight decay (where set) still move them",
		"strict":   "entries that are not selected keep their values",
		"paper":    "entries that are not selected keep their values",
		"released": "the masks are empty, so that every entry is updated",
	} {
		c := tiny{}.config(t, "plain", "dgst", finetune.Values{"dgst-mode": mode})
		start := run(t, again(t, first(c), finetune.Values{"dgst-mode": mode}))
		var log strings.Builder
		c.Echo = &log
		r := run(t, again(t, c, finetune.Values{"dgst-mode": mode}))
		require.Contains(t, log.String(), want, mode)
		if mode != "released" {
			require.Contains(t, log.String(), "; a step uses the gradient of ", mode)
		}
		// What it says is so. The same training with one iteration less: how many entries does the last one move?
		moved, all := movedEntries(t, start.Checkpoint, r.Checkpoint)
		t.Logf("%s: %d of %d entries moved", mode, moved, all)
		if mode == "gradmask" || mode == "released" {
			require.Greater(t, moved, all*9/10, mode)
		} else {
			require.Less(t, moved, all/2, mode)
		}
	}
}

// first is the first iteration of a training alone.
func first(c train.Config) train.Config {
	c.Results = filepath.Join(c.Results, "first")
	c.Epochs, c.Iterations = 1, 1
	return c
}

func movedEntries(t *testing.T, a, b string) (moved, all int) {
	x, y := readWeights(t, a), readWeights(t, b)
	for name, v := range x {
		if strings.Contains(name, "all_modules") {
			continue // an alias
		}
		for i := range v {
			if v[i] != y[name][i] {
				moved++
			}
		}
		all += len(v)
	}
	return moved, all
}
