package experiment

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// Checkpoint is the network that a run starts from.
func (p *Plan) Checkpoint(r *Run) (string, error) { return r.base.network.model.File, nil }

// dataFolder is where the training data of a dataset and a network is made, named by what it follows
// from: data of cases that have changed since is other data.
func (p *Plan) dataFolder(c *combination) (string, error) {
	follows := map[string]any{"engine": Engine, "plans": c.network.plans,
		"cases": names(c.dataset.pool), "pool": contentsOf(names(c.dataset.pool), c.dataset.training)}
	c.dataset.addLabels(follows)
	name, err := key(follows)
	return filepath.Join(p.Dir, "data", name), err
}

// Adoption is the call that adopts plans for the run's dataset from its network: once for all runs of
// both, into a folder of training data of their own. Patch and batch size are the network's whatever
// the machine, since they are part of a training's bits.
func (p *Plan) Adoption(r *Run) (pipeline.AdoptConfig, error) {
	a := settings.New[pipeline.AdoptConfig]()
	n := r.base.network
	a.Model, a.Dataset, a.Raw = n.model.File, r.base.dataset.raw.Name, p.options.Raw
	a.PlansName, a.PatchSize, a.BatchSize = n.plansName(), n.model.PatchSize, n.model.BatchSize
	var err error
	a.Preprocessed, err = p.dataFolder(r.base)
	return a, err
}

// Training is the call that trains a run: on its cases, fold all, without final validation. Results,
// device and threads are the worker's to set. The data is made before, by Adoption and
// pipeline.Preprocess.
func (p *Plan) Training(r *Run) (pipeline.TrainConfig, error) {
	if !r.Trains() {
		return pipeline.TrainConfig{}, fmt.Errorf("experiment: run %s is of method %s, which does not train", r.Key,
			r.Method)
	}
	c := r.base.config
	c.Seed, c.Cases = r.Seed, slices.Sorted(slices.Values(r.Cases))
	c.Results = filepath.Join(p.Folder(r), "results")
	var err error
	c.Preprocessed, err = p.dataFolder(r.base)
	return c, err
}

// Prediction is the call that predicts the test cases into a folder with a model folder, or with a
// checkpoint. Device and threads are the worker's to set.
func (p *Plan) Prediction(r *Run, model, output string) (pipeline.PredictConfig, error) {
	c := settings.New[pipeline.PredictConfig]()
	c.Model, c.Output = model, output
	c.NoMirror, c.StepSize = p.File.Evaluate.NoMirror, p.File.Evaluate.StepSize
	d := r.base.dataset
	if slices.Equal(names(d.test), names(d.later)) {
		c.Input = []string{filepath.Join(d.raw.Folder, "imagesTs")}
		return c, nil
	}
	for _, t := range d.test {
		c.Input = append(c.Input, t.images...)
	}
	return c, nil
}

// Evaluation is the call that scores predictions of the test cases.
func (p *Plan) Evaluation(r *Run, predictions string) (pipeline.EvaluateConfig, error) {
	c := settings.New[pipeline.EvaluateConfig]()
	d := r.base.dataset
	c.Prediction, c.Tolerances = predictions, p.File.Evaluate.tolerances()
	c.Dataset = filepath.Join(d.raw.Folder, "dataset.json")
	c.Reference = filepath.Dir(d.test[0].label)
	files, err := os.ReadDir(c.Reference)
	c.Chill = len(files) != len(d.test) // that folder has labels of other cases, too
	return c, err
}
