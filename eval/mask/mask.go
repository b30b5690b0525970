// Package mask turns two label maps on one grid into the bits of what is scored: for each target a
// mask of the reference and one of the prediction, cut to the smallest box that holds both. A voxel
// takes a bit, and 64 of them are looked at in one step.
//
// It is pure Go, uses all cores and gives the same masks for any number of them.
package mask

import (
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"sync"
)

// Integer is any element type of a label map.
type Integer interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~int64
}

// Mask is a box of voxels, each in or out. The zero value is an empty box.
type Mask struct {
	Origin [3]int // first voxel of the box in the volume, (z, y, x)
	Shape  [3]int // of the box

	words  []uint64 // rows along x, bit x%64 of word x/64; bits beyond the row are 0
	stride int      // words of a row
}

// New returns a mask without voxels for a box.
func New(origin, shape [3]int) *Mask {
	m := &Mask{Origin: origin, Shape: shape, stride: (shape[2] + 63) / 64}
	m.words = make([]uint64, shape[0]*shape[1]*m.stride)
	return m
}

// Row returns the voxels of a row of the box as bits, the lowest first. The bits of the last word
// beyond the row are 0.
func (m *Mask) Row(z, y int) []uint64 {
	r := z*m.Shape[1] + y
	return m.words[r*m.stride : (r+1)*m.stride]
}

// Set adds the voxels [from, to) of a row of the box.
func (m *Mask) Set(z, y, from, to int) {
	fill(m.Row(z, y), from, to)
}

