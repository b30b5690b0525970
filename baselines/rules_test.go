package baselines_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
)

type parameter struct {
	name  string
	shape []int64
}

// networks are the parameters of every network of testdata/state-dicts.
func networks(t *testing.T) map[string][]parameter {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Root(t), "testdata/state-dicts/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	all := map[string][]parameter{}
	for _, path := range files {
		var doc struct {
			Parameters [][]any `json:"named_parameters"` // index, name, shape, elements
		}
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &doc))
		require.NotEmpty(t, doc.Parameters)
		var list []parameter
		for _, p := range doc.Parameters {
			var shape []int64
			for _, d := range p[2].([]any) {
				shape = append(shape, int64(d.(float64)))
			}
			list = append(list, parameter{p[1].(string), shape})
		}
		name := filepath.Base(path)
		all[name[:len(name)-len(".json")]] = list
	}
	return all
}

func makeMethod(t *testing.T, name string) finetune.Method {
	t.Helper()
	e, err := finetune.Lookup(name)
	require.NoError(t, err)
	m, err := e.Make(nil)
	require.NoError(t, err)
	return m
}

type count struct{ Tensors, Numbers int64 }

func trained(m finetune.Method, ps []parameter) (c count) {
	for _, p := range ps {
		if m.Trains(p.name, p.shape) {
			n := int64(1)
			for _, d := range p.shape {
				n *= d
			}
			c.Tensors, c.Numbers = c.Tensors+1, c.Numbers+n
		}
	}
	return c
}

// Python's rules on the names of every network, and the known counts of the released trainers.
func TestMethodsTrainWhatTheReleasedTrainersDo(t *testing.T) {
	var want struct {
		Trainable map[string]map[string]count
	}
	golden.LoadJSON(t, "methods/trainable.json", &want)
	all := networks(t)
	require.Len(t, want.Trainable, len(all))
	for network, methods := range want.Trainable {
		for name, c := range methods {
			require.Equal(t, c, trained(makeMethod(t, name), all[network]), "%s, %s", network, name)
		}
	}
	// Six stages, one channel, two classes: PlainConvUNet and ResidualEncoderUNet.
	for network, c := range map[string][2]count{
		"plainconvunet": {{59, 10090}, {54, 9290}},
		"resencl":       {{135, 29290}, {134, 29258}},
	} {
		require.Equal(t, c[0], trained(makeMethod(t, "bias"), all[network]), network)
		require.Equal(t, c[1], trained(makeMethod(t, "norm"), all[network]), network)
	}
}

func TestReleasedSettings(t *testing.T) {
	for name, want := range map[string]finetune.Entry{
		"bias": {Trainer: "nnUNetTrainer_bias", LR: 1e-2, Epochs: 200},
		"norm": {Trainer: "nnUNetTrainer_norm", LR: 1e-3, Epochs: 200},
		"head": {Trainer: "nnUNetTrainer_head", LR: 1e-2, Epochs: 200},
	} {
		e, err := finetune.Lookup(name)
		require.NoError(t, err)
		require.Equal(t, want.Trainer, e.Trainer)
		require.Equal(t, want.LR, e.LR)
		require.Equal(t, want.Epochs, e.Epochs)
		require.False(t, e.Stock)
		m, err := e.Make(nil)
		require.NoError(t, err)
		_, updates := m.(finetune.Updater)
		require.False(t, updates, "it takes ordinary optimizer steps")
	}
	stock, err := finetune.Stock()
	require.NoError(t, err)
	require.Equal(t, "full", stock.Name)
}

// Only the last layers train, whatever the rest of the network is.
func TestHeadIsTheHeadAlone(t *testing.T) {
	for network, want := range map[string][]string{
		"tiny-swinunetr": {"out.conv.conv.weight", "out.conv.conv.bias"},
		"plainconvunet":  {"decoder.seg_layers.0.weight", "decoder.seg_layers.4.bias"},
	} {
		m := makeMethod(t, "head")
		var got []string
		for _, p := range networks(t)[network] {
			if m.Trains(p.name, p.shape) {
				got = append(got, p.name)
			}
		}
		require.Subset(t, got, want)
		require.False(t, slices.Contains(got, "encoder.stages.0.0.convs.0.conv.weight"))
		require.False(t, slices.Contains(got, "decoder1.conv_block.conv1.conv.weight"))
	}
}
