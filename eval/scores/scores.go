package scores

import (
	"encoding/csv"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/nodes"
)

// version is that of scores.json's form.
const version = 1

// New combines the scores of cases, whose order is kept. names are the labels' names by Target.Key;
// a target without one is called by its key.
func New(s Settings, targets []eval.Target, names map[string]string, cases []*Case,
	failed []Failed) *Scores {
	all := &Scores{Version: version, Labels: map[string]string{}, Settings: s, Cases: cases,
		Mean: map[string]map[string]Mean{}, Aggregate: map[string]*Aggregate{}, Failed: failed}
	if cases == nil {
		all.Cases = []*Case{}
	}
	if failed == nil {
		all.Failed = []Failed{}
	}
	for _, t := range targets {
		key := t.Key()
		all.Labels[key] = key
		if name := names[key]; name != "" {
			all.Labels[key] = name
		}
		a := &Aggregate{Detection: map[string]*Detection{}}
		for _, rule := range s.Match {
			a.Detection[rule.String()], a.N = all.Together(key, rule, nil)
		}
		var tp, fp, fn int64
		columns := map[string][]float64{}
		for _, c := range cases {
			l := c.Labels[key]
			tp, fp, fn = tp+l.tp, fp+l.fp, fn+l.fn
			for _, m := range l.Metrics {
				columns[m.Name] = append(columns[m.Name], float64(m.Value))
			}
		}
		a.Dice = Number(ratio(2*tp, 2*tp+fp+fn))
		all.Aggregate[key] = a
		all.Mean[key] = map[string]Mean{}
		for _, name := range s.metrics() {
			all.Mean[key][name] = MeanOf(columns[name])
		}
	}
	return all
}

// Together adds the nodes of cases up by a rule, of all but those that are left out. n is how many were measured.
func (s *Scores) Together(key string, rule Rule, out []string) (d *Detection, n int) {
	d = s.Settings.detection(rule, nil, &nodes.Overlaps{}, nil, nil) // also without cases: undefined is not 0
	for _, c := range s.Cases {
		if l := c.Labels[key]; l != nil && l.Measured() && !slices.Contains(out, c.Case) {
			n++
			if one := l.Detection[rule.String()]; one != nil {
				d.add(one)
			}
		}
	}
	if n == 0 {
		d.MissedMM3, d.InventedMM3 = nil, nil
	}
	return d, n
}

// Unmeasured lists the cases of which a label's nodes were not measured.
func (s *Scores) Unmeasured(key string) (names []string) {
	for _, c := range s.Cases {
		if l := c.Labels[key]; l != nil && !l.Measured() {
			names = append(names, c.Case)
		}
	}
	return names
}

// MeanOf is the mean of the values that are defined, with their standard deviation over n-1.
func MeanOf(column []float64) Mean {
	sum, n := 0.0, 0
	for _, v := range column {
		if Number(v).Defined() {
			sum += v
			n++
		}
	}
	m := Mean{Mean: Number(math.NaN()), SD: Number(math.NaN()), N: n}
	if n == 0 {
		return m
	}
	centre := sum / float64(n)
	m.Mean = Number(centre)
	if n > 1 {
		squares := 0.0
		for _, v := range column {
			if Number(v).Defined() {
				squares += (v - centre) * (v - centre)
			}
		}
		m.SD = Number(math.Sqrt(squares / float64(n-1)))
	}
	return m
}

// Keys lists the labels' keys: those that are one label by number, then regions.
func (s *Scores) Keys() []string {
	return slices.SortedFunc(maps.Keys(s.Labels), func(a, b string) int {
		x, errA := strconv.Atoi(a)
		y, errB := strconv.Atoi(b)
		switch {
		case errA == nil && errB == nil:
			return x - y
		case errA == nil:
			return -1
		case errB == nil:
			return 1
		case a < b:
			return -1
		}
		return 1
	})
}

// text is a number for a table; empty where it is undefined.
func (n Number) text() string {
	if !n.Defined() {
		return ""
	}
	return strconv.FormatFloat(float64(n), 'g', -1, 64)
}

// WriteCSV writes a row for each case and label: the metrics, and the nodes by the headline rule.
// What is undefined is empty.
func (s *Scores) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	metrics := s.Settings.metrics()
	header := append([]string{"case", "label", "name"}, metrics...)
	if err := out.Write(append(header, "empty", "rule", "tp", "fp", "fn", "recall", "precision",
		"F1")); err != nil {
		return err
	}
	rule := s.Settings.Match[0].String()
	for _, c := range s.Cases {
		for _, key := range s.Keys() {
			l := c.Labels[key]
			row := []string{c.Case, key, s.Labels[key]}
			for _, m := range metrics {
				row = append(row, l.Metrics.Get(m).text())
			}
			row = append(row, l.Empty, rule)
			if d := l.Detection[rule]; d != nil {
				row = append(row, strconv.Itoa(d.TP), strconv.Itoa(d.FP), strconv.Itoa(d.FN), d.Recall.text(),
					d.Precision.text(), d.F1.text())
			} else {
				row = append(row, "", "", "", "", "", "")
			}
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// WriteNodesCSV writes a row for each node of each case, label and side.
func (s *Scores) WriteNodesCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write([]string{"case", "label", "side", "node", "voxels", "volume_mm3",
		"long_axis_mm", "short_axis_mm", "size_class", "slice", "centroid_x_lps_mm",
		"centroid_y_lps_mm", "centroid_z_lps_mm", "matched", "match", "iou", "Dice"}); err != nil {
		return err
	}
	number := func(v *float64) string {
		if v == nil {
			return ""
		}
		return Number(*v).text()
	}
	for _, c := range s.Cases {
		for _, key := range s.Keys() {
			l := c.Labels[key]
			for _, side := range []struct {
				name  string
				nodes []Node
			}{{"reference", l.Nodes.Reference}, {"prediction", l.Nodes.Prediction}} {
				for _, n := range side.nodes {
					match := ""
					if n.Match != nil {
						match = strconv.Itoa(*n.Match)
					}
					row := []string{c.Case, key, side.name, strconv.Itoa(n.Node),
						strconv.FormatInt(n.Voxels, 10), Number(n.MM3).text(),
						Number(n.LongAxis).text(), Number(n.ShortAxis).text(), n.SizeClass,
						strconv.Itoa(n.Slice), Number(n.Centroid[0]).text(),
						Number(n.Centroid[1]).text(), Number(n.Centroid[2]).text(),
						strconv.FormatBool(n.Matched), match, number(n.IoU), number(n.Dice)}
					if err := out.Write(row); err != nil {
						return err
					}
				}
			}
		}
	}
	out.Flush()
	return out.Error()
}
