package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Chart is curves over epochs, with axes, a legend and the values as a table.
type Chart struct {
	ID     string
	Title  string
	X, Y   string // of the axes
	Series []Series
	Unit   bool // the y axis goes from 0 to 1
}

// Series is a curve: a value for x = 1, 2, …; NaN is a gap.
type Series struct {
	Name   string
	Values []float64
}

func (*Chart) kind() string { return "chart" }

// Paired is, for each of several names, a value before and after.
type Paired struct {
	ID     string
	Title  string
	X      string
	Names  []string
	Before []float64 // NaN where undefined; nil if there is none
	After  []float64
}

func (*Paired) kind() string { return "paired" }

// The drawing's own units.
const (
	chartWidth  = 680.0
	chartHeight = 300.0
	chartLeft   = 62.0
	chartRight  = 16.0
	chartTop    = 14.0
	chartBottom = 44.0
	pairedLeft  = 170.0
	pairedRow   = 26.0
)

// Tick is a place on an axis.
type Tick struct {
	At   string
	Text string
}

// Line is a curve as the attribute d of a path, and its points if there are few.
type Line struct {
	Path   string
	Points [][2]string
}

func coordinate(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// Epochs is the length of the longest series.
func (c *Chart) Epochs() int {
	n := 0
	for _, s := range c.Series {
		n = max(n, len(s.Values))
	}
	return n
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// limits are the ends of the y axis.
func (c *Chart) limits() (low, high float64) {
	if c.Unit {
		return 0, 1
	}
	low, high = math.Inf(1), math.Inf(-1)
	for _, s := range c.Series {
		for _, v := range s.Values {
			if finite(v) {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	switch {
	case low > high:
		return 0, 1
	case low == high:
		pad := max(math.Abs(low)*0.1, 0.1)
		return low - pad, high + pad
	}
	pad := (high - low) * 0.05
	return low - pad, high + pad
}

// steps lists round numbers from low to high, about n.
func steps(low, high float64, n int) []float64 {
	raw := (high - low) / float64(n)
	size := math.Pow(10, math.Floor(math.Log10(raw)))
	switch {
	case raw > 5*size:
		size *= 10
	case raw > 2*size:
		size *= 5
	case raw > size:
		size *= 2
	}
	var at []float64
	for k := math.Ceil(low/size - 1e-9); k*size <= high+size*1e-9 && len(at) < 100; k++ {
		at = append(at, k*size)
	}
	return at
}

func (c *Chart) x(epoch float64) float64 {
	n := float64(max(c.Epochs(), 2))
	return chartLeft + (epoch-1)/(n-1)*(chartWidth-chartLeft-chartRight)
}

func (c *Chart) y(v float64) float64 {
	low, high := c.limits()
	return chartHeight - chartBottom - (v-low)/(high-low)*(chartHeight-chartBottom-chartTop)
}

// XTicks are the ticks of epochs: whole numbers.
func (c *Chart) XTicks() []Tick {
	var ticks []Tick
	n := max(c.Epochs(), 2)
	for _, v := range append([]float64{1}, steps(1, float64(n), 8)...) {
		if v != math.Trunc(v) || v == 1 && len(ticks) > 0 {
			continue
		}
		if len(ticks) > 0 && c.x(v)-c.x(1) < 30 {
			continue
		}
		ticks = append(ticks, Tick{coordinate(c.x(v)), strconv.Itoa(int(v))})
	}
	return ticks
}

// YTicks are the ticks of values.
func (c *Chart) YTicks() []Tick {
	low, high := c.limits()
	var ticks []Tick
	for _, v := range steps(low, high, 5) {
		text := strings.Replace(strconv.FormatFloat(v, 'g', 4, 64), "-", "−", 1)
		if math.Abs(v) < (high-low)*1e-9 {
			text = "0"
		}
		ticks = append(ticks, Tick{coordinate(c.y(v)), text})
	}
	return ticks
}

// Lines are the curves; gaps interrupt them.
func (c *Chart) Lines() []Line {
	var lines []Line
	for _, s := range c.Series {
		var l Line
		var d strings.Builder
		command := "M"
		for i, v := range s.Values {
			if !finite(v) {
				command = "M"
				continue
			}
			x, y := coordinate(c.x(float64(i+1))), coordinate(c.y(v))
			fmt.Fprintf(&d, "%s%s %s", command, x, y)
			command = "L"
			if len(s.Values) <= 40 {
				l.Points = append(l.Points, [2]string{x, y})
			}
		}
		l.Path = d.String()
		lines = append(lines, l)
	}
	return lines
}

// Empty reports whether there is no value.
func (c *Chart) Empty() bool {
	for _, s := range c.Series {
		for _, v := range s.Values {
			if finite(v) {
				return false
			}
		}
	}
	return true
}

// Alt says in words what the curves do.
func (c *Chart) Alt() string {
	parts := []string{fmt.Sprintf("%s over %d epochs.", c.Y, c.Epochs())}
	for _, s := range c.Series {
		first, last, n := math.NaN(), math.NaN(), 0
		for _, v := range s.Values {
			if finite(v) {
				if n == 0 {
					first = v
				}
				last = v
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s: from %.3g to %.3g.", s.Name, first, last))
		}
	}
	return strings.Join(parts, " ")
}

// Table is the chart's values.
func (c *Chart) Table() *Table {
	t := &Table{ID: c.ID + "-values", Caption: c.Title + ": values",
		Columns: []Column{{Name: c.X, Number: true}}}
	for _, s := range c.Series {
		t.Columns = append(t.Columns, Column{Name: s.Name, Number: true})
	}
	for i := range c.Epochs() {
		row := Row{Cells: []Cell{count(i + 1)}}
		for _, s := range c.Series {
			v := math.NaN()
			if i < len(s.Values) {
				v = s.Values[i]
			}
			row.Cells = append(row.Cells, number(v, 4))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// PairedRow is a name with its two marks.
type PairedRow struct {
	Name          string
	Y, TextY      string
	Before, After string // x; "" where undefined
	Text          string
	TextX         string
}

// Height is that of the drawing.
func (p *Paired) Height() string {
	return coordinate(chartTop + pairedRow*float64(len(p.Names)) + chartBottom)
}

// Bottom is where the x axis lies.
func (p *Paired) Bottom() string { return coordinate(chartTop + pairedRow*float64(len(p.Names))) }

// TickY and TitleY are the base lines of what is written below the axis.
func (p *Paired) TickY() string {
	return coordinate(chartTop + pairedRow*float64(len(p.Names)) + 18)
}

// TitleY is the base line of the axis' title.
func (p *Paired) TitleY() string {
	return coordinate(chartTop + pairedRow*float64(len(p.Names)) + 38)
}

func (p *Paired) x(v float64) float64 {
	return pairedLeft + v*(chartWidth-pairedLeft-chartRight-30)
}

// Ticks are 0, 0.2, … 1.
func (p *Paired) Ticks() []Tick {
	var ticks []Tick
	for i := range 6 {
		ticks = append(ticks, Tick{coordinate(p.x(float64(i) / 5)), fmt.Sprintf("%.1f", float64(i)/5)})
	}
	return ticks
}

// Rows are the names with their marks.
func (p *Paired) Rows() []PairedRow {
	at := func(values []float64, i int) (string, float64) {
		if i >= len(values) || !finite(values[i]) {
			return "", math.NaN()
		}
		return coordinate(p.x(min(max(values[i], 0), 1))), values[i]
	}
	var rows []PairedRow
	for i, name := range p.Names {
		y := chartTop + pairedRow*(float64(i)+0.5)
		r := PairedRow{Name: shorten(name, 18), Y: coordinate(y), TextY: coordinate(y + 4)}
		var before, after float64
		r.Before, before = at(p.Before, i)
		r.After, after = at(p.After, i)
		if r.Before == "" && r.After == "" {
			r.Text, r.TextX = "undefined", coordinate(pairedLeft+6)
		} else {
			most := max(before, after)
			if math.IsNaN(most) {
				if most = before; math.IsNaN(most) {
					most = after
				}
			}
			value := after
			if math.IsNaN(value) {
				value = before
			}
			r.Text, r.TextX = fmt.Sprintf("%.2f", value), coordinate(p.x(min(max(most, 0), 1))+11)
		}
		rows = append(rows, r)
	}
	return rows
}

// Alt says in words what is drawn.
func (p *Paired) Alt() string {
	var parts []string
	word := func(values []float64, i int) string {
		if i >= len(values) || !finite(values[i]) {
			return "undefined"
		}
		return fmt.Sprintf("%.2f", values[i])
	}
	for i, name := range p.Names {
		if p.Before == nil {
			parts = append(parts, name+": "+word(p.After, i))
			continue
		}
		parts = append(parts, name+": "+word(p.Before, i)+" before, "+word(p.After, i)+" after")
	}
	return p.Title + ". " + strings.Join(parts, "; ") + "."
}

// shorten keeps the start and the end of a long name.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2]) + "…" + string(r[len(r)-(n-n/2-1):])
}
