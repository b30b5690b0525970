package dgst_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

func TestClassifyNamesAsTheReferenceDoes(t *testing.T) {
	var file struct {
		Roles map[string]map[string]string
	}
	golden.LoadJSON(t, "dgst/roles.json", &file)
	words := map[dgst.Kind]string{dgst.Dense: "dense", dgst.Sparse: "sparse", dgst.Frozen: "frozen"}
	n := 0
	for network, names := range file.Roles {
		for name, want := range names {
			// Five axes: the rule depends only on the name.
			require.Equal(t, want, words[dgst.Classify(name, []int64{2, 2, 1, 1, 1})], "%s: %s",
				network, name)
			n++
		}
	}
	require.Greater(t, n, 1000)
	require.Equal(t, dgst.Dense, dgst.Classify("x.weight", []int64{7}), "a vector has no rows")
}

// makeParam returns a trainable parameter with a gradient.
func makeParam(t *testing.T, s *torch.Scope, name string, value, grad []float32,
	shape ...int64) finetune.Param {
	t.Helper()
	p := torch.FromSlice(s, value, shape...)
	require.NoError(t, p.SetRequiresGrad(true))
	require.NoError(t, p.SetGrad(torch.FromSlice(s, grad, shape...)))
	return finetune.Param{Name: name, T: p}
}

func denseMask(t *testing.T, m optim.Mask, numel int) []bool {
	t.Helper()
	flat, err := torch.Slice[int64](m.Indices)
	require.NoError(t, err)
	mask := make([]bool, numel)
	for _, i := range flat {
		require.False(t, mask[i], "entry %d is selected twice", i)
		mask[i] = true
	}
	return mask
}

func TestSelectionIsNumpysEntryByEntry(t *testing.T) {
	torchtest.Require(t)
	torchtest.NoLeak(t)
	var file struct {
		Cases []struct {
			Key      string
			K        int64
			Kind     string
			Selected int
		}
	}
	golden.LoadJSON(t, "dgst/selection.json", &file)
	arrays := golden.Load(t, "dgst/selection.npz")
	require.NotEmpty(t, file.Cases)
	for _, c := range file.Cases {
		t.Run(fmt.Sprintf("%s %s k=%d", c.Key, c.Kind, c.K), func(t *testing.T) {
			shape, grad := golden.Float32s(t, arrays, c.Key+"/gradient")
			want, err := read(t, arrays, c.Key+"/mask").Bools()
			require.NoError(t, err)
			m, err := dgst.New(dgst.Config{K: c.K, Mode: dgst.GradMask})
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				p := makeParam(t, s, "a.conv.weight", make([]float32, len(grad)), grad,
					torch.Sizes(shape)...)
				masks, err := m.Update(s, 0, []finetune.Param{p})
				require.NoError(t, err)
				require.Equal(t, want, denseMask(t, masks[0], len(grad)))
				step, ever := m.Counts()
				require.EqualValues(t, c.Selected, step)
				require.Equal(t, step, ever)
				return nil
			}))
		})
	}
}

func read(t *testing.T, f *npz.File, name string) *npz.Array {
	t.Helper()
	a, err := f.Read(name)
	require.NoError(t, err)
	return a
}

