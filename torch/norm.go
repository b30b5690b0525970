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

// LayerNorm normalises over the last axes, whose sizes are shape; w and b of that shape or nil.
func (s *Scope) LayerNorm(x *Tensor, shape []int64, w, b *Tensor, eps float64) *Tensor {
	if !s.ready("layer_norm", x) || !s.intact("layer_norm", w, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("layer_norm", C.lnt_layer_norm(x.c, ints(shape), C.int64_t(len(shape)), optional(w), optional(b), C.double(eps), &out), &out, x, w, b)
}
