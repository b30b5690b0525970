package table

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/report"
)

// Group is what one table of methods shows: a dataset, network, label and metric.
type Group struct {
	Dataset, Network, Label, Metric string

	Rows []*Row // shots upwards, in each the methods in the order of the scores
}

// Row is a method at its shots, beside the best, or the reference, at these shots.
type Row struct {
	*Cell

	Against *Pair   // nil for the best, the reference, and what is not compared
	To      *Row    // what Against compares it with: that of Role at these shots, or the network as it is at 0
	Sign    float64 // -1 where the pair has the method as b
	Role    string  // best or reference, empty else
	Bold    bool    // the best, and what it does not beat; or what beats the reference
}

// Groups arranges the cells: those of the primary metric, or those of the others.
func (t *Table) Groups(primary bool) []*Group {
	type place struct{ dataset, network, label, metric string }
	found := map[place]*Group{}
	var list []*Group
	for i := range t.Cells {
		c := &t.Cells[i]
		if (c.Metric == t.Primary) != primary {
			continue
		}
		p := place{c.Dataset, c.Network, c.Label, c.Metric}
		r := found[p]
		if r == nil {
			r = &Group{Dataset: c.Dataset, Network: c.Network, Label: c.Label, Metric: c.Metric}
			found[p] = r
			list = append(list, r)
		}
		r.Rows = append(r.Rows, &Row{Cell: c})
	}
	slices.SortStableFunc(list, func(a, b *Group) int { // as the metrics are ordered
		return slices.Index(t.Metrics, a.Metric) - slices.Index(t.Metrics, b.Metric)
	})
	pairs := t.pairsOf()
	for _, r := range list {
		slices.SortStableFunc(r.Rows, func(a, b *Row) int { return shotsOf(a.Shots) - shotsOf(b.Shots) })
		for first := 0; first < len(r.Rows); {
			last := first
			for last < len(r.Rows) && r.Rows[last].Shots == r.Rows[first].Shots {
				last++
			}
			t.compare(r.Rows[first:last], r.untrained(t.Reference), pairs)
			first = last
		}
	}
	return list
}

// untrained is the row of a method at 0 shots, nil if there is none.
func (r *Group) untrained(method string) *Row {
	for _, l := range r.Rows {
		if l.Shots == "0" && l.Method == method {
			return l
		}
	}
	return nil
}

// HasReference reports whether the reference is a method, or a network: others of its kind are compared with it.
func (t *Table) HasReference(by string) bool {
	if by == "method" {
		return t.Reference != "" && slices.Contains(t.inOrder, t.Reference)
	}
	return t.Reference != "" && slices.ContainsFunc(t.Cells, func(c Cell) bool { return c.Network == t.Reference })
}

// pairKey finds the comparison of two methods.
type pairKey struct{ dataset, network, shots, label, metric, a, b string }

func (t *Table) pairsOf() map[pairKey]*Pair {
	pairs := map[pairKey]*Pair{}
	for i := range t.Pairs {
		if p := &t.Pairs[i]; p.By == "method" {
			pairs[pairKey{p.Dataset, p.Within, p.Shots, p.Label, p.Metric, p.A, p.B}] = p
		}
	}
	return pairs
}

// compare sets the methods of one number of shots beside the best, or the reference: theirs, or the network as it
// is, where that is the reference.
func (t *Table) compare(list []*Row, untrained *Row, pairs map[pairKey]*Pair) {
	sign := 1.0
	if slices.Contains(t.Lower, list[0].Metric) {
		sign = -1
	}
	to, reference := untrained, t.HasReference("method")
	for _, l := range list {
		switch {
		case reference:
			if l.Method == t.Reference {
				to = l
			}
		case !math.IsNaN(l.Mean) && (to == nil || sign*l.Mean > sign*to.Mean):
			to = l
		}
	}
	switch {
	case to == nil, len(list) == 1 && !reference:
		return
	case reference:
		to.Role = "reference"
	default:
		to.Role = "best"
	}
	tested := false
	for _, l := range list {
		if l == to {
			continue
		}
		key := pairKey{l.Dataset, l.Network, l.Shots, l.Label, l.Metric, l.Method, to.Method}
		l.Sign = 1
		if l.Against = pairs[key]; l.Against == nil {
			key.a, key.b = key.b, key.a
			l.Against, l.Sign = pairs[key], -1
		}
		if l.Against == nil {
			continue
		}
		l.To = to
		if math.IsNaN(l.Against.PHolm) {
			continue
		}
		tested = true
		significant := l.Against.PHolm < t.Alpha
		if reference {
			l.Bold = significant && sign*l.Sign*l.Against.Difference > 0
		} else {
			l.Bold = !significant
		}
	}
	to.Bold = tested && !reference
}

