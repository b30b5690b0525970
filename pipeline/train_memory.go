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

// TrainingMemory forecasts how many bytes a training takes at most. The weights are counted in the
// checkpoint that it begins with, or in like.
func TrainingMemory(c TrainConfig, like string) (int64, error) {
	d, err := train.OpenData(c.Preprocessed, c.PlansName, c.Configuration, "all")
	if err != nil {
		return 0, err
	}
	if c.Pretrained != "" {
		like = c.Pretrained
	}
	if like, err = CheckpointFile(like); err != nil {
		return 0, err
	}
	f, err := checkpoint.Open(like)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	a, err := models.ForWeights(checkpoint.Shapes(f.Weights), d.Conf)
	if err != nil {
		return 0, err
	}
	parameters := int64(0)
	for _, w := range f.Weights {
		if models.Canonical(w.Name) == w.Name {
			parameters += w.Numel()
		}
	}
	step := models.Step{Batch: d.Conf.BatchSize, Patch: d.Conf.PatchSize, Recompute: c.Recompute,
		Fused: c.Numerics != machine.Reference && c.DeviceName == torch.CPU.String()}
	if c.BatchSize > 0 {
		step.Batch = c.BatchSize
	}
	if c.PatchSize != nil {
		step.Patch = c.PatchSize
	}
	return trainingBase + train.StepMemory(a, step, parameters, parameters), nil
}
