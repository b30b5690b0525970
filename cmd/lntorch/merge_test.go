package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
)

// heads runs a checkpoint's network on a recorded batch.
func heads(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	out := filepath.Join(t.TempDir(), "y.npz")
	r := lntorch(t, "forward", "--checkpoint", path, "--input", repo(t, "testdata/phantom-mini/trajectory/batch_00_data.npy"), "--output", out,
		"--deep-supervision", "--threads", "1")
	require.Equal(t, 0, r.code, r.errOut)
	_, _, v := readArrays(t, out)
	require.NotEmpty(t, v)
	return v
}

func requireHeads(t *testing.T, want, got map[string][]float32, limit float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for name, w := range want {
		largest, scale := 0.0, 1.0
		for i := range w {
			largest = max(largest, math.Abs(float64(w[i])-float64(got[name][i])))
			scale = max(scale, math.Abs(float64(w[i])))
		}
		require.LessOrEqual(t, largest, limit*scale, name)
	}
}

// The whole road: train, merge, predict; the merged checkpoint computes what the final one does.
func TestMergeGivesTheFinalCheckpointsNetwork(t *testing.T) {
	torchtest.Require(t)
	source := sourceCheckpoint(t)
	for _, c := range []struct {
		trainer, change string
		args            []string
		limit           float64
	}{
		{"nnUNetTrainer_lora", "adapter", []string{"--lora-rank", "4", "--lr", "0.01"}, 2e-6},
		{"nnUNetTrainer_DGST", "delta.safetensors", []string{"--dgst-mode", "strict"}, 0},
	} {
		t.Run(c.trainer, func(t *testing.T) {
			dir := t.TempDir()
			r := lntorch(t, trainArgs(t, dir, append(c.args, "-tr", c.trainer, "-pretrained_weights", source, "--threads", "1")...)...)
			require.Equal(t, 0, r.code, r.errOut)
			fold := foldOf(dir, c.trainer)
			want := heads(t, filepath.Join(fold, "checkpoint_final.pth"))
			change := filepath.Join(fold, c.change)
			require.Contains(t, r.errOut, change)
			for _, name := range []string{"merged.pth", "merged.safetensors"} {
				out := filepath.Join(dir, name)
				r = lntorch(t, "merge", change, "--base", source, "-o", out)
				require.Equal(t, 0, r.code, r.errOut)
				require.Contains(t, r.out, out)
				requireHeads(t, want, heads(t, out), c.limit)
				r = lntorch(t, "merge", change, "--base", source, "-o", out)
				require.Equal(t, 1, r.code)
				require.Contains(t, r.errOut, "give --force")
			}
			r = lntorch(t, "merge", change, "-o", filepath.Join(dir, "x.pth"))
			require.Equal(t, 2, r.code)
			require.Contains(t, r.errOut, "--base is not given")
			r = lntorch(t, "merge", change, "--base", filepath.Join(dir, "merged.pth"), "-o", filepath.Join(dir, "x.pth"))
			require.Equal(t, 1, r.code)
			require.Contains(t, r.errOut, "was not trained from")
			r = lntorch(t, "merge", change, "--base", source, "--alpha", "3", "-o", filepath.Join(dir, "x.pth"))
			require.Equal(t, 2, r.code)
			require.Contains(t, r.errOut, "--alpha is for a checkpoint that holds adapters")
			require.NoFileExists(t, filepath.Join(dir, "x.pth"))
		})
	}
}

func TestMergeSaysWhatItWants(t *testing.T) {
	source, out := sourceCheckpoint(t), filepath.Join(t.TempDir(), "x.pth")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "-o is not given", []string{source}},
		{2, "expected a name that ends in .pth, .pt or .safetensors", []string{source, "-o", "x.zip"}},
		{1, "holds neither adapters nor a delta", []string{source, "-o", out}},
		{1, "no such file", []string{source + "x", "-o", out}},
		{1, "has no adapter_config.json", []string{filepath.Dir(source), "-o", out}},
	} {
		r := lntorch(t, append([]string{"merge"}, c.args...)...)
		require.Equal(t, c.code, r.code, c.args)
		require.Contains(t, r.errOut, c.want)
	}
	require.NoFileExists(t, out)
}

