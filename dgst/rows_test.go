package dgst_test

import (
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// rowOf returns the row of entry i of a weight, by the definition of each kind of row.
func rowOf(rows dgst.Rows, transposed bool, shape []int, i int) int {
	kernel := 1
	for _, d := range shape[2:] {
		kernel *= d
	}
	axis0, axis1 := i/(shape[1]*kernel), i/kernel%shape[1]
	switch {
	case rows == dgst.Kernel && len(shape) > 2:
		return axis0*shape[1] + axis1
	case rows == dgst.Output && transposed:
		return axis1
	}
	return axis0
}

// Selection by gradient and at random equals numpy's entry by entry, with exactly k entries in each
// row: convolutions, transposed convolutions, linear layers and 1×1×1 kernels in 2d and 3d.
func TestRowsAreNumpysEntryByEntry(t *testing.T) {
	torchtest.NoLeak(t)
	var file struct {
		Cases []struct {
			Key, Name string
			Rows      dgst.Rows
			K         int64
			Select    dgst.Select
			Seed      string
			Step      int64
			Selected  int64
		}
	}
	golden.LoadJSON(t, "dgst/rows.json", &file)
	arrays := golden.Load(t, "dgst/rows.npz")
	require.Greater(t, len(file.Cases), 100)
	for _, c := range file.Cases {
		what := fmt.Sprintf("%s: %s %s %s k=%d", c.Key, c.Name, c.Rows, c.Select, c.K)
		shape, grad := golden.Float32s(t, arrays, c.Key+"/gradient")
		want, err := read(t, arrays, c.Key+"/mask").Bools()
		require.NoError(t, err)
		seed, err := strconv.ParseUint(c.Seed, 10, 64)
		require.NoError(t, err)
		m, err := dgst.New(dgst.Config{K: c.K, Mode: dgst.Strict, Select: c.Select, Rows: c.Rows})
		require.NoError(t, err)
		m.Seed(seed)
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			p := makeParam(t, s, c.Name, make([]float32, len(grad)), grad, torch.Sizes(shape)...)
			masks, err := m.Update(s, c.Step, []finetune.Param{p})
			require.NoError(t, err)
			got := denseMask(t, masks[0], len(grad))
			require.Equal(t, want, got, what)
			inRow, size := map[int]int64{}, map[int]int64{}
			for i, on := range got {
				r := rowOf(c.Rows, c.Name[:7] == "decoder", shape, i)
				size[r]++
				if on {
					inRow[r]++
				}
			}
			for r, n := range size {
				require.Equal(t, min(c.K, n), inRow[r], "%s: row %d", what, r)
			}
			require.Equal(t, c.Selected, m.Entries(c.Name, torch.Sizes(shape)), what)
			step, _ := m.Counts()
			require.Equal(t, c.Selected, step)
			n, err := m.Choose(s, c.Step, []finetune.Param{p})
			require.NoError(t, err)
			require.Equal(t, c.Selected, n)
			return nil
		}))
	}
}

// Every subset of a row is equally likely; iterations, seeds and names give different draws.
func TestRandomSelectionIsFair(t *testing.T) {
	torchtest.NoLeak(t)
	const steps = 3000
	count := map[string]int{}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "a.conv.weight", make([]float32, 10), make([]float32, 10), 2, 5)
		q := makeParam(t, s, "b.conv.weight", make([]float32, 10), make([]float32, 10), 2, 5)
		differ := 0
		for step := range int64(steps) {
			require.NoError(t, s.With(func(s *torch.Scope) error {
				var drawn [2][]bool
				for i := range drawn {
					m, err := dgst.New(dgst.Config{K: 2, Mode: dgst.Strict, Select: dgst.Random})
					require.NoError(t, err)
					m.Seed(uint64(i))
					masks, err := m.Update(s, step, []finetune.Param{p, q})
					require.NoError(t, err)
					drawn[i] = denseMask(t, masks[0], 10)
					if i == 0 {
						count[fmt.Sprint(drawn[0][:5])]++
						if fmt.Sprint(drawn[0]) != fmt.Sprint(denseMask(t, masks[1], 10)) {
							differ++
						}
					} else if fmt.Sprint(drawn[0]) != fmt.Sprint(drawn[1]) {
						differ++
					}
				}
				return nil
			}))
		}
		require.Greater(t, differ, 2*steps*95/100,
			"another name or seed changes the draw, 99 times of 100")
		return nil
	}))
	require.Len(t, count, 10, "5 choose 2")
	chi := 0.0
	for _, n := range count {
		chi += math.Pow(float64(n)-steps/10, 2) / (steps / 10)
	}
	require.Less(t, chi, 27.9, "chi-squared with 9 degrees of freedom, p = 0.001")
}

