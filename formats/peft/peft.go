// Package peft reads and writes the folders in which the Python library PEFT keeps LoRA adapters: adapter_config.json and
// adapter_model.safetensors.
//
// It knows names and files; the arithmetic is package baselines' while training and package checkpoint's when merging.
// Source: PEFT 0.14.0, LoraConfig, get_peft_model_state_dict and set_peft_model_state_dict.
package peft

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/internal/atomicfile"
)

// Names of the two files.
const (
	ConfigFile  = "adapter_config.json"
	TensorsFile = "adapter_model.safetensors"
)

// Prefix stands before every name of the adapted network.
const Prefix = "base_model.model."

// Config is what lntorch reads and writes of adapter_config.json.
type Config struct {
	Rank          int
	Alpha         float64
	Dropout       float64
	Targets       []string // ends of layer names
	Bias          string   // "none" or "all": which biases were trained and are among the tensors
	ModulesToSave []string // layers that were trained as a whole and are among the tensors
	Transposed    []string // names of the adapted transposed convolutions
}

// transposedKey is where the tensors' metadata names transposed convolutions, with spaces.
const transposedKey = "lntorch.transposed"

// Adapter is an open folder.
type Adapter struct {
	Layers   []Layer
	Values   []Value           // parameters that were trained as a whole
	Metadata map[string]string // of the tensors' file
	file     *safetensors.File
}

// Layer is one adapted layer: its weight gets Scaling·B·A added.
type Layer struct {
	Name    string              // of the layer in the plain network
	A       *safetensors.Tensor // (r, in, kernel…), for a transposed convolution (in, r, kernel…)
	B       *safetensors.Tensor // (out, r) or (out, r, 1, …)
	Scaling float64
	// Transposed layers are transposed convolutions, which PEFT itself does not adapt.
	Transposed bool
}

// Value is a parameter that takes the place of the plain network's.
type Value struct {
	Name string // in the plain network
	*safetensors.Tensor
}

// Close closes the folder's file; tensors cannot be read afterwards.
func (a *Adapter) Close() error { return a.file.Close() }

// config is adapter_config.json as far as it decides what an adapter computes.
type config struct {
	PeftType         string             `json:"peft_type"`
	Rank             int                `json:"r"`
	Alpha            float64            `json:"lora_alpha"`
	AlphaPattern     map[string]float64 `json:"alpha_pattern"`
	UseDora          bool               `json:"use_dora"`
	UseRSLora        bool               `json:"use_rslora"`
	FanInFanOut      bool               `json:"fan_in_fan_out"`
	LoraBias         bool               `json:"lora_bias"`
	LayerReplication any                `json:"layer_replication"`
}

// Open reads a folder that PEFT or lntorch wrote.
func Open(folder string) (*Adapter, error) {
	path := filepath.Join(folder, ConfigFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("peft: %s has no %s: expected a folder that PEFT's save_pretrained or lntorch wrote", folder, ConfigFile)
	}
	if err != nil {
		return nil, fmt.Errorf("peft: %w", err)
	}
	var c config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("peft: %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("peft: %s: %w", path, err)
	}
	f, err := safetensors.Open(filepath.Join(folder, TensorsFile))
	if err != nil {
		return nil, fmt.Errorf("peft: %w", err)
	}
	a := &Adapter{Metadata: f.Metadata, file: f}
	if err := a.sort(c); err != nil {
		f.Close()
		return nil, fmt.Errorf("peft: %s: %w", filepath.Join(folder, TensorsFile), err)
	}
	return a, nil
}

func (c *config) check() error {
	switch {
	case c.PeftType != "LORA":
		return fmt.Errorf("peft_type is %q, expected LORA", c.PeftType)
	case c.UseDora:
		return errors.New("use_dora is true: weight-decomposed adapters are not supported; merge them in Python")
	case c.LoraBias:
		return errors.New("lora_bias is true: adapters with biases of their own are not supported; merge them in Python")
	case c.LayerReplication != nil:
		return errors.New("layer_replication is set, which is not supported; merge it in Python")
	case c.FanInFanOut:
		return errors.New("fan_in_fan_out is true: transposed linear weights are not supported; merge them in Python")
	case c.Rank < 1 || math.IsNaN(c.Alpha):
		return fmt.Errorf("r is %d and lora_alpha %v, expected positive numbers", c.Rank, c.Alpha)
	}
	return nil
}

// scaling is alpha/r, or alpha/√r, with the alpha of the layer.
func (c *config) scaling(layer string, rank int64) (float64, error) {
	alpha, by := c.Alpha, ""
	for pattern, a := range c.AlphaPattern {
		re, err := regexp.Compile(`^(?:.*\.)?(?:` + pattern + `)$`)
		if err != nil {
			return 0, fmt.Errorf("alpha_pattern: %w", err)
		}
		if !re.MatchString(layer) {
			continue
		}
		if by != "" && a != alpha {
			return 0, fmt.Errorf("alpha_pattern: %q and %q are both for layer %s", by, pattern, layer)
		}
		alpha, by = a, pattern
	}
	if c.UseRSLora {
		return alpha / math.Sqrt(float64(rank)), nil
	}
	return alpha / float64(rank), nil
}

