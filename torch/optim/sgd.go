package optim

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/torch"
)

// Mask restricts the step of one parameter. The zero value is a dense step.
type Mask struct {
	Indices *torch.Tensor // int64 flat indices into the parameter; nil for a dense step
	Rule    torch.Rule
}

// SGD is torch.optim.SGD with one parameter group. It keeps the momentum buffers, by parameter
// index, in a scope of its own; a buffer is created at the first gradient of its parameter.
type SGD struct {
	options torch.SGD
	params  []*torch.Tensor
	buffers []*torch.Tensor
	scope   *torch.Scope
}

// NewSGD returns an optimizer of params, which it does not own. Close frees its buffers.
func NewSGD(params []*torch.Tensor, options torch.SGD) (*SGD, error) {
	scope, err := torch.NewScope()
	if err != nil {
		return nil, err
	}
	return &SGD{options: options, params: params, buffers: make([]*torch.Tensor, len(params)),
		scope: scope}, nil
}

// Options returns the settings of the next step.
func (o *SGD) Options() torch.SGD { return o.options }

// LR returns the learning rate of the next step.
func (o *SGD) LR() float64 { return o.options.LR }

// SetLR sets the learning rate of the next step.
func (o *SGD) SetLR(lr float64) { o.options.LR = lr }

// Step updates all parameters in place, except those without gradient. masks has one entry per
// parameter, or is nil; all rules of torch.Rule are supported. Errors are recorded in s.
func (o *SGD) Step(s *torch.Scope, masks []Mask) {
	var indices []*torch.Tensor
	var rules []torch.Rule
	if masks != nil {
		if !sized(s, "sgd", len(masks), len(o.params)) {
			return
		}
		for _, m := range masks {
			indices = append(indices, m.Indices)
			if m.Indices == nil {
				m.Rule = torch.Dense
			}
			rules = append(rules, m.Rule)
		}
	}
	o.step(s, indices, rules, nil)
}

// StepUnless updates all parameters, unless skip, a float32 scalar on their device, is not 0 when
// the device evaluates it: then parameters and momentum do not change. It does not synchronise with
// the device. Options.Impl must be Fused.
func (o *SGD) StepUnless(s *torch.Scope, skip *torch.Tensor) { o.step(s, nil, nil, skip) }

func (o *SGD) step(s *torch.Scope, indices []*torch.Tensor, rules []torch.Rule,
	skip *torch.Tensor) {
	s.SGDStep(o.options, o.params, o.buffers, indices, rules, skip)
	for _, b := range o.buffers {
		b.MoveTo(o.scope)
	}
}

// State lists the momentum buffers by parameter index, nil where there is none yet. The optimizer
// still owns them.
func (o *SGD) State() []*torch.Tensor { return append([]*torch.Tensor(nil), o.buffers...) }

// Load replaces the momentum buffers by copies of state, which has an entry, or nil, for each
// parameter. After an error the buffers are unchanged.
func (o *SGD) Load(state []*torch.Tensor) error {
	if len(state) != len(o.params) {
		return fmt.Errorf("torch/optim: the sgd state has %d parameters, expected the network's %d",
			len(state), len(o.params))
	}
	buffers := make([]*torch.Tensor, len(state))
	err := torch.With(func(s *torch.Scope) error {
		for i, t := range state {
			if t == nil {
				continue
			}
			if err := like("momentum buffer", i, t, o.params[i]); err != nil {
				return err
			}
			buffers[i] = copyFor(s, t, o.params[i])
		}
		if s.Err() != nil {
			return nil
		}
		for _, b := range buffers {
			b.MoveTo(o.scope)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range o.buffers {
		b.Free()
	}
	o.buffers = buffers
	return nil
}

// Close frees the momentum buffers.
func (o *SGD) Close() { o.scope.Close() }

// sized checks the number of masks.
func sized(s *torch.Scope, name string, masks, params int) bool {
	if masks != params {
		s.Fail(fmt.Errorf("torch/optim: %s: %d masks for %d parameters", name, masks, params))
	}
	return masks == params
}

// like checks that a state tensor has the shape of its parameter.
func like(what string, i int, t, param *torch.Tensor) error {
	if !slices.Equal(t.Shape(), param.Shape()) {
		return fmt.Errorf("torch/optim: %s of parameter %d has shape %v, expected %v", what, i,
			t.Shape(), param.Shape())
	}
	return nil
}

// copyFor copies t to the dtype and device of param.
func copyFor(s *torch.Scope, t, param *torch.Tensor) *torch.Tensor {
	return s.Detach(s.Clone(s.To(t, param.DType(), param.Device())))
}
