package figures

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"

	"github.com/lntorch/lntorch/experiment/table"
)

// nine are the methods of the largest study that pictures are made for, beside one that is not trained.
var nine = []string{"none", "full", "head", "bias", "norm", "lora", "dgst-dynamic", "dgst-static", "dgst-random",
	"scratch"}

// study is scores of methods by networks at shots, 12 patients, 3 draws and 2 seeds, with the records of
// its runs.
func study(t *testing.T, networks, methods, shots []string) (*table.Table, []Run) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 7))
	var b strings.Builder
	b.WriteString("dataset,network,method,shots,draw,seed,case,Dice,HD95\n")
	var runs []Run
	pointer := func(v float64) *float64 { return &v }
	whole := func(v int64) *int64 { return &v }
	for n, network := range networks {
		for m, method := range methods {
			at := shots
			if method == "none" {
				at = []string{noShots}
			}
			for k, shot := range at {
				for d := range 3 {
					if d > 0 && shot == "all" {
						continue
					}
					draw := 0.015 * r.NormFloat64()
					for s := range 2 {
						base := 0.45 + 0.02*float64((m*5)%7) + 0.05*float64(k) + 0.02*float64(n) + draw
						for p := range 12 {
							v := min(base+0.05*math.Sin(float64(p))+0.02*r.NormFloat64(), 1)
							fmt.Fprintf(&b, "hospital,%s,%s,%s,%d,%d,c%02d,%.5f,%.4f\n", network, method, shot, d, s, p, v,
								30-20*v)
						}
						run := Run{Key: fmt.Sprint(len(runs)), Dataset: "hospital", Network: network, Method: method,
							Shots: shot, Draw: Name(fmt.Sprint(d)), Seed: Name(fmt.Sprint(s))}
						for i, class := range []string{"<5", "5-10", ">=10"} {
							run.Sizes = append(run.Sizes, SizeClass{"1", class, 10*i + 2*m%9 + d, 40})
						}
						if method != "none" {
							run.Seconds = pointer(100 * float64(1+m%3))
							run.PeakBytes, run.TrainedParameters = whole(1<<30), whole(int64(1000*m))
							for e := range 60 {
								run.Curves.Loss = append(run.Curves.Loss, pointer(-0.3-base*(1-math.Exp(-float64(e)/9))))
								run.Curves.PseudoDice = append(run.Curves.PseudoDice, pointer(base*(1-math.Exp(-float64(e)/9))))
							}
						}
						if strings.HasPrefix(method, "dgst") {
							for i := range 30 {
								run.Touched = append(run.Touched, Layer{fmt.Sprintf("encoder.stages.%d.0.convs.%d.conv.weight",
									i/2, i%2), int64(10 * (i + m)), 1000})
							}
						}
						runs = append(runs, run)
					}
				}
			}
		}
	}
	made := analysed(t, b.String(), "")
	Complete(made, runs)
	return made, runs
}

func analysed(t *testing.T, text, reference string) *table.Table {
	t.Helper()
	scores, err := table.Read([]byte(text), "scores.csv", nil)
	require.NoError(t, err)
	made, err := table.Make(context.Background(), scores, table.Settings{Primary: scores.Metrics[0], Alpha: 0.05,
		Resamples: 50, Reference: reference, Lower: table.LowerIsBetter})
	require.NoError(t, err)
	return made
}

// paper is a canvas that notes what is drawn, in points from the lower left.
type sheetOfPaper struct {
	at      []spot
	color   color.Color
	width   vg.Length
	texts   []written
	strokes []stroke
	fills   []stroke
	w, h    vg.Length
}

type spot struct {
	x, y vg.Length
	turn float64
}

type written struct {
	text string
	box  vg.Rectangle
}

type stroke struct {
	color  color.Color
	width  vg.Length
	points []vg.Point
}

func (p *sheetOfPaper) here() *spot                         { return &p.at[len(p.at)-1] }
func (p *sheetOfPaper) Size() (x, y vg.Length)              { return p.w, p.h }
func (p *sheetOfPaper) SetLineWidth(w vg.Length)            { p.width = w }
func (p *sheetOfPaper) SetLineDash([]vg.Length, vg.Length)  {}
func (p *sheetOfPaper) SetColor(c color.Color)              { p.color = c }
func (p *sheetOfPaper) Rotate(turn float64)                 { p.here().turn += turn }
func (p *sheetOfPaper) Scale(x, y float64)                  { panic("not used") }
func (p *sheetOfPaper) Push()                               { p.at = append(p.at, *p.here()) }
func (p *sheetOfPaper) Pop()                                { p.at = p.at[:len(p.at)-1] }
func (p *sheetOfPaper) DrawImage(vg.Rectangle, image.Image) { panic("not used") }

func (p *sheetOfPaper) Translate(by vg.Point) {
	at := p.place(by)
	p.here().x, p.here().y = at.X, at.Y
}

func (p *sheetOfPaper) place(v vg.Point) vg.Point {
	h := p.here()
	sin, cos := vg.Length(math.Sin(h.turn)), vg.Length(math.Cos(h.turn))
	return vg.Point{X: h.x + v.X*cos - v.Y*sin, Y: h.y + v.X*sin + v.Y*cos}
}

