package train_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// A fold outside splits_final.json is split at random: cases that the model saw may be scored. Training and
// validation warn, and run.json keeps it.
func TestAFoldOutsideTheSplitsIsWarnedOf(t *testing.T) {
	torchtest.NoLeak(t)
	for fold, random := range map[string]bool{"0": false, "7": true} {
		c := tiny{}.config(t, "plain", "full", nil)
		file := filepath.Join(c.Preprocessed, "splits_final.json")
		var log strings.Builder
		c.Fold, c.Echo = fold, &log
		check := func(log string) {
			if !random {
				require.NotContains(t, log, "80:20")
				return
			}
			require.Contains(t, log, "WARNING: You requested fold 7 for training but splits contain only 1 folds")
			require.Contains(t, log, file)
		}
		r := run(t, c)
		check(log.String())
		check(textLog(t, r.Folder))
		var doc struct {
			Split struct {
				File   string
				Random bool
			}
		}
		b, err := os.ReadFile(filepath.Join(r.Folder, "run.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &doc))
		require.Equal(t, random, doc.Split.Random)
		require.Equal(t, file, doc.Split.File)

		log.Reset()
		c = again(t, c, nil)
		c.ValidateOnly, c.Checkpoint, c.ValidationFolder = true, r.Checkpoint, filepath.Join(t.TempDir(), "out")
		run(t, c)
		check(log.String())
	}
}

// without is a copy of a checkpoint that lacks the weights with a name that holds part.
func without(t *testing.T, path, part string) string {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	v, _ := f.Root().Get("network_weights")
	weights, ok := v.(*pickle.OrderedDict)
	require.True(t, ok)
	for _, key := range weights.Keys() {
		if strings.Contains(key.(string), part) {
			weights.Delete(key)
		}
	}
	out := filepath.Join(t.TempDir(), "without.pth")
	require.NoError(t, pth.Save(out, f.Root()))
	return out
}

// --head reset mends heads and nothing else.
func TestHeadResetIsAdvisedForHeadsOnly(t *testing.T) {
	torchtest.NoLeak(t)
	source := run(t, tiny{}.config(t, "plain", "full", nil)).Checkpoint
	for name, x := range map[string]struct {
		path    string
		labels  bool // other classes than the checkpoint's
		advised bool
	}{
		"an encoder weight is missing": {without(t, source, "encoder.stages.1"), false, false},
		"that and the heads":           {without(t, without(t, source, "encoder.stages.1"), "seg_layers"), false, false},
		"the heads are missing":        {without(t, source, "seg_layers"), false, true},
		"the heads have other classes": {source, true, true},
	} {
		c := paper(t)
		if x.labels {
			relabel(t, c, "\"a\": 1,\n        \"b\": 2,\n        \"c\": 3", `"a": 1, "b": 2, "c": 3, "d": 4`)
		}
		c.Pretrained, c.Head = x.path, train.HeadKeep
		_, err := train.Run(context.Background(), c)
		require.ErrorContains(t, err, "weights do not fit the network", name)
		if !x.advised {
			require.NotContains(t, err.Error(), "--head", name)
			continue
		}
		require.ErrorContains(t, err, "--head reset reinitialises them", name)
		c = again(t, c, map[string]string{"dgst-mode": "paper"})
		c.Head = train.HeadReset
		r := run(t, c) // the advice helps, to the end: a base without heads has no delta
		require.FileExists(t, r.Checkpoint)
		if !x.labels {
			require.Contains(t, textLog(t, r.Folder), "WARNING: no delta is written")
		}
	}
}

// NaN compares false with every limit.
func TestNaNIsNoSetting(t *testing.T) {
	for name, set := range map[string]func(c *train.Config, x float64){
		"learning rate": func(c *train.Config, x float64) { c.LR = x },
		"weight decay":  func(c *train.Config, x float64) { c.WeightDecay = x },
		"momentum":      func(c *train.Config, x float64) { c.Momentum = x },
		"oversampling":  func(c *train.Config, x float64) { c.Oversample = x },
	} {
		for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1} {
			c := tiny{}.config(t, "plain", "full", nil)
			require.NoError(t, c.Check())
			set(&c, x)
			require.ErrorContains(t, c.Check(), name, "%v", x)
		}
	}
}

// An interrupted validation claims a complete checkpoint only where the training wrote one.
func TestAnInterruptedValidationSaysWhatIsThere(t *testing.T) {
	torchtest.NoLeak(t)
	for name, x := range map[string]struct {
		set   func(c *train.Config)
		want  string
		never string
	}{
		"after training":       {func(*train.Config) {}, "training is complete, in ", "run it again"},
		"nothing was written":  {func(c *train.Config) { c.DisableCheckpointing = true }, "run it again", "complete"},
		"validation by itself": {func(c *train.Config) { c.ValidateOnly = true }, "run it again", "complete"},
	} {
		c := tiny{}.config(t, "plain", "full", nil)
		if name == "validation by itself" {
			c.Checkpoint, c.ValidationFolder = run(t, c).Checkpoint, filepath.Join(t.TempDir(), "v")
			c = again(t, c, nil)
		}
		x.set(&c)
		ctx, cancel := context.WithCancel(context.Background())
		c.Progress = &canceller{task: "case_0", cancel: cancel}
		_, err := train.Run(ctx, c)
		cancel()
		require.ErrorIs(t, err, context.Canceled, name)
		require.ErrorContains(t, err, "validation stopped at case case_0 (1 of 2)", name)
		require.ErrorContains(t, err, x.want, name)
		require.NotContains(t, err.Error(), x.never, name)
	}
}

// canceller cancels when a task begins.
type canceller struct {
	task   string
	cancel context.CancelFunc
}

func (c *canceller) Begin(task string, _ int) {
	if strings.HasPrefix(task, c.task) {
		c.cancel()
	}
}
func (*canceller) End()             {}
func (*canceller) Done(int, string) {}
