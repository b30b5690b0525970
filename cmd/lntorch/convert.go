package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
)

func newConvert() *cobra.Command {
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
			f := cmd.Flags()
			strip, _ := f.GetBool("strip-optimizer")
			weights, _ := f.GetBool("weights-only")
			out, err := weightsOutput(cmd)
			if err != nil {
				return err
			}
			if err := convert(args[0], out, strip, weights, newConsole(cmd)); err != nil {
				return err
			}
			info, err := os.Stat(out)
			if err != nil {
				return err
			}
			fmt.Printf("%s  %s\n", out, bytesText(info.Size()))
			return nil
		},
	}
	cmd.Flags().StringP("output", "o", "", "file to write")
	cmd.Flags().Bool("strip-optimizer", false, "leave optimizer and gradient scaler out")
	cmd.Flags().Bool("weights-only", false, "write the state dict alone")
	cmd.Flags().Bool("force", false, "replace an existing file")
	return cmd
}

// weightsOutput is the file of weights that -o names. A file that exists needs --force.
func weightsOutput(cmd *cobra.Command) (string, error) {
	out, _ := cmd.Flags().GetString("output")
	force, _ := cmd.Flags().GetBool("force")
	if out == "" {
		return "", usage(cmd, errors.New("-o is not given"))
	}
	if !weightsFile(out) {
		return "", usage(cmd, fmt.Errorf("-o %s: expected a name that ends in .pth, .pt or %s", out, checkpoint.Extension))
	}
	if _, err := os.Stat(out); err == nil && !force {
		return "", fmt.Errorf("%s exists already: give --force to replace it", out)
	}
	return out, nil
}

func convert(path, out string, strip, weights bool, log io.Writer) error {
	if strings.HasSuffix(path, checkpoint.Extension) || strings.HasSuffix(out, checkpoint.Extension) {
		return convertSafetensors(path, out, strip, weights, log)
	}
	p, err := pth.Open(path)
	if err != nil {
		return err
	}
	defer p.Close()
	// The copy gets checksums of its own, which would hide damage that those of the original show.
	if err := p.Verify(0); err != nil {
		fmt.Fprintf(log, "warning: %v\n", err)
	}
	if !strip && !weights { // whatever the pickle holds, a checkpoint or not
		return pth.Save(out, p.Root)
	}
	root := dictOf(p.Root)
	if root == nil {
		return fmt.Errorf("%s is no dictionary: there is nothing to leave out", path)
	}
	if weights {
		for _, key := range []string{"network_weights", "state_dict"} {
			if state, ok := root.Get(key); ok {
				return pth.Save(out, state)
			}
		}
		return fmt.Errorf("%s has neither network_weights nor state_dict: it holds weights alone already, or none (`lntorch inspect` shows it)", path)
	}
	if _, ok := root.Get("optimizer_state"); !ok {
		return fmt.Errorf("%s has no optimizer_state: there is nothing to leave out", path)
	}
	root.Set("optimizer_state", nil)
	if _, ok := root.Get("grad_scaler_state"); ok {
		root.Set("grad_scaler_state", nil)
	}
	return pth.Save(out, root)
}

// convertSafetensors converts to or from that format, or both.
func convertSafetensors(path, out string, strip, weights bool, log io.Writer) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if strip && strings.HasSuffix(path, checkpoint.Extension) {
		return fmt.Errorf("%s has no optimizer: there is nothing to leave out", path)
	}
	if !strings.HasSuffix(out, checkpoint.Extension) {
		if state, ok := f.Root().Get("network_weights"); ok && weights {
			return pth.Save(out, state)
		}
		if !f.NNUNet {
			return pth.Save(out, &pickle.OrderedDict{Dict: *f.Root()})
		}
		return pth.Save(out, f.Root())
	}
	about := ""
	if !weights {
		if about, err = f.About(); err != nil {
			return err
		}
	}
	if v, _ := f.Root().Get("optimizer_state"); v != nil && !strip && !weights {
		fmt.Fprintln(log, "the optimizer's state and the log have no place in a safetensors file and are left out")
	}
	return checkpoint.SaveSafetensors(out, f.Weights, about)
}
