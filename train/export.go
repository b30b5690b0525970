package train

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
)

// fileDelta is what changed, beside the checkpoints.
const fileDelta = "delta.safetensors"

// base is the checkpoint that a fine-tuning began with.
type base struct{ path, digest string } // both empty for none

// Names of its entries under "lntorch" in a checkpoint.
const (
	basePath   = "base"
	baseDigest = "base_sha256"
)

func baseOf(f *checkpoint.File) (base, error) {
	digest, err := f.Digest(models.Canonical)
	path := f.Path
	if err == nil {
		path, err = filepath.Abs(path) // a training may be continued elsewhere
	}
	if err != nil {
		return base{}, fmt.Errorf("train: %w", err)
	}
	return base{path, digest}, nil
}

// openBase opens the base again, unless it is open still and its file is as it was then.
func (t *trainer) openBase() (*checkpoint.File, func() error, error) {
	if t.source != nil && t.source.Unchanged() {
		return t.source, func() error { return nil }, nil
	}
	f, err := checkpoint.Open(t.base.path)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// exportResult writes, when training is over, the result in the smallest form in which it can be used: what the method itself
// exports, else a sparse delta to the checkpoint that the training began with, where that is much smaller than the weights.
func (t *trainer) exportResult() error {
	if t.cfg.DisableCheckpointing {
		return nil
	}
	about, err := t.about().About()
	if err != nil {
		return err
	}
	if m, ok := t.cfg.Method.(finetune.Exporter); ok {
		metadata := map[string]string{checkpoint.AboutKey: about}
		if t.base.digest != "" {
			metadata[delta.BaseKey] = t.base.digest
		}
		path, err := m.Export(t.fold, metadata)
		if err != nil {
			return fmt.Errorf("train: %w", err)
		}
		if path != "" {
			t.file.Print("adapter in", path+";", "`lntorch merge` puts it into", t.baseName())
			return nil
		}
	}
	return t.exportDelta(about)
}

func (t *trainer) baseName() string {
	if t.base.path == "" {
		return "its base"
	}
	return t.base.path
}

func (t *trainer) exportDelta(about string) error {
	path := filepath.Join(t.fold, fileDelta)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // an earlier training's
		return fmt.Errorf("train: %w", err)
	}
	if t.base.path == "" {
		return nil
	}
	f, done, err := t.openBase()
	if err != nil {
		t.file.Print("WARNING: no delta is written:", err)
		return nil
	}
	defer done()
	var weights []delta.Weight
	for _, p := range t.Net.Module().Parameters() {
		weights = append(weights, delta.Weight{Name: p.Name, Shape: p.Shape, Read: p.T.CopyBytesOut})
	}
	d, err := delta.Compare(f, weights)
	if err != nil { // such as a base without heads; the checkpoint itself is complete
		t.file.Print("WARNING: no delta is written:", err)
		return nil
	}
	if d.Base != t.base.digest {
		t.file.Print("WARNING: no delta is written:", t.base.path, "has changed since the training began with it")
		return nil
	}
	changed := fmt.Sprintf("%s of %s entries differ from %s", thousands(d.Changed), thousands(d.Total), t.base.path)
	if 2*d.Bytes() > d.Plain() {
		t.file.Print(changed + ": no delta is written, it would be hardly smaller than the weights")
		return nil
	}
	if err := d.Save(path, about); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.file.Print(changed+"; they are in", path+", `lntorch merge` applies it")
	return nil
}
