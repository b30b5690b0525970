package page

import (
	"image"
	"image/color"
	"image/draw"
	"iter"
	"math"

	"codeberg.org/go-fonts/liberation/liberationsansbold"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/lntorch/lntorch/report"
)

const (
	panel     = 400 // pixels of a side
	panelGap  = 6
	leastZoom = 50.0  // mm of the enlarged part's side, at least
	mostZoom  = 120.0 // and at most, unless one node is larger
)

// contours are how truth, before and after are drawn: of Okabe and Ito's palette, told apart by
// colour-blind readers, and by their lines where there is no colour. Where they coincide each shows
// in the gaps of the next.
var contours = [3]struct {
	ink   color.RGBA
	style string
	on    func(along int) bool
}{
	{color.RGBA{R: 240, G: 228, B: 66, A: 255}, "solid", func(int) bool { return true }},
	{color.RGBA{R: 86, G: 180, B: 233, A: 255}, "dotted", func(i int) bool { return i%22 >= 13 && i%22 < 16 }},
	{color.RGBA{R: 255, G: 105, B: 30, A: 255}, "dashed", func(i int) bool { return i%22 < 9 }},
}

// view is a slice as it is seen from the patient's feet: columns run to the patient's left, rows to
// the back, as far as the grid's axes do.
type view struct {
	ny, nx    int
	dy, dx    float64 // mm
	image     []float32
	labels    [3][]int32 // truth, before, after; nil if there is none
	low, high float64    // intensities of black and white
	letters   [4]string  // at the left, right, upper, lower edge
	focus     *rect      // what the enlarged part shows, nil for what has labels

	fromAxes func(box) rect
}

// rect is a part of a view in mm from its upper left corner.
type rect struct{ y0, x0, y1, x1 float64 }

func (r *rect) include(s rect) {
	r.y0, r.x0 = min(r.y0, s.y0), min(r.x0, s.x0)
	r.y1, r.x1 = max(r.y1, s.y1), max(r.x1, s.x1)
}

func (r *rect) side() float64 { return max(r.y1-r.y0, r.x1-r.x0) }

// place is where pixels along the array's axes lie in the view.
func (v *view) place(b box) *rect {
	r := v.fromAxes(b)
	return &r
}

// view takes a slice out of the volumes and turns it upright.
func (h *HeldOut) view(axial, slice int) *view {
	// The array axis of rows and that of columns: those that lie nearest to the patient's front-back
	// and left-right.
	rows, columns := others(axial)
	along := func(axis, patient int) float64 { return h.Geometry.DirectionXYZ[3*patient+2-axis] }
	if math.Abs(along(columns, 0))+math.Abs(along(rows, 1)) <
		math.Abs(along(rows, 0))+math.Abs(along(columns, 1)) {
		rows, columns = columns, rows
	}
	flipY, flipX := along(rows, 1) < 0, along(columns, 0) < 0
	v := &view{ny: h.Shape[rows], nx: h.Shape[columns], dy: h.Geometry.Spacing[rows],
		dx: h.Geometry.Spacing[columns]}
	strides := [3]int{h.Shape[1] * h.Shape[2], h.Shape[2], 1}
	index := func(y, x int) int {
		if flipY {
			y = v.ny - 1 - y
		}
		if flipX {
			x = v.nx - 1 - x
		}
		return slice*strides[axial] + y*strides[rows] + x*strides[columns]
	}
	v.image = make([]float32, v.ny*v.nx)
	hu := false // no CT is without air
	for y := range v.ny {
		for x := range v.nx {
			value := h.Image[index(y, x)]
			v.image[y*v.nx+x] = value
			hu = hu || value < -200
		}
	}
	v.low, v.high = -160, 240 // level 40, width 400: soft tissue
	if !hu {
		v.low, v.high = report.Window(v.image)
	}
	for i, m := range h.maps() {
		if m.labels == nil {
			continue
		}
		v.labels[i] = make([]int32, v.ny*v.nx)
		for y := range v.ny {
			for x := range v.nx {
				if from := index(y, x); m.labels.Small != nil {
					v.labels[i][y*v.nx+x] = int32(m.labels.Small[from])
				} else {
					v.labels[i][y*v.nx+x] = m.labels.Wide[from]
				}
			}
		}
	}
	for i, axis := range []int{columns, rows} {
		v.letters[2*i], v.letters[2*i+1] = letters(along(axis, 0), along(axis, 1), along(axis, 2),
			i == 0 && flipX || i == 1 && flipY)
	}
	u, _ := others(axial)
	v.fromAxes = func(b box) rect {
		y, x := 0, 1
		if rows != u {
			y, x = 1, 0
		}
		r := rect{float64(b.from[y]), float64(b.from[x]), float64(b.to[y]), float64(b.to[x])}
		if flipY {
			r.y0, r.y1 = float64(v.ny)-r.y1, float64(v.ny)-r.y0
		}
		if flipX {
			r.x0, r.x1 = float64(v.nx)-r.x1, float64(v.nx)-r.x0
		}
		return rect{r.y0 * v.dy, r.x0 * v.dx, r.y1 * v.dy, r.x1 * v.dx}
	}
	return v
}

