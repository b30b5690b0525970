package eval

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/eval/pynum"
)

// Online pools the counts of one epoch's validation batches into nnU-Net's pseudo-Dice: one Dice
// per foreground class over all voxels of all patches, not a mean over cases. Create it with
// NewOnline. It is not safe for concurrent use.
// Source: nnUNetTrainer.validation_step and on_validation_epoch_end.
type Online struct {
	classes int
	regions bool
	tp      [][]int64 // [batch][class]
	fp, fn  [][]int64
}

// NewOnline returns an empty pool for the given number of foreground classes or regions.
// Compat: the reference pools labels in float32, which rounds above 2^24 voxels, and regions in
// int64, which does not.
func NewOnline(classes int, regions bool) *Online {
	return &Online{classes: classes, regions: regions}
}

// Add adds the counts of one batch, one Counts per foreground class (TN is not used), summed over
// the batch and all voxels that are not ignored.
func (o *Online) Add(batch []Counts) error {
	if len(batch) != o.classes {
		return fmt.Errorf("eval: found counts of %d classes, expected %d", len(batch), o.classes)
	}
	tp, fp, fn := make([]int64, o.classes), make([]int64, o.classes), make([]int64, o.classes)
	for i, c := range batch {
		tp[i], fp[i], fn[i] = c.TP, c.FP, c.FN
	}
	o.tp, o.fp, o.fn = append(o.tp, tp), append(o.fp, fp), append(o.fn, fn)
	return nil
}

// Dice returns the pseudo-Dice of each class, NaN if a class is in no target and no prediction, and
// the mean over the classes that are not NaN (NaN if all are).
func (o *Online) Dice() (perClass []float64, mean float64) {
	perClass = make([]float64, o.classes)
	for c := range perClass {
		tp, fp, fn := o.pool(o.tp, c), o.pool(o.fp, c), o.pool(o.fn, c)
		perClass[c] = 2 * tp / (2*tp + fp + fn)
	}
	return perClass, pynum.NanMean(perClass)
}

func (o *Online) pool(batches [][]int64, class int) float64 {
	if o.regions {
		var s int64
		for _, b := range batches {
			s += b[class]
		}
		return float64(s)
	}
	column := make([]float32, len(batches))
	for i, b := range batches {
		column[i] = float32(b[class])
	}
	if o.classes == 1 {
		return float64(pynum.Sum(column)) // a single column is contiguous: numpy sums pairwise
	}
	var s float32
	for _, v := range column {
		s += v
	}
	return float64(s)
}

// EMA returns the moving average of the pseudo-Dice after an epoch with mean value: 0.9 previous +
// 0.1 value, or value itself in the first epoch.
//
// Differs: in the reference one NaN (an epoch without foreground in patches and predictions) makes
// every later average NaN. Here such an epoch does not change the average, and a NaN average is
// replaced by the next value.
// Source: nnunet_logger.py, log.
func EMA(previous, value float64, first bool) float64 {
	switch {
	case first || math.IsNaN(previous):
		return value
	case math.IsNaN(value):
		return previous
	}
	a, b := float64(previous*0.9), float64(0.1*value) // no fused multiply-add
	return a + b
}

// Better reports whether an epoch with this moving average is the best so far; best is nil before
// the first.
// Differs: in the reference a NaN in the first epoch stays the best, here any value replaces it.
// Source: nnUNetTrainer.on_epoch_end.
func Better(ema float64, best *float64) bool {
	if best == nil {
		return true
	}
	return ema > *best || (math.IsNaN(*best) && !math.IsNaN(ema))
}
