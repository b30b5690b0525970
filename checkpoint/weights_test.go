package checkpoint_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// small is a network with a convolution, its alias in a decoder, and a head.
type small struct {
	module                         *nn.Module
	weight, bias, head, statistics *nn.Param
}

func newSmall(t *testing.T, s *torch.Scope) *small {
	t.Helper()
	b := nn.Builder{Scope: s, Device: torch.CPU}
	n := &small{module: nn.NewModule(), weight: b.Param(2, 3), bias: b.Param(2),
		head: b.Param(1, 2), statistics: b.Param(2)}
	n.statistics.Buffer = true
	conv, seg, encoder, decoder := nn.NewModule(), nn.NewModule(), nn.NewModule(), nn.NewModule()
	conv.Add("weight", n.weight)
	conv.Add("bias", n.bias)
	conv.Add("running", n.statistics)
	seg.Add("weight", n.head)
	encoder.Child("conv", conv)
	decoder.Child("encoder", encoder)
	decoder.Child("seg_layers", nn.Sequence(seg))
	n.module.Child("encoder", encoder)
	n.module.Child("decoder", decoder)
	for _, p := range n.params() {
		v := make([]float32, p.T.Numel())
		for i := range v {
			v[i] = -1
		}
		require.NoError(t, torch.CopyIn(p.T, v))
	}
	return n
}

func (n *small) params() []*nn.Param { return []*nn.Param{n.weight, n.bias, n.head, n.statistics} }

// values returns the elements of all tensors, to detect changes.
func (n *small) values(t *testing.T) (all []float32) {
	t.Helper()
	for _, p := range n.params() {
		all = append(all, torchtest.Float32s(t, p.T)...)
	}
	return all
}

// weight returns an entry of a state dict: v as the given type.
func weight(t *testing.T, name string, dtype pth.DType, v []float64,
	shape ...int64) checkpoint.Weight {
	t.Helper()
	var b []byte
	for _, x := range v {
		switch dtype {
		case pth.Float64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		case pth.Float32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
		case pth.BFloat16: // for values that it holds exactly
			b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(x))>>16))
		case pth.Float16: // for 1, 2, 4, …
			b = binary.LittleEndian.AppendUint16(b, uint16((math.Ilogb(x)+15)<<10))
		case pth.Int64:
			b = binary.LittleEndian.AppendUint64(b, uint64(int64(x)))
		case pth.Complex64:
			b = binary.LittleEndian.AppendUint64(b, 0)
		default:
			t.Fatalf("type %s", dtype)
		}
	}
	storage, err := pth.NewStorage(dtype, b)
	require.NoError(t, err)
	x, err := pth.NewTensor(storage, 0, shape, nil)
	require.NoError(t, err)
	return checkpoint.Weight{Name: name, Tensor: x}
}

// complete returns weights for every name of small.
func complete(t *testing.T) []checkpoint.Weight {
	six, two := []float64{1, 2, 4, 8, 16, 32}, []float64{64, 128}
	return []checkpoint.Weight{
		weight(t, "encoder.conv.weight", pth.Float32, six, 2, 3),
		weight(t, "encoder.conv.bias", pth.Float32, two, 2),
		weight(t, "encoder.conv.running", pth.Float32, two, 2),
		weight(t, "decoder.encoder.conv.weight", pth.Float32, six, 2, 3),
		weight(t, "decoder.encoder.conv.bias", pth.Float32, two, 2),
		weight(t, "decoder.encoder.conv.running", pth.Float32, two, 2),
		weight(t, "decoder.seg_layers.0.weight", pth.Float32, []float64{3, 5}, 1, 2),
	}
}

func TestLoadWeightsFillsParametersBuffersAndAliases(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n := newSmall(t, s)
		r, err := checkpoint.LoadWeights(n.module, complete(t), checkpoint.LoadOptions{})
		require.NoError(t, err)
		require.Equal(t, []float32{1, 2, 4, 8, 16, 32, 64, 128, 3, 5, 64, 128}, n.values(t))
		require.Equal(t, 4, r.Count(checkpoint.Loaded), "aliases are one row")
		require.Len(t, r.Rows, 4)
		require.Equal(t, "4 loaded, 0 kept, 0 missing, 0 unexpected, 0 mismatched", r.Table(0))
		return nil
	}))
}

func TestOneAliasIsEnoughAndTheLastOneCounts(t *testing.T) {
	torchtest.NoLeak(t)
	for _, c := range []struct {
		dropped string
		changed string
	}{{"encoder.conv.weight", ""}, {"decoder.encoder.conv.weight", ""},
		{"", "decoder.encoder.conv.weight"}} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			n := newSmall(t, s)
			want := []float32{1, 2, 4, 8, 16, 32}
			var weights []checkpoint.Weight
			for _, w := range complete(t) {
				if w.Name == c.changed {
					w = weight(t, w.Name, pth.Float32, []float64{9, 9, 9, 9, 9, 9}, 2, 3)
					want = []float32{9, 9, 9, 9, 9, 9}
				}
				if w.Name != c.dropped {
					weights = append(weights, w)
				}
			}
			_, err := checkpoint.LoadWeights(n.module, weights, checkpoint.LoadOptions{})
			require.NoError(t, err)
			require.Equal(t, want, torchtest.Float32s(t, n.weight.T))
			return nil
		}))
	}
}

