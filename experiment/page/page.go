// Package page makes report.html of an experiment: one file that asks for nothing elsewhere, with the
// tables, the pictures, a paragraph on the method that a paper can use, and table.json. It is made of
// report/page's parts; the numbers are experiment/table's, the pictures experiment/figures'.
package page

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/brief"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/report/page"
)

// Experiment is the content of report.html.
type Experiment struct {
	Name    string // of the experiment, or of the folder of scores
	Table   *table.Table
	Scores  []table.Run   // in the primary metric
	Runs    []figures.Run // that left a record; may be nil
	Figures []*figures.Figure
	Version string // of this program
}

// Limits of what a page holds: rows of a table, and bytes of table.json and of drawings.
const (
	mostRows     = 2000
	mostData     = 6 << 20
	mostDrawings = 5 << 20
)

// Write writes the page to path, which appears when it is complete.
func (e *Experiment) Write(path string) error {
	d, err := e.document()
	if err != nil {
		return err
	}
	return d.WriteFitted(path)
}

func (e *Experiment) document() (*page.Document, error) {
	d := &page.Document{Title: e.Name, Subtitle: "Few-shot fine-tuning: means, intervals and paired " +
		"comparisons over patients and draws of training cases."}
	runs := page.Section{ID: "runs", Title: "Runs", Blocks: []page.Block{e.runs()}}
	shots := page.Section{ID: "shots", Title: "More shots"}
	pictures := page.Section{ID: "pictures", Title: "Pictures"}
	used := 0
	for i, f := range e.Figures {
		block, err := drawing(f, i)
		if err != nil {
			return nil, err
		}
		to := &pictures
		if strings.HasPrefix(f.Name, "shots") {
			to = &shots
		}
		if used += len(block.SVG); used > mostDrawings {
			pictures.Blocks = append(pictures.Blocks, &page.Prose{Paragraphs: []string{fmt.Sprintf(
				"%d more pictures are in the folder plots: this page holds %d MB of them at most.",
				len(e.Figures)-i, mostDrawings>>20)}})
			break
		}
		to.Blocks = append(to.Blocks, block)
	}
	shots.Blocks = append(shots.Blocks, e.gains()...)
	if len(shots.Blocks) == 0 {
		shots.Blocks = []page.Block{&page.Prose{Paragraphs: []string{"Scores are of one number of shots: there " +
			"is nothing to compare."}}}
	}
	if len(pictures.Blocks) == 0 {
		pictures.Blocks = []page.Block{&page.Prose{Paragraphs: []string{"There is nothing to draw besides " +
			"scores by shots: neither comparisons nor records of runs."}}}
	}
	data, abridged, err := e.data()
	if err != nil {
		return nil, err
	}
	d.Data = data
	d.Sections = []page.Section{
		e.summary(abridged),
		{ID: "table", Title: "Table", Blocks: e.tables()},
		{ID: "pairs", Title: "Pairs", Blocks: e.pairs()},
		shots,
		runs,
		pictures,
		{ID: "method", Title: "Method", Blocks: e.method()},
	}
	return d, nil
}

// data is table.json, without what would make the page too large to send.
func (e *Experiment) data() (data any, abridged string, err error) {
	size := func(t *table.Table) (int, error) {
		var b bytes.Buffer
		_, err := report.JSON(&b, t)
		return b.Len(), err
	}
	t := *e.Table
	n, err := size(&t)
	if err != nil || n <= 2*mostData { // indented; compact it is about half
		return e.Table, "", err
	}
	t.Pairs = slices.DeleteFunc(slices.Clone(t.Pairs), func(p table.Pair) bool { return p.Exploratory })
	if n, err = size(&t); err != nil || n <= 2*mostData {
		return &t, "The data in this page have the comparisons of the primary metric alone; table.json has all.", err
	}
	t.Pairs = []table.Pair{}
	if n, err = size(&t); err != nil || n <= 2*mostData {
		return &t, "The data in this page have no comparisons; table.json has them.", err
	}
	t.Cells, t.Gains, t.Next = []table.Cell{}, []table.Gain{}, []table.Next{}
	return &t, "The data in this page have no table: it is too large; table.json has it.", nil
}

func drawing(f *figures.Figure, i int) (*page.Figure, error) {
	var b bytes.Buffer
	if err := f.SVG(&b); err != nil {
		return nil, err
	}
	w, h := f.Size()
	return &page.Figure{ID: fmt.Sprintf("figure-%d", i+1), Title: f.Title, Caption: f.Caption, Alt: f.Alt,
		SVG: b.Bytes(), Width: math.Round(w), Height: math.Round(h)}, nil
}

