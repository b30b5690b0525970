package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newDeterminePostprocessing() *cobra.Command {
	var c pipeline.DeterminePostprocessingConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "determine-postprocessing -i PREDICTIONS -ref REFERENCES",
		Aliases: []string{"determine_postprocessing"},
		Short:   "finds out whether keeping the largest components alone raises the Dice (nnUNetv2_determine_postprocessing)",
		Long: `determine-postprocessing scores the predictions, removes all but the largest connected component, first of the
whole foreground, then of each label or region, and keeps what raises the Dice. It writes postprocessing.pkl
(which nnU-Net opens) and postprocessing.json into the folder of predictions, and the post-processed
predictions with their summary.json into its folder postprocessed. A summary.json that is there is trusted.

Determine it on all cases of a cross-validation: lntorch accumulate gathers them. A neck has many nodes, so
the rule rarely helps lymph-node segmentations.`,
		Example: `  lntorch determine-postprocessing -i crossval_results_folds_0_1_2_3_4 -ref $nnUNet_raw/Dataset102_X/labelsTr`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := pipeline.DeterminePostprocessing(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(d)
			}
			t := report.Table{Columns: []report.Column{{Name: "largest component of"}, {Name: "Dice before", Right: true}, {Name: "after", Right: true}, {Name: ""}}}
			for _, trial := range d.Trials {
				kept := ""
				if trial.Kept {
					kept = "kept"
				}
				t.Add(trial.Labels, fmt.Sprintf("%.5f", trial.Before), fmt.Sprintf("%.5f", trial.After), kept)
			}
			if err := t.Text(os.Stdout); err != nil {
				return err
			}
			fmt.Printf("mean Dice of the foreground: %.5f before, %.5f after\n%s\n", d.Before, d.After, d.File)
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
