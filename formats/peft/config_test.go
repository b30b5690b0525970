package peft

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
)

// patternsFile is patterns.json of scripts/golden/peft_adapters.py.
type patternsFile struct {
	Meta struct {
		PEFT string `json:"peft"`
	} `json:"meta"`
	Keys    []string `json:"keys"`
	Version string   `json:"peft_version"`
	Cases   []struct {
		Config json.RawMessage       `json:"config"`
		Layers map[string][2]float64 `json:"layers"` // rank and scaling
	} `json:"cases"`
}

// names lists the layers of the script's network.
var names = []string{"conv", "encoder.stages.0.conv", "encoder.stages.1.conv", "attn.qkv",
	"attn.proj", "attn.narrow", "layers.0.blocks.0.conv",
	"layers.0.blocks.1.conv", "layers.1.conv"}

// complete adds to a case's settings the others that the version writes.
func (p *patternsFile) complete(t *testing.T, config json.RawMessage) []byte {
	t.Helper()
	var given map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(config, &given))
	var rest []string
	for _, k := range p.Keys {
		if k == "peft_version" {
			rest = append(rest, fmt.Sprintf("%q: %q", k, p.Version))
		} else if given[k] == nil {
			rest = append(rest, fmt.Sprintf("%q: null", k))
		}
	}
	// as text, for the order of the patterns
	text := strings.TrimSuffix(strings.TrimSpace(string(config)), "}")
	return []byte(text + ", " + strings.Join(rest, ", ") + "}")
}

func requirePatterns(t *testing.T, path string) {
	t.Helper()
	var p patternsFile
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &p))
	require.Greater(t, len(p.Cases), 55)
	for _, test := range p.Cases {
		c, err := newConfig(p.complete(t, test.Config))
		require.NoError(t, err, "%s", test.Config)
		for _, name := range names {
			want, adapted := test.Layers[name]
			targeted, err := c.targeted(name)
			require.NoError(t, err)
			require.Equal(t, adapted, targeted, "PEFT %s: %s of %s", p.Meta.PEFT, name, test.Config)
			if !adapted {
				continue
			}
			scaling, err := c.scaling(name, int64(want[0]))
			require.NoError(t, err, "PEFT %s: %s of %s", p.Meta.PEFT, name, test.Config)
			require.Equal(t, want[1], scaling, "PEFT %s: %s of %s", p.Meta.PEFT, name, test.Config)
			_, err = c.scaling(name, int64(want[0])+1)
			require.ErrorContains(t, err, "its tensors have rank")
		}
	}
}

// The adapted layers, their ranks and scalings are those of the PEFT version that wrote the file.
func TestPatternsAreReadAsTheVersionThatWroteThem(t *testing.T) {
	for _, version := range []string{"0.13.2", "0.14.0", "0.21.2"} {
		requirePatterns(t, golden.Path(t, "peft/"+version+"/patterns.json"))
	}
}

func TestLivePatternsArePEFTs(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	golden.Run(t, "peft_adapters.py", "--only-patterns", "--out", dir)
	requirePatterns(t, filepath.Join(dir, "patterns.json"))
}

// config0 has the settings that do not reveal the version.
func config0(more string) []byte {
	return []byte(`{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["conv"]` +
		more + "}")
}

func TestReadingsThatDisagreeAreRefused(t *testing.T) {
	scaling := func(more string) (float64, error) {
		c, err := newConfig(config0(more))
		require.NoError(t, err)
		return c.scaling("encoder.conv", 2)
	}
	_, err := scaling(`, "alpha_pattern": {"encoder.*": 8}`)
	require.ErrorContains(t, err, "gives 4 with PEFT up to 0.13 and 8 with PEFT from 0.15")
	require.ErrorContains(t, err, "peft_version")
	_, err = scaling(`, "alpha_pattern": {"conv": 8}, "rank_pattern": {"onv|.*conv": 2}`)
	require.ErrorContains(t, err, "gives 4 with PEFT up to 0.13 and 8 with PEFT 0.14")
	for version, want := range map[string]float64{"0.13.2": 2, "0.14.0": 2, "0.15.0": 4,
		"0.21.2.dev0@abc": 4, "1.0.0": 4} {
		s, err := scaling(`, "alpha_pattern": {"encoder.*": 8}, "peft_version": "` + version + `"`)
		require.NoError(t, err)
		require.Equal(t, want, s, version)
	}
	s, err := scaling(`, "alpha_pattern": {"conv": 8}`)
	require.NoError(t, err)
	require.Equal(t, 4.0, s)
	// the rank of the tensors decides
	s, err = scaling(`, "alpha_pattern": {"encoder.*": 8}, "rank_pattern": {"encoder.*": 3}`)
	require.NoError(t, err)
	require.Equal(t, 2.0, s)
	// as in Python's dict: the first position, the last value
	s, err = scaling(`, "alpha_pattern": {"conv": 8, ".*": 6, "conv": 10}`)
	require.NoError(t, err)
	require.Equal(t, 5.0, s)

	c, err := newConfig(
		[]byte(`{"peft_type": "LORA", "target_modules": ["conv"], "layers_to_transform": 1, "peft_version": "0.18.0"}`))
	require.NoError(t, err)
	_, err = c.targeted("net.layers.0.blocks.1.conv")
	require.ErrorContains(t, err, "its index 1 in some versions of PEFT and 0 in others")
}

