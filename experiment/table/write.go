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

// rows is what one table of methods shows: a dataset, network, label and metric.
type rows struct {
	dataset, network, label, metric string

	list []*line
}

// line is a row: a method at its shots, beside the best or the reference.
type line struct {
	*Cell

	against *Pair   // nil for the best, the reference, and what is not compared
	sign    float64 // -1 where the pair has the method as b
	role    string  // best or reference, empty else
	bold    bool
}

// tables arranges the cells of a metric.
func (t *Table) tables(primary bool) []*rows {
	type place struct{ dataset, network, label, metric string }
	found := map[place]*rows{}
	var list []*rows
	for i := range t.Cells {
		c := &t.Cells[i]
		if (c.Metric == t.Primary) != primary {
			continue
		}
		p := place{c.Dataset, c.Network, c.Label, c.Metric}
		r := found[p]
		if r == nil {
			r = &rows{dataset: c.Dataset, network: c.Network, label: c.Label, metric: c.Metric}
			found[p] = r
			list = append(list, r)
		}
		r.list = append(r.list, &line{Cell: c})
	}
	slices.SortStableFunc(list, func(a, b *rows) int { // as the metrics are ordered
		return slices.Index(t.Metrics, a.metric) - slices.Index(t.Metrics, b.metric)
	})
	pairs := t.pairsOf()
	for _, r := range list {
		slices.SortStableFunc(r.list, func(a, b *line) int { return shotsOf(a.Shots) - shotsOf(b.Shots) })
		for first := 0; first < len(r.list); {
			last := first
			for last < len(r.list) && r.list[last].Shots == r.list[first].Shots {
				last++
			}
			t.compare(r.list[first:last], pairs)
			first = last
		}
	}
	return list
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

// compare sets the methods of one number of shots beside the best, or the reference.
func (t *Table) compare(list []*line, pairs map[pairKey]*Pair) {
	sign := 1.0
	if slices.Contains(t.Lower, list[0].Metric) {
		sign = -1
	}
	var to *line
	reference := false
	for _, l := range list {
		if t.Reference != "" && l.Method == t.Reference {
			to, reference = l, true
			break
		}
		if math.IsNaN(l.Mean) {
			continue
		}
		if to == nil || sign*l.Mean > sign*to.Mean {
			to = l
		}
	}
	if to == nil || len(list) == 1 {
		return
	}
	to.role = "best"
	if reference {
		to.role = "reference"
	}
	tested := false
	for _, l := range list {
		if l == to {
			continue
		}
		key := pairKey{l.Dataset, l.Network, l.Shots, l.Label, l.Metric, l.Method, to.Method}
		l.sign = 1
		if l.against = pairs[key]; l.against == nil {
			key.a, key.b = key.b, key.a
			l.against, l.sign = pairs[key], -1
		}
		if l.against == nil || math.IsNaN(l.against.PHolm) {
			continue
		}
		tested = true
		significant := l.against.PHolm < t.Alpha
		if reference {
			l.bold = significant && sign*l.sign*l.against.Difference > 0
		} else {
			l.bold = !significant
		}
	}
	to.bold = tested && !reference
}

// title names what a table is about.
func (r *rows) title() string {
	var of []string
	for _, s := range []string{r.dataset, r.network, r.label} {
		if s != "" {
			of = append(of, s)
		}
	}
	if len(of) == 0 {
		return r.metric
	}
	return r.metric + ": " + strings.Join(of, ", ")
}

// percent is the confidence of the intervals.
func (t *Table) percent() string {
	return strconv.FormatFloat(math.Round(1e6*(1-t.Alpha))/1e4, 'g', -1, 64)
}

// against names what p values compare with.
func (t *Table) against() string {
	if t.Reference != "" {
		return t.Reference
	}
	return "the best"
}

// note is what a table of methods means.
func (t *Table) note(r *rows) string {
	var b strings.Builder
	direction := "more is better"
	if slices.Contains(t.Lower, r.metric) {
		direction = "less is better"
	}
	fmt.Fprintf(&b, "%s, mean over patients, draws of shots and seeds; %s. n = %s, %s, %s. ",
		r.metric, direction, span(r.list, "patient", func(c *Cell) int { return c.Patients }),
		span(r.list, "draw", func(c *Cell) int { return c.Draws }),
		span(r.list, "seed", func(c *Cell) int { return c.Seeds }))
	fmt.Fprintf(&b, "Intervals hold with %s %% for new patients and newly drawn shots (crossed random "+
		"effects, patients × draws", t.percent())
	if slices.ContainsFunc(r.list, func(l *line) bool { return l.Draws == 1 && l.Seeds > 1 }) {
		b.WriteString("; with one draw, patients × seeds: for new seeds of that draw")
	}
	fmt.Fprintf(&b, "). p: the same analysis of the paired difference from %s, after Holm over the "+
		"pairs at the same shots; %s. ", t.against(), t.made(r.metric))
	if t.Reference != "" {
		fmt.Fprintf(&b, "Bold: better than %s at %g. ", t.Reference, t.Alpha)
	} else {
		fmt.Fprintf(&b, "Bold: the best, and what it does not beat at %g. ", t.Alpha)
	}
	fmt.Fprintf(&b, "W/T/L: patients for whom the method is better than %s, tied, worse.", t.against())
	if r.metric != t.Primary {
		b.WriteString(" Exploratory: " + t.Primary + " is the primary metric.")
	}
	return b.String()
}

// made says how many tests there were.
func (t *Table) made(metric string) string {
	if n := t.Tests[metric]; n != 1 {
		return fmt.Sprintf("%d tests between methods or networks were made of %s", n, metric)
	}
	return "1 test between methods or networks was made of " + metric
}

// span counts things: as in all rows, or in the least and the most.
func span(list []*line, thing string, of func(c *Cell) int) string {
	low, high := of(list[0].Cell), of(list[0].Cell)
	for _, l := range list {
		low, high = min(low, of(l.Cell)), max(high, of(l.Cell))
	}
	switch {
	case high == 1 && low == 1:
		return "1 " + thing
	case low == high:
		return fmt.Sprintf("%d %ss", low, thing)
	}
	return fmt.Sprintf("%d to %d %ss", low, high, thing)
}

// number has three decimals, fewer above 100, an en dash where it is not known.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 100:
		return fmt.Sprintf("%.1f", v)
	case a >= 10:
		return fmt.Sprintf("%.2f", v)
	}
	if text := fmt.Sprintf("%.3f", v); text != "-0.000" {
		return text
	}
	return "0.000"
}

