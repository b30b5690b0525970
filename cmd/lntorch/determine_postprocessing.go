package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

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

Determine it on all cases of a cross-validation: lntorch accumulate gathers them, and lntorch find-best
determines it for the best model. A neck has many nodes, so the rule rarely helps lymph-node segmentations.

--small also tries to remove the connected components of the foreground below 10, 20, 30, 50, 100 and 200 mm³.
It keeps the volume with the best mean Dice, if that is higher and F1 of no label or region falls (nodes count
as found from an IoU of 0.3 on). nnU-Net has no such rule: it is written to postprocessing.json alone, which
lntorch apply-postprocessing reads, and postprocessing.pkl stays a file that nnU-Net opens.`,
		Example: `  lntorch determine-postprocessing -i crossval_results_folds_0_1_2_3_4 -ref $nnUNet_raw/Dataset102_X/labelsTr
  lntorch determine-postprocessing -i predictions -ref labels --small`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := pipeline.DeterminePostprocessing(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(d)
			}
			return printDetermined(d)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printDetermined prints what was tried and what was kept.
func printDetermined(d *pipeline.Determined) error {
	kept := map[bool]string{true: "kept"}
	t := report.Table{Columns: []report.Column{{Name: "largest component of"},
		{Name: "Dice before", Right: true}, {Name: "after", Right: true}, {Name: ""}}}
	for _, trial := range d.Trials {
		t.Add(trial.Labels, fmt.Sprintf("%.5f", trial.Before), fmt.Sprintf("%.5f", trial.After),
			kept[trial.Kept])
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	if len(d.Small) > 0 {
		fmt.Println()
		t := report.Table{Columns: []report.Column{{Name: "components below", Right: true},
			{Name: "Dice", Right: true}, {Name: "F1"}, {Name: ""}}}
		for _, trial := range d.Small {
			var f1 []string
			for _, key := range slices.Sorted(maps.Keys(trial.F1)) {
				f1 = append(f1, fmt.Sprintf("%s: %.4f", key, trial.F1[key]))
			}
			t.Add(fmt.Sprintf("%g mm³", trial.Below), fmt.Sprintf("%.5f", trial.Dice),
				strings.Join(f1, ", "), kept[trial.Kept])
		}
		if err := t.Text(os.Stdout); err != nil {
			return err
		}
	}
	switch {
	case d.After == d.Before:
		fmt.Printf("mean Dice of the foreground: %.5f; nothing of this raises it, and nothing is removed\n", d.Before)
	default:
		fmt.Printf("mean Dice of the foreground: %.5f before, %.5f after\n", d.Before, d.After)
	}
	if len(d.Small) == 0 {
		fmt.Println("--small of determine-postprocessing tries to remove small components, too")
	}
	fmt.Printf("apply it with -pp_pkl_file %s\n", d.File)
	return nil
}
