package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Empty returns an uninitialised tensor.
func (s *Scope) Empty(shape []int64, dtype DType, device Device) *Tensor {
	return s.empty(shape, dtype, device, false)
}

// EmptyPinned returns an uninitialised CPU tensor in pinned memory, from which copies to a CUDA
// device are asynchronous.
func (s *Scope) EmptyPinned(shape []int64, dtype DType) *Tensor {
	return s.empty(shape, dtype, CPU, true)
}

func (s *Scope) empty(shape []int64, dtype DType, device Device, pinned bool) *Tensor {
	if !s.ready("empty") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("empty", C.lnt_empty(ints(shape), C.int64_t(len(shape)), C.int64_t(dtype),
		C.int64_t(device.Type),
		C.int64_t(device.Index), flag(pinned), &out), &out)
}

// Full returns a tensor filled with v.
func (s *Scope) Full(shape []int64, v float64, dtype DType, device Device) *Tensor {
	if !s.ready("full") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("full", C.lnt_full(ints(shape), C.int64_t(len(shape)), C.double(v),
		C.int64_t(dtype), C.int64_t(device.Type),
		C.int64_t(device.Index), &out), &out)
}

// Zeros returns a tensor of zeros.
func (s *Scope) Zeros(shape []int64, dtype DType, device Device) *Tensor {
	return s.Full(shape, 0, dtype, device)
}

// Arange returns the vector start, start+step, … below end.
func (s *Scope) Arange(start, end, step float64, dtype DType, device Device) *Tensor {
	if !s.ready("arange") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("arange", C.lnt_arange(C.double(start), C.double(end), C.double(step),
		C.int64_t(dtype), C.int64_t(device.Type),
		C.int64_t(device.Index), &out), &out)
}

// ZerosLike returns zeros of x's shape, dtype, device and layout.
func (s *Scope) ZerosLike(x *Tensor) *Tensor {
	if !s.ready("zeros_like", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("zeros_like", C.lnt_zeros_like(x.c, &out), &out, x)
}

// Fill_ sets every element of x to v; autograd does not record it.
func (s *Scope) Fill_(x *Tensor, v float64) {
	if s.ready("fill_", x) {
		s.failed("fill_", C.lnt_fill_(x.c, C.double(v)), x)
	}
}

// Copy_ overwrites dst with src, broadcast and converted as needed; autograd does not record it.
func (s *Scope) Copy_(dst, src *Tensor, nonBlocking bool) {
	if s.ready("copy_", dst, src) {
		s.failed("copy_", C.lnt_copy_(dst.c, src.c, flag(nonBlocking)), dst, src)
	}
}

// To returns x as dtype on device; x itself if nothing changes.
func (s *Scope) To(x *Tensor, dtype DType, device Device) *Tensor {
	return s.to(x, dtype, device, false)
}

// ToAsync is To without waiting for a copy from pinned memory to finish.
func (s *Scope) ToAsync(x *Tensor, dtype DType, device Device) *Tensor {
	return s.to(x, dtype, device, true)
}

func (s *Scope) to(x *Tensor, dtype DType, device Device, nonBlocking bool) *Tensor {
	if !s.ready("to", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("to", C.lnt_to(x.c, C.int64_t(dtype), C.int64_t(device.Type),
		C.int64_t(device.Index), flag(nonBlocking), 0, &out), &out, x)
}

// Clone copies x.
func (s *Scope) Clone(x *Tensor) *Tensor {
	if !s.ready("clone", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("clone", C.lnt_clone(x.c, &out), &out, x)
}

// MemoryFormat is the memory order of a tensor's axes; values are c10::MemoryFormat's.
type MemoryFormat int

// Memory formats: row-major, and channels innermost for 4 and 5 axes.
const (
	Contiguous     MemoryFormat = 0
	ChannelsLast   MemoryFormat = 2
	ChannelsLast3d MemoryFormat = 3
)

// Contiguous returns x in the memory format f; x itself if its strides already have that format
// unambiguously.
func (s *Scope) Contiguous(x *Tensor, f MemoryFormat) *Tensor {
	if !s.ready("contiguous", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("contiguous", C.lnt_contiguous(x.c, C.int64_t(f), &out), &out, x)
}
