package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// SetRequiresGrad sets requires_grad of the leaf t.
func (t *Tensor) SetRequiresGrad(on bool) error {
	if t == nil || t.c == nil {
		return errNil
	}
	if msg := C.lnt_requires_grad_(t.c, flag(on)); msg != nil {
		return newError("requires_grad_", msg, t)
	}
	return nil
}

// Detach returns a tensor that shares x's elements and does not require grad.
func (s *Scope) Detach(x *Tensor) *Tensor {
	if !s.ready("detach", x) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("detach", C.lnt_detach(x.c, &out), &out, x)
}

// Backward accumulates the gradients of the scalar t in the leaves of its graph.
func (t *Tensor) Backward() error { return t.BackwardFrom(nil, false) }

// BackwardFrom is Backward with the given gradient of t (nil: one, for a scalar); retain keeps the
// graph for another pass.
func (t *Tensor) BackwardFrom(grad *Tensor, retain bool) error {
	if t == nil || t.c == nil || grad != nil && grad.c == nil {
		return errNil
	}
	root := t.scope.root()
	if msg := C.lnt_backward(t.c, optional(grad), flag(retain)); msg != nil {
		root.tape.close()
		root.tape = nil
		return newError("backward", msg, t)
	}
	return root.replay()
}

// Grad returns the accumulated gradient of t, nil if it has none; not a copy.
func (s *Scope) Grad(t *Tensor) *Tensor {
	if !s.ready("grad", t) {
		return nil
	}
	var out unsafe.Pointer
	if s.failed("grad", C.lnt_grad(t.c, &out), t) || out == nil {
		return nil
	}
	return s.own(out)
}

// HasGrad reports whether t has a gradient.
func (t *Tensor) HasGrad() bool {
	if t == nil || t.c == nil {
		return false
	}
	var out unsafe.Pointer
	if msg := C.lnt_grad(t.c, &out); msg != nil {
		C.lnt_free_string(msg)
		return false
	}
	if out == nil {
		return false
	}
	C.lnt_free(&out, 1)
	return true
}

// SetGrad replaces t's gradient by grad, which has t's shape, dtype and device; nil removes it.
func (t *Tensor) SetGrad(grad *Tensor) error {
	if t == nil || t.c == nil || grad != nil && grad.c == nil {
		return errNil
	}
	if msg := C.lnt_set_grad(t.c, optional(grad)); msg != nil {
		return newError("set_grad", msg, t, grad)
	}
	return nil
}

// ClearGrads removes the gradients of all ts (zero_grad(set_to_none=True)).
func ClearGrads(ts []*Tensor) error {
	if len(ts) == 0 {
		return nil
	}
	hs := handles(ts)
	return message(C.lnt_clear_grads(first(hs), C.int64_t(len(hs))))
}
