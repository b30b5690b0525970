package nn

import "github.com/lntorch/lntorch/torch"

// Use says of a parameter which layer it is the weight of.
type Use int

// Uses. The shapes of weights are (out, in, kernel…), (in, out, kernel…) and (out, in).
const (
	NoWeight Use = iota
	ConvWeight
	ConvTransposeWeight
	LinearWeight
)

// Adapter adds something trainable to a layer whose own weight stays as it is. It is attached to the weight's Param.
type Adapter interface {
	// Params are its parameters, named relative to the layer.
	Params() []Named
	// SetTraining tells whether the network trains or evaluates.
	SetTraining(on bool)
	// Folds tells whether the layer may compute, now, with the weight that Merged gives, in place of Forward.
	Folds() bool
	// Merged is the weight with which the layer alone computes what it computes with the adapter in evaluation. Autograd
	// follows the adapter's parameters through it.
	Merged(s *torch.Scope, weight *torch.Tensor) *torch.Tensor
	// Forward gives the layer's output for x. run is the layer's arithmetic with an input, a weight and a bias (nil for none).
	Forward(s *torch.Scope, x, weight, bias *torch.Tensor, run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor
}

// apply computes a layer with weight p, its adapter included.
func (p *Param) apply(s *torch.Scope, x *torch.Tensor, bias *Param, run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor {
	switch {
	case p.Adapter == nil:
		return run(x, p.T, value(bias))
	case p.Adapter.Folds():
		return run(x, p.Adapter.Merged(s, p.T), value(bias))
	}
	return p.Adapter.Forward(s, x, p.T, value(bias), run)
}

// Plain is the parameter as a network without adapters has it: T itself, or T with its adapter merged in.
func (p *Param) Plain(s *torch.Scope) *torch.Tensor {
	if p.Adapter == nil {
		return p.T
	}
	return p.Adapter.Merged(s, p.T)
}

// SetTraining tells every adapter whether the network trains or evaluates.
func (m *Module) SetTraining(on bool) {
	for _, p := range m.StateDict() {
		if p.Adapter != nil {
			p.Adapter.SetTraining(on)
		}
	}
}