func (p *sheetOfPaper) path(path vg.Path) stroke {
	s := stroke{color: p.color, width: p.width}
	for _, c := range path {
		if c.Type != vg.CloseComp {
			s.points = append(s.points, p.place(c.Pos))
		}
	}
	return s
}

func (p *sheetOfPaper) Stroke(path vg.Path) { p.strokes = append(p.strokes, p.path(path)) }
func (p *sheetOfPaper) Fill(path vg.Path)   { p.fills = append(p.fills, p.path(path)) }

func (p *sheetOfPaper) FillString(f font.Face, at vg.Point, text string) {
	w := f.Width(text)
	// what letters cover: from a little below the line to the height of capitals
	low, high := p.place(vg.Point{X: at.X, Y: at.Y - 0.15*f.Font.Size}), p.place(vg.Point{X: at.X + w, Y: at.Y + 0.72*f.Font.Size})
	p.texts = append(p.texts, written{text, vg.Rectangle{
		Min: vg.Point{X: min(low.X, high.X), Y: min(low.Y, high.Y)}, Max: vg.Point{X: max(low.X, high.X), Y: max(low.Y, high.Y)}}})
}

// drawnOn draws a figure on paper.
func drawnOn(f *Figure) *sheetOfPaper {
	p := &sheetOfPaper{at: []spot{{}}, w: width, h: f.height, color: color.Black}
	f.paint(p)
	return p
}

func figure(t *testing.T, list []*Figure, name string) *Figure {
	t.Helper()
	i := slices.IndexFunc(list, func(f *Figure) bool { return f.Name == name })
	require.GreaterOrEqual(t, i, 0, "no figure %s", name)
	return list[i]
}

// Texts neither cover each other nor leave the picture, with nine methods and their like.
func TestTextsDoNotOverlap(t *testing.T) {
	long := []string{"a method with a name that is far longer than any picture has room for", "b", "c"}
	for name, c := range map[string]struct{ networks, methods, shots []string }{
		"nine":        {[]string{"unet"}, nine, []string{"1", "5", "10", "all"}},
		"networks":    {[]string{"unet", "swin", "resenc"}, nine, []string{"1", "5"}},
		"long names":  {[]string{strings.Repeat("network ", 12), "other"}, long, []string{"1", "2", "3", "4", "5"}},
		"one":         {[]string{""}, []string{"full"}, []string{"all"}},
		"many shots":  {[]string{"unet"}, nine[:3], []string{"1", "2", "4", "8", "16", "32", "64", "128", "all"}},
		"near shots":  {[]string{"unet"}, nine[:3], []string{"100", "101", "102"}},
		"large shots": {[]string{"unet"}, nine[:3], []string{"100000", "1000000"}},
	} {
		made, runs := study(t, c.networks, c.methods, c.shots)
		for _, f := range Draw(made, runs) {
			p := drawnOn(f)
			require.NotEmpty(t, p.texts)
			covered(t, name, f.Name, p)
			for _, s := range p.strokes {
				for _, at := range s.points {
					if at.X < 0 || at.Y < 0 || at.X > p.w || at.Y > p.h || math.IsNaN(float64(at.X+at.Y)) {
						t.Errorf("%s: %s: a line leaves the picture at %v", name, f.Name, at)
					}
				}
			}
		}
	}
}

// covered tells of texts that cover each other or leave the picture.
func covered(t *testing.T, study, name string, p *sheetOfPaper) {
	t.Helper()
	for i, a := range p.texts {
		require.NotContains(t, a.text, "NaN", name)
		if a.box.Min.X < 0 || a.box.Min.Y < 0 || a.box.Max.X > p.w || a.box.Max.Y > p.h {
			t.Errorf("%s: %s: %q leaves the picture: %v", study, name, a.text, a.box)
		}
		for _, b := range p.texts[:i] {
			if a.box.Min.X < b.box.Max.X && b.box.Min.X < a.box.Max.X && a.box.Min.Y < b.box.Max.Y && b.box.Min.Y < a.box.Max.Y {
				t.Errorf("%s: %s: %q and %q cover each other", study, name, a.text, b.text)
			}
		}
	}
}

// Nor do those of the smallest study: two methods, trained once, for an epoch.
func TestTextsOfASmallStudyDoNotOverlap(t *testing.T) {
	loss := 1.2
	made := analysed(t, "method,shots,draw,seed,case,Dice\na,3,0,0,p,0.6\na,3,0,0,q,0.7\nb,3,0,0,p,0.4\nb,3,0,0,q,0.5\n", "")
	p := drawnOn(figure(t, Draw(made, nil), "differences"))
	covered(t, "once", "differences", p)
	require.True(t, slices.ContainsFunc(p.texts, func(w written) bool { return w.text == "−0.200" }))
	p = drawnOn(figure(t, Draw(made, []Run{{Method: "a", Shots: "3", Curves: Curves{Loss: []*float64{&loss}}}}), "curves"))
	covered(t, "once", "curves", p)
	for _, epoch := range []string{"1", "2"} {
		require.True(t, slices.ContainsFunc(p.texts, func(w written) bool { return w.text == epoch }), epoch)
	}
}

