package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pth"
)

func newMerge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "merge CHANGE --base CHECKPOINT -o OUT",
		Short: "puts an adapter or a sparse delta into plain weights",
		Long: `merge makes a plain checkpoint of a fine-tuning's result and the checkpoint that it began with. CHANGE is an adapter (a folder that
PEFT or lntorch wrote: adapter_config.json and adapter_model.safetensors or .bin), a sparse delta (delta.safetensors in a fold's folder), or a
checkpoint that holds adapters beside its weights, as wrapped networks save them; that one is its own base, and as it does not say how
adapters are scaled, --alpha must.

The result computes what the fine-tuned network computes, and stock nnU-Net predicts with it. Where CHANGE names the digest of its base,
another base is refused. OUT ends in .pth, .pt or .safetensors. It needs no libtorch.`,
		Example: `  lntorch merge fold_0/adapter --base foundation/checkpoint_final.pth -o merged.pth
  lntorch merge fold_0/delta.safetensors --base foundation/checkpoint_final.pth -o merged.pth
  lntorch merge wrapped/checkpoint_final.pth --alpha 16 -o merged.pth`,
		Args: exactly("CHANGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			base, _ := f.GetString("base")
			trainer, _ := f.GetString("trainer")
			alpha, _ := f.GetFloat64("alpha")
			out, err := weightsOutput(cmd)
			if err != nil {
				return err
			}
			m := merger{base: base, alpha: alpha, alphaGiven: f.Changed("alpha")}
			defer m.close()
			edit, err := m.open(args[0])
			var missing *usageError
			if errors.As(err, &missing) {
				return usage(cmd, missing.err)
			}
			if err != nil {
				return err
			}
			if err := edit.Save(out, trainer); err != nil {
				return err
			}
			fmt.Printf("%s  %s\n", out, m.did)
			return nil
		},
	}
	cmd.Flags().StringP("output", "o", "", "file to write")
	cmd.Flags().String("base", "", "checkpoint that the fine-tuning began with")
	cmd.Flags().Float64("alpha", 0, "for a checkpoint that holds adapters: they are scaled by alpha/rank")
	cmd.Flags().String("trainer", "nnUNetTrainer", "trainer that the result names")
	cmd.Flags().Bool("force", false, "replace an existing file")
	return cmd
}

func weightsFile(path string) bool {
	return strings.HasSuffix(path, ".pth") || strings.HasSuffix(path, ".pt") || strings.HasSuffix(path, checkpoint.Extension)
}

// merger keeps files open until the result is written.
type merger struct {
	base       string
	alpha      float64
	alphaGiven bool
	did        string
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
		return nil, &usageError{err: errors.New("--alpha is for a checkpoint that holds adapters; this one says itself how it is scaled")}
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
		return nil, &usageError{err: errors.New("--base is not given: the checkpoint that the fine-tuning began with")}
	}
	f, err := checkpoint.Open(m.base)
	if err == nil {
		m.files = append(m.files, f)
	}
	return f, err
}

func (m *merger) adapter(folder string) (*checkpoint.Edit, error) {
	a, err := peft.Open(folder, checkpoint.CanonicalLayer)
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
	e := checkpoint.NewEdit(f)
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
	e := checkpoint.NewEdit(f)
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
		name := checkpoint.Canonical(layer + ".weight")
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
		return nil, &usageError{err: fmt.Errorf("--base: %s holds the weights that its adapters belong to", path)}
	}
	if !m.alphaGiven || !(m.alpha > 0) || math.IsInf(m.alpha, 0) {
		return nil, &usageError{err: fmt.Errorf("%s does not say how its adapters are scaled: give --alpha, a number above 0 (PEFT's lora_alpha; the published trainer has 16)", path)}
	}
	e := checkpoint.NewEdit(f)
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
