package pipeline

import (
	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// trainingBase is what a training takes besides weights and activations: libtorch, cases, batches.
const trainingBase = 1 << 30

// TrainingMemory forecasts how many bytes a training takes at most, on plans that are adopted from a
// checkpoint: that one, whatever the training begins with. Neither plans nor data need be there.
func TrainingMemory(c TrainConfig, adopted string) (int64, error) {
	file, err := CheckpointFile(adopted)
	if err != nil {
		return 0, err
	}
	f, err := checkpoint.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	m, _, err := openModel(file, "", f)
	if err != nil {
		return 0, err
	}
	p, err := m.Plans.Configuration(m.Configuration)
	if err != nil {
		return 0, err
	}
	a, err := models.ForWeights(checkpoint.Shapes(f.Weights), p)
	if err != nil {
		return 0, err
	}
	parameters := int64(0)
	for _, w := range f.Weights {
		if models.Canonical(w.Name) == w.Name {
			parameters += w.Numel()
		}
	}
	step := models.Step{Batch: p.BatchSize, Patch: p.PatchSize, Recompute: c.Recompute,
		Fused: c.Numerics != machine.Reference && c.DeviceName == torch.CPU.String()}
	if c.BatchSize > 0 {
		step.Batch = c.BatchSize
	}
	if c.PatchSize != nil {
		step.Patch = c.PatchSize
	}
	return trainingBase + train.StepMemory(a, step, parameters, parameters), nil
}
