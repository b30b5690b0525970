package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// TopKRows returns, for each row of g viewed as (n, rest), the flat indices into g (int64, shape
// (n, min(k, rest))) of the k entries of largest |g|, largest first; ties go to the lowest index. A
// row is an index of axis 0. g has rank 2 or more and is not modified. It fails if g has NaN or
// infinite elements.
func (s *Scope) TopKRows(g *Tensor, k int64) *Tensor {
	if !s.ready("topk_rows", g) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("topk_rows", C.lnt_topk_rows(g.c, C.int64_t(k), &out), &out, g)
}
