package pipeline

import (
	"context"
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/train"
)

// ModelFiles names a checkpoint and, where it does not hold them, its plans and dataset.json.
type ModelFiles struct {
	Checkpoint    string `flag:"checkpoint" path:"true" help:"checkpoint of nnU-Net or lntorch, or a bare state dict"`
	Plans         string `flag:"plans" path:"true" help:"plans.json (default: the one inside the checkpoint)"`
	DatasetJSON   string `flag:"dataset-json" path:"true" help:"dataset.json (default: the one inside the checkpoint)"`
	Configuration string `flag:"configuration" help:"configuration (default: the checkpoint's)"`
}

// open opens the checkpoint and finds its plans.
func (m ModelFiles) open() (*checkpoint.File, *plans.Plans, *plans.Dataset, string, error) {
	f, err := checkpoint.Open(m.Checkpoint)
	if err != nil {
		return nil, nil, nil, "", err
	}
	p, d, name, err := m.plans(f)
	if err != nil {
		f.Close()
		return nil, nil, nil, "", err
	}
	return f, p, d, name, nil
}

func (m ModelFiles) plans(f *checkpoint.File) (p *plans.Plans, d *plans.Dataset, name string, err error) {
	p, d, name = f.Plans, f.Dataset, f.Configuration
	if m.Plans != "" {
		if p, err = plans.Load(m.Plans); err != nil {
			return nil, nil, "", err
		}
	}
	if m.DatasetJSON != "" {
		if d, err = plans.LoadDataset(m.DatasetJSON); err != nil {
			return nil, nil, "", err
		}
	}
	if m.Configuration != "" {
		name = m.Configuration
	}
	var missing []string
	if p == nil {
		missing = append(missing, "--plans")
	}
	if d == nil {
		missing = append(missing, "--dataset-json")
	}
	if name == "" {
		missing = append(missing, "--configuration")
	}
	if missing != nil {
		if err := f.Understood(checkpoint.KeyPlans, checkpoint.KeyDataset, checkpoint.KeyConfiguration); err != nil {
			return nil, nil, "", fmt.Errorf("%w; or give %s", err, strings.Join(missing, ", "))
		}
		return nil, nil, "", fmt.Errorf("%s does not hold plans, dataset.json and configuration, as nnU-Net's checkpoints do: give %s", m.Checkpoint, strings.Join(missing, ", "))
	}
	return p, d, name, nil
}

// TraceConfig is a few steps on given batches.
type TraceConfig struct {
	ModelFiles
	Batches string `flag:"batches" path:"true" help:"folder of batches"`
	Output  string `flag:"output" short:"o" path:"true" help:"folder for the results"`
	Method
	train.TraceSettings
	machine.Machine
	launch.Config
	World World
}

// Trace makes one optimizer step for each batch of a folder and writes what two stacks are compared by. With --amp auto it
// computes in float32 on every device.
func Trace(ctx context.Context, c TraceConfig, o Output) (err error) {
	t, refused := c.trace(o)
	ranks, err := Join(ctx, c.Config, c.World, &t.Machine, &o, refused)
	if err != nil {
		return err
	}
	defer func() { err = ranks.Leave(ctx, err) }()
	f, p, d, name, err := c.ModelFiles.open()
	if err != nil {
		return err
	}
	defer f.Close()
	t.Source, t.Plans, t.Dataset, t.Configuration, t.Ranks, t.Progress = f, p, d, name, ranks.Ranks, o.Progress
	return train.Trace(ctx, t)
}

// trace checks the settings and gives the trace that they describe, which does not know its checkpoint yet.
func (c *TraceConfig) trace(o Output) (train.TraceConfig, error) {
	if err := settings.Check(c); err != nil {
		return train.TraceConfig{}, err
	}
	if c.Checkpoint == "" || c.Batches == "" || c.Output == "" {
		return train.TraceConfig{}, settings.Usage("--checkpoint, --batches and -o must be given")
	}
	entry, _, err := c.Method.entry("", true)
	if err != nil {
		return train.TraceConfig{}, err
	}
	method, options, err := c.Method.make(entry)
	t := train.TraceConfig{Batches: c.Batches, Output: c.Output, MethodName: entry.Name, Method: method, Options: options,
		TraceSettings: c.TraceSettings, Machine: c.Machine, Version: o.Version}
	if t.AMP == "" || t.AMP == machine.AMPAuto { // on CUDA fp16, whose skipped steps a trace does not show
		t.AMP = machine.AMPOff
	}
	if t.LR == 0 {
		t.LR = entry.LR
	}
	return t, err
}
