package figures

import (
	"cmp"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

var (
	paper = color.Gray{Y: 255}
	ink   = color.Gray{Y: 26}
	dim   = color.Gray{Y: 96}
	grid  = color.Gray{Y: 225}
)

// palette has nine colours that differ for people with any of the three kinds of colour-blindness:
// seven of Okabe and Ito's, without yellow, which paper swallows, then wine and brown.
var palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 255}, // blue
	{0xd5, 0x5e, 0x00, 255}, // vermilion
	{0x00, 0x9e, 0x73, 255}, // green
	{0x88, 0x22, 0x55, 255}, // wine
	{0xe6, 0x9f, 0x00, 255}, // orange
	{0x00, 0x00, 0x00, 255},
	{0xcc, 0x79, 0xa7, 255}, // purple
	{0x56, 0xb4, 0xe9, 255}, // sky
	{0x8b, 0x6f, 0x47, 255}, // brown
}

// mark is the shape of a point: a polygon, a star of strokes, or with no corners a circle.
type mark struct {
	corners int
	turn    float64 // radians
	strokes bool
	open    bool
	size    float64 // of the radius, so that marks look equally large
}

// marks has a shape for each colour; with the next nine methods shapes move on by four.
var marks = []mark{
	{size: 1},
	{corners: 4, turn: math.Pi / 4, size: 1.2},
	{corners: 3, turn: math.Pi / 2, size: 1.35},
	{corners: 4, size: 1.3},
	{open: true, size: 1},
	{corners: 4, turn: math.Pi / 4, strokes: true, size: 1.25},
	{corners: 3, turn: -math.Pi / 2, size: 1.35},
	{corners: 4, turn: math.Pi / 4, open: true, size: 1.15},
	{corners: 3, turn: math.Pi / 2, open: true, size: 1.3},
}

// dashes has a pattern for each method, in points.
var dashes = [][]vg.Length{nil, {5, 2}, {1.5, 1.5}, {7, 2, 1.5, 2}, {3, 1.5}}

// style is how a method is drawn.
type style struct {
	color color.Color
	mark  mark
	dash  []vg.Length
}

// styleOf is the style of the i-th method.
func styleOf(i int) style {
	n := len(palette)
	return style{palette[i%n], marks[(i+4*(i/n))%n], dashes[i%len(dashes)]}
}

// untrained is how a model that is not trained is drawn: a line across, or strokes in grey.
func untrained(i int) style {
	return style{color: dim, mark: mark{corners: 2 + 2*(i%3), strokes: true, size: 1.5}, dash: [][]vg.Length{{4, 2}, {1, 1.5}, {8, 3}}[i%3]}
}

func (s style) line(w vg.Length) draw.LineStyle {
	return draw.LineStyle{Color: s.color, Width: w, Dashes: s.dash}
}

func (s style) solid(w vg.Length) draw.LineStyle { return draw.LineStyle{Color: s.color, Width: w} }

// point draws the mark at p, with a rim of paper that parts it from what lies below.
func (s style) point(c *draw.Canvas, p vg.Point, radius vg.Length) {
	r := radius * vg.Length(s.mark.size)
	if s.mark.strokes {
		for _, pen := range []draw.LineStyle{{Color: paper, Width: vg.Points(2.8)}, s.solid(vg.Points(1.5))} {
			for i := range s.mark.corners / 2 {
				a := s.mark.turn + float64(i)*2*math.Pi/float64(s.mark.corners)
				d := vg.Point{X: r * vg.Length(math.Cos(a)), Y: r * vg.Length(math.Sin(a))}
				c.StrokeLine2(pen, p.X-d.X, p.Y-d.Y, p.X+d.X, p.Y+d.Y)
			}
		}
		return
	}
	rim, inner := s.mark.path(p, r+vg.Points(0.6)), s.mark.path(p, r)
	c.SetColor(paper)
	c.Fill(rim)
	if !s.mark.open {
		c.SetColor(s.color)
		c.Fill(inner)
		return
	}
	c.SetLineStyle(s.solid(vg.Points(1.2)))
	c.Stroke(s.mark.path(p, r-vg.Points(0.5)))
}

