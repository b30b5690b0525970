package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newMovePlans() *cobra.Command {
	var c pipeline.MovePlansConfig
	cmd := &cobra.Command{
		Use:   "move-plans -s SOURCE -t TARGET -sp PLANS",
		Short: "copies plans to another dataset (nnUNetv2_move_plans_between_datasets)",
		Long: `move-plans copies a plans file of a preprocessed dataset to another dataset, so that this is preprocessed as
that was: the name of the dataset and the class that reads its images change. With -tp the plans get another
name, and so do the folders of the data that belong to them; without it, plans of that name of the target are
overwritten. To fine-tune a pretrained model whose dataset is not at hand, see lntorch adopt.`,
		Example: `  lntorch move-plans -s 101 -t 102 -sp nnUNetPlans -tp nnUNetPlansFrom101`,
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			path, err := pipeline.MovePlans(c)
			if err == nil {
				fmt.Println(path)
			}
			return err
		},
	}
	bind(cmd, &c)
	return cmd
}