// Six steps of every mode on three small parameters, one of each kind, through Update and SGD.
func TestUpdatesFollowTheFormulas(t *testing.T) {
	torchtest.Require(t)
	torchtest.NoLeak(t)
	var file struct {
		LRs         []float64
		Momentum    float64
		WeightDecay float64 `json:"weight_decay"`
		Modes       []string
		Roles       map[string]string
		Meta        struct {
			Torch      string
			Capability string `json:"cpu_capability"`
		}
	}
	golden.LoadJSON(t, "dgst/update.json", &file)
	arrays := golden.Load(t, "dgst/update.npz")
	names := []string{"a.conv.weight", "a.norm.weight", "pos_embed"}
	capability, err := torch.CPUCapability()
	require.NoError(t, err)
	version, err := torch.Version()
	require.NoError(t, err)
	// With FMA instructions a product and a sum are rounded once, otherwise twice.
	exact := capability == file.Meta.Capability && strings.HasPrefix(file.Meta.Torch, version)
	for _, mode := range file.Modes {
		t.Run(mode, func(t *testing.T) {
			m, err := dgst.New(dgst.Config{K: 2, Mode: dgst.Mode(mode)})
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				var params []finetune.Param
				var tensors []*torch.Tensor
				for _, name := range names {
					shape, v := golden.Float32s(t, arrays, "start/"+name)
					p := makeParam(t, s, name, v, make([]float32, len(v)), torch.Sizes(shape)...)
					params, tensors = append(params, p), append(tensors, p.T)
				}
				sgd, err := optim.NewSGD(tensors, torch.SGD{LR: 1, Momentum: file.Momentum,
					WeightDecay: file.WeightDecay, Nesterov: true})
				require.NoError(t, err)
				defer sgd.Close()
				for step, lr := range file.LRs {
					before := make([][]float32, len(params))
					for i, p := range params {
						before[i] = torchtest.Float32s(t, p.T)
						shape, g := golden.Float32s(t, arrays, fmt.Sprintf("step%02d/grad/%s", step,
							p.Name))
						require.NoError(t, p.T.SetGrad(torch.FromSlice(s, g, torch.Sizes(shape)...)))
					}
					sgd.SetLR(lr)
					masks, err := m.Update(s, int64(step), params)
					require.NoError(t, err)
					sgd.Step(s, masks)
					require.NoError(t, s.Err())
					for i, p := range params {
						shape, want := golden.Float32s(t, arrays,
							fmt.Sprintf("%s/step%02d/param/%s", mode, step, p.Name))
						got := torchtest.Float32s(t, p.T)
						what := fmt.Sprintf("%s after step %d", p.Name, step)
						if exact {
							golden.Equal(t, what, shape, want, got)
						} else {
							golden.Close(t, what, "op", shape, want, got)
						}
						if kind := file.Roles[p.Name]; mode == "strict" || mode == "paper" {
							unmoved(t, kind, masks[i], before[i], got)
						}
					}
				}
				return nil
			}))
		})
	}
}

// unmoved checks that entries outside the mask keep their bits.
func unmoved(t *testing.T, kind string, m optim.Mask, before, after []float32) {
	t.Helper()
	if kind == "dense" {
		require.Nil(t, m.Indices)
		return
	}
	moved := 0
	selected := denseMask(t, m, len(before))
	for i := range before {
		if before[i] != after[i] {
			require.True(t, selected[i], "%s: entry %d moved outside the mask", kind, i)
			moved++
		}
	}
	require.Equal(t, kind == "sparse", moved > 0)
}

func TestGradMaskedEntriesDrift(t *testing.T) {
	torchtest.Require(t)
	m, err := dgst.New(dgst.Config{K: 1, Mode: dgst.GradMask})
	require.NoError(t, err)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "w", []float32{1, 1}, []float32{3, 1}, 1, 2)
		sgd, err := optim.NewSGD([]*torch.Tensor{p.T}, torch.SGD{LR: 0.1, Momentum: 0.9,
			WeightDecay: 0.5, Nesterov: true})
		require.NoError(t, err)
		defer sgd.Close()
		masks, err := m.Update(s, 0, []finetune.Param{p})
		require.NoError(t, err)
		sgd.Step(s, masks)
		v := torchtest.Float32s(t, p.T)
		require.InDelta(t, 1-0.1*1.9*0.5, v[1], 1e-6, "decay and momentum act outside the mask")
		return s.Err()
	}))
}

func TestStaticMasksStayAndTravelThroughState(t *testing.T) {
	torchtest.Require(t)
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		m, err := dgst.New(dgst.Config{K: 1, Select: dgst.Static, Mode: dgst.Strict})
		require.NoError(t, err)
		defer m.Close()
		p := makeParam(t, s, "w", make([]float32, 6), []float32{1, 5, 2, 9, 1, 1}, 2, 3)
		q := makeParam(t, s, "w.bias", make([]float32, 2), []float32{1, 2}, 2)
		params := []finetune.Param{p, q}
		first, err := m.Update(s, 0, params)
		require.NoError(t, err)
		require.Equal(t, []bool{false, true, false, true, false, false}, denseMask(t, first[0], 6))
		require.Nil(t, first[1].Indices)
		state, err := m.State()
		require.NoError(t, err)

		require.NoError(t, p.T.SetGrad(torch.FromSlice(s, []float32{9, 1, 1, 1, 1, 9}, 2, 3)))
		again, err := m.Update(s, 1, params)
		require.NoError(t, err)
		require.Equal(t, denseMask(t, first[0], 6), denseMask(t, again[0], 6),
			"static masks are selected once")

		other, err := dgst.New(dgst.Config{K: 1, Select: dgst.Static, Mode: dgst.Strict})
		require.NoError(t, err)
		defer other.Close()
		require.NoError(t, other.Restore(state))
		same, err := other.State()
		require.NoError(t, err)
		require.Equal(t, state, same, "state restored, not yet used")
		restored, err := other.Update(s, 5, params)
		require.NoError(t, err)
		require.Equal(t, denseMask(t, first[0], 6), denseMask(t, restored[0], 6))
		step, ever := other.Counts()
		require.EqualValues(t, []int64{2, 2}, []int64{step, ever})

		// A checkpoint of another network.
		foreign, err := dgst.New(dgst.Config{K: 1, Select: dgst.Static, Mode: dgst.Strict})
		require.NoError(t, err)
		defer foreign.Close()
		require.NoError(t, foreign.Restore([]finetune.StateEntry{{Name: "mask/w",
			Value: []int64{99}}}))
		_, err = foreign.Update(s, 0, params)
		require.ErrorContains(t, err,
			"w: mask index 99 in the checkpoint, expected 0 or more and below its 6 entries")
		return s.Err()
	}))
}

