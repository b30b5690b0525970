package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/report"
)

func newCompare() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compare DATASET CONFIGURATION NAME=FOLDER...",
		Short: "sets validations of the same cases side by side: a table of scores and a picture",
		Long: `compare reads validation folders (of train, or of validate) and prints the Dice, or another --metric, of every case in each
of them, with the means. With -o it also draws, for every case, the CT slice with most truth, the truth, and each prediction.`,
		Example: `  lntorch compare 102 3d_fullres before=before after=results/…/fold_0/validation -o compare.png`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 3 {
				return usage(cmd, errors.New("expected DATASET CONFIGURATION and at least one NAME=FOLDER"))
			}
			return nil
		},
		RunE: runCompare,
	}
	folders(cmd, "raw", "preprocessed")
	cmd.Flags().String("plans", "nnUNetPlans", "name of the plans file, without .json")
	cmd.Flags().String("metric", eval.Dice.Name, "score in the table: "+metricNames())
	cmd.Flags().StringP("output", "o", "", "picture, .png")
	cmd.Flags().Int("cases", 4, "cases in the picture")
	return cmd
}

func metricNames() string {
	var names []string
	for _, m := range eval.Metrics() {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// validation is one column of the comparison.
type validation struct {
	name    string
	folder  string
	summary *eval.Summary
}

func runCompare(cmd *cobra.Command, args []string) error {
	metricName, _ := cmd.Flags().GetString("metric")
	metric, err := eval.MetricNamed(metricName)
	if err != nil {
		return usage(cmd, err)
	}
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	rawFolder, _ := cmd.Flags().GetString("raw")
	name, err := raw.FindName(args[0], preprocessed, rawFolder)
	if err != nil {
		return err
	}
	var columns []validation
	for _, a := range args[2:] {
		v := validation{}
		var ok bool
		if v.name, v.folder, ok = strings.Cut(a, "="); !ok {
			return usage(cmd, fmt.Errorf("%q: expected NAME=FOLDER", a))
		}
		if v.summary, err = eval.ReadSummary(filepath.Join(v.folder, "summary.json")); err != nil {
			return err
		}
		if first := columns; len(first) > 0 && len(first[0].summary.Cases) != len(v.summary.Cases) {
			return fmt.Errorf("%s holds %d cases, %s %d: compare validations of the same cases", first[0].folder, len(first[0].summary.Cases), v.folder, len(v.summary.Cases))
		}
		columns = append(columns, v)
	}
	if err := printScores(columns, metric); err != nil {
		return err
	}
	path, _ := cmd.Flags().GetString("output")
	if path == "" {
		return nil
	}
	plansName, _ := cmd.Flags().GetString("plans")
	p, err := plans.Load(filepath.Join(preprocessed, name, plansName+".json"))
	if err != nil {
		return err
	}
	conf, err := p.Configuration(args[1])
	if err != nil {
		return err
	}
	d, err := plans.LoadDataset(filepath.Join(preprocessed, name, "dataset.json"))
	if err != nil {
		return err
	}
	limit, _ := cmd.Flags().GetInt("cases")
	if err := drawComparison(path, filepath.Join(preprocessed, name, conf.DataIdentifier), conf, d, columns, limit); err != nil {
		return err
	}
	fmt.Println("picture:", path)
	return nil
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

func printScores(columns []validation, metric eval.Metric) error {
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
	return t.Text(os.Stdout)
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
