package torch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// sgdParam is one parameter of the Go oracle, in float64.
type sgdParam struct {
	w, g, buf []float64 // buf nil before the first gradient
	mask      []bool
	rule      torch.Rule
}

// step implements the rules' formulae, entry by entry.
func (p *sgdParam) step(o torch.SGD) {
	if p.g == nil {
		return
	}
	first := p.buf == nil
	if first && o.Momentum != 0 && p.rule != torch.Plain {
		p.buf = make([]float64, len(p.w))
	}
	for i := range p.w {
		m := p.rule == torch.Dense || p.mask[i]
		if p.rule == torch.Plain {
			if m {
				p.w[i] -= o.LR * p.g[i]
			}
			continue
		}
		g := p.g[i]
		if p.rule == torch.GradMasked && !m {
			g = 0
		}
		d := g + o.WeightDecay*p.w[i]
		if p.rule == torch.UpdateMasked && !m {
			d = 0
		}
		if o.Momentum != 0 {
			if first {
				p.buf[i] = d
			} else if p.rule == torch.UpdateMasked && !m {
				p.buf[i] *= o.Momentum
			} else {
				p.buf[i] = o.Momentum*p.buf[i] + (1-o.Dampening)*d
			}
			if o.Nesterov {
				d += o.Momentum * p.buf[i]
			} else {
				d = p.buf[i]
			}
		}
		if p.rule == torch.UpdateMasked && !m {
			continue
		}
		p.w[i] -= o.LR * d
	}
}

func TestSGDRulesFollowTheirFormulae(t *testing.T) {
	torchtest.NoLeak(t)
	sizes := [][]int64{{4, 3, 3}, {7}, {2, 5}, {3, 2, 2, 2}, {6}}
	const steps = 6
	for _, o := range []torch.SGD{
		{LR: 0.05, Momentum: 0.99, WeightDecay: 0.03, Nesterov: true},
		{LR: 0.05, Momentum: 0.9, WeightDecay: 0.1, Dampening: 0.2},
		{LR: 0.05, WeightDecay: 0.1},
		{LR: 0.05},
	} {
		for _, rule := range []torch.Rule{torch.Dense, torch.GradMasked, torch.UpdateMasked,
			torch.Plain} {
			for _, impl := range []torch.Impl{torch.SingleTensor, torch.Foreach, torch.Fused} {
				o := o
				o.Impl = impl
				r := torchtest.Rand(11)
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					var params []*torch.Tensor
					var oracle []*sgdParam
					buffers := make([]*torch.Tensor, len(sizes))
					for i, shape := range sizes {
						p := param(s, uint64(i), shape...)
						params = append(params, p)
						oracle = append(oracle, &sgdParam{w: doubles(torchtest.Float32s(t, p)),
							rule: rule})
					}
					for step := range steps {
						masks, rules := make([]*torch.Tensor, len(sizes)),
							make([]torch.Rule, len(sizes))
						for i, p := range params {
							q := oracle[i]
							q.g, q.rule, q.mask = nil, rule, make([]bool, len(q.w))
							if i == 1 && step%3 == 2 { // a parameter may be dense in between
								q.rule = torch.Dense
							}
							rules[i] = q.rule
							var kept []int64
							for j := range q.mask {
								if q.mask[j] = r.IntN(3) == 0; q.mask[j] {
									kept = append(kept, int64(j))
								}
							}
							r.Shuffle(len(kept), func(a, b int) {
								kept[a], kept[b] = kept[b],
									kept[a]
							})
							masks[i] = torch.FromSlice(s, kept, int64(len(kept)))
							if i == 4 || i == 2 && step < 2 { // never a gradient, or only from step 2
								require.NoError(t, p.SetGrad(nil))
								continue
							}
							g := torchtest.Tensor(s, uint64(100*step+i+50), p.Shape()...)
							if i == 3 { // a gradient that is not contiguous
								g = s.Transpose(s.Contiguous(s.Transpose(g, 0, 1),
									torch.Contiguous), 0, 1)
							}
							q.g = doubles(torchtest.Float32s(t, g))
							require.NoError(t, p.SetGrad(g))
						}
						s.SGDStep(o, params, buffers, masks, rules, nil)
						require.NoError(t, s.Err())
						for i, q := range oracle {
							q.step(o)
							name := []any{"%+v rule %d step %d parameter %d", o, rule, step, i}
							within(t, q.w, torchtest.Float32s(t, params[i]), name...)
							require.Equal(t, q.buf != nil, buffers[i] != nil, name...)
							if q.buf != nil {
								within(t, q.buf, torchtest.Float32s(t, buffers[i]), name...)
							}
							if q.rule == torch.GradMasked && q.g != nil {
								for j, g := range torchtest.Float32s(t, s.Grad(params[i])) {
									require.Equal(t, q.mask[j] && q.g[j] != 0, g != 0, name...)
								}
							}
						}
					}
					return nil
				}))
			}
		}
	}
}

