package checkpoint

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
)

// adapters returns the cases of scripts/golden/peft_adapters.py in a folder, with the folder of
// each case's adapter.
func adapters(t *testing.T, dir string) map[string]string {
	t.Helper()
	cases := map[string]string{}
	merged, err := filepath.Glob(filepath.Join(dir, "*", "merged.safetensors"))
	require.NoError(t, err)
	for _, m := range merged {
		folder := filepath.Join(filepath.Dir(m), "adapter")
		if _, err := os.Stat(filepath.Join(folder, peft.ConfigFile)); err != nil {
			// a named adapter
			folder = filepath.Join(folder, filepath.Base(filepath.Dir(m)))
		}
		cases[filepath.Base(filepath.Dir(m))] = folder
	}
	return cases
}

// requireWeights compares a network's weights with PEFT's: those in the file, or the base's if the
// file has none.
func requireWeights(t *testing.T, path string, base *File, e *Edit) {
	t.Helper()
	want, err := Open(path)
	require.NoError(t, err)
	defer want.Close()
	changed := map[string]*pth.Tensor{}
	for _, w := range want.Weights {
		changed[w.Name] = w.Tensor
	}
	for _, w := range base.Weights {
		if _, _, ok := peft.SplitName(w.Name); ok {
			continue
		}
		tensor := w.Tensor
		if c := changed[w.Name]; c != nil {
			tensor = c
		}
		theirs, err := float32s(tensor)
		require.NoError(t, err)
		ours, err := float32s(e.Tensor(w.Name))
		require.NoError(t, err)
		golden.Close(t, w.Name, "merged", nil, theirs, ours)
		delete(changed, w.Name)
	}
	require.Empty(t, changed)
}

// requireMerged compares the merged cases in a folder with PEFT's results.
func requireMerged(t *testing.T, dir string) (cases []string) {
	t.Helper()
	for name, folder := range adapters(t, dir) {
		cases = append(cases, name)
		t.Run(name, func(t *testing.T) {
			base, err := Open(filepath.Join(dir, "base.pth"))
			require.NoError(t, err)
			defer base.Close()
			a, err := peft.Open(folder, models.CanonicalLayer)
			require.NoError(t, err)
			defer a.Close()
			e := NewEdit(base, models.Canonical)
			layers, err := e.MergeAdapter(a)
			require.NoError(t, err)
			require.Positive(t, layers)
			requireWeights(t, filepath.Join(dir, name, "merged.safetensors"), base, e)
		})
	}
	slices.Sort(cases)
	return cases
}

// Adapters written by PEFT 0.21.2, loaded and merged: names, versions of settings, initialisations
// that change the base.
func TestAdaptersOfPEFT021AreMergedAsThere(t *testing.T) {
	dir := golden.Path(t, "peft/0.21.2")
	require.Equal(t, []string{"hospital", "olora", "patterns", "pissa-rslora", "plain"},
		requireMerged(t, dir))
}

// TestLiveAdaptersOfPEFT: the same with PEFT 0.14.0 on this machine, for every kind of file and
// initialisation; and a wrapped network with a named adapter.
func TestLiveAdaptersOfPEFT(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	golden.Run(t, "peft_adapters.py", "--out", dir)
	require.Len(t, requireMerged(t, dir), 15)

	f, err := Open(filepath.Join(dir, "wrapped.pth"))
	require.NoError(t, err)
	defer f.Close()
	e := NewEdit(f, models.Canonical)
	pairs := map[string]LowRank{}
	for _, w := range f.Weights {
		if layer, part, ok := peft.SplitName(w.Name); ok {
			p := pairs[models.CanonicalLayer(layer)]
			p.Layer, p.Scaling = layer, 4.0/3
			if part == "A" {
				p.A = w.Tensor
			} else {
				p.B = w.Tensor
			}
			pairs[models.CanonicalLayer(layer)] = p
		}
	}
	require.Len(t, pairs, 6)
	for _, p := range pairs {
		require.NoError(t, e.AddLowRank(p))
	}
	base, err := Open(filepath.Join(dir, "base.pth"))
	require.NoError(t, err)
	defer base.Close()
	requireWeights(t, filepath.Join(dir, "wrapped.safetensors"), base, e)
}

