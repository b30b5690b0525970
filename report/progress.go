// Package report writes output for people: progress.png of a training run, panels of CT slices with
// truth and predictions, tables for the terminal and Markdown, and scalars for TensorBoard.
//
// Scores are computed by eval, the records of a run are kept by report/nnlog. Everything is pure Go
// and needs no display.
package report

import (
	"fmt"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/lntorch/lntorch/report/nnlog"
)

// Colours of progress.png, as in the reference.
var (
	blue  = color.RGBA{R: 31, G: 60, B: 220, A: 255}
	red   = color.RGBA{R: 215, G: 38, B: 38, A: 255}
	green = color.RGBA{R: 20, G: 130, B: 40, A: 255}
	light = color.RGBA{R: 90, G: 185, B: 100, A: 255} // Dice of single epochs, behind the average
	grey  = color.RGBA{R: 222, G: 222, B: 228, A: 255}
)

// Progress draws nnU-Net's progress.png, 1200 by 1800 pixels, with three plots over the epochs:
// training and validation loss, with the pseudo-Dice (dotted) and its moving average on the right
// axis; epoch duration; learning rate. The number of epochs is that of the log's shortest list;
// values that are not finite are omitted. A log without a complete epoch is an error.
// Source: nnunet_logger.py, plot_progress_png (there 3000 by 5400 pixels).
func Progress(path string, log *nnlog.Log) error {
	n := log.Epochs()
	if n == 0 {
		return fmt.Errorf("report: draw %s: the log has no complete epoch", path)
	}
	duration := make([]float64, n)
	for i := range duration {
		duration[i] = log.EpochEnd[i] - log.EpochStart[i]
	}
	loss := newChart("loss", n,
		series{label: "loss_tr", values: wide(log.TrainLosses[:n]), color: blue},
		series{label: "loss_val", values: wide(log.ValLosses[:n]), color: red})
	dice := newChart("pseudo dice", n,
		series{label: "pseudo dice", values: log.MeanFgDice[:n], color: light, dotted: true},
		series{label: "pseudo dice (mov. avg.)", values: log.EMAFgDice[:n], color: green})
	times := newChart("time [s]", n, series{label: "epoch duration", values: duration, color: blue})
	times.lo, times.hi = 0, max(1.02*times.hi, 1e-3)
	rate := newChart("learning rate", n, series{label: "learning rate", values: log.LRs[:n],
		color: blue})

	const width, height = 1200, 1800
	canvas := vgimg.NewWith(vgimg.UseWH(width*vg.Inch/96, height*vg.Inch/96), vgimg.UseDPI(96))
	page := draw.New(canvas)
	plots := [][]*plot.Plot{{loss.plot()}, {times.plot()}, {rate.plot()}}
	tiles := draw.Tiles{Rows: 3, Cols: 1, PadLeft: 16, PadRight: 80, PadTop: 40, PadBottom: 16,
		PadY: 56}
	areas := plot.Align(plots, tiles, page)
	for row, c := range []*chart{loss, times, rate} {
		p, area := plots[row][0], areas[row][0]
		if c == loss { // the right axis shares the plot, scaled to the left axis's range
			p.Add(twin{dice, loss})
		}
		p.Draw(area)
		data := p.DataCanvas(area)
		entries := c.series
		if c == loss {
			dice.drawRightAxis(data, p)
			entries = append(entries[:len(entries):len(entries)], dice.series...)
		}
		drawLegend(data, p, entries)
	}
	return writePNG(path, canvas.Image())
}

func wide(values []float32) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out
}

// series is one line of a chart; values[i] belongs to epoch i.
type series struct {
	label  string
	values []float64
	color  color.Color
	dotted bool
}

func (s *series) style() draw.LineStyle {
	style := draw.LineStyle{Color: s.color, Width: vg.Points(1.8)}
	if len(s.values) > 200 {
		style.Width = vg.Points(1.2)
	}
	if s.dotted {
		style.Width *= 0.75
		style.Dashes = []vg.Length{vg.Points(2), vg.Points(2.5)}
	}
	return style
}

// chart is one value axis with its series, a gonum plotter.
type chart struct {
	title  string
	epochs int
	series []series
	lo, hi float64 // range of the axis
}

func newChart(title string, epochs int, lines ...series) *chart {
	c := &chart{title: title, epochs: epochs, series: lines, lo: math.Inf(1), hi: math.Inf(-1)}
	for _, s := range lines {
		for _, v := range s.values {
			if finite(v) {
				c.lo, c.hi = min(c.lo, v), max(c.hi, v)
			}
		}
	}
	if c.lo > c.hi { // only NaN
		c.lo, c.hi = 0, 1
	}
	margin := 0.05 * (c.hi - c.lo)
	if margin == 0 {
		margin = max(0.05*math.Abs(c.hi), 1e-9)
	}
	c.lo, c.hi = c.lo-margin, c.hi+margin
	return c
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (c *chart) plot() *plot.Plot {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "epoch", c.title
	margin := max(0.02*float64(c.epochs-1), 0.1)
	p.X.Min, p.X.Max = -margin, float64(c.epochs-1)+margin
	p.Y.Min, p.Y.Max = c.lo, c.hi
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.TickerFunc(epochTicks), plot.TickerFunc(valueTicks)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Padding = 0
		axis.Label.Padding = vg.Points(6)
		axis.Label.TextStyle.Font = sans(15)
		axis.Tick.Label.Font = sans(13)
	}
	p.Add(grid{}, c)
	return p
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: plot.DefaultFont.Typeface, Variant: "Sans", Size: size}
}

