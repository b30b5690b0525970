package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
)

// ExperimentTableConfig makes tables of scores.
type ExperimentTableConfig struct {
	Scores    string   `flag:"scores" path:"true" help:"scores.csv: a row for each run, case and label, with columns method, shots, draw, seed, case and metrics"`
	Out       string   `flag:"output" short:"o" path:"true" help:"folder for table.md, table.csv, table.tex and table.json (default: none of them)"`
	Metrics   []string `flag:"metrics" list:"true" help:"columns that are metrics; several may follow (default: all that are not keys)"`
	Primary   string   `flag:"primary" default:"Dice" help:"the metric that the study is about; the others are exploratory"`
	Reference string   `flag:"reference" help:"method, or network, that each other is compared with (default: all pairs)"`
	Alpha     float64  `flag:"alpha" default:"0.05" range:">0..<1" help:"intervals hold with 1-alpha, and tests are at alpha"`
	Resamples int      `flag:"resamples" default:"10000" range:"1..1000000" help:"resamples of the bootstrap over patients"`
	Seed      int      `flag:"seed" range:"0..4294967295" help:"seed of the bootstrap"`
	Tie       []string `flag:"tie" list:"true" help:"METRIC=NUMBER: a patient's difference up to it is a tie (Dice=0.005 NSD_2=0.005 HD95=0.1, else 0)"`
	Lower     []string `flag:"lower-is-better" list:"true" help:"metrics of which less is better, besides HD95, HD, ASSD and ASD_…"`

	Warnings []string        // on how the scores came about, beside those of the table
	Order    table.Order     // of an experiment's file; what it does not have is in the order of the scores
	Places   []figures.Place // of the runs of the grid that the scores are of; nil: scores of anybody
}

// ties are the differences that no reader would act on.
var ties = map[string]float64{"Dice": 0.005, "NSD_2": 0.005, "HD95": 0.1}

// ExperimentTable analyses scores of trainings, ours or anybody's, and writes the tables where Out
// says. Warnings of the table are logged.
func ExperimentTable(ctx context.Context, c ExperimentTableConfig, o Output) (*table.Table, error) {
	if c.Out != "" {
		if err := keepScores(c.Out, c.Scores); err != nil {
			return nil, err
		}
	}
	a, err := analyse(ctx, c, o)
	if err != nil || c.Out == "" {
		return a.table, err
	}
	return a.table, writeTables(c.Out, a.table)
}

// analysis is scores with their table.
type analysis struct {
	scores *table.Scores
	table  *table.Table
	runs   []figures.Run // that left a record
}

// folder is where pictures and page go: Out, else beside the scores.
func (c *ExperimentTableConfig) folder() string {
	return cmp.Or(c.Out, filepath.Dir(c.Scores))
}

// analyse reads scores, and the records of runs beside them, and makes the table.
func analyse(ctx context.Context, c ExperimentTableConfig, o Output) (a analysis, err error) {
	if err := settings.Check(&c); err != nil {
		return a, err
	}
	if c.Scores == "" {
		return a, settings.Usage("--scores is not given: expected a file of scores, scores.csv")
	}
	tie, err := table.ParseTies(c.Tie, ties)
	if err != nil {
		return a, settings.Usage("--tie: %w", err)
	}
	if info, err := os.Stat(c.Scores); err == nil && info.IsDir() {
		return a, fmt.Errorf("%s: found a folder, expected a file of scores, scores.csv", c.Scores)
	}
	text, err := regular.ReadFile(c.Scores)
	if err != nil {
		return a, err
	}
	scores, err := table.Read(text, c.Scores, c.Metrics)
	if err != nil {
		return a, err
	}
	for _, metric := range c.Lower {
		if err := scores.HasMetric(metric); err != nil {
			return a, fmt.Errorf("%s: --lower-is-better: %w", c.Scores, err)
		}
	}
	scores.Sort(c.Order)
	if c.Places != nil {
		keys := map[figures.Place]string{}
		for _, p := range c.Places {
			key := p.Key
			p.Key = ""
			keys[p] = key
		}
		scores.Identify(func(r table.Run) string {
			return keys[figures.Place{Dataset: r.Dataset, Network: r.Network, Method: r.Method, Shots: r.Shots,
				Draw: figures.Name(r.Draw), Seed: figures.Name(r.Seed)}]
		})
	}
	t, err := table.Make(ctx, scores, table.Settings{Primary: c.Primary, Reference: c.Reference,
		Alpha: c.Alpha, Resamples: c.Resamples, Seed: uint32(c.Seed), Tie: tie,
		Lower: append(c.Lower, table.LowerIsBetter...)})
	if err != nil {
		return a, fmt.Errorf("%s: %w", c.Scores, err)
	}
	a = analysis{scores: scores, table: t}
	if err := a.readRuns(&c); err != nil {
		return analysis{}, err
	}
	figures.Complete(t, a.runs)
	t.Warn(c.Warnings)
	for _, w := range t.Warnings {
		o.Print("WARNING: " + w)
	}
	return a, nil
}

// readRuns reads what the runs of the scores have measured: those of the grid, or those that lie beside the
// scores.
func (a *analysis) readRuns(c *ExperimentTableConfig) (err error) {
	folder := filepath.Dir(c.Scores)
	if c.Places != nil {
		a.runs, err = figures.ReadPlaces(folder, c.Places)
		return err
	}
	var unclear []string
	if a.runs, unclear, err = figures.ReadScored(folder, a.scores.Runs(c.Primary)); len(unclear) > 0 {
		a.table.Warnings = append(a.table.Warnings, fmt.Sprintf("%d runs beside the scores have the place of another one, "+
			"such as %s: it is not known which of them the scores are of, so their cost and curves are left out; give the "+
			"experiment's FILE, or remove old runs by `lntorch experiment prune`", len(unclear), unclear[0]))
	}
	return err
}

// keepScores complains if a table would take the place of the scores.
func keepScores(folder, scores string) error {
	for _, name := range tableFiles {
		if replaced(filepath.Join(folder, name), scores) != "" {
			return settings.Usage("%s: the tables, of which one is called %s, would take the place of the "+
				"scores: name another folder with -o", scores, name)
		}
	}
	return nil
}

var tableFiles = []string{"table.md", "table.csv", "table.tex", "table.json"}

// writeTables writes the table in all its forms.
func writeTables(folder string, t *table.Table) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for i, write := range []func(w io.Writer) error{t.Markdown, t.CSV, t.LaTeX,
		func(w io.Writer) error { _, err := report.JSON(w, t); return err }} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(folder, tableFiles[i]), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
