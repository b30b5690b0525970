package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// InstanceNorm normalises each channel of each sample over its spatial axes with its own mean and biased variance:
// (x - mean)/sqrt(var + eps)·w + b. x (n, c, …); w and b (c) or nil.
func (s *Scope) InstanceNorm(x, w, b *Tensor, eps float64) *Tensor {
	if !s.ready("instance_norm", x) || !s.intact("instance_norm", w, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("instance_norm", C.lnt_instance_norm(x.c, optional(w), optional(b), C.double(eps), &out), &out, x, w, b)
}

// InstanceNormLeakyReLU is InstanceNorm with what follows it in the networks, in one operator:
// leaky((x - mean)/sqrt(var + eps)·w + b + residual), leaky(z) being z above 0 and slope·z below; a slope of 1 leaves the
// rectifier out. x (n, c, …) with 2 or 3 spatial axes, on the CPU float32, float64 or bfloat16; w and b (c) or nil;
// residual of x's shape or nil. On the CPU the result and the gradients lie channels last, in which order x and
// residual are best too; it differs from InstanceNorm, Add and LeakyRelu by rounding, and its bits do not depend on the
// number of threads. On CUDA the same holds for float32, float16 and bfloat16 where the shim has kernels (HasKernels) and x lies
// channels last; else it is those operators.
func (s *Scope) InstanceNormLeakyReLU(x, w, b, residual *Tensor, eps, slope float64) *Tensor {
	if !s.ready("instance_norm_leaky_relu", x) || !s.intact("instance_norm_leaky_relu", w, b, residual) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("instance_norm_leaky_relu",
		C.lnt_instance_norm_leaky_relu(x.c, optional(w), optional(b), optional(residual), C.double(eps), C.double(slope), &out), &out, x, w, b, residual)
}

// LayerNorm normalises over the last axes, whose sizes are shape; w and b of that shape or nil.
func (s *Scope) LayerNorm(x *Tensor, shape []int64, w, b *Tensor, eps float64) *Tensor {
	if !s.ready("layer_norm", x) || !s.intact("layer_norm", w, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("layer_norm", C.lnt_layer_norm(x.c, ints(shape), C.int64_t(len(shape)), optional(w), optional(b), C.double(eps), &out), &out, x, w, b)
}
