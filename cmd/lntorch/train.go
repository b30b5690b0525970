package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newTrain() *cobra.Command {
	var c pipeline.TrainConfig
	cmd := &cobra.Command{
		Use:   "train DATASET CONFIGURATION FOLD",
		Short: "trains or fine-tunes on preprocessed cases (nnUNetv2_train)",
		Long: `train fine-tunes a pretrained model (-pretrained_weights) or trains from scratch, on cases that nnU-Net or
lntorch preprocessed. DATASET is a number or a folder name, CONFIGURATION a key of the plans, FOLD a
number or "all".

The result is nnU-Net's: <results>/<dataset>/<trainer>__<plans>__<configuration>/fold_<fold>/ with checkpoints,
log, progress.png and validation/; beside them run.json and TensorBoard events. Ctrl-C saves and ends;
--c continues from there, to the same bits as without the interruption.

Patches are augmented as in nnU-Net, as the trainer's name says, or --augmentation; lntorch augment pipeline prints
the list of transforms, which may be edited. Prediction mirrors over the axes that training mirrored over.

Where plans or training data are missing and the raw dataset is there, they are made first: the plans from
the pretrained model, as lntorch adopt makes them, or by nnU-Net's planner; the data as lntorch preprocess
makes it, again where a raw file has changed. A folder that nnU-Net preprocessed stays as it is.

-num_gpus N trains on N GPUs of this host, or with -device cpu in N processes; ranks that torchrun --no-python,
mpirun or srun start train together likewise. The batch is that of all ranks together, and the result that of one
(docs/distributed.md).

Methods:
` + pipeline.MethodHelp() + `

Trainers (-tr) that differ in their batches alone, besides nnUNetTrainer_Nepochs_NoMirroring:
  ` + strings.Join(pipeline.BatchTrainers(), "\n  ") + `

Networks that a trainer (-tr) builds whatever the plans say:
` + pipeline.NetworkHelp(),
		Example: `  lntorch train 102 3d_fullres 0 --method dgst -pretrained_weights model/checkpoint_final.pth
  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST -pretrained_weights model/checkpoint_final.pth --head keep
  lntorch train 102 3d_phantom 0 -p nnUNetPlansAdopted -pretrained_weights model/checkpoint_final.pth    # from raw images
  lntorch train 102 3d_fullres all --method full --epochs 100 --iterations 50 -pretrained_weights FILE
  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST -pretrained_weights FILE --augmentation list.json --mirror-axes 0,1
  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST --c
  lntorch train 102 3d_fullres 0 -num_gpus 4 --batch-size 8
  torchrun --nnodes 2 --nproc-per-node 8 --no-python lntorch train 102 3d_fullres 0 --batch-size 32`,
		Args: exactly("DATASET", "CONFIGURATION", "FOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Dataset, c.Configuration, c.Fold = args[0], args[1], args[2]
			w, done, err := ranks(cmd.Context(), c.Config)
			if err != nil || done {
				return err
			}
			c.World = w
			r, err := pipeline.Train(cmd.Context(), c, output(cmd))
			if err != nil || r == nil { // rank 0 has the result
				return err
			}
			if r.Checkpoint != "" {
				fmt.Printf("checkpoint  %s\n", r.Checkpoint)
			}
			printValidation(r)
			return nil
		},
	}
	bind(cmd, &c)
	bindOptions(cmd, &c.Method)
	return cmd
}