// Title names what a table is about.
func (r *Group) Title() string {
	var of []string
	for _, s := range []string{r.Dataset, r.Network, r.Label} {
		if s != "" {
			of = append(of, s)
		}
	}
	if len(of) == 0 {
		return r.Metric
	}
	return r.Metric + ": " + strings.Join(of, ", ")
}

// Percent is the confidence of the intervals, such as "95".
func (t *Table) Percent() string {
	return strconv.FormatFloat(math.Round(1e6*(1-t.Alpha))/1e4, 'g', -1, 64)
}

// Compared says what the rows of a group are compared with: the reference's name, or "the best"; and "" where
// nothing is compared.
func (t *Table) Compared(r *Group) string {
	switch {
	case !slices.ContainsFunc(r.Rows, func(l *Row) bool { return l.To != nil }):
		return ""
	case t.HasReference("method"):
		return t.Reference
	}
	return "the best"
}

// OneRun says of a group whose rows are compared with the network as it is how that is done; "" of any other.
// The text begins with a space.
func (r *Group) OneRun() string {
	for _, l := range r.Rows {
		if l.To != nil && l.To.Shots != l.Shots {
			return " " + l.To.Method + " is one run, of the network as it is, which stands for each draw and seed."
		}
	}
	return ""
}

// without says at which shots there is no reference to compare with. The text begins with a space.
func (t *Table) without(r *Group) string {
	var shots []string
	for _, l := range r.Rows {
		if t.HasReference("method") && l.To == nil && l.Role == "" && l.Shots != "0" && !slices.Contains(shots, l.Shots) {
			shots = append(shots, l.Shots)
		}
	}
	if shots == nil {
		return ""
	}
	return fmt.Sprintf(" Nothing is compared at %s shots, where there is no %s.", strings.Join(shots, ", "), t.Reference)
}

// Note is what a table of methods means: patients, draws, seeds, tests, what the intervals cover.
func (t *Table) Note(r *Group) string {
	var b strings.Builder
	direction := "more is better"
	if slices.Contains(t.Lower, r.Metric) {
		direction = "less is better"
	}
	list := extentsOf(r.Rows)
	fmt.Fprintf(&b, "%s, mean over patients, draws of shots and seeds; %s. n = %s. %s. ", r.Metric, direction,
		list.counts(), t.covers(list))
	to := t.Compared(r)
	if to == "" {
		fmt.Fprintf(&b, "No methods are compared here; %s.", t.made(r.Metric))
	} else {
		fmt.Fprintf(&b, "p: the same analysis of the paired difference from %s, after Holm over the "+
			"pairs at the same shots; %s. ", to, t.made(r.Metric))
		if t.HasReference("method") {
			fmt.Fprintf(&b, "Bold: better than %s at %g. ", to, t.Alpha)
		} else {
			fmt.Fprintf(&b, "Bold: the best, and what it does not beat at %g. ", t.Alpha)
		}
		tied := "tied"
		if v := t.Tie[r.Metric]; v > 0 {
			tied = fmt.Sprintf("tied (within %g)", v)
		}
		fmt.Fprintf(&b, "W/T/L: patients for whom the method is better than %s, %s, worse.", to, tied)
	}
	b.WriteString(r.OneRun() + t.without(r))
	if r.Metric != t.Primary {
		b.WriteString(" Exploratory: " + t.Primary + " is the primary metric.")
	}
	b.WriteString(t.cautions(list))
	return b.String()
}

// extent is how many patients, draws and seeds a row of a table is of.
type extent struct {
	patients, draws, seeds int
	leftOut                []string
	incomplete             bool
}

// factor is what stands for trainings in the row's interval: draw; seed, with one draw; "" with one run,
// which has no interval.
func (e extent) factor() string {
	switch {
	case e.draws > 1:
		return factors.draw
	case e.draws == 1 && e.seeds > 1:
		return factors.seed
	}
	return ""
}