// axisOf finds the scale of an axis from its numbers: value = a + b·place.
func axisOf(t *testing.T, p *sheetOfPaper, of func(w written) (at vg.Length, ok bool)) func(vg.Length) float64 {
	t.Helper()
	var at, v []float64
	for _, w := range p.texts {
		n, err := strconv.ParseFloat(strings.Replace(w.text, "−", "-", 1), 64)
		if place, ok := of(w); ok && err == nil {
			at, v = append(at, place.Points()), append(v, n)
		}
	}
	require.Greater(t, len(at), 2)
	b := (v[len(v)-1] - v[0]) / (at[len(at)-1] - at[0])
	return func(x vg.Length) float64 { return v[0] + b*(x.Points()-at[0]) }
}

func same(a, b color.Color) bool {
	r, g, bl, al := a.RGBA()
	r2, g2, b2, a2 := b.RGBA()
	return r == r2 && g == g2 && bl == b2 && al == a2
}

// Bars end where the table's intervals do, by the axis' own numbers, in the method's colour.
func TestBarsAreTheTablesIntervals(t *testing.T) {
	made, runs := study(t, []string{"unet"}, nine, []string{"1", "5", "10", "all"})
	list := Draw(made, runs)
	styles := newSheet(made, runs).styles()

	p := drawnOn(figure(t, list, "shots"))
	y := axisOf(t, p, func(w written) (vg.Length, bool) { // right-aligned beside the axis
		return (w.box.Min.Y+w.box.Max.Y)/2 - 0.0*vg.Inch, w.box.Max.X < 15*mm && strings.HasPrefix(w.text, "0.")
	})
	n := 0
	for i := range made.Cells {
		c := &made.Cells[i]
		if c.Metric != "Dice" || c.Shots == noShots {
			continue
		}
		n++
		found := slices.ContainsFunc(p.strokes, func(s stroke) bool {
			return len(s.points) == 2 && same(s.color, styles[c.Method].color) && s.points[0].X == s.points[1].X &&
				math.Abs(y(s.points[0].Y)-c.CI[0]) < 2e-3 && math.Abs(y(s.points[1].Y)-c.CI[1]) < 2e-3
		})
		require.True(t, found, "%s at %s: no bar from %g to %g", c.Method, c.Shots, c.CI[0], c.CI[1])
	}
	require.Equal(t, 36, n)

	p = drawnOn(figure(t, list, "differences"))
	lowest := vg.Length(math.Inf(1))
	for _, s := range p.strokes {
		for _, at := range s.points {
			lowest = min(lowest, at.Y)
		}
	}
	x := axisOf(t, p, func(w written) (vg.Length, bool) { return (w.box.Min.X + w.box.Max.X) / 2, w.box.Max.Y < lowest })
	for _, g := range made.Groups(true) {
		for _, r := range g.Rows {
			if r.Against == nil {
				continue
			}
			n++
			low, high := r.Against.CI[0], r.Against.CI[1]
			if r.Sign < 0 {
				low, high = -high, -low
			}
			found := slices.ContainsFunc(p.strokes, func(s stroke) bool {
				return len(s.points) == 2 && same(s.color, styles[r.Method].color) && s.points[0].Y == s.points[1].Y &&
					math.Abs(x(s.points[0].X)-low) < 2e-3 && math.Abs(x(s.points[1].X)-high) < 2e-3
			})
			require.True(t, found, "%s at %s: no bar from %g to %g", r.Method, r.Shots, low, high)
			note := fmt.Sprintf("%s (%s to %s)", numeral(r.Sign*r.Against.Difference, 3), numeral(low, 3), numeral(high, 3))
			require.True(t, slices.ContainsFunc(p.texts, func(w written) bool { return w.text == note }), note)
		}
	}
	require.Equal(t, 36+32, n, "eight beside the best at four numbers of shots")
}

// An interval far wider than the others does not press them together: it ends in an arrow.
func TestOneWideIntervalDoesNotHideTheOthers(t *testing.T) {
	list := []span{{0.5, 0.45, 0.55}, {0.6, 0.55, 0.65}, {0.55, 0.5, 0.6}, {0.5, -20, 21}}
	low, high := limits(list)
	require.Less(t, high-low, 1.0)
	require.Less(t, low, 0.45)
	require.Greater(t, high, 0.65)
	for _, empty := range [][]span{nil, {{0.3, 0.3, 0.3}}, {{0, 0, 0}}} {
		low, high = limits(empty)
		require.Less(t, low, high)
	}
}