func TestLoadWeightsConvertsElementTypes(t *testing.T) {
	torchtest.NoLeak(t)
	for _, dtype := range []pth.DType{pth.Float16, pth.BFloat16, pth.Float64, pth.Int64} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			n := newSmall(t, s)
			weights := complete(t)
			weights[0] = weight(t, weights[0].Name, dtype, []float64{1, 2, 4, 8, 16, 32}, 2, 3)
			_, err := checkpoint.LoadWeights(n.module, append(weights[:3:3], weights[6]),
				checkpoint.LoadOptions{})
			require.NoError(t, err)
			require.Equal(t, []float32{1, 2, 4, 8, 16, 32}, torchtest.Float32s(t, n.weight.T),
				dtype.String())
			require.Equal(t, torch.Float32, n.weight.T.DType())
			return nil
		}))
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error { // ties round to even
		n := newSmall(t, s)
		weights := complete(t)
		weights[1] = weight(t, weights[1].Name, pth.Float64,
			[]float64{1 + 1.0/(1<<24), 1 + 3.0/(1<<24)}, 2)
		_, err := checkpoint.LoadWeights(n.module, append(weights[:3:3], weights[6]),
			checkpoint.LoadOptions{})
		require.NoError(t, err)
		require.Equal(t, []float32{1, 1 + 4.0/(1<<24)}, torchtest.Float32s(t, n.bias.T))
		return nil
	}))
}

// If anything does not fit, the network keeps its values, and the error has a line for each tensor.
func TestWeightsThatDoNotFitChangeNothing(t *testing.T) {
	torchtest.NoLeak(t)
	extra := func(w []checkpoint.Weight) []checkpoint.Weight {
		return append(w, weight(t, "other.weight", pth.Float32, []float64{1}, 1))
	}
	for name, c := range map[string]struct {
		spoil func(w []checkpoint.Weight) []checkpoint.Weight
		o     checkpoint.LoadOptions
		want  []string
	}{
		"missing": {
			func(w []checkpoint.Weight) []checkpoint.Weight { return append(w[1:3:3], w[4:]...) },
			checkpoint.LoadOptions{},
			[]string{"3 loaded, 0 kept, 1 missing, 0 unexpected, 0 mismatched",
				"missing     encoder.conv.weight  network [2 3]", "lntorch inspect"}},
		"missing buffer": {func(w []checkpoint.Weight) []checkpoint.Weight {
			return []checkpoint.Weight{w[0], w[1], w[6]}
		}, checkpoint.LoadOptions{}, []string{"missing     encoder.conv.running"}},
		"mismatched": {func(w []checkpoint.Weight) []checkpoint.Weight {
			w[6] = weight(t, w[6].Name, pth.Float32, []float64{1, 2, 3, 4}, 2, 2)
			return w
		}, checkpoint.LoadOptions{AllowUnexpected: true},
			[]string{"1 mismatched",
				"mismatched  decoder.seg_layers.0.weight  file [2 2], network [1 2]"}},
		"first of two aliases mismatched": {func(w []checkpoint.Weight) []checkpoint.Weight {
			w[0] = weight(t, w[0].Name, pth.Float32, []float64{1, 2, 3, 4, 5, 6}, 3, 2)
			return w
		}, checkpoint.LoadOptions{},
			[]string{"mismatched  encoder.conv.weight  file [3 2], network [2 3]"}},
		"unexpected": {extra, checkpoint.LoadOptions{},
			[]string{"1 unexpected", "unexpected  other.weight  file [1]"}},
		"complex": {func(w []checkpoint.Weight) []checkpoint.Weight {
			w[1] = weight(t, w[1].Name, pth.Complex64, []float64{0, 0}, 2)
			return w
		}, checkpoint.LoadOptions{}, []string{"encoder.conv.bias", "complex64"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				n := newSmall(t, s)
				before := n.values(t)
				_, err := checkpoint.LoadWeights(n.module, c.spoil(complete(t)), c.o)
				for _, w := range c.want {
					require.ErrorContains(t, err, w)
				}
				require.Equal(t, before, n.values(t))
				return nil
			}))
		})
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n := newSmall(t, s)
		r, err := checkpoint.LoadWeights(n.module, extra(complete(t)),
			checkpoint.LoadOptions{AllowUnexpected: true})
		require.NoError(t, err)
		require.Equal(t, 1, r.Count(checkpoint.Unexpected))
		require.Contains(t, r.Table(0), "other.weight")
		return nil
	}))
}

