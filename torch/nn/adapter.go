package nn

import "github.com/lntorch/lntorch/torch"

// Use is the kind of layer that a parameter is the weight of.
type Use int

// Uses. The shapes of weights are (out, in, kernel…), (in, out, kernel…) and (out, in).
const (
	NoWeight Use = iota
	ConvWeight
	ConvTransposeWeight
	LinearWeight
)

// Adapter adds trainable parameters to a layer whose own weight is frozen. It is attached to the
// Param of the weight.
type Adapter interface {
	// Params returns its parameters, named relative to the layer.
	Params() []Named
	// SetTraining switches between training and evaluation mode.
	SetTraining(on bool)
	// Folds reports whether the layer may currently run with the weight of Merged instead of
	// Forward.
	Folds() bool
	// Merged returns the weight with which the plain layer equals the adapted one in evaluation
	// mode. It is differentiable in the adapter's parameters.
	Merged(s *torch.Scope, weight *torch.Tensor) *torch.Tensor
	// Forward returns the output of the adapted layer for x. run is the plain layer as a function
	// of input, weight and bias (nil for none).
	Forward(s *torch.Scope, x, weight, bias *torch.Tensor,
		run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor
}

// apply runs a layer with weight p and its adapter, if any.
func (p *Param) apply(s *torch.Scope, x *torch.Tensor, bias *Param,
	run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor {
	switch {
	case p.Adapter == nil:
		return run(x, p.T, value(bias))
	case p.Adapter.Folds():
		return run(x, p.Adapter.Merged(s, p.T), value(bias))
	}
	return p.Adapter.Forward(s, x, p.T, value(bias), run)
}

// Plain returns the parameter of the equivalent network without adapters: T, or T with its adapter
// merged.
func (p *Param) Plain(s *torch.Scope) *torch.Tensor {
	if p.Adapter == nil {
		return p.T
	}
	return p.Adapter.Merged(s, p.T)
}

// SetTraining switches every adapter between training and evaluation mode.
func (m *Module) SetTraining(on bool) {
	for _, p := range m.StateDict() {
		if p.Adapter != nil {
			p.Adapter.SetTraining(on)
		}
	}
}
