package train_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
	"github.com/stretchr/testify/require"
)

// swinWeights writes a small network of a trainer that ignores the plans, with drawn weights.
func swinWeights(t *testing.T, trainer string, axes, channels, classes int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "foundation.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		e, ok := models.ByTrainer(trainer)
		require.True(t, ok)
		a := e.Released(axes).(*models.SwinUNETR)
		a.FeatureSize = 12
		n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: channels, NumClasses: classes})
		require.NoError(t, err)
		g, err := torch.NewGenerator(torch.CPU, 3)
		require.NoError(t, err)
		defer g.Close()
		require.NoError(t, n.Module().Reset(g, nil))
		return checkpoint.SaveWeights(path, n.Module())
	}))
	return path
}

// swinConfig fine-tunes such a network on the phantom's target cases: one epoch of two iterations.
func swinConfig(t *testing.T, trainer, method string, v finetune.Values) train.Config {
	t.Helper()
	torchtest.Require(t)
	m, entry := makeMethod(t, method, v)
	return train.Config{Preprocessed: mini(t, "preprocessed/Dataset102_PhantomTarget"), Results: t.TempDir(), PlansName: "nnUNetPlansSource",
		Configuration: "3d_phantom", Fold: "0", Trainer: trainer, MethodName: method, Method: m, Pretrained: swinWeights(t, trainer, 3, 1, 2),

		Version: "test", Settings:

		// floatsOf reads the float32 weights of a checkpoint by name, and their shapes.
		train.Settings{Epochs: 1, Iterations: 2, ValIterations: 1, NoMirroring: true,
			BatchSettings: train.BatchSettings{Oversample: 0.33, BatchSize: 1, PatchSize: []int{32, 32, 64}, Seed: 7},
			Optimizer:     train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 1, Numerics: machine.Reference}}
}

func floatsOf(t *testing.T, path string) (map[string][]float32, map[string][]int64) {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := map[string][]float32{}
	for _, w := range f.Weights {
		if strings.HasSuffix(w.Name, "relative_position_index") {
			continue
		}
		b := make([]byte, w.Bytes())
		require.NoError(t, w.ReadInto(b))
		v := make([]float32, w.Numel())
		require.NoError(t, binary.Read(bytes.NewReader(b), binary.LittleEndian, v))
		all[w.Name] = v
	}
	return all, checkpoint.Shapes(f.Weights)
}

// A network that plans do not describe is fine-tuned in the size of its checkpoint, with and without recomputation to the
// same bits; an interrupted training goes on to them, too; and its checkpoint can be validated by itself.
func TestSwinUNETRIsFineTuned(t *testing.T) {
	torchtest.NoLeak(t)
	const trainer = "nnUNetTrainer_SwinUNETR"
	c := swinConfig(t, trainer, "full", nil)
	whole := run(t, c)
	want := state(t, whole.Checkpoint)
	require.Contains(t, whole.Folder, trainer+"__")
	debug, err := os.ReadFile(filepath.Join(whole.Folder, "debug.json"))
	require.NoError(t, err)
	require.Contains(t, string(debug), `"network": "SwinUNETR"`)
	begin, _ := floatsOf(t, c.Pretrained)
	end, shapes := floatsOf(t, whole.Checkpoint)
	require.Equal(t, []int64{12, 1, 2, 2, 2}, shapes["swinViT.patch_embed.proj.weight"])
	for name := range begin {
		require.NotEqual(t, begin[name], end[name], name)
	}

	c = again(t, c, nil)
	c.Results, c.Recompute = t.TempDir(), true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.Progress = &stopper{2, cancel} // the first call tells of no iteration
	_, err = train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	require.Equal(t, 1, stopped.Iteration)
	c = again(t, c, nil)
	c.Progress, c.Continue, c.Pretrained = nil, true, ""
	require.Equal(t, want, state(t, run(t, c).Checkpoint))

	c = swinConfig(t, trainer, "full", nil)
	c.Trainer, c.Pretrained, c.ValidateOnly, c.Checkpoint, c.ValidationFolder = "", "", true, whole.Checkpoint, t.TempDir()
	require.Equal(t, whole.Dice, run(t, c).Dice)
}

// DGST in its strict mode moves k entries of each row, patch embedding and transposed convolutions included, and the whole
// of biases, norms and the head.
func TestSwinUNETRWithDGST(t *testing.T) {
	torchtest.NoLeak(t)
	c := swinConfig(t, "nnUNetTrainer_SwinUNETRv2", "dgst", finetune.Values{"dgst-mode": "strict"})
	c.Iterations = 1
	begin, _ := floatsOf(t, c.Pretrained)
	end, shapes := floatsOf(t, run(t, c).Checkpoint)
	sparse := 0
	for name, shape := range shapes {
		if begin[name] == nil {
			continue
		}
		rows := int(shape[0])
		row := len(begin[name]) / rows
		moved, most := 0, 0
		for r := range rows {
			inRow := 0
			for i := r * row; i < (r+1)*row; i++ {
				if begin[name][i] != end[name][i] {
					inRow++
				}
			}
			moved, most = moved+inRow, max(most, inRow)
		}
		if dgst.Classify(name, shape) == dgst.Sparse {
			sparse++
			require.LessOrEqual(t, most, 2, name)
			require.Greater(t, 2*moved, rows*min(row, 2), name) // a gradient may be too small to show
			continue
		}
		require.Greater(t, moved, 0, name)
		if name == "out.conv.conv.weight" {
			require.Equal(t, len(begin[name]), moved, name)
		}
	}
	require.Equal(t, dgst.Sparse, dgst.Classify("swinViT.patch_embed.proj.weight", shapes["swinViT.patch_embed.proj.weight"]))
	require.Greater(t, sparse, 60)
}

// What does not fit is refused before anything is written.
func TestSwinUNETRRefuses(t *testing.T) {
	c := swinConfig(t, "nnUNetTrainer_SwinUNETR", "full", nil)
	for want, change := range map[string]func(c *train.Config){
		"train: patch_size: models: input size [80 112 224] is not divisible by [32 32 32], as SwinUNETR halves the image five times; the nearest valid size is [96 128 224]": func(c *train.Config) { c.PatchSize = []int{80, 112, 224} },
		"holds a SwinUNETR, which plans do not describe and trainer nnUNetTrainer does not build: name its trainer with -tr (" + strings.Join(models.Trainers(), ", ") + ")":  func(c *train.Config) { c.Trainer = "nnUNetTrainer" },
		"train: --recompute: PlainConvUNet keeps its activations": func(c *train.Config) {
			c.Trainer, c.Pretrained, c.Recompute, c.PatchSize = "nnUNetTrainer", "", true, nil
		},
	} {
		bad := c
		change(&bad)
		_, err := train.Run(context.Background(), bad)
		require.ErrorContains(t, err, want)
		require.NoDirExists(t, filepath.Join(bad.Results, "Dataset102_PhantomTarget"))
		bad.ValidateOnly, bad.Checkpoint = true, bad.Pretrained
		if bad.Pretrained != "" {
			_, err = train.Run(context.Background(), bad)
			require.ErrorContains(t, err, want, "validating")
		}
	}
}
