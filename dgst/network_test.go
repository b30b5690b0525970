package dgst_test

import (
	"math"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// largest returns the flat indices of the k largest magnitudes of each row, by sorting whole rows.
func largest(v []float32, rows, k int) []int64 {
	var out []int64
	width := len(v) / rows
	for r := range rows {
		order := make([]int, width)
		for i := range order {
			order[i] = r*width + i
		}
		sort.SliceStable(order, func(a, b int) bool {
			return math.Abs(float64(v[order[a]])) > math.Abs(float64(v[order[b]]))
		})
		for _, i := range order[:min(k, width)] {
			out = append(out, int64(i))
		}
	}
	return out
}

// Selection on PyTorch's gradients of whole networks: 2d with three classes, several channels and
// four classes, bottlenecks, and k above the length of the shortest rows.
func TestSelectionOnWholeNetworks(t *testing.T) {
	for _, c := range []struct {
		network string
		k       int
	}{{"resenc-2d", 2}, {"plain-2d", 1}, {"plain-channels", 3}, {"resenc-bottleneck", 40},
		{"plain-aniso", 2}} {
		t.Run(c.network, func(t *testing.T) {
			torchtest.NoLeak(t)
			arrays := golden.Load(t, "network/"+c.network+".npz")
			m, err := dgst.New(dgst.Config{K: int64(c.k), Mode: dgst.GradMask})
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				var params []finetune.Param
				var want [][]int64
				total, heads := 0, 0
				for _, name := range arrays.Names() {
					parameter, ok := strings.CutPrefix(name, "grad/")
					if !ok {
						continue
					}
					shape, g := golden.Float32s(t, arrays, name)
					params = append(params, makeParam(t, s, parameter, make([]float32, len(g)), g,
						torch.Sizes(shape)...))
					var w []int64
					if strings.Contains(parameter, "seg_layers") {
						heads++
					} else if len(shape) > 1 {
						w = largest(g, shape[0], c.k)
					}
					want, total = append(want, w), total+len(w)
				}
				require.Positive(t, heads)
				masks, err := m.Update(s, 0, params)
				require.NoError(t, err)
				require.Len(t, masks, len(params))
				for i, mask := range masks {
					if want[i] == nil {
						require.Nil(t, mask.Indices, params[i].Name)
						continue
					}
					got, err := torch.Slice[int64](mask.Indices)
					require.NoError(t, err)
					require.ElementsMatch(t, want[i], got, params[i].Name)
					require.Equal(t, torch.GradMasked, mask.Rule)
				}
				step, ever := m.Counts()
				require.EqualValues(t, []int{total, total}, []int{int(step), int(ever)})
				return nil
			}))
		})
	}
}

func TestAParameterWithoutGradientGetsNoMask(t *testing.T) {
	torchtest.NoLeak(t)
	for _, selection := range []dgst.Select{dgst.Dynamic, dgst.Static, dgst.Random} {
		m, err := dgst.New(dgst.Config{K: 2, Select: selection, Mode: dgst.Strict})
		require.NoError(t, err)
		defer m.Close()
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			p := makeParam(t, s, "a.weight", make([]float32, 4), []float32{1, 2, 3, 4}, 2, 2)
			q := makeParam(t, s, "b.weight", make([]float32, 4), make([]float32, 4), 2, 2)
			require.NoError(t, q.T.SetGrad(nil))
			masks, err := m.Update(s, 0, []finetune.Param{q, p})
			require.NoError(t, err)
			require.Nil(t, masks[0].Indices)
			require.NotNil(t, masks[1].Indices)
			return nil
		}))
	}
}