// Marks that would lie upon each other are moved apart, as little as needed, in their order.
func TestSpreadKeepsOrderAndDistance(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		at := make([]vg.Length, 1+r.IntN(12))
		for i := range at {
			at[i] = vg.Length(20 + r.IntN(60))
		}
		was := slices.Clone(at)
		spread(at, 5, -100, 200)
		order := make([]int, len(at))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(math.Copysign(1, float64(was[a]-was[b]))) })
		sum := vg.Length(0)
		for k, i := range order {
			sum += at[i] - was[i]
			if k > 0 {
				require.GreaterOrEqual(t, float64(at[i]-at[order[k-1]]), 5-1e-9, "%v from %v", at, was)
			}
		}
		require.InDelta(t, 0, float64(sum), 1e-6, "clusters stay where they are")
	}
	far := []vg.Length{0, 10, 20}
	spread(far, 5, -100, 200)
	require.Equal(t, []vg.Length{0, 10, 20}, far)
	edge := []vg.Length{0, 0, 0}
	spread(edge, 5, 0, 100)
	require.Equal(t, []vg.Length{0, 5, 10}, edge)
}

// lab is CIE L*a*b* of linear RGB.
func lab(c [3]float64) [3]float64 {
	f := func(t float64) float64 {
		if t > 0.008856 {
			return math.Cbrt(t)
		}
		return 7.787*t + 16.0/116
	}
	x := f((0.4124*c[0] + 0.3576*c[1] + 0.1805*c[2]) / 0.95047)
	y := f(0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2])
	z := f((0.0193*c[0] + 0.1192*c[1] + 0.9505*c[2]) / 1.08883)
	return [3]float64{116*y - 16, 500 * (x - y), 200 * (y - z)}
}

