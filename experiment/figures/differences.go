package figures

import (
	"fmt"
	"math"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/lntorch/lntorch/experiment/table"
)

// differences draws, for each number of shots, the paired difference of each method from the best, or
// from the reference: a figure for each dataset, network and label.
func (s *sheet) differences() []*Figure {
	var list []*Figure
	for _, g := range s.groups {
		if f := s.differencesOf(g); f != nil {
			list = append(list, f)
		}
	}
	return list
}

// forestRow is a line of the picture: a heading, or a comparison.
type forestRow struct {
	heading string
	row     *table.Row
	span    span
	note    string
	p       float64
}

func (s *sheet) differencesOf(g *table.Group) *Figure {
	var rows []forestRow
	var spans []span
	var alt strings.Builder
	digits := s.t.Digits(g.Metric)
	patients := [2]int{math.MaxInt, 0}
	total, shown := 0, 0
	for first := 0; first < len(g.Rows); {
		last := first + 1
		for last < len(g.Rows) && g.Rows[last].Shots == g.Rows[first].Shots {
			last++
		}
		of := g.Rows[first:last]
		first = last
		to := ""
		var block []forestRow
		for _, r := range of {
			if r.Against == nil || math.IsNaN(r.Against.Difference) {
				continue
			}
			p := r.Against
			to = r.To.Method
			one := span{r.Sign * p.Difference, math.NaN(), math.NaN()}
			note := numeral(one.mean, digits)
			if known(p.CI, p.DF) {
				one.low, one.high = r.Sign*p.CI[0], r.Sign*p.CI[1]
				if r.Sign < 0 {
					one.low, one.high = one.high, one.low
				}
				note += fmt.Sprintf(" (%s to %s)", numeral(one.low, digits), numeral(one.high, digits))
			}
			total++
			block = append(block, forestRow{row: r, span: one, note: note, p: p.PHolm})
		}
		if len(block) == 0 || shown+len(block) > mostRows {
			continue
		}
		shown += len(block)
		heading := fmt.Sprintf("%s, minus %s", shotsText(of[0].Shots), shortened(to, 40))
		if f := block[0].row.Against.Factor; f != nil && *f == "seed" {
			heading += " (one draw: for new seeds)"
		}
		rows = append(rows, forestRow{heading: heading})
		for _, b := range block {
			spans = append(spans, b.span)
			patients[0], patients[1] = min(patients[0], b.row.Against.N), max(patients[1], b.row.Against.N)
			if alt.Len() < 1500 {
				fmt.Fprintf(&alt, " %s, %s minus %s: %s, p %s.", shotsText(of[0].Shots), b.row.Method, to, b.note,
					table.PValue(b.p))
			}
		}
		rows = append(rows, block...)
	}
	if len(rows) == 0 {
		return nil
	}
	low, high := limits(append(spans, span{}))
	subject := s.subject(g.Dataset, g.Network, g.Label)
	against := "the best method"
	if s.t.HasReference("method") {
		against = s.t.Reference
	}
	f := &Figure{Name: fileName("differences", subject), Title: titled(fmt.Sprintf("%s: paired differences from %s",
		s.t.Primary, against), subject)}
	n := fmt.Sprintf("%d", patients[0])
	if patients[0] != patients[1] {
		n = fmt.Sprintf("%d to %d", patients[0], patients[1])
	}
	f.Caption = fmt.Sprintf("Differences in %s from %s at the same number of training cases, paired by patient, "+
		"draw and seed. Bars: %s\u00a0%% intervals for new patients and newly drawn training cases (crossed random "+
		"effects). p: the same analysis after Holm over the pairs at these shots; filled marks: p < %g. "+
		"n = %s patients.", s.t.Primary, against, s.t.Percent(), s.t.Alpha, n)
	f.Caption += g.OneRun()
	if !s.t.HasReference("method") {
		f.Caption += " The best is chosen by these very scores, which flatters it; Holm over all pairs allows " +
			"for that in p, not in the intervals."
	}
	f.Caption += seedsAlone(g.Rows)
	if shown < total {
		f.Caption += fmt.Sprintf(" %d of %d comparisons are drawn.", shown, total)
	}
	f.Alt = f.Title + "." + alt.String()
	const rowHeight, axis, head = 11.5, 44.0, 10.0 // points
	f.height = vg.Points(rowHeight*float64(len(rows))+axis+head) + margin
	nameStyle, noteStyle := words(body, ink, left, centre), words(small, ink, left, centre)
	var nameRoom, noteRoom vg.Length
	for _, r := range rows {
		if r.row != nil {
			nameRoom = max(nameRoom, nameStyle.Width(shortened(r.row.Method, 26)))
			noteRoom = max(noteRoom, noteStyle.Width(r.note))
		}
	}
	nameRoom += vg.Points(22)
	noteHead := "difference (" + s.t.Percent() + "\u00a0% interval)"
	noteRoom = max(noteRoom, noteStyle.Width(noteHead))
	pRoom := noteStyle.Width("p (Holm)") + vg.Points(12)
	styles := s.styles()
	f.draw = func(c draw.Canvas) {
		p := &panel{area: &c, x0: low, x1: high, y0: 0, y1: 1}
		p.box = vg.Rectangle{Min: vg.Point{X: margin + nameRoom, Y: c.Min.Y + vg.Points(axis)},
			Max: vg.Point{X: c.Max.X - margin - noteRoom - pRoom - vg.Points(10), Y: c.Max.Y - margin/2 - vg.Points(head)}}
		noteX, pX := p.box.Max.X+vg.Points(10), c.Max.X-margin
		xs := ticks(low, high, 6)
		for _, t := range xs {
			c.StrokeLine2(draw.LineStyle{Color: grid, Width: vg.Points(0.5)}, p.x(t.at), p.box.Min.Y, p.x(t.at), p.box.Max.Y)
		}
		c.StrokeLine2(draw.LineStyle{Color: ink, Width: vg.Points(0.8)}, p.x(0), p.box.Min.Y, p.x(0), p.box.Max.Y)
		y := p.box.Max.Y - vg.Points(rowHeight/2)
		headStyle := words(small, dim, left, bottom)
		put(&c, headStyle, noteX, p.box.Max.Y+vg.Points(2), noteHead)
		headStyle.XAlign = right
		put(&c, headStyle, pX, p.box.Max.Y+vg.Points(2), "p (Holm)")
		for _, r := range rows {
			if r.row == nil {
				s := words(body, dim, left, centre)
				c.SetColor(paper)
				c.Fill(vg.Rectangle{Min: vg.Point{X: margin, Y: y - vg.Points(5)},
					Max: vg.Point{X: margin + s.Width(r.heading) + vg.Points(3), Y: y + vg.Points(5)}}.Path())
				put(&c, s, margin, y, r.heading)
				y -= vg.Points(rowHeight)
				continue
			}
			of := styles[r.row.Method]
			put(&c, nameStyle, margin+vg.Points(10), y, shortened(r.row.Method, 26))
			p.across(of, y, r.span.low, r.span.high)
			at := vg.Point{X: p.x(r.span.mean), Y: y}
			dot := style{color: of.color, mark: mark{corners: 4, turn: math.Pi / 4, size: 1.2, open: !(r.p < s.t.Alpha)}}
			if dot.mark.open { // the bar does not show through
				c.SetColor(paper)
				c.Fill(dot.mark.path(at, radius*1.2))
			}
			dot.point(&c, at, radius)
			put(&c, noteStyle, noteX, y, r.note)
			pStyle := words(small, ink, right, centre)
			put(&c, pStyle, pX, y, table.PValue(r.p))
			y -= vg.Points(rowHeight)
		}
		edge := draw.LineStyle{Color: dim, Width: vg.Points(0.6)}
		c.StrokeLine2(edge, p.box.Min.X, p.box.Min.Y, p.box.Max.X, p.box.Min.Y)
		for _, t := range xs {
			put(&c, words(small, ink, centre, top), p.x(t.at), p.box.Min.Y-vg.Points(3), t.text)
		}
		worse, better := "← worse", "better →"
		if s.lowerIsBetter() {
			worse, better = "← better", "worse →"
		}
		below := p.box.Min.Y - vg.Points(14)
		put(&c, words(small, dim, left, top), p.box.Min.X, below, worse)
		put(&c, words(small, dim, right, top), p.box.Max.X, below, better)
		put(&c, words(body, ink, centre, top), (p.box.Min.X+p.box.Max.X)/2, below-vg.Points(9), "difference in "+s.t.Primary)
	}
	return f
}

// across draws an interval from low to high at y; an arrow says that it goes beyond the axis.
func (p *panel) across(s style, y vg.Length, low, high float64) {
	if math.IsNaN(low) {
		return
	}
	pen := s.solid(vg.Points(1.1))
	x0, x1 := p.x(max(low, p.x0)), p.x(min(high, p.x1))
	p.area.StrokeLine2(pen, x0, y, x1, y)
	d := vg.Points(2)
	if low < p.x0 {
		p.area.StrokeLines(pen, []vg.Point{{X: x0 + d, Y: y - d}, {X: x0, Y: y}, {X: x0 + d, Y: y + d}})
	}
	if high > p.x1 {
		p.area.StrokeLines(pen, []vg.Point{{X: x1 - d, Y: y - d}, {X: x1, Y: y}, {X: x1 - d, Y: y + d}})
	}
}
