package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Add is a + b, broadcast.
func (s *Scope) Add(a, b *Tensor) *Tensor {
	if !s.ready("add", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("add", C.lnt_add(a.c, b.c, 1, &out), &out, a, b)
}

// AddScaled is a + alpha·b, broadcast.
func (s *Scope) AddScaled(a, b *Tensor, alpha float64) *Tensor {
	if !s.ready("add", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("add", C.lnt_add(a.c, b.c, C.double(alpha), &out), &out, a, b)
}

// Sub is a - b, broadcast.
func (s *Scope) Sub(a, b *Tensor) *Tensor {
	if !s.ready("sub", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sub", C.lnt_sub(a.c, b.c, 1, &out), &out, a, b)
}

// Mul is a·b element by element, broadcast.
func (s *Scope) Mul(a, b *Tensor) *Tensor {
	if !s.ready("mul", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("mul", C.lnt_mul(a.c, b.c, &out), &out, a, b)
}

// Div is a / b element by element, broadcast.
func (s *Scope) Div(a, b *Tensor) *Tensor {
	if !s.ready("div", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("div", C.lnt_div(a.c, b.c, &out), &out, a, b)
}

// Add_ adds alpha·b to a in place.
func (s *Scope) Add_(a, b *Tensor, alpha float64) {
	if s.ready("add_", a, b) {
		s.failed("add_", C.lnt_add_(a.c, b.c, C.double(alpha)), a, b)
	}
}

// Mul_ multiplies a by b in place.
func (s *Scope) Mul_(a, b *Tensor) {
	if s.ready("mul_", a, b) {
		s.failed("mul_", C.lnt_mul_(a.c, b.c), a, b)
	}
}

// Div_ divides a by b in place.
func (s *Scope) Div_(a, b *Tensor) {
	if s.ready("div_", a, b) {
		s.failed("div_", C.lnt_div_(a.c, b.c), a, b)
	}
}

// AddScalar is a + v.
func (s *Scope) AddScalar(a *Tensor, v float64) *Tensor {
	if !s.ready("add", a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("add", C.lnt_add_scalar(a.c, C.double(v), &out), &out, a)
}

// MulScalar is a·v.
func (s *Scope) MulScalar(a *Tensor, v float64) *Tensor {
	if !s.ready("mul", a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("mul", C.lnt_mul_scalar(a.c, C.double(v), &out), &out, a)
}

// DivScalar is a / v.
func (s *Scope) DivScalar(a *Tensor, v float64) *Tensor {
	if !s.ready("div", a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("div", C.lnt_div_scalar(a.c, C.double(v), &out), &out, a)
}

// AddScalar_ adds v to a in place.
func (s *Scope) AddScalar_(a *Tensor, v float64) {
	if s.ready("add_", a) {
		s.failed("add_", C.lnt_add_scalar_(a.c, C.double(v)), a)
	}
}

// MulScalar_ multiplies a by v in place.
func (s *Scope) MulScalar_(a *Tensor, v float64) {
	if s.ready("mul_", a) {
		s.failed("mul_", C.lnt_mul_scalar_(a.c, C.double(v)), a)
	}
}

// DivScalar_ divides a by v in place.
func (s *Scope) DivScalar_(a *Tensor, v float64) {
	if s.ready("div_", a) {
		s.failed("div_", C.lnt_div_scalar_(a.c, C.double(v)), a)
	}
}

// Pow is a to the power e.
func (s *Scope) Pow(a *Tensor, e float64) *Tensor {
	if !s.ready("pow", a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("pow", C.lnt_pow_scalar(a.c, C.double(e), &out), &out, a)
}

// Neg is -x.
func (s *Scope) Neg(x *Tensor) *Tensor {
	if !s.ready("neg", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("neg", C.lnt_neg(x.c, &out), &out, x)
}

// Abs is |x|.
func (s *Scope) Abs(x *Tensor) *Tensor {
	if !s.ready("abs", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("abs", C.lnt_abs(x.c, &out), &out, x)
}

// Exp is e^x.
func (s *Scope) Exp(x *Tensor) *Tensor {
	if !s.ready("exp", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("exp", C.lnt_exp(x.c, &out), &out, x)
}

// Log is the natural logarithm of x.
func (s *Scope) Log(x *Tensor) *Tensor {
	if !s.ready("log", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("log", C.lnt_log(x.c, &out), &out, x)
}

// Sqrt is the square root of x.
func (s *Scope) Sqrt(x *Tensor) *Tensor {
	if !s.ready("sqrt", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sqrt", C.lnt_sqrt(x.c, &out), &out, x)
}

// Reciprocal is 1/x.
func (s *Scope) Reciprocal(x *Tensor) *Tensor {
	if !s.ready("reciprocal", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("reciprocal", C.lnt_reciprocal(x.c, &out), &out, x)
}

// Sigmoid is 1/(1+e^-x).
func (s *Scope) Sigmoid(x *Tensor) *Tensor {
	if !s.ready("sigmoid", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sigmoid", C.lnt_sigmoid(x.c, &out), &out, x)
}

// Tanh is the hyperbolic tangent of x.
func (s *Scope) Tanh(x *Tensor) *Tensor {
	if !s.ready("tanh", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("tanh", C.lnt_tanh(x.c, &out), &out, x)
}

// Erfinv is the inverse of the error function, infinite at -1 and 1.
func (s *Scope) Erfinv(x *Tensor) *Tensor {
	if !s.ready("erfinv", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("erfinv", C.lnt_erfinv(x.c, &out), &out, x)
}

// Relu is max(x, 0).
func (s *Scope) Relu(x *Tensor) *Tensor {
	if !s.ready("relu", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("relu", C.lnt_relu(x.c, &out), &out, x)
}

// Gelu is x·Φ(x) with the exact Gaussian distribution function.
func (s *Scope) Gelu(x *Tensor) *Tensor {
	if !s.ready("gelu", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("gelu", C.lnt_gelu(x.c, &out), &out, x)
}

// LeakyRelu is x where x > 0, slope·x elsewhere.
func (s *Scope) LeakyRelu(x *Tensor, slope float64) *Tensor {
	if !s.ready("leaky_relu", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("leaky_relu", C.lnt_leaky_relu(x.c, C.double(slope), &out), &out, x)
}

// LeakyRelu_ is LeakyRelu in place; the result is x with its new autograd history.
func (s *Scope) LeakyRelu_(x *Tensor, slope float64) *Tensor {
	if !s.ready("leaky_relu_", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("leaky_relu_", C.lnt_leaky_relu_(x.c, C.double(slope), &out), &out, x)
}

// ClampMin is max(x, lo).
func (s *Scope) ClampMin(x *Tensor, lo float64) *Tensor {
	if !s.ready("clamp", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("clamp", C.lnt_clamp(x.c, C.double(lo), 0, 1, 0, &out), &out, x)
}

// ClampMax is min(x, hi).
func (s *Scope) ClampMax(x *Tensor, hi float64) *Tensor {
	if !s.ready("clamp", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("clamp", C.lnt_clamp(x.c, 0, C.double(hi), 0, 1, &out), &out, x)
}

// Clamp limits x to [lo, hi].
func (s *Scope) Clamp(x *Tensor, lo, hi float64) *Tensor {
	if !s.ready("clamp", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("clamp", C.lnt_clamp(x.c, C.double(lo), C.double(hi), 1, 1, &out), &out, x)
}

// Floor is the largest whole number that is not above x.
func (s *Scope) Floor(x *Tensor) *Tensor {
	if !s.ready("floor", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("floor", C.lnt_floor(x.c, &out), &out, x)
}

// Round is the nearest whole number, of two the even one.
func (s *Scope) Round(x *Tensor) *Tensor {
	if !s.ready("round", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("round", C.lnt_round(x.c, &out), &out, x)
}

// IsFinite is true (bool) where x is neither infinite nor NaN.
func (s *Scope) IsFinite(x *Tensor) *Tensor {
	if !s.ready("isfinite", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("isfinite", C.lnt_isfinite(x.c, &out), &out, x)
}

// LogicalNot is !x (bool).
func (s *Scope) LogicalNot(x *Tensor) *Tensor {
	if !s.ready("logical_not", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("logical_not", C.lnt_logical_not(x.c, &out), &out, x)
}

// CompareOp is a relation between elements.
type CompareOp int

// Relations.
const (
	Eq CompareOp = iota
	Ne
	Lt
	Le
	Gt
	Ge
)

// Compare is a op b (bool), broadcast.
func (s *Scope) Compare(a *Tensor, op CompareOp, b *Tensor) *Tensor {
	if !s.ready("compare", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("compare", C.lnt_compare(a.c, b.c, C.int64_t(op), &out), &out, a, b)
}

// CompareScalar is a op v (bool).
func (s *Scope) CompareScalar(a *Tensor, op CompareOp, v float64) *Tensor {
	if !s.ready("compare", a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("compare", C.lnt_compare_scalar(a.c, C.double(v), C.int64_t(op), &out), &out, a)
}

// Where is a where cond is true, b elsewhere.
func (s *Scope) Where(cond, a, b *Tensor) *Tensor {
	if !s.ready("where", cond, a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("where", C.lnt_where(cond.c, a.c, b.c, &out), &out, cond, a, b)
}

// WhereScalar is a where cond is true, v elsewhere.
func (s *Scope) WhereScalar(cond, a *Tensor, v float64) *Tensor {
	if !s.ready("where", cond, a) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("where", C.lnt_where_scalar(cond.c, a.c, C.double(v), &out), &out, cond, a)
}

// MaskedFill is x with v where mask is true.
func (s *Scope) MaskedFill(x, mask *Tensor, v float64) *Tensor {
	if !s.ready("masked_fill", x, mask) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("masked_fill", C.lnt_masked_fill(x.c, mask.c, C.double(v), &out), &out, x, mask)
}

// Maximum is the larger of a and b, element by element.
func (s *Scope) Maximum(a, b *Tensor) *Tensor {
	if !s.ready("maximum", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("maximum", C.lnt_maximum(a.c, b.c, &out), &out, a, b)
}

// Minimum is the smaller of a and b, element by element.
func (s *Scope) Minimum(a, b *Tensor) *Tensor {
	if !s.ready("minimum", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("minimum", C.lnt_minimum(a.c, b.c, &out), &out, a, b)
}
