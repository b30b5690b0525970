// Package surface measures how far the surfaces of two masks lie apart, as DeepMind's
// surface-distance 0.1 defines it: a surface consists of elements at the points between 2×2×2
// voxels that are not all in or all out, each with the area that marching cubes gives it, and an
// element's distance is the one to the nearest element of the other surface. The outside of the
// volume is background.
//
// It is pure Go and uses all cores; the result does not depend on how many there are. Time and
// memory go with the elements, not with the voxels.
package surface

import (
	"cmp"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lntorch/lntorch/eval/mask"
)

// Surface is the elements between the voxels in a mask and those out of it.
type Surface struct {
	points  []point
	codes   []uint8 // which of the eight voxels around each point are in
	spacing [3]float64
	area    [256]float64
}

// point is a corner of voxels: it lies before the voxel of the same indices (z, y, x).
type point [3]int32

// Of finds the surface of a mask of voxels with the given spacing in mm, (z, y, x). A surface of more
// than most elements is not finished; nil is the result.
func Of(m *mask.Mask, spacing [3]float64, most int) *Surface {
	s := &Surface{spacing: spacing, area: areas(spacing)}
	if m.Shape[0] == 0 {
		return s
	}
	slabs := m.Shape[0] + 1
	workers := min(runtime.GOMAXPROCS(0), slabs)
	parts := make([]Surface, workers)
	var wg sync.WaitGroup
	var all atomic.Int64
	for k := range workers {
		wg.Go(func() {
			for z := slabs * k / workers; z < slabs*(k+1)/workers && all.Load() <= int64(most); z++ {
				before := len(parts[k].points)
				parts[k].find(m, z)
				all.Add(int64(len(parts[k].points) - before))
			}
		})
	}
	wg.Wait()
	n := int(all.Load())
	if n > most {
		return nil
	}
	s.points, s.codes = make([]point, 0, n), make([]uint8, 0, n)
	for i := range parts {
		s.points, s.codes = append(s.points, parts[i].points...), append(s.codes, parts[i].codes...)
	}
	return s
}

// Elements is the number of elements.
func (s *Surface) Elements() int { return len(s.points) }

// Area is the area of the surface in mm².
func (s *Surface) Area() float64 {
	sum := 0.0
	for _, c := range s.codes {
		sum += s.area[c]
	}
	return sum
}

// find appends the elements of a plane of points.
func (s *Surface) find(m *mask.Mask, z int) {
	none := make([]uint64, len(m.Row(0, 0)))
	row := func(z, y int) []uint64 {
		if z < 0 || y < 0 || z >= m.Shape[0] || y >= m.Shape[1] {
			return none
		}
		return m.Row(z, y)
	}
	for y := range m.Shape[1] + 1 {
		s.line(m, z, y, [4][]uint64{row(z-1, y-1), row(z-1, y), row(z, y-1), row(z, y)})
	}
}

// line appends the elements of a line of points between four rows of voxels.
func (s *Surface) line(m *mask.Mask, z, y int, rows [4][]uint64) {
	var carry [4]uint64 // the last voxel of the words before
	for i := range (m.Shape[2] + 64) / 64 {
		any, all := uint64(0), ^uint64(0)
		var left, right [4]uint64 // bit x: voxel x-1, voxel x
		for k, r := range rows {
			if i < len(r) {
				right[k] = r[i]
			}
			left[k] = right[k]<<1 | carry[k]
			carry[k] = right[k] >> 63
			any |= left[k] | right[k]
			all &= left[k] & right[k]
		}
		for edge := any &^ all; edge != 0; edge &= edge - 1 {
			x := bits.TrailingZeros64(edge)
			code := uint8(0)
			for k := range 4 {
				code = code<<2 | uint8(left[k]>>x&1)<<1 | uint8(right[k]>>x&1)
			}
			s.points = append(s.points, point{int32(m.Origin[0] + z), int32(m.Origin[1] + y),
				int32(m.Origin[2] + i*64 + x)})
			s.codes = append(s.codes, code)
		}
	}
}

// Distances are those of a surface's elements to another surface, in mm, with the elements' areas
// in mm², by distance and then by area.
type Distances struct{ MM, Area []float64 }

// Between returns the distances of the elements of a to b, and of those of b to a. If one surface
// has no elements, the distances of the other are +Inf.
func Between(a, b *Surface) (fromA, fromB Distances) {
	treeA, treeB := newTree(a), newTree(b)
	return treeA.distances(treeB), treeB.distances(treeA)
}

func (d *Distances) sort() {
	order := make([][2]float64, len(d.MM))
	for i := range order {
		order[i] = [2]float64{d.MM[i], d.Area[i]}
	}
	slices.SortFunc(order, func(a, b [2]float64) int {
		switch { // no distance or area is NaN
		case a[0] < b[0]:
			return -1
		case a[0] > b[0]:
			return 1
		}
		return cmp.Compare(a[1], b[1])
	})
	for i, o := range order {
		d.MM[i], d.Area[i] = o[0], o[1]
	}
}

// Total is the area of all elements.
func (d Distances) Total() float64 {
	sum := 0.0
	for _, a := range d.Area {
		sum += a
	}
	return sum
}

// Percentile is the distance of the first element with which the areas reach share (0 to 1) of all
// areas; NaN if there are no elements.
func (d Distances) Percentile(share float64) float64 {
	if len(d.MM) == 0 {
		return math.NaN()
	}
	if share >= 1 {
		return d.MM[len(d.MM)-1]
	}
	total, sum := d.Total(), 0.0
	for i, a := range d.Area {
		if sum += a; sum/total >= share {
			return d.MM[i]
		}
	}
	return d.MM[len(d.MM)-1]
}

// Within is the area of the elements that are at most so many mm away.
func (d Distances) Within(mm float64) float64 {
	sum := 0.0
	for i, a := range d.Area {
		if d.MM[i] > mm {
			break
		}
		sum += a
	}
	return sum
}

// Weighted is the sum of the distances, each times its element's area.
func (d Distances) Weighted() float64 {
	sum := 0.0
	for i, a := range d.Area {
		sum += d.MM[i] * a
	}
	return sum
}
