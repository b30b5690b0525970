package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newTrace() *cobra.Command {
	var c pipeline.TraceConfig
	cmd := &cobra.Command{
		Use:   "trace --checkpoint FILE --batches FOLDER -o FOLDER",
		Short: "trains a few steps on given batches and writes losses, gradients, masks and weights",
		Long: `trace takes every weight of a checkpoint as it is (heads too) and makes one optimizer step for each batch of
a folder: batch_NN_data.npy (float32, n c z y x) and batch_NN_target_K.npy (K = level of deep supervision,
0 = full resolution). The learning rate of step i of n is lr·(1-i/n)^0.9. It writes losses.json,
first_gradients.npz (step 0, before clipping), final.pth and, for methods with masks, mask.npz: how a team
proves that two stacks agree. --amp auto computes in float32 on every device. Ranks that train together
(-num_gpus, torchrun) take their rows of each batch; losses.json then has every rank's losses and sums of weights.`,
		Example: `  lntorch trace --checkpoint model/fold_0/checkpoint_final.pth --batches batches --method dgst -o out
  lntorch trace --checkpoint c.pth --plans nnUNetPlans.json --dataset-json dataset.json --configuration 3d_fullres --batches b --method full -o out`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, done, err := ranks(cmd.Context(), c.Config)
			if err != nil || done {
				return err
			}
			c.World = w
			if err := pipeline.Trace(cmd.Context(), c, output(cmd)); err != nil {
				return err
			}
			if w.Rank == 0 {
				fmt.Println(c.Output)
			}
			return nil
		},
	}
	bind(cmd, &c)
	bindOptions(cmd, &c.Method)
	return cmd
}
