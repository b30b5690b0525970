package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/train"
)

// preparable says what is wrong if a dataset is neither preprocessed nor can be.
func preparable(cmd *cobra.Command, preprocessed, rawFolder, name string) error {
	_, err := os.Stat(preprocessed)
	if err == nil {
		return nil
	}
	if f := cmd.Flags().Lookup("no-prepare"); f != nil && f.Value.String() == "false" && rawFolder != "" {
		if _, err := os.Stat(filepath.Join(rawFolder, name, "dataset.json")); err == nil {
			return nil
		}
	}
	return fmt.Errorf("dataset %s is not preprocessed: %w", name, err)
}

// prepareTraining makes the plans and the training data that a training lacks, if the raw dataset is there.
func prepareTraining(cmd *cobra.Command, c train.Config) error {
	f := cmd.Flags()
	root, _ := f.GetString("raw")
	if forbidden, _ := f.GetBool("no-prepare"); forbidden || root == "" {
		return nil
	}
	name := filepath.Base(c.Preprocessed)
	d, err := raw.Open(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	con := newConsole(cmd)
	if err != nil { // the data may be there all the same
		fmt.Fprintln(con, "not looking for what the training lacks:", err)
		return nil
	}
	p, err := plans.Load(filepath.Join(c.Preprocessed, c.PlansName+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		if p, err = planTraining(cmd, c, d, con); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	configuration, err := p.Configuration(c.Configuration)
	if err != nil {
		return nil // the training says so
	}
	owner, err := preprocess.FindOwner(filepath.Join(c.Preprocessed, configuration.DataIdentifier))
	if err != nil || owner.Refusal() != nil { // training takes it as it is, or says what it is
		return err
	}
	fmt.Fprintf(con, "%s: training data of %s, from %s\n", name, c.Configuration, d.Folder)
	s, err := prepare(cmd.Context(), d, p, c.Configuration, c.Preprocessed, preparation{console: con, threads: c.Threads})
	if err != nil {
		return err
	}
	fmt.Fprintf(con, "%s: %d cases made, %d kept\n", name, s.Made, s.Kept)
	return nil
}

// planTraining plans a raw dataset: for the weights to start from, or by the planner whose plans have the wanted name.
func planTraining(cmd *cobra.Command, c train.Config, d *raw.Dataset, con *console) (*plans.Plans, error) {
	path := filepath.Join(c.Preprocessed, c.PlansName+".json")
	fmt.Fprintf(con, "%s: there are no plans %s: measuring and planning\n", d.Name, c.PlansName)
	fp, _, err := fingerprint.ExtractFolder(cmd.Context(), d, c.Preprocessed, false, fingerprint.Options{Workers: defaultWorkers(), Progress: con})
	if err != nil {
		return nil, err
	}
	if c.Pretrained == "" {
		for _, n := range planner.Names() {
			p, err := planner.ForName(n)
			if err != nil {
				return nil, err
			}
			if p.PlansName != c.PlansName {
				continue
			}
			if _, _, err = p.PlanFolder(d, c.Preprocessed, planner.Options{}); err != nil {
				return nil, err
			}
			return plans.Load(path)
		}
		return nil, fmt.Errorf("%s is not there, and no planner makes plans of that name: run `lntorch plan -d %s -overwrite_plans_name %s`", path, d.Name, c.PlansName)
	}
	model, warnings, err := pretrained(c.Pretrained, "")
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		fmt.Fprintln(con, "the model's weights are not what its plans say:", w)
	}
	reader, err := d.Reader()
	if err != nil {
		return nil, err
	}
	o := planner.AdoptOptions{PlansName: c.PlansName, Name: c.Configuration, PatchSize: c.PatchSize, BatchSize: c.BatchSize}
	o.MemoryGB, _ = trainingMemory()
	a, err := planner.Adopt(model, planner.Input{DatasetName: d.Name, Dataset: d.JSON, Fingerprint: fp, Reader: reader.Name()}, o)
	if err != nil {
		return nil, err
	}
	if err := planner.CopyDatasetJSON(d.Folder, c.Preprocessed); err != nil {
		return nil, err
	}
	if err := planner.CopySplits(d.Folder, c.Preprocessed); err != nil {
		return nil, err
	}
	if err := plans.WriteJSON(path, a.Plans, false); err != nil {
		return nil, err
	}
	for _, x := range a.Findings {
		what := "differs from the model's data"
		if x.Warning {
			what = "WARNING, far from the model's data"
		}
		fmt.Fprintf(con, "%s: %v\n", what, x)
	}
	fmt.Fprintf(con, "%s: configuration %s of %s: patch %v, batch %d\n", path, a.Configuration, model.Source, a.PatchSize, a.BatchSize)
	return plans.Load(path)
}
