package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/page"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
)

// ExperimentReportConfig draws an experiment, and makes its page.
type ExperimentReportConfig struct {
	ExperimentTableConfig
	Title string `flag:"title" help:"title of the page (default: name of the scores' folder)"`

	Warnings []string // on the experiment, for the page: leaks, say
}

// ExperimentPlot draws the pictures of scores, and of the records of the runs beside them, as SVG and PNG
// in the folder plots, and returns their paths. What an earlier call drew and this one does not stays.
func ExperimentPlot(ctx context.Context, c ExperimentTableConfig, o Output) ([]string, error) {
	a, err := analyse(ctx, c, o)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(c.folder(), "plots")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	drawn := figures.Draw(a.table, a.runs)
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

// ExperimentReport writes report.html of scores, and of the records of the runs beside them, and returns
// its path.
func ExperimentReport(ctx context.Context, c ExperimentReportConfig, o Output) (string, error) {
	a, err := analyse(ctx, c.ExperimentTableConfig, o)
	if err != nil {
		return "", err
	}
	if err := settings.Check(&c); err != nil {
		return "", err
	}
	folder := c.folder()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	name := c.Title
	if name == "" {
		absolute, err := filepath.Abs(c.Scores)
		if err != nil {
			return "", err
		}
		name = filepath.Base(filepath.Dir(absolute))
	}
	e := page.Experiment{Name: name, Table: a.table, Scores: a.scores.Runs(c.Primary), Runs: a.runs,
		Figures: figures.Draw(a.table, a.runs), Warnings: c.Warnings, Version: o.Version}
	path := filepath.Join(folder, "report.html")
	if err := e.Write(path); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return path, nil
}
