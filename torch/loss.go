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

// DiceCE is nnU-Net's loss of label maps in one operator: the mean cross-entropy of softmax(x) with target, minus the mean over
// samples (over the batch as one with batchDice) and over all classes but 0 of (2·Σp·y + smooth)/max(Σp + Σy + smooth, 1e-8),
// with p the softmax and y 1 where target is the class. x (n, c, …) logits on the CPU with 2 or 3 spatial axes, float32,
// float64 or bfloat16; target (n, 1, …) of whole numbers. It computes in float32 at least, autocast or not, and the result
// is a float32 scalar (float64 for float64). known is false, and there is no result, when a label is none of the c classes.
func (s *Scope) DiceCE(x, target *Tensor, batchDice bool, smooth float64) (loss *Tensor, known bool) {
	if !s.ready("dice_ce", x, target) {
		return nil, true
	}
	var out unsafe.Pointer
	var wrong C.int64_t
	message := C.lnt_dice_ce(x.c, target.c, flag(batchDice), C.double(smooth), &wrong, &out)
	if message == nil && wrong != 0 {
		return nil, false
	}
	return s.result("dice_ce", message, &out, x, target), true
}