// letters names the patient's sides at the start and the end of an axis with this direction in LPS.
func letters(x, y, z float64, flip bool) (start, end string) {
	names := [3][2]string{{"R", "L"}, {"A", "P"}, {"F", "H"}}
	parts := [3]float64{x, y, z}
	most := 0
	for i, v := range parts {
		if math.Abs(v) > math.Abs(parts[most]) {
			most = i
		}
	}
	if parts[most] == 0 || math.IsNaN(parts[most]) {
		return "", ""
	}
	start, end = names[most][0], names[most][1]
	if (parts[most] < 0) != flip {
		start, end = end, start
	}
	return start, end
}

// pixel is the place of one pixel of the slice.
func (v *view) pixel(y, x int) rect {
	return rect{float64(y) * v.dy, float64(x) * v.dx, float64(y+1) * v.dy, float64(x+1) * v.dx}
}

// bounds is the smallest rectangle around the pixels that are in, nil if there is none.
func (v *view) bounds(in func(i int) bool) *rect {
	var r *rect
	for y := range v.ny {
		for x := range v.nx {
			switch p := v.pixel(y, x); {
			case !in(y*v.nx + x):
			case r == nil:
				r = &p
			default:
				r.include(p)
			}
		}
	}
	return r
}

// marked reports whether truth or a prediction has a label at a pixel.
func (v *view) marked(i int) bool {
	for _, l := range v.labels {
		if l != nil && l[i] != 0 {
			return true
		}
	}
	return false
}

// enlarged is the part that the zoom shows: the focus, or all that has labels, or if that is far
// apart the part of it that lies around the largest label of the truth.
func (v *view) enlarged() rect {
	r := v.focus
	if r == nil {
		r = v.bounds(v.marked)
		if r != nil && r.side() > mostZoom {
			if one := v.labelled(); one != nil {
				r = one
			}
		}
	}
	if r == nil {
		r = v.bounds(func(int) bool { return true })
	}
	cy, cx := (r.y0+r.y1)/2, (r.x0+r.x1)/2
	half := max(1.5*r.side(), leastZoom) / 2
	cy, cx = inside(cy, half, float64(v.ny)*v.dy), inside(cx, half, float64(v.nx)*v.dx)
	return rect{cy - half, cx - half, cy + half, cx + half}
}

// inside moves the middle of a part so that the part lies within the slice, if there is room.
func inside(middle, half, length float64) float64 {
	if 2*half > length {
		return length / 2
	}
	return min(max(middle, half), length-half)
}

// labelled is the place of the largest piece of the truth in the slice, or of a prediction where
// there is no truth; nil if there is neither.
func (v *view) labelled() *rect {
	for _, labels := range v.labels {
		if labels == nil {
			continue
		}
		if r := v.largest(func(i int) bool { return labels[i] != 0 }); r != nil {
			return r
		}
	}
	return nil
}

// largest is the place of the largest connected piece of the pixels that are in, nil if there is
// none.
func (v *view) largest(in func(i int) bool) *rect {
	seen := make([]bool, v.ny*v.nx)
	var best *rect
	most := 0
	var todo []int
	for i := range seen {
		if seen[i] || !in(i) {
			continue
		}
		seen[i] = true
		piece := 0
		r := v.pixel(i/v.nx, i%v.nx)
		todo = append(todo[:0], i)
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			piece++
			y, x := at/v.nx, at%v.nx
			r.include(v.pixel(y, x))
			for y2 := max(y-1, 0); y2 <= min(y+1, v.ny-1); y2++ {
				for x2 := max(x-1, 0); x2 <= min(x+1, v.nx-1); x2++ {
					if next := y2*v.nx + x2; !seen[next] && in(next) {
						seen[next] = true
						todo = append(todo, next)
					}
				}
			}
		}
		if piece > most {
			best, most = &r, piece
		}
	}
	return best
}

// body is the part of the slice that the first panel shows: the largest piece of what is no air,
// without the couch, and all that has labels.
func (v *view) body() rect {
	r := v.largest(func(i int) bool { return float64(v.image[i]) > v.low-340 })
	marked := v.bounds(v.marked)
	switch {
	case r == nil && marked == nil:
		r = v.bounds(func(int) bool { return true })
	case r == nil:
		r = marked
	case marked != nil:
		r.include(*marked)
	}
	cy, cx, half := (r.y0+r.y1)/2, (r.x0+r.x1)/2, 1.04*r.side()/2
	return rect{cy - half, cx - half, cy + half, cx + half}
}

