package checkpoint

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/internal/golden"
)

func foundation(t *testing.T) *File {
	t.Helper()
	f, err := Open(filepath.Join(golden.Root(t),
		"testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func requireSameWeights(t *testing.T, want, got []Weight) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, w := range want {
		g := got[i]
		require.Equal(t, w.Name, g.Name)
		require.Equal(t, w.DType, g.DType, w.Name)
		require.Equal(t, w.Size, g.Size, w.Name)
		a, b := make([]byte, w.Bytes()), make([]byte, g.Bytes())
		require.NoError(t, w.ReadInto(a))
		require.NoError(t, g.ReadInto(b))
		require.Equal(t, a, b, w.Name)
	}
}

// An nnU-Net checkpoint as a safetensors file: the same weights under the same names in the same
// order, aliases stored once, and everything that prediction needs.
func TestSafetensorsKeepWhatACheckpointSays(t *testing.T) {
	f := foundation(t)
	about, err := f.About()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "w.safetensors")
	require.NoError(t, SaveSafetensors(path, f.Weights, about))
	info, err := os.Stat(path)
	require.NoError(t, err)
	distinct := int64(0)
	seen := map[pth.View]bool{}
	for _, w := range f.Weights {
		if !seen[w.Tensor.View()] {
			distinct += w.Bytes()
		}
		seen[w.Tensor.View()] = true
	}
	require.Less(t, len(seen), len(f.Weights))
	require.Less(t, info.Size(), distinct+100_000, "aliases are stored once")

	g, err := Open(path)
	require.NoError(t, err)
	defer g.Close()
	requireSameWeights(t, f.Weights, g.Weights)
	require.True(t, g.NNUNet)
	require.Equal(t, []any{f.Trainer, f.Configuration, f.Fold, f.Epoch, f.MirrorAxes},
		[]any{g.Trainer, g.Configuration, g.Fold, g.Epoch, g.MirrorAxes})
	require.Equal(t, f.Plans.Raw(), g.Plans.Raw())
	require.Equal(t, f.Dataset.Raw(), g.Dataset.Raw())
	again, err := g.About()
	require.NoError(t, err)
	require.Equal(t, about, again)
	axes, _ := g.Root().Get("inference_allowed_mirroring_axes")
	require.Equal(t, pickle.Tuple{int64(0), int64(1), int64(2)}, axes)

	bare := filepath.Join(t.TempDir(), "bare.safetensors")
	require.NoError(t, SaveSafetensors(bare, f.Weights[:3], ""))
	h, err := Open(bare)
	require.NoError(t, err)
	defer h.Close()
	require.False(t, h.NNUNet)
	text, err := h.About()
	require.NoError(t, err)
	require.Empty(t, text)
	requireSameWeights(t, f.Weights[:3], h.Weights)
}

func TestForeignSafetensorsAreChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	one := []safetensors.Entry{{Name: "w", DType: safetensors.Float32, Shape: []int64{1},
		Read: safetensors.Bytes([]byte{0, 0, 0, 0})}}
	for message, c := range map[string]struct {
		entries []safetensors.Entry
		about   string
	}{
		"it holds no tensors":         {nil, ""},
		"metadata lntorch.checkpoint": {one, "{"},
		"it is not a JSON object":     {one, "[1]"},
		"element type F8_E4M3 is not": {
			[]safetensors.Entry{{Name: "w", DType: "F8_E4M3", Shape: []int64{0},
				Read: safetensors.Bytes(nil)}}, ""},
	} {
		metadata := map[string]string{"lntorch.order": "w\nghost", "w2": "w"}
		if c.about != "" {
			metadata[AboutKey] = c.about
		}
		require.NoError(t, safetensors.Save(path, c.entries, metadata))
		f, err := Open(path)
		if err == nil {
			f.Close()
		}
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, path)
	}
	for message, about := range map[string]string{
		"init_args is of type int":     `{"trainer_name":"t","current_epoch":1,"init_args":3,"inference_allowed_mirroring_axes":[0]}`,
		"current_epoch is of type str": `{"trainer_name":"t","current_epoch":"x"}`,
	} {
		require.NoError(t, safetensors.Save(path, one, map[string]string{AboutKey: about}))
		f, err := Open(path)
		require.NoError(t, err)
		require.Len(t, f.Weights, 1)
		require.ErrorContains(t, f.Understood(KeyInit, KeyEpoch), message)
		require.NoError(t, f.Close())
	}
	require.NoError(t, safetensors.Save(path, one, map[string]string{"w2": "w", "w3": "nothing"}))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Len(t, f.Weights, 2)
	require.Equal(t, "w2", f.Weights[1].Name)
	require.Equal(t, f.Weights[0].Tensor.View(), f.Weights[1].Tensor.View())
}

