package figures

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/lntorch/lntorch/experiment/table"
)

// noShots is the number of shots of a model that is not trained.
const noShots = "0"

// shots draws the primary metric by the number of training cases: a figure for each dataset and label,
// a panel for each network.
func (s *sheet) shots() []*Figure {
	var list []*Figure
	for _, groups := range s.byDataset() {
		list = append(list, s.shotsOf(groups))
	}
	return list
}

func (s *sheet) shotsOf(groups []*table.Group) *Figure {
	subject := s.subjectOf(groups)
	groups, without := mostNetworks(groups, mostPanels)

	var rows []*table.Row
	for _, g := range groups {
		rows = append(rows, g.Rows...)
	}
	axis := newShotsAxis(rows)
	methods, left := s.drawn(rows)
	entries := s.legendOf(methods, true)
	for i, m := range methods { // models that are not trained are lines
		if !slices.ContainsFunc(rows, func(r *table.Row) bool { return r.Method == m && r.Shots != noShots }) {
			entries[i].plain = true
		}
	}
	var spans []span
	for _, r := range rows {
		if i := slices.Index(methods, r.Method); i >= 0 && !math.IsNaN(r.Mean) {
			one := span{r.Mean, r.Mean, r.Mean}
			if known(r.CI, r.DF) {
				one.low, one.high = r.CI[0], r.CI[1]
			}
			spans = append(spans, one)
		}
	}
	low, high := limits(spans)
	t := tiles{columns: 1, n: len(groups), panelHeight: 68 * mm, leftRoom: 14 * mm, legend: newLegend(entries)}
	if t.n > 1 {
		t.columns, t.panelHeight, t.titled = 2, 58*mm, true
	}
	f := &Figure{Name: fileName("shots", subject), Title: titled(s.t.Primary+" by training cases", subject),
		height: t.height()}
	arrow := "more"
	if s.lowerIsBetter() {
		arrow = "less"
	}
	f.Caption = fmt.Sprintf("%s by number of training cases (%s is better). Marks: means over patients, draws "+
		"and seeds; bars: %s\u00a0%% intervals for new patients and newly drawn training cases (crossed random "+
		"effects), of each method alone: methods are compared by their paired differences, not by whether "+
		"bars overlap. n = %s.", s.t.Primary, arrow, s.t.Percent(), table.Counts(rows))
	if len(axis.names) > 1 {
		f.Caption += " Marks of one number of cases stand side by side for legibility."
	}
	if slices.ContainsFunc(entries, func(e entry) bool { return e.plain }) {
		f.Caption += " Lines across are models that are not trained."
	}
	f.Caption += seedsAlone(rows) + left + without
	f.Alt = f.alt(rows, methods, s.t.Digits(s.t.Primary))
	f.draw = func(c draw.Canvas) {
		for k, g := range groups {
			p := &panel{area: &c, box: t.box(&c, k), x0: axis.low, x1: axis.high, y0: low, y1: high}
			var xs []tick
			for i, name := range axis.names {
				xs = append(xs, tick{axis.at[i], name})
			}
			p.frame(xs, ticks(low, high, 7), "training cases", s.t.Primary)
			if t.titled {
				p.title(g.Network)
			}
			axis.methods(p, g, methods, s.styles())
		}
		t.legend.draw(&c)
	}
	return f
}

// methods draws the methods of a panel.
func (a *shotsAxis) methods(p *panel, g *table.Group, methods []string, styles map[string]style) {
	var trained []string
	for _, m := range methods {
		if slices.ContainsFunc(g.Rows, func(r *table.Row) bool { return r.Method == m && r.Shots != noShots }) {
			trained = append(trained, m)
		}
	}
	room := min(p.x(a.low+a.gap)-p.x(a.low), 60*mm) * 0.72
	step := vg.Length(0)
	if len(trained) > 1 {
		step = min(room/vg.Length(len(trained)-1), 3*mm)
	}
	type placed struct {
		style style
		at    []vg.Point
		rows  []*table.Row
	}
	var all []placed
	for _, m := range methods {
		of := placed{style: styles[m]}
		i := slices.Index(trained, m)
		for _, r := range g.Rows {
			if r.Method != m || math.IsNaN(r.Mean) {
				continue
			}
			if r.Shots == noShots {
				y := p.y(r.Mean)
				p.area.StrokeLine2(of.style.line(vg.Points(1.1)), p.box.Min.X, y, p.box.Max.X, y)
				continue
			}
			x := p.x(a.at[slices.Index(a.names, r.Shots)]) + (vg.Length(i)-vg.Length(len(trained)-1)/2)*step
			of.at, of.rows = append(of.at, vg.Point{X: x, Y: p.y(r.Mean)}), append(of.rows, r)
		}
		all = append(all, of)
	}
	for _, of := range all { // lines lie below bars, bars below marks
		if len(of.at) > 1 {
			p.area.StrokeLines(of.style.line(vg.Points(0.8)), of.at)
		}
	}
	for _, of := range all {
		for i, r := range of.rows {
			if known(r.CI, r.DF) {
				p.bar(of.style, of.at[i].X, r.CI[0], r.CI[1])
			}
		}
	}
	for _, of := range all {
		for _, at := range of.at {
			of.style.point(p.area, at, radius)
		}
	}
}

