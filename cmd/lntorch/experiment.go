package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newExperiment() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment COMMAND",
		Short: "statistics of few-shot trainings: methods × networks × shots × draws × seeds",
		Long: `experiment says what trainings of several methods, on several draws of training cases and with several seeds, allow to
conclude. It needs no libtorch.`,
		Example: `  lntorch experiment table --scores scores.csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("unknown command %q: expected table", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newExperimentRun(), newExperimentPrune(), newExperimentTable(), newExperimentPlan(),
		newExperimentSplits(), newExperimentStatus(), newExperimentCommand())
	return cmd
}

func newExperimentTable() *cobra.Command {
	var c pipeline.ExperimentTableConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "table --scores FILE.csv",
		Short: "tables of anybody's scores: means, intervals, comparisons, gains with more shots",
		Long: `table reads scores, a row for each run, test case and label, and prints tables in Markdown. Columns: method, shots (a
number, or all), draw and seed (which training cases, which random numbers), case; if there is more than one, dataset,
network, label; patient, if one has several cases. All others are metrics: a number, empty where it is undefined.

Intervals and p are those of crossed random effects, patients × draws: they answer for new patients and newly drawn training
cases. A Wilcoxon test over the cases of all runs does not, and calls about half of all null differences significant.
Beside them, "these trained models, new patients": Wilcoxon over patients (exact) and the bootstrap. p values of the
pairs at the same shots are adjusted by Holm. docs/experiments.md explains every number.

Methods are paired by patient, draw and seed: give the same draws and seeds to all. A patient without a score in some
run of a comparison is left out of it; a draw counts where all its runs are there.`,
		Example: `  lntorch experiment table --scores scores.csv
  lntorch experiment table --scores scores.csv -o tables --primary NSD_2 --metrics NSD_2 HD95
  lntorch experiment table --scores scores.csv --reference full --tie Dice=0.01 --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("found %q, expected flags alone: --scores FILE.csv", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := pipeline.ExperimentTable(cmd.Context(), c, output(cmd))
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
