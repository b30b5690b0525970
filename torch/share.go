package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// FromHandle makes a tensor of s from an at::Tensor* that another binding over the same libtorch holds, and keeps. Both
// handles then mean one tensor, elements, gradient and all; each is freed on its own.
func (s *Scope) FromHandle(atTensor unsafe.Pointer) *Tensor {
	if !s.ready("from_handle") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("from_handle", C.lnt_retain(atTensor, &out), &out)
}

// Handle makes an at::Tensor* to t for another binding over the same libtorch, which must delete it.
func (t *Tensor) Handle() (unsafe.Pointer, error) {
	if t == nil || t.c == nil {
		return nil, errNil
	}
	var out unsafe.Pointer
	return out, message(C.lnt_export(t.c, &out))
}
