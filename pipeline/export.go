package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
)

// ExportConfig is a model folder that stock nnU-Net predicts with.
type ExportConfig struct {
	Model         string // folder <trainer>__<plans>__<configuration>
	Output        string `flag:"output" short:"o" path:"true" help:"folder to write the model folder into"`
	Trainer       string `flag:"trainer" bare:"true" default:"nnUNetTrainer" help:"trainer that the copy names"`
	Checkpoint    string `flag:"checkpoint" default:"checkpoint_final.pth" help:"checkpoint of each fold"`
	WithOptimizer bool   `flag:"with-optimizer" help:"keep the optimizer's state, so that nnU-Net can train on"`
	Force         bool   `flag:"force" help:"replace a folder that is there already"`
}

// Exported is a model folder that was exported.
type Exported struct {
	Folder string
	Folds  []string // as nnU-Net's -f names them
}

// Export writes the model folder, which appears when all of it is written.
func Export(ctx context.Context, c ExportConfig, o Output) (*Exported, error) {
	if c.Output == "" {
		return nil, settings.Usage("-o is not given")
	}
	c.Model = filepath.Clean(c.Model)
	folder, folds, err := c.run(ctx, c.Output, o)
	if err != nil {
		return nil, err
	}
	return &Exported{folder, folds}, nil
}

// run gives the folder it wrote and the folds in it, as -f names them.
func (e *ExportConfig) run(ctx context.Context, out string, o Output) (string, []string, error) {
	name := strings.Split(filepath.Base(e.Model), "__")
	if len(name) != 3 {
		return "", nil, fmt.Errorf("%s: expected a folder named <trainer>__<plans>__<configuration>", e.Model)
	}
	checkpoints, err := filepath.Glob(filepath.Join(e.Model, "fold_*", e.Checkpoint))
	if err != nil {
		return "", nil, err
	}
	if len(checkpoints) == 0 {
		return "", nil, fmt.Errorf("%s: no fold_*/%s: train it to the end, or name another with --checkpoint", e.Model, e.Checkpoint)
	}
	folder := filepath.Join(out, e.Trainer+"__"+name[1]+"__"+name[2])
	if there, err := os.Stat(folder); err == nil {
		if from, err := os.Stat(e.Model); err == nil && os.SameFile(from, there) {
			return "", nil, fmt.Errorf("%s is the model itself: give another -o", folder)
		}
		if !e.Force {
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
	folds, err := e.write(ctx, tmp, checkpoints, o)
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

func (e *ExportConfig) write(ctx context.Context, folder string, checkpoints []string, o Output) ([]string, error) {
	for _, doc := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		b, err := os.ReadFile(filepath.Join(e.Model, doc))
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
		if err := e.fold(path, filepath.Join(folder, fold, e.Checkpoint), o); err != nil {
			return nil, err
		}
		folds = append(folds, strings.TrimPrefix(fold, "fold_"))
	}
	return folds, nil
}

// fold writes the checkpoint of a fold under another name.
func (e *ExportConfig) fold(path, to string, o Output) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	o.notes(f)
	if !f.NNUNet {
		return fmt.Errorf("%s holds only weights; nnU-Net needs the plans and the configuration that a trainer saves with them", path)
	}
	if err := e.predictable(f); err != nil {
		return fmt.Errorf("%s: stock nnU-Net could not predict with it: %w", path, err)
	}
	root := f.Root()
	root.Set("trainer_name", e.Trainer)
	if !e.WithOptimizer {
		root.Set("optimizer_state", nil)
		root.Set("grad_scaler_state", nil)
	}
	root.Delete("lntorch")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return pth.Save(to, root)
}

// predictable is an error where the network that nnU-Net builds for the trainer cannot load the weights.
func (e *ExportConfig) predictable(f *checkpoint.File) error {
	net := recogniseNetwork(f.Weights)
	if f.Configuration == "" {
		if err := f.Understood(checkpoint.KeyConfiguration); err != nil {
			return err
		}
		return errors.New("init_args names no configuration")
	}
	if net.Adapters > 0 {
		return fmt.Errorf("%d of its tensors belong to adapters (such as %s), which have to be merged into the weights first", net.Adapters, net.Adapter)
	}
	if net.Architecture == nil {
		return fmt.Errorf("its network is %s, expected one of %s", net.Class, strings.Join(models.Classes(), ", "))
	}
	if own, _ := models.ByTrainer(e.Trainer); !models.Planned(net.Class) && own.Name() != net.Class {
		return fmt.Errorf("its network is %s, which %s does not build: name the trainer that does with --trainer (%s); nnU-Net must have its file",
			net.Class, e.Trainer, strings.Join(models.Trainers(), ", "))
	}
	if differences := net.compare(f); len(differences) > 0 {
		return fmt.Errorf("weights and plans disagree: %s", strings.Join(differences, "; "))
	}
	return nil
}

// Quoted is a word for the shell.
func Quoted(s string) string {
	if strings.ContainsAny(s, " \t\n\"'\\$`&|;<>()*?[]#~!{}") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