// Voxels is the number of voxels in the mask.
func (m *Mask) Voxels() int64 {
	n := 0
	for _, w := range m.words {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

// Shared is the number of voxels that two masks of one box have in common.
func Shared(a, b *Mask) int64 {
	n := 0
	for i, w := range a.words {
		n += bits.OnesCount64(w & b.words[i])
	}
	return int64(n)
}

// Runs calls f for each run [from, to) of voxels of a row, in the coordinates of the box.
func Runs(row []uint64, f func(from, to int)) {
	start := -1 // of a run that reaches into this word
	for i, w := range row {
		at := i * 64
		if start >= 0 {
			if w == math.MaxUint64 {
				continue
			}
			end := bits.TrailingZeros64(^w)
			f(start, at+end)
			start = -1
			w &^= 1<<end - 1
		}
		for w != 0 {
			from := bits.TrailingZeros64(w)
			length := bits.TrailingZeros64(^(w >> from))
			if from+length == 64 {
				start = at + from
				break
			}
			f(at+from, at+from+length)
			w &^= (1<<length - 1) << from
		}
	}
	if start >= 0 {
		f(start, len(row)*64)
	}
}

// fill sets the bits [from, to).
func fill(row []uint64, from, to int) {
	if from >= to {
		return
	}
	i, j := from/64, (to-1)/64
	head, tail := ^uint64(0)<<(from%64), ^uint64(0)>>(63-(to-1)%64)
	if i == j {
		row[i] |= head & tail
		return
	}
	row[i] |= head
	for k := i + 1; k < j; k++ {
		row[k] = ^uint64(0)
	}
	row[j] |= tail
}

// Pairs makes the masks of targets from two label maps on one grid.
type Pairs[R, P Integer] struct {
	reference  []R
	prediction []P
	shape      [3]int
	ignore     int64
	hasIgnore  bool
	boxes      map[int64]box // of each label that is asked for, in either map; of label 0 all
}

// box is the voxels [lo, hi).
type box struct{ lo, hi [3]int }

// include enlarges the box by another; one without voxels is all zero.
func (b *box) include(c box) {
	switch {
	case c.hi[0] == 0:
		return
	case b.hi[0] == 0:
		*b = c
		return
	}
	for a := range 3 {
		b.lo[a], b.hi[a] = min(b.lo[a], c.lo[a]), max(b.hi[a], c.hi[a])
	}
}

// NewPairs looks over two label maps, row-major of shape (z, y, x): one pass finds the box of each of
// the labels, those that Of will be asked for; memory goes with them, not with the labels in the maps.
// Where the reference has the ignore label (nil: none) both masks will be background. The maps are
// kept and not copied. It returns an error if a map does not fill the shape.
func NewPairs[R, P Integer](reference []R, prediction []P, shape [3]int, ignore *int,
	labels []int) (*Pairs[R, P], error) {
	n := shape[0] * shape[1] * shape[2]
	if min(shape[0], shape[1], shape[2]) < 1 || len(reference) != n || len(prediction) != n {
		return nil, fmt.Errorf("mask: found %d voxels of the reference and %d of the prediction for "+
			"shape %v", len(reference), len(prediction), shape)
	}
	p := &Pairs[R, P]{reference: reference, prediction: prediction, shape: shape,
		boxes: map[int64]box{}}
	if ignore != nil {
		p.ignore, p.hasIgnore = int64(*ignore), true
	}
	for _, l := range labels {
		p.boxes[int64(l)] = box{}
	}
	if _, ok := p.boxes[0]; ok {
		p.boxes[0] = box{hi: shape}
	}
	found := make([]map[int64]*box, 2*runtime.GOMAXPROCS(0))
	split(shape[0], len(found)/2, func(k, z0, z1 int) {
		found[2*k] = boxes(reference, shape, labels, z0, z1)
		found[2*k+1] = boxes(prediction, shape, labels, z0, z1)
	})
	for _, f := range found {
		for label, b := range f {
			whole := p.boxes[label]
			whole.include(*b)
			p.boxes[label] = whole
		}
	}
	return p, nil
}

// split divides n slices among workers, which run at the same time.
func split(n, workers int, f func(k, from, to int)) {
	var wg sync.WaitGroup
	for k := range workers {
		if from, to := n*k/workers, n*(k+1)/workers; from < to {
			wg.Go(func() { f(k, from, to) })
		}
	}
	wg.Wait()
}

// boxes finds the box of each of the labels but 0 in the slices [z0, z1).
func boxes[T Integer](data []T, shape [3]int, labels []int, z0, z1 int) map[int64]*box {
	found := make(map[int64]*box, len(labels))
	for _, l := range labels {
		found[int64(l)] = &box{}
	}
	for z := z0; z < z1; z++ {
		for y := range shape[1] {
			row := data[(z*shape[1]+y)*shape[2]:][:shape[2]]
			for x := 0; x < len(row); {
				v := row[x]
				from := x
				for x++; x < len(row) && row[x] == v; x++ {
				}
				if v == 0 {
					continue
				}
				if b := found[int64(v)]; b != nil {
					b.include(box{[3]int{z, y, from}, [3]int{z + 1, y + 1, x}})
				}
			}
		}
	}
	return found
}

// Of makes the masks of the voxels that carry any of the labels, on one box: the smallest that
// holds all of them in both maps. Both are empty if neither map has one. It panics for a label that
// NewPairs was not given.
func (p *Pairs[R, P]) Of(labels []int) (reference, prediction *Mask) {
	var b box
	for _, l := range labels {
		c, ok := p.boxes[int64(l)]
		if !ok {
			panic(fmt.Sprintf("mask: label %d is none of those of NewPairs", l))
		}
		b.include(c)
	}
	if b.hi[0] == 0 {
		return &Mask{}, &Mask{}
	}
	shape := [3]int{b.hi[0] - b.lo[0], b.hi[1] - b.lo[1], b.hi[2] - b.lo[2]}
	reference, prediction = New(b.lo, shape), New(b.lo, shape)
	inReference, inPrediction := NewLabelSet[R](labels), NewLabelSet[P](labels)
	split(shape[0], runtime.GOMAXPROCS(0), func(_, z0, z1 int) {
		for z := z0; z < z1; z++ {
			for y := range shape[1] {
				at := ((b.lo[0]+z)*p.shape[1]+b.lo[1]+y)*p.shape[2] + b.lo[2]
				r, q := p.reference[at:][:shape[2]], p.prediction[at:][:shape[2]]
				setRow(reference.Row(z, y), r, &inReference)
				setRow(prediction.Row(z, y), q, &inPrediction)
				if p.hasIgnore {
					p.drop(r, reference.Row(z, y), prediction.Row(z, y))
				}
			}
		}
	})
	return reference, prediction
}

// drop takes the voxels that the reference ignores out of both masks.
func (p *Pairs[R, P]) drop(row []R, masks ...[]uint64) {
	for x, v := range row {
		if int64(v) == p.ignore {
			for _, m := range masks {
				m[x/64] &^= 1 << (x % 64)
			}
		}
	}
}

func setRow[T Integer](bits []uint64, row []T, in *LabelSet[T]) {
	for x := 0; x < len(row); {
		v := row[x]
		from := x
		for x++; x < len(row) && row[x] == v; x++ {
		}
		if in.Holds(v) {
			fill(bits, from, x)
		}
	}
}
