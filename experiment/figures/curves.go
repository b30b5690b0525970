package figures

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// mostEpochs is how many points of a curve are drawn; of longer ones, means of as many parts.
const mostEpochs = 300

// curves draws the training loss and the pseudo-Dice over the epochs: a figure for each dataset and
// network, a column of panels for each number of shots.
func (s *sheet) curves() []*Figure {
	type subject struct{ dataset, network string }
	var list []subject
	for i := range s.runs {
		r := &s.runs[i]
		if len(r.Curves.Loss)+len(r.Curves.PseudoDice) == 0 {
			continue
		}
		if one := (subject{r.Dataset, r.Network}); !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	var figures []*Figure
	for _, of := range list {
		if f := s.curvesOf(of.dataset, of.network); f != nil {
			figures = append(figures, f)
		}
	}
	return figures
}

// mean is the mean curve of runs: over those that have a value, in each epoch.
type meanCurve struct {
	sum []float64
	n   []int
}

func (m *meanCurve) add(list []*float64) {
	for i := range list {
		if i == len(m.sum) {
			m.sum, m.n = append(m.sum, 0), append(m.n, 0)
		}
		if v := value(list, i); finite(v) {
			m.sum[i] += v
			m.n[i]++
		}
	}
}

// points are the mean at epochs from 1 on, of parts of a long curve.
func (m *meanCurve) points() (epochs, values []float64) {
	part := (len(m.sum) + mostEpochs - 1) / mostEpochs
	for first := 0; first < len(m.sum); first += max(part, 1) {
		sum, at, n := 0.0, 0.0, 0
		for i := first; i < min(first+part, len(m.sum)); i++ {
			if m.n[i] > 0 {
				sum += m.sum[i] / float64(m.n[i])
				at += float64(i + 1)
				n++
			}
		}
		if n > 0 {
			epochs, values = append(epochs, at/float64(n)), append(values, sum/float64(n))
		}
	}
	return epochs, values
}

func (s *sheet) curvesOf(dataset, network string) *Figure {
	type key struct {
		shots, method string
		dice          bool
	}
	of := map[key]*meanCurve{}
	var shots, methods []string
	var runs trainings
	for i := range s.runs {
		r := &s.runs[i]
		if r.Dataset != dataset || r.Network != network || r.Shots == noShots ||
			len(r.Curves.Loss)+len(r.Curves.PseudoDice) == 0 {
			continue
		}
		if !slices.Contains(shots, r.Shots) {
			shots = append(shots, r.Shots)
		}
		runs.add(r)
		for _, c := range []struct {
			dice bool
			list []*float64
		}{{false, r.Curves.Loss}, {true, r.Curves.PseudoDice}} {
			k := key{r.Shots, r.Method, c.dice}
			if of[k] == nil {
				of[k] = &meanCurve{}
			}
			of[k].add(c.list)
		}
	}
	if len(shots) == 0 {
		return nil
	}
	slices.SortStableFunc(shots, CompareShots)
	left := ""
	if n := len(shots); n > mostPanels/2 {
		shots, left = shots[:mostPanels/2], fmt.Sprintf(" The first %d of %d numbers of cases are drawn.", mostPanels/2, n)
	}
	for _, m := range s.methods {
		if slices.ContainsFunc(shots, func(n string) bool { return of[key{n, m, false}] != nil }) {
			methods = append(methods, m)
		}
	}
	methods, cut := mostOf(methods)
	type limit struct{ low, high, last float64 }
	limitsOf := map[bool]*limit{}
	var alt strings.Builder
	for _, dice := range []bool{false, true} {
		l := &limit{math.Inf(1), math.Inf(-1), 2}
		limitsOf[dice] = l
		for _, n := range shots {
			for _, m := range methods {
				if c := of[key{n, m, dice}]; c != nil {
					epochs, values := c.points()
					for i, v := range values {
						l.low, l.high, l.last = min(l.low, v), max(l.high, v), max(l.last, epochs[i])
					}
					if k := len(values); k > 0 && alt.Len() < 1500 {
						fmt.Fprintf(&alt, " %s, %s, %s: from %s to %s.", m, shotsText(n),
							map[bool]string{false: "loss", true: "pseudo-Dice"}[dice], numeral(values[0], 3), numeral(values[k-1], 3))
					}
				}
			}
		}
		if l.low > l.high {
			l.low, l.high = 0, 1
		}
		pad := max((l.high-l.low)*0.05, math.Abs(l.high)*1e-3, 1e-3)
		l.low, l.high = l.low-pad, l.high+pad
	}
	last := max(limitsOf[false].last, limitsOf[true].last)
	t := tiles{columns: 2, n: 2 * len(shots), panelHeight: 42 * mm, leftRoom: 15 * mm, titled: true,
		legend: newLegend(s.legendOf(methods, true))}
	subject := s.subject(dataset, network, "")
	f := &Figure{Name: fileName("curves", subject), Title: titled("Training", subject), height: t.height()}
	f.Caption = fmt.Sprintf("Training loss and pseudo-Dice of each epoch, means of %s. "+
		"Pseudo-Dice is nnU-Net's, of patches of the training cases (fold all): it shows that training learns, "+
		"not how good a model is on test cases.", runsText(runs.n)) + cut + left
	f.Alt = f.Title + "." + alt.String()
	styles := s.styles()
	f.draw = func(c draw.Canvas) {
		for i, n := range shots {
			for k, dice := range []bool{false, true} {
				l := limitsOf[dice]
				p := &panel{area: &c, box: t.box(&c, 2*i+k), x0: 1, x1: last, y0: l.low, y1: l.high}
				p.frame(whole(ticks(1, last, 6)), ticks(l.low, l.high, 6), "epoch",
					map[bool]string{false: "training loss", true: "pseudo-Dice"}[dice])
				p.title(shotsText(n))
				for j, m := range methods {
					if curve := of[key{n, m, dice}]; curve != nil {
						p.curve(styles[m], curve, float64(j)/float64(len(methods)))
					}
				}
			}
		}
		t.legend.draw(&c)
	}
	return f
}

// whole leaves out ticks between whole numbers.
func whole(list []tick) []tick {
	list = slices.DeleteFunc(list, func(t tick) bool { return t.at != math.Trunc(t.at) })
	for i := range list {
		list[i].text = axisNumber(list[i].at, 0)
	}
	return list
}

// curve draws a line with the method's mark at five places, which tells it from others in grey. turn,
// from 0 to 1, sets them apart from those of other methods.
func (p *panel) curve(s style, m *meanCurve, turn float64) {
	const places = 5
	epochs, values := m.points()
	var line []vg.Point
	for i := range epochs {
		line = append(line, vg.Point{X: p.x(epochs[i]), Y: p.y(values[i])})
	}
	if len(line) > 1 {
		p.area.StrokeLines(s.line(vg.Points(0.9)), line)
	}
	last := -1
	for k := range places {
		if i := int((float64(k) + turn) / places * float64(len(line))); i != last && i < len(line) {
			s.point(p.area, line[i], radius*0.8)
			last = i
		}
	}
}
