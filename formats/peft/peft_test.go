package peft

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/internal/golden"
)

func entry(name string, shape ...int64) safetensors.Entry {
	n := int64(4)
	for _, d := range shape {
		n *= d
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return safetensors.Entry{Name: name, DType: safetensors.Float32, Shape: shape,
		Read: safetensors.Bytes(b)}
}

func saved(t *testing.T, c Config, entries ...safetensors.Entry) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "adapter")
	require.NoError(t, Save(folder, c, entries, map[string]string{"more": "text"}))
	return folder
}

var pair = []safetensors.Entry{entry(Prefix+"a.conv.lora_A.weight", 2, 3, 1, 3),
	entry(Prefix+"a.conv.lora_B.weight", 5, 2, 1, 1)}

// same is the first-name function of networks without aliases.
func same(layer string) string { return layer }

// change edits adapter_config.json.
func change(t *testing.T, folder string, f func(map[string]any)) {
	t.Helper()
	path := filepath.Join(folder, ConfigFile)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(text, &m))
	f(m)
	text, err = json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
}

func TestWhatWasSavedIsRead(t *testing.T) {
	folder := saved(t, Config{Rank: 2, Alpha: 3, Bias: "all", Targets: []string{"conv", "up"},
		Transposed: []string{"up"}}, append([]safetensors.Entry{
		entry(Prefix+"up.lora_A.weight", 3, 2, 2, 2), entry(Prefix+"up.lora_B.weight", 4, 2, 1, 1),
		entry(Prefix+"a.conv.base_layer.bias", 5), entry(Prefix+"heads.0.weight", 1)}, pair...)...)
	a, err := Open(folder, same)
	require.NoError(t, err)
	defer a.Close()
	require.Equal(t, "text", a.Metadata["more"])
	require.Len(t, a.Layers, 2)
	for _, l := range a.Layers {
		require.Equal(t, 1.5, l.Scaling)
		require.Equal(t, l.Name == "up", l.Transposed)
	}
	var names []string
	for _, v := range a.Values {
		names = append(names, v.Name)
	}
	require.Equal(t, []string{"a.conv.bias", "heads.0.weight"}, names)
}

func TestScalingFollowsTheConfig(t *testing.T) {
	folder := saved(t, Config{Rank: 2, Alpha: 3}, pair...)
	scaling := func() float64 {
		a, err := Open(folder, same)
		require.NoError(t, err)
		defer a.Close()
		return a.Layers[0].Scaling
	}
	require.Equal(t, 1.5, scaling())
	change(t, folder,
		func(m map[string]any) { m["alpha_pattern"] = map[string]any{"conv": 5.0, "other": 7.0} })
	require.Equal(t, 2.5, scaling())
	change(t, folder, func(m map[string]any) { m["use_rslora"] = true })
	require.InDelta(t, 5/math.Sqrt2, scaling(), 1e-15)
	change(t, folder,
		func(m map[string]any) {
			m["lora_alpha"] = -1
			m["alpha_pattern"] = nil
			m["use_rslora"] = nil
		})
	require.Equal(t, -0.5, scaling())
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for message, f := range map[string]func(map[string]any){
		`peft_type is "LOHA"`:       func(m map[string]any) { m["peft_type"] = "LOHA" },
		"use_dora is true":          func(m map[string]any) { m["use_dora"] = true },
		"lora_bias is true":         func(m map[string]any) { m["lora_bias"] = true },
		"layer_replication is []":   func(m map[string]any) { m["layer_replication"] = []any{} },
		"fan_in_fan_out is true":    func(m map[string]any) { m["fan_in_fan_out"] = true },
		"r is 0, expected 1":        func(m map[string]any) { m["r"] = 0 },
		"r: it is null, expected":   func(m map[string]any) { m["r"] = nil },
		"r: it is 2.5, expected a":  func(m map[string]any) { m["r"] = 2.5 },
		"r and rank_pattern of ada": func(m map[string]any) { m["r"] = 1 << 30 },
		`alpha_pattern: "(("`: func(m map[string]any) {
			m["alpha_pattern"] = map[string]any{"((": 1}
		},
		`"conv": it is "x", expec`: func(m map[string]any) {
			m["alpha_pattern"] = map[string]any{"conv": "x"}
		},
		"rank_pattern: it is [1]": func(m map[string]any) { m["rank_pattern"] = []int{1} },
		`rank_pattern: "conv" is 2`: func(m map[string]any) {
			m["rank_pattern"] = map[string]any{"conv": 2.5}
		},
		`r: it is "two", expected`: func(m map[string]any) { m["r"] = "two" },
		`use_rslora: it is "yes"`:  func(m map[string]any) { m["use_rslora"] = "yes" },
		"megatron_config is {": func(m map[string]any) {
			m["megatron_config"] = map[string]any{"a": 1}
		},
		"target_parameters is [": func(m map[string]any) {
			m["target_parameters"] = []string{"a.conv.weight"}
		},
		"alora_invocation_tokens": func(m map[string]any) {
			m["alora_invocation_tokens"] = []int{1}
		},
		"use_qalora is true": func(m map[string]any) { m["use_qalora"] = true },
		"arrow_config is {": func(m map[string]any) {
			m["arrow_config"] = map[string]any{}
		},
		"trainable_token_indices": func(m map[string]any) {
			m["trainable_token_indices"] = []int{}
		},
		"use_magic is 3, an unknown": func(m map[string]any) { m["use_magic"] = 3 },
		`"pissa_niter_4" changed`: func(m map[string]any) {
			m["init_lora_weights"] = "pissa_niter_4"
		},
		`"corda" changed the base`:   func(m map[string]any) { m["init_lora_weights"] = "corda" },
		`"loftq" changed the base`:   func(m map[string]any) { m["init_lora_weights"] = "loftq" },
		`"lora_ga" changed the ba`:   func(m map[string]any) { m["init_lora_weights"] = "lora_ga" },
		`"new" is unknown and may`:   func(m map[string]any) { m["init_lora_weights"] = "new" },
		"init_lora_weights: it is 1": func(m map[string]any) { m["init_lora_weights"] = 1 },
		"target_modules: it is 5":    func(m map[string]any) { m["target_modules"] = 5 },
		"target_modules, exclude_m": func(m map[string]any) {
			m["target_modules"] = []string{"other"}
		},
		`"(?=" of Python's regular`: func(m map[string]any) {
			m["target_modules"] = "(?=a)a.conv"
		},
	} {
		folder := saved(t, Config{Rank: 2, Alpha: 3}, pair...)
		change(t, folder, f)
		_, err := Open(folder, same)
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, folder)
	}
	for message, entries := range map[string][]safetensors.Entry{
		"has only one of lora_A and lora_B": pair[:1],
		"unknown kind of name":              {entry(Prefix+"a.lora_embedding_A", 2)},
		"it holds no lora_A":                {entry(Prefix+"a.bias", 2)},
		"lora_B [1 0]": {entry(Prefix+"a.lora_A.weight", 0, 3),
			entry(Prefix+"a.lora_B.weight", 1, 0)},
		"lora_A has shape [2 3]": {entry(Prefix+"a.lora_A.weight", 2, 3),
			entry(Prefix+"a.lora_B.weight", 3)},
	} {
		_, err := Open(saved(t, Config{Rank: 2, Alpha: 3}, entries...), same)
		require.ErrorContains(t, err, message)
	}
	_, err := Open(t.TempDir(), same)
	require.ErrorContains(t, err, "expected a folder that PEFT's save_pretrained or lntorch wrote")
}