func TestKeptParametersKeepTheirValues(t *testing.T) {
	torchtest.NoLeak(t)
	// a file without heads, or with heads for other classes, also fits
	for _, withHead := range []bool{true, false} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			n := newSmall(t, s)
			weights := complete(t)
			weights[6] = weight(t, weights[6].Name, pth.Float32, []float64{1, 2, 3, 4, 5, 6}, 3, 2)
			if !withHead {
				weights = weights[:6]
			}
			r, err := checkpoint.LoadWeights(n.module, weights,
				checkpoint.LoadOptions{Keep: models.IsSegLayer})
			require.NoError(t, err)
			require.Equal(t, []float32{-1, -1}, torchtest.Float32s(t, n.head.T))
			require.Equal(t, []float32{64, 128}, torchtest.Float32s(t, n.bias.T))
			require.Contains(t, r.Table(0), "1 kept")
			require.Contains(t, r.Table(0),
				"kept        decoder.seg_layers.0.weight  network [1 2]")
			return nil
		}))
	}
}

func TestTableEndsWithHowManyMore(t *testing.T) {
	r := &checkpoint.Report{}
	for _, name := range []string{"a", "b", "c", "d"} {
		r.Rows = append(r.Rows, checkpoint.Row{Name: name, Status: checkpoint.Missing,
			Model: []int64{1}})
	}
	table := r.Table(3)
	require.Contains(t, table, "  missing     c")
	require.NotContains(t, table, "  missing     d")
	require.True(t, strings.HasSuffix(table, "\n  … and 1 more"), table)
	require.NotContains(t, r.Table(4), "more")
}

// The reference uses network_weights unchanged; here names of wrapped modules fit too.
func TestWrappersBeforeNamesAreTakenOff(t *testing.T) {
	for _, prefix := range []string{"module.", "_orig_mod.", "module._orig_mod.",
		"_orig_mod.module."} {
		path := filepath.Join(t.TempDir(), "w.pth")
		w := weight(t, "", pth.Float32, []float64{1}, 1)
		require.NoError(t, pth.Save(path, dict(prefix+"encoder.module.weight", w.Tensor)))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		require.Len(t, f.Weights, 1)
		require.Equal(t, "encoder.module.weight", f.Weights[0].Name, "inside a name it stays")
		require.NoError(t, f.Close())
	}
}

// Compared with nnU-Net's function: the weights that it loaded have the file's bits, and lntorch
// keeps the same ones.
func TestLiveKeptLayersAreThoseOfLoadPretrainedWeights(t *testing.T) {
	golden.Python(t)
	out := golden.Run(t, "nnunet_stack.py", "pretrained", "--plans",
		filepath.Join(sourceModel, "plans.json"),
		"--dataset-json", filepath.Join(sourceModel, "dataset.json"), "--configuration",
		"3d_phantom", "--checkpoint", sourceCheckpoint)
	var theirs struct {
		Taken int
		Kept  []string
		Wrong []string
	}
	lastJSON(t, out, &theirs)
	require.Empty(t, theirs.Wrong)
	f := openSource(t)
	var kept []string
	for _, w := range f.Weights {
		if models.IsSegLayer(w.Name) {
			kept = append(kept, w.Name)
		}
	}
	require.Equal(t, theirs.Kept, kept)
	require.Len(t, f.Weights, theirs.Taken+len(kept))
}

// -pretrained_weights: reinitialised heads, everything else with the file's bits.
func TestPretrainedWeightsRenewExactlyTheHeads(t *testing.T) {
	torchtest.NoLeak(t)
	f := openSource(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n := sourceNetwork(t, s)
		gen, err := torch.NewGenerator(torch.CPU, 5)
		require.NoError(t, err)
		defer gen.Close()
		for _, p := range n.Module().Parameters() {
			s.Fill_(p.T, -7)
		}
		require.NoError(t, n.Module().Reset(gen,
			func(path string) bool { return models.IsSegLayer(path + ".") }))
		reset := map[string][]float32{}
		for _, p := range n.Module().Parameters() {
			reset[p.Name] = torchtest.Float32s(t, p.T)
		}
		r, err := checkpoint.LoadWeights(n.Module(), f.Weights,
			checkpoint.LoadOptions{Keep: models.IsSegLayer, AllowUnexpected: true})
		require.NoError(t, err)
		require.Equal(t, 6, r.Count(checkpoint.Kept))
		file := map[string][]byte{}
		for _, w := range f.Weights {
			file[w.Name] = read(t, w.Tensor)
		}
		heads := 0
		for _, p := range n.Module().Parameters() {
			b, err := p.T.Bytes()
			require.NoError(t, err)
			if !strings.Contains(p.Name, ".seg_layers.") {
				require.Equal(t, file[p.Name], b, p.Name)
				require.Equal(t, float32(-7), reset[p.Name][0], "%s was reinitialised", p.Name)
				continue
			}
			heads++
			if strings.HasSuffix(p.Name, "bias") { // nnU-Net initialises them with 0
				require.Equal(t, make([]byte, len(b)), b, p.Name)
			} else {
				require.NotEqual(t, file[p.Name], b, p.Name)
			}
			require.Equal(t, reset[p.Name], torchtest.Float32s(t, p.T), p.Name)
			require.NotContains(t, reset[p.Name], float32(-7), "%s was not reinitialised", p.Name)
		}
		require.Equal(t, 6, heads)
		return s.Err()
	}))
}
