package rtstruct

// milli is how many units of a contour's points a pixel has.
const milli = 1000

// beyond is how far outside the centre of a foreground pixel a contour crosses the line to a
// background pixel, in units. At a half, readers that round to pixels could not tell them apart;
// much nearer to the centre, pixels at a corner would lose their contour.
const beyond = 499

// A point of a contour: x and y from the centre of the first pixel, in units of 1/1000 pixel.
type point struct{ x, y int }

// The sides of a pixel in the order in which a contour goes around it: right, down, left, up.
var sides = [4]point{{1, 0}, {0, 1}, {-1, 0}, {0, -1}}

// contours returns the closed contours of the pixels that are value, in a slice of rows of width
// pixels. They are those of marching squares, through points 0.499 pixel outside the centres of the
// foreground: each contour lies around pixels that share sides, in the order of their first pixels.
// Holes are cut out by a keyhole: the contour goes from its own left edge along a row to the hole,
// around it and back the same way. Only pixels in the box from (x0, y0) to before (x1, y1) are
// looked at.
//
// Programs that fill contours by the rule that a point inside an odd number of contours, or on one,
// belongs to the region give back exactly the pixels; so do those that round the points to pixels
// and draw the outline too (OpenCV's fillPoly), and those that lose holes with contours of their
// own: the keyhole runs through centres of foreground pixels alone.
func contours(slice []uint16, width int, value uint16, box box) [][]point {
	t := &tracer{slice: slice, width: width, value: value, box: box}
	w, h := box.x1-box.x0, box.y1-box.y0
	t.loops = make([]int32, 4*w*h)
	var outer []int
	for y := box.y0; y < box.y1; y++ {
		for x := box.x0; x < box.x1; x++ {
			const up = 3
			if t.in(x, y) && !t.in(x, y-1) && t.loops[t.index(vertex{x, y, up})] == 0 {
				t.trace(vertex{x, y, up})
			}
		}
	}
	for i := range t.found {
		l := &t.found[i]
		if !l.hole {
			outer = append(outer, i)
			continue
		}
		// to the left, through foreground, to where another contour of it begins
		at := l.all[l.left]
		x := at.x
		for t.in(x-1, at.y) {
			x--
		}
		const left = 2
		from := vertex{x, at.y, left}
		onto := &t.found[t.loops[t.index(from)]-1]
		if onto.keyholes == nil {
			onto.keyholes = map[vertex]int{}
		}
		onto.keyholes[from] = i
	}
	var all [][]point
	for _, i := range outer {
		all = append(all, straighten(t.points(nil, i, 0)))
	}
	return all
}

// A box holds the pixels from (x0, y0) to before (x1, y1).
type box struct{ x0, y0, x1, y1 int }

// A vertex of a contour lies on a side of a foreground pixel next to a background pixel.
type vertex struct{ x, y, side int }

func (v vertex) point() point {
	return point{v.x*milli + sides[v.side].x*beyond, v.y*milli + sides[v.side].y*beyond}
}

// A loop goes around pixels, or around a hole in them.
type loop struct {
	all      []vertex
	hole     bool
	left     int // index of its leftmost vertex, of these the uppermost
	keyholes map[vertex]int
}

type tracer struct {
	slice []uint16
	width int
	value uint16
	box   box
	loops []int32 // for each side of each pixel of the box its loop, from 1
	found []loop
}

func (t *tracer) in(x, y int) bool {
	return x >= t.box.x0 && x < t.box.x1 && y >= t.box.y0 && y < t.box.y1 &&
		t.slice[y*t.width+x] == t.value
}

func (t *tracer) index(v vertex) int {
	return 4*((v.y-t.box.y0)*(t.box.x1-t.box.x0)+v.x-t.box.x0) + v.side
}

// trace follows a loop, with its pixels on the right hand (y goes down).
func (t *tracer) trace(start vertex) {
	l := loop{}
	number := int32(len(t.found) + 1)
	area := 0
	for v := start; ; {
		t.loops[t.index(v)] = number
		l.all = append(l.all, v)
		p, least := v.point(), l.all[l.left].point()
		if p.x < least.x || p.x == least.x && p.y < least.y {
			l.left = len(l.all) - 1
		}
		ahead := (v.side + 1) % 4
		a := point{v.x + sides[ahead].x, v.y + sides[ahead].y}
		b := point{a.x + sides[v.side].x, a.y + sides[v.side].y}
		next := vertex{b.x, b.y, (v.side + 3) % 4}
		switch {
		case !t.in(a.x, a.y): // pixels that touch at a corner alone stay apart
			next = vertex{v.x, v.y, ahead}
		case !t.in(b.x, b.y):
			next = vertex{a.x, a.y, v.side}
		}
		q := next.point()
		area += p.x*q.y - q.x*p.y
		if v = next; v == start {
			break
		}
	}
	l.hole = area < 0
	t.found = append(t.found, l)
}

// points appends the points of a loop, from the vertex with the index first on, with the holes that
// hang on it.
func (t *tracer) points(dst []point, number, first int) []point {
	l := &t.found[number]
	for i := range l.all {
		v := l.all[(first+i)%len(l.all)]
		dst = append(dst, v.point())
		if v.side != 2 {
			continue
		}
		if hole, ok := l.keyholes[v]; ok {
			h := &t.found[hole]
			dst = t.points(dst, hole, h.left)
			dst = append(dst, h.all[h.left].point(), v.point())
		}
	}
	return dst
}

// straighten leaves out the points in the midst of straight lines.
func straighten(p []point) []point {
	out := make([]point, 0, len(p))
	n := len(p)
	for i, at := range p {
		before, after := p[(i+n-1)%n], p[(i+1)%n]
		ax, ay := at.x-before.x, at.y-before.y
		bx, by := after.x-at.x, after.y-at.y
		if ax*by == ay*bx {
			continue
		}
		out = append(out, at)
	}
	return out
}