// A file with several adapters is refused.
func TestCheckpointsOfSeveralAdaptersAreRefused(t *testing.T) {
	x, err := NewFloat32([]float32{1, 2}, []int64{1, 2})
	require.NoError(t, err)
	root := &pickle.Dict{}
	path := filepath.Join(t.TempDir(), "two.pth")
	root.Set("base_model.model.a.base_layer.weight", x)
	root.Set("base_model.model.a.lora_A.hospital.weight", x)
	root.Set("base_model.model.h.modules_to_save.hospital.weight", x)
	require.NoError(t, pth.Save(path, root))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, "a.weight a.lora_A.weight h.weight",
		f.Weights[0].Name+" "+f.Weights[1].Name+" "+f.Weights[2].Name)
	root.Set("base_model.model.a.lora_A.default.weight", x)
	require.NoError(t, pth.Save(path, root))
	_, err = Open(path)
	require.ErrorContains(t, err, path+": it holds several adapters, hospital and default")
	require.ErrorContains(t, err, "`lntorch merge`")
}

// rewritten copies an adapter folder with other settings.
func rewritten(t *testing.T, folder string, settings map[string]any) string {
	t.Helper()
	to := t.TempDir()
	text, err := os.ReadFile(filepath.Join(folder, peft.ConfigFile))
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(text, &all))
	for k, v := range settings {
		all[k] = v
	}
	text, err = json.Marshal(all)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(to, peft.ConfigFile), text, 0o644))
	tensors, err := os.ReadFile(filepath.Join(folder, peft.TensorsFile))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(to, peft.TensorsFile), tensors, 0o644))
	return to
}

// If an initialisation cannot be reproduced to float32 precision, the message says so and what to
// do.
func TestInitialisationsThatRoundingDecidesAreRefused(t *testing.T) {
	values := func(n int, f func(i int) float32) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = f(i)
		}
		return v
	}
	hash := golden.HashInput(1, []int64{8, 6})
	identity := values(36, func(i int) float32 {
		if i%7 == 0 {
			return 1
		}
		return 0
	})
	for message, c := range map[string]struct {
		init    peft.Init
		shape   []int64
		values  []float32
		scaling float64
	}{
		"singular values 2 and 3, 1 and 1, are so close": {peft.PiSSA, []int64{6, 6}, identity, 1},
		"its first 2 columns are linearly dependent": {peft.OLoRA, []int64{8, 6},
			values(48, func(i int) float32 { return float32(i / 6) }), 1},
		"(singular values from 0 to 0)": {peft.OLoRA, []int64{8, 6},
			make([]float32, 48), 1},
		"it holds NaN or Inf": {peft.PiSSA, []int64{8, 6},
			append([]float32{float32(math.NaN())}, hash[1:]...), 1},
		"which PEFT supports for linear layers only": {peft.OLoRA, []int64{8, 6, 1}, hash, 1},
		"needs a scaling above 0, found -1":          {peft.PiSSA, []int64{8, 6}, hash, -1},
		"is too large to reproduce init_lora_weights": {peft.PiSSA, []int64{2049, 2049},
			make([]float32, 2049*2049), 1},
		"save_pretrained with path_initial_model_for_wei": {peft.PiSSA, []int64{6, 6}, identity, 1},
	} {
		err := applyInit(slices.Clone(c.values), c.shape, 2,
			LowRank{Init: c.init, Scaling: c.scaling})
		require.ErrorContains(t, err, message)
	}
	zero := make([]float32, 48)
	require.NoError(t, applyInit(zero, []int64{8, 6}, 2, LowRank{Init: peft.PiSSA, Scaling: 1}))
	require.Equal(t, make([]float32, 48), zero)
	require.NoError(t, applyInit(slices.Clone(hash), []int64{8, 6}, 2,
		LowRank{Init: peft.PiSSA, Scaling: 1}))
}

// A folder whose PiSSA has an unsupported name is refused before anything is read from the base.
func TestSettingsOfRealFoldersAreRefusedByName(t *testing.T) {
	folder := filepath.Join(golden.Path(t, "peft/0.21.2"), "plain", "adapter")
	_, err := peft.Open(rewritten(t, folder, nil), models.CanonicalLayer)
	require.NoError(t, err)
	for key, v := range map[string]any{"init_lora_weights": "pissa_niter_4",
		"target_parameters": []string{"x"}, "kasa_config": map[string]any{}, "something_new": 1,
		"use_qalora": true, "layers_to_transform": 9} {
		_, err := peft.Open(rewritten(t, folder, map[string]any{key: v}), models.CanonicalLayer)
		require.ErrorContains(t, err, key)
	}
}
