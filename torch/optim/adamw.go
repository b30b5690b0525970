package optim

import (
	"fmt"

	"github.com/lntorch/lntorch/torch"
)

// AdamW is torch.optim.AdamW over one group of parameters, amsgrad and maximize off. Like SGD it keeps its state by index
// of the parameter in a scope of its own.
type AdamW struct {
	options torch.AdamW
	params  []*torch.Tensor
	steps   []int64
	avg     []*torch.Tensor
	avgSq   []*torch.Tensor
	scope   *torch.Scope
}

// AdamWState is the state of one parameter: the steps it has made, 0 before its first gradient, and the two moments.
type AdamWState struct {
	Step             int64
	ExpAvg, ExpAvgSq *torch.Tensor
}

// NewAdamW makes an optimizer of params, which it does not own. Close frees its moments.
func NewAdamW(params []*torch.Tensor, options torch.AdamW) (*AdamW, error) {
	scope, err := torch.NewScope()
	if err != nil {
		return nil, err
	}
	n := len(params)
	return &AdamW{options, params, make([]int64, n), make([]*torch.Tensor, n), make([]*torch.Tensor, n), scope}, nil
}

// Options are the settings of the next step.
func (o *AdamW) Options() torch.AdamW { return o.options }

// LR is the learning rate of the next step.
func (o *AdamW) LR() float64 { return o.options.LR }

// SetLR sets the learning rate of the next step.
func (o *AdamW) SetLR(lr float64) { o.options.LR = lr }

// Step makes one step; see Optimizer. Rules other than Dense and GradMasked are defined for SGD alone and fail. GradMasked
// zeroes the gradient outside the mask.
func (o *AdamW) Step(s *torch.Scope, masks []Mask) {
	if masks != nil {
		if !sized(s, "adamw", len(masks), len(o.params)) {
			return
		}
		for i, m := range masks {
			o.mask(s, i, m)
		}
	}
	// Parameters that got their first gradient later count their steps from there; each count is a call of its own.
	groups := map[int64][]int{}
	var order []int64
	for i, p := range o.params {
		if !p.HasGrad() {
			continue
		}
		step := o.steps[i] + 1
		if groups[step] == nil {
			order = append(order, step)
		}
		groups[step] = append(groups[step], i)
	}
	for _, step := range order {
		var params, avg, avgSq []*torch.Tensor
		for _, i := range groups[step] {
			params, avg, avgSq = append(params, o.params[i]), append(avg, o.avg[i]), append(avgSq, o.avgSq[i])
		}
		s.AdamWStep(o.options, step, params, avg, avgSq)
		for j, i := range groups[step] {
			o.avg[i], o.avgSq[i] = avg[j].MoveTo(o.scope), avgSq[j].MoveTo(o.scope)
			if s.Err() == nil {
				o.steps[i] = step
			}
		}
	}
}

// mask zeroes the gradient of parameter i outside m.
func (o *AdamW) mask(s *torch.Scope, i int, m Mask) {
	if m.Indices == nil || m.Rule == torch.Dense || !o.params[i].HasGrad() {
		return
	}
	if m.Rule != torch.GradMasked {
		s.Fail(fmt.Errorf("torch/optim: adamw: parameter %d: mask rule %d is for SGD; AdamW knows dense and grad-masked steps", i, m.Rule))
		return
	}
	s.With(func(c *torch.Scope) error {
		return torch.NoGrad(func() error {
			g := c.Grad(o.params[i])
			keep := c.Scatter(c.Zeros([]int64{g.Numel()}, g.DType(), g.Device()), 0, m.Indices, 1)
			c.Mul_(g, c.Reshape(keep, g.Shape()...))
			return nil
		})
	})
}

// State lists the state by index of the parameter. The moments stay the optimizer's.
func (o *AdamW) State() []AdamWState {
	state := make([]AdamWState, len(o.params))
	for i := range state {
		state[i] = AdamWState{o.steps[i], o.avg[i], o.avgSq[i]}
	}
	return state
}

// Load replaces the state by copies of state, which has an entry for each parameter; entries of step 0 are those without
// state. After an error the optimizer is as it was.
func (o *AdamW) Load(state []AdamWState) error {
	if len(state) != len(o.params) {
		return fmt.Errorf("torch/optim: adamw state of %d parameters, the network has %d", len(state), len(o.params))
	}
	n := len(state)
	steps, avg, avgSq := make([]int64, n), make([]*torch.Tensor, n), make([]*torch.Tensor, n)
	err := torch.With(func(s *torch.Scope) error {
		for i, st := range state {
			if st.Step == 0 {
				continue
			}
			for _, m := range []*torch.Tensor{st.ExpAvg, st.ExpAvgSq} {
				if err := like("moment", i, m, o.params[i]); err != nil {
					return err
				}
			}
			steps[i], avg[i], avgSq[i] = st.Step, copyFor(s, st.ExpAvg, o.params[i]), copyFor(s, st.ExpAvgSq, o.params[i])
		}
		if s.Err() != nil {
			return nil
		}
		for i := range avg {
			avg[i].MoveTo(o.scope)
			avgSq[i].MoveTo(o.scope)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range o.avg {
		o.avg[i].Free()
		o.avgSq[i].Free()
	}
	o.steps, o.avg, o.avgSq = steps, avg, avgSq
	return nil
}

// Close frees the moments.
func (o *AdamW) Close() { o.scope.Close() }
