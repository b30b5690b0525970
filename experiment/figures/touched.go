package figures

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// mostLines is how many layers are drawn; more are put together by the start of their names.
const mostLines = 40

// touched draws the share of each layer's entries that DGST updated at least once: a figure for each
// dataset and network, at the largest number of shots.
func (s *sheet) touched() []*Figure {
	type subject struct{ dataset, network string }
	shots := map[subject]string{}
	var list []subject
	for i := range s.runs {
		r := &s.runs[i]
		if len(r.Touched) == 0 {
			continue
		}
		of := subject{r.Dataset, r.Network}
		if n, ok := shots[of]; !ok {
			list = append(list, of)
			shots[of] = r.Shots
		} else if CompareShots(r.Shots, n) > 0 {
			shots[of] = r.Shots
		}
	}
	var figures []*Figure
	for _, of := range list {
		figures = append(figures, s.touchedOf(of.dataset, of.network, shots[of]))
	}
	return figures
}

// block is a layer, or several whose names begin alike.
type block struct {
	name             string
	touched, entries map[string]int64 // by method, over its runs
}

// blocks puts layers together so that at most mostLines are left.
func blocks(all []string) (nameOf map[string]string, order []string) {
	for depth := 64; ; depth-- {
		nameOf, order = map[string]string{}, nil
		for _, name := range all {
			parts := strings.Split(name, ".")
			short := strings.Join(parts[:min(depth, len(parts))], ".")
			nameOf[name] = short
			if !slices.Contains(order, short) {
				order = append(order, short)
			}
			if len(order) > 4*mostLines {
				break
			}
		}
		if len(order) <= mostLines || depth == 1 {
			return nameOf, order[:min(len(order), mostLines)]
		}
	}
}

func (s *sheet) touchedOf(dataset, network, shots string) *Figure {
	var all []string
	seen := map[string]bool{}
	for i := range s.runs {
		if r := &s.runs[i]; r.Dataset == dataset && r.Network == network && r.Shots == shots {
			for _, l := range r.Touched {
				if !seen[l.Name] {
					seen[l.Name] = true
					all = append(all, l.Name)
				}
			}
		}
	}
	nameOf, order := blocks(all)
	of := map[string]*block{}
	for _, name := range order {
		of[name] = &block{name, map[string]int64{}, map[string]int64{}}
	}
	var methods []string
	var runs trainings
	for i := range s.runs {
		r := &s.runs[i]
		if r.Dataset != dataset || r.Network != network || r.Shots != shots || len(r.Touched) == 0 {
			continue
		}
		runs.add(r)
		for _, l := range r.Touched {
			if b := of[nameOf[l.Name]]; b != nil {
				b.touched[r.Method] += l.Touched
				b.entries[r.Method] += l.Entries
			}
		}
		if !slices.Contains(methods, r.Method) {
			methods = append(methods, r.Method)
		}
	}
	slices.SortFunc(methods, func(a, b string) int { return slices.Index(s.methods, a) - slices.Index(s.methods, b) })
	methods, cut := mostOf(methods)
	const row, axis, head = 10.5, 32.0, 6.0
	l := newLegend(s.legendOf(methods, false))
	subject := s.subject(dataset, network, "")
	f := &Figure{Name: fileName("touched", subject), Title: titled("Entries that DGST updated", subject),
		height: vg.Points(row*float64(len(order))+axis+head) + l.height() + margin}
	f.Caption = fmt.Sprintf("Share of each layer's entries that were updated at least once, in the network's order, "+
		"%s; means of %s.", shotsText(shots), runsText(runs.n))
	if len(order) < len(all) {
		f.Caption += fmt.Sprintf(" %d layers are put together by the start of their names.", len(all))
	}
	f.Caption += cut
	var alt strings.Builder
	for _, name := range order {
		for _, m := range methods {
			if n := of[name].entries[m]; n > 0 && alt.Len() < 1500 {
				fmt.Fprintf(&alt, " %s, %s: %.1f %%.", name, m, 100*float64(of[name].touched[m])/float64(n))
			}
		}
	}
	f.Alt = f.Title + "." + alt.String()
	styles := s.styles()
	largest := 0.0
	for _, name := range order {
		for _, m := range methods {
			if n := of[name].entries[m]; n > 0 {
				largest = max(largest, float64(of[name].touched[m])/float64(n))
			}
		}
	}
	largest = min(1, max(math.Ceil(largest*20)/20, 0.05))
	name := words(small, ink, right, centre)
	var room vg.Length
	for _, n := range order {
		room = max(room, name.Width(shortened(n, 48)))
	}
	f.draw = func(c draw.Canvas) {
		p := &panel{area: &c, x0: -largest * 0.02, x1: largest * 1.02, y0: 0, y1: 1}
		p.box = vg.Rectangle{Min: vg.Point{X: margin + room + vg.Points(6), Y: c.Min.Y + margin/2 + l.height() + vg.Points(axis)},
			Max: vg.Point{X: c.Max.X - margin, Y: c.Max.Y - margin/2 - vg.Points(head)}}
		var xs []tick
		for _, t := range ticks(0, 100*largest, 5) {
			xs = append(xs, tick{t.at / 100, t.text + " %"})
			c.StrokeLine2(draw.LineStyle{Color: grid, Width: vg.Points(0.5)}, p.x(t.at/100), p.box.Min.Y, p.x(t.at/100), p.box.Max.Y)
		}
		y := p.box.Max.Y - vg.Points(row/2)
		for _, n := range order {
			put(&c, name, p.box.Min.X-vg.Points(4), y, shortened(n, 48))
			c.StrokeLine2(draw.LineStyle{Color: grid, Width: vg.Points(0.5)}, p.box.Min.X, y, p.box.Max.X, y)
			for _, m := range methods {
				if all := of[n].entries[m]; all > 0 {
					styles[m].point(&c, vg.Point{X: p.x(float64(of[n].touched[m]) / float64(all)), Y: y}, radius)
				}
			}
			y -= vg.Points(row)
		}
		p.frame(xs, nil, "entries updated at least once", "")
		l.draw(&c)
	}
	return f
}
