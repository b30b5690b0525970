package torch

// #include "shim_gen.h"
import "C"

import (
	"errors"
	"slices"
	"unsafe"
)

// tape lists the segments of a forward pass that Backward recomputes, in forward order.
type tape struct {
	scope    *Scope // owns the segments' tensors
	segments []*segment
}

// segment is out = f(in). Autograd's graph ends at out, and the gradient of out is stored in
// holder.
type segment struct {
	f      func(s *Scope, x *Tensor) *Tensor
	in     *Tensor
	from   *segment // whose result is in; nil for an input
	out    *Tensor  // the caller's; only its address is used
	holder *Tensor
	mixed  bool  // ran under autocast
	dtype  DType // of the autocast
}

// Recompute is f(s, x) without saved activations: Backward of anything computed from the result,
// within the same outermost scope, runs f again (torch.utils.checkpoint). params are the parameters
// that f uses. x must be an input that does not require grad, or the result of another Recompute,
// so that the graph consists of segments processed one after another. f must be deterministic: it
// must not draw random numbers.
//
// If nothing requires grad it just calls f. One Backward consumes a segment, even if it retains the
// graph.
func (s *Scope) Recompute(x *Tensor, params []*Tensor,
	f func(s *Scope, x *Tensor) *Tensor) *Tensor {
	const op = "recompute"
	if !s.ready(op, x) || !s.intact(op, params...) {
		return nil
	}
	was := C.lnt_grad_mode(0)
	C.lnt_grad_mode(was)
	followed := x.RequiresGrad()
	for _, p := range params {
		followed = followed || p.RequiresGrad()
	}
	if was == 0 || !followed {
		return s.Block(func(s *Scope) *Tensor { return f(s, x) })
	}
	r := s.root()
	if r.tape == nil {
		r.tape = &tape{scope: &Scope{}}
	}
	t := r.tape
	g := &segment{f: f}
	if x.RequiresGrad() {
		for _, other := range t.segments {
			if other.out == x {
				g.from = other
			}
		}
		if g.from == nil {
			s.Fail(&Error{Op: op, Shapes: [][]int64{x.Shape()},
				Msg: "the operand has a gradient and is not the result of another recompute"})
			return nil
		}
	}
	var enabled, dtype, cache C.int64_t
	if s.failed(op, C.lnt_autocast_get(C.int64_t(x.Device().Type), &enabled, &dtype, &cache), x) {
		return nil
	}
	g.mixed, g.dtype = enabled != 0, DType(dtype)
	err := NoGrad(func() error {
		y := s.Block(func(s *Scope) *Tensor { return f(s, x) })
		if s.err == nil {
			g.out, g.holder = s.cut(y)
			y.Free()
		}
		return s.err
	})
	if err != nil {
		return nil
	}
	g.in = t.scope.Retain(x)
	g.holder.MoveTo(t.scope)
	t.segments = append(t.segments, g)
	s.Fail(t.scope.err)
	return g.out
}

// cut returns x as the end of autograd's graph, and the tensor that receives its gradient in a
// backward pass.
func (s *Scope) cut(x *Tensor) (end, holder *Tensor) {
	const op = "cut"
	if !s.ready(op, x) {
		return nil, nil
	}
	var out, held unsafe.Pointer
	if s.failed(op, C.lnt_cut(x.c, &out, &held), x) {
		return nil, nil
	}
	return s.own(out), s.own(held)
}

// root is the outermost scope that contains s.
func (s *Scope) root() *Scope {
	for s.parent != nil {
		s = s.parent
	}
	return s
}

// replay processes the segments with gradients, from last to first: each runs again with autograd
// and propagates the gradient of its result. Segments of another loss remain for its Backward.
func (s *Scope) replay() error {
	t := s.tape
	if t == nil {
		return nil
	}
	var kept []*segment
	for i := len(t.segments) - 1; i >= 0; i-- {
		g := t.segments[i]
		if !g.holder.HasGrad() {
			kept = append(kept, g)
			continue
		}
		if err := g.replay(); err != nil {
			t.close()
			s.tape = nil
			return err
		}
	}
	slices.Reverse(kept)
	t.segments = kept
	return nil
}

func (g *segment) replay() error {
	return With(func(s *Scope) error {
		grad := s.Grad(g.holder)
		g.holder.Free()
		x, holder := g.in, (*Tensor)(nil)
		if g.from != nil {
			x, holder = s.cut(g.in)
		}
		var again *Tensor
		run := func() error {
			again = g.f(s, x)
			return s.err
		}
		err := EnableGrad(func() error {
			if g.mixed {
				return Autocast(g.in.Device().Type, g.dtype, run)
			}
			return run()
		})
		g.in.Free() // the graph keeps what it needs of it
		if err != nil {
			return err
		}
		if err := again.BackwardFrom(grad, false); err != nil || holder == nil {
			return err
		}
		return NoGrad(func() error {
			// Autograd, which processes later nodes first, sums in this order.
			total := s.Grad(holder)
			if other := s.Grad(g.from.holder); total != nil && other != nil {
				total = s.Add(total, other)
			}
			if s.err != nil || total == nil {
				return s.err
			}
			return g.from.holder.SetGrad(total)
		})
	})
}

func (t *tape) close() {
	if t != nil {
		t.scope.Close()
	}
}

// drop frees segments that no Backward has processed.
func (t *tape) drop() {
	if t == nil {
		return
	}
	defer t.close()
	for _, g := range t.segments {
		if g.holder.HasGrad() {
			panic(errors.New("torch: Recompute and the Backward that reached it belong to " +
				"different outermost scopes: gradients are missing"))
		}
	}
}
