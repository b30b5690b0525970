package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
)

// inspection is what `inspect --json` prints of a checkpoint.
type inspection struct {
	Kind, Trainer, Network string
	Epoch                  *int  `json:"current_epoch"`
	Channels               int64 `json:"input_channels"`
	Classes, Parameters    int64
	Globals                []string
	Tensors                []struct {
		Name   string
		Alias  string `json:"alias_of"`
		SHA256 string
	}
}

// arraySummary is what it prints of an array.
type arraySummary struct {
	Name     string
	Min, Max *float64
	NaN, Inf int
}

func tensor(t *testing.T, data []byte, offset int64, size, stride []int64) *pth.Tensor {
	t.Helper()
	s, err := pth.NewStorage(pth.Float32, data)
	require.NoError(t, err)
	x, err := pth.NewTensor(s, offset, size, stride)
	require.NoError(t, err)
	return x
}

// Digests are of the elements in row-major order, however the tensor lies in its storage, and of more than one chunk.
func TestDigestsAreOfRowMajorBytes(t *testing.T) {
	data := make([]byte, 3*(1<<20)+4096)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	root := &pickle.Dict{}
	whole := tensor(t, data, 0, []int64{int64(len(data) / 4)}, nil)
	part, err := pth.NewTensor(whole.Storage, 2, []int64{2, 3}, []int64{3, 1})
	require.NoError(t, err)
	transposed, err := pth.NewTensor(whole.Storage, 2, []int64{3, 2}, []int64{1, 3})
	require.NoError(t, err)
	root.Set("whole", whole)
	root.Set("again", whole)
	root.Set("part", part)
	root.Set("transposed", transposed)
	root.Set("empty", tensor(t, nil, 0, []int64{0}, nil))
	path := filepath.Join(t.TempDir(), "w.pth")
	require.NoError(t, pth.Save(path, root))
	r := lntorch(t, "inspect", "--json", "--digest", path)
	require.Equal(t, 0, r.code, r.errOut)
	var doc inspection
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	var swapped []byte
	for col := range 3 {
		for row := range 2 {
			at := 4 * (2 + 3*row + col)
			swapped = append(swapped, data[at:at+4]...)
		}
	}
	want := []string{sum(data), sum(data), sum(data[8:32]), sum(swapped), sum(nil)}
	for i, x := range doc.Tensors {
		require.Equal(t, want[i], x.SHA256, x.Name)
	}
	require.Equal(t, "whole", doc.Tensors[1].Alias)
	require.Empty(t, doc.Tensors[2].Alias)
}

func TestInspectShowsWhereAFileComesFrom(t *testing.T) {
	r := lntorch(t, "inspect", repo(t, foundation))
	require.Equal(t, 0, r.code, r.errOut)
	for _, want := range []string{
		"fold_0/checkpoint_final.pth", "nnU-Net checkpoint, zip container, version 3", "nnUNetTrainer, next epoch 36", "configuration 3d_phantom, fold 0",
		"mirror axes    [0 1 2]", "best EMA", "momentum 0.99", "68 parameters, state of 66", "grad scaler    none", "346006; 1 input channels, 2 classes",
		"numpy.core.multiarray.scalar",
	} {
		require.Contains(t, r.out, want)
	}
	require.NotContains(t, r.out, "differences")
	require.Equal(t, 1, strings.Count(r.out, "\nencoder.stages.0.0.convs.0.conv.weight"))
	require.NotContains(t, r.out, "momentum_buffer")
	r = lntorch(t, "inspect", "--all", repo(t, foundation))
	require.Contains(t, r.out, "network_weights/decoder.encoder.stages.0.0.convs.0.conv.weight")
	require.Contains(t, r.out, "optimizer_state/state/0/momentum_buffer")
}

