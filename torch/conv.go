package torch

// #include "shim_gen.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// spatial checks that every list has one entry per spatial axis, of which there are 2 or 3.
func (s *Scope) spatial(op string, lists ...[]int64) (C.int64_t, bool) {
	n := len(lists[0])
	if n != 2 && n != 3 {
		s.Fail(fmt.Errorf("torch: %s: %d spatial axes, expected 2 or 3", op, n))
		return 0, false
	}
	for _, l := range lists {
		if len(l) != n {
			s.Fail(fmt.Errorf("torch: %s: lists of %d and %d entries", op, n, len(l)))
			return 0, false
		}
	}
	return C.int64_t(n), true
}

// Conv is a convolution over 2 or 3 spatial axes, as many as stride, padding and dilation have
// entries. x (n, c, …), w (out, c/groups, …), b (out) or nil.
func (s *Scope) Conv(x, w, b *Tensor, stride, padding, dilation []int64, groups int64) *Tensor {
	op := fmt.Sprintf("conv%dd", len(stride))
	if !s.ready(op, x, w) || !s.intact(op, b) {
		return nil
	}
	nd, ok := s.spatial(op, stride, padding, dilation)
	if !ok {
		return nil
	}
	var out unsafe.Pointer
	return s.result(op, C.lnt_conv(x.c, w.c, optional(b), ints(stride), ints(padding),
		ints(dilation), nd, C.int64_t(groups), &out), &out, x, w, b)
}

// ConvTranspose is a transposed convolution over 2 or 3 spatial axes without padding or dilation.
// x (n, c, …), w (c, out, …), b (out) or nil.
func (s *Scope) ConvTranspose(x, w, b *Tensor, stride []int64) *Tensor {
	op := fmt.Sprintf("conv_transpose%dd", len(stride))
	if !s.ready(op, x, w) || !s.intact(op, b) {
		return nil
	}
	nd, ok := s.spatial(op, stride)
	if !ok {
		return nil
	}
	zero, one := make([]int64, len(stride)), make([]int64, len(stride))
	for i := range one {
		one[i] = 1
	}
	var out unsafe.Pointer
	return s.result(op, C.lnt_conv_transpose(x.c, w.c, optional(b), ints(stride), ints(zero),
		ints(zero), ints(one), nd, 1, &out), &out, x, w, b)
}

// ConvTransposeCat is Cat(1, ConvTranspose(x, w, b, stride), skip) as one operator: w (in, out,
// stride…), b (out) or nil, skip (n, c, d·stride…). On the CPU the result is channels-last, and
// skip's gradient is a view of the result's.
func (s *Scope) ConvTransposeCat(x, w, b, skip *Tensor, stride []int64) *Tensor {
	if !s.ready("conv_transpose_cat", x, w, skip) || !s.intact("conv_transpose_cat", b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("conv_transpose_cat",
		C.lnt_conv_transpose_cat(x.c, w.c, optional(b), skip.c, ints(stride),
			C.int64_t(len(stride)), &out), &out, x, w, b, skip)
}

// ConvLean is Conv with a cheaper backward pass for frozen w: it does not save the input or compute
// the gradient of w for that of b, which is the sum of the output's gradient over all axes but the
// channels. PyTorch sums it in another order.
//
// On CPUs with AVX-512, 3×3 and 3×3×3 kernels of stride 1 with multiples of 16 channels use
// Winograd's minimal filtering (torch/csrc/winograd.cpp) if the image is large enough. Float32
// results are as accurate as Conv's but rounded differently. Under autocast to bfloat16 the
// transformed operands are rounded, not the weight: the error is about twice Conv's in the output
// and three times in the weight's gradient.
func (s *Scope) ConvLean(x, w, b *Tensor, stride, padding, dilation []int64, groups int64) *Tensor {
	op := fmt.Sprintf("conv%dd", len(stride))
	if !s.ready(op, x, w) || !s.intact(op, b) {
		return nil
	}
	nd, ok := s.spatial(op, stride, padding, dilation)
	if !ok {
		return nil
	}
	var out unsafe.Pointer
	return s.result(op, C.lnt_conv_lean(x.c, w.c, optional(b), ints(stride), ints(padding),
		ints(dilation), nd, C.int64_t(groups), &out), &out, x, w, b)
}

// AvgPool is average pooling with the given kernel and stride over 2 or 3 spatial axes, without
// padding.
func (s *Scope) AvgPool(x *Tensor, kernel, stride []int64) *Tensor {
	op := fmt.Sprintf("avg_pool%dd", len(stride))
	if !s.ready(op, x) {
		return nil
	}
	nd, ok := s.spatial(op, kernel, stride)
	if !ok {
		return nil
	}
	var out unsafe.Pointer
	return s.result(op, C.lnt_avg_pool(x.c, ints(kernel), ints(stride), nd, &out), &out, x)
}

// Linear is x·wᵀ + b: x (…, in), w (out, in), b (out) or nil.
func (s *Scope) Linear(x, w, b *Tensor) *Tensor {
	if !s.ready("linear", x, w) || !s.intact("linear", b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("linear", C.lnt_linear(x.c, w.c, optional(b), &out), &out, x, w, b)
}

// MatMul is the matrix product over the last two axes, batched over the others.
func (s *Scope) MatMul(a, b *Tensor) *Tensor {
	if !s.ready("matmul", a, b) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("matmul", C.lnt_matmul(a.c, b.c, &out), &out, a, b)
}

// ScaledDotProductAttention is softmax(scale·q·kᵀ + mask)·v over the last two axes; mask may be
// nil.
func (s *Scope) ScaledDotProductAttention(q, k, v, mask *Tensor, dropout, scale float64) *Tensor {
	if !s.ready("scaled_dot_product_attention", q, k, v) ||
		!s.intact("scaled_dot_product_attention", mask) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("scaled_dot_product_attention", C.lnt_sdpa(q.c, k.c, v.c, optional(mask),
		C.double(dropout), C.double(scale), &out), &out, q, k, v, mask)
}
