package page

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/brief"
)

// mostRows bounds the tables of nodes, mostBars the drawing of cases: beyond them a page says what
// it leaves out.
const (
	mostRows = 2000
	mostBars = 30
)

// notMeasured stands where there was no memory for nodes.
const notMeasured = "not measured"

// side is one of the models whose scores stand beside each other: none has a name where it is alone.
type side struct {
	name string
	*scores.Scores
}

// sides are models on the same cases, the last one being what the page is about.
type sides []side

func (s sides) main() *scores.Scores { return s[len(s)-1].Scores }

// names lists the cases in the order of the last side; those of other sides follow.
func (s sides) names() []string {
	var names []string
	for i := range s {
		for _, c := range s[len(s)-1-i].Cases {
			if !slices.Contains(names, c.Case) {
				names = append(names, c.Case)
			}
		}
	}
	return names
}

// label is the scores of a case by one side; nil if it has none.
func (s side) label(name, key string) *scores.Label {
	for _, c := range s.Cases {
		if c.Case == name {
			return c.Labels[key]
		}
	}
	return nil
}

// value is a metric of a case, NaN where there is none.
func (s side) value(name, key, metric string) float64 {
	if l := s.label(name, key); l != nil {
		return float64(l.Metrics.Get(metric))
	}
	return math.NaN()
}

// titled is a text about one label, which is named where there are several.
func (s sides) titled(what, key string) string {
	if len(s.main().Labels) < 2 {
		return what
	}
	return what + ": " + s.main().Labels[key]
}

// columns appends a column for each side, under the head of what they show.
func (s sides) columns(to []Column, set, help string) []Column {
	if len(s) == 1 {
		return append(to, Column{Name: set, Help: help, Number: true})
	}
	for _, one := range s {
		to = append(to, Column{Name: one.name, Set: set, Help: help, Number: true})
	}
	return to
}

// means is the table of means over the cases.
func (s sides) means(key string) *Table {
	t := &Table{ID: "means-" + key, Caption: s.titled("Mean over the cases", key), Fixed: true,
		Columns: []Column{{Name: "Score"}}}
	if len(s) == 1 {
		t.Columns = append(t.Columns, Column{Name: "Mean", Number: true})
	} else {
		for _, one := range s {
			t.Columns = append(t.Columns, Column{Name: one.name, Number: true})
		}
	}
	if len(s) == 2 {
		t.Columns = append(t.Columns, Column{Name: "Change", Number: true,
			Help: "mean of the differences of the cases where both are defined"},
			Column{Name: "Better in", Number: true, Help: "cases"})
	}
	t.Columns = append(t.Columns, Column{Name: "n", Number: true,
		Help: "cases where the score is defined"})
	for _, m := range metricsOf(s.main().Settings) {
		row := Row{Cells: []Cell{{Text: m.title, Detail: m.help}}}
		for _, one := range s {
			row.Cells = append(row.Cells, meanCell(one.Mean[key][m.name], len(one.Cases), m.digits))
		}
		n := s.main().Mean[key][m.name].N
		if len(s) == 2 {
			var sum float64
			var better int
			n, better, _, sum = s.compare(key, m)
			row.Cells = append(row.Cells, change(0, sum/float64(n), m.digits, m.less),
				text(fmt.Sprintf("%d of %d", better, n)))
		}
		row.Cells = append(row.Cells, count(n))
		t.Rows = append(t.Rows, row)
	}
	t.Note = "± is the standard deviation over the cases. A score that is undefined, such as a " +
		"distance to an empty mask, is left out of its mean, and n says how many cases are in."
	return t
}

// compare counts the cases where both of two sides have a metric, and where the second is better or
// worse, and sums the differences.
func (s sides) compare(key string, m metric) (n, better, worse int, sum float64) {
	for _, name := range s.names() {
		d := s[1].value(name, key, m.name) - s[0].value(name, key, m.name)
		if math.IsNaN(d) {
			continue
		}
		n++
		sum += d
		if m.less {
			d = -d
		}
		switch {
		case d > 0:
			better++
		case d < 0:
			worse++
		}
	}
	return n, better, worse, sum
}

