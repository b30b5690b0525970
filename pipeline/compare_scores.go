package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
)

// CompareScores sets the scores.json of several models side by side: c.Validations are NAME=FILE, or
// NAME=FOLDER with a scores.json in it. With c.Picture, whose name then ends in .json or .csv, it
// writes the comparison; beside NAME.csv, a row for each case, label and metric, comes
// NAME.nodes.csv, a row for each node. It returns the files.
func CompareScores(c CompareConfig) (*scores.Comparison, []string, error) {
	var write func(*scores.Comparison, string) ([]string, error)
	switch strings.ToLower(filepath.Ext(c.Picture)) {
	case ".json":
		write = writeComparison
	case ".csv":
		write = writeComparisonTables
	default:
		if c.Picture != "" {
			return nil, nil, settings.Usage("-o %s: expected a name that ends in .json or .csv, the "+
				"comparison of scores.json", c.Picture)
		}
	}
	if len(c.Validations) < 2 {
		return nil, nil, settings.Usage("found one NAME=SCORES, expected at least two to compare")
	}
	var models []string
	var all []*scores.Scores
	for _, text := range c.Validations {
		name, path, _ := strings.Cut(text, "=")
		if name == "" || path == "" {
			return nil, nil, settings.Usage("%q: expected NAME=SCORES", text)
		}
		if slices.Contains(models, name) {
			return nil, nil, settings.Usage("%q: the name %s is there twice", text, name)
		}
		if info, err := os.Stat(path); err != nil {
			return nil, nil, err
		} else if info.IsDir() {
			folder := path
			if path = filepath.Join(folder, "scores.json"); !isFile(path) {
				return nil, nil, fmt.Errorf("%s holds no scores.json: `lntorch evaluate` writes it "+
					"beside summary.json", folder)
			}
		}
		s, err := scores.Read(path)
		if err != nil {
			return nil, nil, err
		}
		if c.Picture != "" && replaced(c.Picture, path) != "" {
			return nil, nil, settings.Usage("-o %s: the comparison would take the place of scores that it "+
				"compares: give another name", c.Picture)
		}
		models, all = append(models, name), append(all, s)
	}
	compared, err := scores.Compare(models, all)
	if err != nil {
		return nil, nil, err
	}
	if names := compared.MetricNames(); !slices.Contains(names, c.Metric) {
		return nil, nil, settings.Usage("--metric %s: expected one of %s", c.Metric,
			strings.Join(names, ", "))
	}
	if write == nil {
		return compared, nil, nil
	}
	files, err := write(compared, c.Picture)
	return compared, files, err
}

func writeComparison(c *scores.Comparison, path string) ([]string, error) {
	return writeWhole(path, func(w io.Writer) error {
		_, err := report.JSON(w, c)
		return err
	})
}

func writeComparisonTables(c *scores.Comparison, path string) ([]string, error) {
	files, err := writeWhole(path, c.WriteCSV)
	if err != nil {
		return nil, err
	}
	ending := filepath.Ext(path)
	more, err := writeWhole(strings.TrimSuffix(path, ending)+".nodes"+ending, c.WriteNodesCSV)
	return append(files, more...), err
}

// writeWhole writes a whole file.
func writeWhole(path string, content func(io.Writer) error) ([]string, error) {
	var b bytes.Buffer
	if err := content(&b); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(path, b.Bytes()); err != nil {
		return nil, err
	}
	return []string{path}, nil
}

