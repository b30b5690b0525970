// Package eval scores segmentations: voxel counts, Dice and IoU per case and per label or region,
// their means in nnU-Net's summary.json, and the pseudo-Dice that nnU-Net computes during training.
//
// It is pure Go and works on label arrays in memory. Callers read the images and ensure that both
// are on the same grid: like the reference, eval compares shapes, but not spacing or origin.
//
// Source: nnunetv2/evaluation/evaluate_predictions.py and
// nnUNetTrainer.on_validation_epoch_end of nnU-Net 2.5.1.
package eval

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
)

// Integer is any element type of a label map.
type Integer interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~int64
}

// Map is a label map in row-major order, of any rank, usually (z,y,x).
type Map[T Integer] struct {
	Data  []T
	Shape []int
}

// Counts are the four voxel counts that every score is computed from. Voxels with the ignore label
// are not counted.
type Counts struct{ TP, FP, FN, TN int64 }

// maxClasses bounds the joint histogram of Compare (classes² int64 per worker).
const maxClasses = 2048

// chunk is the number of voxels per goroutine that makes another one worthwhile.
const chunk = 1 << 20

// Compare counts the voxels of ref and pred for each target, in the order of targets. Voxels with
// the ignore label in ref (nil: none) are not counted. Labels of no target count as background.
//
// All targets are counted in one pass, which fills a joint histogram of (ref, pred) over the
// relevant labels; each target's counts are sums over it. Large maps are processed in parallel; the
// result does not depend on the number of processors.
//
// It is an error if the shapes differ or do not match the data, or if targets are empty or
// repeated.
// Source: evaluate_predictions.py, compute_tp_fp_fn_tn.
func Compare[R, P Integer](ref Map[R], pred Map[P], targets []Target,
	ignore *int) ([]Counts, error) {
	if !slices.Equal(ref.Shape, pred.Shape) {
		return nil, fmt.Errorf("eval: the reference has shape %v, the prediction %v: expected the "+
			"same grid",
			ref.Shape, pred.Shape)
	}
	n := 1
	for _, d := range ref.Shape {
		n *= d
	}
	if len(ref.Data) != n || len(pred.Data) != n {
		return nil, fmt.Errorf("eval: found %d voxels of the reference and %d of the prediction, "+
			"expected %d for shape %v", len(ref.Data), len(pred.Data), n, ref.Shape)
	}
	if err := checkTargets(targets); err != nil {
		return nil, err
	}
	cls, err := newClasses(targets, ignore)
	if err != nil {
		return nil, err
	}

	workers := min(runtime.GOMAXPROCS(0), max(1, n/chunk))
	hist := make([][]int64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		hist[w] = make([]int64, cls.n*cls.n)
		lo, hi := n*w/workers, n*(w+1)/workers
		wg.Go(func() { jointHistogram(hist[w], ref.Data[lo:hi], pred.Data[lo:hi], cls) })
	}
	wg.Wait()
	joint := hist[0]
	for _, h := range hist[1:] {
		for i, v := range h {
			joint[i] += v
		}
	}

	out := make([]Counts, len(targets))
	member := make([]bool, cls.n)
	for i, t := range targets {
		clear(member)
		for _, l := range t.Labels() {
			member[cls.of(int64(l))] = true
		}
		c := &out[i]
		for r := range cls.n {
			if r == cls.ignore {
				continue
			}
			for p := range cls.n {
				v := joint[r*cls.n+p]
				switch {
				case member[r] && member[p]:
					c.TP += v
				case member[p]:
					c.FP += v
				case member[r]:
					c.FN += v
				default:
					c.TN += v
				}
			}
		}
	}
	return out, nil
}

func checkTargets(targets []Target) error {
	if len(targets) == 0 {
		return fmt.Errorf("eval: no label or region to score: dataset.json has no foreground")
	}
	seen := map[string]bool{}
	for _, t := range targets {
		if t.region && len(t.labels) == 0 {
			return fmt.Errorf("eval: a region without labels")
		}
		if seen[t.Key()] {
			return fmt.Errorf("eval: %s is listed twice", t.Key())
		}
		seen[t.Key()] = true
	}
	return nil
}

// classes maps labels to histogram classes: targets' labels count from 1, 0 is every other label.
type classes struct {
	n      int
	ignore int // class of the ignore label, or -1
	first  int64
	table  []int32 // class of label first+i
}

func newClasses(targets []Target, ignore *int) (classes, error) {
	var labels []int
	for _, t := range targets {
		labels = append(labels, t.Labels()...)
	}
	if ignore != nil {
		labels = append(labels, *ignore)
	}
	slices.Sort(labels)
	labels = slices.Compact(labels)
	lo, hi := labels[0], labels[len(labels)-1]
	if lo < math.MinInt16 || hi > math.MaxUint16 {
		return classes{}, fmt.Errorf("eval: found labels from %d to %d, expected %d to %d",
			lo, hi, math.MinInt16, math.MaxUint16)
	}
	if len(labels) >= maxClasses {
		return classes{}, fmt.Errorf("eval: found %d labels to score, expected at most %d",
			len(labels), maxClasses-1)
	}
	c := classes{n: len(labels) + 1, ignore: -1, first: int64(lo), table: make([]int32, hi-lo+1)}
	for i, l := range labels {
		c.table[l-lo] = int32(i + 1)
	}
	if ignore != nil {
		c.ignore = c.of(int64(*ignore))
	}
	return c, nil
}

func (c *classes) of(label int64) int {
	if i := uint64(label - c.first); i < uint64(len(c.table)) {
		return int(c.table[i])
	}
	return 0
}

// jointHistogram increments hist[class(ref)*n + class(pred)]. Label maps consist of long runs of
// one pair, so a run costs two comparisons per voxel.
func jointHistogram[R, P Integer](hist []int64, ref []R, pred []P, c classes) {
	pred = pred[:len(ref)]
	for i := 0; i < len(ref); {
		r, p := ref[i], pred[i]
		start := i
		for i++; i < len(ref) && ref[i] == r && pred[i] == p; i++ {
		}
		hist[c.of(int64(r))*c.n+c.of(int64(p))] += int64(i - start)
	}
}
