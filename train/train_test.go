package train_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// tiny is a data set and a network so small that a whole training takes a second. The cases were written by nnU-Net's
// own classes (testdata/golden/loader).
type tiny struct {
	dim     int
	dropout string // such as "0.3"; empty for none
}

func (o tiny) plans() string {
	three := func(z, rest string) string {
		if o.dim == 2 {
			return "[" + rest + "," + rest + "]"
		}
		return "[" + z + "," + rest + "," + rest + "]"
	}
	dropout := `"dropout_op": null, "dropout_op_kwargs": null`
	if o.dropout != "" {
		dropout = fmt.Sprintf(`"dropout_op": "torch.nn.Dropout%dd", "dropout_op_kwargs": {"p": %s}`, o.dim, o.dropout)
	}
	return fmt.Sprintf(`{"dataset_name": "Dataset900_Tiny", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
"original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [12, 12, 12],
"foreground_intensity_properties_per_channel": {"0": {"max": 1.0, "mean": 0.0, "median": 0.0, "min": -1.0, "percentile_00_5": -1.0, "percentile_99_5": 1.0, "std": 1.0}},
"configurations": {"tiny": {"data_identifier": "nnUNetPlans_tiny", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": %s,
"spacing": %s, "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [false], "batch_dice": false,
"architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": {
"n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv%dd", "kernel_sizes": [%s, %s, %s],
"strides": [%s, %s, %s], "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "conv_bias": true,
"norm_op": "torch.nn.modules.instancenorm.InstanceNorm%dd", "norm_op_kwargs": {"eps": 1e-05, "affine": true}, %s,
"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}}, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}}}}`,
		three("8", "8"), three("1.0", "1.0"), o.dim, three("1", "3"), three("3", "3"), three("3", "3"), three("1", "1"), three("1", "2"), three("2", "2"), o.dim, dropout)
}

// config makes the data set in a folder of its own and a training on it: 2 epochs of 3 + 2 iterations.
func (o tiny) config(t testing.TB, set, method string, v finetune.Values) train.Config {
	t.Helper()
	torchtest.Require(t)
	if o.dim == 0 {
		o.dim = 3
	}
	root := t.TempDir()
	pre := filepath.Join(root, "preprocessed", "Dataset900_Tiny")
	require.NoError(t, os.CopyFS(filepath.Join(pre, "nnUNetPlans_tiny"), os.DirFS(golden.Path(t, "loader/"+set))))
	require.NoError(t, os.Rename(filepath.Join(pre, "nnUNetPlans_tiny", "dataset.json"), filepath.Join(pre, "dataset.json")))
	write(t, filepath.Join(pre, "nnUNetPlans.json"), o.plans())
	write(t, filepath.Join(pre, "dataset_fingerprint.json"), "{}")
	write(t, filepath.Join(pre, "splits_final.json"), `[{"train": ["case_0", "case_1", "case_3"], "val": ["case_0", "case_4"]}]`)
	m, entry := makeMethod(t, method, v)
	return train.Config{Preprocessed: pre, Results: filepath.Join(root, "results"), PlansName: "nnUNetPlans", Configuration: "tiny", Fold: "0",
		Trainer: entry.Trainer, MethodName: method, Method: m,
		Version: "test", Settings: train.Settings{Epochs: 2, Iterations: 3, ValIterations: 2,
			BatchSettings: train.BatchSettings{Oversample: 0.33, Seed: 7}, Optimizer: train.Optimizer{LR: 1e-2, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 1}}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// again is the same training with a method of its own, as a new process would have it.
func again(t testing.TB, c train.Config, v finetune.Values) train.Config {
	t.Helper()
	c.Method, _ = makeMethod(t, c.MethodName, v)
	return c
}

func run(t testing.TB, c train.Config) *train.Result {
	t.Helper()
	r, err := train.Run(context.Background(), c)
	require.NoError(t, err)
	return r
}

// state is everything of a checkpoint that a training must repeat exactly: weights, momentum, logs without times, and
// what the method remembers.
func state(t testing.TB, path string) map[string]any {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	out := map[string]any{}
	for _, w := range f.Weights {
		b := make([]byte, w.Bytes())
		require.NoError(t, w.ReadInto(b))
		out["weight "+w.Name] = b
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := f.Training(s)
		require.NoError(t, err)
		for i, m := range tr.SGD.Buffers {
			if m != nil {
				v, err := torch.Slice[float32](m)
				require.NoError(t, err)
				out[fmt.Sprintf("momentum %d", i)] = torchtest.Bits(v)
			}
		}
		l := tr.Logging
		l.EpochStart, l.EpochEnd = nil, nil
		out["log"], out["epoch"], out["best"], out["extra"] = fmt.Sprint(l), tr.Epoch, *tr.BestEMA, tr.Extra
		return nil
	}))
	return out
}

