package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newApplyPostprocessing() *cobra.Command {
	var c pipeline.ApplyPostprocessingConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "apply-postprocessing -i PREDICTIONS -o FOLDER -pp_pkl_file FILE",
		Aliases: []string{"apply_postprocessing", "postprocess"},
		Short:   "applies post-processing that was determined (nnUNetv2_apply_postprocessing)",
		Long: `apply-postprocessing applies a postprocessing.pkl of determine-postprocessing, ours or nnU-Net's, or a
postprocessing.json, to a folder of predictions. The .json has the volume that determine-postprocessing --small
chose, too. Nothing in the file is executed: it may name nnU-Net's function for the largest component and
ours for small ones (.json), and another name is an error. plans.json and dataset.json are those in
the folder of predictions unless others are given.`,
		Example: `  lntorch apply-postprocessing -i predictions -o postprocessed -pp_pkl_file postprocessing.pkl`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := pipeline.ApplyPostprocessing(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a)
			}
			rules := "nothing to remove was determined"
			if len(a.Rules) > 0 {
				rules = "largest component of " + strings.Join(a.Rules, ", then of ")
			}
			if a.Small > 0 {
				small := fmt.Sprintf("components below %g mm³ removed", a.Small)
				if len(a.Rules) > 0 {
					small = rules + ", " + small
				}
				rules = small
			}
			fmt.Printf("%s: %d files, %s\n", a.Folder, a.Files, rules)
			return nil
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