// Any two methods differ in colour for readers with normal, protan, deutan and tritan vision (the
// simulation of Machado et al. 2009), in their marks, and each from paper.
func TestMethodsAreToldApart(t *testing.T) {
	vision := map[string][3][3]float64{
		"normal": {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
		"protan": {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
		"deutan": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
		"tritan": {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
	}
	linear := func(v uint8) float64 {
		s := float64(v) / 255
		if s <= 0.04045 {
			return s / 12.92
		}
		return math.Pow((s+0.055)/1.055, 2.4)
	}
	seen := func(c color.RGBA, m [3][3]float64) [3]float64 {
		in, out := [3]float64{linear(c.R), linear(c.G), linear(c.B)}, [3]float64{}
		for i := range out {
			for k := range in {
				out[i] += m[i][k] * in[k]
			}
			out[i] = min(max(out[i], 0), 1)
		}
		return lab(out)
	}
	require.Len(t, palette, 9)
	for name, m := range vision {
		for i, a := range palette {
			la := seen(a, m)
			require.Less(t, la[0], 76.0, "%s: colour %d on paper", name, i)
			for k, b := range palette[:i] {
				lb := seen(b, m)
				d := math.Sqrt((la[0]-lb[0])*(la[0]-lb[0]) + (la[1]-lb[1])*(la[1]-lb[1]) + (la[2]-lb[2])*(la[2]-lb[2]))
				require.Greater(t, d, 15.0, "%s: colours %d and %d", name, k, i)
			}
		}
	}
	// Marks alone tell nine methods apart; marks with colours 27.
	for i := range mostMethods {
		for k := range i {
			a, b := styleOf(i), styleOf(k)
			require.False(t, a.mark == b.mark && (i < 9 || same(a.color, b.color)), "methods %d and %d", k, i)
		}
		require.NotEqual(t, untrained(0).mark, styleOf(i).mark)
	}
}

// A method has one style in all figures, whatever else they show.
func TestAMethodLooksTheSameEverywhere(t *testing.T) {
	made, runs := study(t, []string{"unet", "swin"}, nine, []string{"1", "5"})
	styles := newSheet(made, runs).styles()
	for _, f := range Draw(made, runs) {
		p := drawnOn(f)
		for _, w := range p.texts {
			if w.text != "dgst-static" || strings.HasPrefix(f.Name, "differences") {
				continue
			}
			found := slices.ContainsFunc(append(p.fills, p.strokes...), func(s stroke) bool {
				return same(s.color, styles["dgst-static"].color) && len(s.points) > 0 && s.points[0].Y > w.box.Min.Y-2 &&
					s.points[0].Y < w.box.Max.Y+2 && s.points[0].X < w.box.Min.X && s.points[0].X > w.box.Min.X-30
			})
			require.True(t, found, "%s: the legend of dgst-static", f.Name)
		}
	}
	require.Equal(t, []string{"shots", "differences-unet", "differences-swin", "recall", "curves-unet", "curves-swin",
		"touched-unet", "touched-swin", "cost"}, names(9, func(i int) string { return Draw(made, runs)[i].Name }))
}

// Five networks at four numbers of shots, the largest study that is planned for, fit a page each.
func TestALargeStudyFitsPages(t *testing.T) {
	made, runs := study(t, []string{"unet", "resencm", "resencl", "swinunetr", "swinunetrv2"}, nine, []string{"1", "5", "10", "all"})
	var list []string
	for _, f := range Draw(made, runs) {
		list = append(list, f.Name)
		require.Less(t, f.height.Points()/72*25.4, 265.0, "%s: height in mm", f.Name)
		require.NotContains(t, f.Caption, "The first ", f.Name)
		covered(t, "large", f.Name, drawnOn(f))
	}
	require.Subset(t, list, []string{"shots", "recall-unet", "recall-swinunetrv2", "curves-resencl", "touched-swinunetr", "cost"})
}

// Captions say of how many patients, and what intervals cover.
func TestCaptionsSayWhatIsDrawn(t *testing.T) {
	made, runs := study(t, []string{"unet"}, nine, []string{"1", "5", "all"})
	list := Draw(made, runs)
	shots := figure(t, list, "shots")
	for _, text := range []string{"n = 12 patients, 1 to 3 draws, 2 seeds", "95\u00a0% intervals for new patients and newly drawn",
		"one draw only, intervals are for new patients and new seeds, not for other training cases", "more is better",
		"Lines across are models that are not trained."} {
		require.Contains(t, shots.Caption, text)
	}
	require.Contains(t, figure(t, list, "differences").Caption, "The best is chosen by these very scores")
	require.Contains(t, figure(t, list, "recall").Caption, "Nodes: 40 of <\u00a05 mm, 40 of 5–10 mm, 40 of ≥\u00a010 mm")
	require.Contains(t, figure(t, list, "cost").Caption, "5 training cases", "the most of which there are several draws")
	require.Contains(t, figure(t, list, "touched").Caption, "all training cases; means of 6 runs")
	require.Contains(t, figure(t, list, "touched").Alt, "encoder.stages.0.0.convs.0.conv.weight, dgst-dynamic: 6.0 %")
	for _, f := range list {
		require.NotContains(t, f.Caption+f.Alt+f.Title, "NaN")
		require.NotContains(t, f.Caption, "%!")
	}
	made = analysed(t, "method,shots,draw,seed,case,HD95\na,5,0,0,p,3\na,5,1,0,p,3\nb,5,0,0,p,4\nb,5,1,0,p,5\n", "a")
	list = Draw(made, nil)
	require.Contains(t, figure(t, list, "shots").Caption, "less is better")
	require.Contains(t, figure(t, list, "differences").Title, "differences from a")
}

// Differences are named by what they are from: a reference that is a method, the network as it is among them; else
// the best.
func TestDifferencesAreFromWhatWasCompared(t *testing.T) {
	text := "network,method,shots,draw,seed,case,Dice\nu,none,0,0,0,p,0.1\nu,none,0,0,0,q,0.2\n"
	for i := range 8 {
		text += fmt.Sprintf("u,%s,5,%d,0,%s,0.%d\n", []string{"full", "lora"}[i/4], i/2%2, []string{"p", "q"}[i%2], 3*i%7+3)
	}
	drawn := func(reference string) (f *Figure, texts string) {
		f = figure(t, Draw(analysed(t, text, reference), nil), "differences")
		for _, w := range drawnOn(f).texts {
			texts += w.text + "\n"
		}
		return f, texts
	}
	f, texts := drawn("u")
	require.Equal(t, "Dice: paired differences from the best method", f.Title)
	require.Contains(t, f.Caption, "Differences in Dice from the best method at")
	require.Contains(t, f.Caption, "The best is chosen by these very scores")
	require.NotContains(t, f.Caption, "one run")
	require.NotContains(t, texts, "minus u\n")
	f, texts = drawn("none")
	require.Equal(t, "Dice: paired differences from none", f.Title)
	require.Contains(t, f.Caption, "Differences in Dice from none at")
	require.Contains(t, f.Caption, "none is one run, of the network as it is, which stands for each draw and seed.")
	require.NotContains(t, f.Caption, "The best")
	require.Contains(t, texts, "5 training cases, minus none\n")
	require.Contains(t, texts, "full\n")
	require.Contains(t, texts, "lora\n")
	require.Contains(t, f.Alt, "full minus none")
}

// Recall is nodes found of all nodes, over draws and seeds; bars are draws.
func TestRecallIsOfAllNodes(t *testing.T) {
	var r ratio
	r.add("0", SizeClass{Found: 1, Nodes: 10})
	r.add("0", SizeClass{Found: 3, Nodes: 10})
	r.add("1", SizeClass{Found: 9, Nodes: 10})
	require.Equal(t, span{13.0 / 30, 0.2, 0.9}, r.span())
	list := []string{">=10", "5-10", "<5", "10-20"}
	slices.SortStableFunc(list, bySize)
	require.Equal(t, []string{"<5", "5-10", ">=10", "10-20"}, list)
}

func TestLayersArePutTogether(t *testing.T) {
	var all []string
	for stage := range 6 {
		for block := range 20 {
			for _, leaf := range []string{"weight", "bias"} {
				all = append(all, fmt.Sprintf("encoder.stages.%d.%d.conv.%s", stage, block, leaf))
			}
		}
	}
	nameOf, order := blocks(all)
	require.Equal(t, []string{"encoder.stages.0", "encoder.stages.1", "encoder.stages.2", "encoder.stages.3",
		"encoder.stages.4", "encoder.stages.5"}, order)
	require.Equal(t, "encoder.stages.3", nameOf["encoder.stages.3.7.conv.bias"])
	_, order = blocks(all[:30])
	require.Len(t, order, 30)
}

// A curve longer than a picture is wide is drawn as means of its parts.
func TestLongCurvesAreMeans(t *testing.T) {
	var m meanCurve
	list := make([]*float64, 1000)
	for i := range list {
		v := float64(i)
		list[i] = &v
	}
	list[2] = nil
	m.add(list)
	epochs, values := m.points()
	require.Len(t, epochs, 250)
	require.Equal(t, []float64{(1 + 2 + 4) / 3.0, 6.5}, epochs[:2])
	require.Equal(t, []float64{(0 + 1 + 3) / 3.0, 5.5}, values[:2])
}

// Whatever the scores are, pictures are drawn.
func TestOddScoresAreDrawn(t *testing.T) {
	const head = "network,method,shots,draw,seed,case,Dice\n"
	var many, panels strings.Builder
	many.WriteString(head)
	panels.WriteString(head)
	for m := range 60 {
		for p := range 3 {
			fmt.Fprintf(&many, "n,m%d,5,%d,0,p%d,0.%d\n", m, p%2, p, 1+(m+p)%8)
			fmt.Fprintf(&many, "n,m%d,5,%d,0,p%d,0.%d\n", m, 1-p%2, p, 1+(m*p)%8)
			fmt.Fprintf(&panels, "n%d,m,5,0,0,p%d,0.5\n", m, p)
		}
	}
	for name, text := range map[string]string{
		"one":       head + "n,a,5,0,0,p,0.5\n",
		"undefined": head + "n,a,5,0,0,p,\nn,b,5,0,0,p,\n",
		"untrained": head + "n,a,0,0,0,p,0.4\nn,a,0,1,0,p,0.4\n",
		"equal":     head + "n,a,5,0,0,p,0.4\nn,a,5,1,0,q,0.4\nn,a,5,1,0,p,0.4\nn,a,5,0,0,q,0.4\n",
		"huge":      head + "n,a,5,0,0,p,1e99\nn,a,5,1,0,p,-1e99\nn,a,7,0,0,p,1e-99\nn,a,7,1,0,p,0\n",
		"many":      many.String(),
		"panels":    panels.String(),
		"markup":    head + "n,<b>&\",5,0,0,p,0.5\n,\"日本語 \",5,0,0,p,0.5\n",
	} {
		if name == "markup" {
			text = head + "n,<b>&amp;,5,0,0,p,0.5\nn,日本語,5,0,0,p,0.6\n"
		}
		made := analysed(t, text, "")
		list := Draw(made, []Run{{Dataset: "x"}, {Network: "n", Method: "a", Shots: "5", Curves: Curves{Loss: []*float64{nil}}}})
		require.NotEmpty(t, list, name)
		for _, f := range list {
			wellFormed(t, f)
			for _, w := range drawnOn(f).texts {
				require.NotContains(t, w.text, "NaN", name)
			}
		}
		if name == "panels" {
			require.Contains(t, list[0].Caption, "The first 12 of 60 networks are drawn.")
		}
		if name == "many" {
			require.Contains(t, list[0].Caption, "The first 27 of 60 methods are drawn.")
		}
	}
}

// wellFormed requires XML of the stated size, whose texts have the widths that they were placed for.
func wellFormed(t *testing.T, f *Figure) (texts int) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, f.SVG(&b))
	d := xml.NewDecoder(&b)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		require.NoError(t, err, f.Name)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
			require.True(t, slices.ContainsFunc(e.Attr, func(a xml.Attr) bool { return a.Name.Local == "textLength" }), "%v", e)
		}
	}
}

