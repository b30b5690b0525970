package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Reduction is the reduction of a loss; values are at::Reduction's.
type Reduction int

// Reductions.
const (
	ReduceNone Reduction = 0
	ReduceMean Reduction = 1
	ReduceSum  Reduction = 2
)

// IgnoreNothing is PyTorch's default ignore_index, which no label has.
const IgnoreNothing = -100

// CrossEntropy is -log softmax(x)[target]: x (n, c, …) logits, target (n, …) int64. Elements with
// target ignore are excluded, also from the divisor of the mean.
func (s *Scope) CrossEntropy(x, target *Tensor, ignore int64, r Reduction) *Tensor {
	if !s.ready("cross_entropy", x, target) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("cross_entropy", C.lnt_cross_entropy(x.c, target.c, C.int64_t(ignore),
		C.int64_t(r), &out), &out, x, target)
}

// BCEWithLogits is the binary cross-entropy of sigmoid(x) and target, which has x's shape and a
// floating dtype.
func (s *Scope) BCEWithLogits(x, target *Tensor, r Reduction) *Tensor {
	if !s.ready("binary_cross_entropy_with_logits", x, target) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("binary_cross_entropy_with_logits",
		C.lnt_bce_with_logits(x.c, target.c, C.int64_t(r), &out), &out, x, target)
}

// DiceCE is nnU-Net's loss for label maps in one operator: the mean cross-entropy of softmax(x) and
// target, minus the mean over samples (or over the whole batch with batchDice) and over all classes
// except 0 of (2·Σp·y + smooth)/max(Σp + Σy + smooth, 1e-8), with p the softmax and y 1 where
// target is the class. x (n, c, …) logits on the CPU with 2 or 3 spatial axes, float32, float64 or
// bfloat16; target (n, 1, …) with integer values. It computes in at least float32, also under
// autocast, and the result is a float32 scalar (float64 for float64). If a label is not one of the
// c classes, known is false and the result nil.
func (s *Scope) DiceCE(x, target *Tensor, batchDice bool, smooth float64) (loss *Tensor,
	known bool) {
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

// DiceCESums are the sums that DiceCE makes its loss of, over the batch, for ranks that share one:
// float64 (3c+1), for each of the c classes Σp·y, then for each Σp, then for each Σy, all 0 for
// class 0, and last the sum of the cross-entropy. Operands and known are those of DiceCE.
func (s *Scope) DiceCESums(x, target *Tensor) (sums *Tensor, known bool) {
	if !s.ready("dice_ce_sums", x, target) {
		return nil, true
	}
	var out unsafe.Pointer
	var wrong C.int64_t
	message := C.lnt_dice_ce_sums(x.c, target.c, &wrong, &out)
	if message == nil && wrong != 0 {
		return nil, false
	}
	return s.result("dice_ce_sums", message, &out, x, target), true
}
