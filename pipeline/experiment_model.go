package pipeline

import (
	"fmt"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
)

// PretrainedModel is what an experiment knows of a pretrained model without libtorch.
type PretrainedModel struct {
	planner.Model
	File        string // checkpoint
	Trainer     string // class that built its network whatever the plans say; "": the plans'
	DatasetName string // that it was trained on
	PatchSize   []int
	BatchSize   int
	Channels    int      // that its configuration normalises
	WeightBytes int64    // of its weights, aliases once
	Warnings    []string // what the weights contradict

	network    models.Architecture
	unknown    error // why there is no network
	parameters int64 // of the network
}

// OpenPretrained reads a checkpoint, or the first fold's of a model folder, and its plans.
func OpenPretrained(path string) (*PretrainedModel, error) {
	file, err := CheckpointFile(path)
	if err != nil {
		return nil, err
	}
	f, err := checkpoint.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &PretrainedModel{File: file}
	if m.Model, m.Warnings, err = openModel(path, "", f); err != nil {
		return nil, err
	}
	if _, ok := models.ByTrainer(f.Trainer); ok {
		m.Trainer = f.Trainer
	}
	seen := map[string]bool{}
	for _, w := range f.Weights {
		if name := models.Canonical(w.Name); !seen[name] {
			seen[name] = true
			m.WeightBytes += w.Tensor.Bytes()
			m.parameters += w.Numel()
		}
	}
	m.DatasetName = m.Plans.DatasetName
	c, err := m.Plans.Configuration(m.Configuration)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m.PatchSize, m.BatchSize, m.Channels = c.PatchSize, c.BatchSize, len(c.NormalizationSchemes)
	m.network, m.unknown = models.ForWeights(checkpoint.Shapes(f.Weights), c)
	return m, nil
}

// WeightsDigest is the sha256 of the weights, whatever format they are stored in.
func (m *PretrainedModel) WeightsDigest() (string, error) {
	f, err := checkpoint.Open(m.File)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return f.Digest(models.Canonical)
}

// Presentation is, as JSON with sorted keys, what plans adopted from the model take from it and a
// training depends on: configuration, order of axes, intensities. Adopt adds nothing to these but
// descriptions of the dataset, where patch and batch size are given.
func (m *PretrainedModel) Presentation() ([]byte, error) {
	c, err := m.Plans.Configuration(m.Configuration)
	if err != nil {
		return nil, err
	}
	raw := c.Raw().Clone()
	for _, key := range []string{"inherits_from", "next_stage", "previous_stage", "data_identifier",
		"median_image_size_in_voxels"} {
		raw.Delete(key)
	}
	intensities, _ := m.Plans.Raw().Get("foreground_intensity_properties_per_channel")
	if intensities == nil {
		intensities, _ = m.Plans.Raw().Get("foreground_intensity_properties_by_modality")
	}
	return plans.EncodeJSON(plans.NewObject("configuration", m.Configuration, "as", raw,
		"transpose_forward", m.Plans.TransposeForward, "intensities", intensities), 0, true)
}
