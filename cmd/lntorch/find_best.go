package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newFindBest() *cobra.Command {
	var c pipeline.FindBestConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "find-best DATASET",
		Aliases: []string{"find_best_configuration", "find-best-configuration"},
		Short:   "finds the best of the trained models and of their pairs (nnUNetv2_find_best_configuration)",
		Long: `find-best gathers the cross-validation of every model (as accumulate does), scores every pair of models as an
ensemble, names the one with the highest mean Dice, and determines post-processing for it. It writes nnU-Net's
files: crossval_results_folds_0_1_… into each model's folder, ensembles/… into the dataset's folder of results,
and there inference_information.json and inference_instructions.txt, which holds the commands for new cases.

Every configuration of the plans must be trained; name the trained ones with -c. Ensembles need the
probabilities of the validations: train with --npz, or later with --val --npz.`,
		Example: `  lntorch find-best 102 -c 2d 3d_fullres
  lntorch find-best 102 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainer_DGST -f 0 1 2
  lntorch find-best 102 -c 3d_fullres --disable_ensembling`,
		Args: exactly("DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset = args[0]
			b, err := pipeline.FindBest(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(b)
			}
			t := report.Table{Columns: []report.Column{{Name: "model or ensemble"},
				{Name: "Dice", Right: true}, {Name: ""}}}
			for _, candidate := range b.Candidates {
				mark := map[bool]string{true: "best"}[candidate.Name == b.Best]
				t.Add(candidate.Name, fmt.Sprintf("%.5f", candidate.Dice), mark)
			}
			if err := t.Text(os.Stdout); err != nil {
				return err
			}
			fmt.Println()
			if err := printDetermined(b.Postprocessing); err != nil {
				return err
			}
			fmt.Printf("%s\n%s\n", b.Information, b.Instructions)
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