func TestSameSeedSameBitsWhateverTheWorkers(t *testing.T) {
	torchtest.NoLeak(t)
	var first map[string]any
	for _, workers := range []int{1, 2, 4} {
		c := tiny{}.config(t, "plain", "dgst", nil)
		c.Workers = workers
		got := state(t, run(t, c).Checkpoint)
		if first == nil {
			first = got
		}
		require.Equal(t, first, got, "%d workers", workers)
	}
	c := tiny{}.config(t, "plain", "dgst", nil)
	c.Seed = 8
	require.NotEqual(t, first["log"], state(t, run(t, c).Checkpoint)["log"])
}

// stopper cancels a training after a number of progress calls: iterations and validation iterations of every epoch.
type stopper struct {
	left   int
	cancel context.CancelFunc
}

func (*stopper) Begin(string, int) {}
func (*stopper) End()              {}
func (s *stopper) Done(int, string) {
	if s.left--; s.left == 0 {
		s.cancel()
	}
}

func TestInterruptedAnywhereResumesToTheSameBits(t *testing.T) {
	for name, o := range map[string]struct {
		tiny   tiny
		method string
		values finetune.Values
		every  int // of the places to stop at
	}{
		"full with dropout": {tiny{dropout: "0.3"}, "full", nil, 1},
		"dgst":              {tiny{}, "dgst", nil, 1},
		"dgst static":       {tiny{}, "dgst", finetune.Values{"dgst-select": "static", "dgst-mode": "strict"}, 1},
		"dgst warm-up":      {tiny{}, "dgst", finetune.Values{"dgst-select": "static", "dgst-warmup": "4"}, 1},
		"dgst random":       {tiny{}, "dgst", finetune.Values{"dgst-select": "random", "dgst-rows": "kernel"}, 1},
		"head":              {tiny{}, "head", nil, 4},
		"bias":              {tiny{}, "bias", nil, 4},
		"norm":              {tiny{}, "norm", nil, 4},
		"lora with dropout": {tiny{}, "lora", finetune.Values{"lora-rank": "2", "lora-dropout": "0.2"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.NoLeak(t)
			whole := o.tiny.config(t, "plain", o.method, o.values)
			want := run(t, whole)
			wantFinal, wantBest := state(t, want.Checkpoint), state(t, filepath.Join(want.Folder, "checkpoint_best.pth"))
			for stop := 1; stop <= 14; stop += o.every {
				c := o.tiny.config(t, "plain", o.method, o.values)
				ctx, cancel := context.WithCancel(context.Background())
				c.Progress = &stopper{stop, cancel}
				_, err := train.Run(ctx, c)
				var stopped *train.Interrupted
				if !errors.As(err, &stopped) { // the training was over
					require.Greater(t, stop, 11, "%v", err)
					cancel()
					continue
				}
				f, err := checkpoint.Open(stopped.Checkpoint)
				require.NoError(t, err)
				require.Equal(t, stopped.Epoch, f.Epoch, "nnU-Net repeats the interrupted epoch")
				require.NoError(t, f.Close())
				require.ErrorContains(t, stopped, "--c")
				c = again(t, c, o.values)
				c.Progress, c.Continue = nil, true
				got := run(t, c)
				require.Equal(t, wantFinal, state(t, got.Checkpoint), "stopped after %d", stop)
				require.Equal(t, wantBest, state(t, filepath.Join(got.Folder, "checkpoint_best.pth")), "best, stopped after %d", stop)
				require.Equal(t, want.Dice, got.Dice)
			}
		})
	}
}

