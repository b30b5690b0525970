package main

import (
	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newForward() *cobra.Command {
	var c pipeline.ForwardConfig
	cmd := &cobra.Command{
		Use:   "forward --checkpoint FILE --input X.npy --output Y.npz",
		Short: "runs the network of a checkpoint on an array",
		Long: `forward runs a checkpoint's network, in evaluation mode, on an array (n, c, z, y, x; float32) and writes the logits of
its heads: head_0 at full resolution and, with --deep-supervision, head_1, head_2, …`,
		Example: `  lntorch forward --checkpoint model/fold_0/checkpoint_final.pth --input x.npy --output y.npz --deep-supervision`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return pipeline.Forward(c, output(cmd))
		},
	}
	bind(cmd, &c)
	return cmd
}