// detection is the table of nodes found, by size.
func (s sides) detection(key string) *Table {
	rule := s.main().Settings.Match[0]
	t := &Table{ID: "detection-" + key, Caption: s.titled("Nodes found, all cases together", key),
		Fixed: true, Columns: []Column{{Name: "Short axis"}, {Name: "Nodes", Number: true,
			Help: "of the reference"}}, Note: "A node counts as found " + ruleText(rule) +
			". Recall is the share of the reference's nodes that are found, precision the share of " +
			"the predicted nodes that are true, by their own size; F1 is their harmonic mean." + s.leftOut(key)}
	t.Columns = s.columns(t.Columns, "Recall", "")
	t.Columns = s.columns(t.Columns, "Precision", "")
	t.Columns = s.columns(t.Columns, "F1", "")
	rows := []string{""}
	rows = append(rows, s.main().Settings.Classes()...)
	for _, class := range rows {
		row := Row{Cells: []Cell{text("all"), {}}}
		if class != "" {
			row.Cells[0] = text(classText(class))
		}
		var recall, precision, f1 []Cell
		for k := range s {
			d := s.detected(k, key, rule, class)
			row.Cells[1] = count(d.TP + d.FN)
			recall = append(recall, ratioCell(d.Recall, d.TP, d.TP+d.FN))
			precision = append(precision, ratioCell(d.Precision, d.Predicted-d.FP, d.Predicted))
			f1 = append(f1, number(float64(d.F1), 2))
		}
		row.Cells = slices.Concat(row.Cells, recall, precision, f1)
		t.Rows = append(t.Rows, row)
	}
	return t
}

// classText is a size class to be read.
func classText(class string) string { return strings.Replace(class, ">=", "≥", 1) + " mm" }

// detected are the counts of all cases by a rule on side k, of a size class or of all where it is "". Where nodes of
// a case were not measured on one side, it counts on none.
func (s sides) detected(k int, key string, rule scores.Rule, class string) *scores.Detection {
	none := &scores.Detection{Recall: scores.Number(math.NaN()), Precision: scores.Number(math.NaN()),
		F1: scores.Number(math.NaN())}
	a := s[k].Aggregate[key]
	if a == nil || a.Detection[rule.String()] == nil {
		return none
	}
	d := a.Detection[rule.String()]
	if out := s.unmeasured(key); out != nil {
		d, _ = s[k].Together(key, rule, out)
	}
	if class != "" {
		return cmp.Or(d.BySize[class], none)
	}
	return d
}