func TestAFinishedTrainingResumesToNothingButValidation(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	r := run(t, c)
	before := state(t, r.Checkpoint)
	c = again(t, c, nil)
	c.Continue = true
	require.Equal(t, before, state(t, run(t, c).Checkpoint))
}

func TestTheResultFolderIsNnUNets(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	var log strings.Builder
	c.Echo = &log
	r := run(t, c)
	require.Equal(t, filepath.Join(c.Results, "Dataset900_Tiny/nnUNetTrainer__nnUNetPlans__tiny/fold_0"), r.Folder)
	for _, name := range []string{"../plans.json", "../dataset.json", "../dataset_fingerprint.json", "checkpoint_final.pth", "checkpoint_best.pth", "progress.png",
		"run.json", "validation/summary.json", "validation/case_0.npz", "validation/case_4.npz"} {
		require.FileExists(t, filepath.Join(r.Folder, name))
	}
	require.NoFileExists(t, filepath.Join(r.Folder, "checkpoint_latest.pth"))
	for _, line := range []string{"Epoch 0", "Current learning rate: 0.01", "train_loss ", "val_loss ", "Pseudo dice [", "Epoch time: ", "Training done.", "predicting case_0",
		"method full trains 7,248 of 7,248 parameters", "needs about"} {
		require.Contains(t, log.String(), line)
	}
	var doc struct {
		Status     string
		Settings   map[string]any
		SHA256     map[string]string `json:"sha256"`
		Parameters map[string]int
		Timing     struct {
			Iteration map[string]float64 `json:"iteration_ms"`
			Wait      map[string]float64 `json:"wait_for_data_ms"`
		}
		Peak    int64  `json:"peak_memory_bytes"`
		Tensors *int64 `json:"peak_tensor_bytes"`
	}
	b, err := os.ReadFile(filepath.Join(r.Folder, "run.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &doc))
	require.Equal(t, "validated", doc.Status)
	require.EqualValues(t, 7, doc.Settings["seed"])
	require.Len(t, doc.SHA256["case case_0"], 64)
	require.Len(t, doc.SHA256["plans"], 64)
	require.Positive(t, doc.Timing.Iteration["median"])
	require.GreaterOrEqual(t, doc.Timing.Iteration["p90"], doc.Timing.Iteration["median"])
	require.Positive(t, doc.Peak)
	require.NotNil(t, doc.Tensors)
	require.Less(t, *doc.Tensors, doc.Peak)

	f, err := checkpoint.Open(r.Checkpoint)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, 2, f.Epoch)
	require.Equal(t, []int{0, 1, 2}, f.MirrorAxes)
	require.Equal(t, "nnUNetTrainer", f.Trainer)

	summary, err := os.ReadFile(r.Validation)
	require.NoError(t, err)
	require.Contains(t, string(summary), train.GridNote)
	_, err = eval.ReadSummary(r.Validation)
	require.NoError(t, err)
}

func TestEveryKindOfLabelsTrains(t *testing.T) {
	torchtest.NoLeak(t)
	for _, set := range []string{"plain", "ignore", "regions", "regions_ignore"} {
		for _, dim := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s %dd", set, dim), func(t *testing.T) {
				c := tiny{dim: dim}.config(t, set, "dgst", nil)
				r := run(t, c)
				f, err := checkpoint.Open(r.Checkpoint)
				require.NoError(t, err)
				defer f.Close()
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					tr, err := f.Training(s)
					require.NoError(t, err)
					for _, l := range slices.Concat(tr.Logging.TrainLosses, tr.Logging.ValLosses) {
						require.False(t, math.IsNaN(float64(l)))
					}
					require.Len(t, tr.Logging.Dice, 2)
					return nil
				}))
				summary, err := eval.ReadSummary(r.Validation)
				require.NoError(t, err)
				require.Len(t, summary.Cases, 2)
			})
		}
	}
}

