package pipeline

import (
	"context"
	"errors"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// PredictionMemory forecasts what a prediction takes on the device that it names, from the headers of its
// images: the weights, a batch of patches on its way through the network, and the sums of logits of the
// largest image as a whole, which Predict cuts into strips where there is less room. libtorch is not needed.
func PredictionMemory(ctx context.Context, c PredictConfig) (Memory, error) {
	if err := settings.Check(&c); err != nil {
		return Memory{}, err
	}
	device, err := torch.ParseDevice(c.DeviceName)
	if err != nil {
		return Memory{}, err
	}
	model, err := c.ModelChoice.open()
	if err != nil {
		return Memory{}, err
	}
	defer model.close()
	s := &segmenter{PredictConfig: c, model: model}
	if err := s.prepare(); err != nil {
		return Memory{}, err
	}
	s.window = s.windowOn(device)
	if err := s.forecastCases(ctx); err != nil {
		return Memory{}, err
	}
	arch, err := models.ForWeights(checkpoint.Shapes(model.folds[0].file.Weights), model.configuration)
	if err != nil {
		return Memory{}, err
	}
	batch := 0
	for _, f := range s.forecasts {
		if f != nil {
			batch = max(batch, f.need.Batch)
		}
	}
	if batch == 0 {
		return Memory{}, errors.Join(s.unreadable...)
	}
	pass := passMemory(arch, batch, model.configuration.PatchSize, s.window)
	m := s.need(model.weightBytes()*int64(len(model.folds)) + pass)
	if device.Type != torch.DeviceCPU {
		m.Host += gpuHost
		m.Device += gpuContext
	}
	return m, nil
}

// passMemory is about what a batch of patches takes on its way through a network, at most: what a training would
// keep. The fast operators hold no attention but that of the block which they are in.
func passMemory(a models.Architecture, batch int, patch []int, w infer.Config) int64 {
	fast := w.Numerics == infer.Fast
	return 4 * a.Activations(models.Step{Batch: batch, Patch: patch, Recompute: fast,
		Fused: fast && w.Device.Type == torch.DeviceCPU})
}
