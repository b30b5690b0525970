package figures

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/lntorch/lntorch/experiment/table"
)

// cost draws the primary metric beside the time and the memory of a training, at the largest number of
// shots of which there are several draws: a figure for each dataset and label, two panels for each network.
func (s *sheet) cost() []*Figure {
	var list []*Figure
	for _, groups := range s.byDataset() {
		if f := s.costOf(groups); f != nil {
			list = append(list, f)
		}
	}
	return list
}

// resource is what a training needs, in a unit.
type resource struct {
	title string
	of    func(c *table.Cell) float64
}

// seconds is how long the trainings of a cell took, NaN where that is not known.
func seconds(c *table.Cell) float64 {
	if c.Seconds == nil || !(*c.Seconds > 0) {
		return math.NaN()
	}
	return *c.Seconds
}

// peak is the memory of the trainings in bytes.
func peak(c *table.Cell) float64 {
	if c.PeakBytes == nil || *c.PeakBytes <= 0 {
		return math.NaN()
	}
	return float64(*c.PeakBytes)
}

// unit divides a resource so that the largest number is handy.
func unit(title string, of func(c *table.Cell) float64, rows []*table.Row, names []string, sizes []float64) resource {
	largest := 0.0
	for _, r := range rows {
		if v := of(r.Cell); v > largest {
			largest = v
		}
	}
	k := 0
	for k+1 < len(sizes) && largest >= 2*sizes[k+1] {
		k++
	}
	return resource{title + " (" + names[k] + ")", func(c *table.Cell) float64 { return of(c) / sizes[k] }}
}

// resources are time and memory of the trainings.
func resources(rows []*table.Row) []resource {
	return []resource{
		unit("time of a training", seconds, rows, []string{"s", "minutes", "hours"}, []float64{1, 60, 3600}),
		unit("peak memory of a training", peak, rows, []string{"MiB", "GiB"}, []float64{1 << 20, 1 << 30}),
	}
}

func (s *sheet) costOf(groups []*table.Group) *Figure {
	subject := s.subjectOf(groups)
	groups, without := mostNetworks(groups, mostPanels/2)
	type panelOf struct {
		network string
		rows    []*table.Row
		what    resource
	}
	var panels []panelOf
	var all []*table.Row
	largest, drawn := "", false // of several draws where there are such
	for _, g := range groups {
		for _, r := range g.Rows {
			if r.Shots == noShots || math.IsNaN(seconds(r.Cell)) && math.IsNaN(peak(r.Cell)) {
				continue
			}
			switch several := r.Draws > 1; {
			case several && !drawn, several == drawn && (largest == "" || CompareShots(r.Shots, largest) > 0):
				largest, drawn = r.Shots, several
			}
		}
	}
	var rows []*table.Row
	for _, g := range groups {
		rows = append(rows, g.Rows...)
	}
	methods, cut := s.drawn(rows)
	units := resources(rows)
	for _, g := range groups {
		for _, what := range units {
			of := panelOf{network: g.Network, what: what}
			for _, r := range g.Rows {
				if r.Shots == largest && slices.Contains(methods, r.Method) && !math.IsNaN(r.Mean) && !math.IsNaN(what.of(r.Cell)) {
					of.rows = append(of.rows, r)
				}
			}
			if len(of.rows) > 0 {
				panels = append(panels, of)
				all = append(all, of.rows...)
			}
		}
	}
	if len(panels) == 0 {
		return nil
	}
	methods = slices.DeleteFunc(methods, func(m string) bool {
		return !slices.ContainsFunc(all, func(r *table.Row) bool { return r.Method == m })
	})
	var spans []span
	for _, r := range all {
		one := span{r.Mean, r.Mean, r.Mean}
		if known(r.CI, r.DF) {
			one.low, one.high = r.CI[0], r.CI[1]
		}
		spans = append(spans, one)
	}
	low, high := limits(spans)
	t := tiles{columns: min(2, len(panels)), n: len(panels), panelHeight: 54 * mm, leftRoom: 14 * mm,
		titled: s.several.networks,
		legend: newLegend(s.legendOf(methods, false))}
	if len(groups) > 3 {
		t.panelHeight = 34 * mm
	}
	f := &Figure{Name: fileName("cost", subject), Title: titled(s.t.Primary+" beside time and memory", subject),
		height: t.height()}
	f.Caption = fmt.Sprintf("%s beside what a training takes, %s: medians over draws and seeds, as measured on the "+
		"machines of the experiment. Bars: %s\u00a0%% intervals for new patients and newly drawn training cases (crossed "+
		"random effects). Axes of time and memory are logarithmic; "+
		"marks that would cover each other are moved apart.", s.t.Primary, shotsText(largest), s.t.Percent()) +
		seedsAlone(all) + cut + without
	var alt strings.Builder
	for _, p := range panels {
		for _, r := range p.rows {
			if alt.Len() < 1500 {
				fmt.Fprintf(&alt, " %s, %s: %.3g, %s %s.", strings.TrimPrefix(p.network+" "+r.Method, " "), p.what.title,
					p.what.of(r.Cell), s.t.Primary, numeral(r.Mean, s.t.Digits(s.t.Primary)))
			}
		}
	}
	f.Alt = f.Title + "." + alt.String()
	styles := s.styles()
	f.draw = func(c draw.Canvas) {
		for i, of := range panels {
			x0, x1 := math.Inf(1), math.Inf(-1)
			for _, r := range of.rows {
				v := of.what.of(r.Cell)
				x0, x1 = min(x0, v), max(x1, v)
			}
			for x1 < 2.4*x0 { // at least two numbers on the axis
				x0, x1 = x0/1.1, x1*1.1
			}
			p := &panel{area: &c, box: t.box(&c, i), x0: x0 / 1.15, x1: x1 * 1.15, y0: low, y1: high, logX: true}
			p.frame(logTicks(p.x0, p.x1), ticks(low, high, 6), of.what.title, s.t.Primary)
			if t.titled {
				p.title(of.network)
			}
			var at []vg.Length
			for _, r := range of.rows {
				at = append(at, p.x(of.what.of(r.Cell)))
			}
			spread(at, 2.4*radius, p.box.Min.X+2*radius, p.box.Max.X-2*radius)
			for k, r := range of.rows {
				if known(r.CI, r.DF) {
					p.bar(styles[r.Method], at[k], r.CI[0], r.CI[1])
				}
			}
			for k, r := range of.rows {
				styles[r.Method].point(&c, vg.Point{X: at[k], Y: p.y(r.Mean)}, radius)
			}
		}
		t.legend.draw(&c)
	}
	return f
}
