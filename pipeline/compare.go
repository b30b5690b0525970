package pipeline

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/volume"
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
	Picture   string `flag:"output" short:"o" path:"true" help:"picture, .png; of scores.json the comparison, .json or .csv"`
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
		if v.preprocessed = slices.ContainsFunc(v.summary.Cases, isPreprocessed); len(columns) > 0 && columns[0].preprocessed != v.preprocessed {
			return fmt.Errorf("%s and %s were scored on different grids, one of them on the preprocessed one: validate again where the dataset has gt_segmentations",
				columns[0].folder, v.folder)
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
	data := report.OverlayData{Title: "held-out cases (Dice)"}
	for _, l := range d.Labels.Entries {
		if len(l.Values) == 1 && l.Values[0] > 0 {
			data.Labels = append(data.Labels, l.Name)
		}
	}
	for _, v := range columns {
		data.Predictions = append(data.Predictions, v.name)
	}
	rows := columns[0].summary.Cases
	rows = rows[:min(len(rows), c.Cases)]
	if columns[0].preprocessed {
		data.Title = "held-out cases (Dice on the preprocessed grid)"
		data.Cases, err = preprocessedOverlays(filepath.Join(c.Preprocessed, name, conf.DataIdentifier), conf, rows, columns)
	} else {
		data.Cases, err = c.overlays(name, p, rows, columns)
	}
	if err != nil {
		return err
	}
	for i := range data.Cases {
		for _, v := range columns {
			data.Cases[i].Dice = append(data.Cases[i].Dice, meanOf(eval.Dice, v.summary.Cases[i]))
		}
	}
	return report.Overlay(c.Picture, data)
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
	name         string
	folder       string
	summary      *eval.Summary
	preprocessed bool // scored on the preprocessed grid
}

// isPreprocessed says that a case was scored on the preprocessed grid, which takes a dataset
// without gt_segmentations.
func isPreprocessed(c eval.Case) bool { return strings.HasSuffix(c.PredictionFile, ".npz") }

// caseKey is the case that a row of a summary is about.
func caseKey(c eval.Case) string {
	name := filepath.Base(c.PredictionFile)
	if isPreprocessed(c) {
		return strings.TrimSuffix(name, ".npz")
	}
	return strings.TrimSuffix(name, imageEnding(name))
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

// overlays reads cases on the grid of their images: the CT of the raw dataset, the reference, the
// predictions.
func (c *CompareConfig) overlays(name string, p *plans.Plans, rows []eval.Case, columns []validation) ([]report.OverlayCase, error) {
	reader, err := images.ForName(p.ImageReaderWriter)
	if err != nil {
		return nil, err
	}
	if err := given("raw", c.Raw); err != nil {
		return nil, fmt.Errorf("%w: the picture shows the images", err)
	}
	scans, err := raw.Open(c.Raw, name)
	if err != nil {
		return nil, err
	}
	references, err := referenceFolder(c.rawLabels(name), c.preprocessedLabels(name))
	if err != nil {
		return nil, err
	}
	var list []report.OverlayCase
	for _, row := range rows {
		key := caseKey(row)
		i := slices.IndexFunc(scans.Cases, func(s raw.Case) bool { return s.ID == key })
		if i < 0 {
			return nil, fmt.Errorf("%s has no image of case %s", scans.Folder, key)
		}
		im, _, err := reader.Read(scans.Cases[i].Images)
		if err != nil {
			return nil, err
		}
		o := report.OverlayCase{Name: key, Shape: [3]int(im.Shape[1:]), Spacing: im.Spacing}
		o.Image = volume.Cast[float32](im.Pixels)[:o.Shape[0]*o.Shape[1]*o.Shape[2]]
		file := filepath.Base(row.PredictionFile)
		if o.Truth, err = drawnLabels(reader, filepath.Join(references, file), o.Shape); err != nil {
			return nil, err
		}
		for _, v := range columns {
			labels, err := drawnLabels(reader, filepath.Join(v.folder, file), o.Shape)
			if err != nil {
				return nil, err
			}
			o.Predictions = append(o.Predictions, labels)
		}
		list = append(list, o)
	}
	return list, nil
}

// drawnLabels reads labels as the picture shows them: all above 255 in one colour.
func drawnLabels(reader images.Reader, path string, shape [3]int) ([]uint8, error) {
	m, err := labelmap.Read(reader, path)
	if err != nil {
		return nil, err
	}
	if m.Shape != shape {
		return nil, fmt.Errorf("%s: labels of shape %v, the image has %v", path, m.Shape, shape)
	}
	if m.Small != nil {
		return m.Small, nil
	}
	labels := make([]uint8, len(m.Wide))
	for i, v := range m.Wide {
		labels[i] = uint8(min(max(v, 0), 255))
	}
	return labels, nil
}

// preprocessedOverlays reads cases on the preprocessed grid.
func preprocessedOverlays(folder string, conf *plans.Configuration, rows []eval.Case, columns []validation) ([]report.OverlayCase, error) {
	set, err := dataset.Open(folder)
	if err != nil {
		return nil, err
	}
	var list []report.OverlayCase
	for _, row := range rows {
		c, err := set.Load(caseKey(row))
		if err != nil {
			return nil, err
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
				return nil, err
			}
			o.Predictions = append(o.Predictions, labels)
		}
		list = append(list, o)
	}
	return list, nil
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