func (m mark) path(p vg.Point, r vg.Length) vg.Path {
	var path vg.Path
	if m.corners == 0 {
		path.Move(vg.Point{X: p.X + r, Y: p.Y})
		path.Arc(p, r, 0, 2*math.Pi)
		path.Close()
		return path
	}
	for i := range m.corners {
		a := m.turn + float64(i)*2*math.Pi/float64(m.corners)
		at := vg.Point{X: p.X + r*vg.Length(math.Cos(a)), Y: p.Y + r*vg.Length(math.Sin(a))}
		if i == 0 {
			path.Move(at)
		} else {
			path.Line(at)
		}
	}
	path.Close()
	return path
}

// Sizes of texts in points: what journals ask for.
const (
	small = 7
	body  = 8
	large = 9
)

// words is a style of text.
func words(size float64, c color.Color, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{Color: c, XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler,
		Font: font.Font{Typeface: plot.DefaultFont.Typeface, Variant: "Sans", Size: vg.Points(size)}}
}

// Alignments.
const (
	left   = 0
	centre = -0.5
	right  = -1
	bottom = 0
	top    = -1
)

// put writes a text at a place.
func put(c *draw.Canvas, s text.Style, x, y vg.Length, what string) {
	if s.YAlign == centre { // of capitals and digits, not of the whole line
		y += s.Font.Size * 0.11
	}
	c.FillText(s, vg.Point{X: x, Y: y}, what)
}

// numeral is a number with a true minus sign.
func numeral(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(s, "-0.") == "" {
		s = strings.TrimPrefix(s, "-")
	}
	return strings.Replace(s, "-", "−", 1)
}

// panel is a rectangle with scales.
type panel struct {
	area           *draw.Canvas
	box            vg.Rectangle
	x0, x1, y0, y1 float64
	logX           bool
}

func (p *panel) x(v float64) vg.Length {
	lo, hi := p.x0, p.x1
	if p.logX {
		v, lo, hi = math.Log(v), math.Log(lo), math.Log(hi)
	}
	return p.box.Min.X + (p.box.Max.X-p.box.Min.X)*vg.Length((v-lo)/(hi-lo))
}

func (p *panel) y(v float64) vg.Length {
	return p.box.Min.Y + (p.box.Max.Y-p.box.Min.Y)*vg.Length((v-p.y0)/(p.y1-p.y0))
}

// tick is a place on an axis.
type tick struct {
	at   float64
	text string
}

// ticks are round numbers from low to high, about n.
func ticks(low, high float64, n int) []tick {
	step := (high - low) / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*power >= step*(1-1e-9) {
			step = m * power
			break
		}
	}
	if !(step > 0) || math.IsInf(step, 0) {
		return nil
	}
	digits := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	var list []tick
	for k := math.Ceil(low/step - 1e-9); k*step <= high+1e-9*step && len(list) < 50; k++ {
		list = append(list, tick{k * step, axisNumber(k*step, digits)})
	}
	return list
}

func axisNumber(v float64, digits int) string {
	if a := math.Abs(v); a >= 1e6 || digits > 5 {
		return strings.Replace(strconv.FormatFloat(v, 'g', 4, 64), "-", "−", 1)
	}
	return numeral(v, digits)
}

// logTicks are 1, 2 and 5 times powers of ten, more of them where the ends are near, the powers alone
// where they are far.
func logTicks(low, high float64) []tick {
	steps := []float64{1, 2, 5}
	switch ratio := high / low; {
	case ratio > 200:
		steps = []float64{1}
	case ratio < 6:
		steps = []float64{1, 1.5, 2, 3, 4, 5, 7}
	}
	var list []tick
	for k := math.Floor(math.Log10(low)); k <= math.Log10(high) && len(list) < 50; k++ {
		for _, m := range steps {
			if v := m * math.Pow(10, k); v >= low*(1-1e-9) && v <= high*(1+1e-9) {
				list = append(list, tick{v, strconv.FormatFloat(v, 'g', 6, 64)})
			}
		}
	}
	return list
}

