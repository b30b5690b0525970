package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/atomicfile"
)

func newExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export MODEL_FOLDER -o FOLDER",
		Short: "writes a model folder that stock nnU-Net predicts with",
		Long: `export copies a model folder (<trainer>__<plans>__<configuration>, with its folds) under the name of a trainer that stock nnU-Net
knows: nnUNetTrainer_DGST is not part of it, and the trainer's class only builds the network. The optimizer is left out.
Every fold that holds the checkpoint is exported.`,
		Example: `  lntorch export results/Dataset102_X/nnUNetTrainer_DGST__nnUNetPlans__3d_fullres -o for-nnunet`,
		Args:    exactly("MODEL_FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			out, _ := f.GetString("output")
			trainer, _ := f.GetString("trainer")
			file, _ := f.GetString("checkpoint")
			if out == "" {
				return usage(cmd, errors.New("-o is not given"))
			}
			folder, folds, err := export(args[0], out, trainer, file)
			if err != nil {
				return err
			}
			fmt.Printf("%s\nnnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m %s -f %s -chk %s\n", folder, folder, strings.Join(folds, " "), file)
			return nil
		},
	}
	cmd.Flags().StringP("output", "o", "", "folder to write the model folder into")
	cmd.Flags().String("trainer", "nnUNetTrainer", "trainer that the copy names")
	cmd.Flags().String("checkpoint", "checkpoint_final.pth", "checkpoint of each fold")
	return cmd
}

// export gives the folder it wrote and the folds in it, as -f names them.
func export(model, out, trainer, file string) (string, []string, error) {
	name := strings.Split(filepath.Base(filepath.Clean(model)), "__")
	if len(name) != 3 {
		return "", nil, fmt.Errorf("%s: expected a folder named <trainer>__<plans>__<configuration>", model)
	}
	checkpoints, err := filepath.Glob(filepath.Join(model, "fold_*", file))
	if err != nil {
		return "", nil, err
	}
	if len(checkpoints) == 0 {
		return "", nil, fmt.Errorf("%s: no fold_*/%s: train it to the end, or name another with --checkpoint", model, file)
	}
	folder := filepath.Join(out, trainer+"__"+name[1]+"__"+name[2])
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", nil, err
	}
	for _, doc := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		b, err := os.ReadFile(filepath.Join(model, doc))
		if errors.Is(err, os.ErrNotExist) && doc == "dataset_fingerprint.json" {
			continue // nnU-Net does not need it to predict
		}
		if err != nil {
			return "", nil, err
		}
		if err := atomicfile.Write(filepath.Join(folder, doc), b); err != nil {
			return "", nil, err
		}
	}
	var folds []string
	for _, path := range checkpoints {
		fold := filepath.Base(filepath.Dir(path))
		if err := exportFold(path, filepath.Join(folder, fold), file, trainer); err != nil {
			return "", nil, err
		}
		folds = append(folds, strings.TrimPrefix(fold, "fold_"))
	}
	return folder, folds, nil
}

func exportFold(path, folder, file, trainer string) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !f.NNUNet {
		return fmt.Errorf("%s holds weights alone; nnU-Net needs the plans and the configuration that a trainer saves with them", path)
	}
	root := f.Root()
	root.Set("trainer_name", trainer)
	root.Set("optimizer_state", nil)
	root.Set("grad_scaler_state", nil)
	root.Delete("lntorch")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return pth.Save(filepath.Join(folder, file), root)
}
