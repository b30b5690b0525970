package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newAdopt() *cobra.Command {
	var c pipeline.AdoptConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "adopt MODEL -d DATASET",
		Short: "plans a dataset for the weights of a pretrained model",
		Long: `adopt writes plans for a raw dataset whose configuration fits a pretrained model: MODEL is a checkpoint of
nnU-Net (.pth), whose plans are inside, or a model folder. It measures the dataset if there is no fingerprint
yet, prints what differs from the model's training data, and warns of what lies far outside.

The new plans file (--plans-name) has the model's spacing, order of axes, intensity statistics,
normalisation, resampling and architecture, so that images look to the network as they did in its training.
--keep-spacing and --keep-normalisation leave these the dataset's own. Patch and batch are the model's,
smaller where the memory (--memory, else that of the GPU or the machine) is less than nnU-Net's measure asks
for, or as --patch-size and --batch-size say; the strides must divide the patch.

--recipe makes the change that LN-Seg-FM's readme describes by hand, and no more: it adds to plans that the
dataset has already (-p, see lntorch plan) a configuration that inherits from 3d_fullres, with a patch size
and the model's architecture. Spacing, intensities and batch size stay those of 3d_fullres.`,
		Example: `  lntorch adopt model/fold_0/checkpoint_final.pth -d 102
  lntorch adopt model -d 102 --patch-size 80,112,224 --batch-size 2 --plans-name nnUNetPlansLN
  lntorch adopt model -d 102 --recipe -p nnUNetPlans --patch-size 80,112,224 --name 3d_lnsegfm`,
		Args: exactly("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Model = args[0]
			a, err := pipeline.Adopt(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a)
			}
			return printAdopted(a, args[0])
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printAdopted(a *pipeline.Adopted, model string) error {
	if err := printPlans(a.Summary); err != nil {
		return err
	}
	for _, x := range a.Findings {
		if x.Warning {
			fmt.Println("WARNING:", x)
		} else {
			fmt.Println("differs:", x)
		}
	}
	if file, err := pipeline.CheckpointFile(model); err == nil {
		model = file
	}
	fmt.Printf("lntorch preprocess -d %s -plans_name %s -c %s\nlntorch train %s %s 0 -p %s -pretrained_weights %s\n", a.Dataset, a.Plans, a.Configuration,
		a.Dataset, a.Configuration, a.Plans, pipeline.Quoted(model))
	return nil
}
