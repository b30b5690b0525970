package torch

// #include "shim_gen.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// Impl selects the implementation of an optimizer step.
type Impl int

// Implementations: torch's operators tensor by tensor (bit-equal to PyTorch on the CPU), foreach
// operators on lists, and one fused kernel.
const (
	SingleTensor Impl = 0
	Foreach      Impl = 1
	Fused        Impl = 2
)

// Rule defines what a mask applies to in an SGD step.
type Rule int

// Rules, with g the gradient, w the weight, m the mask, wd the weight decay and µ the momentum:
//
//	Dense         no mask
//	GradMasked    g·m, then SGD as usual: momentum and decay apply to every entry
//	UpdateMasked  d = (g + wd·w)·m; buf = µ·buf + d; w -= lr·(d + µ·buf)·m (nesterov)
//	Plain         w -= lr·g·m, without momentum and decay
const (
	Dense        Rule = 0
	GradMasked   Rule = 1
	UpdateMasked Rule = 2
	Plain        Rule = 3
)

// SGD holds the settings of torch.optim.SGD.
type SGD struct {
	LR, Momentum, Dampening, WeightDecay float64
	Nesterov                             bool
	Impl                                 Impl
}

// SGDStep updates params in place, except those without gradient. buffers[i] is the momentum of
// params[i]; nil entries are created, owned by s, at the first gradient. masks[i], flat int64
// indices, and rules[i] belong to params[i]; both slices may be nil. GradMasked also zeroes the
// gradient outside the mask.
//
// skip, or nil, is a float32 scalar on the parameters' device: if it is not 0 when the device
// evaluates it, the step has no effect. It requires Fused without masks and dampening.
func (s *Scope) SGDStep(o SGD, params, buffers, masks []*Tensor, rules []Rule, skip *Tensor) {
	if !s.ready("sgd", params...) || !s.intact("sgd", buffers...) || !s.intact("sgd", masks...) ||
		!s.intact("sgd", skip) {
		return
	}
	if len(buffers) != len(params) || masks != nil && len(masks) != len(params) || rules != nil &&
		len(rules) != len(params) {
		s.Fail(fmt.Errorf("torch: sgd: %d parameters, %d buffers, %d masks, %d rules", len(params),
			len(buffers), len(masks), len(rules)))
		return
	}
	if len(params) == 0 {
		return
	}
	ps, bs := handles(params), handles(buffers)
	var ms []unsafe.Pointer
	if masks != nil {
		ms = handles(masks)
	}
	var rs []int64
	for _, r := range rules {
		rs = append(rs, int64(r))
	}
	msg := C.lnt_sgd_step(first(ps), first(bs), first(ms), ints(rs), C.int64_t(len(ps)),
		C.double(o.LR), C.double(o.Momentum),
		C.double(o.Dampening), C.double(o.WeightDecay), flag(o.Nesterov), C.int64_t(o.Impl),
		optional(skip))
	s.adoptNew(buffers, bs)
	s.failed("sgd", msg)
}

// adoptNew adopts the handles that the shim created for empty entries of ts.
func (s *Scope) adoptNew(ts []*Tensor, hs []unsafe.Pointer) {
	for i, h := range hs {
		if ts[i] == nil && h != nil {
			ts[i] = s.own(h)
		}
	}
}

// ClipGradNorm multiplies the gradients of params by min(1, max/(total+1e-6)), where total, which
// it returns as a scalar, is the L2 norm of all of them (torch.nn.utils.clip_grad_norm_).
func (s *Scope) ClipGradNorm(params []*Tensor, max float64) *Tensor {
	if !s.ready("clip_grad_norm_", params...) {
		return nil
	}
	ps := handles(params)
	var out unsafe.Pointer
	return s.result("clip_grad_norm_", C.lnt_clip_grad_norm(first(ps), C.int64_t(len(ps)),
		C.double(max), &out), &out)
}

// AmpUnscale multiplies the gradients of params by invScale and sets foundInf (float32 scalars
// both) to 1 if any of them is not finite.
func (s *Scope) AmpUnscale(params []*Tensor, invScale, foundInf *Tensor) {
	if !s.ready("amp_unscale", append([]*Tensor{invScale, foundInf}, params...)...) {
		return
	}
	ps := handles(params)
	s.failed("amp_unscale", C.lnt_amp_unscale(first(ps), C.int64_t(len(ps)), invScale.c,
		foundInf.c), invScale, foundInf)
}

// AmpUpdateScale increases or decreases scale after a step, on the device
// (torch.amp.GradScaler.update).
func (s *Scope) AmpUpdateScale(scale, growthTracker, foundInf *Tensor, growth, backoff float64,
	interval int64) {
	if s.ready("amp_update_scale", scale, growthTracker, foundInf) {
		s.failed("amp_update_scale", C.lnt_amp_update_scale(scale.c, growthTracker.c, foundInf.c,
			C.double(growth), C.double(backoff),
			C.int64_t(interval)), scale, growthTracker, foundInf)
	}
}
