package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Sizes converts sizes along axes to libtorch's type of them.
func Sizes(v []int) []int64 {
	sizes := make([]int64, len(v))
	for i, n := range v {
		sizes[i] = int64(n)
	}
	return sizes
}

// Reshape returns x in another shape with the same number of elements; one entry may be -1. A view
// if the layout allows it.
func (s *Scope) Reshape(x *Tensor, shape ...int64) *Tensor {
	if !s.ready("reshape", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("reshape", C.lnt_reshape(x.c, ints(shape), C.int64_t(len(shape)), &out), &out,
		x)
}

// Expand repeats axes of size 1 without copying.
func (s *Scope) Expand(x *Tensor, shape ...int64) *Tensor {
	if !s.ready("expand", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("expand", C.lnt_expand(x.c, ints(shape), C.int64_t(len(shape)), &out), &out, x)
}

// Permute reorders the axes; a view.
func (s *Scope) Permute(x *Tensor, dims ...int64) *Tensor {
	if !s.ready("permute", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("permute", C.lnt_permute(x.c, ints(dims), C.int64_t(len(dims)), &out), &out, x)
}

// Transpose swaps two axes; a view.
func (s *Scope) Transpose(x *Tensor, d0, d1 int64) *Tensor {
	if !s.ready("transpose", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("transpose", C.lnt_transpose(x.c, C.int64_t(d0), C.int64_t(d1), &out), &out, x)
}

// Squeeze removes axis dim if its size is 1; a view.
func (s *Scope) Squeeze(x *Tensor, dim int64) *Tensor {
	if !s.ready("squeeze", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("squeeze", C.lnt_squeeze(x.c, C.int64_t(dim), &out), &out, x)
}

// Unsqueeze inserts an axis of size 1; a view.
func (s *Scope) Unsqueeze(x *Tensor, dim int64) *Tensor {
	if !s.ready("unsqueeze", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("unsqueeze", C.lnt_unsqueeze(x.c, C.int64_t(dim), &out), &out, x)
}

// Flip reverses the order along dims; a copy.
func (s *Scope) Flip(x *Tensor, dims ...int64) *Tensor {
	if !s.ready("flip", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("flip", C.lnt_flip(x.c, ints(dims), C.int64_t(len(dims)), &out), &out, x)
}

// Roll shifts x cyclically along dims; one shift per dim.
func (s *Scope) Roll(x *Tensor, shifts, dims []int64) *Tensor {
	if !s.ready("roll", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("roll", C.lnt_roll(x.c, ints(shifts), ints(dims), C.int64_t(len(dims)), &out),
		&out, x)
}

// Narrow is the part [start, start+length) of axis dim; a view.
func (s *Scope) Narrow(x *Tensor, dim, start, length int64) *Tensor {
	if !s.ready("narrow", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("narrow", C.lnt_narrow(x.c, C.int64_t(dim), C.int64_t(start), C.int64_t(length),
		&out), &out, x)
}

// Select is index along axis dim, which is removed; a view.
func (s *Scope) Select(x *Tensor, dim, index int64) *Tensor {
	if !s.ready("select", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("select", C.lnt_select(x.c, C.int64_t(dim), C.int64_t(index), &out), &out, x)
}

// SliceDim is x[…, start:end:step, …] along axis dim; a view.
func (s *Scope) SliceDim(x *Tensor, dim, start, end, step int64) *Tensor {
	if !s.ready("slice", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("slice", C.lnt_slice(x.c, C.int64_t(dim), C.int64_t(start), C.int64_t(end),
		C.int64_t(step), &out), &out, x)
}

// Cat concatenates tensors along axis dim.
func (s *Scope) Cat(dim int64, ts ...*Tensor) *Tensor {
	if !s.ready("cat", ts...) {
		return nil
	}
	var out unsafe.Pointer
	hs := handles(ts)
	return s.result("cat", C.lnt_cat(first(hs), C.int64_t(len(hs)), C.int64_t(dim), &out), &out,
		ts...)
}

// Stack concatenates tensors of one shape along a new axis dim.
func (s *Scope) Stack(dim int64, ts ...*Tensor) *Tensor {
	if !s.ready("stack", ts...) {
		return nil
	}
	var out unsafe.Pointer
	hs := handles(ts)
	return s.result("stack", C.lnt_stack(first(hs), C.int64_t(len(hs)), C.int64_t(dim), &out), &out,
		ts...)
}

// Pad pads x with v; pad lists (before, after) pairs from the last axis backwards, as
// torch.nn.functional.pad. Negative entries crop.
func (s *Scope) Pad(x *Tensor, pad []int64, v float64) *Tensor {
	if !s.ready("pad", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("pad", C.lnt_pad(x.c, ints(pad), C.int64_t(len(pad)), C.double(v), &out), &out,
		x)
}

// IndexSelect selects indices (int64 vector) of axis dim.
func (s *Scope) IndexSelect(x *Tensor, dim int64, index *Tensor) *Tensor {
	if !s.ready("index_select", x, index) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("index_select", C.lnt_index_select(x.c, C.int64_t(dim), index.c, &out), &out, x,
		index)
}

// Index is x[index], index (int64) of any shape, which replaces axis 0. Its kernel differs from
// that of IndexSelect: with several threads its gradient is summed in an order that varies between
// runs.
func (s *Scope) Index(x, index *Tensor) *Tensor {
	if !s.ready("index", x, index) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("index", C.lnt_index(x.c, index.c, &out), &out, x, index)
}

// Gather selects elements along axis dim by index (int64, same rank).
func (s *Scope) Gather(x *Tensor, dim int64, index *Tensor) *Tensor {
	if !s.ready("gather", x, index) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("gather", C.lnt_gather(x.c, C.int64_t(dim), index.c, &out), &out, x, index)
}

// Scatter is x with v at the positions of index (int64) along axis dim.
func (s *Scope) Scatter(x *Tensor, dim int64, index *Tensor, v float64) *Tensor {
	if !s.ready("scatter", x, index) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("scatter", C.lnt_scatter_scalar(x.c, C.int64_t(dim), index.c, C.double(v),
		&out), &out, x, index)
}

// Scatter_ writes v to x at the positions of index (int64) along axis dim.
func (s *Scope) Scatter_(x *Tensor, dim int64, index *Tensor, v float64) {
	if s.ready("scatter_", x, index) {
		s.failed("scatter_", C.lnt_scatter_scalar_(x.c, C.int64_t(dim), index.c, C.double(v)), x,
			index)
	}
}
