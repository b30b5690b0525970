package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newMerge() *cobra.Command {
	var c pipeline.MergeConfig
	cmd := &cobra.Command{
		Use:   "merge CHANGE --base CHECKPOINT -o OUT",
		Short: "puts an adapter or a sparse delta into plain weights",
		Long: `merge makes a plain checkpoint of a fine-tuning's result and the checkpoint that it began with. CHANGE is an adapter (a folder that
PEFT or lntorch wrote: adapter_config.json and adapter_model.safetensors or .bin), a sparse delta (delta.safetensors in a fold's folder), or a
checkpoint that holds adapters beside its weights, as wrapped networks save them; that one is its own base, and as it does not say how
adapters are scaled, --alpha must.

The result computes what the fine-tuned network computes, and stock nnU-Net predicts with it. Where CHANGE names the digest of its base,
another base is refused. OUT ends in .pth, .pt or .safetensors. It needs no libtorch.`,
		Example: `  lntorch merge fold_0/adapter --base foundation/checkpoint_final.pth -o merged.pth
  lntorch merge fold_0/delta.safetensors --base foundation/checkpoint_final.pth -o merged.pth
  lntorch merge wrapped/checkpoint_final.pth --alpha 16 -o merged.pth`,
		Args: exactly("CHANGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Change = args[0]
			did, err := pipeline.Merge(c, output(cmd))
			if err == nil {
				fmt.Printf("%s  %s\n", c.Path, did)
			}
			return err
		},
	}
	bind(cmd, &c)
	return cmd
}
