package scores

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Comparison sets the scores of several models on the same cases side by side. Differences are those
// to the first model.
type Comparison struct {
	Models   []string                      `json:"models"`
	Labels   map[string]string             `json:"labels"` // names by eval.Target.Key
	Settings Settings                      `json:"settings"`
	Cases    []ComparedCase                `json:"cases"`
	Mean     map[string]map[string][]Gain  `json:"mean"`  // by label and metric: each model but the first
	Found    map[string]map[string]*Shared `json:"found"` // by label and size class; "all" holds all
	Nodes    []ComparedNode                `json:"nodes"` // of the reference
	// NotMeasured lists, by label, the cases of which not all models have nodes; Found and Nodes leave them out.
	NotMeasured map[string][]string `json:"not_measured,omitempty"`
}

// ComparedCase is a case as the models scored in it.
type ComparedCase struct {
	Case   string                         `json:"case"`
	Labels map[string]map[string]Compared `json:"labels"` // by label and metric
}

// Compared is one metric of one case.
type Compared struct {
	Values     []Number `json:"values"`     // of each model
	Difference []Number `json:"difference"` // of each model but the first to the first
}

// Gain is how a model differs from the first in one metric, over the cases where both are defined.
type Gain struct {
	Model  string `json:"model"`
	First  Number `json:"first"` // mean of the first model over these cases
	Value  Number `json:"value"` // mean of this one
	Mean          // of the differences
	Higher int    `json:"higher"` // cases
	Lower  int    `json:"lower"`
	Equal  int    `json:"equal"`
}

// Shared counts the nodes of the reference by who found them.
type Shared struct {
	Nodes   int            `json:"nodes"`
	All     int            `json:"all"`     // found by all models
	None    int            `json:"none"`    // by none
	Only    map[string]int `json:"only"`    // by that model alone
	Several int            `json:"several"` // by more than one, but not by all
}

// ComparedNode is a node of the reference and which models found it, by the headline rule.
type ComparedNode struct {
	Case      string     `json:"case"`
	Label     string     `json:"label"` // eval.Target.Key
	Node      int        `json:"node"`
	Voxels    int64      `json:"voxels"`
	MM3       float64    `json:"volume_mm3"`
	ShortAxis float64    `json:"short_axis_mm"`
	SizeClass string     `json:"size_class"`
	Slice     int        `json:"slice"`
	Centroid  [3]float64 `json:"centroid_lps_mm"` // x, y, z
	Found     []bool     `json:"found"`           // by each model
	IoU       []Number   `json:"iou"`             // with its match
}

// Compare sets scores side by side. It returns an error where they cannot be compared: where
// settings, labels, cases or the nodes of the references are not the same. Names of models are those
// in messages.
func Compare(models []string, all []*Scores) (*Comparison, error) {
	first := all[0]
	cases := make([]map[string]*Case, len(all))
	for i, s := range all {
		cases[i] = map[string]*Case{}
		for _, c := range s.Cases {
			cases[i][c.Case] = c
		}
		p := pair{[2]string{models[0], models[i]}, [2]*Scores{first, s},
			[2]map[string]*Case{cases[0], cases[i]}}
		if err := p.check(); i > 0 && err != nil {
			return nil, err
		}
	}
	c := &Comparison{Models: models, Labels: first.Labels, Settings: first.Settings,
		Mean: map[string]map[string][]Gain{}, Found: map[string]map[string]*Shared{},
		Cases: []ComparedCase{}, Nodes: []ComparedNode{}}
	for _, one := range first.Cases {
		row := ComparedCase{one.Case, map[string]map[string]Compared{}}
		for _, key := range first.Keys() {
			var labels []*Label
			for i := range all {
				labels = append(labels, cases[i][one.Case].Labels[key])
			}
			row.Labels[key] = c.metrics(labels)
			c.nodes(one.Case, key, labels)
		}
		c.Cases = append(c.Cases, row)
	}
	for _, key := range first.Keys() {
		c.Mean[key] = map[string][]Gain{}
		for _, name := range c.MetricNames() {
			for k := range models[1:] {
				c.Mean[key][name] = append(c.Mean[key][name], c.gain(key, name, k+1))
			}
		}
	}
	return c, nil
}

// MetricNames are the metrics that are compared: those of the masks, and of the nodes by the
// headline rule. fp is the number of nodes that were invented.
func (c *Comparison) MetricNames() []string {
	names := slices.DeleteFunc(c.Settings.Metrics(), func(n string) bool {
		return n == "volume_ref_mm3"
	})
	return append(names, Detections...)
}

func (c *Comparison) metrics(labels []*Label) map[string]Compared {
	row := map[string]Compared{}
	rule := c.Settings.Match[0].String()
	for _, name := range c.MetricNames() {
		var m Compared
		for _, l := range labels {
			m.Values = append(m.Values, l.Value(name, rule))
		}
		for _, v := range m.Values[1:] {
			m.Difference = append(m.Difference, v-m.Values[0]) // NaN where one is not defined
		}
		row[name] = m
	}
	return row
}

