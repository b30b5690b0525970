package train_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// phantom is a training on phantom-mini's target cases, which nnU-Net preprocessed: 4 epochs of 2 + 2 iterations.
func phantom(t *testing.T, method string) train.Config {
	t.Helper()
	torchtest.Require(t)
	m, entry := makeMethod(t, method, nil)
	pre := filepath.Join(t.TempDir(), "preprocessed")
	require.NoError(t, os.CopyFS(pre, os.DirFS(mini(t, "preprocessed"))))
	return train.Config{Preprocessed: filepath.Join(pre, "Dataset102_PhantomTarget"), Results: filepath.Join(t.TempDir(), "results"),
		PlansName: "nnUNetPlansSource", Configuration: "3d_phantom", Fold: "0", Trainer: "nnUNetTrainer", MethodName: method, Method: m,

		Pretrained: mini(t, sourceModel+"/fold_0/checkpoint_final.pth"), Settings: train.Settings{NoMirroring: true,
			Epochs: 4, Iterations: 2, ValIterations: 2, BatchSettings: train.BatchSettings{Oversample: 0.33},
			Head: train.HeadKeep, Optimizer:

			// stack runs stock nnU-Net on the same folders and gives the last line it printed.
			train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2},
	}
}

func stack(t *testing.T, c train.Config, command string, args ...string) string {
	t.Helper()
	out := golden.Run(t, "nnunet_stack.py", append([]string{"--threads", "2", command, "--preprocessed", filepath.Dir(c.Preprocessed), "--results", c.Results, "--dataset", "Dataset102_PhantomTarget",
		"--configuration", c.Configuration, "--fold", c.Fold, "--plans", c.PlansName, "--epochs", "4", "--iterations", "2"}, args...)...)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func fold(c train.Config) string {
	return filepath.Join(c.Results, "Dataset102_PhantomTarget", c.Trainer+"__"+c.PlansName+"__"+c.Configuration, "fold_0")
}

// nnU-Net goes on from a training that lntorch stopped after an epoch, to the end.
func TestLiveNnUNetContinuesOurTraining(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "dgst")
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{left: 6, cancel: cancel} // in the second epoch
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	golden.Run(t, "nnunet_stack.py", "weights-only", stopped.Checkpoint)
	var answer map[string]any
	require.NoError(t, json.Unmarshal([]byte(stack(t, c, "resume")), &answer), "nnU-Net's answer")
	f, err := checkpoint.Open(filepath.Join(fold(c), "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, 4, f.Epoch)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := f.Training(s)
		require.NoError(t, err)
		require.Len(t, tr.Logging.TrainLosses, 4)
		return nil
	}))
}

// lntorch goes on from a training that nnU-Net stopped after two epochs.
func TestLiveWeContinueNnUNetsTraining(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "full")
	stack(t, c, "train", "--stop-after", "1", "--pretrained", c.Pretrained)
	latest := filepath.Join(fold(c), "checkpoint_latest.pth")
	f, err := checkpoint.Open(latest)
	require.NoError(t, err)
	require.Equal(t, 2, f.Epoch)
	require.NoError(t, f.Close())
	// What we load and save again is what nnU-Net saved, tensor by tensor.
	p, err := pth.Open(latest)
	require.NoError(t, err)
	defer p.Close()
	copied := filepath.Join(t.TempDir(), "copy.pth")
	require.NoError(t, pth.Save(copied, p.Root))
	golden.Run(t, "nnunet_stack.py", "compare-pth", latest, copied)

	// Stopped before its first iteration, lntorch saves what nnU-Net left: every weight and all momentum.
	theirs := state(t, latest)
	c.Pretrained, c.Continue = "", true
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	require.Equal(t, 2, stopped.Epoch)
	ours := state(t, latest)
	delete(theirs, "extra")
	delete(ours, "extra")
	require.Equal(t, theirs, ours)
	golden.Run(t, "nnunet_stack.py", "compare-pth", latest, copied, "--only", "network_weights")

	c = again(t, c, nil)
	r := run(t, c)
	end, err := checkpoint.Open(r.Checkpoint)
	require.NoError(t, err)
	defer end.Close()
	require.Equal(t, 4, end.Epoch)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := end.Training(s)
		require.NoError(t, err)
		require.Len(t, tr.Logging.TrainLosses, 4)
		require.Len(t, tr.Logging.Dice, 4)
		return nil
	}))
}

// nnU-Net takes our weights as pretrained ones, and predicts images with our model folder.
func TestLiveNnUNetPredictsWithOurModel(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "dgst")
	c.Epochs = 2
	r := run(t, c)
	folder := filepath.Dir(r.Folder)
	out := t.TempDir()
	golden.Run(t, "nnunet_stack.py", "--threads", "2", "predict", "--model-folder", folder, "--input-dir", mini(t, "raw/Dataset102_PhantomTarget/imagesTs"), "--output-dir", out,
		"--folds", "0", "--disable-tta")
	for _, name := range []string{"LN_004.nii.gz", "LN_005.nii.gz"} {
		info, err := os.Stat(filepath.Join(out, name))
		require.NoError(t, err)
		require.Greater(t, info.Size(), int64(200))
	}
	golden.Run(t, "nnunet_stack.py", "pretrained", "--plans", filepath.Join(folder, "plans.json"), "--dataset-json", filepath.Join(folder, "dataset.json"),
		"--configuration", c.Configuration, "--checkpoint", r.Checkpoint)
}

