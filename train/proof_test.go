package train_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
)

// watcher calls a function at every progress call.
type watcher func(task string, n int)

// watch returns a Progress that tells f of every unit done, with the name of its task.
func watch(f watcher) train.Progress { return &watching{f: f} }

type watching struct {
	f    watcher
	task string
}

func (w *watching) Begin(task string, _ int) { w.task = task; w.f(task, 0) }
func (w *watching) Done(n int, _ string)     { w.f(w.task, n) }
func (w *watching) End()                     {}

func logOf(t *testing.T, path string) checkpoint.Logging {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var l checkpoint.Logging
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := f.Training(s)
		require.NoError(t, err)
		l = tr.Logging
		return nil
	}))
	return l
}

// Every setting that decides about the bits is compared; the number of epochs may change, with a warning.
func TestContinuingKeepsTheSettings(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "dgst", nil)
	c.Options, c.Refine.Freeze = map[string]string{"dgst-k": "2"}, []string{"*norm*"}
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{3, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	for want, change := range map[string]func(*train.Config){
		"batch_size 2 (now 3)":             func(c *train.Config) { c.BatchSize = 3 },
		"patch_size [8 8 8] (now [4 8 8])": func(c *train.Config) { c.PatchSize = []int{4, 8, 8} },
		"lr 0.01 (now 0.1)":                func(c *train.Config) { c.LR = 0.1 },
		"weight_decay 3e-05 (now 0)":       func(c *train.Config) { c.WeightDecay = 0 },
		"momentum 0.99 (now 0.9)":          func(c *train.Config) { c.Momentum = 0.9 },
		"oversample 0.33 (now 0.5)":        func(c *train.Config) { c.Oversample = 0.5 },
		"iterations 3 (now 4)":             func(c *train.Config) { c.Iterations = 4 },
		"val_iterations 2 (now 1)":         func(c *train.Config) { c.ValIterations = 1 },
		"amp off (now bf16)":               func(c *train.Config) { c.AMP = machine.AMPBF16 },
		"numerics fast (now reference)":    func(c *train.Config) { c.Numerics = machine.Reference },
		"train none (now encoder.*)":       func(c *train.Config) { c.Refine.Train = []string{"encoder.*"} },
		"freeze *norm* (now none)":         func(c *train.Config) { c.Refine.Freeze = nil },
		"dgst-k 2 (now 3)":                 func(c *train.Config) { c.Options = map[string]string{"dgst-k": "3"} },
	} {
		other := again(t, c, nil)
		other.Progress, other.Continue = nil, true
		change(&other)
		_, err := train.Run(context.Background(), other)
		require.ErrorContains(t, err, "trained with other settings, which would change its bits: "+want+": continue")
		require.ErrorContains(t, err, stopped.Checkpoint)
	}
	more := again(t, c, nil)
	var log strings.Builder
	more.Progress, more.Continue, more.Epochs, more.Echo = nil, true, 3, &log
	require.Len(t, logOf(t, run(t, more).Checkpoint).TrainLosses, 3)
	require.Contains(t, log.String(), "WARNING: training began with 2 epochs and continues with 3")
}

