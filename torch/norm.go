package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// InstanceNorm normalises each channel of each sample over its spatial axes with its own mean and
// biased variance: (x - mean)/sqrt(var + eps)·w + b. x (n, c, …); w and b (c) or nil.
func (s *Scope) InstanceNorm(x, w, b *Tensor, eps float64) *Tensor {
	if !s.ready("instance_norm", x) || !s.intact("instance_norm", w, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("instance_norm", C.lnt_instance_norm(x.c, optional(w), optional(b),
		C.double(eps), &out), &out, x, w, b)
}

// InstanceNormLeakyReLU is InstanceNorm, plus a residual, then LeakyReLU, in one operator: leaky((x
// - mean)/sqrt(var + eps)·w + b + residual), where leaky(z) is z above 0 and slope·z below; slope 1
// disables it. x (n, c, …) with 2 or 3 spatial axes, on the CPU float32, float64 or bfloat16; w and
// b (c) or nil; residual of x's shape or nil. On the CPU the result and the gradients are
// channels-last, which is also fastest for x and residual. It differs from InstanceNorm, Add and
// LeakyRelu by rounding and does not depend on the thread count. The same holds on CUDA for
// float32, float16 and bfloat16 if the shim has kernels (HasKernels) and x is channels-last;
// otherwise it runs those operators.
func (s *Scope) InstanceNormLeakyReLU(x, w, b, residual *Tensor, eps, slope float64) *Tensor {
	if !s.ready("instance_norm_leaky_relu", x) || !s.intact("instance_norm_leaky_relu", w, b,
		residual) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("instance_norm_leaky_relu",
		C.lnt_instance_norm_leaky_relu(x.c, optional(w), optional(b), optional(residual),
			C.double(eps), C.double(slope), &out), &out, x, w, b, residual)
}

// LayerNorm normalises over the last axes, of sizes shape; w and b have that shape or are nil.
func (s *Scope) LayerNorm(x *Tensor, shape []int64, w, b *Tensor, eps float64) *Tensor {
	if !s.ready("layer_norm", x) || !s.intact("layer_norm", w, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("layer_norm", C.lnt_layer_norm(x.c, ints(shape), C.int64_t(len(shape)),
		optional(w), optional(b), C.double(eps), &out), &out, x, w, b)
}