// unmeasured lists the cases of which a label's nodes were not measured on one side.
func (s sides) unmeasured(key string) (names []string) {
	for _, one := range s {
		names = append(names, one.Unmeasured(key)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// leftOut says which cases the counts of nodes leave out; "" if none.
func (s sides) leftOut(key string) string {
	out := s.unmeasured(key)
	if out == nil {
		return ""
	}
	all := len(s.names())
	return fmt.Sprintf(" n = %d of %s: left out is what had more nodes than there was memory for, %s.", all-len(out),
		plural(all, "case"), brief.Join(out, ", ", 10))
}

// noisy says of which cases and sides nodes are not listed; "" if of none.
func (s sides) noisy() string {
	var list []string
	for _, key := range s.main().Keys() {
		for _, one := range s {
			of := strings.TrimSpace(one.name)
			if len(s.main().Labels) > 1 {
				of = strings.TrimSpace(of + " " + one.Labels[key])
			}
			for _, name := range one.Unmeasured(key) {
				if of != "" {
					name += " (" + of + ")"
				}
				list = append(list, name)
			}
		}
	}
	if list == nil {
		return ""
	}
	return "Not measured, as there was no memory for so many nodes: " + brief.Join(list, ", ", 10) + "."
}

// ruleText says when a node is found.
func ruleText(r scores.Rule) string {
	if r.Any {
		return "when it shares a voxel with the other mask"
	}
	return fmt.Sprintf("when a node of the other side overlaps it with an IoU of at least %g, one to one",
		r.IoU)
}

// rules is the table of nodes found by every rule.
func (s sides) rules(key string) *Table {
	t := &Table{ID: "rules-" + key, Caption: s.titled("Nodes found, by rule", key), Fixed: true,
		Columns: []Column{{Name: "Rule"}}, Note: strings.TrimSpace(s.leftOut(key))}
	t.Columns = s.columns(t.Columns, "Recall", "")
	t.Columns = s.columns(t.Columns, "Precision", "")
	t.Columns = s.columns(t.Columns, "F1", "")
	t.Columns = s.columns(t.Columns, "Missed (ml)", "volume of nodes without a voxel in the prediction")
	t.Columns = s.columns(t.Columns, "Invented (ml)",
		"volume of predicted nodes without a voxel in the reference")
	for _, rule := range s.main().Settings.Match {
		var recall, precision, f1, missed, invented []Cell
		for k := range s {
			d := s.detected(k, key, rule, "")
			recall = append(recall, ratioCell(d.Recall, d.TP, d.TP+d.FN))
			precision = append(precision, ratioCell(d.Precision, d.Predicted-d.FP, d.Predicted))
			f1 = append(f1, number(float64(d.F1), 2))
			missed = append(missed, millilitres(d.MissedMM3))
			invented = append(invented, millilitres(d.InventedMM3))
		}
		t.Rows = append(t.Rows, Row{Cells: slices.Concat([]Cell{{Text: rule.String(),
			Detail: ruleText(rule)}}, recall, precision, f1, missed, invented)})
	}
	return t
}

func millilitres(mm3 *float64) Cell {
	if mm3 == nil {
		return number(math.NaN(), 0)
	}
	return number(*mm3/1000, 2)
}

// cases is the table of each case: the metrics, and its nodes found.
func (s sides) cases(key string) *Table {
	settings := s.main().Settings
	rule := settings.Match[0].String()
	t := &Table{ID: "scores-" + key, Caption: s.titled("Scores of each case", key),
		Columns: []Column{{Name: "Case"}}}
	metrics := metricsOf(settings)
	if len(s) == 1 {
		metrics = s.allMetrics(key)
	}
	for _, m := range metrics {
		t.Columns = s.columns(t.Columns, m.title, m.help)
	}
	t.Columns = append(t.Columns, Column{Name: "Nodes", Number: true, Help: "of the reference"})
	t.Columns = s.columns(t.Columns, "Found", "nodes of the reference")
	t.Columns = s.columns(t.Columns, "Invented", "predicted nodes that match none of the reference")
	for _, name := range s.names() {
		row := Row{Cells: []Cell{text(name)}}
		for _, m := range metrics {
			for i, one := range s {
				c := number(one.value(name, key, m.name), m.digits)
				if i == 1 && len(s) == 2 {
					c.Mark = change(s[0].value(name, key, m.name), one.value(name, key, m.name), m.digits,
						m.less).Mark
				}
				row.Cells = append(row.Cells, c)
			}
		}
		all := number(math.NaN(), 0)
		var found, invented []Cell
		for _, one := range s {
			l := one.label(name, key)
			if l == nil || l.Detection[rule] == nil {
				c := number(math.NaN(), 0)
				if l != nil && !l.Measured() {
					c.Text = notMeasured
				}
				found, invented = append(found, c), append(invented, c)
				continue
			}
			d := l.Detection[rule]
			all = count(d.TP + d.FN)
			found, invented = append(found, count(d.TP)), append(invented, count(d.FP))
		}
		row.Cells = slices.Concat(row.Cells, []Cell{all}, found, invented)
		t.Rows = append(t.Rows, row)
	}
	return t
}

// allMetrics lists all metrics that cases have.
func (s sides) allMetrics(key string) []metric {
	known := metricsOf(s.main().Settings)
	var list []metric
	for _, c := range s.main().Cases {
		if c.Labels[key] == nil {
			continue
		}
		for _, v := range c.Labels[key].Metrics {
			m := metric{name: v.Name, title: v.Name, digits: 3}
			for _, k := range known {
				if k.name == v.Name {
					m = k
				}
			}
			switch v.Name {
			case "volume_ref_mm3", "volume_pred_mm3":
				m.digits = 0
				m.title = map[string]string{"volume_ref_mm3": "Reference (mm³)",
					"volume_pred_mm3": "Prediction (mm³)"}[v.Name]
			case "HD", "ASSD":
				m.title, m.digits = v.Name+" (mm)", 2
			case "ASD_ref_to_pred":
				m.title, m.digits, m.help = "ASD ref→pred (mm)", 2, "mean distance from the reference's surface"
			case "ASD_pred_to_ref":
				m.title, m.digits, m.help = "ASD pred→ref (mm)", 2, "mean distance from the prediction's surface"
			}
			if t, ok := strings.CutPrefix(v.Name, "NSD_"); ok {
				m.title = "NSD " + t + " mm"
			}
			list = append(list, m)
		}
		break
	}
	return list
}

// nodeRow is a row to be, with what it is sorted by: rows are made of those alone that are shown.
type nodeRow struct {
	rank  int
	short float64
	make  func(i int) Row // of a mask's nodes
	index int
}

// nodeRows sorts rows and makes the first ones.
func (t *Table) nodeRows(rows []nodeRow) {
	slices.SortStableFunc(rows, func(a, b nodeRow) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.short, a.short))
	})
	if len(rows) > mostRows {
		t.all = len(rows)
		rows = rows[:mostRows]
	}
	for _, r := range rows {
		t.Rows = append(t.Rows, r.make(r.index))
	}
}