// seedsAlone says what intervals of one draw are for.
func seedsAlone(rows []*table.Row) string {
	one := func(r *table.Row) bool { return r.Draws == 1 && r.Seeds > 1 }
	switch {
	case !slices.ContainsFunc(rows, one):
		return ""
	case !slices.ContainsFunc(rows, func(r *table.Row) bool { return !one(r) }):
		return " There is one draw: intervals are for new patients and new seeds, not for other training cases."
	}
	return " Where there is one draw only, intervals are for new patients and new seeds, not for other " +
		"training cases."
}

// known reports whether an interval says something, as the tables have it.
func known(i table.Interval, df float64) bool { return i != nil && !(df < 1) }

// shotsAxis places numbers of shots.
type shotsAxis struct {
	names     []string // upwards; without those that are not trained
	at        []float64
	low, high float64
	gap       float64 // the smallest between neighbours
}

// newShotsAxis places shots by their logarithm, or one beside the other where that would crowd them;
// all stands last.
func newShotsAxis(rows []*table.Row) *shotsAxis {
	a := &shotsAxis{gap: 1}
	for _, name := range shotsOf(len(rows), func(i int) string { return rows[i].Shots }) {
		if name != noShots {
			a.names = append(a.names, name)
		}
	}
	var logs []float64
	smallest := math.Inf(1)
	for _, name := range a.names {
		if n, err := strconv.Atoi(name); err == nil {
			logs = append(logs, math.Log2(float64(n)))
			if k := len(logs); k > 1 {
				smallest = min(smallest, logs[k-1]-logs[k-2])
			}
		}
	}
	span := 0.0
	if len(logs) > 0 {
		span = logs[len(logs)-1] - logs[0]
	}
	if smallest > 0.6*span/float64(max(len(logs)-1, 1)) && !math.IsInf(smallest, 0) {
		for _, v := range logs {
			a.at = append(a.at, v-logs[0])
		}
		a.gap = smallest
	} else {
		for i := range logs {
			a.at = append(a.at, float64(i))
		}
	}
	for len(a.at) < len(a.names) {
		next := 0.0
		if n := len(a.at); n > 0 {
			next = a.at[n-1] + 1.2*a.gap
		}
		a.at = append(a.at, next)
	}
	a.low, a.high = -0.55*a.gap, 0.55*a.gap
	if n := len(a.at); n > 0 {
		a.high += a.at[n-1]
	}
	return a
}

// drawn lists the methods of rows that are drawn, and says which are not.
func (s *sheet) drawn(rows []*table.Row) (methods []string, left string) {
	for _, m := range s.methods {
		if slices.ContainsFunc(rows, func(r *table.Row) bool { return r.Method == m && !math.IsNaN(r.Mean) }) {
			methods = append(methods, m)
		}
	}
	return mostOf(methods)
}

// mostNetworks bounds the panels of networks, and says which are not drawn.
func mostNetworks(groups []*table.Group, most int) ([]*table.Group, string) {
	if n := len(groups); n > most {
		return groups[:most], fmt.Sprintf(" The first %d of %d networks are drawn.", most, n)
	}
	return groups, ""
}

func mostOf(methods []string) ([]string, string) {
	if n := len(methods); n > mostMethods {
		return methods[:mostMethods], fmt.Sprintf(" The first %d of %d methods are drawn.", mostMethods, n)
	}
	return methods, ""
}

// styles are those of all methods, the same in every figure.
func (s *sheet) styles() map[string]style {
	of := map[string]style{}
	trained := map[string]bool{}
	for _, g := range s.groups {
		for _, r := range g.Rows {
			trained[r.Method] = trained[r.Method] || r.Shots != noShots
		}
	}
	colours, greys := 0, 0
	for _, m := range s.methods {
		if trained[m] {
			of[m] = styleOf(colours)
			colours++
		} else {
			of[m] = untrained(greys)
			greys++
		}
	}
	return of
}

// legendOf is a legend of methods.
func (s *sheet) legendOf(methods []string, line bool) []entry {
	styles := s.styles()
	var list []entry
	for _, m := range methods {
		list = append(list, entry{name: shortened(m, 40), style: styles[m], line: line})
	}
	return list
}

// subjectOf names what groups with several networks share.
func (s *sheet) subjectOf(groups []*table.Group) string {
	if len(groups) == 1 {
		return s.subject(groups[0].Dataset, groups[0].Network, groups[0].Label)
	}
	return s.subject(groups[0].Dataset, "", groups[0].Label)
}

// alt lists the means in words.
func (f *Figure) alt(rows []*table.Row, methods []string, digits int) string {
	var b strings.Builder
	b.WriteString(f.Title + ".")
	for _, r := range rows {
		if !slices.Contains(methods, r.Method) || math.IsNaN(r.Mean) {
			continue
		}
		if b.Len() > 1500 {
			b.WriteString(" More stand in the table.")
			break
		}
		fmt.Fprintf(&b, " %s, %s: %s", strings.TrimPrefix(r.Network+" "+r.Method, " "), shotsText(r.Shots),
			numeral(r.Mean, digits))
		if known(r.CI, r.DF) {
			fmt.Fprintf(&b, " (%s to %s)", numeral(r.CI[0], digits), numeral(r.CI[1], digits))
		}
		b.WriteString(".")
	}
	return b.String()
}
