package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newEnsemble() *cobra.Command {
	var c pipeline.EnsembleConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ensemble -i FOLDER... -o FOLDER",
		Short: "joins predictions of several models by the mean of their probabilities (nnUNetv2_ensemble)",
		Long: `ensemble takes the mean of the probabilities of several folders of predictions (made with
--save_probabilities), in their order, and writes the labels of that mean, with plans.json and dataset.json of
the first folder. All folders must hold the same cases. With --save_npz it writes the mean too, with the
properties of each case, so that an ensemble can be a member of another one.

The probabilities are read as streams: a case takes 7 bytes a voxel, whatever the number of classes.`,
		Example: `  lntorch ensemble -i predictions_2d predictions_3d_fullres -o ensemble
  lntorch ensemble -i a b -o ensemble --weights 2 1 --save_npz`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := pipeline.Ensemble(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e)
			}
			fmt.Printf("%s: %d cases\n", e.Folder, len(e.Cases))
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
