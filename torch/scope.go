package torch

// #include "shim_gen.h"
import "C"

import (
	"errors"
	"unsafe"
)

// Scope owns tensors and frees them when it closes. Operators are methods of the scope that owns
// their result.
//
// Errors are sticky: after the first failure every operator of the scope does nothing and returns
// nil, and With returns that error, so a forward pass can be one expression. Operators therefore
// accept a nil *Tensor, which fails the scope if nothing failed before.
//
// A Scope is not safe for concurrent use.
type Scope struct {
	parent *Scope
	owned  []*Tensor
	err    error
	closed bool
	tape   *tape // in a scope without parent: segments for Backward to recompute
	rows   Rows  // of the batch that the tensors hold
}

var errNil = errors.New("torch: operand is nil")

// NewScope opens a scope that is open until Close; With is the usual form.
func NewScope() (*Scope, error) {
	if err := Load(); err != nil {
		return nil, err
	}
	return &Scope{}, nil
}

// With runs f with a new scope and closes it. It returns f's error, or the first error of an
// operator.
func With(f func(s *Scope) error) error {
	s, err := NewScope()
	if err != nil {
		return err
	}
	defer s.Close()
	err = f(s)
	if s.err != nil {
		return s.err
	}
	return err
}

// With runs f in a child scope; tensors that f does not Keep are freed when it returns. Errors
// propagate to s.
func (s *Scope) With(f func(c *Scope) error) error {
	if s.err != nil {
		return s.err
	}
	c := &Scope{parent: s, rows: s.rows}
	defer c.Close()
	err := f(c)
	if c.err != nil {
		s.err = c.err
		return s.err
	}
	return err
}

// Block runs f in a child scope and keeps its result in s; everything else created in f is freed.
// Networks open one per block, so that inference holds the activations of at most one block.
func (s *Scope) Block(f func(c *Scope) *Tensor) *Tensor {
	if s.err != nil {
		return nil
	}
	c := &Scope{parent: s, rows: s.rows}
	defer c.Close()
	out := f(c)
	if c.err != nil {
		s.err = c.err
		return nil
	}
	if out != nil && out.scope == c {
		out.MoveTo(s)
	}
	return out
}

// Keep moves t to the parent scope, so that it outlives s. In a scope without parent it has no
// effect.
func (s *Scope) Keep(t *Tensor) *Tensor {
	if t != nil && s.parent != nil {
		t.MoveTo(s.parent)
	}
	return t
}

// Err returns the first error of s, nil if there is none.
func (s *Scope) Err() error { return s.err }

// Fail sets the scope's error unless it already has one. For code built on scopes.
func (s *Scope) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Close frees every tensor of s. It may be called more than once.
func (s *Scope) Close() {
	if s.closed {
		return
	}
	s.closed = true
	defer s.tape.drop()
	if len(s.owned) == 0 {
		return
	}
	handles := make([]unsafe.Pointer, len(s.owned))
	for i, t := range s.owned {
		handles[i] = t.c
		t.c, t.scope = nil, nil
	}
	C.lnt_free(&handles[0], C.int64_t(len(handles)))
	s.owned = nil
}

func (s *Scope) own(c unsafe.Pointer) *Tensor {
	t := &Tensor{c: c, scope: s, slot: len(s.owned)}
	s.owned = append(s.owned, t)
	return t
}

func (s *Scope) disown(t *Tensor) {
	last := len(s.owned) - 1
	s.owned[t.slot] = s.owned[last]
	s.owned[t.slot].slot = t.slot
	s.owned[last] = nil
	s.owned = s.owned[:last]
	t.scope = nil
}

// ready reports whether an operator of s may run on the operands.
func (s *Scope) ready(op string, in ...*Tensor) bool {
	if s.err != nil {
		return false
	}
	if s.closed {
		s.err = errors.New("torch: " + op + ": scope is closed")
		return false
	}
	for _, t := range in {
		if t == nil || t.c == nil {
			s.err = &Error{Op: op, Msg: errNil.Error()}
			if t != nil {
				s.err = &Error{Op: op, Msg: "tensor was freed"}
			}
			return false
		}
	}
	return true
}

// intact reports whether optional operands are absent or alive: a freed one must not be treated as
// absent.
func (s *Scope) intact(op string, in ...*Tensor) bool {
	for _, t := range in {
		if t != nil && t.c == nil {
			s.Fail(&Error{Op: op, Msg: "tensor was freed"})
			return false
		}
	}
	return true
}

// result converts the return values of an operator: its message, or its output tensor.
func (s *Scope) result(op string, msg *C.char, out *unsafe.Pointer, in ...*Tensor) *Tensor {
	if s.failed(op, msg, in...) {
		return nil
	}
	return s.own(*out)
}

func (s *Scope) failed(op string, msg *C.char, in ...*Tensor) bool {
	if msg == nil {
		return false
	}
	s.Fail(newError(op, msg, in...))
	return true
}

func newError(op string, msg *C.char, in ...*Tensor) error {
	e := &Error{Op: op, Msg: text(msg)}
	for _, t := range in {
		if t == nil {
			e.Shapes = append(e.Shapes, nil)
			continue
		}
		e.Shapes = append(e.Shapes, t.Shape())
	}
	return e
}

// optional returns the handle of an operand that may be absent.
func optional(t *Tensor) unsafe.Pointer {
	if t == nil {
		return nil
	}
	return t.c
}

// ints passes a Go slice to C for the duration of one call.
func ints(v []int64) *C.int64_t {
	if len(v) == 0 {
		return nil
	}
	return (*C.int64_t)(unsafe.Pointer(&v[0]))
}

func flag(b bool) C.int64_t {
	if b {
		return 1
	}
	return 0
}

// handles lists the C handles of tensors; nil entries become NULL.
func handles(ts []*Tensor) []unsafe.Pointer {
	hs := make([]unsafe.Pointer, len(ts))
	for i, t := range ts {
		hs[i] = optional(t)
	}
	return hs
}

func first(hs []unsafe.Pointer) *unsafe.Pointer {
	if len(hs) == 0 {
		return nil
	}
	return &hs[0]
}
