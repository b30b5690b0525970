package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newExperiment() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment COMMAND",
		Short: "few-shot grids: datasets × networks × methods × shots × draws × seeds, and their statistics",
		Long: `experiment trains, predicts and scores the grid that a file describes, and says what its runs allow to conclude: of
methods, on several draws of training cases and with several seeds. A grid may be stopped at any time, and shared by any
number of machines. ` + "`lntorch experiment FILE`" + ` is ` + "`lntorch experiment run FILE`" + `.

The statistics, tables and pictures also take anybody's scores; that needs no libtorch.`,
		Example: `  lntorch experiment plan grid.yaml
  lntorch experiment grid.yaml -o grid
  lntorch experiment status grid.yaml -o grid
  lntorch experiment table --scores scores.csv
  lntorch experiment report --scores scores.csv -o report`,
	}
	cmd.AddCommand(newExperimentRun(), newExperimentPrune(), newExperimentTable(), newExperimentPlot(),
		newExperimentReport(), newExperimentPlan(), newExperimentSplits(), newExperimentStatus(), newExperimentCommand())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return usage(cmd, fmt.Errorf("unknown command %q: expected a file that ends in .yaml, .toml or .json, or %s", args[0],
			strings.Join(names, ", ")))
	}
	return cmd
}
