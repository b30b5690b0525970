package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newExperiment() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment COMMAND",
		Short: "statistics of few-shot trainings: methods × networks × shots × draws × seeds",
		Long: `experiment says what trainings of several methods, on several draws of training cases and with several seeds, allow to
conclude. It needs no libtorch.`,
		Example: `  lntorch experiment table --scores scores.csv
  lntorch experiment report --scores scores.csv -o report`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("unknown command %q: expected table", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newExperimentRun(), newExperimentPrune(), newExperimentTable(), newExperimentPlot(),
		newExperimentReport())
	return cmd
}
