package models_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/stretchr/testify/require"
)

// midSize is a network of the size that trains on small data sets; its kernels, unlike those of the
// small cases, run on several threads and in oneDNN's blocked layouts.
const midSize = `{"name": "mid-size", "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
	"arch_kwargs": {"n_stages": 5, "features_per_stage": [16, 32, 64, 128, 160], "conv_op": "torch.nn.modules.conv.Conv3d",
		"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
		"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
		"n_conv_per_stage": [2, 2, 2, 2, 2], "n_conv_per_stage_decoder": [2, 2, 2, 2], "conv_bias": true,
		"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": true},
		"dropout_op": null, "dropout_op_kwargs": null, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}},
	"_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]},
	"input_channels": 1, "num_classes": 2, "input_shape": [2, 1, 32, 96, 96], "deep_supervision": true, "mode": "train",
	"labels": {"background": 0, "node": 1}, "batch_dice": false}`

// python skips without an oracle, and sets the oracle's thread count to ours.
func python(t *testing.T) {
	t.Helper()
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
}

// TestLiveNetworks: every head, the loss and every gradient have Python's bits: plain and residual
// networks, 2d and 3d, anisotropic, bottlenecks, dropout and biases on and off, several channels
// and classes.
func TestLiveNetworks(t *testing.T) {
	python(t)
	dir := t.TempDir()
	golden.Run(t, "network.py", "--out", dir, "--threads", fmt.Sprint(threads))
	for path, sp := range networkCases(t, dir) {
		t.Run(sp.Name, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				requireSameBits(t, readNpz(t, path),
					forwardBackward(t, s, sp))
			})
		})
	}
	t.Run("mid-size", func(t *testing.T) {
		path := filepath.Join(dir, "mid-size.npz")
		golden.Run(t, "network.py", "--spec", writeSpec(t, midSize), "--out", path, "--threads",
			fmt.Sprint(threads))
		var sp spec
		require.NoError(t, json.Unmarshal([]byte(midSize), &sp))
		onTorch(t, func(s *torch.Scope) {
			requireSameBits(t, readNpz(t, path),
				forwardBackward(t, s, sp))
		})
	})
}

// TestLiveFullSize: checkpoints of nnU-Net's standard networks written by Python; heads, loss and
// every gradient on a small patch are bit-equal to Python's. ResEncM is ResEncL's network
// (TestStateDicts) with another patch.
func TestLiveFullSize(t *testing.T) {
	python(t)
	for _, name := range []string{"plainconvunet", "resencl"} {
		t.Run(name, func(t *testing.T) {
			_, sp := readStateDict(t, name)
			sp.InputShape, sp.DeepSupervision = []int64{1, 1, 32, 64, 64}, true
			requireFullSize(t, sp)
		})
	}
}

// requireFullSize has Python write a checkpoint of sp's network, loads it and compares the results
// by digest: the arrays take hundreds of megabytes.
func requireFullSize(t *testing.T, sp spec) {
	t.Helper()
	sp.Mode = "train"
	text, err := json.Marshal(sp)
	require.NoError(t, err)
	dir := t.TempDir()
	golden.Run(t, "full_size.py", "--spec", writeSpec(t, string(text)), "--out", dir, "--threads",
		fmt.Sprint(threads), "--seed", "5", "--deterministic")
	var want struct {
		Parameters int64
		SHA256     map[string]string
	}
	readJSON(t, filepath.Join(dir, "full_size.json"), &want)
	onTorch(t, func(s *torch.Scope) {
		n := build(t, s, sp)
		require.Equal(t, want.Parameters, models.ParameterCount(n))
		f, err := checkpoint.Open(filepath.Join(dir, "checkpoint.pth"))
		require.NoError(t, err)
		defer f.Close()
		_, err = checkpoint.LoadWeights(n.Module(), f.Weights, checkpoint.LoadOptions{})
		require.NoError(t, err)
		got := map[string]string{}
		for name, v := range propagate(t, s, n, sp) {
			h := sha256.New()
			require.NoError(t, binary.Write(h, binary.LittleEndian, v))
			got[name] = hex.EncodeToString(h.Sum(nil))
		}
		require.Equal(t, want.SHA256, got)
	})
}

