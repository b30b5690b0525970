package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
)

// Names in a model folder.
const (
	finalCheckpoint = "checkpoint_final.pth"
	adapterFolder   = "adapter"
	deltaFile       = "delta.safetensors"
)

// plansFile is the file of the adopted plans.
func (a *adaptation) plansFile() string {
	return filepath.Join(a.folder("preprocessed"), adaptDataset, a.record.Plan.Plans+".json")
}

// resultFolder is where the training writes a fold.
func (a *adaptation) resultFolder(fold string) string {
	p := a.record.Plan
	return filepath.Join(a.folder("results"), adaptDataset,
		p.Trainer+"__"+p.Plans+"__"+p.Configuration, "fold_"+fold)
}

// train fine-tunes on the training cases and delivers the model, unless a refit will.
func (a *adaptation) train(ctx context.Context) error {
	if err := a.trainFold(ctx, a.record.Plan.Fold); err != nil {
		return err
	}
	if a.refits() {
		return a.deliverModel(ctx, a.record.Plan.Fold, a.folder("model"))
	}
	return a.deliver(ctx, a.record.Plan.Fold)
}

// refit trains on all cases of --cases.
func (a *adaptation) refit(ctx context.Context) error {
	if err := a.trainFold(ctx, "all"); err != nil {
		return err
	}
	return a.deliver(ctx, "all")
}

// trainFold trains a fold, or goes on with its training.
func (a *adaptation) trainFold(ctx context.Context, fold string) error {
	p := a.record.Plan
	c := settings.New[TrainConfig]()
	c.Dataset, c.Configuration, c.Fold, c.PlansName = "1", p.Configuration, fold, p.Plans
	c.Preprocessed, c.Results, c.NoPrepare = a.folder("preprocessed"), a.folder("results"), true
	c.Trainer, c.Method, c.Machine = p.Trainer, a.Method, a.Machine
	c.Settings.Head, c.Settings.Refine, c.Settings.Optimizer = p.Head, a.AdaptConfig.Refine, a.Optimizer
	c.Settings.BatchSettings = a.BatchSettings
	c.PatchSize, c.BatchSize = nil, 0 // those of the plans, which have what is given
	c.Epochs, c.Iterations, c.ValIterations = p.Epochs, p.Iterations, p.ValIterations
	c.NoValidation = true
	c.Pretrained = a.checkpoint
	for _, name := range []string{finalCheckpoint, "checkpoint_latest.pth", "checkpoint_best.pth"} {
		if isFile(filepath.Join(a.resultFolder(fold), name)) {
			c.Continue, c.Pretrained = true, ""
		}
	}
	_, err := Train(ctx, c, a.out)
	return err
}

// deliver puts the model of a fold into the output, and what is smaller where the method left it.
func (a *adaptation) deliver(ctx context.Context, fold string) error {
	from := a.resultFolder(fold)
	adapter := filepath.Join(a.Output, adapterFolder)
	if _, err := os.Stat(filepath.Join(from, adapterFolder)); err == nil {
		err := replaceFolder(adapter, func(folder string) error {
			return copyFolder(filepath.Join(from, adapterFolder), folder)
		})
		if err != nil {
			return err
		}
	}
	if path := filepath.Join(from, deltaFile); isFile(path) {
		if err := copyFile(path, filepath.Join(a.Output, deltaFile)); err != nil {
			return err
		}
	}
	return a.deliverModel(ctx, fold, a.modelFolder())
}

