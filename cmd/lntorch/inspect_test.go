package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
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

// stateDict reads testdata/state-dicts: names, shapes and storages of a network of the reference. With copies, aliases
// have memory of their own, as in files of programs that know no sharing.
func stateDict(t *testing.T, name string, copies bool) (weights []checkpoint.Weight, constructor map[string]any, parameters int64, class string) {
	t.Helper()
	text, err := os.ReadFile(repo(t, "testdata/state-dicts/"+name+".json"))
	require.NoError(t, err)
	var doc struct {
		Class       string         `json:"network_class"`
		Constructor map[string]any `json:"constructor"`
		Counts      struct{ Parameters int64 }
		StateDict   [][4]any `json:"state_dict"`
	}
	require.NoError(t, json.Unmarshal(text, &doc))
	storages := map[any]*pth.Storage{}
	for i, row := range doc.StateDict {
		key := row[3]
		if copies {
			key = i
		}
		dtype := map[string]pth.DType{"float32": pth.Float32, "int64": pth.Int64}[row[2].(string)]
		if storages[key] == nil {
			storages[key] = &pth.Storage{DType: dtype}
		}
		w := checkpoint.Weight{Name: row[0].(string), Tensor: &pth.Tensor{Storage: storages[key], DType: dtype}}
		for _, n := range row[1].([]any) {
			w.Size = append(w.Size, int64(n.(float64)))
		}
		weights = append(weights, w)
	}
	return weights, doc.Constructor, doc.Counts.Parameters, doc.Class[strings.LastIndexByte(doc.Class, '.')+1:]
}

// The constructor's arguments and the number of parameters come out of names and shapes alone.
func TestNetworksAreRecognisedByTheirTensors(t *testing.T) {
	for _, name := range []string{"plainconvunet", "resencm", "tiny-plainconvunet-aniso", "tiny-resenc-basic", "tiny-resenc-bottleneck"} {
		for _, copies := range []bool{false, true} {
			weights, want, parameters, class := stateDict(t, name, copies)
			n := recogniseNetwork(weights)
			require.Equal(t, class, n.Class, name)
			require.Equal(t, parameters, n.Parameters, "%s, copies %v", name, copies)
			a := n.Architecture
			for key, got := range map[string]any{
				"input_channels": n.Channels, "num_classes": n.Classes, "n_stages": a.NumStages, "features_per_stage": a.FeaturesPerStage,
				"kernel_sizes": a.KernelSizes, "strides": a.Strides, "n_conv_per_stage": a.ConvsPerStage, "n_blocks_per_stage": a.BlocksPerStage,
				"n_conv_per_stage_decoder": a.DecoderConvs, "conv_bias": a.ConvBias, "bottleneck_channels": a.BottleneckChannels, "block": a.Block,
				"stem_channels": a.StemChannels,
			} {
				if want[key] != nil && key != "block" {
					require.Equal(t, fmt.Sprint(want[key]), fmt.Sprint(got), "%s: %s", name, key)
				}
			}
			if class == "ResidualEncoderUNet" {
				require.Equal(t, want["bottleneck_channels"] != nil, a.Block == "BottleneckD", name)
			}
		}
	}
	for name, class := range map[string]string{"swinunetr": "SwinUNETR", "swinunetrv2": "SwinUNETRv2", "tiny-swinunetr": "SwinUNETR"} {
		weights, want, parameters, _ := stateDict(t, name, false)
		n := recogniseNetwork(weights)
		require.Equal(t, class, n.Class)
		require.Equal(t, parameters, n.Parameters, "%s: index buffers are no parameters", name)
		require.Equal(t, fmt.Sprint(want["in_channels"], want["out_channels"]), fmt.Sprint(n.Channels, n.Classes))
	}
}

func TestHalfANetworkIsNotRecognised(t *testing.T) {
	weights, _, _, _ := stateDict(t, "tiny-plainconvunet-aniso", false)
	var encoder []checkpoint.Weight
	for _, w := range weights {
		if strings.HasPrefix(w.Name, "encoder.") {
			encoder = append(encoder, w)
		}
	}
	n := recogniseNetwork(encoder)
	require.Equal(t, notRecognised, n.Class)
	require.Nil(t, n.Architecture)
	require.Equal(t, notRecognised, recogniseNetwork(nil).Class)
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
	data := make([]byte, 3*digestChunk+4096)
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
			dictOf(w).Set(name, tensor(t, make([]byte, 3*8*4), 0, []int64{3, 8, 1, 1, 1}, nil))
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
		nifti:                            "x.pth: found a gzip file, expected a PyTorch checkpoint: unpack it with gunzip",
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
		groups, _ := dictOf(state).Get("param_groups")
		dictOf(groups.(*pickle.List).Items[0]).Set("lr", math.Inf(1))
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
	require.Equal(t, []any{"not understood, and of no matter to the weights: current_epoch is of type str, expected a whole number"}, doc["notes"])
	require.Equal(t, "nnU-Net checkpoint", doc["kind"])
}