func (c *Cell) extent() extent { return extent{c.Patients, c.Draws, c.Seeds, c.LeftOut, c.Incomplete} }
func (p *Pair) extent() extent { return extent{p.N, p.Draws, p.Seeds, p.LeftOut, p.Incomplete} }
func (g *Gain) extent() extent { return extent{patients: g.N, draws: g.Draws, seeds: g.Seeds} }
func (n *Next) extent() extent { return extent{patients: n.N, draws: n.Draws, seeds: n.Seeds} }

// extents are those of a table's rows.
type extents []extent

func extentsOf(list []*Row) extents {
	var all extents
	for _, l := range list {
		all = append(all, l.extent())
	}
	return all
}

// covers says what the intervals of a table hold for.
func (t *Table) covers(list extents) string {
	text := "Intervals hold with " + t.Percent() + " % for new patients and newly drawn shots (crossed random effects, " +
		"patients × draws"
	of := func(factor string) bool {
		return slices.ContainsFunc(list, func(e extent) bool { return e.factor() == factor })
	}
	switch {
	case of(factors.seed) && of(factors.draw):
		text += "; with one draw, patients × seeds: for new seeds of that draw"
	case of(factors.seed):
		return "Intervals hold with " + t.Percent() + " % for new patients and new seeds of one draw, and not for other " +
			"draws (crossed random effects, patients × seeds)"
	}
	return text + ")"
}

// cautions say where a table's intervals and tests are worth less than they claim, and what is wrong with
// how the scores came about. Each begins with a space.
func (t *Table) cautions(list extents) string {
	few, twice, once, incomplete := false, false, false, false
	left := map[string]bool{}
	for _, e := range list {
		few = few || e.patients < enoughPatients
		twice = twice || e.draws == 2
		once = once || e.draws == 1 && e.seeds == 1
		incomplete = incomplete || e.incomplete
		for _, patient := range e.leftOut {
			left[patient] = true
		}
	}
	var b strings.Builder
	if few {
		fmt.Fprintf(&b, " Caution: intervals are optimistic below %d test patients.", enoughPatients)
	}
	if twice {
		fmt.Fprintf(&b, " Caution: intervals and p are optimistic below %d draws.", enoughDraws)
	}
	if once {
		b.WriteString(" What was trained once has no interval and no p: nothing is known about other draws or seeds.")
	}
	if n := len(left); n > 0 {
		fmt.Fprintf(&b, " Without a score somewhere and left out there: %d of the patients.", n)
	}
	if incomplete {
		b.WriteString(" Draws with a missing run do not count.")
	}
	return b.String() + t.About()
}

// About says what is wrong with how the scores came about, such as a leak, for below a table: "", or
// sentences with a space before each.
func (t *Table) About() string {
	var b strings.Builder
	for _, text := range t.about {
		b.WriteString(" Caution: " + strings.TrimRight(text, ".") + ".")
	}
	return b.String()
}

// What fewer of make intervals optimistic.
const (
	enoughPatients = 20
	enoughDraws    = 3
)

// made says how many tests there were.
func (t *Table) made(metric string) string {
	if n := t.Tests[metric]; n != 1 {
		return fmt.Sprintf("%d tests between methods or networks were made of %s", n, metric)
	}
	return "1 test between methods or networks was made of " + metric
}

// Counts says of how many patients, draws and seeds rows are.
func Counts(list []*Row) string { return extentsOf(list).counts() }

// CountPatients says of how many patients rows are.
func CountPatients(list []*Row) string { return extentsOf(list).countPatients() }

// CountDraws says of how many draws rows are.
func CountDraws(list []*Row) string { return extentsOf(list).countDraws() }

// CountSeeds says of how many seeds rows are.
func CountSeeds(list []*Row) string { return extentsOf(list).countSeeds() }

func (list extents) counts() string {
	return list.countPatients() + ", " + list.countDraws() + ", " + list.countSeeds()
}

func (list extents) countPatients() string {
	return list.span("patient", func(e extent) int { return e.patients })
}

func (list extents) countDraws() string {
	return list.span("draw", func(e extent) int { return e.draws })
}
func (list extents) countSeeds() string {
	return list.span("seed", func(e extent) int { return e.seeds })
}

