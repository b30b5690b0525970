package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// allDims selects a reduction over every axis: libtorch has a separate overload for it, with
// another order of summation.
const allDims = C.int64_t(-1)

// Sum is the sum of all elements, a scalar.
func (s *Scope) Sum(x *Tensor) *Tensor {
	if !s.ready("sum", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sum", C.lnt_sum(x.c, nil, allDims, 0, &out), &out, x)
}

// SumAs is Sum, added up and given in dtype, in which it may be finite where it is not in x's own.
func (s *Scope) SumAs(x *Tensor, dtype DType) *Tensor {
	if !s.ready("sum", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sum", C.lnt_sum_as(x.c, C.int64_t(dtype), &out), &out, x)
}

// SumDims sums over dims; keep keeps them as axes of size 1. Without dims it sums over all.
func (s *Scope) SumDims(x *Tensor, keep bool, dims ...int64) *Tensor {
	if !s.ready("sum", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("sum", C.lnt_sum(x.c, ints(dims), C.int64_t(len(dims)), flag(keep), &out), &out,
		x)
}

// Mean is the mean of all elements, a scalar.
func (s *Scope) Mean(x *Tensor) *Tensor {
	if !s.ready("mean", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("mean", C.lnt_mean(x.c, nil, allDims, 0, &out), &out, x)
}

// MeanDims is the mean over dims; keep keeps them as axes of size 1. Without dims it is over all.
func (s *Scope) MeanDims(x *Tensor, keep bool, dims ...int64) *Tensor {
	if !s.ready("mean", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("mean", C.lnt_mean(x.c, ints(dims), C.int64_t(len(dims)), flag(keep), &out),
		&out, x)
}

// Amax is the largest element over dims.
func (s *Scope) Amax(x *Tensor, keep bool, dims ...int64) *Tensor {
	if !s.ready("amax", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("amax", C.lnt_amax(x.c, ints(dims), C.int64_t(len(dims)), flag(keep), &out),
		&out, x)
}

// Amin is the smallest element over dims.
func (s *Scope) Amin(x *Tensor, keep bool, dims ...int64) *Tensor {
	if !s.ready("amin", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("amin", C.lnt_amin(x.c, ints(dims), C.int64_t(len(dims)), flag(keep), &out),
		&out, x)
}

// Argmax is the index (int64) of the largest element along dim; ties go to the first.
func (s *Scope) Argmax(x *Tensor, dim int64, keep bool) *Tensor {
	if !s.ready("argmax", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("argmax", C.lnt_argmax(x.c, C.int64_t(dim), flag(keep), &out), &out, x)
}

// All is true (bool scalar) if every element is true.
func (s *Scope) All(x *Tensor) *Tensor {
	if !s.ready("all", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("all", C.lnt_all(x.c, &out), &out, x)
}

// Any is true (bool scalar) if any element is true.
func (s *Scope) Any(x *Tensor) *Tensor {
	if !s.ready("any", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("any", C.lnt_any(x.c, &out), &out, x)
}

// VectorNorm is (Σ|x|^ord)^(1/ord); a scalar.
func (s *Scope) VectorNorm(x *Tensor, ord float64) *Tensor {
	if !s.ready("linalg_vector_norm", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("linalg_vector_norm", C.lnt_vector_norm(x.c, C.double(ord), &out), &out, x)
}

// Softmax is e^x / Σe^x along dim.
func (s *Scope) Softmax(x *Tensor, dim int64) *Tensor {
	if !s.ready("softmax", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("softmax", C.lnt_softmax(x.c, C.int64_t(dim), &out), &out, x)
}

// LogSoftmax is log(Softmax(x)).
func (s *Scope) LogSoftmax(x *Tensor, dim int64) *Tensor {
	if !s.ready("log_softmax", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("log_softmax", C.lnt_log_softmax(x.c, C.int64_t(dim), &out), &out, x)
}

// TopK returns the k largest elements along dim, largest first, and their indices (int64).
func (s *Scope) TopK(x *Tensor, k, dim int64) (values, indices *Tensor) {
	if !s.ready("topk", x) {
		return nil, nil
	}
	var v, i unsafe.Pointer
	if s.failed("topk", C.lnt_topk(x.c, C.int64_t(k), C.int64_t(dim), &v, &i), x) {
		return nil, nil
	}
	return s.own(v), s.own(i)
}
