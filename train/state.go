package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report/nnlog"
	"github.com/lntorch/lntorch/torch"
)

// stateVersion is raised when what stands under "lntorch" in a checkpoint changes. Version 2 added
// setting/numerics, version 3 the list of transforms and the random stream. testdata/golden/state holds a checkpoint of each version; all of them can be continued.
const stateVersion = 3

// Prefixes of names under "lntorch": the method's own state, and the settings that last.
const (
	methodPrefix  = "method/"
	settingPrefix = "setting/"
	worldSize     = "world_size" // where ranks trained together
)

// save writes a checkpoint of the training as it stands: rank 0 does, and all ranks wait until it is there.
func (t *trainer) save(name string) error {
	if t.cfg.DisableCheckpointing {
		t.file.Print("No checkpoint written, checkpointing is disabled")
		return nil
	}
	path := filepath.Join(t.fold, name)
	written := func() {
		if name != fileBest || t.saved == "" || filepath.Base(t.saved) == fileBest { // --c prefers another to the best
			t.saved, t.savedEpoch = path, t.epoch
		}
	}
	if t.peers.first() {
		if err := t.write(path); err != nil {
			return err
		}
		written() // even if another rank is lost meanwhile
	}
	if err := t.peers.meet(); err != nil {
		return t.failed(err)
	}
	written()
	return nil
}

