package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newAccumulate() *cobra.Command {
	var c pipeline.AccumulateConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "accumulate DATASET -c CONFIGURATION",
		Aliases: []string{"accumulate_crossval_results"},
		Short:   "joins the validations of all folds in one folder and scores them (nnUNetv2_accumulate_crossval_results)",
		Long: `accumulate copies the validation predictions of the folds of a model into crossval_results_folds_0_1_… in the
model's folder, with plans.json, dataset.json and a summary.json over all cases. A fold that is missing, or a
case in two folds, is an error. The folder is replaced when all is done; one that -o names must be empty.`,
		Example: `  lntorch accumulate 102 -c 3d_fullres
  lntorch accumulate 102 -c 3d_fullres -tr nnUNetTrainer_DGST -f 0 1 2`,
		Args: exactly("DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset = args[0]
			a, err := pipeline.Accumulate(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a)
			}
			t := report.Table{Columns: []report.Column{{Name: "label"}, {Name: "Dice", Right: true}, {Name: "IoU", Right: true}}}
			for i, target := range a.Summary.Targets {
				t.Add(target.Key(), fmt.Sprintf("%.4f", a.Summary.Mean(eval.Dice, i)), fmt.Sprintf("%.4f", a.Summary.Mean(eval.IoU, i)))
			}
			t.Add("mean", fmt.Sprintf("%.4f", a.Summary.Foreground(eval.Dice)), fmt.Sprintf("%.4f", a.Summary.Foreground(eval.IoU)))
			if err := t.Text(os.Stdout); err != nil {
				return err
			}
			fmt.Printf("%s: %d cases\n", a.Folder, a.Cases)
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
