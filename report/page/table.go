package page

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
)

// dash stands where a value is undefined.
const dash = "–"

// Table is a table that sorts by any column, filters, and copies itself as CSV.
type Table struct {
	ID      string // of the element; also names the copy
	Caption string
	Columns []Column
	Rows    []Row
	// Groups are the values of Row.Group to choose from, with GroupName before them; none for no
	// choice.
	Groups    []string
	GroupName string
	Fixed     bool   // short: neither sorts nor filters
	Note      string // below the table

	all int // rows before some were cut; 0 if none were
}

func (*Table) kind() string { return "table" }

// Find reports whether the table is long enough for a field that finds rows by their text.
func (t *Table) Find() bool { return len(t.Rows) > 8 }

// Long reports whether the table is longer than what is printed.
func (t *Table) Long() bool { return len(t.Rows) > 100 }

// Column is the head of a column.
type Column struct {
	Name   string
	Help   string // what it means, longer
	Number bool   // right-aligned, sorts by number
	Whole  bool   // its cells have one line
	// Set names the columns that belong together, as "before" and "after" of a metric do: it stands
	// above them.
	Set string
}

// Sets lists the heads above the columns' own, nil if there are none.
func (t *Table) Sets() []ColumnSet {
	var sets []ColumnSet
	named := false
	for i, c := range t.Columns {
		if i > 0 && c.Set != "" && c.Set == t.Columns[i-1].Set {
			sets[len(sets)-1].Span++
			continue
		}
		sets = append(sets, ColumnSet{c.Set, 1})
		named = named || c.Set != ""
	}
	if !named {
		return nil
	}
	return sets
}

// ColumnSet is a head above several columns.
type ColumnSet struct {
	Name string
	Span int
}

// Row is a row; its first cell is its head.
type Row struct {
	Group string
	Cells []Cell
}

// Cell is what stands in a table.
type Cell struct {
	Text   string
	Value  string // to sort by and to copy, where it is not Text
	Detail string // smaller, behind Text
	Mark   string // "good" or "bad": coloured, beside what Text says; or "strong"
}

func text(s string) Cell { return Cell{Text: s} }

func count(n int) Cell { return Cell{Text: strconv.Itoa(n)} }

// number is a value with so many digits behind the point, or a dash.
func number(v float64, digits int) Cell {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Cell{Text: dash, Value: " "}
	}
	return Cell{Text: decimal(v, digits), Value: strconv.FormatFloat(v, 'g', 10, 64)}
}

// decimal writes a number with a true minus sign.
func decimal(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(s, "-0.") == "" {
		s = strings.TrimPrefix(s, "-")
	}
	return strings.Replace(s, "-", "−", 1)
}

// meanCell is a mean with its deviation, and its n where it leaves cases out.
func meanCell(m scores.Mean, cases, digits int) Cell {
	c := number(float64(m.Mean), digits)
	if m.SD.Defined() {
		c.Detail = "± " + decimal(float64(m.SD), digits)
	}
	if m.N != cases {
		c.Detail = strings.TrimSpace(c.Detail + fmt.Sprintf(" n = %d", m.N))
	}
	return c
}

// change is the difference of two values, marked by whether it is for the better.
func change(before, after float64, digits int, lessIsBetter bool) Cell {
	d := after - before
	c := number(d, digits)
	if math.IsNaN(d) || strings.Trim(c.Text, "−0.") == "" {
		return c
	}
	if d > 0 {
		c.Text = "+" + c.Text
	}
	c.Mark = "bad"
	if (d > 0) != lessIsBetter {
		c.Mark = "good"
	}
	return c
}

// ratioCell is a share with its counts.
func ratioCell(v scores.Number, of, all int) Cell {
	c := number(float64(v), 2)
	c.Detail = fmt.Sprintf("%d of %d", of, all)
	return c
}

// metric is how a metric is shown.
type metric struct {
	name   string
	title  string
	help   string
	digits int
	less   bool // is better
}

// metricsOf lists what the tables of a case show: the overlap, surfaces at the settings' tolerance.
func metricsOf(s scores.Settings) []metric {
	t := strconv.FormatFloat(tolerance(s), 'f', -1, 64)
	return []metric{
		{"Dice", "Dice", "overlap of the volumes, 0 to 1", 3, false},
		{"NSD_" + t, "NSD " + t + " mm", "share of both surfaces within " + t +
			" mm of each other, 0 to 1", 3, false},
		{"HD95", "HD95 (mm)", "95th percentile of the distances between the surfaces", 1, true},
	}
}

// tolerance is that of the NSD in tables: 2 mm where it is scored, else the first.
func tolerance(s scores.Settings) float64 {
	if slices.Contains(s.Tolerances, 2) {
		return 2
	}
	return s.Tolerances[0]
}
