package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newConvert() *cobra.Command {
	var c pipeline.ConvertConfig
	cmd := &cobra.Command{
		Use:   "convert FILE -o OUT",
		Short: "rewrites a checkpoint: a faithful copy, one without the optimizer, the weights alone, .pth or .safetensors",
		Long: `convert reads a .pth file and writes it again. Every Python type, numpy scalars included, every alias and the order of keys stay,
so the copy equals the original for Python. To .safetensors go the weights, aliases as safetensors.torch.save_model writes them, and in
the metadata what the checkpoint says of them (trainer, plans, dataset, configuration, fold, epoch): the way back makes a checkpoint
that predicts. From another program's .safetensors file a bare state dict is made. --strip-optimizer leaves optimizer_state and grad_scaler_state out (None): the file still
predicts and can be fine-tuned, but not continued. --weights-only writes the bare state dict, which torch.load(weights_only=True) opens.
With --force OUT may be FILE itself; it is replaced when the new one is complete.`,
		Example: `  lntorch convert old.pth -o copy.pth
  lntorch convert checkpoint_final.pth --strip-optimizer -o small.pth
  lntorch convert checkpoint_final.pth --weights-only -o weights.pth
  lntorch convert checkpoint_final.pth -o weights.safetensors
  lntorch convert weights.safetensors -o checkpoint.pth`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.File = args[0]
			n, err := pipeline.Convert(c, output(cmd))
			if err == nil {
				fmt.Printf("%s  %s\n", c.Path, pipeline.BytesText(n))
			}
			return err
		},
	}
	bind(cmd, &c)
	return cmd
}