// different lists different values of the cells.
func (e *Experiment) different(of func(c *table.Cell) string) []string {
	var list []string
	for i := range e.Table.Cells {
		if v := of(&e.Table.Cells[i]); v != "" && !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// listed joins names, the first twelve.
func listed(list []string) string {
	return brief.Join(list, ", ", 12)
}

// rows are all rows of the primary metric.
func (e *Experiment) rows() []*table.Row {
	var list []*table.Row
	for _, g := range e.Table.Groups(true) {
		list = append(list, g.Rows...)
	}
	return list
}

func (e *Experiment) summary(abridged string) page.Section {
	t := e.Table
	facts := page.Facts{}
	add := func(name string, list []string) {
		if len(list) > 0 {
			facts = append(facts, page.Fact{Name: name, Value: listed(list)})
		}
	}
	add("Datasets", e.different(func(c *table.Cell) string { return c.Dataset }))
	add("Networks", e.different(func(c *table.Cell) string { return c.Network }))
	add("Methods", t.Methods())
	add("Labels", e.different(func(c *table.Cell) string { return c.Label }))
	shots := e.different(func(c *table.Cell) string { return c.Shots })
	slices.SortStableFunc(shots, figures.CompareShots)
	add("Shots", shots)
	facts = append(facts, page.Fact{Name: "Scored on", Value: table.Counts(e.rows())},
		page.Fact{Name: "Primary metric", Value: t.Primary})
	add("Exploratory", slices.DeleteFunc(slices.Clone(t.Metrics), func(m string) bool { return m == t.Primary }))
	if t.Reference != "" {
		facts = append(facts, page.Fact{Name: "Reference", Value: t.Reference})
	}
	facts = append(facts, page.Fact{Name: "Tests made", Value: fmt.Sprintf("%d of %s, adjusted by Holm's method "+
		"within those of one dataset, network, number of shots and label", t.Tests[t.Primary], t.Primary)})
	s := page.Section{ID: "summary", Title: "Summary", Blocks: []page.Block{facts}}
	if found := e.findings(); len(found) > 0 {
		found = append(found, "Methods that do not differ here are not shown to be equal: read the interval of "+
			"their difference under Pairs, and what it would mean at each of its ends.")
		s.Blocks = append(s.Blocks, &page.Prose{Head: "What these numbers allow to conclude", Paragraphs: found,
			List: true})
	}
	if len(t.Warnings) > 0 {
		s.Blocks = append(s.Blocks, &page.Prose{Head: "What limits them", Paragraphs: sentences(t.Warnings),
			List: true, Warning: true})
	}
	if abridged != "" {
		s.Blocks = append(s.Blocks, &page.Prose{Paragraphs: []string{abridged}})
	}
	return s
}

// sentences begin with a capital and end with a full stop.
func sentences(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		if s = strings.TrimRight(s, "."); s != "" {
			s = strings.ToUpper(s[:1]) + s[1:] + "."
		}
		out[i] = s
	}
	return out
}

// mostFindings bounds the sentences of the summary.
const mostFindings = 24

// findings say for each number of shots what the tests found.
func (e *Experiment) findings() []string {
	t := e.Table
	var list []string
	for _, g := range t.Groups(true) {
		for first := 0; first < len(g.Rows); {
			last := first + 1
			for last < len(g.Rows) && g.Rows[last].Shots == g.Rows[first].Shots {
				last++
			}
			if s := e.finding(g, g.Rows[first:last]); s != "" {
				list = append(list, s)
			}
			first = last
		}
	}
	if n := len(list); n > mostFindings {
		list = append(list[:mostFindings], fmt.Sprintf("%d more comparisons of this kind: see Table.", n-mostFindings))
	}
	return list
}

func (e *Experiment) finding(g *table.Group, rows []*table.Row) string {
	t := e.Table
	var to *table.Row
	var better, worse, open []string
	for _, r := range rows {
		if r.Against == nil || math.IsNaN(r.Against.PHolm) {
			continue
		}
		to = r.To
		gain := r.Sign * r.Against.Difference
		if slices.Contains(t.Lower, t.Primary) {
			gain = -gain
		}
		switch {
		case r.Against.PHolm >= t.Alpha:
			open = append(open, r.Method)
		case gain > 0:
			better = append(better, r.Method)
		default:
			worse = append(worse, r.Method)
		}
	}
	if to == nil || len(better)+len(worse)+len(open) == 0 {
		return ""
	}
	var b strings.Builder
	where := []string{}
	for _, s := range []string{g.Dataset, g.Network, g.Label} {
		if s != "" {
			where = append(where, s)
		}
	}
	where = append(where, plural(rows[0].Shots))
	b.WriteString(strings.Join(where, ", ") + ": ")
	switch digits := t.Digits(t.Primary); {
	case to.Role == "best":
		fmt.Fprintf(&b, "%s has the best mean %s (%s)", to.Method, t.Primary, decimal(to.Mean, digits))
	default:
		fmt.Fprintf(&b, "beside %s (%s %s)", to.Method, t.Primary, decimal(to.Mean, digits))
	}
	for _, part := range []struct {
		list []string
		what string
	}{{better, "better"}, {worse, "worse"}, {open, "not shown to differ"}} {
		if len(part.list) > 0 {
			fmt.Fprintf(&b, "; %s: %s", part.what, listed(part.list))
		}
	}
	b.WriteString(".")
	return b.String()
}

func plural(shots string) string {
	if shots == "1" {
		return "1 shot"
	}
	return shots + " shots"
}

// decimal writes a number with a true minus sign, a dash for none.
func decimal(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(s, "-0.") == "" {
		s = strings.TrimPrefix(s, "-")
	}
	return strings.Replace(s, "-", "−", 1)
}

func text(s string) page.Cell { return page.Cell{Text: s} }

func count(n int) page.Cell { return page.Cell{Text: strconv.Itoa(n)} }

// number shows so many digits, and sorts and copies all.
func number(v float64, digits int) page.Cell {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return page.Cell{Text: "–", Value: " "}
	}
	return page.Cell{Text: decimal(v, digits), Value: strconv.FormatFloat(v, 'g', -1, 64)}
}

