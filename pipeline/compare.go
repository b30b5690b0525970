package pipeline

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
)

// CompareConfig sets validations of the same cases side by side.
type CompareConfig struct {
	Dataset       string // number or name
	Configuration string
	Validations   []string // NAME=FOLDER
	RawFolder
	PreprocessedFolder
	PlansName string `flag:"plans" nnunet:"p" default:"nnUNetPlans" help:"name of the plans file, without .json"`
	Metric    string `flag:"metric" default:"Dice" help:"score in the table"`
	Picture   string `flag:"output" short:"o" path:"true" help:"picture, .png"`
	Cases     int    `flag:"cases" default:"4" range:"1.." help:"cases in the picture"`
}

// Compare prints the table to w and draws the picture, if one is wanted.
func Compare(c CompareConfig, w io.Writer) error {
	metric, err := eval.MetricNamed(c.Metric)
	if err != nil {
		return &settings.UsageError{Err: err}
	}
	if err := given("preprocessed", c.Preprocessed); err != nil {
		return err
	}
	name, err := raw.FindName(c.Dataset, c.Preprocessed, c.Raw)
	if err != nil {
		return err
	}
	var columns []validation
	for _, a := range c.Validations {
		v := validation{}
		var ok bool
		if v.name, v.folder, ok = strings.Cut(a, "="); !ok {
			return settings.Usage("%q: expected NAME=FOLDER", a)
		}
		if v.summary, err = eval.ReadSummary(filepath.Join(v.folder, "summary.json")); err != nil {
			return err
		}
		if first := columns; len(first) > 0 && len(first[0].summary.Cases) != len(v.summary.Cases) {
			return fmt.Errorf("%s holds %d cases, %s %d: compare validations of the same cases", first[0].folder, len(first[0].summary.Cases), v.folder, len(v.summary.Cases))
		}
		columns = append(columns, v)
	}
	if err := printScores(w, columns, metric); err != nil {
		return err
	}
	if c.Picture == "" {
		return nil
	}
	p, err := plans.Load(filepath.Join(c.Preprocessed, name, c.PlansName+".json"))
	if err != nil {
		return err
	}
	conf, err := p.Configuration(c.Configuration)
	if err != nil {
		return err
	}
	d, err := plans.LoadDataset(filepath.Join(c.Preprocessed, name, "dataset.json"))
	if err != nil {
		return err
	}
	return drawComparison(c.Picture, filepath.Join(c.Preprocessed, name, conf.DataIdentifier), conf, d, columns, c.Cases)
}

// MetricNames lists what Metric may be.
func MetricNames() []string {
	var names []string
	for _, m := range eval.Metrics() {
		names = append(names, m.Name)
	}
	return names
}

// validation is one column of the comparison.
type validation struct {
	name    string
	folder  string
	summary *eval.Summary
}

// caseKey is the case that a row of a summary is about.
func caseKey(c eval.Case) string {
	return strings.TrimSuffix(filepath.Base(c.PredictionFile), ".npz")
}

// meanOf is the mean of a metric over the targets of a case, of those where it is defined.
func meanOf(metric eval.Metric, c eval.Case) float64 {
	sum, n := 0.0, 0
	for t := range c.Counts {
		if v := c.Value(metric, t); !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	return sum / float64(n)
}

func printScores(w io.Writer, columns []validation, metric eval.Metric) error {
	t := report.Table{Columns: []report.Column{{Name: "case"}}}
	for _, v := range columns {
		t.Columns = append(t.Columns, report.Column{Name: v.name, Right: true})
	}
	for i, c := range columns[0].summary.Cases {
		row := []string{caseKey(c)}
		for _, v := range columns {
			if other := v.summary.Cases[i]; caseKey(other) != caseKey(c) {
				return fmt.Errorf("%s has case %s where %s has %s: compare validations of the same cases", v.folder, caseKey(other), columns[0].folder, caseKey(c))
			}
			row = append(row, fmt.Sprintf("%.3f", meanOf(metric, v.summary.Cases[i])))
		}
		t.Add(row...)
	}
	mean := []string{"mean"}
	for _, v := range columns {
		mean = append(mean, fmt.Sprintf("%.3f", v.summary.Foreground(metric)))
	}
	t.Add(mean...)
	return t.Text(w)
}

func drawComparison(path, cases string, conf *plans.Configuration, d *plans.Dataset, columns []validation, limit int) error {
	set, err := dataset.Open(cases)
	if err != nil {
		return err
	}
	data := report.OverlayData{Title: "held-out cases (Dice on the preprocessed grid)"}
	for _, l := range d.Labels.Entries {
		if len(l.Values) == 1 && l.Values[0] > 0 {
			data.Labels = append(data.Labels, l.Name)
		}
	}
	for _, v := range columns {
		data.Predictions = append(data.Predictions, v.name)
	}
	for i, row := range columns[0].summary.Cases {
		if i == limit {
			break
		}
		c, err := set.Load(caseKey(row))
		if err != nil {
			return err
		}
		shape := c.Seg.Spatial()
		o := report.OverlayCase{Name: c.Key, Shape: shape, Image: c.Data.Data[:len(c.Seg.Data)], Spacing: [3]float64{1, 1, 1}}
		if len(conf.Spacing) == 3 {
			o.Spacing = [3]float64(conf.Spacing)
		}
		for _, v := range c.Seg.Data {
			o.Truth = append(o.Truth, uint8(max(v, 0)))
		}
		for _, v := range columns {
			labels, err := readSegmentation(filepath.Join(v.folder, c.Key+".npz"))
			if err != nil {
				return err
			}
			o.Predictions = append(o.Predictions, labels)
			o.Dice = append(o.Dice, meanOf(eval.Dice, v.summary.Cases[i]))
		}
		data.Cases = append(data.Cases, o)
	}
	return report.Overlay(path, data)
}

func readSegmentation(path string) ([]uint8, error) {
	f, err := npz.OpenNpz(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := f.Read("seg")
	if err != nil {
		return nil, err
	}
	return a.Uint8s()
}
