package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newInspect() *cobra.Command {
	var c pipeline.InspectConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "shows what is in a checkpoint, without running anything from it",
		Long: `inspect opens a checkpoint (.pth of PyTorch, nnU-Net or lntorch, .safetensors), or the final checkpoint of a model folder, and tells what it is:
trainer, epoch, plans, the Python names in it, which network it holds and how many parameters, where its plans mean another one, and
every tensor's name, type and shape. A tensor with several names (aliases) is one line; --all shows each name, and the tensors of the
optimizer and of everything else in the file. --digest adds the sha256 of each tensor's bytes (row-major, little-endian).
Of .npz, .npy and .pkl files it shows each array or value, with range and the numbers of NaN and infinities. It needs no libtorch.

--json prints one object for a checkpoint: file, kind, container {format, version, bytes}, and where the file has them
trainer, current_epoch, dataset_name, plans_name, configuration, fold, mirror_axes, best_ema, optimizer {lr, momentum, weight_decay,
parameters, buffers}, grad_scaler, lntorch_method, lntorch_iteration, lntorch (its own state by name); then network, architecture (as arch_kwargs), input_channels,
classes, parameters, differences (between plans and weights), globals, keys, tensors [{name, dtype, shape, alias_of, sha256}], and
notes (how the file was read). NaN and infinities are null.
For other files it prints a list: {name, dtype, shape, min, max, nan, inf} of arrays, {name, value} of a pickle.`,
		Example: `  lntorch inspect model/fold_0/checkpoint_final.pth
  lntorch inspect --json --digest model/fold_0/checkpoint_final.pth
  lntorch inspect nnUNet_preprocessed/Dataset102_X/nnUNetPlans_3d_fullres/LN_000.npz`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.File = args[0]
			r, err := pipeline.Inspect(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(r)
			}
			return r.Text(os.Stdout)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}
