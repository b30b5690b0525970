package nodes

import (
	"cmp"
	"math"
	"slices"

	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/mask"
	"github.com/lntorch/lntorch/volume"
)

// Size is how large a node is and where it lies.
type Size struct {
	Voxels    int64
	MM3       float64
	LongAxis  float64    // mm, largest distance of two points of the node in Slice
	ShortAxis float64    // mm, the node's extent in Slice across its long axis
	Slice     int        // index along the grid's axial axis in the volume: most voxels, lowest of equals
	Centroid  [3]float64 // mm, LPS (x, y, z): mean of the voxels' centres
}

// Axial returns the array axis of (z, y, x) that lies nearest to the patient's head-foot direction,
// of equals the first.
func Axial(g volume.Geometry) int {
	axis := 0
	for a := range 3 {
		if math.Abs(g.DirectionXYZ[6+2-a]) > math.Abs(g.DirectionXYZ[6+2-axis]) {
			axis = a
		}
	}
	return axis
}

// Measure returns the size of each component of a mask, in their order. A node's axes are measured
// in the slice across the axial axis that has most of its voxels, between the midpoints of the
// edges of its pixels: the long axis is the largest distance of two, the short axis the extent of
// all across it (RECIST's). Of several longest pairs, within 1e-6 mm, the one with the smallest
// extent counts.
func Measure(m *mask.Mask, c *components.Components, g volume.Geometry) []Size {
	axial := Axial(g)
	sizes := make([]Size, len(c.Voxels))
	sums := make([][3]int64, len(c.Voxels))
	counts := make([]map[int]int, len(c.Voxels)) // voxels of each slice
	for i := range counts {
		counts[i] = map[int]int{}
	}
	place := func(from int) [3]int {
		return [3]int{from / m.Shape[2] / m.Shape[1], from / m.Shape[2] % m.Shape[1],
			from % m.Shape[2]}
	}
	c.Runs(func(k, from, to int) {
		at, n := place(from), to-from
		s := &sums[k]
		s[0] += int64(at[0] * n)
		s[1] += int64(at[1] * n)
		s[2] += int64(at[2]*n + n*(n-1)/2)
		if axial < 2 {
			counts[k][at[axial]] += n
			return
		}
		for x := range n {
			counts[k][at[2]+x]++
		}
	})
	for k := range sizes {
		best := -1
		for slice, n := range counts[k] {
			if best < 0 || n > counts[k][best] || n == counts[k][best] && slice < best {
				best = slice
			}
		}
		s := &sizes[k]
		s.Voxels, s.Slice = c.Voxels[k], best
		s.MM3 = float64(s.Voxels) * g.Spacing[0] * g.Spacing[1] * g.Spacing[2]
		var centre [3]float64
		for a := range 3 {
			centre[a] = float64(sums[k][a])/float64(s.Voxels) + float64(m.Origin[a])
		}
		s.Centroid = g.Point(centre)
	}

	// The outermost midpoints of each run in the chosen slices, in mm.
	points := make([][]vector, len(sizes))
	u, v := (axial+1)%3, (axial+2)%3
	add := func(k int, at [3]int, length int) {
		y0, x0 := float64(at[u]), float64(at[v])
		du, dv := 0.0, 0.0
		if u == 2 {
			du = float64(length - 1)
		}
		if v == 2 {
			dv = float64(length - 1)
		}
		for _, e := range [][2]float64{{-.5, 0}, {.5, 0}, {0, -.5}, {0, .5}} {
			points[k] = append(points[k],
				vector{(y0 + e[0]) * g.Spacing[u], (x0 + e[1]) * g.Spacing[v]},
				vector{(y0 + du + e[0]) * g.Spacing[u], (x0 + dv + e[1]) * g.Spacing[v]})
		}
	}
	c.Runs(func(k, from, to int) {
		at := place(from)
		switch slice := sizes[k].Slice; {
		case axial < 2 && at[axial] == slice:
			add(k, at, to-from)
		case axial == 2 && at[2] <= slice && slice < at[2]+to-from:
			at[2] = slice
			add(k, at, 1)
		}
	})
	for k := range sizes {
		s := &sizes[k]
		s.LongAxis, s.ShortAxis = axes(hull(points[k]))
		s.Slice += m.Origin[axial]
	}
	return sizes
}

// vector is a point of a slice in mm.
type vector [2]float64

func (a vector) minus(b vector) vector  { return vector{a[0] - b[0], a[1] - b[1]} }
func (a vector) cross(b vector) float64 { return a[0]*b[1] - a[1]*b[0] }
func (a vector) length() float64        { return math.Hypot(a[0], a[1]) }

// hull returns the corners of the convex hull of points (Andrew's monotone chain).
func hull(points []vector) []vector {
	slices.SortFunc(points, func(a, b vector) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	points = slices.Compact(points)
	if len(points) < 3 {
		return points
	}
	half := func(chain []vector) []vector {
		var h []vector
		for _, p := range chain {
			for len(h) > 1 && h[len(h)-1].minus(h[len(h)-2]).cross(p.minus(h[len(h)-2])) <= 0 {
				h = h[:len(h)-1]
			}
			h = append(h, p)
		}
		return h[:len(h)-1]
	}
	lower := half(points)
	slices.Reverse(points)
	return append(lower, half(points)...)
}

// axes returns the largest distance between two corners, and the smallest extent across a pair
// that is as far apart to 1e-6 mm.
func axes(corners []vector) (long, short float64) {
	for i, a := range corners {
		for _, b := range corners[:i] {
			long = max(long, a.minus(b).length())
		}
	}
	short = math.Inf(1)
	for i, a := range corners {
		for _, b := range corners[:i] {
			d := a.minus(b)
			if d.length() < long-1e-6 {
				continue
			}
			lo, hi := math.Inf(1), math.Inf(-1)
			for _, p := range corners {
				across := d.cross(p) / d.length()
				lo, hi = min(lo, across), max(hi, across)
			}
			short = min(short, hi-lo)
		}
	}
	return long, short
}
