package train

import (
	"fmt"

	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// needs is what a training is going to take, in bytes.
type needs struct{ memory, disk int64 }

// forecast estimates what training needs, and warns where the machine has less.
func (t *trainer) forecast() []string {
	c := &t.cfg
	parameters := models.ParameterCount(t.Net) * 4
	step := models.Step{Batch: c.BatchSize, Patch: c.PatchSize,
		Fused: !c.IsReference() && c.Device.Type == torch.DeviceCPU, Recompute: c.Recompute}
	activations := stepBytes(t.arch.Activations(step))
	need := needs{
		memory: StepMemory(t.arch, step, parameters/4, t.TrainedCount()),
		// latest, best and final with weights and momentum; one more while a new one is written
		disk: 4 * 2 * parameters,
	}
	line := fmt.Sprintf("needs about %s of memory (activations %s, weights with gradients and momentum %s) and %s on disk; "+
		"the progress line shows the time left once it is known", system.Size(need.memory), system.Size(activations), system.Size(need.memory-activations), system.Size(need.disk))
	free := int64(-1)
	if c.Device.Type == torch.DeviceCPU {
		if m, err := system.ReadMemory(); err == nil {
			free = m.Available
		}
	}
	disk, err := system.FreeDisk(t.fold)
	if err != nil {
		disk = -1
	}
	return append([]string{line}, need.shortages(free, disk, t.fold)...)
}

// shortages warns where less is free than needed; below zero it is not known.
func (n needs) shortages(memory, disk int64, folder string) []string {
	var lines []string
	if memory >= 0 && memory < n.memory {
		lines = append(lines, fmt.Sprintf("WARNING: only %s of memory are free: a smaller --patch-size or --batch-size needs less", system.Size(memory)))
	}
	if disk >= 0 && disk < n.disk {
		lines = append(lines, fmt.Sprintf("WARNING: only %s are free where the results go (%s)", system.Size(disk), folder))
	}
	return lines
}

// StepMemory is about how many bytes a training step takes: the weights, with gradients and momentum of
// those that train, and the activations that the backward pass needs.
func StepMemory(a models.Architecture, s models.Step, parameters, trained int64) int64 {
	return 4*(parameters+2*trained) + stepBytes(a.Activations(s))
}

// stepBytes is the memory of float32 numbers that are kept for the backward pass, and half as much
// again for gradients on their way back and the loss, as measured.
func stepBytes(numbers int64) int64 { return 4 * numbers * 3 / 2 }