// frame draws grid, axes and their texts. xs may be nil: what stands below is drawn elsewhere.
func (p *panel) frame(xs, ys []tick, xTitle, yTitle string) {
	c := p.area
	hair := draw.LineStyle{Color: grid, Width: vg.Points(0.5)}
	edge := draw.LineStyle{Color: dim, Width: vg.Points(0.6)}
	label := words(small, ink, right, centre)
	var widest vg.Length
	for _, t := range ys {
		y := p.y(t.at)
		c.StrokeLine2(hair, p.box.Min.X, y, p.box.Max.X, y)
		put(c, label, p.box.Min.X-vg.Points(3.5), y, t.text)
		widest = max(widest, label.Width(t.text))
	}
	below := words(small, ink, centre, top)
	for _, t := range xs {
		x := p.x(t.at)
		c.StrokeLine2(edge, x, p.box.Min.Y, x, p.box.Min.Y-vg.Points(2))
		put(c, below, x, p.box.Min.Y-vg.Points(4), t.text)
	}
	c.StrokeLine2(edge, p.box.Min.X, p.box.Min.Y, p.box.Max.X, p.box.Min.Y)
	c.StrokeLine2(edge, p.box.Min.X, p.box.Min.Y, p.box.Min.X, p.box.Max.Y)
	if xTitle != "" {
		put(c, words(body, ink, centre, top), (p.box.Min.X+p.box.Max.X)/2, p.box.Min.Y-vg.Points(15), xTitle)
	}
	if yTitle != "" {
		s := words(body, ink, centre, bottom)
		s.Rotation = math.Pi / 2
		put(c, s, p.box.Min.X-widest-vg.Points(9), (p.box.Min.Y+p.box.Max.Y)/2, yTitle)
	}
}

// title is written above a panel.
func (p *panel) title(what string) {
	put(p.area, words(large, ink, left, bottom), p.box.Min.X, p.box.Max.Y+vg.Points(5),
		fitted(what, words(large, ink, left, bottom), p.box.Max.X-p.box.Min.X))
}

// fitted shortens a text until it is as wide as asked.
func fitted(what string, s text.Style, room vg.Length) string {
	for n := len([]rune(what)); n > 4 && s.Width(what) > room; n-- {
		what = shortened(what, n)
	}
	return what
}

// bar draws an interval from low to high at x, with the axis' ends as its limits: an arrow says that it
// goes on.
func (p *panel) bar(s style, x vg.Length, low, high float64) {
	pen := s.solid(vg.Points(0.9))
	y0, y1 := p.y(max(low, p.y0)), p.y(min(high, p.y1))
	p.area.StrokeLine2(pen, x, y0, x, y1)
	d := vg.Points(1.8)
	if low < p.y0 {
		p.area.StrokeLines(pen, []vg.Point{{X: x - d, Y: y0 + d}, {X: x, Y: y0}, {X: x + d, Y: y0 + d}})
	}
	if high > p.y1 {
		p.area.StrokeLines(pen, []vg.Point{{X: x - d, Y: y1 - d}, {X: x, Y: y1}, {X: x + d, Y: y1 - d}})
	}
}

// span is an interval on an axis.
type span struct{ mean, low, high float64 }

// limits are the ends of an axis that holds all means, and their intervals but for those that are many
// times as wide as most.
func limits(list []span) (low, high float64) {
	var halves []float64
	low, high = math.Inf(1), math.Inf(-1)
	for _, s := range list {
		low, high = min(low, s.mean), max(high, s.mean)
		if s.high > s.low {
			halves = append(halves, (s.high-s.low)/2)
		}
	}
	if low > high {
		return 0, 1
	}
	most := math.Inf(1)
	if len(halves) > 0 {
		most = max(4*middle(halves), (high-low)/2)
	}
	for _, s := range list {
		if s.high > s.low {
			low, high = min(low, max(s.low, s.mean-most)), max(high, min(s.high, s.mean+most))
		}
	}
	pad := (high - low) * 0.05
	if pad == 0 {
		pad = max(math.Abs(low)*0.05, 0.01)
	}
	return low - pad, high + pad
}

// entry is a line of a legend.
type entry struct {
	name  string
	style style
	// plain is a line without a mark
	plain bool
	line  bool // is drawn through the mark
}

// key is the width of what stands before the name.
func (e entry) key() vg.Length {
	if e.line || e.plain {
		return vg.Points(22)
	}
	return vg.Points(8)
}

// legend is rows of entries below a figure.
type legend struct{ rows [][]entry }