// draw draws three panels: the slice without the air around the body, a part of it enlarged, and
// this part without contours.
func (v *view) draw() image.Image {
	page := image.NewRGBA(image.Rect(0, 0, 3*panel+2*panelGap, panel))
	draw.Draw(page, page.Bounds(), image.NewUniform(color.RGBA{R: 24, G: 24, B: 28, A: 255}),
		image.Point{}, draw.Src)
	zoom := v.enlarged()
	at := func(i int) image.Rectangle {
		return image.Rect(i*(panel+panelGap), 0, i*(panel+panelGap)+panel, panel)
	}
	whole := v.panel(page, at(0), v.body())
	part := v.panel(page, at(1), zoom)
	plain := v.panel(page, at(2), zoom)
	whole.frame(zoom)
	whole.contours(v, 2)
	part.contours(v, 3)
	write := newLettering(page)
	whole.name(write, v.letters)
	part.bar(write)
	plain.bar(write)
	return page
}

// square is a panel that shows a square part of the view.
type square struct {
	page *image.RGBA
	at   image.Rectangle
	from rect
	mm   float64 // of a pixel of the panel
}

// panel draws the grey levels, linearly interpolated; outside of the slice the panel stays as it is.
func (v *view) panel(page *image.RGBA, at image.Rectangle, from rect) *square {
	s := &square{page, at, from, from.side() / panel}
	for py := range panel {
		ymm := from.y0 + (float64(py)+0.5)*s.mm
		for px := range panel {
			xmm := from.x0 + (float64(px)+0.5)*s.mm
			if ymm < 0 || xmm < 0 || ymm >= float64(v.ny)*v.dy || xmm >= float64(v.nx)*v.dx {
				continue
			}
			level := (v.sample(ymm/v.dy-0.5, xmm/v.dx-0.5) - v.low) / (v.high - v.low)
			if !(level > 0) { // NaN too
				level = 0
			}
			g := uint8(255*min(level, 1) + 0.5)
			page.SetRGBA(at.Min.X+px, at.Min.Y+py, color.RGBA{g, g, g, 255})
		}
	}
	return s
}

// sample interpolates between the centres of pixels.
func (v *view) sample(y, x float64) float64 {
	y, x = min(max(y, 0), float64(v.ny-1)), min(max(x, 0), float64(v.nx-1))
	y0, x0 := int(y), int(x)
	y1, x1 := min(y0+1, v.ny-1), min(x0+1, v.nx-1)
	fy, fx := y-float64(y0), x-float64(x0)
	get := func(y, x int) float64 { return float64(v.image[y*v.nx+x]) }
	return (get(y0, x0)*(1-fx)+get(y0, x1)*fx)*(1-fy) + (get(y1, x0)*(1-fx)+get(y1, x1)*fx)*fy
}

// contours draws the borders between different labels along the edges of pixels, in lines so many
// pixels of the panel wide.
func (s *square) contours(v *view, width int) {
	for i, labels := range v.labels {
		if labels == nil {
			continue
		}
		along := 0.0
		for line := range borders(labels, v.ny, v.nx) {
			if line.starts {
				along = 0
			}
			y0, x0 := s.pixel(float64(line.y0)*v.dy, float64(line.x0)*v.dx)
			y1, x1 := s.pixel(float64(line.y1)*v.dy, float64(line.x1)*v.dx)
			length := math.Abs(y1-y0) + math.Abs(x1-x0) // one of them is 0
			for step := 0.0; step < length; step++ {
				if contours[i].on(int(along + step)) {
					s.dot(y0+(y1-y0)*step/length, x0+(x1-x0)*step/length, width, contours[i].ink)
				}
			}
			along += length
		}
	}
}

// pixel is where a place of the view lies in the panel.
func (s *square) pixel(y, x float64) (py, px float64) {
	return (y - s.from.y0) / s.mm, (x - s.from.x0) / s.mm
}

func (s *square) dot(y, x float64, width int, ink color.RGBA) {
	from := s.at.Min.Add(image.Pt(int(math.Floor(x))-width/2, int(math.Floor(y))-width/2))
	for dy := range width {
		for dx := range width {
			if p := from.Add(image.Pt(dx, dy)); p.In(s.at) {
				s.page.SetRGBA(p.X, p.Y, ink)
			}
		}
	}
}

