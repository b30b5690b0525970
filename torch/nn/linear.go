package nn

import "github.com/lntorch/lntorch/torch"

// Linear is torch.nn.Linear.
type Linear struct {
	*Module
	Weight, Bias *Param // Bias is nil without bias
}

// NewLinear makes a linear map in → out.
func (b Builder) NewLinear(in, out int64, bias bool) *Linear {
	l := &Linear{Module: NewModule(), Weight: b.Param(out, in)}
	l.Weight.Use = LinearWeight
	l.Add("weight", l.Weight)
	if bias {
		l.Bias = b.Param(out)
		l.Add("bias", l.Bias)
	}
	return l
}

// Forward: x (…, in) → (…, out).
func (l *Linear) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return l.Weight.apply(s, x, l.Bias, s.Linear)
}