// found is the table of the reference's nodes: those that are missed first, large ones first.
func (s sides) found() *Table {
	several := len(s.main().Labels) > 1
	t := &Table{ID: "reference-nodes", Caption: "Nodes of the reference, missed ones first",
		GroupName: "Short axis", Groups: s.main().Settings.Classes(),
		Columns: []Column{{Name: "Case"}}, Note: s.noisy()}
	if several {
		t.Columns = append(t.Columns, Column{Name: "Label"})
	}
	t.Columns = append(t.Columns, nodeColumns()...)
	for _, one := range s {
		name := "Found"
		if len(s) > 1 {
			name = "Found " + one.name
		}
		t.Columns = append(t.Columns, Column{Name: name})
	}
	if len(s) == 2 {
		t.Columns = append(t.Columns, Column{Name: "Adaptation"})
	}
	after := ""
	if len(s) > 1 {
		after = " " + s[len(s)-1].name
	}
	t.Columns = append(t.Columns,
		Column{Name: "IoU" + after, Number: true, Help: "with its partner"},
		Column{Name: "Dice" + after, Number: true, Help: "with its partner"})
	var rows []nodeRow
	for _, c := range s.main().Cases {
		for _, key := range s.main().Keys() {
			l := c.Labels[key]
			if l == nil {
				continue
			}
			row := func(i int) Row {
				n := &l.Nodes.Reference[i]
				r := Row{Group: n.SizeClass, Cells: []Cell{text(c.Case)}}
				if several {
					r.Cells = append(r.Cells, text(s.main().Labels[key]))
				}
				r.Cells = append(r.Cells, nodeCells(n)...)
				var was []bool
				for _, one := range s {
					other := one.label(c.Case, key)
					switch {
					case other != nil && !other.Measured():
						r.Cells = append(r.Cells, text(notMeasured))
					case other == nil || len(other.Nodes.Reference) != len(l.Nodes.Reference):
						r.Cells = append(r.Cells, text(dash))
					default:
						matched := other.Nodes.Reference[i].Matched
						was = append(was, matched)
						r.Cells = append(r.Cells, foundCell(matched))
					}
				}
				if len(s) == 2 {
					r.Cells = append(r.Cells, becameCell(was))
				}
				r.Cells = append(r.Cells, optional(n.IoU), optional(n.Dice))
				return r
			}
			for i, n := range l.Nodes.Reference {
				one := nodeRow{short: n.ShortAxis, make: row, index: i}
				if n.Matched {
					one.rank = 1
				}
				rows = append(rows, one)
			}
		}
	}
	t.nodeRows(rows)
	return t
}