// Plot draws the series on the plot's own axes.
func (c *chart) Plot(area draw.Canvas, p *plot.Plot) {
	c.drawOn(area, p, func(v float64) float64 { return v })
}

// drawOn draws the series with their values mapped to the plot's y axis.
func (c *chart) drawOn(area draw.Canvas, p *plot.Plot, onto func(float64) float64) {
	x, y := p.Transforms(&area)
	for i := range c.series {
		s := &c.series[i]
		var run []vg.Point
		flush := func() {
			if len(run) == 1 { // a line with one point is invisible
				area.DrawGlyph(draw.GlyphStyle{Color: s.color, Radius: vg.Points(2.5),
					Shape: draw.CircleGlyph{}}, run[0])
			} else if len(run) > 1 {
				area.StrokeLines(s.style(), run)
			}
			run = nil
		}
		for e, v := range s.values {
			if !finite(v) {
				flush()
				continue
			}
			run = append(run, vg.Point{X: x(float64(e)), Y: y(onto(v))})
		}
		flush()
	}
}

// twin draws a chart with values on the right axis.
type twin struct{ right, left *chart }

func (t twin) Plot(area draw.Canvas, p *plot.Plot) {
	scale := (t.left.hi - t.left.lo) / (t.right.hi - t.right.lo)
	t.right.drawOn(area, p, func(v float64) float64 { return t.left.lo + (v-t.right.lo)*scale })
}

// drawRightAxis draws the axis line, ticks and title to the right of the data area.
func (c *chart) drawRightAxis(data draw.Canvas, p *plot.Plot) {
	style := p.Y.Tick.Label
	style.XAlign, style.YAlign = draw.XLeft, draw.YCenter
	x := data.Max.X
	data.StrokeLine2(p.Y.LineStyle, x, data.Min.Y, x, data.Max.Y)
	var widest vg.Length
	for _, tick := range valueTicks(c.lo, c.hi) {
		if tick.Value < c.lo || tick.Value > c.hi {
			continue
		}
		y := data.Y((tick.Value - c.lo) / (c.hi - c.lo))
		data.StrokeLine2(p.Y.Tick.LineStyle, x, y, x+p.Y.Tick.Length, y)
		data.FillText(style, vg.Point{X: x + p.Y.Tick.Length + vg.Points(3), Y: y}, tick.Label)
		widest = max(widest, style.Width(tick.Label))
	}
	title := p.Y.Label.TextStyle
	title.Rotation = math.Pi / 2
	title.XAlign, title.YAlign = draw.XCenter, draw.YTop
	data.FillText(title, vg.Point{X: x + p.Y.Tick.Length + widest + vg.Points(10),
		Y: data.Center().Y}, c.title)
}

// drawLegend draws the names of the series in a row above the data area.
func drawLegend(data draw.Canvas, p *plot.Plot, entries []series) {
	style := p.Y.Tick.Label
	style.XAlign, style.YAlign = draw.XLeft, draw.YCenter
	x, y := data.Min.X, data.Max.Y+vg.Points(14)
	for i := range entries {
		data.StrokeLine2(entries[i].style(), x, y, x+vg.Points(28), y)
		x += vg.Points(33)
		data.FillText(style, vg.Point{X: x, Y: y}, entries[i].label)
		x += style.Width(entries[i].label) + vg.Points(22)
	}
}

// grid draws light lines at the ticks of both axes.
type grid struct{}

func (grid) Plot(area draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&area)
	style := draw.LineStyle{Color: grey, Width: vg.Points(0.7)}
	for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if t.Value >= p.X.Min && t.Value <= p.X.Max {
			area.StrokeLine2(style, x(t.Value), area.Min.Y, x(t.Value), area.Max.Y)
		}
	}
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if t.Value >= p.Y.Min && t.Value <= p.Y.Max {
			area.StrokeLine2(style, area.Min.X, y(t.Value), area.Max.X, y(t.Value))
		}
	}
}

// epochTicks returns up to about ten round whole numbers.
func epochTicks(lo, hi float64) []plot.Tick {
	return ticks(lo, hi, max(1, roundStep((hi-lo)/9)))
}

// valueTicks returns up to about eight round numbers.
func valueTicks(lo, hi float64) []plot.Tick { return ticks(lo, hi, roundStep((hi-lo)/7)) }

// roundStep returns the smallest of 1, 2, 5 times a power of ten that is at least x.
func roundStep(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= x*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

func ticks(lo, hi, step float64) []plot.Tick {
	decimals := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	format, precision := byte('f'), decimals
	if decimals > 5 || hi >= 1e6 {
		format, precision = 'g', 4
	}
	var out []plot.Tick
	for i := math.Ceil(lo / step); i*step <= hi; i++ {
		v := i * step
		if i == 0 {
			v = 0 // no "-0"
		}
		out = append(out, plot.Tick{Value: v, Label: strconv.FormatFloat(v, format, precision, 64)})
	}
	return out
}
