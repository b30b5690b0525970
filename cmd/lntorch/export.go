package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/models"
)

func newExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export MODEL_FOLDER -o FOLDER",
		Short: "writes a model folder that stock nnU-Net predicts with",
		Long: `export copies a model folder (<trainer>__<plans>__<configuration>, with its folds) under the name of a trainer that stock nnU-Net
knows: nnUNetTrainer_DGST is not part of it, and the trainer's class only builds the network. The optimizer is left out, unless
--with-optimizer asks for it. Every fold that holds the checkpoint is exported; the folder appears when all of it is written.`,
		Example: `  lntorch export results/Dataset102_X/nnUNetTrainer_DGST__nnUNetPlans__3d_fullres -o for-nnunet`,
		Args:    exactly("MODEL_FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			out, _ := f.GetString("output")
			if out == "" {
				return usage(cmd, errors.New("-o is not given"))
			}
			e := exporter{model: filepath.Clean(args[0])}
			e.trainer, _ = f.GetString("trainer")
			e.file, _ = f.GetString("checkpoint")
			e.optimizer, _ = f.GetBool("with-optimizer")
			e.force, _ = f.GetBool("force")
			folder, folds, err := e.run(cmd.Context(), out)
			if err != nil {
				return err
			}
			fmt.Printf("%s\nnnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m %s -f %s -chk %s\n", folder, quoted(folder), strings.Join(folds, " "), quoted(e.file))
			return nil
		},
	}
	cmd.Flags().StringP("output", "o", "", "folder to write the model folder into")
	cmd.Flags().String("trainer", "nnUNetTrainer", "trainer that the copy names")
	cmd.Flags().String("checkpoint", "checkpoint_final.pth", "checkpoint of each fold")
	cmd.Flags().Bool("with-optimizer", false, "keep the optimizer's state, so that nnU-Net can train on")
	cmd.Flags().Bool("force", false, "replace a folder that is there already")
	return cmd
}

// quoted is a word for the shell.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t\n\"'\\$`&|;<>()*?[]#~!{}") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

type exporter struct {
	model, trainer, file string
	optimizer, force     bool
}

// run gives the folder it wrote and the folds in it, as -f names them.
func (e *exporter) run(ctx context.Context, out string) (string, []string, error) {
	name := strings.Split(filepath.Base(e.model), "__")
	if len(name) != 3 {
		return "", nil, fmt.Errorf("%s: expected a folder named <trainer>__<plans>__<configuration>", e.model)
	}
	checkpoints, err := filepath.Glob(filepath.Join(e.model, "fold_*", e.file))
	if err != nil {
		return "", nil, err
	}
	if len(checkpoints) == 0 {
		return "", nil, fmt.Errorf("%s: no fold_*/%s: train it to the end, or name another with --checkpoint", e.model, e.file)
	}
	folder := filepath.Join(out, e.trainer+"__"+name[1]+"__"+name[2])
	if there, err := os.Stat(folder); err == nil {
		if from, err := os.Stat(e.model); err == nil && os.SameFile(from, there) {
			return "", nil, fmt.Errorf("%s is the model itself: give another -o", folder)
		}
		if !e.force {
			return "", nil, fmt.Errorf("%s exists already: give --force to replace it", folder)
		}
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return "", nil, err
	}
	tmp, err := os.MkdirTemp(out, ".export-*")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(tmp) // does nothing after the rename
	folds, err := e.write(ctx, tmp, checkpoints)
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", nil, err
	}
	return folder, folds, os.Rename(tmp, folder)
}

func (e *exporter) write(ctx context.Context, folder string, checkpoints []string) ([]string, error) {
	for _, doc := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		b, err := os.ReadFile(filepath.Join(e.model, doc))
		if errors.Is(err, os.ErrNotExist) && doc == "dataset_fingerprint.json" {
			continue // nnU-Net does not need it to predict
		}
		if err != nil {
			return nil, err
		}
		if err := atomicfile.Write(filepath.Join(folder, doc), b); err != nil {
			return nil, err
		}
	}
	var folds []string
	for _, path := range checkpoints {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fold := filepath.Base(filepath.Dir(path))
		if err := e.fold(path, filepath.Join(folder, fold)); err != nil {
			return nil, err
		}
		folds = append(folds, strings.TrimPrefix(fold, "fold_"))
	}
	return folds, nil
}

func (e *exporter) fold(path, folder string) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !f.NNUNet {
		return fmt.Errorf("%s holds weights alone; nnU-Net needs the plans and the configuration that a trainer saves with them", path)
	}
	if err := e.predictable(f); err != nil {
		return fmt.Errorf("%s: stock nnU-Net could not predict with it: %w", path, err)
	}
	root := f.Root()
	root.Set("trainer_name", e.trainer)
	if !e.optimizer {
		root.Set("optimizer_state", nil)
		root.Set("grad_scaler_state", nil)
	}
	root.Delete("lntorch")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return pth.Save(filepath.Join(folder, e.file), root)
}

// predictable says why the network that nnU-Net builds for the trainer would not take the weights.
func (e *exporter) predictable(f *checkpoint.File) error {
	net := recogniseNetwork(f.Weights)
	if f.Configuration == "" {
		return errors.New("init_args names no configuration")
	}
	if net.Adapters > 0 {
		return fmt.Errorf("%d of its tensors belong to adapters (such as %s), which have to be merged into the weights first", net.Adapters, net.Adapter)
	}
	if net.Architecture == nil {
		return fmt.Errorf("its network is %s, expected one of %s", net.Class, strings.Join(models.Classes(), ", "))
	}
	if own, _ := models.ByTrainer(e.trainer); !models.Planned(net.Class) && own.Name() != net.Class {
		return fmt.Errorf("its network is %s, which %s does not build: name the trainer that does with --trainer (%s); nnU-Net must have its file",
			net.Class, e.trainer, strings.Join(models.Trainers(), ", "))
	}
	if differences := net.compare(f); len(differences) > 0 {
		return fmt.Errorf("weights and plans disagree: %s", strings.Join(differences, "; "))
	}
	return nil
}
