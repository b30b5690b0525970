package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/experiment"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

// gridFolders are where the datasets of an experiment are, whose table, pictures or page are made.
type gridFolders struct {
	pipeline.RawFolder
	pipeline.PreprocessedFolder
	pipeline.ResultsFolder
}

// fileOrNone takes FILE, or nothing: scores are given then.
func fileOrNone(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage(cmd, fmt.Errorf("found %d arguments, expected FILE alone, or --scores FILE.csv", len(args)))
	}
	return nil
}

// scoresOf finds the scores and how they are analysed: FILE's own, or those of --scores by what FILE says
// of statistics. What a flag says goes over FILE. made are the files in the experiment's folder that the command
// makes of them.
func (g *gridFolders) scoresOf(cmd *cobra.Command, args []string, c *pipeline.ExperimentTableConfig, made string) error {
	if len(args) == 0 {
		if c.Scores == "" {
			return usage(cmd, errors.New("neither FILE nor --scores is given: expected an experiment's file, "+
				"or scores, scores.csv"))
		}
		return nil
	}
	file, err := experiment.Read(args[0])
	if err != nil {
		return err
	}
	of := file.Analysis(c.Out)
	if c.Scores == "" {
		p, err := experiment.Open(cmd.Context(), args[0], experiment.Options{Dir: c.Out, RawFolder: g.RawFolder,
			PreprocessedFolder: g.PreprocessedFolder, ResultsFolder: g.ResultsFolder, Output: output(cmd)})
		if err != nil {
			return err
		}
		warnOfOther(p, output(cmd), experiment.ScoresFile, made)
		of = p.Analysis()
		c.Scores, c.Out, c.Warnings, c.Places = of.Scores, of.Out, of.Warnings, of.Places
		if runs, err := p.WriteScores(cmd.Context()); err != nil {
			return err
		} else if runs == 0 {
			return fmt.Errorf("%s: no run is done yet: lntorch experiment run %s -o %s", p.Dir, args[0], p.Dir)
		}
	}
	c.Order = of.Order
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	if !given("primary") {
		c.Primary = of.Primary
	}
	if !given("reference") {
		c.Reference = of.Reference
	}
	if !given("alpha") {
		c.Alpha = of.Alpha
	}
	if !given("resamples") {
		c.Resamples = of.Resamples
	}
	if !given("seed") {
		c.Seed = of.Seed
	}
	if !given("tie") {
		c.Tie = of.Tie
	}
	return nil
}

func newExperimentTable() *cobra.Command {
	var c struct {
		pipeline.ExperimentTableConfig
		gridFolders
	}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "table [FILE] [--scores FILE.csv]",
		Short: "tables of an experiment, or of anybody's scores: means, intervals, comparisons, gains with more shots",
		Long: `table makes the tables of the experiment that FILE describes, of the runs that are done; or, with --scores, of any
scores. FILE then needs no more than ` + "`statistics` and `seed`" + `, or is left out. Tables are printed in Markdown.

Scores are a row for each run, test case and label. Columns: method, shots (a number, or all), draw and seed (which training
cases, which random numbers), case; if there is more than one, dataset, network, label; patient, if one has several cases.
All others are metrics: a number, empty where it is undefined.

Intervals and p are those of crossed random effects, patients × draws: they answer for new patients and newly drawn training
cases. A Wilcoxon test over the cases of all runs does not, and calls about half of all null differences significant.
Beside them, "these trained models, new patients": Wilcoxon over patients (exact) and the bootstrap. p values of the
pairs at the same shots are adjusted by Holm. docs/experiments.md explains every number.

Methods are paired by patient, draw and seed: give the same draws and seeds to all. A patient without a score in some
run of a comparison is left out of it; a draw counts where all its runs are there, and draws with the same training
cases count once.`,
		Example: `  lntorch experiment table grid.yaml
  lntorch experiment table --scores scores.csv
  lntorch experiment table statistics.yaml --scores scores.csv
  lntorch experiment table --scores scores.csv -o tables --primary NSD_2 --metrics NSD_2 HD95
  lntorch experiment table --scores scores.csv --reference full --tie Dice=0.01 --json`,
		Args: fileOrNone,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.scoresOf(cmd, args, &c.ExperimentTableConfig, experiment.TableFiles); err != nil {
				return err
			}
			t, err := pipeline.ExperimentTable(cmd.Context(), c.ExperimentTableConfig, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				_, err := report.JSON(os.Stdout, t) // null is what is not defined
				return err
			}
			if err := t.Markdown(os.Stdout); err != nil {
				return err
			}
			if c.Out != "" {
				fmt.Fprintln(os.Stderr, pipeline.Printable(filepath.Join(c.Out, "table.{md,csv,tex,json}")))
			}
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newExperimentPlot() *cobra.Command {
	var c struct {
		pipeline.ExperimentTableConfig
		gridFolders
	}
	cmd := &cobra.Command{
		Use:   "plot [FILE] [--scores FILE.csv]",
		Short: "pictures of an experiment, or of anybody's scores, as SVG and PNG",
		Long: `plot draws, into the folder plots of the experiment (with --scores: of -o, else beside the scores): the primary metric by
training cases with intervals; paired differences with intervals; and from the records of runs, if there are such beside
the scores, recall by size of nodes, training curves, the share of entries that DGST updated, time and memory beside score.
SVG and PNG (300 dots an inch) are 180 mm wide, two columns of a journal. Colours, marks and dashes tell methods apart in
print and for colour-blind readers. It prints the paths; captions are in report.html.`,
		Example: `  lntorch experiment plot grid.yaml
  lntorch experiment plot --scores scores.csv -o pictures --reference full`,
		Args: fileOrNone,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.scoresOf(cmd, args, &c.ExperimentTableConfig, experiment.PictureFiles); err != nil {
				return err
			}
			paths, err := pipeline.ExperimentPlot(cmd.Context(), c.ExperimentTableConfig, output(cmd))
			for _, path := range paths {
				fmt.Println(pipeline.Printable(path))
			}
			return err
		},
	}
	bind(cmd, &c)
	return cmd
}

func newExperimentReport() *cobra.Command {
	var c struct {
		pipeline.ExperimentReportConfig
		gridFolders
	}
	cmd := &cobra.Command{
		Use:   "report [FILE] [--scores FILE.csv]",
		Short: "report.html of an experiment, or of anybody's scores: one file to read, print and send",
		Long: `report writes report.html into the experiment's folder (with --scores: into -o, else beside the scores): what the tests
found, tables that sort and copy themselves, all pairs, gains with more shots, runs, pictures, and a text on the method for
a paper with its references. It is one file that asks for nothing elsewhere and holds table.json for programs.`,
		Example: `  lntorch experiment report grid.yaml
  lntorch experiment report --scores scores.csv -o report --title 'Few-shot study'`,
		Args: fileOrNone,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.scoresOf(cmd, args, &c.ExperimentTableConfig, experiment.PageFile); err != nil {
				return err
			}
			path, err := pipeline.ExperimentReport(cmd.Context(), c.ExperimentReportConfig, output(cmd))
			if err != nil {
				return err
			}
			fmt.Println(pipeline.Printable(path))
			return nil
		},
	}
	bind(cmd, &c)
	return cmd
}