// A new training in a used folder, interrupted, goes on from its own checkpoint and not from the old final one.
func TestContinuingTakesTheNewestCheckpoint(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	run(t, c)
	c = again(t, c, nil)
	c.Seed = 8
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{8, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	c = again(t, c, nil)
	c.Progress, c.Continue = nil, true
	got := run(t, c)
	other := tiny{}.config(t, "plain", "full", nil)
	other.Seed = 8
	require.Equal(t, state(t, run(t, other).Checkpoint), state(t, got.Checkpoint))
}

// Checkpoints are there when nnU-Net's rules say so: best with the first epoch, latest after every epoch but the last.
func TestCheckpointsAppearAtTheirTimes(t *testing.T) {
	for every, want := range map[int][]int{1: {1, 2, 3}, 2: {2}, 7: nil} {
		c := tiny{}.config(t, "plain", "full", nil)
		c.Epochs, c.SaveEvery, c.Iterations, c.ValIterations = 4, every, 1, 1
		fold := filepath.Join(c.Results, "Dataset900_Tiny/nnUNetTrainer__nnUNetPlans__tiny/fold_0")
		var saved []int
		best := map[int]bool{}
		c.Progress = watch(func(task string, n int) {
			var epoch int
			if k, _ := fmt.Sscanf(task, "epoch %d of", &epoch); k == 0 || n != 0 {
				return
			}
			done := epoch - 1
			_, err := os.Stat(filepath.Join(fold, "checkpoint_best.pth"))
			best[done] = err == nil
			if f, err := checkpoint.Open(filepath.Join(fold, "checkpoint_latest.pth")); err == nil {
				if f.Epoch == done {
					saved = append(saved, done)
				}
				f.Close()
			}
		})
		run(t, c)
		require.Equal(t, want, slices.Compact(saved), "latest every %d", every)
		require.Equal(t, map[int]bool{0: false, 1: true, 2: true, 3: true}, best)
		require.NoFileExists(t, filepath.Join(fold, "checkpoint_latest.pth"))
	}
}

// The best checkpoint is that of the epoch with the highest moving average.
func TestBestIsTheHighestAverage(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	c.Epochs, c.LR = 5, 0.3
	r := run(t, c)
	l := logOf(t, r.Checkpoint)
	for e := range l.MeanFgDice { // 0.9 and 0.1 of nnU-Net's logger
		want := l.MeanFgDice[e]
		if e > 0 {
			want = 0.9*l.EMAFgDice[e-1] + 0.1*want
		}
		require.InDelta(t, want, l.EMAFgDice[e], 1e-12)
	}
	best := 0
	for e, v := range l.EMAFgDice {
		if v > l.EMAFgDice[best] {
			best = e
		}
	}
	require.Len(t, logOf(t, filepath.Join(r.Folder, "checkpoint_best.pth")).EMAFgDice, best+1)
}

// --val_best validates with checkpoint_best.pth, for the test one with quite other weights than the final ones.
func TestValidationOfTheBest(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	r := run(t, c)
	final, err := os.ReadFile(filepath.Join(r.Folder, "validation/case_4.npz"))
	require.NoError(t, err)
	other := tiny{}.config(t, "plain", "full", nil)
	other.Seed, other.Epochs = 8, 1
	b, err := os.ReadFile(run(t, other).Checkpoint)
	require.NoError(t, err)
	path := filepath.Join(r.Folder, "checkpoint_best.pth")
	write(t, path, string(b))

	c = again(t, c, nil)
	c.Continue, c.ValidateBest = true, true // the training is over
	run(t, c)
	got, err := os.ReadFile(filepath.Join(r.Folder, "validation/case_4.npz"))
	require.NoError(t, err)
	require.NotEqual(t, final, got)
	alone := again(t, c, nil)
	alone.Continue, alone.ValidateOnly, alone.ValidateBest, alone.Checkpoint, alone.ValidationFolder = false, true, false, path, t.TempDir()
	run(t, alone)
	want, err := os.ReadFile(filepath.Join(alone.ValidationFolder, "case_4.npz"))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// What nnU-Net wrote for the same training, we write, byte for byte or line for line.
func TestFilesAreThoseThatNnUNetWrote(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil) // for its method and requirements
	c.Preprocessed, c.Configuration, c.PatchSize = mini(t, "preprocessed/Dataset101_PhantomSource"), "3d_phantom", []int{8, 16, 16}
	c.Epochs, c.Iterations, c.ValIterations, c.NoMirroring = 1, 1, 1, true
	r := run(t, c)
	theirs := mini(t, sourceModel)
	for _, name := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		want, err := os.ReadFile(filepath.Join(theirs, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(filepath.Dir(r.Folder), name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), name)
	}

	// The shape of every line of an epoch, with numbers taken out.
	shape := func(text string) []string {
		var lines []string
		number := regexp.MustCompile(`-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|nan`)
		in := false
		for line := range strings.Lines(text) {
			in = in || strings.Contains(line, ": Epoch 0 ")
			line = number.ReplaceAllString(line, "#")
			if in && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
			if strings.Contains(line, "Epoch time") {
				break
			}
		}
		return lines
	}
	logs, err := filepath.Glob(filepath.Join(theirs, "fold_0/training_log_*.txt"))
	require.NoError(t, err)
	want, err := os.ReadFile(logs[0])
	require.NoError(t, err)
	logs, err = filepath.Glob(filepath.Join(r.Folder, "training_log_*.txt"))
	require.NoError(t, err)
	require.Len(t, logs, 1)
	require.Regexp(t, `training_log_\d{4}_\d{1,2}_\d{1,2}_\d\d_\d\d_\d\d\.txt$`, logs[0])
	got, err := os.ReadFile(logs[0])
	require.NoError(t, err)
	require.Len(t, shape(string(want)), 6)
	require.Equal(t, shape(string(want)), shape(string(got)))
	require.Contains(t, string(got), "Yayy! New best EMA pseudo Dice: ")

	var debug map[string]string
	b, err := os.ReadFile(filepath.Join(r.Folder, "debug.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &debug))
	for name, want := range map[string]string{"fold": "0", "configuration_name": "3d_phantom", "patch_size": "[8 16 16]", "lr": "0.01", "seed": "7",
		"network": "PlainConvUNet", "dataset_name": "Dataset101_PhantomSource", "amp": "off"} {
		require.Equal(t, want, debug[name], name)
	}

	b, err = os.ReadFile(filepath.Join(r.Folder, "progress.png"))
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	require.Greater(t, img.Bounds().Dx(), 300)
	events, err := filepath.Glob(filepath.Join(r.Folder, "tensorboard/events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, events, 1)
}

// The logged pseudo-Dice and loss are those that one gets from the final weights, the validation stream and plain
// counting.
func TestOnlineValidationIsPlainCounting(t *testing.T) {
	for _, set := range []string{"plain", "regions_ignore"} {
		c := tiny{}.config(t, set, "full", nil)
		c.Epochs, c.ValIterations, c.LR = 1, 4, 0.05
		r := run(t, c)
		l := logOf(t, r.Checkpoint)

		p, err := plans.Load(filepath.Join(c.Preprocessed, "nnUNetPlans.json"))
		require.NoError(t, err)
		d, err := plans.LoadDataset(filepath.Join(c.Preprocessed, "dataset.json"))
		require.NoError(t, err)
		conf, err := p.Configuration("tiny")
		require.NoError(t, err)
		arch, err := models.Parse(conf)
		require.NoError(t, err)
		ds, err := dataset.Open(filepath.Join(c.Preprocessed, "nnUNetPlans_tiny"))
		require.NoError(t, err)
		setting := augment.Setting{PatchSize: []int{8, 8, 8}, Channels: len(d.ChannelNames), Augmentation: "none"}
		setting.SetClasses(d.Labels)
		list, err := augment.New(setting)
		require.NoError(t, err)
		batches, err := loader.New(loader.Config{Augmentation: list, Dataset: ds, Keys: []string{"case_0", "case_4"}, Labels: d.Labels, BatchSize: 2, PatchSize: []int{8, 8, 8},
			Oversample: 0.33, Seed: c.Seed, Stream: "val"})
		require.NoError(t, err)
		defer batches.Close()

		classes := d.Labels.NumSegmentationHeads()
		counts := make([][3]float64, classes) // tp, fp, fn
		require.NoError(t, torch.OnThread(1, func() error {
			return torch.With(func(s *torch.Scope) error {
				net, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: arch, InputChannels: len(d.ChannelNames), NumClasses: classes})
				require.NoError(t, err)
				f, err := checkpoint.Open(r.Checkpoint)
				require.NoError(t, err)
				defer f.Close()
				_, err = checkpoint.LoadWeights(net.Module(), f.Weights, checkpoint.LoadOptions{})
				require.NoError(t, err)
				for range c.ValIterations {
					b, err := batches.Next(context.Background())
					require.NoError(t, err)
					shape := []int64{2, int64(len(d.ChannelNames)), 8, 8, 8}
					logits := torchtest.Float32s(t, net.Forward(s, torch.FromSlice(s, b.Data, shape...))[0])
					const voxels = 8 * 8 * 8
					for i := range 2 * voxels {
						n, v := i/voxels, i%voxels
						at := func(class int) float32 { return logits[(n*classes+class)*voxels+v] }
						target := b.Targets[0]
						if d.Labels.HasRegions {
							masks := len(target.Masks) / (2 * voxels)
							if target.Masks[(n*masks+masks-1)*voxels+v] == 1 { // ignored
								continue
							}
							for k := range classes {
								count(&counts[k], at(k) > 0, target.Masks[(n*masks+k)*voxels+v] == 1)
							}
							continue
						}
						arg := 0
						for k := range classes {
							if at(k) > at(arg) {
								arg = k
							}
						}
						for k := range classes {
							count(&counts[k], arg == k, int(target.Labels[i]) == k)
						}
					}
				}
				return s.Err()
			})
		}))
		if !d.Labels.HasRegions {
			counts = counts[1:] // without background
		}
		require.Len(t, l.Dice[0], len(counts))
		sum, defined := 0.0, 0.0
		for k, n := range counts {
			want := 2 * n[0] / (2*n[0] + n[1] + n[2])
			if math.IsNaN(want) {
				require.True(t, math.IsNaN(l.Dice[0][k]))
				continue
			}
			require.InDelta(t, want, l.Dice[0][k], 1e-7, "%s, class %d of %v", set, k, counts)
			sum, defined = sum+want, defined+1
		}
		require.Positive(t, sum, "the test wants some overlap")
		require.InDelta(t, sum/defined, l.MeanFgDice[0], 1e-7)
	}
}

func count(n *[3]float64, predicted, real bool) {
	switch {
	case predicted && real:
		n[0]++
	case predicted:
		n[1]++
	case real:
		n[2]++
	}
}

// Training on cases whose label can be seen in the image succeeds.
func TestTrainingLearns(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	folder := filepath.Join(c.Preprocessed, "nnUNetPlans_tiny")
	for _, key := range []string{"case_0", "case_1", "case_3", "case_4"} {
		path := filepath.Join(folder, key+".npz")
		seg := segmentation(t, path)
		rewrite(t, path, func(v []float32) {
			for i := range v {
				v[i] = float32(seg[i%len(seg)]) - 0.5
			}
		})
	}
	c.ValIterations = 20
	c.Epochs, c.Iterations, c.LR, c.Momentum = 3, 40, 0.05, 0.5 // in so few iterations 0.99 would still oscillate
	l := logOf(t, run(t, c).Checkpoint)
	require.Less(t, l.TrainLosses[2], l.TrainLosses[0]-0.4, "%v", l.TrainLosses)
	require.Less(t, l.ValLosses[2], l.ValLosses[0], "%v", l.ValLosses)
	require.Greater(t, l.MeanFgDice[2], l.MeanFgDice[0], "%v", l.MeanFgDice)
}

func segmentation(t *testing.T, path string) []int16 {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("seg")
	require.NoError(t, err)
	seg, err := a.Int16s()
	require.NoError(t, err)
	return seg
}

// The keys of summary.json are labels, or regions as Python writes tuples.
func TestSummaryHasNnUNetsKeys(t *testing.T) {
	for set, want := range map[string][]string{"plain": {"1", "2", "3"}, "ignore": {"1", "2"}, "regions": {"(1, 2)", "2"}, "regions_ignore": {"(1, 2)", "(2,)"}} {
		c := tiny{}.config(t, set, "full", nil)
		c.Epochs, c.Iterations, c.ValIterations = 1, 1, 1
		r := run(t, c)
		b, err := os.ReadFile(r.Validation)
		require.NoError(t, err)
		var doc struct {
			Mean map[string]any
			Grid string
		}
		require.NoError(t, json.Unmarshal(regexp.MustCompile(`\bNaN\b`).ReplaceAll(b, []byte("null")), &doc))
		require.Equal(t, want, slices.Sorted(maps.Keys(doc.Mean)), set)
		require.Equal(t, train.GridNote, doc.Grid)
		s, err := eval.ReadSummary(r.Validation)
		require.NoError(t, err)
		require.Len(t, s.Cases, 2)
	}
}

// More of what can go wrong with data; the messages name the file, what was found and what to do.
func TestDataErrorsSayWhatToDo(t *testing.T) {
	data := func(c *train.Config, name string) string {
		return filepath.Join(c.Preprocessed, "nnUNetPlans_tiny", name)
	}
	json3 := func(t *testing.T, c *train.Config, old, now string) {
		path := filepath.Join(c.Preprocessed, "dataset.json")
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(b), old)
		write(t, path, strings.Replace(string(b), old, now, 1))
	}
	for name, o := range map[string]struct {
		spoil func(t *testing.T, c *train.Config)
		want  []string
	}{
		"a class that the data set has not": {func(t *testing.T, c *train.Config) { json3(t, c, "\"b\": 2,\n        \"c\": 3", `"b": 2`) },
			[]string{".npz", "has value 3", "dataset.json [0 1 2]", "preprocess again"}},
		"another number of channels": {func(t *testing.T, c *train.Config) { json3(t, c, "\"1\": \"x\",\n        \"2\": \"x\"", `"1": "x"`) },
			[]string{"case_", "found 3 channels, expected 2", "channel_names"}},
		"no foreground": {func(t *testing.T, c *train.Config) {
			write(t, filepath.Join(c.Preprocessed, "splits_final.json"), `[{"train": ["case_2"], "val": ["case_0"]}]`)
		}, []string{"no foreground", "case_2", "check the labels"}},
		"a case without npz": {func(t *testing.T, c *train.Config) {
			write(t, data(c, "case_0.npz"), "")
		}, []string{"case_0.npz", "preprocess case case_0 again"}},
		"no validation case": {func(t *testing.T, c *train.Config) {
			write(t, filepath.Join(c.Preprocessed, "splits_final.json"), `[{"train": ["case_0"], "val": []}]`)
		}, []string{"no validation case", "splits_final.json", "fold all"}},
		"no preprocessed folder": {func(t *testing.T, c *train.Config) {
			require.NoError(t, os.RemoveAll(data(c, "")))
		}, []string{"nnUNetPlans_tiny", "preprocess"}},
		"no dataset.json": {func(t *testing.T, c *train.Config) {
			require.NoError(t, os.Remove(filepath.Join(c.Preprocessed, "dataset.json")))
		}, []string{"dataset.json"}},
		"no such fold":             {func(_ *testing.T, c *train.Config) { c.Fold = "x" }, []string{`fold "x"`, "all or a number"}},
		"-c and --val":             {func(_ *testing.T, c *train.Config) { c.Continue, c.ValidateOnly = true, true }, []string{"--c", "--val"}},
		"--val without checkpoint": {func(_ *testing.T, c *train.Config) { c.ValidateOnly = true }, []string{"checkpoint_final.pth"}},
		"--val_best without one": {func(_ *testing.T, c *train.Config) { c.ValidateBest, c.DisableCheckpointing = true, true },
			[]string{"--val_best", "checkpoint_best.pth", "--disable_checkpointing"}},
		"momentum of 1":      {func(_ *testing.T, c *train.Config) { c.Momentum = 1 }, []string{"momentum 1"}},
		"pretrained missing": {func(_ *testing.T, c *train.Config) { c.Pretrained = "nowhere.pth" }, []string{"nowhere.pth"}},
		"a folder that cannot be": {func(t *testing.T, c *train.Config) {
			write(t, filepath.Join(filepath.Dir(c.Results), "results"), "a file")
		}, []string{"results", "not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.NoLeak(t)
			c := tiny{}.config(t, "plain", "full", nil)
			o.spoil(t, &c)
			_, err := train.Run(context.Background(), c)
			require.Error(t, err)
			for _, want := range o.want {
				require.Contains(t, err.Error(), want)
			}
		})
	}
}

// Heads of other classes cannot be kept; the error offers what can be done.
func TestKeepingHeadsOfOtherClassesIsRefused(t *testing.T) {
	source := run(t, tiny{}.config(t, "plain", "full", nil)) // three channels, four classes
	c := tiny{}.config(t, "plain", "full", nil)
	path := filepath.Join(c.Preprocessed, "dataset.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	write(t, path, strings.Replace(string(b), `"c": 3`, `"c": 3, "d": 4`, 1))
	c.Pretrained, c.Head = source.Checkpoint, train.HeadKeep
	_, err = train.Run(context.Background(), c)
	require.ErrorContains(t, err, "decoder.seg_layers.0.weight  file [4 8 1 1 1], network [5 8 1 1 1]")
	require.ErrorContains(t, err, "--head reset")
	c = again(t, c, nil)
	c.Head = train.HeadReset
	run(t, c)
}

// When a loss is no number the checkpoint of the last whole epoch stays as it was, and the weights in it are good.
func TestNaNLeavesTheLastCheckpoint(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	fold := filepath.Join(c.Results, "Dataset900_Tiny/nnUNetTrainer__nnUNetPlans__tiny/fold_0")
	latest := filepath.Join(fold, "checkpoint_latest.pth")
	c.LR, c.Epochs, c.Iterations, c.Momentum, c.WeightDecay = 1e-2, 200, 2, 0, 1e5 // decay times rate is 1000: weights grow without bound
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, "expected a number")
	require.ErrorContains(t, err, "the last saved state is in "+latest)
	require.Empty(t, notFinite(t, latest))
}

func notFinite(t *testing.T, path string) (names []string) {
	for name, v := range readWeights(t, path) {
		for _, x := range v {
			if math.IsNaN(float64(x)) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// Beside a goroutine that allocates patches and collects garbage all the time, training gives the same bits.
func TestGarbageCollectionChangesNothing(t *testing.T) {
	torchtest.NoLeak(t)
	want := state(t, run(t, tiny{}.config(t, "plain", "dgst", nil)).Checkpoint)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				patch := make([]float32, 1<<18)
				fill(patch, nan())
				runtime.GC()
			}
		}
	}()
	got := state(t, run(t, tiny{}.config(t, "plain", "dgst", finetune.Values{})).Checkpoint)
	close(stop)
	<-ended
	require.Equal(t, want, got)
}

// Two hundred iterations need no more memory than forty, and no tensor stays behind.
func TestMemoryStaysFlat(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "dgst", nil)
	c.Epochs, c.Iterations, c.ValIterations = 1, 200, 1
	var live, memory int64
	c.Progress = watch(func(task string, n int) {
		if !strings.HasPrefix(task, "epoch") || n != 40 && n != 200 {
			return
		}
		runtime.GC()
		if n == 40 {
			live, memory = torch.Live(), resident(t)
			return
		}
		require.Equal(t, live, torch.Live())
		require.Less(t, resident(t)-memory, int64(16<<20), "growth of resident memory in bytes")
	})
	run(t, c)
}

// resident is the process' memory in bytes.
func resident(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}