func TestPretrainedWeightsAndHeads(t *testing.T) {
	source := run(t, tiny{}.config(t, "plain", "full", nil))
	want := readWeights(t, source.Checkpoint)
	for _, head := range []train.Head{train.HeadReset, train.HeadKeep} {
		c := tiny{}.config(t, "plain", "dgst", finetune.Values{"dgst-mode": "paper"})
		c.Pretrained, c.Head = source.Checkpoint, head
		// Learning rates too small to change a bit show the weights that training began with.
		c.LR = 1e-30
		c.WeightDecay = 0
		got := readWeights(t, run(t, c).Checkpoint)
		for name, w := range want {
			if head == train.HeadReset && strings.Contains(name, ".seg_layers.") {
				if strings.HasSuffix(name, "weight") {
					require.NotEqual(t, w, got[name], "%s is reinitialised", name)
				}
				continue
			}
			golden.Equal(t, name, []int{len(w)}, w, got[name])
		}
	}
}

func TestCheckpointingCanBeSwitchedOff(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	c.DisableCheckpointing = true
	r := run(t, c)
	require.Empty(t, r.Checkpoint)
	found, err := filepath.Glob(filepath.Join(r.Folder, "*.pth"))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestValidationAloneRepeatsTheScores(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	r := run(t, c)
	c = again(t, c, nil)
	c.ValidateOnly = true
	require.Equal(t, r.Dice, run(t, c).Dice)
	c.Checkpoint, c.ValidationFolder = r.Checkpoint, filepath.Join(t.TempDir(), "elsewhere")
	other := run(t, again(t, c, nil))
	require.Equal(t, r.Dice, other.Dice)
	require.FileExists(t, filepath.Join(c.ValidationFolder, "summary.json"))
}

// Without a checkpoint to validate the error says what there is and what to do next.
func TestValidationBeforeTrainingSaysWhatToDo(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	validate := func(best bool) error {
		c := again(t, c, nil)
		c.ValidateOnly, c.ValidateBest, c.Progress = true, best, nil
		_, err := train.Run(context.Background(), c)
		return err
	}
	for best, name := range map[bool]string{false: "checkpoint_final.pth", true: "checkpoint_best.pth"} {
		require.ErrorContains(t, validate(best), filepath.Join("fold_0", name)+" is missing, which is to be validated; "+
			"it was not trained yet: train it without --val first")
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{1, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	require.ErrorContains(t, validate(false), "the training stopped at checkpoint_latest.pth: --c without --val finishes it, and "+
		"`lntorch validate --checkpoint` scores any checkpoint")
}

// A training that begins anew in a used folder, as nnU-Net's does, leaves the earlier one's checkpoint
// under another name, once for each.
func TestANewTrainingKeepsTheEarlierCheckpoint(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	kept := func() []string {
		found, err := filepath.Glob(filepath.Join(c.Results, "*", "*", "fold_0", "checkpoint_*_2*.pth"))
		require.NoError(t, err)
		return found
	}
	first := run(t, c)
	require.Empty(t, kept())
	written, err := os.ReadFile(first.Checkpoint)
	require.NoError(t, err)
	when := time.Date(2021, 2, 3, 4, 5, 6, 0, time.Local)
	require.NoError(t, os.Chtimes(first.Checkpoint, when, when))
	var echo bytes.Buffer
	anew := func(seed uint64, stop bool) {
		c := again(t, c, nil)
		c.Seed, c.Echo = seed, &echo
		if stop {
			ctx, cancel := context.WithCancel(context.Background())
			c.Progress = &stopper{1, cancel}
			var stopped *train.Interrupted
			_, err := train.Run(ctx, c)
			require.ErrorAs(t, err, &stopped)
			return
		}
		run(t, c)
	}
	anew(8, true) // the earlier one's is still the final one
	anew(8, false)
	require.Len(t, kept(), 1)
	require.Equal(t, "checkpoint_final_2021_02_03_04_05_06.pth", filepath.Base(kept()[0]))
	old, err := os.ReadFile(kept()[0])
	require.NoError(t, err)
	require.True(t, bytes.Equal(written, old))
	fresh, err := os.ReadFile(first.Checkpoint)
	require.NoError(t, err)
	require.False(t, bytes.Equal(written, fresh))
	require.Contains(t, echo.String(), "fold_0 holds a training already, and a new one begins: checkpoint_final.pth stays there as "+
		"checkpoint_final_2021_02_03_04_05_06.pth. --c continues a training instead")
	// of the same second
	require.NoError(t, os.Chtimes(first.Checkpoint, when, when))
	anew(9, false)
	require.Len(t, kept(), 2)
	// without a final one, the latest
	require.NoError(t, os.Remove(first.Checkpoint))
	anew(10, true)
	anew(11, true)
	require.Len(t, kept(), 3)
	require.Contains(t, kept()[2], "checkpoint_latest_2")
	// what is continued is not begun anew
	c = again(t, c, nil)
	c.Seed, c.Continue = 11, true
	run(t, c)
	require.Len(t, kept(), 3)
}

// What went wrong is said with the file, what was found, what was expected and what to do.
func TestErrorsSayWhatToDo(t *testing.T) {
	good := run(t, tiny{}.config(t, "plain", "full", nil))
	data := func(c train.Config, name string) string {
		return filepath.Join(c.Preprocessed, "nnUNetPlans_tiny", name)
	}
	for name, o := range map[string]struct {
		spoil func(t *testing.T, c *train.Config)
		want  []string
	}{
		"NaN in a case": {func(t *testing.T, c *train.Config) {
			for _, key := range []string{"case_0", "case_1", "case_3"} {
				rewrite(t, data(*c, key+".npz"), func(v []float32) { v[0], v[len(v)/2] = nan(), nan(); fill(v, nan()) })
			}
		}, []string{"case_", ".npz: found NaN in channel 0 at voxel [0 0 0], expected finite", "preprocess it again"}},
		"weights that run away": {func(_ *testing.T, c *train.Config) { c.LR = 1e30 },
			[]string{"loss is NaN, expected a number (cases case_", "weights were not updated", "lntorch inspect", "lower --lr"}},
		"no such configuration":  {func(_ *testing.T, c *train.Config) { c.Configuration = "3d_huge" }, []string{"3d_huge", "tiny"}},
		"no such plans":          {func(_ *testing.T, c *train.Config) { c.PlansName = "otherPlans" }, []string{"otherPlans.json"}},
		"missing pkl":            {func(t *testing.T, c *train.Config) { require.NoError(t, os.Remove(data(*c, "case_0.pkl"))) }, []string{"case_0.pkl"}},
		"truncated npz":          {func(t *testing.T, c *train.Config) { require.NoError(t, os.Truncate(data(*c, "case_0.npz"), 700)) }, []string{"case_0.npz"}},
		"case in the split only": {func(t *testing.T, c *train.Config) { require.NoError(t, os.Remove(data(*c, "case_1.npz"))) }, []string{"splits_final.json", "case_1"}},
		"too few cases": {func(t *testing.T, c *train.Config) {
			require.NoError(t, os.Remove(filepath.Join(c.Preprocessed, "splits_final.json")))
			require.NoError(t, os.Remove(data(*c, "case_4.npz")))
		}, []string{"fold all", "splits_final.json", `"train"`}},
		"patch that does not divide": {func(_ *testing.T, c *train.Config) { c.PatchSize = []int{8, 9, 8} }, []string{"[8 9 8]", "[2 4 4]", "[8 8 8]"}},
		"half a checkpoint": {func(t *testing.T, c *train.Config) {
			b, err := os.ReadFile(good.Checkpoint)
			require.NoError(t, err)
			c.Pretrained = filepath.Join(t.TempDir(), "half.pth")
			write(t, c.Pretrained, string(b[:len(b)/2]))
		}, []string{"half.pth"}},
		"another network's weights": {func(t *testing.T, c *train.Config) {
			c.Pretrained = mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
		}, []string{"mismatched", "encoder.stages.0.0.convs.0.conv.weight", "file [8 1 1 3 3], network [4 3 1 3 3]", "lntorch inspect"}},
		"both --c and pretrained": {func(_ *testing.T, c *train.Config) { c.Continue, c.Pretrained = true, "x" }, []string{"--c", "-pretrained_weights"}},
		"fp16 on the CPU":         {func(_ *testing.T, c *train.Config) { c.AMP = machine.AMPFP16 }, []string{"bf16"}},
		"a device that is not":    {func(_ *testing.T, c *train.Config) { c.Device = torch.Device{Type: torch.DeviceCUDA, Index: 99} }, []string{"cuda:99"}},
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

func TestContinuingWithOtherSettingsIsRefused(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{3, cancel}
	_, err := train.Run(ctx, c)
	require.Error(t, err)
	c = again(t, c, nil)
	c.Progress, c.Continue, c.Seed = nil, true, 8
	_, err = train.Run(context.Background(), c)
	require.ErrorContains(t, err, "seed 7 (now 8)")
}

func nan() float32 { return float32(math.NaN()) }

func fill(v []float32, x float32) {
	for i := range v {
		v[i] = x
	}
}

// rewrite changes the image of a case.
func rewrite(t *testing.T, path string, change func([]float32)) {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	arrays := map[string]*npz.Array{}
	for _, name := range f.Names() {
		arrays[name], err = f.Read(name)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	v, err := arrays["data"].Float32s()
	require.NoError(t, err)
	change(v)
	arrays["data"], err = npz.New(v, arrays["data"].Shape...)
	require.NoError(t, err)
	w, err := npz.Create(path, true)
	require.NoError(t, err)
	for name, a := range arrays {
		require.NoError(t, w.Add(name, a))
	}
	require.NoError(t, w.Close())
}

// sampler notes the tensors' memory after each iteration.
type sampler struct {
	t       *testing.T
	samples [][3]int64 // in use, in use at the most, kept
	epochs  []int      // first sample of each
}

func (s *sampler) Begin(name string, _ int) {
	if strings.HasPrefix(name, "epoch") {
		s.epochs = append(s.epochs, len(s.samples))
	}
}
func (*sampler) End() {}
func (s *sampler) Done(int, string) {
	use, peak, kept, err := torch.CPUMemory()
	require.NoError(s.t, err)
	s.samples = append(s.samples, [3]int64{use, peak, kept})
}

// A long run needs no more than its second epoch did.
func TestMemoryDoesNotGrow(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.CPU.EmptyCache())
	c := tiny{}.config(t, "plain", "full", nil)
	s := &sampler{t: t}
	c.Progress, c.Epochs, c.Iterations, c.ValIterations, c.PatchSize = s, 12, 8, 2, []int{16, 48, 48}
	handles := torch.Live()
	run(t, c)
	require.Equal(t, handles, torch.Live())
	early, late := s.samples[s.epochs[1]:s.epochs[2]], s.samples[s.epochs[10]:s.epochs[11]]
	require.Len(t, late, len(early))
	require.Greater(t, early[3][1], int64(1<<20))
	for i := range early {
		require.Equal(t, early[i][0], late[i][0], "in use after step %d", i)
		require.Equal(t, early[i][1], late[i][1], "in use at the most until step %d", i)
		require.LessOrEqual(t, late[i][2], early[i][2]+(1<<20), "kept after step %d", i)
	}
}

func TestBFloat16AutocastTrains(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	c.AMP = machine.AMPBF16
	r := run(t, c)
	require.FileExists(t, r.Checkpoint)
}
