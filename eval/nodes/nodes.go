// Package nodes matches lymph nodes: the connected components of a reference with those of a
// prediction. It knows nothing of files or metrics of voxels.
package nodes

import (
	"cmp"
	"slices"

	"github.com/lntorch/lntorch/eval/components"
)

// Overlap is a node of the reference and one of the prediction that share voxels. Nodes are
// numbered from 0 in the order of their first voxels, (z, y, x).
type Overlap struct {
	Reference, Prediction int
	Voxels                int64 // that both have
	IoU                   float64
}

// Overlaps is which nodes of two masks share voxels.
type Overlaps struct {
	Reference, Prediction []int64   // voxels of each node
	Pairs                 []Overlap // by reference, then by prediction
}

// Compare finds the overlaps of the components of two masks of one shape. Time and memory go with
// the runs of voxels. It returns an error if the shapes differ.
func Compare(reference, prediction *components.Components) (*Overlaps, error) {
	shared := map[[2]int]int64{}
	err := components.Shared(reference, prediction, func(r, p, voxels int) {
		shared[[2]int{r, p}] += int64(voxels)
	})
	if err != nil {
		return nil, err
	}
	o := &Overlaps{Reference: reference.Voxels, Prediction: prediction.Voxels}
	for pair, n := range shared {
		r, p := pair[0], pair[1]
		union := o.Reference[r] + o.Prediction[p] - n
		o.Pairs = append(o.Pairs, Overlap{r, p, n, float64(n) / float64(union)})
	}
	slices.SortFunc(o.Pairs, byNumber)
	return o, nil
}

func byNumber(a, b Overlap) int {
	return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Prediction, b.Prediction))
}

// Match pairs nodes one to one: pairs are taken by falling IoU, of equals the one with the lower
// reference and then the lower prediction, if neither node has a partner yet and their IoU is at
// least least. The result is ordered as Pairs.
// Source: panoptica 2.1.7, NaiveThresholdMatching.
func (o *Overlaps) Match(least float64) []Overlap {
	byIoU := slices.Clone(o.Pairs)
	slices.SortStableFunc(byIoU, func(a, b Overlap) int { return cmp.Compare(b.IoU, a.IoU) })
	takenR, takenP := make([]bool, len(o.Reference)), make([]bool, len(o.Prediction))
	var matched []Overlap
	for _, p := range byIoU {
		if p.IoU < least || takenR[p.Reference] || takenP[p.Prediction] {
			continue
		}
		takenR[p.Reference], takenP[p.Prediction] = true, true
		matched = append(matched, p)
	}
	slices.SortFunc(matched, byNumber)
	return matched
}

// Counts are true positives and false negatives, which count nodes of the reference, and false
// positives and all nodes of the prediction. Counts of several cases are added.
type Counts struct {
	TP        int `json:"tp"`
	FN        int `json:"fn"`
	FP        int `json:"fp"`
	Predicted int `json:"predicted"`
}

// Count counts nodes when matched one to one; see Match.
func (o *Overlaps) Count(least float64) Counts {
	n := len(o.Match(least))
	return Counts{n, len(o.Reference) - n, len(o.Prediction) - n, len(o.Prediction)}
}

// CountAny counts nodes when a node of the reference is found, and one of the prediction true, if
// it shares a voxel with the other mask.
func (o *Overlaps) CountAny() Counts {
	found, right := make([]bool, len(o.Reference)), make([]bool, len(o.Prediction))
	for _, p := range o.Pairs {
		found[p.Reference], right[p.Prediction] = true, true
	}
	c := Counts{Predicted: len(right)}
	for _, f := range found {
		if f {
			c.TP++
		} else {
			c.FN++
		}
	}
	for _, r := range right {
		if !r {
			c.FP++
		}
	}
	return c
}

// Add adds the counts of another case.
func (c *Counts) Add(other Counts) {
	c.TP += other.TP
	c.FN += other.FN
	c.FP += other.FP
	c.Predicted += other.Predicted
}

// Recall is the share of the reference's nodes that were found, NaN if it has none.
func (c Counts) Recall() float64 { return float64(c.TP) / float64(c.TP+c.FN) }

// Precision is the share of the predicted nodes that are true, NaN if there are none.
func (c Counts) Precision() float64 { return float64(c.Predicted-c.FP) / float64(c.Predicted) }

// F1 is the harmonic mean of recall and precision: 0 if both are 0, NaN if one is not defined.
func (c Counts) F1() float64 {
	r, p := c.Recall(), c.Precision()
	if r+p == 0 {
		return 0
	}
	return 2 * r * p / (r + p)
}