func (c *Comparison) nodes(name, key string, labels []*Label) {
	if c.Found[key] == nil {
		c.Found[key] = map[string]*Shared{}
		for _, class := range append([]string{"all"}, c.Settings.Classes()...) {
			s := &Shared{Only: map[string]int{}}
			for _, model := range c.Models {
				s.Only[model] = 0
			}
			c.Found[key][class] = s
		}
	}
	if slices.ContainsFunc(labels, func(l *Label) bool { return !l.Measured() }) {
		if c.NotMeasured == nil {
			c.NotMeasured = map[string][]string{}
		}
		c.NotMeasured[key] = append(c.NotMeasured[key], name)
		return
	}
	for i, n := range labels[0].Nodes.Reference {
		row := ComparedNode{Case: name, Label: key, Node: n.Node, Voxels: n.Voxels, MM3: n.MM3,
			ShortAxis: n.ShortAxis, SizeClass: n.SizeClass, Slice: n.Slice, Centroid: n.Centroid}
		count, by := 0, ""
		for k, l := range labels {
			n, iou := &l.Nodes.Reference[i], Number(math.NaN())
			if n.IoU != nil {
				iou = Number(*n.IoU)
			}
			row.Found, row.IoU = append(row.Found, n.Matched), append(row.IoU, iou)
			if n.Matched {
				count++
				by = c.Models[k]
			}
		}
		c.Nodes = append(c.Nodes, row)
		classes := []string{"all", n.SizeClass}
		if n.SizeClass == "" {
			classes = classes[:1]
		}
		for _, class := range classes {
			s := c.Found[key][class]
			s.Nodes++
			switch count {
			case 0:
				s.None++
			case len(labels):
				s.All++
			case 1:
				s.Only[by]++
			default:
				s.Several++
			}
		}
	}
}

// gain compares model k with the first one.
func (c *Comparison) gain(key, name string, k int) Gain {
	g := Gain{Model: c.Models[k]}
	var before, after, differences []float64
	for _, row := range c.Cases {
		m := row.Labels[key][name]
		d := m.Difference[k-1]
		if !d.Defined() {
			continue
		}
		before, after = append(before, float64(m.Values[0])), append(after, float64(m.Values[k]))
		differences = append(differences, float64(d))
		switch {
		case d > 0:
			g.Higher++
		case d < 0:
			g.Lower++
		default:
			g.Equal++
		}
	}
	g.First, g.Value, g.Mean = MeanOf(before).Mean, MeanOf(after).Mean, MeanOf(differences)
	return g
}

// pair is the scores of two models.
type pair struct {
	names  [2]string
	scores [2]*Scores
	cases  [2]map[string]*Case
}

// check says why they cannot be compared, or nil.
func (p *pair) check() error {
	a, b := p.scores[0], p.scores[1]
	both := p.names[0] + " and " + p.names[1]
	if what, x, y := a.Settings.difference(b.Settings); what != "" {
		return fmt.Errorf("%s were scored with different settings, %s %s and %s: evaluate both in "+
			"the same way", both, what, x, y)
	}
	if !slices.Equal(a.Keys(), b.Keys()) {
		return fmt.Errorf("%s were scored for different labels, %s and %s: evaluate both in the same "+
			"way", both, strings.Join(a.Keys(), " "), strings.Join(b.Keys(), " "))
	}
	for _, key := range a.Keys() { // a label without a name is called by its key
		if x, y := a.Labels[key], b.Labels[key]; x != y && x != key && y != key {
			return fmt.Errorf("%s call label %s %q and %q: these are different labels", both, key, x, y)
		}
	}
	for i := range p.names {
		if err := p.missing(i, 1-i); err != nil {
			return err
		}
	}
	for _, c := range a.Cases {
		for _, key := range a.Keys() {
			if why := sameReference(c.Labels[key], p.cases[1][c.Case].Labels[key]); why != "" {
				return fmt.Errorf("%s: the references of case %s, label %s, are not the same, %s: "+
					"compare predictions of one reference", both, c.Case, key, why)
			}
		}
	}
	return nil
}

// missing names the cases of one that the other lacks.
func (p *pair) missing(one, other int) error {
	var names []string
	for _, c := range p.scores[one].Cases {
		if p.cases[other][c.Case] == nil {
			names = append(names, c.Case)
		}
	}
	if names == nil {
		return nil
	}
	failed := ""
	if n := len(p.scores[other].Failed); n > 0 {
		failed = fmt.Sprintf("; %d failed there", n)
	}
	list := strings.Join(names[:min(len(names), 5)], ", ")
	if len(names) > 5 {
		list += ", …"
	}
	return fmt.Errorf("%s lacks %d of the %d cases of %s (%s%s): evaluate the same cases",
		p.names[other], len(names), len(p.scores[one].Cases), p.names[one], list, failed)
}

