package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/train"
)

func newValidate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate DATASET CONFIGURATION FOLD --checkpoint FILE -o FOLDER",
		Short: "scores a checkpoint on a fold's validation cases",
		Long: `validate takes a checkpoint as it is, heads included, predicts the preprocessed validation cases of a fold with a sliding
window, and writes <case>.npz (seg) and summary.json. Scores are on the preprocessed grid. It tells how good a foundation
model is before fine-tuning.`,
		Example: `  lntorch validate 102 3d_fullres 0 --checkpoint model/fold_0/checkpoint_final.pth -o before`,
		Args:    exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			c, err := trainConfig(cmd, args)
			if err != nil {
				return err
			}
			c.Checkpoint, _ = f.GetString("checkpoint")
			c.ValidationFolder, _ = f.GetString("output")
			if c.Checkpoint == "" || c.ValidationFolder == "" {
				return usage(cmd, fmt.Errorf("--checkpoint and -o must be given"))
			}
			c.ValidateOnly = true
			// No step is made; the method only says which parameters would train.
			entry, err := finetune.Stock()
			if err != nil {
				return err
			}
			c.MethodName, c.LR, c.Epochs = entry.Name, entry.LR, entry.Epochs
			if c.Method, err = entry.Make(nil); err != nil {
				return err
			}
			result, err := train.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			fmt.Printf("validation  %s\nmean Dice   %.4f (on the preprocessed grid)\n", result.Validation, result.Dice)
			return nil
		},
	}
	folders(cmd, "raw", "preprocessed", "results")
	cmd.Flags().String("checkpoint", "", "weights to score")
	cmd.Flags().StringP("output", "o", "", "folder for predictions and summary.json")
	cmd.Flags().String("plans", "nnUNetPlans", "name of the plans file, without .json")
	cmd.Flags().IntSlice("patch-size", nil, "patch size z,y,x (default: the plans')")
	cmd.Flags().Bool("disable-tta", false, "no mirroring")
	machineFlags(cmd, "cpu")
	return cmd
}