func TestPlainNames(t *testing.T) {
	for name, want := range map[string]string{
		"base_model.model.a.conv.base_layer.weight":                "a.conv.weight",
		"module.base_model.model._orig_mod.a.conv.base_layer.bias": "a.conv.bias",
		"_orig_mod.module.a.b":                                     "a.b",
		"base_model.model.a.conv.lora_A.default.weight":            "a.conv.lora_A.weight",
		"base_model.model.h.0.modules_to_save.default.weight":      "h.0.weight",
		"model.module.weight":                                      "model.module.weight",
	} {
		require.Equal(t, want, PlainName(name))
	}
	layer, part, ok := SplitName("a.conv.lora_B.weight")
	require.True(t, ok)
	require.Equal(t, "a.conv B", layer+" "+part)
	_, _, ok = SplitName("a.conv.weight")
	require.False(t, ok)
}

// TestLivePythonsFolder: PEFT's own folder for linear layers is read with its names and shapes, and
// the config that Save writes has PEFT's keys.
func TestLivePythonsFolder(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	golden.Run(t, "lora.py", "--linear", "--out", dir)
	a, err := Open(filepath.Join(dir, "adapter"), same)
	require.NoError(t, err)
	defer a.Close()
	require.Len(t, a.Layers, 2)
	for _, l := range a.Layers {
		require.Contains(t, []string{"qkv", "proj"}, l.Name)
		require.Len(t, l.A.Size, 2)
		require.Equal(t, 1.5, l.Scaling)
	}
	require.Len(t, a.Values, 1)
	require.Equal(t, "qkv.bias", a.Values[0].Name)
	var theirs, ours map[string]any
	text, err := os.ReadFile(filepath.Join(dir, "adapter", ConfigFile))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &theirs))
	text, err = Config{Rank: 2, Alpha: 3, Dropout: 0.1, Bias: "all",
		Targets: []string{"qkv", "proj"}}.encode()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "{\n  \"alpha_pattern\": {}"))
	require.NoError(t, json.Unmarshal(text, &ours))
	theirs["auto_mapping"] = nil // names a Python class, which only PEFT's AutoPeftModel reads
	require.ElementsMatch(t, theirs["target_modules"], ours["target_modules"])
	theirs["target_modules"] = ours["target_modules"]
	require.Equal(t, theirs, ours)
}