func pValue(p float64) page.Cell {
	if math.IsNaN(p) {
		return page.Cell{Text: "–", Value: " "}
	}
	return page.Cell{Text: table.PValue(p), Value: strconv.FormatFloat(p, 'g', -1, 64)}
}

// between is an interval in one cell; it is copied as it is shown.
func between(i table.Interval, df float64, digits int) page.Cell {
	return page.Cell{Text: strings.ReplaceAll(table.Between(i, df, digits), "-", "−")}
}

// group is a number of shots among those to choose from, where "all" is to see every row.
func group(shots string) string {
	if shots == "all" {
		return "the whole pool"
	}
	return shots
}

// groups are those of rows, upwards, the whole pool last.
func groups(rows []page.Row) []string {
	var list []string
	for _, r := range rows {
		if !slices.Contains(list, r.Group) {
			list = append(list, r.Group)
		}
	}
	slices.SortStableFunc(list, figures.CompareShots)
	return list
}

// whole keeps a percent sign beside its number.
func whole(s string) string { return strings.ReplaceAll(s, " %", "\u00a0%") }

func (e *Experiment) tables() []page.Block {
	t := e.Table
	var blocks []page.Block
	for k, g := range append(t.Groups(true), t.Groups(false)...) {
		digits := t.Digits(g.Metric)
		caption := g.Title()
		if g.Metric != t.Primary {
			caption += " (exploratory)"
		}
		to := &page.Table{ID: fmt.Sprintf("methods-%d", k+1), Caption: caption, GroupName: "Shots",
			Note: whole(t.Note(g)), Columns: []page.Column{{Name: "Method"}, {Name: "Shots"},
				{Name: g.Metric, Number: true, Help: "mean over patients, draws and seeds"},
				{Name: t.Percent() + "\u00a0% interval", Whole: true, Help: "for new patients and newly drawn shots"},
				{Name: "SD patients", Number: true, Help: "of their means over draws and seeds"},
				{Name: "SD draws", Number: true, Help: "of their means over patients and seeds"},
				{Name: "SD seeds", Number: true},
				{Name: "p", Number: true, Help: "of the difference from the best, or the reference, after Holm"},
				{Name: "W/T/L", Whole: true, Help: "patients for whom the method is better, tied, worse"},
				{Name: "n", Number: true, Help: "patients"}}}
		for _, r := range g.Rows {
			mean := number(r.Mean, digits)
			if r.Bold {
				mean.Mark = "strong"
			}
			p := page.Cell{Text: r.Role, Value: " "}
			if r.Against != nil {
				p = pValue(r.Against.PHolm)
			} else if r.Role == "" {
				p = pValue(math.NaN())
			}
			to.Rows = append(to.Rows, page.Row{Group: group(r.Shots), Cells: []page.Cell{text(r.Method), text(r.Shots), mean,
				between(r.CI, r.DF, digits), number(r.SDPatients, digits), number(r.SDDraws, digits),
				number(r.SDSeeds, digits), p, text(r.Won()), count(r.Patients)}})
		}
		to.Groups = groups(to.Rows)
		blocks = append(blocks, to)
	}
	return blocks
}

