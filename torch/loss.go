package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Reduction is how a loss gathers its elements; the numbers are at::Reduction's.
type Reduction int

// Reductions.
const (
	ReduceNone Reduction = 0
	ReduceMean Reduction = 1
	ReduceSum  Reduction = 2
)

// IgnoreNothing is PyTorch's default ignore_index, which no label has.
const IgnoreNothing = -100

// CrossEntropy is -log softmax(x)[target]: x (n, c, …) logits, target (n, …) int64. Elements whose target is ignore
// count for nothing, in the mean's divisor either.
func (s *Scope) CrossEntropy(x, target *Tensor, ignore int64, r Reduction) *Tensor {
	if !s.ready("cross_entropy", x, target) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("cross_entropy", C.lnt_cross_entropy(x.c, target.c, C.int64_t(ignore), C.int64_t(r), &out), &out, x, target)
}

// BCEWithLogits is the binary cross-entropy of sigmoid(x) with target, of x's shape and a floating type.
func (s *Scope) BCEWithLogits(x, target *Tensor, r Reduction) *Tensor {
	if !s.ready("binary_cross_entropy_with_logits", x, target) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("binary_cross_entropy_with_logits", C.lnt_bce_with_logits(x.c, target.c, C.int64_t(r), &out), &out, x, target)
}
