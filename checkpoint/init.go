package checkpoint

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/lntorch/lntorch/formats/peft"
)

const (
	// maxSide bounds the decomposition, whose time grows with the third power of the matrix's
	// smaller side.
	maxSide = 2048
	// maxLoss is how far float32's rounding may change the initialisation, seen against the
	// weight's largest singular value. Where it can do more, PEFT on another machine has other
	// weights too.
	maxLoss = 1e-4
)

const wayOfInit = "merge the adapter in Python, with PEFT's merge_and_unload, or save it where it was trained as a plain one " +
	"(save_pretrained with path_initial_model_for_weight_conversion)"

// initialise does to a weight what the initialisation of its adapter did: it takes out the part
// that the adapter had when it was made. That part is a projection of the weight. PiSSA takes the
// projection on the space of the rank largest singular values, OLoRA scaling times the projection
// on the space of the first rank columns.
//
// Differs: PEFT finds the part by a decomposition in float32, here it is found in float64; where the two may
// differ by more than maxLoss the adapter is refused.
// Source: PEFT 0.14.0, LoraLayer.pissa_init and olora_init, which it has for linear layers alone.
func initialise(values []float32, shape []int64, rank int, l LowRank) error {
	if l.Init == peft.Plain {
		return nil
	}
	if len(shape) != 2 {
		return fmt.Errorf("a weight of shape %v has an adapter of PiSSA or OLoRA (init_lora_weights), which PEFT has for linear layers alone", shape)
	}
	rows, cols := int(shape[0]), int(shape[1])
	if min(rows, cols) > maxSide {
		return fmt.Errorf("its shape %v is too large to do init_lora_weights again, the smaller side may be %d; %s", shape, maxSide, wayOfInit)
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
			return errors.New("it holds NaN or Inf, and init_lora_weights needs its decomposition")
		}
		w.Set(i/cols, i%cols, float64(v))
	}
	part := w
	if rank < min(rows, cols) {
		basis, err := basisOf(w, rank, l.Init)
		if err != nil {
			return fmt.Errorf("init_lora_weights cannot be done again: %w; %s", err, wayOfInit)
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

// basisOf gives an orthonormal basis of the space that initialise projects on, as columns. rank is
// below both sides of w.
func basisOf(w *mat.Dense, rank int, init peft.Init) (mat.Matrix, error) {
	rows, _ := w.Dims()
	var of mat.Matrix = w
	if init == peft.OLoRA {
		of = w.Slice(0, rows, 0, rank)
	}
	var svd mat.SVD
	if !svd.Factorize(of, mat.SVDThinU) {
		return nil, errors.New("its singular values are not found")
	}
	s := svd.Values(nil)
	if init == peft.PiSSA && s[0] > 0 && !(0x1p-23*s[rank-1]/(s[rank-1]-s[rank]) <= maxLoss) {
		return nil, fmt.Errorf("singular values %d and %d, %g and %g, are so close that rounding decides", rank, rank+1, s[rank-1], s[rank])
	}
	if init == peft.OLoRA && !(0x1p-23*s[0]/s[rank-1] <= maxLoss) {
		return nil, fmt.Errorf("its first %d columns depend on each other (singular values from %g to %g), so that rounding decides", rank, s[0], s[rank-1])
	}
	var u mat.Dense
	svd.UTo(&u)
	return u.Slice(0, rows, 0, rank), nil
}