func float32Tensor(t *testing.T, shape []int64, v ...float32) *pth.Tensor {
	t.Helper()
	x, err := NewFloat32(v, shape)
	require.NoError(t, err)
	return x
}

// W[o,i,k] + scaling·Σ_r B[o,r]·A[r,i,k], by hand; for a transposed convolution W[i,o,k] and
// A[i,r,k].
func TestLowRankIsAddedByTheFormula(t *testing.T) {
	state := &pickle.OrderedDict{}
	state.Set("c.weight", float32Tensor(t, []int64{2, 2, 1, 2}, 1, 2, 3, 4, 5, 6, 7, 8))
	state.Set("up.weight", float32Tensor(t, []int64{2, 1, 1, 2}, 1, 2, 3, 4))
	state.Set("l.weight", float32Tensor(t, []int64{1, 2}, 1, 2))
	half, err := pth.NewStorage(pth.Float16, make([]byte, 4))
	require.NoError(t, err)
	h, err := pth.NewTensor(half, 0, []int64{1, 2}, nil)
	require.NoError(t, err)
	state.Set("half.weight", h)
	state.Set("none.weight", float32Tensor(t, []int64{0, 2}))
	path := filepath.Join(t.TempDir(), "w.pth")
	require.NoError(t, pth.Save(path, state))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	e := NewEdit(f, func(name string) string { return name })
	read := func(name string) []float32 {
		v, err := float32s(e.Tensor(name))
		require.NoError(t, err)
		return v
	}
	a := float32Tensor(t, []int64{2, 2, 1, 2}, 1, 0, 0, 1, 10, 20, 30, 40) // r = 2
	b := float32Tensor(t, []int64{2, 2, 1, 1}, 1, 0, 2, 1)
	require.NoError(t, e.AddLowRank(LowRank{Layer: "c", A: a, B: b, Scaling: 0.5}))
	require.Equal(t, []float32{1.5, 2, 3, 4.5, 5 + 1 + 5, 6 + 10, 7 + 15, 8 + 1 + 20},
		read("c.weight"))
	require.NoError(t,
		e.AddLowRank(LowRank{Layer: "up", A: a, B: float32Tensor(t, []int64{1, 2, 1, 1}, 1, 100),
			Scaling: 1, Transposed: true}))
	require.Equal(t, []float32{1 + 1 + 0, 2 + 0 + 100, 3 + 10 + 3000, 4 + 20 + 4000},
		read("up.weight"))
	require.NoError(t,
		e.AddLowRank(LowRank{Layer: "l", A: float32Tensor(t, []int64{1, 2}, 3, 4),
			B: float32Tensor(t, []int64{1, 1}, 2), Scaling: -1}))
	require.Equal(t, []float32{-5, -6}, read("l.weight"))
	require.NoError(t,
		e.AddLowRank(LowRank{Layer: "none", A: float32Tensor(t, []int64{1, 2}, 3, 4),
			B: float32Tensor(t, []int64{0, 1}), Scaling: 1}))

	for message, l := range map[string]LowRank{
		"has no weight x.weight: is it the right base": {Layer: "x", A: a, B: b},
		"is " + path + " the right base":               {Layer: "up", A: a, B: b},
		"its elements are float16": {Layer: "half",
			A: float32Tensor(t, []int64{1, 2}, 3, 4), B: float32Tensor(t, []int64{1, 1}, 2)},
		"lora_A of l: its elements are float16": {Layer: "l", A: h,
			B: float32Tensor(t, []int64{1, 1}, 2)},
		"A [2 2 1 2] and B [2 2 2 1]": {Layer: "c", A: a,
			B: float32Tensor(t, []int64{2, 2, 2, 1}, make([]float32, 8)...)},
	} {
		require.ErrorContains(t, e.AddLowRank(l), message)
	}
	require.ErrorContains(t, e.Replace("x", a), "has no weight x")
	require.False(t, math.IsNaN(float64(read("c.weight")[0])))
}
