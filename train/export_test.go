package train_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/train"
)

// textLog is the text of a fold's training log.
func textLog(t *testing.T, fold string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(fold, "training_log_*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	b, err := os.ReadFile(files[len(files)-1])
	require.NoError(t, err)
	return string(b)
}

func open(t *testing.T, path string) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// largestDifference of two checkpoints' weights, which have the same names and shapes.
func largestDifference(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := readWeights(t, a), readWeights(t, b)
	require.Len(t, y, len(x))
	largest := 0.0
	for name, v := range x {
		require.Len(t, y[name], len(v), name)
		for i := range v {
			largest = max(largest, math.Abs(float64(v[i])-float64(y[name][i])))
		}
	}
	return largest
}

// A method whose changes are few leaves them as a delta; applied to the base they give the final checkpoint to the bit,
// with what it says of itself. A method that changes everything leaves none, and the log says why.
func TestTrainingLeavesADelta(t *testing.T) {
	torchtest.NoLeak(t)
	source := run(t, tiny{}.config(t, "plain", "full", nil)).Checkpoint
	c := tiny{}.config(t, "plain", "dgst", finetune.Values{"dgst-mode": "strict", "dgst-select": "static"})
	c.Pretrained, c.Head = source, train.HeadKeep
	r := run(t, c)
	path := filepath.Join(r.Folder, "delta.safetensors")
	require.Contains(t, textLog(t, r.Folder), "they are in "+path)
	d, err := delta.Open(path)
	require.NoError(t, err)
	defer d.Close()
	base := open(t, source)
	e := checkpoint.NewEdit(base, models.Canonical)
	require.NoError(t, d.Apply(base, e))
	merged := filepath.Join(t.TempDir(), "merged.pth")
	require.NoError(t, e.Save(merged, "nnUNetTrainer"))
	require.Zero(t, largestDifference(t, r.Checkpoint, merged))
	require.NotZero(t, largestDifference(t, source, merged))
	m, final := open(t, merged), open(t, r.Checkpoint)
	require.Equal(t, "nnUNetTrainer", m.Trainer)
	require.Equal(t, final.Epoch, m.Epoch)
	require.Equal(t, final.Plans.Raw(), m.Plans.Raw())
	require.Equal(t, final.MirrorAxes, m.MirrorAxes)
	small, err := os.Stat(path)
	require.NoError(t, err)
	require.Positive(t, small.Size())

	// The same folder, trained on in full: nothing old is left lying.
	c = again(t, c, nil)
	c.MethodName = "full"
	c.Method, _ = makeMethod(t, "full", nil)
	r = run(t, c)
	require.NoFileExists(t, path)
	require.Contains(t, textLog(t, r.Folder), "no delta is written, it would be hardly smaller")
}

// The base is remembered through an interruption, and a base that has changed since gives no delta.
func TestADeltaKnowsItsBase(t *testing.T) {
	source := run(t, tiny{}.config(t, "plain", "full", nil)).Checkpoint
	values := finetune.Values{"dgst-mode": "paper", "dgst-select": "static"}
	c := tiny{}.config(t, "plain", "dgst", values)
	c.Pretrained, c.Head, c.Epochs = source, train.HeadKeep, 1
	run(t, c)
	c = again(t, c, values)
	c.Continue, c.Pretrained, c.Epochs = true, "", 2
	r := run(t, c)
	path := filepath.Join(r.Folder, "delta.safetensors")
	d, err := delta.Open(path)
	require.NoError(t, err)
	digest, err := open(t, source).Digest(models.Canonical)
	require.NoError(t, err)
	require.Equal(t, digest, d.Base)
	require.NoError(t, d.Close())

	e := checkpoint.NewEdit(open(t, source), models.Canonical)
	bias, err := checkpoint.NewFloat32([]float32{1, 2}, []int64{2})
	require.NoError(t, err)
	require.NoError(t, e.Replace("decoder.seg_layers.1.bias", bias))
	require.NoError(t, e.Save(source, ""))
	c = again(t, c, values)
	c.Epochs = 3
	r = run(t, c)
	require.NoFileExists(t, path)
	require.Contains(t, textLog(t, r.Folder), "has changed since the training began with it")
	require.NoError(t, os.Remove(source))
	c = again(t, c, values)
	c.Epochs = 4
	require.Contains(t, textLog(t, run(t, c).Folder), "no delta is written")
}

// A method with adapters leaves a PEFT folder; merged into the base it gives the final checkpoint to 1e-6. The checkpoint
// itself is plain: it validates and loads without the method.
func TestTrainingLeavesAnAdapter(t *testing.T) {
	torchtest.NoLeak(t)
	source := run(t, tiny{}.config(t, "plain", "full", nil)).Checkpoint
	c := tiny{}.config(t, "plain", "lora", finetune.Values{"lora-rank": "2", "lora-dropout": "0"})
	c.Pretrained = source // the heads are reinitialised
	r := run(t, c)
	require.Contains(t, textLog(t, r.Folder), "layers adapted, rank 2")
	a, err := peft.Open(filepath.Join(r.Folder, "adapter"), models.CanonicalLayer)
	require.NoError(t, err)
	defer a.Close()
	base := open(t, source)
	require.NoError(t, delta.CheckBase(base, a.Metadata[delta.BaseKey], "adapter"))
	require.NotEmpty(t, a.Metadata[delta.BaseKey])
	e := checkpoint.NewEdit(base, models.Canonical)
	_, err = e.MergeAdapter(a)
	require.NoError(t, err)
	merged := filepath.Join(t.TempDir(), "merged.pth")
	require.NoError(t, e.Save(merged, "nnUNetTrainer"))
	require.Less(t, largestDifference(t, r.Checkpoint, merged), 1e-6)
	require.NotZero(t, largestDifference(t, source, merged))

	plain := again(t, c, nil)
	plain.MethodName, plain.Pretrained = "full", ""
	plain.Method, _ = makeMethod(t, "full", nil)
	plain.ValidateOnly = true
	require.Equal(t, r.Dice, run(t, plain).Dice)

	// The best checkpoint, too, is a plain one: it is validated without the adapters of the last epoch.
	best := tiny{}.config(t, "plain", "lora", finetune.Values{"lora-rank": "8", "lora-alpha": "64", "lora-dropout": "0"})
	best.Pretrained, best.ValidateBest, best.LR, best.Epochs = source, true, 0.1, 3
	want := run(t, best)
	predicted := func(fold string) []byte {
		b, err := os.ReadFile(filepath.Join(fold, "validation", "case_4.npz"))
		require.NoError(t, err)
		return b
	}
	was := predicted(want.Folder)
	plain = again(t, best, nil)
	plain.MethodName, plain.Pretrained, plain.ValidateOnly = "full", "", true
	plain.Method, _ = makeMethod(t, "full", nil)
	require.Equal(t, want.Dice, run(t, plain).Dice)
	require.Equal(t, was, predicted(want.Folder))

	released := tiny{}.config(t, "plain", "lora", finetune.Values{"lora-as-released": "true"})
	released.Pretrained = source
	r = run(t, released)
	require.Contains(t, textLog(t, r.Folder), "the adapters never run")
	require.NoDirExists(t, filepath.Join(r.Folder, "adapter"))
	require.FileExists(t, filepath.Join(r.Folder, "delta.safetensors"), "biases and heads are few")
}