const (
	legendRow = 12 // points
	legendGap = 12
)

// newLegend breaks entries into rows of the figure's width.
func newLegend(list []entry) legend {
	var l legend
	room := width - 2*margin
	var used vg.Length
	s := words(body, ink, left, centre)
	for _, e := range list {
		w := e.key() + vg.Points(4+legendGap) + s.Width(e.name)
		if len(l.rows) == 0 || used+w > room {
			l.rows = append(l.rows, nil)
			used = 0
		}
		l.rows[len(l.rows)-1] = append(l.rows[len(l.rows)-1], e)
		used += w
	}
	return l
}

func (l legend) height() vg.Length {
	if len(l.rows) == 0 {
		return 0
	}
	return vg.Points(float64(len(l.rows))*legendRow + 4)
}

// draw writes the legend at the lower end of the canvas.
func (l legend) draw(c *draw.Canvas) {
	s := words(body, ink, left, centre)
	for i, row := range l.rows {
		x := c.Min.X + margin
		y := c.Min.Y + margin/2 + vg.Points((float64(len(l.rows)-i)-0.5)*legendRow)
		for _, e := range row {
			if e.plain || e.line {
				c.StrokeLine2(e.style.line(vg.Points(1.1)), x, y, x+e.key(), y)
			}
			if !e.plain {
				e.style.point(c, vg.Point{X: x + e.key()/2, Y: y}, radius)
			}
			put(c, s, x+e.key()+vg.Points(4), y, e.name)
			x += e.key() + vg.Points(4+legendGap) + s.Width(e.name)
		}
	}
}

// spread moves places apart that are closer than gap, as little as it can, within low and high, and
// keeps their order.
func spread(at []vg.Length, gap, low, high vg.Length) {
	order := make([]int, len(at))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	// neighbours that would touch are a cluster, placed around the mean of its members
	type cluster struct {
		sum vg.Length
		n   int
	}
	var list []cluster
	width := func(c cluster) vg.Length { return gap * vg.Length(c.n-1) / 2 }
	for _, i := range order {
		list = append(list, cluster{at[i], 1})
		for k := len(list) - 1; k > 0; k-- {
			a, b := list[k-1], list[k]
			if b.sum/vg.Length(b.n)-width(b)-a.sum/vg.Length(a.n)-width(a) >= gap {
				break
			}
			list = append(list[:k-1], cluster{a.sum + b.sum, a.n + b.n})
		}
	}
	k := 0
	for _, c := range list {
		middle := max(low+width(c), min(high-width(c), c.sum/vg.Length(c.n)))
		for i := range c.n {
			at[order[k]] = middle - width(c) + vg.Length(i)*gap
			k++
		}
	}
}

const (
	margin = 4 * vg.Millimeter
	radius = vg.Length(2.4)
)

// tiles places panels in rows below each other, above a legend: the rectangle of data of each, with room
// for axes and titles, and the height of the whole.
type tiles struct {
	columns     int
	n           int
	panelHeight vg.Length // of the data
	leftRoom    vg.Length // for the numbers and title of the y axis
	titled      bool
	legend      legend
}

// above is the room for a panel's title, axisRoom that for its x axis, in points.
func (t tiles) above() vg.Length {
	if t.titled {
		return vg.Points(18)
	}
	return vg.Points(4)
}

const axisRoom = 30

func (t tiles) rowHeight() vg.Length { return t.panelHeight + t.above() + vg.Points(axisRoom) }

func (t tiles) height() vg.Length {
	rows := (t.n + t.columns - 1) / t.columns
	return vg.Length(rows)*t.rowHeight() + t.legend.height() + margin
}

// box is the rectangle of the i-th panel's data.
func (t tiles) box(c *draw.Canvas, i int) vg.Rectangle {
	row, column := i/t.columns, i%t.columns
	w := (c.Max.X - c.Min.X - margin) / vg.Length(t.columns)
	x := c.Min.X + vg.Length(column)*w
	y := c.Max.Y - margin/2 - vg.Length(row)*t.rowHeight() - t.above()
	return vg.Rectangle{Min: vg.Point{X: x + t.leftRoom, Y: y - t.panelHeight},
		Max: vg.Point{X: x + w - margin, Y: y}}
}