// Expressions that Go's regexp reads differently from Python's re, or not at all, are refused by
// name; the message suggests whole names.
func TestExpressionsThatPythonReadsOtherwiseAreRefused(t *testing.T) {
	for text, message := range map[string]string{
		"(?=a)conv": `"(?=" of Python's`, "(?!a)conv": `"(?!" of Python's`,
		"(?<!a)conv": `"(?<" of Python's`, `(a)\\1`: `"\\1" of Python's`,
		"(?i)CONV": `"(?i" of Python's`,
		"(?P<a>x)": `"(?P" of Python's`, `conv\\Z`: `"\\Z" of Python's`,
		`\\pL`: `"\\p" of Python's`, `\\Qa\\E`: `"\\Q" of Python's`,
		"a{,3}":  `"{" is not followed by`,
		"a{100}": "it repeats 100 times", "a++": "is not a supported regular expression",
		"[[:alpha:]]": `"[" within brackets`, "a)(b": "not a supported regular expression",
		"[a":    "is not closed",
		"a)|(b": "not a supported regular expression", "ä": "non-ASCII", "[ä]": "non-ASCII",
		"((a{99}){99}){99}": "too many", `a\\`: "of Python's", `[\\Z]`: "of Python's",
		"*.conv": "not a supported regular expression",
	} {
		for key, value := range map[string]string{"alpha_pattern": fmt.Sprintf(`{"%s": 1}`, text),
			"target_modules": `"` + text + `"`} {
			c, err := newConfig([]byte(`{"peft_type": "LORA", "` + key + `": ` + value + `}`))
			if err == nil {
				if _, err = c.targeted("encoder.conv"); err == nil {
					_, err = c.scaling("encoder.conv", 8)
				}
			}
			require.ErrorContains(t, err, message, text)
			require.ErrorContains(t, err, key)
			if !strings.Contains(message, "too many") {
				require.ErrorContains(t, err, "name the layers without it")
			}
		}
	}
	for text, match := range map[string]bool{`encoder\\.(?:a|conv)`: true,
		`enc[^a]der.con{1,2}v`: true, `.*?v`: true, `[]x]`: false, `\\w+\\.\\bconv\\b`: true,
		`encoder\\.con`: false} {
		c, err := newConfig([]byte(`{"peft_type": "LORA", "target_modules": "` + text + `"}`))
		require.NoError(t, err)
		in, err := c.targeted("encoder.conv")
		require.NoError(t, err)
		require.Equal(t, match, in, text)
	}
}

// Settings of PEFT that are off or have no effect are accepted.
func TestSettingsWithoutEffectAreTaken(t *testing.T) {
	for _, more := range []string{`, "use_dora": false`, `, "layer_replication": null`,
		`, "loftq_config": {"loftq_bits": 4}`, `, "eva_config": {"rho": 1}`,
		`, "runtime_config": {}`,
		`, "enable_lora": null, "merge_weights": false, "new_list": [], "new_text": "", "new_map": { }`, `, "init_lora_weights": "eva"`, `, "init_lora_weights": "orthogonal"`,
		`, "init_lora_weights": "mica"`, `, "init_lora_weights": "Gaussian"`,
		`, "init_lora_weights": false`, `, "qalora_group_size": 16`,
		`, "exclude_modules": ""`} {
		c, err := newConfig(config0(more))
		require.NoError(t, err, more)
		require.Equal(t, Plain, c.init)
	}
	for more, want := range map[string]Init{"pissa": PiSSA, "olora": OLoRA, "OLoRA": OLoRA} {
		c, err := newConfig(config0(`, "init_lora_weights": "` + more + `"`))
		require.NoError(t, err)
		require.Equal(t, want, c.init)
	}
}

