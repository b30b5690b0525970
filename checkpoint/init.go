package checkpoint

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/lntorch/lntorch/formats/peft"
)

const (
	// maxSide bounds the decomposition, whose time grows with the cube of the matrix's smaller
	// side.
	maxSide = 2048
	// maxLoss is the largest change that float32 rounding may cause in the initialisation, relative
	// to the weight's largest singular value. Beyond it, PEFT's own result differs between machines
	// too.
	maxLoss = 1e-4
)

const initAdvice = "merge the adapter in Python, with PEFT's merge_and_unload, or save it as a " +
	"plain adapter where it was trained (save_pretrained with " +
	"path_initial_model_for_weight_conversion)"

// applyInit repeats on a weight what the initialisation of its adapter did: it subtracts the
// adapter's initial part, which is a projection of the weight. PiSSA subtracts the projection on
// the space of the rank largest singular values, OLoRA scaling times the projection on the space of
// the first rank columns.
//
// Differs: PEFT computes the decomposition in float32, this package in float64; the adapter is
// refused if the two may differ by more than maxLoss.
// Source: PEFT 0.14.0, LoraLayer.pissa_init and olora_init, which support linear layers only.
func applyInit(values []float32, shape []int64, rank int, l LowRank) error {
	if l.Init == peft.Plain {
		return nil
	}
	if len(shape) != 2 {
		return fmt.Errorf("a weight of shape %v has an adapter of PiSSA or OLoRA "+
			"(init_lora_weights), which PEFT supports for linear layers only", shape)
	}
	rows, cols := int(shape[0]), int(shape[1])
	if min(rows, cols) > maxSide {
		return fmt.Errorf("its shape %v is too large to reproduce init_lora_weights, the smaller "+
			"side may be at most %d; %s", shape, maxSide, initAdvice)
	}
	factor := 1.0
	if l.Init == peft.OLoRA {
		factor = l.Scaling
	} else if !(l.Scaling > 0) {
		return fmt.Errorf("PiSSA (init_lora_weights) needs a scaling above 0, found %g", l.Scaling)
	}
	w := mat.NewDense(rows, cols, nil)
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return errors.New("it holds NaN or Inf, so its decomposition for init_lora_weights " +
				"does not exist")
		}
		w.Set(i/cols, i%cols, float64(v))
	}
	part := w
	if rank < min(rows, cols) {
		basis, err := basisOf(w, rank, l.Init)
		if err != nil {
			return fmt.Errorf("init_lora_weights cannot be reproduced: %w; %s", err, initAdvice)
		}
		var on mat.Dense
		on.Mul(basis.T(), w)
		part = mat.NewDense(rows, cols, nil)
		part.Mul(basis, &on)
	}
	for i := range values {
		values[i] = float32(float64(values[i]) - factor*part.At(i/cols, i%cols))
	}
	return nil
}

// basisOf returns an orthonormal basis, as columns, of the space that applyInit projects on. rank
// is below both sides of w.
func basisOf(w *mat.Dense, rank int, init peft.Init) (mat.Matrix, error) {
	rows, _ := w.Dims()
	var of mat.Matrix = w
	if init == peft.OLoRA {
		of = w.Slice(0, rows, 0, rank)
	}
	var svd mat.SVD
	if !svd.Factorize(of, mat.SVDThinU) {
		return nil, errors.New("its singular value decomposition failed")
	}
	s := svd.Values(nil)
	if init == peft.PiSSA && s[0] > 0 && !(0x1p-23*s[rank-1]/(s[rank-1]-s[rank]) <= maxLoss) {
		return nil, fmt.Errorf("singular values %d and %d, %g and %g, are so close that rounding "+
			"decides", rank, rank+1, s[rank-1], s[rank])
	}
	if init == peft.OLoRA && !(0x1p-23*s[0]/s[rank-1] <= maxLoss) {
		return nil, fmt.Errorf("its first %d columns are linearly dependent up to rounding "+
			"(singular values from %g to %g)", rank, s[0], s[rank-1])
	}
	var u mat.Dense
	svd.UTo(&u)
	return u.Slice(0, rows, 0, rank), nil
}