// deliverModel writes a model folder that nnU-Net predicts with.
func (a *adaptation) deliverModel(ctx context.Context, fold, to string) error {
	from := a.resultFolder(fold)
	final := filepath.Join(from, finalCheckpoint)
	if adapter := filepath.Join(from, adapterFolder); isFolder(adapter) {
		merged := filepath.Join(from, "merged.pth")
		defer os.Remove(merged)
		did, err := Merge(MergeConfig{Change: adapter, Base: a.checkpoint, Trainer: a.record.Plan.Delivered,
			WeightsOutput: WeightsOutput{Path: merged, Force: true}}, a.out)
		if err != nil {
			return err
		}
		a.out.Printf("adapter merged into the model: %s", did)
		final = merged
	}
	e := settings.New[ExportConfig]()
	e.Model, e.Trainer = filepath.Dir(from), a.record.Plan.Delivered
	err := replaceFolder(to, func(folder string) error {
		if _, err := e.write(ctx, folder, nil, a.out); err != nil {
			return err
		}
		return e.fold(final, filepath.Join(folder, "fold_0", finalCheckpoint), a.out)
	})
	if err == nil {
		a.out.Printf("model in %s: nnUNetv2_predict_from_modelfolder -m %s -f 0 -i IMAGES -o OUTPUT", to, Quoted(to))
	}
	return err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// unfinishedFolder is the beginning of the name of a folder that replaceFolder has not finished.
const unfinishedFolder = ".adapt-"

// replaceFolder makes a folder that appears when all of it is written and on the disk. A kill leaves a folder
// for sweep.
func replaceFolder(path string, write func(folder string) error) error {
	tmp, err := os.MkdirTemp(filepath.Dir(path), unfinishedFolder+"*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // has nothing but itself after the rename
	inner := filepath.Join(tmp, filepath.Base(path))
	if err := os.Mkdir(inner, 0o755); err != nil {
		return err
	}
	if err := write(inner); err != nil {
		return err
	}
	if err := syncFolders(inner); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(inner, path); err != nil {
		return err
	}
	return atomicfile.SyncFolder(filepath.Dir(path))
}

// copyFolder copies a folder's files into one that is there, file by file onto the disk.
func copyFolder(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		switch target := filepath.Join(to, rel); {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		default:
			return copyFile(path, target)
		}
	})
}

// syncFolders makes the names in a folder and in those below it durable.
func syncFolders(folder string) error {
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return atomicfile.SyncFolder(path)
	})
}

// sweep removes what an adaptation that was killed left half-written in the output: temporary files, and the
// folders of replaceFolder.
func (a *adaptation) sweep() error {
	for _, folder := range []string{a.Output, a.work} {
		if err := atomicfile.Sweep(folder); err != nil {
			return err
		}
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			number, ok := strings.CutPrefix(e.Name(), unfinishedFolder)
			if !ok || !e.IsDir() || strings.Trim(number, "0123456789") != "" {
				continue
			}
			if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// prediction predicts the held-out cases with a model.
func (a *adaptation) prediction(model, output string) PredictConfig {
	c := settings.New[PredictConfig]()
	c.Model, c.Output, c.NoMirror, c.Machine, c.Continue = model, output, a.NoMirror, a.Machine, true
	entries, err := os.ReadDir(a.heldOutFolder("images"))
	if err == nil {
		for _, e := range entries {
			c.Input = append(c.Input, filepath.Join(a.heldOutFolder("images"), e.Name()))
		}
	}
	return c
}

// predict predicts the held-out cases into a folder of the output.
func (a *adaptation) predict(ctx context.Context, model, name string) error {
	return Predict(ctx, a.prediction(model, filepath.Join(a.Output, name)), a.out, nil)
}

// scoreBefore scores the model as it is.
func (a *adaptation) scoreBefore(ctx context.Context) error {
	if err := a.predict(ctx, a.checkpoint, stageBefore); err != nil {
		return err
	}
	if err := a.evaluateBefore(ctx); err != nil {
		return err
	}
	for _, key := range a.before.Keys() {
		mean := a.before.Mean[key]["Dice"]
		of := ""
		if all := len(a.before.Cases); mean.N < all {
			of = fmt.Sprintf(" in the %d of %d cases where it is defined", mean.N, all)
		}
		a.out.Printf("%s: the model as it is has a mean Dice of %.3f%s", a.before.Labels[key], float64(mean.Mean), of)
		if mean.Mean == 0 {
			a.out.Printf("WARNING: %s: the model finds nothing at all in the held-out cases: look at intensities "+
				"(HU?), orientation and labels before training", a.before.Labels[key])
		}
	}
	return nil
}

// scoreAfter scores the adapted model.
func (a *adaptation) scoreAfter(ctx context.Context) error {
	model := a.modelFolder()
	if a.refits() {
		model = a.folder("model")
	}
	if err := a.predict(ctx, model, stageAfter); err != nil {
		return err
	}
	return a.evaluateAfter(ctx)
}

func (a *adaptation) evaluateBefore(ctx context.Context) (err error) {
	a.before, err = a.evaluate(ctx, stageBefore)
	return err
}

func (a *adaptation) evaluateAfter(ctx context.Context) (err error) {
	a.after, err = a.evaluate(ctx, stageAfter)
	return err
}
