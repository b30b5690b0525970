// Package peft reads and writes LoRA adapter folders of the Python library PEFT:
// adapter_config.json and adapter_model.safetensors or, for reading only, adapter_model.bin.
//
// It handles files, names and the meaning of the settings. The arithmetic is in package baselines
// for training and in package checkpoint for merging.
// Source: PEFT 0.14.0, LoraConfig, get_peft_model_state_dict, load_peft_weights and
// set_peft_model_state_dict; differences in older and newer versions are noted where they matter.
package peft

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
)

// File names.
const (
	ConfigFile  = "adapter_config.json"
	TensorsFile = "adapter_model.safetensors"
	// written by PEFT before 0.7, and since then with safe_serialization=False
	PickleFile = "adapter_model.bin"
)

// Prefix precedes every parameter name of the adapted network.
const Prefix = "base_model.model."

// Config holds the settings that lntorch writes to adapter_config.json.
type Config struct {
	Rank          int
	Alpha         float64
	Dropout       float64
	Targets       []string // endings of layer names
	Bias          string   // "none" or "all": the biases that were trained and are stored
	ModulesToSave []string // layers that were trained in full and are stored
	Transposed    []string // adapted transposed convolutions
}

// transposedKey is the metadata key that lists transposed convolutions, separated by spaces.
const transposedKey = "lntorch.transposed"

// Adapter is an open adapter folder.
type Adapter struct {
	Layers   []Layer
	Values   []Value           // parameters that were trained in full
	Metadata map[string]string // metadata of the tensor file
	file     io.Closer
}

// Layer is an adapted layer: Init is applied to its weight, then Scaling·B·A is added.
type Layer struct {
	Name    string      // layer name in the plain network
	A       *pth.Tensor // float32 (r, in, kernel…); (in, r, kernel…) for a transposed convolution
	B       *pth.Tensor // float32 (out, r) or (out, r, 1, …)
	Scaling float64
	Init    Init
	// Transposed marks a transposed convolution, which PEFT itself does not adapt.
	Transposed bool
}

// Value is a float32 parameter that replaces the plain network's.
type Value struct {
	Name string // parameter name in the plain network
	*pth.Tensor
}

// Close closes the tensor file; tensors cannot be read afterwards.
func (a *Adapter) Close() error { return a.file.Close() }

// Open reads a folder written by PEFT or lntorch. A layer's settings are looked up by the first
// name under which the network lists it: first maps aliases to that name and returns other names
// unchanged. Tensors of 16 and 64 bits become float32, as in PEFT.
func Open(folder string, first func(layer string) string) (*Adapter, error) {
	path := filepath.Join(folder, ConfigFile)
	text, err := readConfig(folder, path)
	if err != nil {
		return nil, fmt.Errorf("peft: %w", err)
	}
	c, err := newConfig(text)
	if err != nil {
		return nil, fmt.Errorf("peft: %s: %w", path, err)
	}
	a, tensors, path, err := openTensors(folder)
	if err != nil {
		return nil, fmt.Errorf("peft: %w", err)
	}
	if err := a.sort(c, tensors, first); err != nil {
		a.Close()
		return nil, fmt.Errorf("peft: %s: %w", path, err)
	}
	return a, nil
}

func readConfig(folder, path string) ([]byte, error) {
	f, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		below, _ := filepath.Glob(filepath.Join(folder, "*", ConfigFile))
		if len(below) > 0 { // a named adapter
			return nil, fmt.Errorf("%s has no %s, but %s has: use that folder", folder, ConfigFile,
				filepath.Dir(below[0]))
		}
		return nil, fmt.Errorf("%s has no %s: expected a folder that PEFT's save_pretrained or "+
			"lntorch wrote", folder, ConfigFile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes: expected PEFT's %s", path, maxConfig,
			ConfigFile)
	}
	return text, nil
}

// named is a tensor with its name in the file.
type named struct {
	name string
	*pth.Tensor
}