// cut leaves the first rows of a long table.
func (t *Table) cut(most int) {
	if len(t.Rows) > most {
		t.all = max(t.all, len(t.Rows))
		t.Rows = t.Rows[:most]
	}
}

// Shown says how many rows there are if not all are in the table.
func (t *Table) Shown() string {
	if t.all == 0 {
		return ""
	}
	return fmt.Sprintf("The first %d of %d rows.", len(t.Rows), t.all)
}

func nodeColumns() []Column {
	return []Column{{Name: "Node", Number: true},
		{Name: "Short axis (mm)", Number: true, Help: "in the axial slice with most of the node"},
		{Name: "Long axis (mm)", Number: true, Help: "in the axial slice with most of the node"},
		{Name: "Volume (mm³)", Number: true},
		{Name: "Slice", Number: true, Help: "counted from 1"},
		{Name: "Centre (mm, LPS)", Help: "x to the left, y to the back, z to the head", Whole: true}}
}

func nodeCells(n *scores.Node) []Cell {
	return []Cell{count(n.Node), number(n.ShortAxis, 1), number(n.LongAxis, 1), number(n.MM3, 0),
		count(n.Slice + 1), text(decimal(n.Centroid[0], 1) + ", " + decimal(n.Centroid[1], 1) + ", " +
			decimal(n.Centroid[2], 1))}
}

func foundCell(found bool) Cell {
	if found {
		return Cell{Text: "found"}
	}
	return Cell{Text: "missed", Mark: "bad"}
}

// becameCell says what adaptation did to a node.
func becameCell(found []bool) Cell {
	if len(found) != 2 {
		return text(dash)
	}
	switch [2]bool(found) {
	case [2]bool{false, true}:
		return Cell{Text: "gained", Mark: "good"}
	case [2]bool{true, false}:
		return Cell{Text: "lost", Mark: "bad"}
	}
	return text("same")
}

func optional(v *float64) Cell {
	if v == nil {
		return number(math.NaN(), 2)
	}
	return number(*v, 2)
}

// invented is the table of predicted nodes that match none of the reference, large ones first.
func (s sides) invented() *Table {
	several := len(s.main().Labels) > 1
	t := &Table{ID: "invented-nodes", Caption: "Predicted nodes that match none of the reference",
		GroupName: "Short axis", Groups: s.main().Settings.Classes(),
		Columns: []Column{{Name: "Case"}}, Note: s.noisy()}
	if len(s) > 1 {
		t.Columns = append(t.Columns, Column{Name: "Model"})
	}
	if several {
		t.Columns = append(t.Columns, Column{Name: "Label"})
	}
	t.Columns = append(t.Columns, nodeColumns()...)
	var rows []nodeRow
	for k, one := range s {
		for _, c := range one.Cases {
			for _, key := range one.Keys() {
				if c.Labels[key] == nil {
					continue
				}
				list := c.Labels[key].Nodes.Prediction
				row := func(i int) Row {
					n := &list[i]
					r := Row{Group: n.SizeClass, Cells: []Cell{text(c.Case)}}
					if len(s) > 1 {
						r.Cells = append(r.Cells, text(one.name))
					}
					if several {
						r.Cells = append(r.Cells, text(one.Labels[key]))
					}
					r.Cells = append(r.Cells, nodeCells(n)...)
					return r
				}
				for i, n := range list {
					if !n.Matched {
						rows = append(rows, nodeRow{rank: -k, short: n.ShortAxis, make: row, index: i})
					}
				}
			}
		}
	}
	t.nodeRows(rows)
	return t
}

