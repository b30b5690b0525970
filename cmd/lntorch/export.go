package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newExport() *cobra.Command {
	var c pipeline.ExportConfig
	cmd := &cobra.Command{
		Use:   "export MODEL_FOLDER -o FOLDER",
		Short: "writes a model folder that stock nnU-Net predicts with",
		Long: `export copies a model folder (<trainer>__<plans>__<configuration>, with its folds) under the name of a trainer that stock nnU-Net
knows: nnUNetTrainer_DGST is not part of it, and the trainer's class only builds the network. The optimizer is left out, unless
--with-optimizer asks for it. Every fold that holds the checkpoint is exported; the folder appears when all of it is written.`,
		Example: `  lntorch export results/Dataset102_X/nnUNetTrainer_DGST__nnUNetPlans__3d_fullres -o for-nnunet`,
		Args:    exactly("MODEL_FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Model = args[0]
			r, err := pipeline.Export(cmd.Context(), c, output(cmd))
			if err == nil {
				fmt.Printf("%s\nnnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m %s -f %s -chk %s\n", r.Folder, pipeline.Quoted(r.Folder), strings.Join(r.Folds, " "), pipeline.Quoted(c.Checkpoint))
			}
			return err
		},
	}
	bind(cmd, &c)
	return cmd
}
