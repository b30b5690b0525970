package train_test

import (
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
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/npz"
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
			Epochs: 4, Iterations: 2, ValIterations: 2, Oversample: 0.33,
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

// The final validation of the source model has nnU-Net's own labels, voxel by voxel, with --numerics reference.
func TestLiveValidationHasNnUNetsLabels(t *testing.T) {
	golden.Python(t)
	c := phantom(t, "full")
	c.ValidateOnly, c.Checkpoint, c.Numerics = true, c.Pretrained, machine.Reference
	c.Pretrained = ""
	c.ValidationFolder = t.TempDir()
	run(t, c)
	summary, err := eval.ReadSummary(filepath.Join(c.ValidationFolder, "summary.json"))
	require.NoError(t, err)
	require.Len(t, summary.Cases, 2)
	out := filepath.Join(t.TempDir(), "logits.npz")
	golden.Run(t, "sliding_window.py", "--threads", "2", "--out", out, "--input", filepath.Join(c.Preprocessed, "nnUNetPlansSource_3d_fullres/LN_002.npz"),
		"--model-folder", mini(t, sourceModel), "--no-mirroring")
	f, err := npz.OpenNpz(out)
	require.NoError(t, err)
	defer f.Close()
	_, logits := golden.Float32s(t, f, "logits")
	ours, err := npz.OpenNpz(filepath.Join(c.ValidationFolder, "LN_002.npz"))
	require.NoError(t, err)
	defer ours.Close()
	a, err := ours.Read("seg")
	require.NoError(t, err)
	labels, err := a.Uint8s()
	require.NoError(t, err)
	require.Len(t, logits, 2*len(labels))
	for i, l := range labels {
		want := uint8(0)
		if logits[len(labels)+i] > logits[i] {
			want = 1
		}
		require.Equal(t, want, l, "voxel %d", i)
	}
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