func TestCountsUpdatedEntries(t *testing.T) {
	torchtest.Require(t)
	m, err := dgst.New(dgst.Config{K: 1, Mode: dgst.Paper})
	require.NoError(t, err)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "w", make([]float32, 200), make([]float32, 200), 2, 100)
		rng := torchtest.Rand(4)
		seen := map[int]bool{}
		for range 30 {
			g := make([]float32, 200)
			for i := range g {
				g[i] = float32(rng.NormFloat64())
			}
			require.NoError(t, p.T.SetGrad(torch.FromSlice(s, g, 2, 100)))
			masks, err := m.Update(s, 0, []finetune.Param{p})
			require.NoError(t, err)
			for i, on := range denseMask(t, masks[0], 200) {
				if on {
					seen[i] = true
				}
			}
			step, ever := m.Counts()
			require.EqualValues(t, 2, step)
			require.EqualValues(t, len(seen), ever)
		}
		state, err := m.State()
		require.NoError(t, err)
		other, err := dgst.New(dgst.Config{K: 1, Mode: dgst.Paper})
		require.NoError(t, err)
		require.NoError(t, other.Restore(state))
		_, ever := other.Counts()
		require.EqualValues(t, len(seen), ever)
		return s.Err()
	}))
}

func TestWrongSettingsAndStatesSayWhatIsExpected(t *testing.T) {
	entry, err := finetune.Lookup("dgst")
	require.NoError(t, err)
	for value, want := range map[string]string{"0": "whole number of 1 or more",
		"two": "whole number"} {
		_, err := entry.Make(finetune.Values{"dgst-k": value})
		require.ErrorContains(t, err, want)
	}
	_, err = entry.Make(finetune.Values{"dgst-mode": "fast"})
	require.ErrorContains(t, err, "gradmask, strict, paper, released")
	_, err = entry.Make(finetune.Values{"lora-rank": "1"})
	require.ErrorContains(t, err, "has no option --lora-rank")
	_, err = finetune.Lookup("adam")
	require.ErrorContains(t, err, "expected one of dgst")

	m, err := dgst.New(dgst.Config{K: 2, Mode: dgst.Strict})
	require.NoError(t, err)
	for _, e := range []finetune.StateEntry{{Name: "touched/w", Value: []byte{1, 2}},
		{Name: "other/w", Value: []int64{1}}, {Name: "mask/w", Value: 1.5}} {
		require.ErrorContains(t, m.Restore([]finetune.StateEntry{e}), "unexpected type")
	}
}

func TestANonFiniteGradientIsAnError(t *testing.T) {
	torchtest.Require(t)
	m, err := dgst.New(dgst.Config{K: 1, Mode: dgst.GradMask})
	require.NoError(t, err)
	require.Error(t, torch.With(func(s *torch.Scope) error {
		nan := float32(0)
		nan /= nan
		p := makeParam(t, s, "some.conv.weight", make([]float32, 4), []float32{1, 2, nan, 4}, 2, 2)
		_, err := m.Update(s, 0, []finetune.Param{p})
		require.ErrorContains(t, err, "some.conv.weight")
		require.ErrorContains(t, err, "not finite")
		return err
	}))
}

func TestReleasedModeMasksNothing(t *testing.T) {
	torchtest.Require(t)
	m, err := dgst.New(dgst.Config{K: 2, Mode: dgst.Released})
	require.NoError(t, err)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "w", make([]float32, 4), []float32{1, 2, 3, 4}, 2, 2)
		masks, err := m.Update(s, 0, []finetune.Param{p})
		require.NoError(t, err)
		require.Nil(t, masks)
		return nil
	}))
	require.True(t, slices.ContainsFunc(finetune.Entries(), func(e finetune.Entry) bool {
		return e.Trainer == "nnUNetTrainer_DGST" && e.LR == 1e-3 && e.Epochs == 50
	}))
}