// A resumed method selects as the uninterrupted one: with static masks, during their warm-up, and
// at random.
func TestTakingUpATrainingChangesNothing(t *testing.T) {
	for _, cfg := range []dgst.Config{
		{K: 2, Mode: dgst.Strict},
		{K: 2, Mode: dgst.Strict, Select: dgst.Static},
		{K: 2, Mode: dgst.Strict, Select: dgst.Static, Warmup: 3},
		{K: 2, Mode: dgst.Paper, Select: dgst.Random, Rows: dgst.Kernel},
	} {
		torchtest.NoLeak(t)
		grads := [][]float32{torchtest.Fill(1, 24), torchtest.Fill(2, 24), torchtest.Fill(3, 24),
			torchtest.Fill(4, 24)}
		run := func(stop int) (masks [][]bool, counts [][2]int64, last []finetune.StateEntry) {
			m, err := dgst.New(cfg)
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				p := makeParam(t, s, "a.conv.weight", make([]float32, 24), grads[0], 3, 2, 2, 2)
				frozen := makeParam(t, s, "pos_embed", make([]float32, 2), []float32{1, 2}, 1, 2)
				for i, g := range grads {
					if i == stop {
						state, err := m.State()
						require.NoError(t, err)
						require.NoError(t, m.Close())
						m, err = dgst.New(cfg)
						require.NoError(t, err)
						require.NoError(t, m.Restore(state))
					}
					require.NoError(t, p.T.SetGrad(torch.FromSlice(s, g, 3, 2, 2, 2)))
					chosen, err := m.Update(s, int64(i), []finetune.Param{p, frozen})
					require.NoError(t, err)
					require.Empty(t, flat(t, chosen[1]))
					masks = append(masks, denseMask(t, chosen[0], 24))
					step, ever := m.Counts()
					counts = append(counts, [2]int64{step, ever})
				}
				var err error
				last, err = m.State()
				require.NoError(t, err)
				return m.Close()
			}))
			return masks, counts, last
		}
		masks, counts, last := run(-1)
		for stop := range len(grads) {
			a, b, c := run(stop)
			require.Equal(t, masks, a, "%+v, taken up at %d", cfg, stop)
			require.Equal(t, counts, b)
			require.Equal(t, last, c)
		}
	}
}

func flat(t *testing.T, m optim.Mask) []int64 {
	t.Helper()
	v, err := torch.Slice[int64](m.Indices)
	require.NoError(t, err)
	return v
}

func TestStateOfAnotherNetworkIsAnError(t *testing.T) {
	torchtest.NoLeak(t)
	for name, c := range map[string]struct {
		static bool
		state  []finetune.StateEntry
		want   string
	}{
		"record of another size": {false,
			[]finetune.StateEntry{{Name: "touched/w", Value: make([]byte, 16)}},
			"w: the checkpoint's record of updated entries does not match its"},
		"record beyond the end": {false,
			[]finetune.StateEntry{{Name: "touched/w", Value: []byte{0, 1, 0, 0, 0, 0, 0, 0}}},
			"w: the checkpoint's record of updated entries does not match its"},
		"mask of another name": {true, []finetune.StateEntry{{Name: "mask/v", Value: []int64{1}}},
			"w: the checkpoint has no static mask for it"},
		"negative entry": {true,
			[]finetune.StateEntry{{Name: "mask/w", Value: []int64{-1}}},
			"w: mask index -1 in the checkpoint, expected 0 or more and below its 4 entries"},
		"entry twice": {true,
			[]finetune.StateEntry{{Name: "mask/w", Value: []int64{1, 1}}},
			"w: mask index 1 is in the checkpoint twice"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dgst.Config{K: 1, Mode: dgst.Strict}
			if c.static {
				cfg.Select = dgst.Static
			}
			m, err := dgst.New(cfg)
			require.NoError(t, err)
			defer m.Close()
			require.NoError(t, m.Restore(c.state))
			require.ErrorContains(t, torch.With(func(s *torch.Scope) error {
				p := makeParam(t, s, "w", make([]float32, 4), []float32{1, 2, 3, 4}, 2, 2)
				_, err := m.Update(s, 0, []finetune.Param{p})
				return err
			}), c.want)
		})
	}
}

// Restoring a checkpoint replaces the previous state.
func TestRestoreReplacesState(t *testing.T) {
	torchtest.NoLeak(t)
	m, err := dgst.New(dgst.Config{K: 1, Select: dgst.Static, Mode: dgst.Strict})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "w", make([]float32, 4), []float32{1, 2, 3, 4}, 2, 2)
		_, err := m.Update(s, 0, []finetune.Param{p})
		require.NoError(t, err)
		want := []finetune.StateEntry{{Name: "touched/w", Value: []byte{1, 0, 0, 0, 0, 0, 0, 0}},
			{Name: "mask/w", Value: []int64{0, 2}}}
		for range 2 {
			require.NoError(t, m.Restore(want))
			got, err := m.State()
			require.NoError(t, err)
			require.Equal(t, want, got)
			_, ever := m.Counts()
			require.EqualValues(t, 1, ever)
		}
		masks, err := m.Update(s, 1, []finetune.Param{p})
		require.NoError(t, err)
		require.Equal(t, []bool{true, false, true, false}, denseMask(t, masks[0], 4))
		return nil
	}))
}

func TestModesAndRowsAreChecked(t *testing.T) {
	_, err := dgst.New(dgst.Config{K: 2, Mode: "fast"})
	require.EqualError(t, err, `dgst: mode "fast": expected gradmask, strict, paper or released`)
	_, err = dgst.New(dgst.Config{K: 0, Mode: dgst.Paper})
	require.EqualError(t, err, "dgst: k is 0 and warmup 1, expected 1 or more")
}
