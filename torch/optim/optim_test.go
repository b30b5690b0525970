package optim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// stepCase is one optimizer of scripts/golden/optim_steps.py, step by step. Missing gradients are
// nil.
type stepCase struct {
	Name    string
	Options struct {
		LR, Momentum, Dampening float64
		WeightDecay             float64 `json:"weight_decay"`
		Nesterov                bool
	}
	Params [][]float32
	Grads  [][][]float32
	LRs    []float64
	After  [][][]float32
	State  map[int]struct {
		Buffer []float32 `json:"momentum_buffer"`
	}
}

type file struct {
	Shapes [][]int64
	SGD    []stepCase
	Clip   []struct {
		Max, Total     float64
		Grads, Clipped [][]float32
	}
	Scaler struct {
		Param, X []float32
		Rows     []struct {
			Stepped bool
			Param   []float32
			Scale   float64
			Tracker int64
		}
	}
	Poly []struct {
		Initial float64
		Max     int
		LRs     []float64
	}
}

func load(t testing.TB) file {
	var f file
	golden.LoadJSON(t, "optim_steps.json", &f)
	return f
}

// within allows other instruction sets a few roundings.
func within(t *testing.T, what string, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want), what)
	d := golden.Compare(nil, want, got, golden.Tolerance{Scale: 1e-6})
	require.True(t, d.Count == 0 || d.Excess <= 1, "%s: %v", what, d)
}

func (c *stepCase) params(s *torch.Scope, shapes [][]int64) []*torch.Tensor {
	var ps []*torch.Tensor
	for i, v := range c.Params {
		p := torch.FromSlice(s, v, shapes[i]...)
		if err := p.SetRequiresGrad(true); err != nil {
			s.Fail(err)
		}
		ps = append(ps, p)
	}
	return ps
}

func setGrads(t *testing.T, s *torch.Scope, params []*torch.Tensor, grads [][]float32) {
	t.Helper()
	for i, g := range grads {
		var x *torch.Tensor
		if g != nil {
			x = torch.FromSlice(s, g, params[i].Shape()...)
		}
		require.NoError(t, params[i].SetGrad(x))
	}
}

var impls = []torch.Impl{torch.SingleTensor, torch.Foreach, torch.Fused}

func TestSGDStepsAndResumesAsPyTorch(t *testing.T) {
	torchtest.NoLeak(t)
	f := load(t)
	for _, c := range f.SGD {
		for _, impl := range impls {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				params := c.params(s, f.Shapes)
				options := torch.SGD{LR: c.Options.LR, Momentum: c.Options.Momentum,
					Dampening:   c.Options.Dampening,
					WeightDecay: c.Options.WeightDecay, Nesterov: c.Options.Nesterov, Impl: impl}
				o, err := optim.NewSGD(params, options)
				require.NoError(t, err)
				defer func() { o.Close() }()
				for step, grads := range c.Grads {
					if step == 3 { // as a resumed training: a new optimizer, the old one's state
						next, err := optim.NewSGD(params, options)
						require.NoError(t, err)
						require.NoError(t, next.Load(o.State()))
						o.Close()
						o = next
					}
					o.SetLR(c.LRs[step])
					require.Equal(t, c.LRs[step], o.LR())
					require.NoError(t, s.With(func(s *torch.Scope) error {
						setGrads(t, s, params, grads)
						o.Step(s, nil)
						return nil
					}))
					for i, want := range c.After[step] {
						within(t, c.Name, want, torchtest.Float32s(t, params[i]))
					}
				}
				for i, b := range o.State() {
					want, ok := c.State[i]
					ok = ok && want.Buffer != nil
					require.Equal(t, ok, b != nil, "%s: buffer %d", c.Name, i)
					if ok {
						within(t, c.Name, want.Buffer, torchtest.Float32s(t, b))
					}
				}
				return nil
			}))
		}
	}
}

func TestSGDObeysMasks(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		c := stepCase{Params: [][]float32{{1, 2, 3}, {4, 5}}}
		params := c.params(s, [][]int64{{3}, {2}})
		o, err := optim.NewSGD(params, torch.SGD{LR: 0.5, Momentum: 0.9})
		require.NoError(t, err)
		defer o.Close()
		setGrads(t, s, params, [][]float32{{1, 1, 1}, {1, 1}})
		o.Step(s, []optim.Mask{{Indices: torch.FromSlice(s, []int64{2}, 1), Rule: torch.Plain},
			{Rule: torch.UpdateMasked}})
		require.NoError(t, s.Err())
		require.Equal(t, []float32{1, 2, 2.5}, torchtest.Float32s(t, params[0]))
		require.Equal(t, []float32{3.5, 4.5}, torchtest.Float32s(t, params[1]),
			"no indices: a dense step")
		require.Nil(t, o.State()[0], "plain steps have no momentum")
		require.NotNil(t, o.State()[1])
		return nil
	}))
}

func TestLoadRefusesStateOfAnotherNetwork(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		c := stepCase{Params: [][]float32{{1, 2, 3}, {4, 5}}}
		params := c.params(s, [][]int64{{3}, {2}})
		o, err := optim.NewSGD(params, torch.SGD{LR: 1, Momentum: 0.9})
		require.NoError(t, err)
		defer o.Close()
		good := []*torch.Tensor{nil, torch.FromSlice(s, []float64{7, 8}, 2)}
		require.NoError(t, o.Load(good))
		require.Nil(t, o.State()[0])
		require.Equal(t, []float32{7, 8}, torchtest.Float32s(t, o.State()[1]),
			"in the parameter's type")
		live := torch.Live()
		require.EqualError(t, o.Load(good[:1]),
			"torch/optim: the sgd state has 1 parameters, expected the network's 2")
		require.EqualError(t, o.Load([]*torch.Tensor{torchtest.Tensor(s, 1, 3),
			torchtest.Tensor(s, 1, 3)}),
			"torch/optim: momentum buffer of parameter 1 has shape [3], expected [2]")
		require.Equal(t, live+2, torch.Live())
		require.Equal(t, []float32{7, 8}, torchtest.Float32s(t, o.State()[1]),
			"unchanged by the failure")
		return nil
	}))
	require.EqualError(t, torch.With(func(s *torch.Scope) error {
		o, err := optim.NewSGD(nil, torch.SGD{})
		require.NoError(t, err)
		defer o.Close()
		o.Step(s, make([]optim.Mask, 2))
		return nil
	}), "torch/optim: sgd: 2 masks for 0 parameters")
}

