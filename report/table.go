package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Column is the head of a column; numbers are usually right-aligned.
type Column struct {
	Name  string
	Right bool
}

// Table is a small text table for the terminal or Markdown.
type Table struct {
	Columns []Column
	Rows    [][]string
}

// Add appends a row: one cell per column; missing cells are empty. It panics if there are more
// cells than columns.
func (t *Table) Add(cells ...string) {
	if len(cells) > len(t.Columns) {
		panic(fmt.Sprintf("report: %d cells in a table of %d columns", len(cells), len(t.Columns)))
	}
	row := make([]string, len(t.Columns))
	for i, c := range cells {
		row[i] = strings.Join(strings.Fields(c), " ") // no line breaks
	}
	t.Rows = append(t.Rows, row)
}

// Text writes the table with aligned columns, two spaces apart, a line below the head, and no
// trailing spaces.
func (t *Table) Text(w io.Writer) error {
	widths := t.widths(func(s string) string { return s })
	rules := make([]string, len(widths))
	for i, n := range widths {
		rules[i] = strings.Repeat("-", n)
	}
	var b strings.Builder
	for _, row := range append([][]string{t.names(), rules}, t.Rows...) {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(t.pad(i, cell, widths[i]))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown writes the table as Markdown with an aligned source.
func (t *Table) Markdown(w io.Writer) error {
	escape := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	widths := t.widths(escape)
	rules := make([]string, len(widths))
	for i := range widths {
		widths[i] = max(widths[i], 3)
		rules[i] = strings.Repeat("-", widths[i])
		if t.Columns[i].Right {
			rules[i] = rules[i][1:] + ":"
		}
	}
	var b strings.Builder
	for _, row := range append([][]string{t.names(), rules}, t.Rows...) {
		for i, cell := range row {
			b.WriteString("| " + t.pad(i, escape(cell), widths[i]) + " ")
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) names() []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

func (t *Table) widths(written func(string) string) []int {
	widths := make([]int, len(t.Columns))
	for _, row := range append([][]string{t.names()}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(written(cell)))
		}
	}
	return widths
}

func (t *Table) pad(column int, cell string, width int) string {
	blanks := strings.Repeat(" ", width-utf8.RuneCountInString(cell))
	if t.Columns[column].Right {
		return blanks + cell
	}
	return cell + blanks
}