// span counts things: as in all rows, or in the least and the most.
func (list extents) span(thing string, of func(e extent) int) string {
	low, high := of(list[0]), of(list[0])
	for _, e := range list {
		low, high = min(low, of(e)), max(high, of(e))
	}
	switch {
	case high == 1 && low == 1:
		return "1 " + thing
	case low == high:
		return fmt.Sprintf("%d %ss", low, thing)
	}
	return fmt.Sprintf("%d to %d %ss", low, high, thing)
}

// Digits is the number of decimals of a metric, the same in all its columns: three where its means are
// below 10, two below 100, else one.
func (t *Table) Digits(metric string) int {
	largest := 0.0
	for i := range t.Cells {
		if c := &t.Cells[i]; c.Metric == metric && !math.IsNaN(c.Mean) {
			largest = max(largest, math.Abs(c.Mean))
		}
	}
	switch {
	case largest >= 100:
		return 1
	case largest >= 10:
		return 2
	}
	return 3
}

// number is v with so many decimals, an en dash where it is not known.
func number(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(text, "-0.") == "" {
		text = strings.TrimPrefix(text, "-")
	}
	return text
}

// PValue is a p value as text.
func PValue(p float64) string {
	switch {
	case math.IsNaN(p):
		return "–"
	case p < 0.001:
		return "<0.001"
	}
	return fmt.Sprintf("%.3f", p)
}

// Between is an interval as text. With less than one degree of freedom it is so wide that its numbers
// say nothing.
func Between(i Interval, df float64, digits int) string {
	switch {
	case i == nil:
		return "–"
	case df < 1:
		return "unknown (df < 1)"
	}
	return number(i[0], digits) + " to " + number(i[1], digits)
}

// Won is wins, ties and losses of the row's method.
func (l *Row) Won() string {
	if l.Against == nil || l.Against.N == 0 {
		return ""
	}
	win, loss := l.Against.Win, l.Against.Loss
	if l.Sign < 0 {
		win, loss = loss, win
	}
	return fmt.Sprintf("%d/%d/%d", win, l.Against.Tie, loss)
}

// P is the p value of the row, or what the others are compared with.
func (l *Row) P() string {
	if l.Against == nil {
		return l.Role
	}
	return PValue(l.Against.PHolm)
}

func columns(names ...string) report.Table {
	var t report.Table
	for _, n := range names {
		name, right := strings.CutPrefix(n, ">")
		t.Columns = append(t.Columns, report.Column{Name: name, Right: right})
	}
	return t
}

