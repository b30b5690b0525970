package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/page"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/atomicfile"
)

// ExperimentReportConfig makes the page of an experiment.
type ExperimentReportConfig struct {
	ExperimentTableConfig
	Title string `flag:"title" help:"title of the page (default: name of the scores' folder)"`
}

// ExperimentFiles writes all that is made of scores to the folder Out, or beside the scores: tables,
// pictures, report.html.
func ExperimentFiles(ctx context.Context, c ExperimentTableConfig, o Output) (*table.Table, error) {
	if err := keepScores(c.folder(), c.Scores); err != nil {
		return nil, err
	}
	a, err := analyse(ctx, c, o)
	if err != nil {
		return nil, err
	}
	if err := writeTables(c.folder(), a.table); err != nil {
		return nil, err
	}
	drawn := figures.Draw(a.table, a.runs)
	if _, err := writeFigures(ctx, c.folder(), drawn, o); err != nil {
		return nil, err
	}
	_, err = a.writePage(ExperimentReportConfig{ExperimentTableConfig: c}, drawn, o)
	return a.table, err
}

// ExperimentPlot draws the pictures of scores, and of the records of the runs beside them, as SVG and PNG
// in the folder plots, and returns their paths. What an earlier call drew and this one does not stays.
func ExperimentPlot(ctx context.Context, c ExperimentTableConfig, o Output) ([]string, error) {
	a, err := analyse(ctx, c, o)
	if err != nil {
		return nil, err
	}
	return writeFigures(ctx, c.folder(), figures.Draw(a.table, a.runs), o)
}

// ExperimentReport writes report.html of scores, and of the records of the runs beside them, and returns
// its path.
func ExperimentReport(ctx context.Context, c ExperimentReportConfig, o Output) (string, error) {
	a, err := analyse(ctx, c.ExperimentTableConfig, o)
	if err != nil {
		return "", err
	}
	return a.writePage(c, figures.Draw(a.table, a.runs), o)
}

func writeFigures(ctx context.Context, folder string, drawn []*figures.Figure, o Output) ([]string, error) {
	folder = filepath.Join(folder, "plots")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	progress := o.progress()
	progress.Begin("pictures", len(drawn))
	defer progress.End()
	var paths []string
	for i, f := range drawn {
		for _, form := range []struct {
			ending string
			write  func(w io.Writer) error
		}{{".svg", f.SVG}, {".png", f.PNG}} {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			var b bytes.Buffer
			if err := form.write(&b); err != nil {
				return nil, err
			}
			path := filepath.Join(folder, f.Name+form.ending)
			if err := atomicfile.Write(path, b.Bytes()); err != nil {
				return nil, err
			}
			paths = append(paths, path)
		}
		progress.Done(i+1, f.Name)
	}
	return paths, nil
}

func (a *analysis) writePage(c ExperimentReportConfig, drawn []*figures.Figure, o Output) (string, error) {
	if err := os.MkdirAll(c.folder(), 0o755); err != nil {
		return "", err
	}
	absolute, err := filepath.Abs(c.Scores)
	if err != nil {
		return "", err
	}
	e := page.Experiment{Name: cmp.Or(c.Title, filepath.Base(filepath.Dir(absolute))), Table: a.table,
		Scores: a.scores.Runs(c.Primary), Runs: a.runs, Figures: drawn, Version: o.Version}
	path := filepath.Join(c.folder(), "report.html")
	return path, e.Write(path)
}