// The final validation with --numerics reference writes nnU-Net's own files: the labels on the grid
// of the images, probabilities and properties, the scores, and what the next stage of a cascade takes.
func TestLiveValidationIsNnUNets(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "full")
	path := filepath.Join(c.Preprocessed, c.PlansName+".json")
	doc, err := plans.ReadJSON(path)
	require.NoError(t, err)
	v, _ := doc.(*plans.Object).Get("configurations")
	configurations := v.(*plans.Object)
	own, _ := configurations.Get(c.Configuration)
	own.(*plans.Object).Set("next_stage", "next")
	configurations.Set("next", plans.NewObject("inherits_from", c.Configuration, "data_identifier", "next",
		"previous_stage", c.Configuration, "next_stage", nil, "spacing", []any{1.7, 0.9, 1.3}))
	require.NoError(t, plans.WriteJSON(path, doc, false))
	p, err := plans.Load(path)
	require.NoError(t, err)
	next, err := p.Configuration("next")
	require.NoError(t, err)
	d, err := raw.Open(mini(t, "raw"), "Dataset102_PhantomTarget")
	require.NoError(t, err)
	settings, err := preprocess.NewSettings(p, next, d.JSON)
	require.NoError(t, err)
	reader, err := images.ForName(p.ImageReaderWriter)
	require.NoError(t, err)
	job := preprocess.Job{Dataset: d, Reader: reader, Settings: settings, Folder: filepath.Join(c.Preprocessed, "next"), Workers: 2, Threads: 2}
	_, err = job.Run(t.Context())
	require.NoError(t, err)

	weights, err := os.ReadFile(c.Pretrained)
	require.NoError(t, err)
	c.Pretrained, c.ValidateOnly, c.Npz, c.Numerics = "", true, true, machine.Reference
	theirs := c
	theirs.Results = filepath.Join(t.TempDir(), "nnunet")
	for _, c := range []train.Config{c, theirs} {
		require.NoError(t, os.MkdirAll(fold(c), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(fold(c), "checkpoint_final.pth"), weights, 0o600))
	}
	r := run(t, c)
	require.False(t, r.Preprocessed)
	golden.Run(t, "nnunet_stack.py", "--threads", "2", "validate", "--preprocessed", filepath.Dir(c.Preprocessed), "--results", theirs.Results,
		"--dataset", "Dataset102_PhantomTarget", "--configuration", c.Configuration, "--plans", c.PlansName, "--disable-tta", "--npz")

	requireSameValidation(t, theirs, c, 7)
	for _, name := range []string{"LN_002.npz", "LN_003.npz"} {
		stage := filepath.Join("predicted_next_stage", "next", name)
		shape, x := npzFloats(t, filepath.Join(filepath.Dir(fold(theirs)), stage), "seg")
		size, y := npzFloats(t, filepath.Join(filepath.Dir(fold(c)), stage), "seg")
		require.Equal(t, shape, size)
		require.Equal(t, x, y, name)
		require.Contains(t, y, float32(1))
	}
}

// The final validation of a training with --numerics reference is what nnU-Net's --val makes of the
// checkpoint. With numerics fast a label may differ where nnU-Net's float16 sums leave two labels
// equal.
func TestLiveValidationOfATrainingIsNnUNets(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "full")
	c.Epochs, c.Numerics, c.Npz = 1, machine.Reference, true
	r := run(t, c)
	require.False(t, r.Preprocessed)
	weights, err := os.ReadFile(r.Checkpoint)
	require.NoError(t, err)
	theirs := c
	theirs.Results = filepath.Join(t.TempDir(), "nnunet")
	require.NoError(t, os.MkdirAll(fold(theirs), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(fold(theirs), "checkpoint_final.pth"), weights, 0o600))
	golden.Run(t, "nnunet_stack.py", "--threads", "2", "validate", "--preprocessed",
		filepath.Dir(c.Preprocessed), "--results", theirs.Results, "--dataset",
		"Dataset102_PhantomTarget", "--configuration", c.Configuration, "--plans", c.PlansName,
		"--disable-tta", "--npz")
	requireSameValidation(t, theirs, c, 7)

	c.ValidateOnly, c.Pretrained, c.Numerics = true, "", machine.Fast
	run(t, c)
	requireSameButTies(t, theirs, c)
}