// A hostile file is refused quickly.
func TestHostileConfigsEnd(t *testing.T) {
	many := func(n int, key func(i int) string) []byte {
		var b bytes.Buffer
		for i := range n {
			fmt.Fprintf(&b, `%s"%s": 1`, strings.Repeat(", ", min(i, 1)), key(i))
		}
		return config0(`, "alpha_pattern": {` + b.String() + `}`)
	}
	for what, text := range map[string][]byte{
		"many":     many(60000, func(i int) string { return fmt.Sprintf("%d.x", i) }),
		"repeats":  many(60000, func(i int) string { return fmt.Sprintf("a{99}%d", i) }),
		"nested":   many(2000, func(i int) string { return fmt.Sprintf("(((.*)*)*)*%d{9}", i) }),
		"one":      config0(`, "alpha_pattern": {"` + strings.Repeat("(.*", 500) + `": 1}`),
		"deep":     []byte(strings.Repeat(`{"a":`, 100000)),
		"brackets": []byte(strings.Repeat(`[`, 1<<20)),
		"rank":     []byte(`{"peft_type": "LORA", "r": 99999999999999999999}`),
		"targets": config0(`, "exclude_modules": [` +
			strings.TrimSuffix(strings.Repeat(`"a",`, 200000), ",") + `]`),
	} {
		start := time.Now()
		c, err := newConfig(text)
		for i := 0; err == nil && i < 20000; i++ {
			name := fmt.Sprintf("encoder.%d.conv", i)
			if _, err = c.targeted(name); err == nil {
				_, err = c.scaling(name, 2)
			}
		}
		require.Equal(t, what != "targets", err != nil, what)
		t.Log(what, time.Since(start).Round(time.Millisecond))
		require.Less(t, time.Since(start), 10*time.Second, what) // 2 s on an idle core
	}
	folder := saved(t, Config{Rank: 2, Alpha: 3}, pair...)
	require.NoError(t, os.WriteFile(filepath.Join(folder, ConfigFile),
		bytes.Repeat([]byte(" "), maxConfig+1), 0o644))
	_, err := Open(folder, same)
	require.ErrorContains(t, err, "is larger than")
}

// Without a safetensors file, the pickle of torch.save is read, and tensors of other types become
// float32.
func TestOtherFilesAndTypesAreRead(t *testing.T) {
	tensor := func(d pth.DType, b []byte, shape ...int64) *pth.Tensor {
		s, err := pth.NewStorage(d, b)
		require.NoError(t, err)
		x, err := pth.NewTensor(s, 0, shape, nil)
		require.NoError(t, err)
		return x
	}
	double := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil,
		math.Float64bits(0.1)), math.Float64bits(-2))
	root := &pickle.Dict{}
	// 1, -1.5
	root.Set(Prefix+"a.conv.lora_A.weight",
		tensor(pth.BFloat16, []byte{0x80, 0x3f, 0xc0, 0xbf}, 1, 2))
	// 1, 2^-24
	root.Set(Prefix+"a.conv.lora_B.weight", tensor(pth.Float16, []byte{0, 0x3c, 1, 0}, 2, 1))
	root.Set(Prefix+"a.conv.base_layer.bias", tensor(pth.Float64, double, 2))
	folder := saved(t, Config{Rank: 1, Alpha: 3}, pair...)
	require.NoError(t, os.Remove(filepath.Join(folder, TensorsFile)))
	_, err := Open(folder, same)
	require.ErrorContains(t, err, "has neither adapter_model.safetensors nor adapter_model.bin")
	path := filepath.Join(folder, PickleFile)
	require.NoError(t, pth.Save(path, root))
	a, err := Open(folder, same)
	require.NoError(t, err)
	defer a.Close()
	floats := func(x *pth.Tensor) (v []float32) {
		b := make([]byte, x.Bytes())
		require.NoError(t, x.ReadInto(b))
		for ; len(b) > 0; b = b[4:] {
			v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b)))
		}
		return v
	}
	require.Equal(t, []float32{1, -1.5}, floats(a.Layers[0].A))
	require.Equal(t, []float32{1, 0x1p-24}, floats(a.Layers[0].B))
	require.Equal(t, []float32{0.1, -2}, floats(a.Values[0].Tensor))

	for message, change := range map[string]func(){
		"its elements are int64": func() {
			root.Set(Prefix+"b.bias", tensor(pth.Int64, make([]byte, 8), 1))
		},
		`entry "b.bias" is not a named tensor`: func() { root.Set("b.bias", "text") },
		"the file holds 1 of them": func() {
			x := tensor(pth.Float32, make([]byte, 4), 1)
			x.Size, x.Stride = []int64{8}, []int64{0}
			root.Set(Prefix+"b.bias", x)
		},
		"two tensors are named a.conv.lora_A.": func() {
			root.Set("a.conv.lora_A.other.weight", tensor(pth.Float32, make([]byte, 8), 1, 2))
		},
	} {
		change()
		require.NoError(t, pth.Save(path, root))
		_, err := Open(folder, same)
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, path)
		root.Delete(Prefix + "b.bias")
		root.Delete("b.bias")
		root.Delete("a.conv.lora_A.other.weight")
	}
	require.NoError(t, pth.Save(path, "text"))
	_, err = Open(folder, same)
	require.ErrorContains(t, err, "expected PEFT's dictionary of tensors")
}