func pValue(p float64) string {
	switch {
	case math.IsNaN(p):
		return "–"
	case p < 0.001:
		return "<0.001"
	}
	return fmt.Sprintf("%.3f", p)
}

// between is an interval as text. With less than one degree of freedom it is so wide that its numbers
// say nothing.
func between(i Interval, df float64) string {
	switch {
	case i == nil:
		return "–"
	case df < 1:
		return "unknown (df < 1)"
	}
	return number(i[0]) + " to " + number(i[1])
}

// won is wins, ties and losses of the row's method.
func (l *line) won() string {
	if l.against == nil || l.against.N == 0 {
		return ""
	}
	win, loss := l.against.Win, l.against.Loss
	if l.sign < 0 {
		win, loss = loss, win
	}
	return fmt.Sprintf("%d/%d/%d", win, l.against.Tie, loss)
}

// p is the p value of the row, or what the others are compared with.
func (l *line) p() string {
	if l.against == nil {
		return l.role
	}
	return pValue(l.against.PHolm)
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
	for _, r := range t.tables(true) {
		if err := section(r.title(), t.methods(r), t.note(r)); err != nil {
			return err
		}
	}
	for _, by := range []string{"method", "network"} {
		if table := t.pairs(by); len(table.Rows) > 0 {
			if err := section("Differences of "+by+"s: "+t.Primary, table, t.pairsNote(by)); err != nil {
				return err
			}
		}
	}
	if table := t.gains(); len(table.Rows) > 0 {
		if err := section("More shots: "+t.Primary, table, "Difference of the same method, within a "+
			"draw, whose shots are nested; intervals hold with "+t.percent()+" % for new patients and "+
			"newly drawn shots; p is not adjusted."); err != nil {
			return err
		}
	}
	if table := t.nextCases(); len(table.Rows) > 0 {
		if err := section(fmt.Sprintf("What %d more cases would likely buy: %s", more, t.Primary), table,
			"An extrapolation of the least-squares slope over log2(shots), not a measurement; intervals "+
				"hold with "+t.percent()+" % for new patients and newly drawn shots, if the line goes on."); err != nil {
			return err
		}
	}
	for _, r := range t.tables(false) {
		if err := section(r.title()+" (exploratory)", t.methods(r), t.note(r)); err != nil {
			return err
		}
	}
	for _, text := range t.Warnings {
		fmt.Fprintf(&b, "- Warning: %s\n", markdown(text))
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
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

func (t *Table) methods(r *rows) report.Table {
	table := columns(">shots", "method", ">"+r.metric, t.percent()+" % interval", ">sd patients",
		">sd draws", ">sd seeds", ">p", ">W/T/L", ">n")
	for _, l := range r.list {
		table.Add(l.Shots, l.Method, strong(number(l.Mean), l.bold), between(l.CI, l.DF), number(l.SDPatients),
			number(l.SDDraws), number(l.SDSeeds), l.p(), l.won(), strconv.Itoa(l.Patients))
	}
	return table
}

func (t *Table) pairs(by string) report.Table {
	within := map[string]string{"method": "network", "network": "method"}[by]
	table := columns("dataset", within, "label", ">shots", "a", "b", ">a - b", t.percent()+" % interval",
		">p", ">p Holm", ">Wilcoxon p Holm", "patients alone", ">W/T/L", ">n")
	for i := range t.Pairs {
		p := &t.Pairs[i]
		if p.By != by || p.Metric != t.Primary {
			continue
		}
		table.Add(p.Dataset, p.Within, p.Label, p.Shots, p.A, p.B, number(p.Difference), between(p.CI, p.DF),
			pValue(p.P), pValue(p.PHolm), pValue(p.Wilcoxon.PHolm), between(p.CIPatients, math.NaN()),
			fmt.Sprintf("%d/%d/%d", p.Win, p.Tie, p.Loss), strconv.Itoa(p.N))
	}
	return filled(table)
}

func (t *Table) pairsNote(by string) string {
	within := map[string]string{"method": "network", "network": "method"}[by]
	return fmt.Sprintf("Difference a - b, paired by patient, draw and seed. Interval (%s %%) and p: "+
		"crossed random effects, for new patients and newly drawn shots. Wilcoxon and the interval of "+
		"patients alone (bootstrap, %d resamples, seed %d) answer another question: new patients, but "+
		"these trained models. Holm: over the pairs of one dataset, %s, number of shots and label. %s.",
		t.percent(), t.Resamples, t.Seed, within, t.made(t.Primary))
}

func (t *Table) gains() report.Table {
	table := columns("dataset", "network", "label", "method", ">from", ">to", ">difference",
		t.percent()+" % interval", ">p", ">n", ">draws")
	for i := range t.Gains {
		if g := &t.Gains[i]; g.Metric == t.Primary {
			table.Add(g.Dataset, g.Network, g.Label, g.Method, g.From, g.To, number(g.Difference),
				between(g.CI, g.DF), pValue(g.P), strconv.Itoa(g.N), strconv.Itoa(g.Draws))
		}
	}
	return filled(table)
}

func (t *Table) nextCases() report.Table {
	table := columns("dataset", "network", "label", "method", ">a doubling", t.percent()+" % interval",
		">from", ">to", ">difference", t.percent()+" % interval ", ">n", ">draws")
	for i := range t.Next {
		if n := &t.Next[i]; n.Metric == t.Primary {
			table.Add(n.Dataset, n.Network, n.Label, n.Method, number(n.Slope), between(n.CI, n.DF), n.From,
				strconv.Itoa(shotsOf(n.From)+n.More), number(n.Difference), between(n.CIDifference, n.DF),
				strconv.Itoa(n.N), strconv.Itoa(n.Draws))
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
// empty. difference, its interval and p are of the method less the best (or reference).
func (t *Table) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"dataset", "network", "method", "shots", "label", "metric", "n_patients",
		"n_draws", "n_seeds", "mean", "ci_low", "ci_high", "df", "sd_patients", "sd_draws", "sd_seeds",
		"median", "iqr", "ci_patients_low", "ci_patients_high", "against", "difference",
		"difference_ci_low", "difference_ci_high", "p", "p_holm", "wilcoxon_p", "wilcoxon_p_holm", "win",
		"tie", "loss", "tests", "exploratory", "incomplete"}); err != nil {
		return err
	}
	for _, r := range append(t.tables(true), t.tables(false)...) {
		var to string
		for i, l := range r.list {
			if i == 0 || l.Shots != r.list[i-1].Shots {
				to = ""
				for _, other := range r.list {
					if other.Shots == l.Shots && other.role != "" {
						to = other.Method
					}
				}
			}
			low, high := ends(l.CI)
			plow, phigh := ends(l.CIPatients)
			record := []string{l.Dataset, l.Network, l.Method, l.Shots, l.Label, l.Metric,
				strconv.Itoa(l.Patients), strconv.Itoa(l.Draws), strconv.Itoa(l.Seeds), full(l.Mean), low,
				high, full(l.DF), full(l.SDPatients), full(l.SDDraws), full(l.SDSeeds), full(l.Median),
				full(l.IQR), plow, phigh}
			if p := l.against; p != nil {
				low, high := ends(p.CI)
				win, loss := p.Win, p.Loss
				if l.sign < 0 {
					win, loss = loss, win
					if low, high = ends(p.CI); p.CI != nil {
						low, high = full(-p.CI[1]), full(-p.CI[0])
					}
				}
				record = append(record, to, full(l.sign*p.Difference), low, high, full(p.P),
					full(p.PHolm), full(p.Wilcoxon.P), full(p.Wilcoxon.PHolm), strconv.Itoa(win),
					strconv.Itoa(p.Tie), strconv.Itoa(loss))
			} else {
				record = append(record, make([]string, 11)...)
			}
			record = append(record, strconv.Itoa(t.Tests[l.Metric]),
				strconv.FormatBool(l.Metric != t.Primary), strconv.FormatBool(l.Incomplete))
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
// booktabs and siunitx.
func (t *Table) LaTeX(w io.Writer) error {
	var b strings.Builder
	b.WriteString("% \\usepackage{booktabs,siunitx}\n")
	for _, r := range append(t.tables(true), t.tables(false)...) {
		whole := 1 // digits before the point
		negative := ""
		for _, l := range r.list {
			if math.IsNaN(l.Mean) {
				continue
			}
			whole = max(whole, len(strconv.FormatFloat(math.Trunc(math.Abs(l.Mean)), 'f', 0, 64)))
			if l.Mean < 0 {
				negative = "-"
			}
		}
		fmt.Fprintf(&b, "\\begin{table}\n\\centering\n\\caption{%s. %s}\n", latex(r.title()),
			latex(t.note(r)))
		fmt.Fprintf(&b, "\\begin{tabular}{llS[table-format=%s%d.3,detect-weight,mode=text]cSSrr}\n"+
			"\\toprule\nshots & method & {%s} & {%s\\,\\%% interval} & {sd draws} & {sd seeds} & {$p$} & "+
			"{W/T/L} \\\\\n\\midrule\n", negative, whole, latex(r.metric), t.percent())
		for i, l := range r.list {
			shots := l.Shots
			if i > 0 && l.Shots == r.list[i-1].Shots {
				shots = ""
			} else if i > 0 {
				b.WriteString("\\addlinespace\n")
			}
			mean := cellOf(l.Mean)
			if l.bold {
				mean = "\\bfseries " + mean
			}
			ci := "{--}"
			if l.CI != nil && !(l.DF < 1) {
				ci = fmt.Sprintf("{\\num{%s} to \\num{%s}}", number(l.CI[0]), number(l.CI[1]))
			}
			fmt.Fprintf(&b, "%s & %s & %s & %s & %s & %s & %s & %s \\\\\n", latex(shots), latex(l.Method),
				mean, ci, cellOf(l.SDDraws), cellOf(l.SDSeeds), latexP(l.p()), l.won())
		}
		b.WriteString("\\bottomrule\n\\end{tabular}\n\\end{table}\n")
	}
	for _, text := range t.Warnings {
		b.WriteString("% Warning: " + strings.ReplaceAll(text, "\n", " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cellOf is a number for a column of siunitx.
func cellOf(v float64) string {
	if text := number(v); text != "–" {
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
