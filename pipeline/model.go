package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// openModel reads the plans of a pretrained model, given as a checkpoint or a model folder: from the
// checkpoint, or from plans.json beside it. warnings are what the weights contradict. source is the
// checkpoint where the caller has opened it; nil else.
func openModel(path, configuration string, source *checkpoint.File) (m planner.Model, warnings []string, err error) {
	file, err := CheckpointFile(path)
	folder, trainer := path, ""
	var misread error // why the checkpoint's plans are not understood
	if err == nil {
		f := source
		if f == nil {
			if f, err = checkpoint.Open(file); err != nil {
				return m, nil, err
			}
			defer f.Close()
		}
		m = planner.Model{Source: file, Plans: f.Plans, Configuration: f.Configuration, Dataset: f.Dataset}
		if m.Plans == nil {
			misread = f.Understood(checkpoint.KeyPlans, checkpoint.KeyConfiguration)
		}
		trainer = f.Trainer
		warnings = recogniseNetwork(f.Weights).compare(f)
		folder = filepath.Dir(file)
	} else if info, statErr := os.Stat(path); statErr != nil || !info.IsDir() {
		return m, nil, err
	}
	for _, dir := range []string{folder, filepath.Dir(folder)} {
		if m.Plans != nil {
			break
		}
		found, err := plansBeside(&m, dir)
		if err != nil {
			return m, nil, err
		}
		if found != "" {
			trainer = found
		}
	}
	if m.Plans == nil && misread != nil {
		return m, nil, misread
	}
	if m.Plans == nil {
		return m, nil, fmt.Errorf("%s: neither the checkpoint holds plans, nor is there a plans.json beside it or in the folder above: copy the model's plans.json there", path)
	}
	if configuration != "" {
		m.Configuration = configuration
	}
	if m.Configuration == "" {
		return m, nil, fmt.Errorf("%s: which configuration the model was trained with is not known: give --model-configuration; the plans have %s", path, strings.Join(m.Plans.ConfigurationNames(), ", "))
	}
	if _, err := m.Plans.Configuration(m.Configuration); err != nil {
		return m, nil, err
	}
	m.Network = func(c *plans.Configuration) (planner.Network, error) { return plannedNetwork(trainer, c) }
	return m, warnings, nil
}

// plansBeside reads the plans of a model folder, <trainer>__<plans>__<configuration>, and gives the
// trainer; nothing where there are none.
func plansBeside(m *planner.Model, dir string) (trainer string, err error) {
	path := filepath.Join(dir, "plans.json")
	p, err := plans.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	m.Plans, m.Source = p, path
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if parts := strings.Split(filepath.Base(absolute), "__"); len(parts) == 3 {
		trainer = parts[0]
		if m.Configuration == "" {
			m.Configuration = parts[2]
		}
	}
	if d, err := plans.LoadDataset(filepath.Join(dir, "dataset.json")); err == nil {
		m.Dataset = d
	}
	return trainer, nil
}

// plannedNetwork describes to the planner the network that a trainer builds for a configuration.
func plannedNetwork(trainer string, c *plans.Configuration) (planner.Network, error) {
	a, err := models.ForTrainer(trainer, c)
	if err != nil {
		return planner.Network{}, err
	}
	n := planner.Network{Divisor: a.Divisor()}
	if m, ok := a.(models.Measured); ok {
		u := planner.UNet(m.Topology())
		n.UNet = &u
	}
	return n, nil
}

// trainingMemory is the memory in GB to plan for: the first GPU's, else the machine's, of which float32
// needs twice as much.
func trainingMemory() (gb float64, what string) {
	if n, err := torch.DeviceCount(torch.DeviceCUDA); err == nil && n > 0 {
		d := torch.Device{Type: torch.DeviceCUDA}
		if _, total, err := d.Memory(); err == nil && total > 0 {
			return gib(total), "the GPU's"
		}
	}
	m, err := system.ReadMemory()
	if err != nil {
		return 0, "not known"
	}
	return gib(m.Total) / 2, "half of the machine's, which trains in float32"
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// CheckpointFile takes a file, or the first fold's final checkpoint of a model folder.
func CheckpointFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return path, err
	}
	for _, pattern := range []string{"checkpoint_final.pth", "fold_*/checkpoint_final.pth"} {
		if found, err := filepath.Glob(filepath.Join(path, pattern)); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%s is a folder without checkpoint_final.pth and without fold_*/checkpoint_final.pth: name the file", path)
}