// A wrapped network's checkpoint, as the published trainer's: --alpha says how its adapters are scaled.
func TestLiveMergeOfAWrappedCheckpoint(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	golden.Run(t, "lora.py", "--spec", golden.Path(t, "lora/resenc-basic.json"), "--released", dir)
	path, out := filepath.Join(dir, "B.pth"), filepath.Join(dir, "out.pth")
	r := lntorch(t, "inspect", path)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "tensors of adapters")
	r = lntorch(t, "merge", path, "-o", out)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "does not say how its adapters are scaled: give --alpha")
	r = lntorch(t, "merge", path, "-o", out, "--base", path, "--alpha", "3")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "holds the weights that its adapters belong to")
	r = lntorch(t, "merge", path, "-o", out, "--alpha", "3")
	require.Equal(t, 0, r.code, r.errOut)
	r = lntorch(t, "inspect", out)
	require.Equal(t, 0, r.code, r.errOut)
	require.NotContains(t, r.out, "adapters")
	require.Contains(t, r.out, "ResidualEncoderUNet")
}

// A wrapped network may hold more than lora_A and lora_B: then they alone are not the change.
func TestMergeRefusesOtherTensorsOfAdapters(t *testing.T) {
	x, err := checkpoint.NewFloat32([]float32{1, 2}, []int64{1, 2})
	require.NoError(t, err)
	root := &pickle.Dict{}
	for _, name := range []string{"base_layer.weight", "lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"} {
		root.Set("base_model.model.a."+name, x)
	}
	path := filepath.Join(t.TempDir(), "dora.pth")
	require.NoError(t, pth.Save(path, root))
	r := lntorch(t, "merge", path, "-o", path+".out.pth", "--alpha", "3")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, path+": a.lora_magnitude_vector.default.weight is of an adapter that is more than lora_A and lora_B")
}

func TestConvertToSafetensorsAndBack(t *testing.T) {
	torchtest.Require(t)
	dir := t.TempDir()
	source := sourceCheckpoint(t)
	s, p, w := filepath.Join(dir, "w.safetensors"), filepath.Join(dir, "p.pth"), filepath.Join(dir, "w.pth")
	r := lntorch(t, "convert", source, "-o", s)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "the optimizer's state and the log have no place")
	r = lntorch(t, "convert", s, "-o", p)
	require.Equal(t, 0, r.code, r.errOut)
	want := heads(t, source)
	requireHeads(t, want, heads(t, s), 0)
	requireHeads(t, want, heads(t, p), 0)
	for _, out := range []string{w, filepath.Join(dir, "bare.safetensors")} {
		r = lntorch(t, "convert", s, "--weights-only", "-o", out)
		require.Equal(t, 0, r.code, r.errOut)
		r = lntorch(t, "inspect", out)
		require.Equal(t, 0, r.code, r.errOut)
		require.Contains(t, r.out, "state dict")
	}
	r = lntorch(t, "convert", s, "--strip-optimizer", "-o", filepath.Join(dir, "x.pth"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "has no optimizer")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.safetensors"), []byte("not one"), 0o600))
	r = lntorch(t, "convert", filepath.Join(dir, "bad.safetensors"), "-o", filepath.Join(dir, "x.pth"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "bad.safetensors")
}

// Python's safetensors finds every weight of the checkpoint, aliases as save_model writes them; and its nnU-Net takes the way back.
func TestLiveConvertedWeightsAreThePythonOnes(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	s, p := filepath.Join(dir, "w.safetensors"), filepath.Join(dir, "p.pth")
	require.Equal(t, 0, lntorch(t, "convert", sourceCheckpoint(t), "-o", s).code)
	require.Equal(t, 0, lntorch(t, "convert", s, "-o", p).code)
	require.Equal(t, "188\n", string(golden.Run(t, "safetensors_corpus.py", "--same", sourceCheckpoint(t), s)))
	require.Equal(t, "188\n", string(golden.Run(t, "safetensors_corpus.py", "--same", p, s)))
}
