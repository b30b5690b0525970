package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Rows says which rows of a batch the tensors of a scope hold along axis 0: Count rows from First
// on, of All. Axis 0 may have several entries for each row, one row's after another's, such as the
// windows of an image. The zero value stands for all rows.
type Rows struct{ First, Count, All int64 }

// SetRows makes dropout in s, and in child scopes that are opened from now on, drop what dropout of
// the whole batch drops in rows r, after the same ManualSeed: ranks that share a batch have other
// masks each, and together those of one rank. The generator moves on by the same, whatever r.
func (s *Scope) SetRows(r Rows) { s.rows = r }

// Dropout zeroes elements with probability p and scales the rest by 1/(1-p) in training mode;
// otherwise it is x. With SetRows it draws for the whole batch, for the reference's bits.
func (s *Scope) Dropout(x *Tensor, p float64, train bool) *Tensor {
	if !s.ready("dropout", x) {
		return nil
	}
	var out unsafe.Pointer
	first, count, all := s.rows.c()
	return s.result("dropout",
		C.lnt_dropout(x.c, C.double(p), flag(train), first, count, all, &out), &out, x)
}

// DropoutLean is Dropout in a single pass forward and backward, without a saved mask; the same seed
// drops other elements than Dropout. On devices other than the CPU it is Dropout.
func (s *Scope) DropoutLean(x *Tensor, p float64, train bool) *Tensor {
	if !s.ready("dropout", x) {
		return nil
	}
	var out unsafe.Pointer
	first, count, all := s.rows.c()
	return s.result("dropout",
		C.lnt_dropout_lean(x.c, C.double(p), flag(train), first, count, all, &out), &out, x)
}

// FeatureDropout is Dropout of whole channels (Dropout2d, Dropout3d).
func (s *Scope) FeatureDropout(x *Tensor, p float64, train bool) *Tensor {
	if !s.ready("feature_dropout", x) {
		return nil
	}
	var out unsafe.Pointer
	first, count, all := s.rows.c()
	return s.result("feature_dropout",
		C.lnt_feature_dropout(x.c, C.double(p), flag(train), first, count, all, &out), &out, x)
}

func (r Rows) c() (first, count, all C.int64_t) {
	return C.int64_t(r.First), C.int64_t(r.Count), C.int64_t(r.All)
}