func (e *Experiment) pairs() []page.Block {
	t := e.Table
	digits := t.Digits(t.Primary)
	var blocks []page.Block
	for _, by := range []string{"method", "network"} {
		within := map[string]string{"method": "Network", "network": "Method"}[by]
		to := &page.Table{ID: by + "-pairs", Caption: fmt.Sprintf("Differences of %ss in %s", by, t.Primary),
			GroupName: "Shots", Note: whole(t.PairsNote(by)), Columns: []page.Column{{Name: "A"}, {Name: "B"},
				{Name: "Shots"}, {Name: within}, {Name: "Dataset"}, {Name: "Label"},
				{Name: "A − B", Number: true},
				{Name: t.Percent() + "\u00a0% interval", Whole: true, Help: "for new patients and newly drawn shots"},
				{Name: "p", Number: true}, {Name: "p Holm", Number: true},
				{Name: "Patients alone", Whole: true, Help: "bootstrap: new patients, these trained models"},
				{Name: "Wilcoxon p Holm", Number: true, Help: "new patients, these trained models"},
				{Name: "W/T/L", Whole: true}, {Name: "n", Number: true}, {Name: "Draws", Number: true},
				{Name: "Seeds", Number: true}}}
		all := 0
		for i := range t.Pairs {
			p := &t.Pairs[i]
			if p.By != by || p.Exploratory {
				continue
			}
			if all++; all > mostRows {
				continue
			}
			holm := pValue(p.PHolm)
			if p.PHolm < t.Alpha {
				holm.Mark = "strong"
			}
			to.Rows = append(to.Rows, page.Row{Group: group(p.Shots), Cells: []page.Cell{text(p.A), text(p.B),
				text(p.Shots), text(p.Within), text(p.Dataset), text(p.Label), number(p.Difference, digits),
				between(p.CI, p.DF, digits), pValue(p.P), holm, between(p.CIPatients, math.NaN(), digits),
				pValue(p.Wilcoxon.PHolm), text(fmt.Sprintf("%d/%d/%d", p.Win, p.Tie, p.Loss)), count(p.N),
				count(p.Draws), count(p.Seeds)}})
		}
		if all > mostRows {
			to.Note = fmt.Sprintf("The first %d of %d pairs; table.json has all. ", mostRows, all) + to.Note
		}
		if all > 0 {
			to.Groups = groups(to.Rows)
			blocks = append(blocks, filled(to))
		}
	}
	if len(blocks) == 0 {
		return []page.Block{&page.Prose{Paragraphs: []string{"Scores are of one method and one network: there is " +
			"nothing to compare."}}}
	}
	return blocks
}

// places are the columns that a caption names where all rows agree.
var places = []string{"Dataset", "Network", "Label"}

// filled leaves out columns in which nothing stands, and those that say the same in each row, which
// the caption then says.
func filled(t *page.Table) *page.Table {
	same := map[string]string{}
	for i := len(t.Columns) - 1; i >= 0; i-- {
		name, first := t.Columns[i].Name, ""
		if len(t.Rows) > 0 {
			first = t.Rows[0].Cells[i].Text
		}
		if slices.ContainsFunc(t.Rows, func(r page.Row) bool { return r.Cells[i].Text != first }) ||
			first != "" && !slices.Contains(places, name) {
			continue
		}
		same[name] = first
		t.Columns = slices.Delete(t.Columns, i, i+1)
		for k := range t.Rows {
			t.Rows[k].Cells = slices.Delete(t.Rows[k].Cells, i, i+1)
		}
	}
	for _, name := range places {
		if same[name] != "" {
			t.Caption += ", " + same[name]
		}
	}
	return t
}

