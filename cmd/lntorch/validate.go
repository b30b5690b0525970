package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newValidate() *cobra.Command {
	var c pipeline.ValidateConfig
	cmd := &cobra.Command{
		Use:   "validate DATASET CONFIGURATION FOLD --checkpoint FILE -o FOLDER",
		Short: "scores a checkpoint on a fold's validation cases",
		Long: `validate takes a checkpoint as it is, heads included, predicts the preprocessed validation cases of a fold
with a sliding window, and writes <case>.npz (seg) and summary.json. Scores are on the preprocessed grid.
It shows how good a foundation model is before fine-tuning.`,
		Example: `  lntorch validate 102 3d_fullres 0 --checkpoint model/fold_0/checkpoint_final.pth -o before
  lntorch validate 102 3d_phantom 0 -p nnUNetPlansAdopted --checkpoint model/fold_0/checkpoint_final.pth -o before`,
		Args: exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset, c.Configuration, c.Fold = args[0], args[1], args[2]
			r, err := pipeline.Validate(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			fmt.Printf("validation  %s\nmean Dice   %.4f (on the preprocessed grid)\n", r.Validation, r.Dice)
			return nil
		},
	}
	bind(cmd, &c)
	return cmd
}