func TestClipGradNormEqualsPyTorch(t *testing.T) {
	torchtest.NoLeak(t)
	f := load(t)
	for _, c := range f.Clip {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			p := stepCase{Params: f.SGD[0].Params}
			params := p.params(s, f.Shapes)
			setGrads(t, s, params, c.Grads)
			total, err := optim.ClipGradNorm(s, params, c.Max).Item()
			require.NoError(t, err)
			require.InEpsilon(t, c.Total, total, 1e-6)
			for i, want := range c.Clipped {
				require.Equal(t, want != nil, params[i].HasGrad())
				if want != nil {
					within(t, "gradient", want, torchtest.Float32s(t, s.Grad(params[i])))
				}
			}
			return nil
		}))
	}
}

// The bits of Python: the rate is printed, stored in checkpoints and multiplied into every weight.
func TestPolyLRHasPythonsBits(t *testing.T) {
	for _, c := range load(t).Poly {
		for epoch, want := range c.LRs {
			require.Equal(t, want, optim.PolyLR(c.Initial, epoch, c.Max, 0.9), "epoch %d of %d",
				epoch, c.Max)
		}
	}
}

func TestGradScalerGoesAsPyTorchs(t *testing.T) {
	torchtest.NoLeak(t)
	c := load(t).Scaler
	inf := float32(1)
	for range 11 {
		inf *= 1e4 // overflows
	}
	require.NoError(t, torch.With(func(model *torch.Scope) error {
		p := torch.FromSlice(model, c.Param, 3)
		require.NoError(t, p.SetRequiresGrad(true))
		params := []*torch.Tensor{p}
		o, err := optim.NewSGD(params, torch.SGD{LR: 0.1, Momentum: 0.9, Nesterov: true,
			WeightDecay: 1e-2})
		require.NoError(t, err)
		defer o.Close()
		g, err := optim.NewGradScaler(torch.CPU, optim.GradScalerState{Scale: 1024, GrowthFactor: 2,
			BackoffFactor: 0.25, GrowthInterval: 3})
		require.NoError(t, err)
		defer func() { g.Close() }()
		for step, want := range c.Rows {
			if step == 5 { // as a resumed training
				st, err := g.State()
				require.NoError(t, err)
				g.Close()
				g, err = optim.NewGradScaler(torch.CPU, optim.DefaultGradScaler())
				require.NoError(t, err)
				require.NoError(t, g.Load(st))
			}
			require.NoError(t, model.With(func(s *torch.Scope) error {
				require.NoError(t, torch.ClearGrads(params))
				loss := s.Sum(s.Mul(s.Mul(p, p), torch.FromSlice(s, c.X, 3)))
				if step == 2 || step == 6 || step == 7 {
					loss = s.MulScalar(loss, float64(inf))
				}
				require.NoError(t, g.Scale(s, loss).Backward())
				g.Unscale(s, params)
				optim.ClipGradNorm(s, params, 12)
				require.Equal(t, want.Stepped, g.Step(s, func() { o.Step(s, nil) }), "step %d",
					step)
				g.Update(s)
				return nil
			}))
			within(t, "parameter", want.Param, torchtest.Float32s(t, p))
			st, err := g.State()
			require.NoError(t, err)
			require.Equal(t, optim.GradScalerState{Scale: want.Scale, GrowthFactor: 2,
				BackoffFactor: 0.25, GrowthInterval: 3,
				GrowthTracker: want.Tracker}, st, "step %d", step)
		}
		return nil
	}))
}

func TestGradScalerRefusesWrongOrderAndSettings(t *testing.T) {
	torchtest.NoLeak(t)
	g, err := optim.NewGradScaler(torch.CPU, optim.DefaultGradScaler())
	require.NoError(t, err)
	defer g.Close()
	ran := func() { t.Error("the step ran") }
	require.ErrorContains(t, torch.With(func(s *torch.Scope) error { g.Step(s, ran); return nil }),
		"Step must be called once, after Unscale")
	require.ErrorContains(t, torch.With(func(s *torch.Scope) error { g.Update(s); return nil }),
		"Update must be called after Unscale")
	require.ErrorContains(t, torch.With(func(s *torch.Scope) error {
		g.Unscale(s, nil)
		g.Unscale(s, nil)
		return nil
	}), "Unscale was already called")
	for _, bad := range []func(*optim.GradScalerState){
		func(s *optim.GradScalerState) { s.Scale = 0 },
		func(s *optim.GradScalerState) { s.GrowthFactor = 1 },
		func(s *optim.GradScalerState) { s.BackoffFactor = 1 },
		func(s *optim.GradScalerState) { s.GrowthInterval = 0 },
	} {
		st := optim.DefaultGradScaler()
		bad(&st)
		_, err := optim.NewGradScaler(torch.CPU, st)
		require.ErrorContains(t, err, "torch/optim: grad scaler: ")
		require.Error(t, g.Load(st))
	}
}
