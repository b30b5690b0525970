package figures

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// recall draws the share of nodes that were found, by the class of their size: a figure for each
// dataset and label, of each network where a page would be too small, with a panel for each number of
// shots.
func (s *sheet) recall() []*Figure {
	type subject struct{ dataset, label string }
	var list []subject
	for i := range s.runs {
		for _, c := range s.runs[i].Sizes {
			if one := (subject{s.runs[i].Dataset, c.Label}); !slices.Contains(list, one) {
				list = append(list, one)
			}
		}
	}
	var figures []*Figure
	for _, of := range list {
		networks := names(len(s.runs), func(i int) string { return s.runs[i].Network })
		f, panels := s.recallOf(of.dataset, of.label, networks)
		if panels > mostOnPage && len(networks) > 1 {
			for i := range networks {
				if f, _ := s.recallOf(of.dataset, of.label, networks[i:i+1]); f != nil {
					figures = append(figures, f)
				}
			}
		} else if f != nil {
			figures = append(figures, f)
		}
	}
	return figures
}

// ratio is a share, over all runs, and by draw.
type ratio struct {
	found, nodes int
	draws        map[Name][2]int
}

func (r *ratio) add(draw Name, c SizeClass) {
	r.found, r.nodes = r.found+c.Found, r.nodes+c.Nodes
	if r.draws == nil {
		r.draws = map[Name][2]int{}
	}
	of := r.draws[draw]
	r.draws[draw] = [2]int{of[0] + c.Found, of[1] + c.Nodes}
}

// span is the share over all runs, with those of the lowest and the highest draw.
func (r *ratio) span() span {
	s := span{float64(r.found) / float64(r.nodes), math.Inf(1), math.Inf(-1)}
	for _, d := range r.draws {
		if d[1] > 0 {
			v := float64(d[0]) / float64(d[1])
			s.low, s.high = min(s.low, v), max(s.high, v)
		}
	}
	return s
}

// mostOnPage is how many panels, two beside each other, a page has room for.
const mostOnPage = 8

// recallOf draws some networks, and counts the panels that all of them need.
func (s *sheet) recallOf(dataset, label string, only []string) (f *Figure, all int) {
	type key struct{ network, shots, method, class string }
	of := map[key]*ratio{}
	var networks, shots, classes []string
	most := map[string]int{} // nodes of a class in a run
	add := func(list *[]string, name string) {
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for i := range s.runs {
		r := &s.runs[i]
		if r.Dataset != dataset || !slices.Contains(only, r.Network) {
			continue
		}
		for _, c := range r.Sizes {
			if c.Label != label || c.Nodes == 0 || !slices.Contains(s.methods, r.Method) {
				continue
			}
			add(&networks, r.Network)
			add(&classes, c.Class)
			if r.Shots != noShots {
				add(&shots, r.Shots)
			}
			k := key{r.Network, r.Shots, r.Method, c.Class}
			if of[k] == nil {
				of[k] = &ratio{}
			}
			of[k].add(r.Draw, c)
			most[c.Class] = max(most[c.Class], c.Nodes)
		}
	}
	if len(networks) == 0 {
		return nil, 0
	}
	if len(shots) == 0 {
		shots = []string{noShots}
	}
	slices.SortStableFunc(shots, CompareShots)
	slices.SortStableFunc(classes, bySize)
	type panelOf struct{ network, shots string }
	var panels []panelOf
	for _, network := range networks {
		for _, n := range shots {
			panels = append(panels, panelOf{network, n})
		}
	}
	left := ""
	all = len(panels)
	if all > mostPanels {
		panels, left = panels[:mostPanels], fmt.Sprintf(" The first %d of %d panels are drawn.", mostPanels, all)
	}
	var methods []string
	for _, m := range s.methods {
		for k := range of {
			if k.method == m {
				methods = append(methods, m)
				break
			}
		}
	}
	methods, cut := mostOf(methods)
	entries := s.legendOf(methods, false)
	styles := s.styles()
	t := tiles{columns: min(2, len(panels)), n: len(panels), panelHeight: 46 * mm, leftRoom: 14 * mm, titled: true,
		legend: newLegend(entries)}
	switch n := len(panels); {
	case n == 1:
		t.panelHeight = 62 * mm
	case n > 4:
		t.panelHeight = 38 * mm
	}
	subject := s.subject(dataset, "", label)
	if len(networks) == 1 {
		subject = s.subject(dataset, networks[0], label)
	}
	f = &Figure{Name: fileName("recall", subject), Title: titled("Nodes found, by size", subject), height: t.height()}
	var sizes []string
	for _, c := range classes {
		sizes = append(sizes, fmt.Sprintf("%d of %s mm", most[c], sizeText(c)))
	}
	f.Caption = "Share of the test cases' nodes that were found, by short axis in mm. Marks: over all draws and " +
		"seeds; bars: from the lowest draw to the highest, which is no confidence interval. Nodes: " +
		strings.Join(sizes, ", ") + "." + cut + left
	var alt strings.Builder
	alt.WriteString(f.Title + ".")
	for _, p := range panels {
		for _, m := range methods {
			for _, class := range classes {
				if r := of[key{p.network, p.shots, m, class}]; r != nil && alt.Len() < 1500 {
					fmt.Fprintf(&alt, " %s, %s, %s mm: %.2f.", strings.TrimPrefix(p.network+" "+m, " "),
						shotsText(p.shots), sizeText(class), r.span().mean)
				}
			}
		}
	}
	f.Alt = alt.String()
	f.draw = func(c draw.Canvas) {
		for i, place := range panels {
			p := &panel{area: &c, box: t.box(&c, i), x0: -0.5, x1: float64(len(classes)) - 0.5, y0: -0.03, y1: 1.03}
			var xs []tick
			for k, class := range classes {
				xs = append(xs, tick{float64(k), sizeText(class)})
			}
			p.frame(xs, ticks(0, 1, 5), "short axis (mm)", "recall")
			title := shotsText(place.shots)
			if s.several.networks {
				title = place.network + ", " + title
			}
			p.title(title)
			step := vg.Length(0)
			if n := len(methods); n > 1 {
				step = min((p.x(1)-p.x(0))*0.75/vg.Length(n-1), 4*mm)
			}
			for k, class := range classes {
				for j, m := range methods {
					r := of[key{place.network, place.shots, m, class}]
					if r == nil { // a model that is not trained is the same beside each number of shots
						if r = of[key{place.network, noShots, m, class}]; r == nil {
							continue
						}
					}
					v := r.span()
					x := p.x(float64(k)) + (vg.Length(j)-vg.Length(len(methods)-1)/2)*step
					p.bar(styles[m], x, v.low, v.high)
					styles[m].point(&c, vg.Point{X: x, Y: p.y(v.mean)}, radius)
				}
			}
		}
		t.legend.draw(&c)
	}
	return f, all
}

// sizeText is a class of sizes as it is printed.
func sizeText(class string) string {
	class = strings.Replace(class, ">=", "≥\u00a0", 1)
	class = strings.Replace(class, "<", "<\u00a0", 1)
	return strings.Replace(class, "-", "–", 1)
}

// bySize orders classes: "<5", "5-10", ">=10".
func bySize(a, b string) int {
	at := func(s string) float64 {
		var v float64
		switch {
		case strings.HasPrefix(s, "<"):
			return math.Inf(-1)
		case strings.HasPrefix(s, ">="):
			fmt.Sscan(s[2:], &v)
		default:
			first, _, _ := strings.Cut(s, "-")
			fmt.Sscan(first, &v)
		}
		return v
	}
	switch x, y := at(a), at(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