// requireSameButTies compares the labels of two validations, of which the first is nnU-Net's with
// probabilities: at least 99.99 % are equal, and where they differ nnU-Net's probabilities of the
// two labels lie within 2e-3, twice what its float16 sums are known to miss.
func requireSameButTies(t *testing.T, theirs, ours train.Config) {
	t.Helper()
	reader, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	for _, name := range []string{"LN_002", "LN_003"} {
		want := filepath.Join(fold(theirs), "validation", name)
		x, err := labelmap.Read(reader, want+".nii.gz")
		require.NoError(t, err)
		y, err := labelmap.Read(reader, filepath.Join(fold(ours), "validation", name+".nii.gz"))
		require.NoError(t, err)
		shape, p := npzFloats(t, want+".npz", "probabilities")
		require.Equal(t, append([]int{2}, x.Shape[:]...), shape)
		require.Equal(t, x.Shape, y.Shape)
		n, different := len(x.Small), 0
		for i, label := range x.Small {
			if label != y.Small[i] {
				different++
				require.InDelta(t, p[i], p[n+i], 2e-3, "%s, voxel %d of %v", name, i, x.Shape)
			}
		}
		t.Logf("%s: %d of %d labels differ", name, different, n)
		require.LessOrEqual(t, different, n/10000, name)
		require.Contains(t, y.Small, byte(1))
	}
}

// requireSameValidation compares the files of two validations, of which the second is ours.
func requireSameValidation(t *testing.T, theirs, ours train.Config, files int) {
	t.Helper()
	want, got := filepath.Join(fold(theirs), "validation"), filepath.Join(fold(ours), "validation")
	p, err := plans.Load(filepath.Join(ours.Preprocessed, ours.PlansName+".json"))
	require.NoError(t, err)
	reader, err := images.ForName(p.ImageReaderWriter)
	require.NoError(t, err)
	entries, err := os.ReadDir(want)
	require.NoError(t, err)
	var names []string
	foreground := 0
	for _, e := range entries {
		names = append(names, e.Name())
		a, b := filepath.Join(want, e.Name()), filepath.Join(got, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".gz":
			x, err := labelmap.Read(reader, a)
			require.NoError(t, err)
			y, err := labelmap.Read(reader, b)
			require.NoError(t, err)
			require.Equal(t, x.Shape, y.Shape, e.Name())
			require.True(t, bytes.Equal(x.Small, y.Small), e.Name())
			foreground += len(x.Small) - bytes.Count(x.Small, []byte{0})
		case ".npz":
			shape, x := npzFloats(t, a, "probabilities")
			_, y := npzFloats(t, b, "probabilities")
			different := 0
			for i := range x {
				if x[i] != y[i] {
					different++
					require.InDelta(t, x[i], y[i], 2e-3, "%s, value %d of %v", e.Name(), i, shape)
				}
			}
			require.Len(t, y, len(x))
			require.LessOrEqual(t, different, len(x)/1000, e.Name())
		case ".pkl":
			x, err := pickle.ReadFile(a)
			require.NoError(t, err)
			y, err := pickle.ReadFile(b)
			require.NoError(t, err)
			require.Equal(t, x, y, e.Name())
		case ".json":
			x, err := os.ReadFile(a)
			require.NoError(t, err)
			y, err := os.ReadFile(b)
			require.NoError(t, err)
			require.Equal(t, strings.ReplaceAll(string(x), theirs.Results, ours.Results), string(y))
		}
	}
	require.Len(t, names, files, "%s", names)
	require.Greater(t, foreground, 500)
	entries, err = os.ReadDir(got)
	require.NoError(t, err)
	require.Len(t, entries, len(names))
}

func npzFloats(t *testing.T, path, name string) ([]int, []float32) {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	return golden.Float32s(t, f, name)
}

// Stock nnU-Net trains and validates on cases that lntorch preprocessed, and so does lntorch; both have the same data before them as when
// nnU-Net preprocessed it.
func TestLiveNnUNetTrainsOnOurPreprocessing(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "full")
	const name = "Dataset102_PhantomTarget"
	d, err := raw.Open(mini(t, "raw"), name)
	require.NoError(t, err)
	p, err := plans.Load(filepath.Join(c.Preprocessed, c.PlansName+".json"))
	require.NoError(t, err)
	configuration, err := p.Configuration(c.Configuration)
	require.NoError(t, err)
	settings, err := preprocess.NewSettings(p, configuration, d.JSON)
	require.NoError(t, err)
	reader, err := images.ForName(p.ImageReaderWriter)
	require.NoError(t, err)
	folder := filepath.Join(c.Preprocessed, configuration.DataIdentifier)
	require.NoError(t, os.RemoveAll(folder))
	job := preprocess.Job{Dataset: d, Reader: reader, Settings: settings, Folder: folder, Workers: 2, Threads: 2}
	s, err := job.Run(t.Context())
	require.NoError(t, err)
	require.Equal(t, len(d.Cases), s.Made)

	stack(t, c, "train", "--pretrained", c.Pretrained)
	f, err := checkpoint.Open(filepath.Join(fold(c), "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, 4, f.Epoch)

	// lntorch's numbers do not depend on who preprocessed.
	theirs := phantom(t, "full")
	c = again(t, c, nil)
	c.Results = filepath.Join(t.TempDir(), "results")
	a, b := run(t, theirs), run(t, c)
	want, got := state(t, a.Checkpoint), state(t, b.Checkpoint)
	delete(want, "extra")
	delete(got, "extra")
	require.Equal(t, want, got)
}
