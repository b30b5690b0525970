package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
)

func newConvert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "convert FILE -o OUT",
		Short: "rewrites a checkpoint: a faithful copy, or one without the optimizer, or the weights alone",
		Long: `convert reads a .pth file and writes it again. Every Python type, numpy scalars included, every alias and the order of keys stay,
so the copy equals the original for Python. --strip-optimizer leaves optimizer_state and grad_scaler_state out (None): the file still
predicts and can be fine-tuned, but not continued. --weights-only writes the bare state dict, which torch.load(weights_only=True) opens.`,
		Example: `  lntorch convert old.pth -o copy.pth
  lntorch convert checkpoint_final.pth --strip-optimizer -o small.pth
  lntorch convert checkpoint_final.pth --weights-only -o weights.pth`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			out, _ := f.GetString("output")
			strip, _ := f.GetBool("strip-optimizer")
			weights, _ := f.GetBool("weights-only")
			force, _ := f.GetBool("force")
			if out == "" {
				return usage(cmd, errors.New("-o is not given"))
			}
			if !strings.HasSuffix(out, ".pth") && !strings.HasSuffix(out, ".pt") {
				return usage(cmd, fmt.Errorf("-o %s: expected a name that ends in .pth or .pt", out))
			}
			if _, err := os.Stat(out); err == nil && !force {
				return fmt.Errorf("%s exists already: give --force to replace it", out)
			}
			return convert(args[0], out, strip, weights)
		},
	}
	cmd.Flags().StringP("output", "o", "", "file to write")
	cmd.Flags().Bool("strip-optimizer", false, "leave optimizer and gradient scaler out")
	cmd.Flags().Bool("weights-only", false, "write the state dict alone")
	cmd.Flags().Bool("force", false, "replace an existing file")
	return cmd
}

func convert(path, out string, strip, weights bool) error {
	if !strip && !weights { // whatever the pickle holds, a checkpoint or not
		p, err := pth.Open(path)
		if err != nil {
			return err
		}
		defer p.Close()
		return pth.Save(out, p.Root)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !f.NNUNet {
		return fmt.Errorf("%s holds weights alone already: there is nothing to leave out", path)
	}
	root := f.Root()
	if weights {
		state, _ := root.Get("network_weights")
		return pth.Save(out, state)
	}
	for _, key := range []string{"optimizer_state", "grad_scaler_state"} {
		root.Set(key, nil)
	}
	return pth.Save(out, root)
}