// During warm-up nothing is updated, not even dense parameters; then the sum selects.
func TestWarmUpChoosesByTheSum(t *testing.T) {
	torchtest.NoLeak(t)
	m, err := dgst.New(dgst.Config{K: 1, Mode: dgst.GradMask, Select: dgst.Static, Warmup: 3})
	require.NoError(t, err)
	defer m.Close()
	first, ok := m.FixedFrom()
	require.True(t, ok)
	require.EqualValues(t, 2, first)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		p := makeParam(t, s, "a.conv.weight", []float32{1, 1, 1, 1}, []float32{5, 0, 1, -3}, 2, 2)
		b := makeParam(t, s, "a.bias", []float32{1, 1}, []float32{1, 1}, 2)
		sgd, err := optim.NewSGD([]*torch.Tensor{p.T, b.T}, torch.SGD{LR: 0.1, Momentum: 0.9,
			WeightDecay: 0.5, Nesterov: true})
		require.NoError(t, err)
		defer sgd.Close()
		for step, g := range [][]float32{{5, 0, 1, -3}, {-5, 3, 1, 2}, {1, 0, 1, 2}} {
			require.NoError(t, p.T.SetGrad(torch.FromSlice(s, g, 2, 2)))
			require.NoError(t, b.T.SetGrad(torch.FromSlice(s, []float32{1, 1}, 2)))
			masks, err := m.Update(s, int64(step), []finetune.Param{p, b})
			require.NoError(t, err)
			sgd.Step(s, masks)
			require.NoError(t, s.Err())
			if step < 2 {
				require.Equal(t, []float32{1, 1, 1, 1}, torchtest.Float32s(t, p.T))
				require.Equal(t, []float32{1, 1}, torchtest.Float32s(t, b.T))
				require.Equal(t, g, torchtest.Float32s(t, s.Grad(p.T)),
					"gradients are not modified")
				require.Nil(t, sgd.State()[0], "no momentum accumulates")
				now, _ := m.Counts()
				require.Zero(t, now)
				continue
			}
			// Sums 1 3 | 3 1: the last gradient only would select the first and the fourth.
			require.Equal(t, []bool{false, true, true, false}, denseMask(t, masks[0], 4))
			require.Nil(t, masks[1].Indices)
			require.NotEqual(t, []float32{1, 1}, torchtest.Float32s(t, b.T))
		}
		return nil
	}))
}

func TestSettingsThatContradictAreRefused(t *testing.T) {
	for want, c := range map[string]dgst.Config{
		`selection "all": expected dynamic, static or random`: {K: 1,
			Mode: dgst.Strict, Select: "all"},
		`rows "axis1": expected axis0, output or kernel`: {K: 1,
			Mode: dgst.Strict, Rows: "axis1"},
		"--dgst-warmup 2: only static selection accumulates gradients, not random; use " +
			"--dgst-select static": {K: 1, Mode: dgst.Strict, Select: dgst.Random, Warmup: 2},
		"k is 1 and warmup -1, expected 1 or more": {K: 1,
			Mode: dgst.Strict, Warmup: -1},
	} {
		_, err := dgst.New(c)
		require.EqualError(t, err, "dgst: "+want)
	}
}
