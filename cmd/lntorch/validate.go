package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/train"
)

func newValidate() *cobra.Command {
	var c pipeline.ValidateConfig
	cmd := &cobra.Command{
		Use:   "validate DATASET CONFIGURATION FOLD --checkpoint FILE -o FOLDER",
		Short: "scores a checkpoint on a fold's validation cases",
		Long: `validate takes a checkpoint as it is, heads included, predicts the preprocessed validation cases of a fold
with a sliding window, and writes CASE.nii.gz on the grid of the images, with --npz probabilities, too, and
summary.json, scored against gt_segmentations as nnU-Net does. Where these are missing, the preprocessed grid
serves, and the summary says so. It shows how good a foundation model is before fine-tuning.`,
		Example: `  lntorch validate 102 3d_fullres 0 --checkpoint model/fold_0/checkpoint_final.pth -o before
  lntorch validate 102 3d_phantom 0 -p nnUNetPlansAdopted --checkpoint model/fold_0/checkpoint_final.pth -o before`,
		Args: exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset, c.Configuration, c.Fold = args[0], args[1], args[2]
			r, err := pipeline.Validate(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			printValidation(r)
			return nil
		},
	}
	bind(cmd, &c)
	return cmd
}

// printValidation prints where the scores are, and their mean.
func printValidation(r *train.Result) {
	grid := ""
	if r.Preprocessed {
		grid = " (on the preprocessed grid)"
	}
	fmt.Printf("validation  %s\nmean Dice   %.4f%s\n", r.Validation, r.Dice, grid)
}
