package train

import (
	"fmt"
	"os"
	"syscall"

	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// needs is what a training is going to take, in bytes.
type needs struct{ memory, disk int64 }

// forecast says what the training will need, and warns where the machine has less.
func (t *trainer) forecast() []string {
	c := &t.cfg
	parameters := models.ParameterCount(t.Net) * 4
	activations := stepBytes(t.arch.Activations(models.Step{Batch: c.BatchSize, Patch: c.PatchSize,
		Fused: !c.IsReference() && c.Device.Type == torch.DeviceCPU, Recompute: c.Recompute}))
	weights := parameters + 2*4*t.TrainedCount() // with gradients and momentum of what trains
	need := needs{
		memory: weights + activations, // activations for the backward pass
		// latest, best and final with weights and momentum; one more while a new one is written
		disk: 4 * 2 * parameters,
	}
	line := fmt.Sprintf("needs about %s of memory (activations %s, weights with gradients and momentum %s) and %s on disk; "+
		"the progress line tells the time once it is known", size(need.memory), size(activations), size(weights), size(need.disk))
	free := int64(-1)
	if c.Device.Type == torch.DeviceCPU {
		free = freeMemory()
	}
	return append([]string{line}, need.shortages(free, freeDisk(t.fold), t.fold)...)
}

// shortages warns where less is free than needed; below zero it is not known.
func (n needs) shortages(memory, disk int64, folder string) []string {
	var lines []string
	if memory >= 0 && memory < n.memory {
		lines = append(lines, fmt.Sprintf("WARNING: only %s of memory are free: a smaller --patch-size or --batch-size needs less", size(memory)))
	}
	if disk >= 0 && disk < n.disk {
		lines = append(lines, fmt.Sprintf("WARNING: only %s are free where the results go (%s)", size(disk), folder))
	}
	return lines
}

// stepBytes is the memory of float32 numbers that are kept for the backward pass, and half as much
// again for gradients on their way back and the loss, as measured.
func stepBytes(numbers int64) int64 { return 4 * numbers * 3 / 2 }

// freeMemory is what the system could still give, -1 where it does not say.
func freeMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return -1
	}
	if n, ok := procField(b, "MemAvailable:"); ok {
		return n
	}
	return -1
}

// freeDisk is what is free in folder, -1 where the system does not say.
func freeDisk(folder string) int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(folder, &st) != nil {
		return -1
	}
	return int64(st.Bavail) * st.Bsize
}

// size prints bytes for people.
func size(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(bytes), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v < 10 && i > 0 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}
