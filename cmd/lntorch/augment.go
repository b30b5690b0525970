package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newAugment() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "augment COMMAND",
		Short: "shows, draws and applies nnU-Net's data augmentation",
		Long: `augment takes the transforms of training patches apart: pipeline prints the list in force, sample draws the parameters of
samples, apply applies given parameters to arrays, preview draws what the network will see, batches writes what train sees.
Parameters are JSON with the class names and keys of batchgeneratorsv2, so that
either program can draw them and either can apply them. Only apply --augment-on device needs libtorch.`,
		Example: `  lntorch augment pipeline --plans nnUNetPlans.json -c 3d_fullres > list.json
  lntorch augment sample --patch-size 64,128,128 -n 10 -o drawn.jsonl
  lntorch augment apply spec.json --data crop.npy --seg labels.npy -o out.npz
  lntorch augment preview LN_1.npz --plans nnUNetPlans.json -c 3d_fullres -o sheet.png
  lntorch augment batches 102 3d_fullres 0 -n 4 --crops -o batches`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("unknown command %q: expected pipeline, sample, apply, preview or batches", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newAugmentPipeline(), newAugmentSample(), newAugmentApply(), newAugmentPreview(), newAugmentBatches())
	return cmd
}

func newAugmentPipeline() *cobra.Command {
	var c pipeline.AugmentConfig
	cmd := &cobra.Command{
		Use:   "pipeline",
		Short: "prints the list of transforms in force",
		Long: `pipeline prints the list of transforms as one JSON object: augmentation, patch_size, initial_patch_size (what is cut out of a case),
mirror_axes (null: none) and transforms, each with its class, apply_probability where a coin decides, and the arguments of
batchgeneratorsv2's constructor. A range [a,b] is uniform, {"BGContrast":[a,b]} is batchgeneratorsv2's BGContrast.

Edited, the object is given back as --augmentation FILE: transforms may be left out, repeated and reordered, their numbers changed.
What the data need at its end is added where it is missing.`,
		Example: `  lntorch augment pipeline --plans nnUNetPlans.json -c 3d_fullres -tr nnUNetTrainer_onlyMirror01
  lntorch augment pipeline --patch-size 64,128,128 --channels 2`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := pipeline.AugmentPipeline(c, output(cmd))
			if err != nil {
				return err
			}
			e := json.NewEncoder(os.Stdout)
			e.SetIndent("", " ")
			return e.Encode(list)
		},
	}
	bind(cmd, &c)
	return cmd
}

func newAugmentSample() *cobra.Command {
	var c pipeline.AugmentSampleConfig
	cmd := &cobra.Command{
		Use:   "sample",
		Short: "draws the parameters of training samples",
		Long: `sample draws what training would: one JSON object a line with iteration, sample, patch_size, initial_patch_size and transforms, every
transform of the list in its order; where its coin says no, "apply_transform" is false. Line i is iteration (start+i) div batch size,
sample (start+i) mod batch size, whatever was drawn before.`,
		Example: `  lntorch augment sample --patch-size 64,128,128 -n 1000 --seed 3 -o drawn.jsonl`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return pipeline.AugmentSample(cmd.Context(), c, os.Stdout, output(cmd))
		},
	}
	bind(cmd, &c)
	return cmd
}

func newAugmentApply() *cobra.Command {
	var c pipeline.AugmentApplyConfig
	cmd := &cobra.Command{
		Use:   "apply SPEC.json",
		Short: "applies given parameters to an image and its segmentation",
		Long: `apply applies the transforms of SPEC in their order. SPEC is one line of lntorch augment sample, or any object with the list
"transforms"; other keys beside it are left alone. Files that it names are relative to it.

The output holds data (float32) and seg (int16; bool after regions), or seg_0, seg_1, … after DownsampleSegForDSTransform.

--augment-on device applies them as operators of libtorch, on the CPU or a GPU, as training does with the same flag. Data differ by
rounding alone.`,
		Example: `  lntorch augment apply spec.json --data crop.npy --seg labels.npy -o out.npz
  lntorch augment apply spec.json --data crop.npy --augment-on device -device cuda -o out.npz`,
		Args: exactly("SPEC.json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Spec = args[0]
			return pipeline.AugmentApply(cmd.Context(), c, output(cmd))
		},
	}
	bind(cmd, &c)
	return cmd
}

func newAugmentPreview() *cobra.Command {
	var c pipeline.AugmentPreviewConfig
	cmd := &cobra.Command{
		Use:   "preview CASE",
		Short: "draws what the network will see of a preprocessed case",
		Long: `preview cuts a patch out of CASE, a preprocessed .npz with its .pkl beside it, and draws its middle planes with the labels
outlined: first unchanged, then as each of the first samples of a training with the same seed would transform it (line i of
lntorch augment sample), and beside them the transforms that acted and their parameters. Angles are about z, y, x as drawn; scales
above 1 shrink; sigmas of blur are voxels.

All rows show the same place: around a foreground voxel that follows from --seed, or the middle of a case without foreground. All
have the grey levels of the unchanged patch, without its darkest 1 % and brightest 0.5 %.`,
		Example: `  lntorch augment preview nnUNetPlans_3d_fullres/LN_1.npz --plans nnUNetPlans.json -c 3d_fullres -o sheet.png
  lntorch augment preview LN_1.npz --plans nnUNetPlans.json -c 2d --augmentation list.json -n 12 --seed 3 -o sheet.png`,
		Args: exactly("CASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Case = args[0]
			if err := pipeline.AugmentPreview(cmd.Context(), c, output(cmd)); err != nil {
				return err
			}
			fmt.Println(c.Output)
			return nil
		},
	}
	bind(cmd, &c)
	return cmd
}

func newAugmentBatches() *cobra.Command {
	var c pipeline.AugmentBatchesConfig
	cmd := &cobra.Command{
		Use:   "batches DATASET CONFIGURATION FOLD",
		Short: "writes the batches that train sees, as files",
		Long: `batches writes the batches that lntorch train sees with the same flags and seed, for lntorch trace --batches and for Python:
batch_NN_data.npy (float32, n c z y x), batch_NN_target_K.npy (int16, with regions bool; K = level of deep supervision) and
batch_NN.json: iteration, sha256 (of the image's bytes, then the targets') and for each sample key, bbox_lbs, bbox_ubs, force_fg,
selected_class, in 2d selected_slice, and the parameters of its transforms as lntorch augment sample has them. NN counts from 00
on; the first batch is iteration --start of the training.

--crops also writes batch_NN_crop_data.npy and batch_NN_crop_seg.npy (int16), the patches as they are in the cases, with 0 and -1
beyond them, and for a sample J with noise batch_NN_noise_J.npy, which the JSON names: what any program needs to make the
batch again with batchgeneratorsv2. Equal settings give equal files.

A folder that holds batches is refused; with --force they are removed first, and other files stay. Ctrl-C ends after the running
batch: what is there is whole.`,
		Example: `  lntorch augment batches 102 3d_fullres 0 -p nnUNetPlansSource -n 4 --crops -o batches
  lntorch augment batches 102 3d_fullres all --augmentation list.json --start 2500 --seed 3 -o batches`,
		Args: exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset, c.Configuration, c.Fold = args[0], args[1], args[2]
			if err := pipeline.AugmentBatches(cmd.Context(), c, output(cmd)); err != nil {
				return err
			}
			fmt.Println(c.Output)
			return nil
		},
	}
	bind(cmd, &c)
	return cmd
}