func (e *Experiment) gains() []page.Block {
	t := e.Table
	digits := t.Digits(t.Primary)
	head := []page.Column{{Name: "Method"}, {Name: "Network"}, {Name: "Dataset"}, {Name: "Label"}}
	gains := &page.Table{ID: "gains", Caption: "More shots: " + t.Primary, Note: whole(t.GainsNote()),
		Columns: append(slices.Clone(head), page.Column{Name: "From"}, page.Column{Name: "To"},
			page.Column{Name: "Difference", Number: true}, page.Column{Name: t.Percent() + "\u00a0% interval", Whole: true},
			page.Column{Name: "p", Number: true}, page.Column{Name: "n", Number: true},
			page.Column{Name: "Draws", Number: true}, page.Column{Name: "Seeds", Number: true})}
	for i := range t.Gains {
		if g := &t.Gains[i]; g.Metric == t.Primary && len(gains.Rows) < mostRows {
			gains.Rows = append(gains.Rows, page.Row{Cells: []page.Cell{text(g.Method), text(g.Network), text(g.Dataset),
				text(g.Label), text(g.From), text(g.To), number(g.Difference, digits),
				between(g.CI, g.DF, digits), pValue(g.P), count(g.N), count(g.Draws), count(g.Seeds)}})
		}
	}
	next := &page.Table{ID: "next", Caption: t.NextTitle(), Note: whole(t.NextNote()),
		Columns: append(slices.Clone(head), page.Column{Name: "A doubling", Number: true},
			page.Column{Name: t.Percent() + "\u00a0% interval", Whole: true}, page.Column{Name: "From"}, page.Column{Name: "To"},
			page.Column{Name: "Difference", Number: true},
			page.Column{Name: t.Percent() + "\u00a0% interval of it", Whole: true}, page.Column{Name: "n", Number: true},
			page.Column{Name: "Draws", Number: true}, page.Column{Name: "Seeds", Number: true})}
	for i := range t.Next {
		if n := &t.Next[i]; n.Metric == t.Primary && len(next.Rows) < mostRows {
			from, _ := strconv.Atoi(n.From)
			next.Rows = append(next.Rows, page.Row{Cells: []page.Cell{text(n.Method), text(n.Network), text(n.Dataset),
				text(n.Label), number(n.Slope, digits), between(n.CI, n.DF, digits), text(n.From), count(from + n.More),
				number(n.Difference, digits), between(n.CIDifference, n.DF, digits), count(n.N), count(n.Draws),
				count(n.Seeds)}})
		}
	}
	var blocks []page.Block
	for _, t := range []*page.Table{gains, next} {
		if len(t.Rows) > 0 {
			blocks = append(blocks, filled(t))
		}
	}
	return blocks
}

// runs lists the runs with their means, and what their trainings took.
func (e *Experiment) runs() page.Block {
	type place struct{ dataset, network, method, shots, draw, seed string }
	records := map[place]*figures.Run{}
	for i := range e.Runs {
		r := &e.Runs[i]
		records[place{r.Dataset, r.Network, r.Method, r.Shots, string(r.Draw), string(r.Seed)}] = r
	}
	digits := e.Table.Digits(e.Table.Primary)
	t := &page.Table{ID: "all-runs", Caption: "Runs", GroupName: "Shots", Columns: []page.Column{{Name: "Method"},
		{Name: "Network"}, {Name: "Dataset"}, {Name: "Label"}, {Name: "Shots"}, {Name: "Draw"}, {Name: "Seed"},
		{Name: e.Table.Primary, Number: true, Help: "mean over patients"}, {Name: "n", Number: true, Help: "patients"},
		{Name: "Minutes", Number: true, Help: "of the training"},
		{Name: "Memory (GiB)", Number: true, Help: "at most while it trained"},
		{Name: "Trained parameters", Number: true}, {Name: "Key", Help: "name of its folder in runs"}},
		Note: "One training of a method on one draw of cases with one seed. Its mean alone says little: draws and " +
			"seeds scatter it." + e.Table.About()}
	missing := func(v *int64, unit float64, digits int) page.Cell {
		if v == nil || *v <= 0 {
			return page.Cell{}
		}
		return number(float64(*v)/unit, digits)
	}
	for i, r := range e.Scores {
		if i == mostRows {
			t.Note = fmt.Sprintf("The first %d of %d runs. ", mostRows, len(e.Scores)) + t.Note
			break
		}
		cells := []page.Cell{text(r.Method), text(r.Network), text(r.Dataset), text(r.Label), text(r.Shots),
			text(r.Draw), text(r.Seed), number(r.Mean, digits), count(r.Patients), {}, {}, {}, {}}
		if of := records[place{r.Dataset, r.Network, r.Method, r.Shots, r.Draw, r.Seed}]; of != nil {
			if of.Seconds != nil && *of.Seconds > 0 {
				cells[9] = number(*of.Seconds/60, 1)
			}
			cells[10] = missing(of.PeakBytes, 1<<30, 2)
			cells[11] = missing(of.TrainedParameters, 1, 0)
			cells[12] = text(of.Key)
		}
		t.Rows = append(t.Rows, page.Row{Group: group(r.Shots), Cells: cells})
	}
	t.Groups = groups(t.Rows)
	return filled(t)
}