// Markdown writes tables with their notes: the primary metric's methods, differences of all pairs,
// gains and the price of more cases; then the methods in the other metrics.
func (t *Table) Markdown(w io.Writer) error {
	var b strings.Builder
	section := func(title string, table report.Table, note string) error {
		fmt.Fprintf(&b, "### %s\n\n", markdown(title))
		for _, row := range table.Rows {
			for i := range row {
				row[i] = markdown(row[i])
			}
		}
		if err := table.Markdown(&b); err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n%s\n\n", markdown(note))
		return nil
	}
	for _, r := range t.Groups(true) {
		if err := section(r.Title(), t.methods(r), t.Note(r)); err != nil {
			return err
		}
	}
	for _, by := range []string{"method", "network"} {
		if table := t.pairs(by); len(table.Rows) > 0 {
			if err := section("Differences of "+by+"s: "+t.Primary, table, t.PairsNote(by)); err != nil {
				return err
			}
		}
	}
	if table := t.gains(); len(table.Rows) > 0 {
		if err := section("More shots: "+t.Primary, table, t.GainsNote()); err != nil {
			return err
		}
	}
	if table := t.nextCases(); len(table.Rows) > 0 {
		if err := section(t.NextTitle(), table, t.NextNote()); err != nil {
			return err
		}
	}
	for _, r := range t.Groups(false) {
		if err := section(r.Title()+" (exploratory)", t.methods(r), t.Note(r)); err != nil {
			return err
		}
	}
	for _, text := range t.Warnings {
		fmt.Fprintf(&b, "- Warning: %s\n", markdown(text))
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// GainsNote is what the table of gains means.
func (t *Table) GainsNote() string {
	zero, tests := "", 0
	var list extents
	for i := range t.Gains {
		g := &t.Gains[i]
		if g.Metric != t.Primary {
			continue
		}
		list = append(list, g.extent())
		if g.From == "0" {
			zero = ", from 0 to the network as it is"
		}
		if !math.IsNaN(g.P) {
			tests++
		}
	}
	made := fmt.Sprintf("%d tests of it were made", tests)
	if tests == 1 {
		made = "1 test of it was made"
	}
	return "Difference of the same method, within a draw, whose shots are nested" + zero + ". " + list.under(t) +
		" p is not adjusted; " + made + "." + t.cautions(list)
}

// under says below a table of how many its rows are, and what their intervals hold for.
func (list extents) under(t *Table) string {
	if len(list) == 0 {
		return ""
	}
	return "n = " + list.counts() + ". " + t.covers(list) + "."
}

// NextTitle is the title of the table of what more cases would buy.
func (t *Table) NextTitle() string {
	return fmt.Sprintf("What %d more cases would likely buy: %s", more, t.Primary)
}

// NextNote is what that table means.
func (t *Table) NextNote() string {
	var list extents
	for i := range t.Next {
		if n := &t.Next[i]; n.Metric == t.Primary {
			list = append(list, n.extent())
		}
	}
	return "An extrapolation of the least-squares slope over log2(shots), not a measurement: it holds if the line goes on. " +
		list.under(t) + " Nothing is tested." + t.cautions(list)
}

// tag is where Markdown would read HTML.
var tag = regexp.MustCompile(`<([A-Za-z/!?])`)

// markdown keeps names from being read as HTML; bold marks are ours.
func markdown(s string) string { return tag.ReplaceAllString(s, "&lt;$1") }

// strong is bold in Markdown.
func strong(text string, bold bool) string {
	if bold {
		return "**" + text + "**"
	}
	return text
}

func (t *Table) methods(r *Group) report.Table {
	table := columns(">shots", "method", ">"+r.Metric, t.Percent()+" % interval", ">sd patients",
		">sd draws", ">sd seeds", ">p", ">W/T/L", ">n")
	digits := t.Digits(r.Metric)
	for _, l := range r.Rows {
		table.Add(l.Shots, l.Method, strong(number(l.Mean, digits), l.Bold), Between(l.CI, l.DF, digits),
			number(l.SDPatients, digits), number(l.SDDraws, digits), number(l.SDSeeds, digits), l.P(),
			l.Won(), strconv.Itoa(l.Patients))
	}
	return table
}

func (t *Table) pairs(by string) report.Table {
	within := map[string]string{"method": "network", "network": "method"}[by]
	table := columns("dataset", within, "label", ">shots", "a", "b", ">a - b", t.Percent()+" % interval",
		">p", ">p Holm", ">Wilcoxon p Holm", "patients alone", ">W/T/L", ">n", ">draws", ">seeds")
	digits := t.Digits(t.Primary)
	for i := range t.Pairs {
		p := &t.Pairs[i]
		if p.By != by || p.Metric != t.Primary {
			continue
		}
		table.Add(p.Dataset, p.Within, p.Label, p.Shots, p.A, p.B, number(p.Difference, digits), Between(p.CI, p.DF, digits),
			PValue(p.P), PValue(p.PHolm), PValue(p.Wilcoxon.PHolm), Between(p.CIPatients, math.NaN(), digits),
			fmt.Sprintf("%d/%d/%d", p.Win, p.Tie, p.Loss), strconv.Itoa(p.N), strconv.Itoa(p.Draws), strconv.Itoa(p.Seeds))
	}
	return filled(table)
}

// PairsNote is what a table of pairs of methods, or of networks, means.
func (t *Table) PairsNote(by string) string {
	within := map[string]string{"method": "network", "network": "method"}[by]
	var list extents
	for i := range t.Pairs {
		if p := &t.Pairs[i]; p.By == by && p.Metric == t.Primary {
			list = append(list, p.extent())
		}
	}
	return fmt.Sprintf("Difference a - b, paired by patient, draw and seed. %s p: the same analysis. Wilcoxon and the "+
		"interval of patients alone (bootstrap, %d resamples, seed %d) answer another question: new patients, but "+
		"these trained models. Holm: over the pairs of one dataset, %s, number of shots and label. %s.",
		list.under(t), t.Resamples, t.Seed, within, t.made(t.Primary)) + t.cautions(list)
}

func (t *Table) gains() report.Table {
	table := columns("dataset", "network", "label", "method", ">from", ">to", ">difference",
		t.Percent()+" % interval", ">p", ">n", ">draws", ">seeds")
	digits := t.Digits(t.Primary)
	for i := range t.Gains {
		if g := &t.Gains[i]; g.Metric == t.Primary {
			table.Add(g.Dataset, g.Network, g.Label, g.Method, g.From, g.To, number(g.Difference, digits),
				Between(g.CI, g.DF, digits), PValue(g.P), strconv.Itoa(g.N), strconv.Itoa(g.Draws), strconv.Itoa(g.Seeds))
		}
	}
	return filled(table)
}

func (t *Table) nextCases() report.Table {
	table := columns("dataset", "network", "label", "method", ">a doubling", t.Percent()+" % interval",
		">from", ">to", ">difference", t.Percent()+" % interval ", ">n", ">draws", ">seeds")
	digits := t.Digits(t.Primary)
	for i := range t.Next {
		if n := &t.Next[i]; n.Metric == t.Primary {
			table.Add(n.Dataset, n.Network, n.Label, n.Method, number(n.Slope, digits), Between(n.CI, n.DF, digits), n.From,
				strconv.Itoa(shotsOf(n.From)+n.More), number(n.Difference, digits), Between(n.CIDifference, n.DF, digits),
				strconv.Itoa(n.N), strconv.Itoa(n.Draws), strconv.Itoa(n.Seeds))
		}
	}
	return filled(table)
}

// filled leaves out columns without an entry, such as dataset where there is but one without a name.
func filled(t report.Table) report.Table {
	var out report.Table
	var keep []int
	for i, c := range t.Columns {
		if slices.ContainsFunc(t.Rows, func(row []string) bool { return row[i] != "" }) {
			keep = append(keep, i)
			out.Columns = append(out.Columns, c)
		}
	}
	for _, row := range t.Rows {
		var cells []string
		for _, i := range keep {
			cells = append(cells, row[i])
		}
		out.Add(cells...)
	}
	return out
}

// CSV writes a row for each method, shots, label and metric, in full precision; what is not known is
// empty. difference, its interval and p are of the method less the best (or reference). factor is what the
// method's interval holds for besides new patients: new draws, or new seeds; warnings are those on how the
// scores came about, the same in each row.
func (t *Table) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"dataset", "network", "method", "shots", "label", "metric", "n_patients",
		"n_draws", "n_seeds", "mean", "ci_low", "ci_high", "df", "sd_patients", "sd_draws", "sd_seeds",
		"median", "iqr", "ci_patients_low", "ci_patients_high", "against", "difference",
		"difference_ci_low", "difference_ci_high", "p", "p_holm", "wilcoxon_p", "wilcoxon_p_holm", "win",
		"tie", "loss", "tests", "exploratory", "incomplete", "factor", "warnings"}); err != nil {
		return err
	}
	for _, r := range append(t.Groups(true), t.Groups(false)...) {
		for _, l := range r.Rows {
			low, high := ends(l.CI)
			plow, phigh := ends(l.CIPatients)
			record := []string{l.Dataset, l.Network, l.Method, l.Shots, l.Label, l.Metric,
				strconv.Itoa(l.Patients), strconv.Itoa(l.Draws), strconv.Itoa(l.Seeds), full(l.Mean), low,
				high, full(l.DF), full(l.SDPatients), full(l.SDDraws), full(l.SDSeeds), full(l.Median),
				full(l.IQR), plow, phigh}
			if p := l.Against; p != nil {
				low, high := ends(p.CI)
				win, loss := p.Win, p.Loss
				if l.Sign < 0 {
					win, loss = loss, win
					if low, high = ends(p.CI); p.CI != nil {
						low, high = full(-p.CI[1]), full(-p.CI[0])
					}
				}
				record = append(record, l.To.Method, full(l.Sign*p.Difference), low, high, full(p.P),
					full(p.PHolm), full(p.Wilcoxon.P), full(p.Wilcoxon.PHolm), strconv.Itoa(win),
					strconv.Itoa(p.Tie), strconv.Itoa(loss))
			} else {
				record = append(record, make([]string, 11)...)
			}
			record = append(record, strconv.Itoa(t.Tests[l.Metric]),
				strconv.FormatBool(l.Metric != t.Primary), strconv.FormatBool(l.Incomplete), l.extent().factor(),
				strings.Join(t.about, "; "))
			if err := c.Write(record); err != nil {
				return err
			}
		}
	}
	c.Flush()
	return c.Error()
}