// PNG and SVG are 180 mm wide, at 300 dots an inch, and the same each time.
func TestFilesAreOfAJournalsSize(t *testing.T) {
	made, runs := study(t, []string{"unet"}, nine[:4], []string{"1", "5"})
	f := Draw(made, runs)[0]
	require.Greater(t, wellFormed(t, f), 10)
	var a, b, svg bytes.Buffer
	require.NoError(t, f.PNG(&a))
	require.NoError(t, f.PNG(&b))
	require.Equal(t, a.Bytes(), b.Bytes())
	im, err := png.Decode(&a)
	require.NoError(t, err)
	_, h := f.Size()
	require.Equal(t, 2126, im.Bounds().Dx())
	require.InDelta(t, h/72*300, im.Bounds().Dy(), 1)
	require.NoError(t, f.SVG(&svg))
	require.Contains(t, svg.String(), `width="510.24pt"`)
	require.Contains(t, svg.String(), "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
}

// Records of runs are read from their folders once they are done, and give the table the medians of cost.
func TestRunsAreRead(t *testing.T) {
	folder := t.TempDir()
	scores, err := table.Read([]byte("dataset,network,method,shots,draw,seed,case,label,Dice\nh,n,a,5,2,3,p,1,0.5\n"+
		"h,n,a,5,1,3,p,1,0.5\nh,n,a,5,0,3,p,1,0.5\nh,n,b,5,0,3,p,1,0.5\nh,n,a,5,0,3,p,2,0.5\n"), "scores.csv", nil)
	require.NoError(t, err)
	scored := scores.Runs("Dice")
	list, _, err := ReadScored(folder, scored)
	require.NoError(t, err)
	require.Empty(t, list)
	places := func(keys ...string) (list []Place) {
		for i, key := range keys {
			list = append(list, Place{key, "h", "n", "a", "5", Name(fmt.Sprint(i)), "3"})
		}
		return list
	}
	list, err = ReadPlaces(folder, places("a"))
	require.NoError(t, err)
	require.Empty(t, list)
	write := func(key, text string, done bool) {
		of := filepath.Join(folder, "runs", key)
		require.NoError(t, os.MkdirAll(of, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(of, "run.json"), []byte(text), 0o644))
		if done {
			require.NoError(t, os.WriteFile(filepath.Join(of, "done"), nil, 0o644))
		}
	}
	record := func(draw int, seconds float64, bytes int64) string {
		return fmt.Sprintf(`{"key": "k%d", "dataset": "h", "network": "n", "method": "a", "shots": "5", "draw": %d, "seed": 3,
			"train_seconds": %g, "peak_bytes": %d, "trained_parameters": 77, "more": {},
			"curves": {"loss": [0.5, null, 0.25], "pseudo_dice": []},
			"touched": [{"name": "conv.weight", "touched": 3, "entries": 9}],
			"recall_by_size": [{"label": "1", "class": "<5", "found": 1, "nodes": 2}]}`, draw, draw, seconds, bytes)
	}
	write("a", record(0, 100, 10), true)
	write("b", record(1, 300, 20), true)
	write("c", record(2, 110, 0), true)
	write("unfinished", "{", false)
	list, unclear, err := ReadScored(folder, scored)
	require.NoError(t, err)
	require.Empty(t, unclear)
	again, err := ReadPlaces(folder, places("a", "b", "c", "unfinished", "not there"))
	require.NoError(t, err)
	for i := range again {
		require.Equal(t, []string{"a", "b", "c"}[i], again[i].Key, "that of the folder")
		again[i].Key = list[i].Key
	}
	require.Equal(t, again, list, "each once, whatever the labels, in the order of the scores")
	require.Len(t, list, 3)
	require.Equal(t, Name("1"), list[1].Draw)
	require.Equal(t, Name("3"), list[1].Seed)
	require.Nil(t, list[0].Curves.Loss[1])
	require.Equal(t, []Layer{{"conv.weight", 3, 9}}, list[0].Touched)
	made := analysed(t, "dataset,network,method,shots,draw,seed,case,Dice\nh,n,a,5,0,3,p,0.5\nh,n,b,5,0,3,p,0.5\n", "")
	Complete(made, list)
	require.Equal(t, 110.0, *made.Cells[0].Seconds)
	require.Equal(t, int64(15), *made.Cells[0].PeakBytes, "0 is not known")
	require.Equal(t, int64(77), *made.Cells[0].TrainedParameters)
	require.Nil(t, made.Cells[1].Seconds)

	for text, want := range map[string]string{
		`{`: "unexpected end of JSON input: is it the record of a run?",
		`{"touched": [{"name": "x", "touched": 5, "entries": 9000000000000000000}]}`: "found 5 entries updated of 9000000000000000000",
		`{"draw":[]}`: "is it the record of a run?",
		`{"touched": [{"name": "x", "touched": 5, "entries": 4}]}`:       "layer x: found 5 entries updated of 4",
		`{"recall_by_size": [{"class": "<5", "found": -1, "nodes": 4}]}`: "class <5: found -1 nodes found of 4",
	} {
		write("z", text, true)
		_, _, err := ReadScored(folder, scored)
		require.ErrorContains(t, err, want)
		_, err = ReadPlaces(folder, places("z"))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, filepath.Join("runs", "z", "run.json"))
	}

	// Which of two records the scores are of cannot be known; what has no scores is not theirs.
	write("z", record(1, 900, 1), true)
	write("y", record(7, 900, 1), true)
	list, unclear, err = ReadScored(folder, scored)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"b", "z"}, unclear)
	require.Equal(t, []Name{"0", "2"}, []Name{list[0].Draw, list[1].Draw})
}