// Entries outside a mask keep their bits under the rules that guarantee it.
func TestMaskedUpdatesLeaveTheOthersAlone(t *testing.T) {
	torchtest.NoLeak(t)
	for _, rule := range []torch.Rule{torch.UpdateMasked, torch.Plain} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			p := param(s, 1, 40)
			before := torchtest.Bits(torchtest.Float32s(t, p))
			mask := torch.FromSlice(s, []int64{3, 17, 39}, 3)
			buffers := make([]*torch.Tensor, 1)
			for step := range 5 {
				require.NoError(t, p.SetGrad(torchtest.Tensor(s, uint64(step), 40)))
				s.SGDStep(torch.SGD{LR: 0.1, Momentum: 0.9, WeightDecay: 0.1, Nesterov: true},
					[]*torch.Tensor{p}, buffers, []*torch.Tensor{mask}, []torch.Rule{rule}, nil)
			}
			for i, b := range torchtest.Bits(torchtest.Float32s(t, p)) {
				require.Equal(t, i != 3 && i != 17 && i != 39, b == before[i], "rule %d entry %d",
					rule, i)
			}
			return nil
		}))
	}
}

func TestClipGradNormScalesAllGradientsTogether(t *testing.T) {
	torchtest.NoLeak(t)
	for _, c := range []struct{ g, max float64 }{
		{3, 1}, {3, 1e4}, {3, 5},
		{1e-6, 5e-6}, // the 1e-6 in the divisor matters
	} {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			params := []*torch.Tensor{param(s, 1, 2), param(s, 2, 2, 2), param(s, 3, 3)}
			require.NoError(t, params[0].SetGrad(s.Full([]int64{2}, c.g, torch.Float32, torch.CPU)))
			require.NoError(t, params[1].SetGrad(s.Full([]int64{2, 2}, -2*c.g, torch.Float32,
				torch.CPU)))
			total, err := s.ClipGradNorm(params, c.max).Item()
			require.NoError(t, err)
			norm := c.g * math.Sqrt(2+4*4)
			require.InEpsilon(t, norm, total, 1e-6)
			factor := math.Min(1, c.max/(norm+1e-6))
			for _, v := range torchtest.Float32s(t, s.Grad(params[0])) {
				require.InEpsilon(t, c.g*factor, v, 1e-6)
			}
			for _, v := range torchtest.Float32s(t, s.Grad(params[1])) {
				require.InEpsilon(t, -2*c.g*factor, v, 1e-6)
			}
			require.False(t, params[2].HasGrad())
			return nil
		}))
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		total, err := s.ClipGradNorm([]*torch.Tensor{param(s, 1, 2)}, 1).Item()
		require.Zero(t, total)
		p := param(s, 1, 2)
		require.NoError(t, p.SetGrad(torch.FromSlice(s, []float32{float32(math.NaN()), 1}, 2)))
		nan, e := s.ClipGradNorm([]*torch.Tensor{p}, 1).Item()
		require.NoError(t, e)
		require.True(t, math.IsNaN(nan))
		return err
	}))
}

func doubles(v []float32) []float64 {
	d := make([]float64, len(v))
	for i := range v {
		d[i] = float64(v[i])
	}
	return d
}

// within allows float32 a few roundings for each step.
func within(t *testing.T, want []float64, got []float32, name ...any) {
	t.Helper()
	require.Len(t, got, len(want), name...)
	for i := range want {
		require.InDelta(t, want[i], got[i], 3e-6*math.Max(1, math.Abs(want[i])), name...)
	}
}