// edge is a side of a pixel, between its corners (y0, x0) and (y1, x1).
type edge struct {
	y0, x0, y1, x1 int
	starts         bool // a line; else it goes on where the last edge ended
}

// borders goes along the lines between different labels of a slice. What is outside counts as 0.
func borders(labels []int32, ny, nx int) iter.Seq[edge] {
	at := func(y, x int) int32 {
		if y < 0 || x < 0 || y >= ny || x >= nx {
			return 0
		}
		return labels[y*nx+x]
	}
	// Of each corner: whether the sides to the right of it and below it are borders still to go.
	right, down := make([]bool, (ny+1)*(nx+1)), make([]bool, (ny+1)*(nx+1))
	for y := range ny + 1 {
		for x := range nx + 1 {
			right[y*(nx+1)+x] = at(y, x) != at(y-1, x)
			down[y*(nx+1)+x] = at(y, x) != at(y, x-1)
		}
	}
	take := func(side []bool, y, x int) bool {
		if y < 0 || x < 0 || y > ny || x > nx || !side[y*(nx+1)+x] {
			return false
		}
		side[y*(nx+1)+x] = false
		return true
	}
	return func(yield func(edge) bool) {
		for corner := range right {
			y, x := corner/(nx+1), corner%(nx+1)
			starts := true
			for {
				e := edge{y, x, y, x, starts}
				switch {
				case take(right, y, x):
					e.x1++
				case take(down, y, x):
					e.y1++
				case take(right, y, x-1):
					e.x1--
				case take(down, y-1, x):
					e.y1--
				}
				if e.y0 != e.y1 || e.x0 != e.x1 {
					if !yield(e) {
						return
					}
					y, x, starts = e.y1, e.x1, false
					continue
				}
				// No border goes on from here, but another may start at the same corner.
				if starts {
					break
				}
				y, x, starts = corner/(nx+1), corner%(nx+1), true
			}
		}
	}
}

// frame shows where a part lies.
func (s *square) frame(r rect) {
	white := color.RGBA{R: 235, G: 235, B: 235, A: 255}
	x0, x1 := int((r.x0-s.from.x0)/s.mm), int((r.x1-s.from.x0)/s.mm)
	y0, y1 := int((r.y0-s.from.y0)/s.mm), int((r.y1-s.from.y0)/s.mm)
	put := func(x, y int) {
		if p := s.at.Min.Add(image.Pt(x, y)); p.In(s.at) {
			s.page.SetRGBA(p.X, p.Y, white)
		}
	}
	for x := x0; x <= x1; x++ {
		put(x, y0)
		put(x, y1)
	}
	for y := y0; y <= y1; y++ {
		put(x0, y)
		put(x1, y)
	}
}

// bar draws how long 10 mm are.
func (s *square) bar(write *lettering) {
	length := int(10/s.mm + 0.5)
	left, y := s.at.Min.X+12, s.at.Max.Y-14
	draw.Draw(s.page, image.Rect(left-1, y-1, left+length+1, y+4), image.Black, image.Point{}, draw.Src)
	draw.Draw(s.page, image.Rect(left, y, left+length, y+3), image.White, image.Point{}, draw.Src)
	write.text(left, y-6, "10 mm")
}

// name writes the letters of the patient's sides at the edges.
func (s *square) name(write *lettering, letters [4]string) {
	write.text(s.at.Min.X+6, s.at.Min.Y+panel/2+5, letters[0])
	write.text(s.at.Max.X-18, s.at.Min.Y+panel/2+5, letters[1])
	write.text(s.at.Min.X+panel/2-5, s.at.Min.Y+18, letters[2])
	write.text(s.at.Min.X+panel/2-5, s.at.Max.Y-7, letters[3])
}

// lettering writes white on black.
type lettering struct {
	page *image.RGBA
	face font.Face
}

func newLettering(page *image.RGBA) *lettering {
	bold, err := opentype.Parse(liberationsansbold.TTF)
	if err != nil {
		panic(err) // the font is part of the program
	}
	face, err := opentype.NewFace(bold, &opentype.FaceOptions{Size: 15, DPI: 72,
		Hinting: font.HintingFull})
	if err != nil {
		panic(err)
	}
	return &lettering{page, face}
}

func (l *lettering) text(x, y int, text string) {
	for _, ink := range []struct {
		dx, dy int
		color  color.Color
	}{{-1, 0, color.Black}, {1, 0, color.Black}, {0, -1, color.Black}, {0, 1, color.Black},
		{0, 0, color.White}} {
		d := font.Drawer{Dst: l.page, Src: image.NewUniform(ink.color), Face: l.face,
			Dot: fixed.P(x+ink.dx, y+ink.dy)}
		d.DrawString(text)
	}
}