func writeSpec(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "spec.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// TestLiveSteps: ten whole training steps have Python's bits: loss and gradient norm of each, first
// gradients and final weights, and in the small cases each clipped gradient, weight and momentum
// after every step.
func TestLiveSteps(t *testing.T) {
	python(t)
	specs := map[string]string{"mid-size": midSize}
	files, err := filepath.Glob(golden.Path(t, "train/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		var c struct {
			Spec json.RawMessage `json:"spec"`
		}
		readJSON(t, f, &c)
		specs[strings.TrimSuffix(filepath.Base(f), ".json")] = string(c.Spec)
	}
	for name, labels := range map[string]string{"plain-aniso": `{"background": 0, "node": 1}`,
		"resenc-bottleneck": `{"background": 0, "a": 1, "b": 2}`} {
		var c struct {
			Spec map[string]json.RawMessage `json:"spec"`
		}
		readJSON(t, golden.Path(t, "network/"+name+".json"), &c)
		c.Spec["labels"] = json.RawMessage(labels)
		text, err := json.Marshal(c.Spec)
		require.NoError(t, err)
		specs[name] = string(text)
	}
	const steps = 10
	folders, runs := map[string]string{}, [][]string{}
	for name, text := range specs {
		clip := 12.0 // nnU-Net's own; the others clip every step
		switch name {
		case "binary", "regions", "2d", "resenc-bottleneck":
			clip = 0.25
		}
		dir := t.TempDir()
		args := []string{"--spec", writeSpec(t, text), "--out", dir, "--make-batches",
			fmt.Sprint(steps), "--batches-out", dir,
			"--clip", fmt.Sprint(clip), "--threads", fmt.Sprint(threads), "--seed", "3"}
		if name != "mid-size" { // Python would compress for minutes
			args = append(args, "--per-step")
		}
		folders[name], runs = dir, append(runs, args)
	}
	golden.RunAll(t, "train_steps.py", runs...)
	for name, text := range specs {
		t.Run(name, func(t *testing.T) {
			dir, perStep := folders[name], name != "mid-size"
			var sp spec
			require.NoError(t, json.Unmarshal([]byte(text), &sp))
			var run schedule
			readJSON(t, filepath.Join(dir, "losses.json"), &run)
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, sp)
				fill(t, n)
				losses, norms := train(t, n, lossOf(t, sp, run.Weights), batchFiles(t, dir, steps),
					run, func(step int, raw arrays, sgd *optim.SGD) {
						if step == 0 {
							requireSameBits(t, readNpz(t, filepath.Join(dir, "first_gradients.npz")),
								raw)
						}
						if !perStep {
							return
						}
						got := gradients(t, s, n, "grad/")
						state := sgd.State()
						for i, p := range n.Module().Parameters() {
							got["param/"+p.Name] = torchtest.Float32s(t, p.T)
							if state[i] != nil {
								got["buf/"+p.Name] = torchtest.Float32s(t, state[i])
							}
						}
						requireSameBits(t,
							readNpz(t, filepath.Join(dir, fmt.Sprintf("step_%02d.npz", step))), got)
					})
				want, got := arrays{"losses": run.Losses, "norms": run.Norms},
					arrays{"losses": losses, "norms": norms}
				for _, p := range n.Module().Parameters() {
					got["final/"+p.Name] = torchtest.Float32s(t, p.T)
				}
				load(t, n, openPth(t, filepath.Join(dir, "final.pth")).(*pickle.OrderedDict))
				for _, p := range n.Module().Parameters() {
					want["final/"+p.Name] = torchtest.Float32s(t, p.T)
				}
				requireSameBits(t, want, got)
			})
		})
	}
}
