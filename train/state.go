package train

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/report/nnlog"
	"github.com/lntorch/lntorch/torch"
)

// stateVersion is raised when what stands under "lntorch" in a checkpoint changes its meaning.
const stateVersion = 1

// Prefixes of names under "lntorch": the method's own state, and the settings that last.
const (
	methodPrefix  = "method/"
	settingPrefix = "setting/"
)

// save writes a checkpoint of the training as it stands.
func (t *trainer) save(name string) error {
	c := &t.cfg
	if c.DisableCheckpointing {
		t.file.Print("No checkpoint written, checkpointing is disabled")
		return nil
	}
	state := t.about()
	state.Network = t.net.Module()
	state.SGD = checkpoint.SGDState{Options: t.sgd.Options(), InitialLR: c.LR, Buffers: t.sgd.State()}
	state.Logging = checkpoint.Logging(t.log)
	state.BestEMA = t.best
	state.Extra = []checkpoint.Entry{
		{Name: "version", Value: int64(stateVersion)},
		{Name: "epochs", Value: int64(c.Epochs)},
		{Name: "iteration", Value: int64(t.iteration)},
		{Name: "train_losses", Value: t.losses},
		{Name: basePath, Value: t.base.path},
		{Name: baseDigest, Value: t.base.digest},
	}
	lasting := t.lasting()
	for _, name := range slices.Sorted(maps.Keys(lasting)) {
		state.Extra = append(state.Extra, checkpoint.Entry{Name: settingPrefix + name, Value: lasting[name]})
	}
	if t.scaler != nil {
		s, err := t.scaler.State()
		if err != nil {
			return err
		}
		state.Scaler = &s
	}
	if m, ok := c.Method.(finetune.Stateful); ok {
		entries, err := m.State()
		if err != nil {
			return err
		}
		for _, e := range entries {
			state.Extra = append(state.Extra, checkpoint.Entry{Name: methodPrefix + e.Name, Value: e.Value})
		}
	}
	if err := checkpoint.Save(filepath.Join(t.fold, name), state); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// about is what a checkpoint of the training says of its weights.
func (t *trainer) about() *checkpoint.Training {
	c := &t.cfg
	return &checkpoint.Training{
		Epoch: t.epoch,
		InitArgs: checkpoint.InitArgs{Plans: t.plans.Raw(), Configuration: c.Configuration, Fold: c.Fold, Dataset: t.dataset.Raw(),
			UnpackDataset: true, Device: strings.SplitN(c.Device.String(), ":", 2)[0]},
		Trainer:    c.Trainer,
		MirrorAxes: t.mirrorAxes(),
	}
}

// lasting are the settings, as text, that a training keeps to its end: with others its bits would differ.
func (t *trainer) lasting() map[string]string {
	c := &t.cfg
	s := map[string]string{
		"method": c.MethodName, "seed": fmt.Sprint(c.Seed), "iterations": fmt.Sprint(c.Iterations), "val_iterations": fmt.Sprint(c.ValIterations),
		"batch_size": fmt.Sprint(c.BatchSize), "patch_size": fmt.Sprint(c.PatchSize), "lr": fmt.Sprint(c.LR),
		"weight_decay": fmt.Sprint(c.WeightDecay), "momentum": fmt.Sprint(c.Momentum), "oversample": fmt.Sprint(c.Oversample), "amp": string(c.AMP),
		"train": strings.Join(c.Refine.Train, " "), "freeze": strings.Join(c.Refine.Freeze, " "),
	}
	for name, value := range c.Settings {
		s[name] = fmt.Sprint(value)
	}
	return s
}

// resume goes on from a checkpoint, of lntorch at any iteration, of nnU-Net at the epoch it names.
func (t *trainer) resume(path string) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	if err := t.loadWeights(f, checkpoint.LoadOptions{}); err != nil {
		return err
	}
	return torch.With(func(s *torch.Scope) error {
		state, err := f.Training(s)
		if err != nil {
			return fmt.Errorf("train: %w", err)
		}
		if len(state.SGD.Buffers) != len(t.params) {
			return fmt.Errorf("train: %s: its optimizer has %d parameters, this network %d", path, len(state.SGD.Buffers), len(t.params))
		}
		if err := t.sgd.Load(state.SGD.Buffers); err != nil {
			return fmt.Errorf("train: %s: %w", path, err)
		}
		if t.scaler != nil && state.Scaler != nil {
			if err := t.scaler.Load(*state.Scaler); err != nil {
				return fmt.Errorf("train: %s: %w", path, err)
			}
		}
		t.log, t.best, t.epoch = nnlog.Log(state.Logging), state.BestEMA, state.Epoch
		t.restored = true
		if err := t.log.Check(t.epoch); err != nil {
			return fmt.Errorf("train: %s: %w", path, err)
		}
		t.log.Truncate(t.epoch)
		if err := t.restoreExtra(state.Extra); err != nil {
			return fmt.Errorf("train: %s: %w", path, err)
		}
		return nil
	})
}

