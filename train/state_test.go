package train_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

var writeState = flag.String("write-state", "", "name of a new file in testdata/golden/state")

var static = finetune.Values{"dgst-select": "static"}

// stateConfig is the training of testdata/golden/state.
func stateConfig(t *testing.T) train.Config {
	c := tiny{}.config(t, "plain", "dgst", static)
	entry, err := finetune.Lookup("dgst")
	require.NoError(t, err)
	c.Options = map[string]string{}
	for _, o := range entry.Options {
		c.Options[o.Name] = o.Default
	}
	c.Options["dgst-select"] = "static"
	c.Iterations, c.Numerics = 30, machine.Reference
	return c
}

// continued is the training continued from a file of that folder.
func continued(t *testing.T, file string) train.Config {
	c := stateConfig(t)
	fold := filepath.Join(c.Results, "Dataset900_Tiny", c.Trainer+"__nnUNetPlans__tiny", "fold_0")
	require.NoError(t, os.MkdirAll(fold, 0o755))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(fold, "checkpoint_latest.pth"), b, 0o600))
	c.Continue = true
	return c
}

// A training that an earlier lntorch began ends as if it had not been interrupted.
func TestCheckpointsOfEveryStateVersionAreContinued(t *testing.T) {
	torchtest.NoLeak(t)
	if *writeState != "" {
		c := stateConfig(t)
		ctx, cancel := context.WithCancel(context.Background())
		c.Progress = &stopper{1 + 30 + 2 + 1 + 11, cancel}
		_, err := train.Run(ctx, c)
		var stopped *train.Interrupted
		require.True(t, errors.As(err, &stopped), "%v", err)
		require.Equal(t, [2]int{1, 11}, [2]int{stopped.Epoch, stopped.Iteration})
		b, err := os.ReadFile(stopped.Checkpoint)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(golden.Path(t, "state/"+*writeState), b, 0o644))
	}
	whole := run(t, stateConfig(t))
	want := state(t, whole.Checkpoint)
	for version := 1; version <= 3; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			file := golden.Path(t, fmt.Sprintf("state/v%d.pth", version))
			f := open(t, file)
			_, iteration := f.Lntorch()
			require.Equal(t, 1, f.Epoch)
			require.Positive(t, iteration)
			var log strings.Builder
			c := continued(t, file)
			c.Echo = &log
			r := run(t, c)
			got := state(t, r.Checkpoint)
			require.Contains(t, log.String(), "Epoch 1")
			require.NotContains(t, log.String(), "Epoch 0")
			require.Equal(t, 2, got["epoch"])
			if version < 3 { // it only mirrored, and drew other batches
				require.Contains(t, log.String(), "an lntorch that only mirrored: the training goes on with augmentation mirror")
				require.Contains(t, log.String(), "WARNING: the checkpoint's batches came from random stream 0, this lntorch has 1")
				require.Equal(t, "mirror", listOf(t, r.Checkpoint))
				return
			}
			require.NotContains(t, log.String(), "random stream")
			require.Equal(t, "nnunet", listOf(t, r.Checkpoint))
			if sameMachine(t) {
				require.Equal(t, want, got)
				return
			}
			require.Len(t, got, len(want))
			require.Less(t, largestDifference(t, whole.Checkpoint, r.Checkpoint), 0.05, "the learning rate is 0.01")
		})
	}
}

// listOf is the name of the list that a checkpoint holds.
func listOf(t *testing.T, path string) string {
	t.Helper()
	f := open(t, path)
	own, ok := f.Root().Get("lntorch")
	require.True(t, ok)
	text, ok := own.(interface{ Get(any) (any, bool) }).Get("augmentation/list")
	require.True(t, ok)
	var list struct{ Augmentation string }
	require.NoError(t, json.Unmarshal([]byte(text.(string)), &list))
	return list.Augmentation
}

// Version 1 does not know with which numerics it was trained, so either is taken; version 2 knows.
func TestAStateVersionIsComparedBySettingsItKnows(t *testing.T) {
	torchtest.NoLeak(t)
	for version, refused := range map[int]bool{1: false, 2: true} {
		c := continued(t, golden.Path(t, fmt.Sprintf("state/v%d.pth", version)))
		c.Numerics = machine.Fast
		_, err := train.Run(context.Background(), c)
		if refused {
			require.ErrorContains(t, err, "numerics reference (now fast)")
			continue
		}
		require.NoError(t, err)
	}
	for name, x := range map[string]struct {
		change func(c *train.Config)
		want   string
	}{
		"seed":          {func(c *train.Config) { c.Seed = 8 }, "seed 7 (now 8)"},
		"rate":          {func(c *train.Config) { c.LR = 0.02 }, "lr 0.01 (now 0.02)"},
		"method option": {func(c *train.Config) { c.Options["dgst-select"] = "dynamic" }, "dgst-select static (now dynamic)"},
		"method": {func(c *train.Config) {
			c.Method, _ = makeMethod(t, "full", nil)
			c.MethodName, c.Options = "full", nil
		}, "method dgst (now full)"},
	} {
		for version := 1; version <= 3; version++ {
			c := continued(t, golden.Path(t, fmt.Sprintf("state/v%d.pth", version)))
			x.change(&c)
			_, err := train.Run(context.Background(), c)
			require.ErrorContains(t, err, x.want, "%s, version %d", name, version)
		}
	}
}

// The golden files are of their versions, and there is none too few.
func TestThereIsACheckpointOfEveryStateVersion(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	c.Epochs, c.Iterations = 1, 1
	current := stateVersionOf(t, run(t, c).Checkpoint)
	for version := int64(1); version <= current; version++ {
		require.Equal(t, version, stateVersionOf(t, golden.Path(t, fmt.Sprintf("state/v%d.pth", version))))
	}
}

func stateVersionOf(t *testing.T, path string) int64 {
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	own, ok := f.Root().Get("lntorch")
	require.True(t, ok)
	v, ok := own.(interface{ Get(any) (any, bool) }).Get("version")
	require.True(t, ok)
	return v.(int64)
}