// A run counts at each of its places, and as one training at all of them.
func TestARunHasAllItsPlaces(t *testing.T) {
	folder := t.TempDir()
	for key, seconds := range map[string]int{"a": 10, "b": 40, "c": 70} {
		of := filepath.Join(folder, "runs", key)
		require.NoError(t, os.MkdirAll(of, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(of, "done"), nil, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(of, "run.json"), fmt.Appendf(nil, `{"key": "old", "dataset": "h", "network":
			"was", "method": "was", "shots": "1", "draw": 9, "seed": 9, "train_seconds": %d, "curves": {"loss": [%[1]d, 1]},
			"touched": [{"name": "conv.weight", "touched": %[1]d, "entries": 100}],
			"recall_by_size": [{"label": "", "class": "<5", "found": %[1]d, "nodes": 100}]}`, seconds), 0o644))
	}
	// Draws 0 and 1 of the methods are one run; the methods are twins but in draw 3.
	list, err := ReadPlaces(folder, []Place{{"a", "h", "n", "full", "5", "0", "0"}, {"a", "h", "n", "full", "5", "1", "0"},
		{"a", "h", "n", "twin", "5", "0", "0"}, {"a", "h", "n", "twin", "5", "1", "0"}, {"b", "h", "n", "full", "5", "2", "0"},
		{"b", "h", "n", "twin", "5", "2", "0"}, {"c", "h", "n", "full", "5", "3", "0"}})
	require.NoError(t, err)
	require.Len(t, list, 7)
	made := analysed(t, "dataset,network,method,shots,draw,seed,case,Dice\nh,n,full,5,0,0,p,0.5\nh,n,full,5,1,0,p,0.5\n"+
		"h,n,full,5,2,0,p,0.5\nh,n,full,5,3,0,p,0.5\nh,n,twin,5,0,0,p,0.5\nh,n,twin,5,1,0,p,0.5\nh,n,twin,5,2,0,p,0.5\n", "")
	Complete(made, list)
	require.Equal(t, 40.0, *made.Cells[0].Seconds, "the median of three runs")
	require.Equal(t, 25.0, *made.Cells[1].Seconds, "of two")
	drawn := Draw(made, list)
	for _, kind := range []string{"curves", "touched"} {
		require.Contains(t, figure(t, drawn, kind).Caption, "means of 3 runs", kind)
	}
	for _, kind := range []string{"curves", "touched", "recall", "cost"} {
		alt := figure(t, drawn, kind).Alt
		require.Contains(t, alt, "full", kind)
		require.Contains(t, alt, "twin", kind)
		require.NotContains(t, alt, "was", kind)
	}
}