func (t *trainer) restoreExtra(extra []checkpoint.Entry) error {
	if len(extra) == 0 {
		return nil // nnU-Net's: the epoch begins at its first iteration
	}
	values := map[string]any{}
	var method []finetune.StateEntry
	for _, e := range extra {
		values[e.Name] = e.Value
		if name, ok := strings.CutPrefix(e.Name, methodPrefix); ok {
			method = append(method, finetune.StateEntry{Name: name, Value: e.Value})
		}
	}
	if v, _ := values["version"].(int64); v != stateVersion {
		return fmt.Errorf("its lntorch state has version %v, this program reads %d: continue with the lntorch that wrote it", values["version"], stateVersion)
	}
	lasting := t.lasting()
	for _, name := range slices.Sorted(maps.Keys(lasting)) {
		if was, _ := values[settingPrefix+name].(string); was != lasting[name] {
			return fmt.Errorf("it was trained with %s %s, now %s is asked for: continue with the settings it began with (debug.json lists them)", name, was, lasting[name])
		}
	}
	if was, _ := values["epochs"].(int64); was != int64(t.cfg.Epochs) {
		fmt.Fprintf(t.cfg.Echo, "WARNING: the training began with %d epochs and goes on with %d: learning rates follow the new number\n", was, t.cfg.Epochs)
	}
	n, _ := values["iteration"].(int64)
	t.losses, _ = values["train_losses"].([]float64)
	if n < 0 || n > int64(t.cfg.Iterations) || int64(len(t.losses)) != n {
		return fmt.Errorf("its lntorch state tells of %d iterations and %d losses", n, len(t.losses))
	}
	t.iteration = int(n)
	t.base.path, _ = values[basePath].(string)
	t.base.digest, _ = values[baseDigest].(string)
	if m, ok := t.cfg.Method.(finetune.Stateful); ok {
		return m.Restore(method)
	}
	return nil
}

// interrupt saves in the middle of an epoch.
func (t *trainer) interrupt() error {
	t.log.Truncate(t.epoch)
	stopped := &Interrupted{Epoch: t.epoch, Iteration: t.iteration}
	if !t.cfg.DisableCheckpointing {
		if err := t.save(fileLatest); err != nil {
			return err
		}
		stopped.Checkpoint = filepath.Join(t.fold, fileLatest)
	}
	t.file.Print(stopped.Error())
	return errors.Join(stopped, t.writeRun("interrupted"))
}

// finish writes the final checkpoint; the latest one goes once that is durable.
func (t *trainer) finish() error {
	if err := t.save(fileFinal); err != nil {
		return err
	}
	if !t.cfg.DisableCheckpointing {
		if err := os.Remove(filepath.Join(t.fold, fileLatest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("train: %w", err)
		}
	}
	if err := t.leave(); err != nil {
		return err
	}
	t.file.Print("Training done.")
	return t.writeRun("trained")
}

// mirrorAxes are all axes of a patch, what nnU-Net's trainer trains with by default.
func (t *trainer) mirrorAxes() []int {
	axes := make([]int, len(t.cfg.PatchSize))
	for i := range axes {
		axes[i] = i
	}
	return axes
}