// openTensors opens the safetensors file of a folder or, if there is none, the pickle, as in PEFT.
func openTensors(folder string) (a *Adapter, tensors []named, path string, err error) {
	path = filepath.Join(folder, TensorsFile)
	s, err := safetensors.Open(path)
	switch {
	case err == nil:
		for _, t := range s.Tensors {
			p, err := pth.FromSafetensors(t)
			if err != nil {
				s.Close()
				return nil, nil, path, fmt.Errorf("%s: %w", path, err)
			}
			tensors = append(tensors, named{t.Name, p})
		}
		return &Adapter{Metadata: s.Metadata, file: s}, tensors, path, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, path, err
	}
	path = filepath.Join(folder, PickleFile)
	p, err := pth.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, path, fmt.Errorf("%s has neither %s nor %s: expected a folder that "+
			"PEFT's save_pretrained or lntorch wrote", folder, TensorsFile, PickleFile)
	}
	if err != nil {
		return nil, nil, path, err
	}
	if tensors, err = pickled(p.Root); err != nil {
		p.Close()
		return nil, nil, path, fmt.Errorf("%s: %w", path, err)
	}
	return &Adapter{file: p}, tensors, path, nil
}

// pickled returns the tensors of a pickled dictionary.
func pickled(root any) ([]named, error) {
	var all iter.Seq2[any, any]
	switch d := root.(type) {
	case *pickle.Dict:
		all = d.All()
	case *pickle.OrderedDict:
		all = d.All()
	default:
		return nil, errors.New("it is not a dictionary, expected PEFT's dictionary of tensors")
	}
	var tensors []named
	for key, value := range all {
		name, ok := key.(string)
		t, isTensor := value.(*pth.Tensor)
		if !ok || !isTensor {
			return nil, fmt.Errorf("entry %.60q is not a named tensor, expected PEFT's "+
				"dictionary of tensors",
				fmt.Sprint(key))
		}
		tensors = append(tensors, named{name, t})
	}
	return tensors, nil
}

// sort separates the tensors of adapted layers from parameters that were trained in full.
func (a *Adapter) sort(c *config, tensors []named, first func(string) string) error {
	index := map[string]int{}
	seen := map[string]bool{}
	for _, t := range tensors {
		name := PlainName(t.name)
		if strings.Contains(name, ".modules_to_save.") ||
			strings.Contains(name, ".original_module.") {
			// with bias="all" PEFT saves the biases of modules_to_save two more times and ignores
			// these copies when loading
			continue
		}
		if seen[name] {
			return fmt.Errorf("two tensors are named %s", name)
		}
		seen[name] = true
		layer, part, ok := SplitName(name)
		if !ok && strings.Contains(name, "lora_") {
			return fmt.Errorf("tensor %s: unknown kind of name", t.name)
		}
		value, err := asFloat32(t.Tensor)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.name, err)
		}
		if !ok {
			a.Values = append(a.Values, Value{name, value})
			continue
		}
		i, ok := index[layer]
		if !ok {
			i = len(a.Layers)
			index[layer] = i
			a.Layers = append(a.Layers, Layer{Name: layer, Init: c.init})
		}
		if l := &a.Layers[i]; part == "A" {
			l.A = value
		} else {
			l.B = value
		}
	}
	for i := range a.Layers {
		l := &a.Layers[i]
		if l.A == nil || l.B == nil {
			return fmt.Errorf("layer %s has only one of lora_A and lora_B", l.Name)
		}
		if len(l.B.Size) < 2 || len(l.A.Size) != len(l.B.Size) || l.B.Size[1] < 1 {
			return fmt.Errorf("layer %s: lora_A has shape %v, lora_B %v", l.Name, l.A.Size,
				l.B.Size)
		}
		l.Transposed = slices.Contains(strings.Fields(a.Metadata[transposedKey]), l.Name)
		if err := l.configure(c, first(l.Name)); err != nil {
			return err
		}
	}
	if len(a.Layers) == 0 {
		return errors.New("it holds no lora_A or lora_B")
	}
	return nil
}

// configure applies the settings to a layer, looked up by its first name.
func (l *Layer) configure(c *config, name string) error {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("layer %q: expected a name in ASCII", name)
	}
	targeted, err := c.targeted(name)
	if err != nil {
		return err
	}
	if !targeted {
		return fmt.Errorf("it holds an adapter of layer %s, which target_modules, "+
			"exclude_modules and layers_to_transform of %s leave out: PEFT would not load it", name,
			ConfigFile)
	}
	l.Scaling, err = c.scaling(name, l.B.Size[1])
	return err
}

