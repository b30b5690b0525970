package pipeline

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
)

// MergeConfig puts a fine-tuning's result into plain weights.
type MergeConfig struct {
	Change string // adapter folder, sparse delta, or checkpoint that holds adapters
	WeightsOutput
	Base    string  `flag:"base" path:"true" help:"checkpoint that the fine-tuning began with"`
	Alpha   float64 `flag:"alpha" range:">0.." help:"for a checkpoint that holds adapters: they are scaled by alpha/rank"`
	Trainer string  `flag:"trainer" default:"nnUNetTrainer" help:"trainer that the result names"`
}

// Merge writes the merged checkpoint and summarises what it did.
func Merge(c MergeConfig, o Output) (did string, err error) {
	if err := c.WeightsOutput.check(); err != nil {
		return "", err
	}
	m := merger{output: o, base: c.Base, alpha: c.Alpha, alphaGiven: c.Alpha > 0}
	defer m.close()
	edit, err := m.open(c.Change)
	if err != nil {
		return "", err
	}
	return m.did, edit.Save(c.Path, c.Trainer)
}

// WeightsOutput is a file of weights that is written.
type WeightsOutput struct {
	Path  string `flag:"output" short:"o" path:"true" help:"file to write: .pth, .pt or .safetensors"`
	Force bool   `flag:"force" help:"replace an existing file"`
}

// check refuses names that mean no file of weights, and files that exist, unless forced.
func (w WeightsOutput) check() error {
	if w.Path == "" {
		return settings.Usage("-o is not given")
	}
	if !strings.HasSuffix(w.Path, ".pth") && !strings.HasSuffix(w.Path, ".pt") && !strings.HasSuffix(w.Path, checkpoint.Extension) {
		return settings.Usage("-o %s: expected a name that ends in .pth, .pt or %s", w.Path, checkpoint.Extension)
	}
	if _, err := os.Stat(w.Path); err == nil && !w.Force {
		return fmt.Errorf("%s exists already: give --force to replace it", w.Path)
	}
	return nil
}

// merger keeps files open until the result is written.
type merger struct {
	base       string
	alpha      float64
	alphaGiven bool
	did        string
	output     Output
	files      []io.Closer
}

func (m *merger) close() {
	for _, f := range m.files {
		f.Close()
	}
}

func (m *merger) open(change string) (*checkpoint.Edit, error) {
	info, err := os.Stat(change)
	if err != nil {
		return nil, err
	}
	switch {
	case m.alphaGiven && (info.IsDir() || strings.HasSuffix(change, checkpoint.Extension)):
		return nil, settings.Usage("--alpha is for a checkpoint that holds adapters; this one says itself how it is scaled")
	case info.IsDir():
		return m.adapter(change)
	case strings.HasSuffix(change, checkpoint.Extension):
		e, err := m.delta(change)
		if errors.Is(err, delta.ErrNoDelta) {
			return m.wrapped(change) // it may be a wrapped network in this format
		}
		return e, err
	}
	return m.wrapped(change)
}

// openBase opens the file that --base names.
func (m *merger) openBase() (*checkpoint.File, error) {
	if m.base == "" {
		return nil, settings.Usage("--base is not given: the checkpoint that the fine-tuning began with")
	}
	f, err := checkpoint.Open(m.base)
	if err == nil {
		m.output.notes(f)
		m.files = append(m.files, f)
	}
	return f, err
}

func (m *merger) adapter(folder string) (*checkpoint.Edit, error) {
	a, err := peft.Open(folder, models.CanonicalLayer)
	if err != nil {
		return nil, err
	}
	m.files = append(m.files, a)
	f, err := m.openBase()
	if err != nil {
		return nil, err
	}
	if err := delta.CheckBase(f, a.Metadata[delta.BaseKey], folder); err != nil {
		return nil, err
	}
	e := checkpoint.NewEdit(f, models.Canonical)
	layers, err := e.MergeAdapter(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	e.SetAbout(a.Metadata[checkpoint.AboutKey])
	m.did = fmt.Sprintf("%d layers merged, %d parameters replaced", layers, len(a.Values))
	return e, nil
}

func (m *merger) delta(path string) (*checkpoint.Edit, error) {
	d, err := delta.Open(path)
	if err != nil {
		return nil, err
	}
	m.files = append(m.files, d)
	f, err := m.openBase()
	if err != nil {
		return nil, err
	}
	e := checkpoint.NewEdit(f, models.Canonical)
	if err := d.Apply(f, e); err != nil {
		return nil, err
	}
	m.did = "delta applied"
	return e, nil
}

// wrapped merges a checkpoint that holds its adapters itself.
func (m *merger) wrapped(path string) (*checkpoint.Edit, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	m.output.notes(f)
	m.files = append(m.files, f)
	layers := map[string]map[string]*pth.Tensor{} // by the canonical name of the weight, then "A" and "B"
	var order []string
	for _, w := range f.Weights {
		layer, part, ok := peft.SplitName(w.Name)
		if !ok && strings.Contains(w.Name, ".lora_") {
			return nil, fmt.Errorf("%s: %s is of an adapter that is more than lora_A and lora_B: merge it in Python, with PEFT's merge_and_unload", path, w.Name)
		}
		if !ok {
			continue
		}
		name := models.Canonical(layer + ".weight")
		if layers[name] == nil {
			layers[name] = map[string]*pth.Tensor{}
			order = append(order, name)
		}
		layers[name][part] = w.Tensor
	}
	if len(order) == 0 {
		return nil, fmt.Errorf("%s holds neither adapters nor a delta: there is nothing to merge", path)
	}
	if m.base != "" {
		return nil, settings.Usage("--base: %s holds the weights that its adapters belong to", path)
	}
	if !m.alphaGiven || !(m.alpha > 0) || math.IsInf(m.alpha, 0) {
		return nil, settings.Usage("%s does not say how its adapters are scaled: give --alpha, a number above 0 (PEFT's lora_alpha; the published trainer has 16)", path)
	}
	e := checkpoint.NewEdit(f, models.Canonical)
	for _, name := range order {
		a, b := layers[name]["A"], layers[name]["B"]
		layer := strings.TrimSuffix(name, ".weight")
		if a == nil || b == nil || len(b.Size) < 2 || b.Size[1] < 1 {
			return nil, fmt.Errorf("%s: layer %s has no proper pair of lora_A and lora_B", path, layer)
		}
		if err := e.AddLowRank(checkpoint.LowRank{Layer: layer, A: a, B: b, Scaling: m.alpha / float64(b.Size[1])}); err != nil {
			return nil, err
		}
	}
	m.did = fmt.Sprintf("%d layers merged", len(order))
	return e, nil
}
