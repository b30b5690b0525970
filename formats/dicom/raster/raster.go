// Package raster finds the pixels that lie inside closed paths. It knows nothing of DICOM: a point
// (x, y) is in pixels, and (0, 0) is the centre of the first pixel.
package raster

import "math"

// Reach is how near to a path, in pixels, a centre is inside whatever side it lies on: PS3.3
// C.8.8.6.3 counts the points of a path as inside, and coordinates are rounded.
const Reach = 1e-3

// A Point is a place in pixels: x along a row, y from row to row.
type Point [2]float64

// A Plane is a raster for one goroutine. Its memory is used again by every call of Fill.
type Plane struct {
	Columns, Rows int
	// Cells are rows of Stride cells, 1 for a pixel that is inside and 0 for others. The last cell
	// of a row is no pixel.
	Cells  []uint8
	Stride int
}

// Bits of a cell before the rows are swept.
const (
	crossed = 1 << iota // a path goes by on the left, and by no cell between
	onPath
)

// New returns a raster without a pixel inside. It panics on a size below 1.
func New(columns, rows int) *Plane {
	return &Plane{Columns: columns, Rows: rows, Stride: columns + 1,
		Cells: make([]uint8, (columns+1)*rows)}
}

// Box is a range of pixels, without those at X1 and Y1.
type Box struct{ X0, Y0, X1, Y1 int }

// Empty reports whether no pixel is in the box.
func (b Box) Empty() bool { return b.X0 >= b.X1 || b.Y0 >= b.Y1 }

// Fill sets the pixels whose centre lies inside an odd number of the paths, or within Reach of one.
// Each path is closed: its last point is joined to its first. A path of one point is that point.
// Coordinates are finite. All pixels set lie in the box that Fill returns; Clear unsets them.
func (p *Plane) Fill(paths ...[]Point) Box {
	low, high := Point{math.Inf(1), math.Inf(1)}, Point{math.Inf(-1), math.Inf(-1)}
	for _, path := range paths {
		for i, b := range path {
			low = Point{min(low[0], b[0]), min(low[1], b[1])}
			high = Point{max(high[0], b[0]), max(high[1], b[1])}
			a := path[(i+len(path)-1)%len(path)]
			p.cross(a, b)
			p.follow(a, b)
		}
	}
	box := Box{within(low[0]-Reach, p.Columns), within(low[1]-Reach, p.Rows),
		within(high[0]+Reach+1, p.Columns), within(high[1]+Reach+1, p.Rows)}
	for y := box.Y0; y < box.Y1; y++ {
		row := p.Cells[y*p.Stride:][:p.Stride]
		odd := uint8(0)
		for x := box.X0; x < box.X1; x++ {
			odd ^= row[x] & crossed
			row[x] = odd | row[x]/onPath
		}
		row[box.X1] = 0 // where a path crosses on the right of the last pixel
	}
	return box
}

// Clear unsets the pixels of a box.
func (p *Plane) Clear(b Box) {
	for y := b.Y0; y < b.Y1; y++ {
		clear(p.Cells[y*p.Stride+b.X0 : y*p.Stride+b.X1])
	}
}

// within returns the first whole number that is not below x, from 0 to n; 0 for NaN.
func within(x float64, n int) int {
	if x = math.Ceil(x); x >= float64(n) {
		return n
	} else if x > 0 {
		return int(x)
	}
	return 0
}

// cross marks where an edge crosses the lines through the centres of rows: in each the first cell
// that is not left of it. The upper end belongs to an edge, the lower one does not, so that every
// line is crossed an even number of times by a closed path.
func (p *Plane) cross(a, b Point) {
	if a[1] > b[1] {
		a, b = b, a
	}
	first, end := within(a[1], p.Rows), within(b[1], p.Rows)
	if first >= end {
		return
	}
	least, most := min(a[0], b[0]), max(a[0], b[0])
	for y := first; y < end; y++ {
		// a share of the edge first: a slope may be infinite
		x := a[0] + (float64(y)-a[1])/(b[1]-a[1])*(b[0]-a[0])
		x = min(max(x, least), most) // what rounding leaves of large numbers
		p.Cells[y*p.Stride+within(x, p.Columns)] ^= crossed
	}
}

// follow marks the centres within Reach of an edge.
func (p *Plane) follow(a, b Point) {
	dx, dy := b[0]-a[0], b[1]-a[1]
	square := dx*dx + dy*dy
	first := within(min(a[1], b[1])-Reach, p.Rows)
	end := within(math.Floor(max(a[1], b[1])+Reach)+1, p.Rows)
	for y := first; y < end; y++ {
		// Of the edge, from 0 to 1, what is within Reach of the row.
		from, to := 0.0, 1.0
		if dy != 0 {
			s, t := (float64(y)-Reach-a[1])/dy, (float64(y)+Reach-a[1])/dy
			from, to = max(from, min(s, t)), min(to, max(s, t))
		}
		s, t := a[0]+from*dx, a[0]+to*dx
		last := within(math.Floor(max(s, t)+Reach)+1, p.Columns)
		for x := within(min(s, t)-Reach, p.Columns); x < last; x++ {
			ox, oy := float64(x)-a[0], float64(y)-a[1]
			if square > 0 {
				k := min(max((ox*dx+oy*dy)/square, 0), 1)
				ox, oy = ox-k*dx, oy-k*dy
			}
			if ox*ox+oy*oy <= Reach*Reach {
				p.Cells[y*p.Stride+x] |= onPath
			}
		}
	}
}