// asFloat32 converts a tensor to float32, as PEFT does when loading. A tensor of another type is
// read into memory.
func asFloat32(t *pth.Tensor) (*pth.Tensor, error) {
	if t.Numel() > t.Storage.Numel {
		return nil, fmt.Errorf("its shape %v needs %d elements, the file holds %d of them", t.Size,
			t.Numel(), t.Storage.Numel)
	}
	var widen func(b []byte) float32
	switch t.DType {
	case pth.Float32:
		return t, nil
	case pth.Float16:
		widen = func(b []byte) float32 { return array.Float16(binary.LittleEndian.Uint16(b)) }
	case pth.BFloat16:
		widen = func(b []byte) float32 {
			return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
		}
	case pth.Float64:
		widen = func(b []byte) float32 {
			return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
	default:
		return nil, fmt.Errorf("its elements are %s, expected float32, float16, bfloat16 or "+
			"float64", t.DType)
	}
	from := make([]byte, t.Bytes())
	if err := t.ReadInto(from); err != nil {
		return nil, err
	}
	to := make([]byte, 0, 4*t.Numel())
	for size := t.DType.Size(); len(from) > 0; from = from[size:] {
		to = binary.LittleEndian.AppendUint32(to, math.Float32bits(widen(from)))
	}
	s, err := pth.NewStorage(pth.Float32, to)
	if err != nil {
		return nil, err
	}
	return pth.NewTensor(s, 0, t.Size, nil)
}

// wrappers lists the name prefixes added by PEFT, torch.compile and data-parallel training.
var wrappers = []string{"module.", "_orig_mod.", Prefix}

// PlainName maps a parameter's name in a wrapped network to its name in the plain network: it
// removes the wrappers' prefixes, base_layer and modules_to_save. Names of lora_A and lora_B keep
// their endings, without the adapter's name.
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
	plain, _ := splitAdapter(name)
	return plain
}

// AdapterName returns the name of the adapter that a parameter of a wrapped network belongs to, ""
// for a parameter of the network itself. PEFT's default name is "default".
func AdapterName(name string) string {
	_, adapter := splitAdapter(name)
	return adapter
}

func splitAdapter(name string) (plain, adapter string) {
	if before, rest, ok := strings.Cut(name, ".modules_to_save."); ok {
		if adapter, rest, ok := strings.Cut(rest, "."); ok {
			return before + "." + rest, adapter
		}
	}
	for _, part := range []string{".lora_A.", ".lora_B."} {
		before, rest, _ := strings.Cut(name, part)
		if adapter, rest, ok := strings.Cut(rest, "."); ok {
			return before + part + rest, adapter
		}
	}
	return name, ""
}

// SplitName splits the plain name of a lora_A or lora_B into its layer and "A" or "B".
func SplitName(name string) (layer, part string, ok bool) {
	for _, part := range []string{"A", "B"} {
		if layer, ok := strings.CutSuffix(name, ".lora_"+part+".weight"); ok {
			return layer, part, true
		}
	}
	return "", "", false
}

// Save writes a folder. While an existing folder is being replaced it has no adapter_config.json,
// and Open refuses it. Entries are named as in the wrapped network; metadata is added to the tensor
// file.
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
		"alpha_pattern": map[string]any{}, "auto_mapping": nil, "base_model_name_or_path": nil,
		"bias": c.Bias, "eva_config": nil,
		"exclude_modules": nil, "fan_in_fan_out": false, "inference_mode": true,
		"init_lora_weights": true, "layer_replication": nil,
		"layers_pattern": nil, "layers_to_transform": nil, "loftq_config": map[string]any{},
		"lora_alpha": c.Alpha, "lora_bias": false,
		"lora_dropout": c.Dropout, "megatron_config": nil, "megatron_core": "megatron.core",
		"modules_to_save": save, "peft_type": "LORA",
		"r": c.Rank, "rank_pattern": map[string]any{}, "revision": nil, "target_modules": targets,
		"task_type": nil,
		"use_dora":  false, "use_rslora": false,
	}, "", "  ")
	return b, err
}