// changed saves the foundation model with a part of it replaced.
func changed(t *testing.T, path string, change func(root *pickle.Dict)) {
	t.Helper()
	f, err := checkpoint.Open(repo(t, foundation+"/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	change(f.Root())
	require.NoError(t, pth.Save(path, f.Root()))
}

func TestInspectTellsWherePlansAndWeightsDisagree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pth")
	changed(t, path, func(root *pickle.Dict) {
		w, _ := root.Get("network_weights")
		for _, name := range []string{"decoder.seg_layers.2.weight"} {
			pickle.AsDict(w).Set(name, tensor(t, make([]byte, 3*8*4), 0, []int64{3, 8, 1, 1, 1}, nil))
		}
		own := &pickle.Dict{}
		own.Set("method", "dgst")
		own.Set("iteration", int64(12))
		own.Set("seed", int64(5))
		root.Set("lntorch", own)
	})
	r := lntorch(t, "inspect", path)
	require.Equal(t, 0, r.code, r.errOut)
	for _, want := range []string{"lntorch checkpoint", "classes: plans 2, weights 3", "dgst, 12 iterations into the epoch", "seed = 5"} {
		require.Contains(t, r.out, want)
	}
}

func TestInspectOpensAnyTorchFile(t *testing.T) {
	r := lntorch(t, "inspect", repo(t, "testdata/golden/pth/values.pth"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "torch file")
	require.Contains(t, r.out, "plain = dict of 19")
	r = lntorch(t, "inspect", repo(t, "testdata/golden/pth/state_dict_legacy.pth"))
	require.Contains(t, r.out, "state dict, legacy container")
	r = lntorch(t, "inspect", "--json", repo(t, "testdata/golden/pth/views.pth"))
	var doc inspection
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, "torch file", doc.Kind)
	require.Greater(t, len(doc.Tensors), 5)
}

// What the message about a NaN loss sends the user for.
func TestInspectFindsNaNInCases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "case.npz")
	w, err := npz.Create(path, true)
	require.NoError(t, err)
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for name, v := range map[string][]float32{"data": {1, nan, -3.5, inf, nan, 2}, "bad": {nan, nan}} {
		a, err := npz.New(v)
		require.NoError(t, err)
		require.NoError(t, w.Add(name, a))
	}
	require.NoError(t, w.Close())
	r := lntorch(t, "inspect", "--json", path)
	require.Equal(t, 0, r.code, r.errOut)
	var list []arraySummary
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	for _, a := range list {
		if a.Name == "bad" {
			require.Nil(t, a.Min)
			require.Equal(t, 2, a.NaN)
			continue
		}
		require.Equal(t, []any{-3.5, 2.0, 2, 1}, []any{*a.Min, *a.Max, a.NaN, a.Inf})
	}
	r = lntorch(t, "inspect", path)
	require.Regexp(t, `data +<f4 +\[6\] +-3.5 +2 +2 +1`, r.out)
	require.Regexp(t, `bad +<f4 +\[2\] +- +- +2 +0`, r.out)
	r = lntorch(t, "inspect", repo(t, "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.pkl"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "(33, 60, 69)")
	require.Contains(t, r.out, "class_locations/1")
}

func TestInspectErrorsNameTheFileAndWhatItIs(t *testing.T) {
	dir := t.TempDir()
	empty, nifti := filepath.Join(dir, "empty.pth"), filepath.Join(dir, "x.pth")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	require.NoError(t, os.WriteFile(nifti, []byte("\x1f\x8b\x08\x00 compressed"), 0o600))
	for path, want := range map[string]string{
		empty:                            "empty.pth: the file is empty",
		nifti:                            "x.pth: found a gzip file (a .nii.gz image?), expected a PyTorch checkpoint: give a checkpoint; lntorch image info",
		dir:                              "without fold_*/checkpoint_final.pth",
		filepath.Join(dir, "no.pth"):     "no.pth: no such file",
		filepath.Join(dir, "no.npz"):     "no.npz: no such file",
		repo(t, "testdata/phantom-mini"): "name the file",
	} {
		r := lntorch(t, "inspect", path)
		require.Equal(t, 1, r.code, path)
		require.Contains(t, r.errOut, want)
		require.Empty(t, r.out)
	}
}

// NaN is no number of JSON: it is null, with a note, and what is printed can be read.
func TestInspectPrintsValidJSONWhateverTheFileHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pth")
	changed(t, path, func(root *pickle.Dict) {
		root.Set("_best_ema", math.NaN())
		root.Set("current_epoch", "thirty")
		state, _ := root.Get("optimizer_state")
		groups, _ := pickle.AsDict(state).Get("param_groups")
		pickle.AsDict(groups.(*pickle.List).Items[0]).Set("lr", math.Inf(1))
	})
	r := lntorch(t, "inspect", "--json", path)
	require.Equal(t, 0, r.code, r.errOut)
	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc), r.out)
	best, there := doc["best_ema"]
	require.True(t, there)
	require.Nil(t, best)
	require.Nil(t, doc["optimizer"].(map[string]any)["lr"])
	require.Contains(t, r.errOut, "note: NaN or infinite, which JSON does not have, and so null: best_ema, optimizer.lr")
	require.Equal(t, []any{"metadata that could not be read, which does not affect the weights: current_epoch is of type str, expected a whole number"}, doc["notes"])
	require.Equal(t, "nnU-Net checkpoint", doc["kind"])
}