// Times and memory are in units that people use.
func TestCostsHaveHandyUnits(t *testing.T) {
	for _, c := range []struct {
		seconds float64
		bytes   int64
		titles  [2]string
		values  [2]float64
	}{
		{90, 300 << 20, [2]string{"time of a training (s)", "peak memory of a training (MiB)"}, [2]float64{90, 300}},
		{150, 3 << 30, [2]string{"time of a training (minutes)", "peak memory of a training (GiB)"}, [2]float64{2.5, 3}},
		{7200, 2 << 30, [2]string{"time of a training (hours)", "peak memory of a training (GiB)"}, [2]float64{2, 2}},
	} {
		cell := &table.Cell{Seconds: &c.seconds, PeakBytes: &c.bytes}
		for i, r := range resources([]*table.Row{{Cell: cell}, {Cell: &table.Cell{}}}) {
			require.Equal(t, c.titles[i], r.title)
			require.InDelta(t, c.values[i], r.of(cell), 1e-12)
			require.True(t, math.IsNaN(r.of(&table.Cell{})))
		}
	}
}

func TestNumbersOnAxes(t *testing.T) {
	texts := func(list []tick) (out []string) {
		for _, t := range list {
			out = append(out, t.text)
		}
		return out
	}
	require.Equal(t, []string{"−0.2", "−0.1", "0.0", "0.1"}, texts(ticks(-0.24, 0.14, 4)))
	require.Equal(t, []string{"0", "50", "100"}, texts(ticks(0, 100, 2)))
	require.Equal(t, []string{"0.7", "1", "1.5", "2", "3"}, texts(logTicks(0.7, 3.1)))
	require.Equal(t, []string{"1", "2", "5", "10", "20"}, texts(logTicks(1, 20)))
	require.Equal(t, []string{"1", "10", "100", "1000"}, texts(logTicks(1, 1000)))
	require.Empty(t, ticks(1, 1, 5))
}

// FuzzRecords draws what two records of a grid say, whatever that is.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"train_seconds": 1e300, "peak_bytes": 1, "curves": {"loss": [1e308, -1e308, null], "pseudo_dice": [0]},
		"touched": [{"name": "a.b", "touched": 0, "entries": 0}, {"name": "", "touched": 1, "entries": 1}],
		"recall_by_size": [{"label": "", "class": ">=x", "found": 0, "nodes": 1}, {"class": "<5", "found": 1, "nodes": 2}]}`))
	scores, err := table.Read([]byte("method,shots,draw,seed,case,Dice\na,5,0,0,p,0.5\na,5,1,0,p,0.6\nb,5,0,0,p,0.5\nb,5,1,0,p,0.5\n"),
		"scores.csv", nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Run
		if json.Unmarshal(text, &r) != nil || r.check() != nil {
			return
		}
		made, err := table.Make(context.Background(), scores, table.Settings{Primary: "Dice", Alpha: 0.05, Resamples: 2})
		require.NoError(t, err)
		r.Dataset, r.Network, r.Method = "", "", "a"
		if r.Shots != noShots {
			r.Shots = "5"
		}
		other := r
		other.Method = "b"
		runs := []Run{r, other}
		Complete(made, runs)
		for _, f := range Draw(made, runs) {
			p := drawnOn(f)
			for _, w := range p.texts {
				if strings.Contains(w.text, "NaN") || strings.Contains(w.text, "Inf") {
					t.Errorf("%s: %q", f.Name, w.text)
				}
			}
			for _, s := range append(p.strokes, p.fills...) {
				for _, at := range s.points {
					if math.IsNaN(float64(at.X + at.Y)) {
						t.Fatalf("%s: a point that is none", f.Name)
					}
				}
			}
			require.NoError(t, f.SVG(io.Discard))
		}
	})
}