// PrintComparison prints the tables of a comparison: means of all models, each case by one of its
// metrics, and who found which nodes.
func PrintComparison(w io.Writer, c *scores.Comparison, metric string) error {
	first := c.Models[0]
	text := func(n scores.Number) string {
		if !n.Defined() {
			return "–"
		}
		return fmt.Sprintf("%.3f", n)
	}
	signed := func(n scores.Number) string {
		if !n.Defined() {
			return "–"
		}
		return fmt.Sprintf("%+.3f", n)
	}
	right := func(names ...string) (all []report.Column) {
		for _, n := range names {
			all = append(all, report.Column{Name: Printable(n), Right: true})
		}
		return all
	}

	means := report.Table{Columns: []report.Column{{Name: "label"}, {Name: "metric"}}}
	means.Columns = append(means.Columns, right("n", first)...)
	means.Columns = append(means.Columns, report.Column{Name: "model"})
	means.Columns = append(means.Columns, right("mean", "difference", "sd", "higher", "lower")...)
	for _, key := range c.Keys() {
		for _, name := range tableMetrics(c.Settings, metric) {
			for _, g := range c.Mean[key][name] {
				means.Add(Printable(c.Labels[key]), name, fmt.Sprint(g.N), text(g.First),
					Printable(g.Model), text(g.Value), signed(g.Mean.Mean), text(g.SD),
					fmt.Sprint(g.Higher), fmt.Sprint(g.Lower))
			}
		}
	}

	cases := report.Table{Columns: []report.Column{{Name: "case"}, {Name: "label"}}}
	cases.Columns = append(cases.Columns, right(c.Models...)...)
	for _, m := range c.Models[1:] {
		cases.Columns = append(cases.Columns, right(m+" - "+first)...)
	}
	for _, row := range c.Cases {
		for _, key := range c.Keys() {
			m := row.Labels[key][metric]
			cells := []string{Printable(row.Case), Printable(c.Labels[key])}
			for _, v := range m.Values {
				cells = append(cells, text(v))
			}
			for _, v := range m.Difference {
				cells = append(cells, signed(v))
			}
			cases.Add(cells...)
		}
	}

	found := report.Table{Columns: []report.Column{{Name: "label"}, {Name: "mm"}}}
	found.Columns = append(found.Columns, right("nodes", "found by all", "by none")...)
	for _, m := range c.Models {
		found.Columns = append(found.Columns, right("by "+m+" alone")...)
	}
	if len(c.Models) > 2 {
		found.Columns = append(found.Columns, right("by several")...)
	}
	for _, key := range c.Keys() {
		for _, class := range append([]string{"all"}, c.Settings.Classes()...) {
			s := c.Found[key][class]
			if s == nil { // no case
				continue
			}
			cells := []string{Printable(c.Labels[key]), class, fmt.Sprint(s.Nodes), fmt.Sprint(s.All),
				fmt.Sprint(s.None)}
			for _, m := range c.Models {
				cells = append(cells, fmt.Sprint(s.Only[m]))
			}
			if len(c.Models) > 2 {
				cells = append(cells, fmt.Sprint(s.Several))
			}
			found.Add(cells...)
		}
	}

	for _, part := range []struct {
		title string
		table report.Table
	}{
		{fmt.Sprintf("means over the cases that are defined for both, differences to %s", first), means},
		{metric + " of each case", cases},
		{"nodes of the reference, by " + c.Settings.Match[0].String(), found},
	} {
		if _, err := fmt.Fprintf(w, "== %s\n", Printable(part.title)); err != nil {
			return err
		}
		if err := part.table.Text(w); err != nil {
			return err
		}
	}
	for _, key := range c.Keys() {
		if out := c.NotMeasured[key]; out != nil {
			if _, err := fmt.Fprintf(w, "label %s: without the nodes of %d of %d cases, which were not measured for all models "+
				"(%s)\n", Printable(c.Labels[key]), len(out), len(c.Cases), Printable(several(out))); err != nil {
				return err
			}
		}
	}
	return nil
}

// tableMetrics are the metrics of the table of means: those of evaluate's, and the one that is asked
// for.
func tableMetrics(s scores.Settings, metric string) []string {
	tolerance := s.Tolerances[0]
	if slices.Contains(s.Tolerances, 2) {
		tolerance = 2
	}
	names := append([]string{"Dice", fmt.Sprintf("NSD_%g", tolerance), "HD95"}, scores.Detections...)
	if !slices.Contains(names, metric) {
		names = append(names, metric)
	}
	return names
}
