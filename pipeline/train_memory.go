package pipeline

import (
	"fmt"

	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// Memory is what a road takes at most, in bytes.
type Memory struct {
	Host   int64 `json:"host"`
	Device int64 `json:"device"` // of the GPU that computes; 0 on the CPU
}

// Most is, of each kind, the larger one.
func (m Memory) Most(other Memory) Memory {
	return Memory{max(m.Host, other.Host), max(m.Device, other.Device)}
}

const (
	// trainingBase is what a training takes besides weights and activations: libtorch, cases, batches.
	trainingBase = 1 << 30
	// gpuHost is what libtorch takes more of the host's memory with CUDA's libraries, and gpuContext what a
	// process takes of a GPU before its first tensor. Both are round numbers, not measured on a GPU.
	gpuHost    = 2 << 30
	gpuContext = 1 << 29
)

// TrainingMemory forecasts what a training takes on the device that it names, on plans that are adopted from
// a pretrained model: that one, whatever the training begins with. Neither plans nor data nor libtorch need be
// there. On a GPU it counts float32, so that mixed precision takes less.
func TrainingMemory(c TrainConfig, adopted *PretrainedModel) (Memory, error) {
	if adopted.unknown != nil {
		return Memory{}, adopted.unknown
	}
	device, err := torch.ParseDevice(c.DeviceName)
	if err != nil {
		return Memory{}, err
	}
	onCPU := device.Type == torch.DeviceCPU
	step := models.Step{Batch: adopted.BatchSize, Patch: adopted.PatchSize, Recompute: c.Recompute,
		Fused: c.Numerics != machine.Reference && onCPU}
	if c.BatchSize > 0 {
		step.Batch = c.BatchSize
	}
	if c.PatchSize != nil {
		step.Patch = c.PatchSize
	}
	if len(step.Patch) != len(adopted.PatchSize) {
		return Memory{}, fmt.Errorf("--patch-size %v: expected %d axes", step.Patch, len(adopted.PatchSize))
	}
	need := train.StepMemory(adopted.network, step, adopted.parameters, adopted.parameters)
	if onCPU {
		return Memory{Host: trainingBase + need}, nil
	}
	return Memory{Host: trainingBase + gpuHost + 4*adopted.parameters, Device: gpuContext + need}, nil
}