// A named adapter lies one folder deeper, and its name is part of a wrapped network's parameter
// names.
func TestAdaptersHaveNames(t *testing.T) {
	folder := saved(t, Config{Rank: 2, Alpha: 3}, pair...)
	_, err := Open(filepath.Dir(folder), same)
	require.ErrorContains(t, err, "but "+folder+" has: use that folder")
	for name, adapter := range map[string]string{"base_model.model.a.lora_A.hospital.weight": "hospital",
		"a.lora_B.x.weight": "x", "h.0.modules_to_save.hospital.weight": "hospital",
		"a.lora_A.weight": "", "a.base_layer.weight": ""} {
		require.Equal(t, adapter, AdapterName(name), name)
	}
	require.Equal(t, "a.lora_A.weight", PlainName("base_model.model.a.lora_A.hospital.weight"))
	require.Equal(t, "h.0.1.weight", PlainName("h.0.modules_to_save.hospital.1.weight"))
}

// A layer's settings are looked up by its first name: PEFT 0.14 needs something before a key.
func TestSettingsHangOnTheFirstName(t *testing.T) {
	folder := saved(t, Config{Rank: 2, Alpha: 3},
		entry(Prefix+"decoder.encoder.conv.lora_A.weight", 2, 3),
		entry(Prefix+"decoder.encoder.conv.lora_B.weight", 5, 2))
	change(t, folder,
		func(m map[string]any) { m["alpha_pattern"] = map[string]any{"encoder.c.*": 8} })
	for first, want := range map[string]float64{"encoder.conv": 1.5, "decoder.encoder.conv": 4} {
		a, err := Open(folder, func(string) string { return first })
		require.NoError(t, err)
		require.Equal(t, want, a.Layers[0].Scaling)
		require.NoError(t, a.Close())
	}
	_, err := Open(folder, func(string) string { return "encoder.ä" })
	require.ErrorContains(t, err, "expected a name in ASCII")
}

func FuzzConfig(f *testing.F) {
	for _, more := range []string{"",
		`, "alpha_pattern": {"encoder.*": 8, "conv|a{2}": 1.5}, "rank_pattern": {"conv": 2}`,
		`, "target_modules": ".*\\.(a|conv)", "exclude_modules": ["x"]`,
		`, "layers_to_transform": [0, 1], "layers_pattern": ["blocks", "l.*"]`,
		`, "init_lora_weights": "pissa", "peft_version": "0.18.0"`,
		`, "lora_bias": false, "eva_config": null`,
		`, "layers_pattern": "(?:a|[b-d]+)", "layers_to_transform": 3, "corda_config": null`} {
		f.Add(config0(more))
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "golden", "peft", "0.21.2",
		"plain", "adapter", ConfigFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := newConfig(text)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.LessOrEqual(t, int64(1), c.rank)
		for _, name := range names {
			if _, err := c.targeted(name); err != nil {
				return
			}
			if s, err := c.scaling(name, c.rank); err == nil && len(c.alphas) == 0 && !c.rslora {
				require.Equal(t, c.alpha/float64(c.rank), s)
			}
		}
	})
}