// bars draws the Dice of each case, the worst first.
func (s sides) bars(key string) *Paired {
	p := &Paired{ID: "dice-" + key, X: "Dice", Title: s.titled("Dice of each case", key)}
	names := s.names()
	value := func(name string) float64 {
		v := s[len(s)-1].value(name, key, "Dice")
		if math.IsNaN(v) {
			return 2
		}
		return v
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(value(a), value(b)) })
	if len(names) > mostBars {
		p.Title += fmt.Sprintf(", the worst %d of %d", mostBars, len(names))
		names = names[:mostBars]
	}
	p.Names = names
	for _, name := range names {
		p.After = append(p.After, s[len(s)-1].value(name, key, "Dice"))
		if len(s) == 2 {
			p.Before = append(p.Before, s[0].value(name, key, "Dice"))
		}
	}
	return p
}

// failures is the table of cases without scores, nil if there are none.
func (s sides) failures() *Table {
	t := &Table{ID: "failed", Caption: "Cases that could not be scored", Columns: []Column{{Name: "Case"}}}
	if len(s) > 1 {
		t.Columns = append(t.Columns, Column{Name: "Model"})
	}
	t.Columns = append(t.Columns, Column{Name: "Reason"})
	for _, one := range s {
		for _, f := range one.Failed {
			row := Row{Cells: []Cell{text(f.Case)}}
			if len(s) > 1 {
				row.Cells = append(row.Cells, text(one.name))
			}
			t.Rows = append(t.Rows, Row{Cells: append(row.Cells, text(f.Error))})
		}
	}
	if t.Rows == nil {
		return nil
	}
	return t
}

// tiles are the numbers to see first.
func (s sides) tiles(key string) Tiles {
	rule := s.main().Settings.Match[0]
	mean := func(one side) float64 { return float64(one.Mean[key]["Dice"].Mean) }
	last := s[len(s)-1]
	d := s.detected(len(s)-1, key, rule, "")
	nodes := d.TP + d.FN
	tiles := Tiles{
		{Name: "Dice, mean", After: number(mean(last), 2).Text,
			Detail: fmt.Sprintf("n = %d", last.Mean[key]["Dice"].N)},
		{Name: "Nodes found", After: fmt.Sprint(d.TP), Detail: fmt.Sprintf("of %d", nodes)},
		{Name: "Nodes invented", After: fmt.Sprint(d.FP),
			Detail: fmt.Sprintf("of %d predicted", d.Predicted)},
	}
	if len(s) == 2 { // of the same cases on both sides
		b := s.detected(0, key, rule, "")
		was, is, n := s.paired(key, "Dice")
		tiles[0].Before, tiles[0].After = number(was, 2).Text, number(is, 2).Text
		tiles[0].Detail = fmt.Sprintf("n = %d", n)
		if all := len(s.names()); n < all {
			tiles[0].Detail += fmt.Sprintf(" of %d, where it is defined on both sides", all)
		}
		if tiles[0].Before != tiles[0].After { // a difference that is not seen is none to claim
			tiles[0].Better = sign(is - was)
		}
		tiles[1].Before, tiles[1].Better = fmt.Sprint(b.TP), cmp.Compare(d.TP, b.TP)
		tiles[2].Before, tiles[2].Better = fmt.Sprint(b.FP), cmp.Compare(b.FP, d.FP)
	}
	if out := len(s.unmeasured(key)); out > 0 {
		for i := range tiles[1:] {
			tiles[1+i].Detail += fmt.Sprintf("; n = %d of %d cases", len(s.names())-out, len(s.names()))
		}
	}
	for i := range tiles {
		tiles[i].Name = s.titled(tiles[i].Name, key)
	}
	return tiles
}

// paired are the means of a metric over the cases where both of two sides have it; NaN where none has.
func (s sides) paired(key, metric string) (was, is float64, n int) {
	for _, name := range s.names() {
		a, b := s[0].value(name, key, metric), s[1].value(name, key, metric)
		if !math.IsNaN(a) && !math.IsNaN(b) {
			was, is, n = was+a, is+b, n+1
		}
	}
	return was / float64(n), is / float64(n), n
}

func sign(v float64) int {
	switch {
	case v > 0:
		return 1
	case v < 0:
		return -1
	}
	return 0
}
