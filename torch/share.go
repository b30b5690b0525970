package torch

// #include "shim_gen.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// FromHandle returns a tensor of s from an at::Tensor* owned by another binding of the same
// libtorch; the caller must keep it alive during the call. Both handles then refer to one tensor,
// including its gradient, and are freed separately. A null handle, an undefined tensor, an
// unsupported dtype and more than 16 axes fail the scope.
func (s *Scope) FromHandle(atTensor unsafe.Pointer) *Tensor {
	const op = "from_handle"
	if !s.ready(op) {
		return nil
	}
	var out unsafe.Pointer
	t := s.result(op, C.lnt_retain(atTensor, &out), &out)
	if t == nil {
		return nil
	}
	switch i, ok := t.info(); {
	case !ok:
		s.Fail(&Error{Op: op, Msg: fmt.Sprintf("the tensor is undefined or has more than %d axes",
			maxDims)})
	case i.dtype.Size() == 0:
		s.Fail(&Error{Op: op, Shapes: [][]int64{i.shape},
			Msg: fmt.Sprintf("%v elements are not supported", i.dtype)})
	default:
		return t
	}
	t.Free()
	return nil
}

// Handle returns a new at::Tensor* to t for another binding of the same libtorch, which must delete
// it; Live does not count it.
func (t *Tensor) Handle() (unsafe.Pointer, error) {
	if t == nil || t.c == nil {
		return nil, errNil
	}
	var out unsafe.Pointer
	return out, message(C.lnt_export(t.c, &out))
}