// sort tells the tensors of layers from those that stand for themselves.
func (a *Adapter) sort(c config) error {
	index := map[string]int{}
	for _, t := range a.file.Tensors {
		name := PlainName(t.Name)
		layer, part, ok := SplitName(name)
		if !ok {
			if strings.Contains(name, "lora_") {
				return fmt.Errorf("tensor %s: its name is not understood", t.Name)
			}
			a.Values = append(a.Values, Value{name, t})
			continue
		}
		i, ok := index[layer]
		if !ok {
			i = len(a.Layers)
			index[layer] = i
			a.Layers = append(a.Layers, Layer{Name: layer})
		}
		if l := &a.Layers[i]; part == "A" {
			l.A = t
		} else {
			l.B = t
		}
	}
	for i := range a.Layers {
		l := &a.Layers[i]
		if l.A == nil || l.B == nil {
			return fmt.Errorf("layer %s has only one of lora_A and lora_B", l.Name)
		}
		if len(l.B.Shape) < 2 || len(l.A.Shape) != len(l.B.Shape) || l.B.Shape[1] < 1 {
			return fmt.Errorf("layer %s: lora_A has shape %v, lora_B %v", l.Name, l.A.Shape, l.B.Shape)
		}
		var err error
		if l.Scaling, err = c.scaling(l.Name, l.B.Shape[1]); err != nil {
			return err
		}
		l.Transposed = slices.Contains(strings.Fields(a.Metadata[transposedKey]), l.Name)
	}
	if len(a.Layers) == 0 {
		return errors.New("it holds no lora_A and lora_B")
	}
	return nil
}

// wrappers are what PEFT, torch.compile and data-parallel training put before names.
var wrappers = []string{"module.", "_orig_mod.", Prefix}

// PlainName gives the name in the plain network of a parameter under its name in a wrapped one: without the wrappers'
// prefixes and without base_layer or modules_to_save. Names of lora_A and lora_B keep their ends, without the adapter's name.
func PlainName(name string) string {
	for {
		short := name
		for _, w := range wrappers {
			short = strings.TrimPrefix(short, w)
		}
		if short == name {
			break
		}
		name = short
	}
	name = strings.Replace(name, ".base_layer.", ".", 1)
	name = strings.Replace(name, ".modules_to_save.default.", ".", 1)
	for _, part := range []string{".lora_A", ".lora_B"} {
		name = strings.Replace(name, part+".default.", part+".", 1)
	}
	return name
}

// SplitName takes the plain name of a lora_A or lora_B apart into its layer and "A" or "B".
func SplitName(name string) (layer, part string, ok bool) {
	for _, part := range []string{"A", "B"} {
		if layer, ok := strings.CutSuffix(name, ".lora_"+part+".weight"); ok {
			return layer, part, true
		}
	}
	return "", "", false
}

// Save writes a folder. While it is being replaced it has no adapter_config.json and Open refuses it. Entries are named
// as in the wrapped network; metadata is added to the tensors' file.
func Save(folder string, c Config, entries []safetensors.Entry, metadata map[string]string) error {
	text, err := c.encode()
	if err != nil {
		return fmt.Errorf("peft: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("peft: %w", err)
	}
	if err := atomicfile.Sweep(folder); err != nil {
		return fmt.Errorf("peft: %w", err)
	}
	path := filepath.Join(folder, ConfigFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("peft: %w", err)
	}
	all := map[string]string{"format": "pt"}
	if len(c.Transposed) > 0 {
		all[transposedKey] = strings.Join(c.Transposed, " ")
	}
	for k, v := range metadata {
		all[k] = v
	}
	if err := safetensors.Save(filepath.Join(folder, TensorsFile), entries, all); err != nil {
		return fmt.Errorf("peft: %w", err)
	}
	if err := atomicfile.Write(path, text); err != nil {
		return fmt.Errorf("peft: %w", err)
	}
	return nil
}

// encode writes every key that PEFT 0.14.0 writes, sorted.
func (c Config) encode() ([]byte, error) {
	targets := slices.Sorted(slices.Values(c.Targets))
	var save any
	if len(c.ModulesToSave) > 0 {
		save = c.ModulesToSave
	}
	b, err := json.MarshalIndent(map[string]any{
		"alpha_pattern": map[string]any{}, "auto_mapping": nil, "base_model_name_or_path": nil, "bias": c.Bias, "eva_config": nil,
		"exclude_modules": nil, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layer_replication": nil,
		"layers_pattern": nil, "layers_to_transform": nil, "loftq_config": map[string]any{}, "lora_alpha": c.Alpha, "lora_bias": false,
		"lora_dropout": c.Dropout, "megatron_config": nil, "megatron_core": "megatron.core", "modules_to_save": save, "peft_type": "LORA",
		"r": c.Rank, "rank_pattern": map[string]any{}, "revision": nil, "target_modules": targets, "task_type": nil,
		"use_dora": false, "use_rslora": false,
	}, "", "  ")
	return b, err
}