// write writes a checkpoint.
func (t *trainer) write(path string) error {
	c := &t.cfg
	state := t.about()
	state.Network = t.Net.Module()
	state.SGD = checkpoint.SGDState{Options: t.SGD.Options(), InitialLR: c.LR, Buffers: t.SGD.State()}
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
	list, err := json.Marshal(t.list)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	state.Extra = append(state.Extra,
		checkpoint.Entry{Name: augmentationList, Value: string(list)},
		checkpoint.Entry{Name: augmentationFixes, Value: t.fixes},
		checkpoint.Entry{Name: augmentationStream, Value: int64(augment.RandomStream)},
		checkpoint.Entry{Name: augmentationBatches, Value: strings.Join(t.sums, " ")})
	if world := t.peers.size(); world > 1 {
		state.Extra = append(state.Extra, checkpoint.Entry{Name: worldSize, Value: int64(world)})
	}
	kept := t.resumeSettings()
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		state.Extra = append(state.Extra, checkpoint.Entry{Name: settingPrefix + name, Value: kept[name]})
	}
	if t.Scaler != nil {
		s, err := t.Scaler.State()
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
	if err := checkpoint.Save(path, state); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// about is the metadata of the checkpoint's weights.
func (t *trainer) about() *checkpoint.Training {
	c := &t.cfg
	return &checkpoint.Training{
		Epoch: t.epoch,
		InitArgs: checkpoint.InitArgs{Plans: t.data.Plans.Raw(), Configuration: c.Configuration, Fold: c.Fold, Dataset: t.data.Dataset.Raw(),
			UnpackDataset: true, Device: strings.SplitN(c.Device.String(), ":", 2)[0]},
		Trainer:    c.Trainer,
		MirrorAxes: t.list.MirrorAxes,
	}
}

// resumeSettings are the settings, as text, that a training keeps to its end: with others its bits would
// differ.
func (t *trainer) resumeSettings() map[string]string {
	c := &t.cfg
	kept := settings.Kept(&c.Settings)
	maps.Copy(kept, settings.Kept(&c.Machine))
	maps.Copy(kept, c.Options)
	kept["method"] = c.MethodName
	return kept
}

// sameSettings refuses to continue with settings that a checkpoint was not trained with. What the
// checkpoint does not know came later: it had the value from before then.
func (t *trainer) sameSettings(kept map[string]string) error {
	c := &t.cfg
	changes := slices.Concat(settings.Compare(&c.Settings, kept), settings.Compare(&c.Machine, kept))
	if kept["method"] != c.MethodName {
		changes = []settings.Change{{Name: "method", Was: kept["method"], Is: c.MethodName}}
	} else {
		entry, err := finetune.Lookup(c.MethodName)
		if err != nil {
			return err
		}
		for _, o := range entry.Options {
			was, ok := kept[o.Name]
			if !ok {
				was = o.Default
			}
			if is, ok := c.Options[o.Name]; ok && is != was {
				changes = append(changes, settings.Change{Name: o.Name, Was: was, Is: is})
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	var list []string
	for _, x := range changes {
		list = append(list, fmt.Sprintf("%s %s (now %s)", x.Name, orNone(x.Was), orNone(x.Is)))
	}
	return fmt.Errorf("it was trained with other settings, which would change its bits: %s: continue with those (debug.json lists them; -device decides about amp auto)", strings.Join(list, ", "))
}

// otherDevice warns where a training run is continued on another kind of device: it may, but its bits are
// not those of an uninterrupted run.
func (t *trainer) otherDevice(was string) {
	is, _, _ := strings.Cut(t.cfg.Device.String(), ":")
	if was != "" && was != is {
		t.warn("the training run began on %s and continues on %s: its results differ from an uninterrupted run's; -device %s continues to the same bits", was, is, was)
	}
}

// warn echoes a warning that every rank could give.
func (t *trainer) warn(format string, a ...any) {
	if t.peers.first() {
		fmt.Fprintf(t.cfg.Echo, "WARNING: "+format+"\n", a...)
	}
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// resume continues from a checkpoint: one of lntorch at its iteration, one of nnU-Net at its epoch.
func (t *trainer) resume(f *checkpoint.File) error {
	path := f.Path
	if err := t.loadWeights(f, checkpoint.LoadOptions{}); err != nil {
		return err
	}
	return torch.With(func(s *torch.Scope) error {
		state, err := f.Training(s)
		if err != nil {
			return fmt.Errorf("train: %w", err)
		}
		t.otherDevice(state.InitArgs.Device)
		if len(state.SGD.Buffers) != len(t.Params) {
			return fmt.Errorf("train: %s: its optimizer has %d parameters, this network %d", path, len(state.SGD.Buffers), len(t.Params))
		}
		if err := t.SGD.Load(state.SGD.Buffers); err != nil {
			return fmt.Errorf("train: %s: %w", path, err)
		}
		if t.Scaler != nil && state.Scaler != nil {
			if err := t.Scaler.Load(*state.Scaler); err != nil {
				return fmt.Errorf("train: %s: %w", path, err)
			}
		}
		t.log, t.best, t.epoch = nnlog.Log(state.Logging), state.BestEMA, state.Epoch
		t.restored, t.saved, t.savedEpoch = true, t.origin, state.Epoch
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
	if len(extra) == 0 { // nnU-Net's: the epoch begins at its first iteration
		return t.resumeList(nil, true)
	}
	values, kept := map[string]any{}, map[string]string{}
	var method []finetune.StateEntry
	for _, e := range extra {
		values[e.Name] = e.Value
		if name, ok := strings.CutPrefix(e.Name, methodPrefix); ok {
			method = append(method, finetune.StateEntry{Name: name, Value: e.Value})
		}
		if name, ok := strings.CutPrefix(e.Name, settingPrefix); ok {
			kept[name], _ = e.Value.(string)
		}
	}
	if v, _ := values["version"].(int64); v < 1 || v > stateVersion {
		return fmt.Errorf("its lntorch state has version %v, this program reads 1 to %d: continue with the lntorch that wrote it", values["version"], stateVersion)
	}
	if err := t.sameSettings(kept); err != nil {
		return err
	}
	if was, _ := values["epochs"].(int64); was != int64(t.cfg.Epochs) {
		t.warn("training began with %d epochs and continues with %d: learning rates follow the new number", was, t.cfg.Epochs)
	}
	was := int64(1)
	if world, ok := values[worldSize].(int64); ok {
		was = world
	}
	if is := int64(t.peers.size()); was != is {
		equal := "equal results but for rounding"
		if t.cfg.Machine.IsReference() {
			equal = "and with --numerics reference a loss that depends on how they are shared out, as nnU-Net's"
		}
		t.notes = append(t.notes, fmt.Sprintf("the training began with %s and goes on with %s: the same batches, %s", rankCount(was), rankCount(is), equal))
	}
	n, _ := values["iteration"].(int64)
	t.losses, _ = values["train_losses"].([]float64)
	if n < 0 || n > int64(t.cfg.Iterations) || int64(len(t.losses)) != n {
		return fmt.Errorf("its lntorch state holds %d iterations and %d losses, expected as many", n, len(t.losses))
	}
	t.iteration = int(n)
	if err := t.resumeList(values, false); err != nil {
		return err
	}
	sums, _ := values[augmentationBatches].(string)
	t.sums = strings.Fields(sums)
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
	if err := t.writeRun(statusInterrupted); err != nil {
		return errors.Join(stopped, err)
	}
	// A launcher may end the others when one has ended: nobody leaves before all is saved.
	return errors.Join(stopped, t.peers.meet())
}

// finish writes the final checkpoint, and removes the latest one once that is durable.
func (t *trainer) finish() error {
	if err := t.save(fileFinal); err != nil {
		return err
	}
	if !t.peers.first() {
		return nil
	}
	if !t.cfg.DisableCheckpointing {
		if err := os.Remove(filepath.Join(t.fold, fileLatest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("train: %w", err)
		}
	}
	if err := t.exportResult(); err != nil {
		return err
	}
	t.file.Print("Training done.")
	return t.writeRun(statusTrained)
}