func full(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func ends(i Interval) (low, high string) {
	if i == nil {
		return "", ""
	}
	return full(i[0]), full(i[1])
}

// LaTeX writes a table environment for each metric, dataset, network and label, for the packages
// booktabs and siunitx (version 2 or 3). Notes stand below each table.
func (t *Table) LaTeX(w io.Writer) error {
	var b strings.Builder
	b.WriteString("% \\usepackage{booktabs,siunitx}\n")
	for _, r := range append(t.Groups(true), t.Groups(false)...) {
		digits := t.Digits(r.Metric)
		column := func(of func(l *Row) float64, options string) string {
			return "S[table-format=" + tableFormat(r.Rows, of, digits) + options + "]"
		}
		sd := func(of func(l *Row) float64) string { return column(of, "") }
		fmt.Fprintf(&b, "\\begin{table}\n\\centering\n\\caption{%s}\n\\begin{tabular}{ll%sc%s%s%slr}\n"+
			"\\toprule\nshots & method & {%s} & {%s\\,\\%% interval} & {sd patients} & {sd draws} & "+
			"{sd seeds} & $p$ & {W/T/L} \\\\\n\\midrule\n", latex(r.Title()),
			column(func(l *Row) float64 { return l.Mean }, ",detect-weight,mode=text"),
			sd(func(l *Row) float64 { return l.SDPatients }),
			sd(func(l *Row) float64 { return l.SDDraws }),
			sd(func(l *Row) float64 { return l.SDSeeds }), latex(r.Metric), t.Percent())
		for i, l := range r.Rows {
			shots := l.Shots
			if i > 0 && l.Shots == r.Rows[i-1].Shots {
				shots = ""
			} else if i > 0 {
				b.WriteString("\\addlinespace\n")
			}
			mean := cellOf(l.Mean, digits)
			if l.Bold {
				mean = "\\bfseries " + mean
			}
			ci := "{--}"
			if l.CI != nil && !(l.DF < 1) {
				ci = fmt.Sprintf("{\\num{%s} to \\num{%s}}", number(l.CI[0], digits),
					number(l.CI[1], digits))
			}
			fmt.Fprintf(&b, "%s & %s & %s & %s & %s & %s & %s & %s & %s \\\\\n", latex(shots),
				latex(l.Method), mean, ci, cellOf(l.SDPatients, digits), cellOf(l.SDDraws, digits),
				cellOf(l.SDSeeds, digits), latexP(l.P()), l.Won())
		}
		fmt.Fprintf(&b, "\\bottomrule\n\\end{tabular}\n\\par\\smallskip\n\\begin{minipage}{0.95\\linewidth}"+
			"\\footnotesize\n%s\n\\end{minipage}\n\\end{table}\n", latex(t.Note(r)))
	}
	for _, text := range t.Warnings {
		b.WriteString("% Warning: " + strings.ReplaceAll(text, "\n", " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tableFormat is siunitx's table-format of a column: digits before and behind the point.
func tableFormat(rows []*Row, of func(l *Row) float64, digits int) string {
	whole, sign := 1, ""
	for _, l := range rows {
		v := of(l)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		text := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
		whole = max(whole, strings.IndexByte(text, '.'))
		if v < 0 {
			sign = "-"
		}
	}
	return fmt.Sprintf("%s%d.%d", sign, whole, digits)
}

// cellOf is a number for a column of siunitx.
func cellOf(v float64, digits int) string {
	if text := number(v, digits); text != "–" {
		return text
	}
	return "{--}"
}

func latexP(p string) string {
	if p == "–" {
		return "--"
	}
	return strings.ReplaceAll(p, "<", "$<$")
}

var latexEscapes = strings.NewReplacer(`\`, `\textbackslash{}`, "{", `\{`, "}", `\}`, "_", `\_`, "%",
	`\%`, "&", `\&`, "#", `\#`, "$", `\$`, "~", `\textasciitilde{}`, "^", `\textasciicircum{}`, "<",
	`$<$`, ">", `$>$`, "×", `$\times$`, "–", "--", "≥", `$\geq$`)

// latex escapes a text.
func latex(s string) string { return latexEscapes.Replace(s) }