// difference names the first setting in which two differ, and both values; "" if there is none.
func (s Settings) difference(o Settings) (what, a, b string) {
	x, y := reflect.ValueOf(s), reflect.ValueOf(o)
	for i := range x.NumField() {
		a, b = fmt.Sprint(x.Field(i).Interface()), fmt.Sprint(y.Field(i).Interface())
		if a != b {
			what, _, _ = strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			return strings.ReplaceAll(what, "_", " "), cmp.Or(a, "undefined"), cmp.Or(b, "undefined")
		}
	}
	return "", "", ""
}

// sameReference says how the references of two predictions differ, or "".
func sameReference(a, b *Label) string {
	if !a.Measured() || !b.Measured() {
		const name = "volume_ref_mm3"
		if v, w := float64(a.Metrics.Get(name)), float64(b.Metrics.Get(name)); !(math.Abs(v-w) <= 1e-5*v) {
			return fmt.Sprintf("%g and %g mm³", v, w) // the spacings of two formats differ by float32
		}
		return ""
	}
	x, y := a.Nodes.Reference, b.Nodes.Reference
	if len(x) != len(y) {
		return fmt.Sprintf("%d and %d nodes", len(x), len(y))
	}
	for i := range x {
		if x[i].Voxels != y[i].Voxels || x[i].Slice != y[i].Slice {
			return fmt.Sprintf("node %d has %d voxels, most in slice %d, and %d, most in slice %d",
				i+1, x[i].Voxels, x[i].Slice, y[i].Voxels, y[i].Slice)
		}
		for k := range 3 { // mm; the grids of two formats differ by float32
			if !(math.Abs(x[i].Centroid[k]-y[i].Centroid[k]) < 0.01) {
				return fmt.Sprintf("node %d lies at %.2f and at %.2f mm", i+1, x[i].Centroid,
					y[i].Centroid)
			}
		}
	}
	return ""
}

// WriteCSV writes a row for each case, label and metric: the models' values, and their differences
// to the first. What is undefined is empty.
func (c *Comparison) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	header := append([]string{"case", "label", "name", "metric"}, c.Models...)
	for _, m := range c.Models[1:] {
		header = append(header, m+" - "+c.Models[0])
	}
	if err := out.Write(header); err != nil {
		return err
	}
	for _, row := range c.Cases {
		for _, key := range c.Keys() {
			for _, name := range c.MetricNames() {
				m := row.Labels[key][name]
				line := []string{row.Case, key, c.Labels[key], name}
				for _, v := range append(slices.Clone(m.Values), m.Difference...) {
					line = append(line, v.text())
				}
				if err := out.Write(line); err != nil {
					return err
				}
			}
		}
	}
	out.Flush()
	return out.Error()
}

// WriteNodesCSV writes a row for each node of the reference: for each model whether it found it, and
// the IoU with what it found.
func (c *Comparison) WriteNodesCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	header := []string{"case", "label", "node", "voxels", "volume_mm3", "short_axis_mm", "size_class",
		"slice", "centroid_x_lps_mm", "centroid_y_lps_mm", "centroid_z_lps_mm"}
	for _, m := range c.Models {
		header = append(header, m+" found", m+" iou")
	}
	if err := out.Write(header); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		line := []string{n.Case, n.Label, strconv.Itoa(n.Node), strconv.FormatInt(n.Voxels, 10),
			Number(n.MM3).text(), Number(n.ShortAxis).text(), n.SizeClass, strconv.Itoa(n.Slice)}
		for _, v := range n.Centroid {
			line = append(line, Number(v).text())
		}
		for k := range c.Models {
			line = append(line, strconv.FormatBool(n.Found[k]), n.IoU[k].text())
		}
		if err := out.Write(line); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// Keys lists the labels' keys as Scores.Keys does.
func (c *Comparison) Keys() []string { return (&Scores{Labels: c.Labels}).Keys() }

// Detections are the metrics of nodes by a rule: shares of the reference's nodes that are found and of the
// prediction's that are some, their harmonic mean, and the number of those that are none.
var Detections = []string{"recall", "precision", "F1", "fp"}

// Value is a metric of the label, which is one of the settings' or, by a rule, of Detections; NaN where it is not
// defined.
func (l *Label) Value(name, rule string) Number {
	if !slices.Contains(Detections, name) {
		return l.Metrics.Get(name)
	}
	d := l.Detection[rule]
	if d == nil {
		return Number(math.NaN())
	}
	return map[string]Number{"recall": d.Recall, "precision": d.Precision, "F1": d.F1, "fp": Number(d.FP)}[name]
}
