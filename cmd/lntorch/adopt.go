package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

func newAdopt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt MODEL -d DATASET",
		Short: "plans a dataset for the weights of a pretrained model",
		Long: `adopt writes plans for a raw dataset whose configuration fits a pretrained model: MODEL is a checkpoint of nnU-Net (.pth), whose plans are inside, or a model
folder. It measures the dataset if there is no fingerprint yet, tells what differs from the model's training data, and warns of what lies far outside.

The new plans file (--plans-name) has the model's spacing, order of axes, intensity statistics, normalisation, resampling and architecture, so that images look to
the network as they did in its training. --keep-spacing and --keep-normalisation leave these the dataset's own. Patch and batch are the model's, smaller where the
memory (--memory, else that of the GPU or the machine) is less than nnU-Net's measure asks for, or as --patch-size and --batch-size say; the strides must divide
the patch.

--recipe does what LN-Seg-FM's readme describes as a change by hand, and no more: it adds to plans that the dataset has already (-p, see lntorch plan) a
configuration that inherits from 3d_fullres, with a patch size and the model's architecture. Spacing, intensities and batch size stay those of 3d_fullres.`,
		Example: `  lntorch adopt model/fold_0/checkpoint_final.pth -d 102
  lntorch adopt model -d 102 --patch-size 80,112,224 --batch-size 2 --plans-name nnUNetPlansLN
  lntorch adopt model -d 102 --recipe -p nnUNetPlans --patch-size 80,112,224 --name 3d_lnsegfm`,
		Args: exactly("MODEL"),
		RunE: runAdopt,
	}
	f := cmd.Flags()
	f.StringP("dataset", "d", "", "dataset that adopts: number or name")
	f.String("model-configuration", "", "configuration of the model's plans (default: the one it was trained with)")
	f.IntSlice("patch-size", nil, "voxels of a patch along the axes of the network (default: the model's)")
	f.Int("batch-size", 0, "patches of a batch (default: the model's)")
	f.Float64("memory", 0, "GB to fit the patch and the batch to (default: the GPU's, else the machine's)")
	f.Bool("keep-spacing", false, "keep the dataset's own target spacing and order of axes")
	f.Bool("keep-normalisation", false, "keep the dataset's own intensity statistics and normalisation")
	f.Bool("recipe", false, "change the dataset's own plans as LN-Seg-FM's readme says")
	f.StringP("plans", "p", "nnUNetPlans", "with --recipe: the plans to add to")
	f.String("inherit", "3d_fullres", "with --recipe: the configuration to inherit from")
	f.String("plans-name", "nnUNetPlansAdopted", "name of the new plans")
	f.String("name", "", "name of the configuration (default: the model's; with --recipe, that and _adopted)")
	f.Int("np", defaultWorkers(), "cases at a time, if the dataset must be measured (-np)")
	f.Bool("force", false, "replace plans, or with --recipe a configuration, of that name")
	f.Bool("json", false, "print JSON")
	folders(cmd, "raw", "preprocessed")
	return cmd
}

// pretrained reads the plans of a model: from its checkpoint, or from plans.json beside it. warning is what the weights contradict.
func pretrained(path, configuration string) (m planner.Model, warnings []string, err error) {
	var odd error // why the checkpoint's plans are not understood
	file, err := checkpointFile(path)
	folder := path
	trainer := ""
	if err == nil {
		f, err := checkpoint.Open(file)
		if err != nil {
			return m, nil, err
		}
		defer f.Close()
		m = planner.Model{Source: file, Plans: f.Plans, Configuration: f.Configuration, Dataset: f.Dataset}
		if m.Plans == nil {
			odd = f.Understood(checkpoint.KeyPlans, checkpoint.KeyConfiguration)
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
		p := filepath.Join(dir, "plans.json")
		if m.Plans, err = plans.Load(p); errors.Is(err, fs.ErrNotExist) {
			m.Plans = nil
			continue
		} else if err != nil {
			return m, nil, err
		}
		m.Source = p
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return m, nil, err
		}
		if parts := strings.Split(filepath.Base(absolute), "__"); len(parts) == 3 { // <trainer>__<plans>__<configuration>
			trainer = parts[0]
			if m.Configuration == "" {
				m.Configuration = parts[2]
			}
		}
		if d, err := plans.LoadDataset(filepath.Join(dir, "dataset.json")); err == nil {
			m.Dataset = d
		}
	}
	if m.Plans == nil && odd != nil {
		return m, nil, odd
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
	c, err := m.Plans.Configuration(m.Configuration)
	if err != nil {
		return m, nil, err
	}
	if _, ok := models.ByTrainer(trainer); ok {
		m.Divisor = slices.Repeat([]int{32}, len(c.PatchSize)) // the patch merging of SwinUNETR
	}
	return m, warnings, nil
}

// trainingMemory is the memory in GB to plan for: the first GPU's, else the machine's, of which float32 needs twice as much.
func trainingMemory() (gb float64, what string) {
	if n, err := torch.DeviceCount(torch.DeviceCUDA); err == nil && n > 0 {
		d := torch.Device{Type: torch.DeviceCUDA}
		if _, total, err := d.Memory(); err == nil && total > 0 {
			return gib(total), "the GPU's"
		}
	}
	_, total := memory()
	return gib(total) / 2, "half of the machine's, which trains in float32"
}

// adoption is what --json prints.
type adoption struct {
	File          string            `json:"file"`
	Plans         string            `json:"plans"`
	Configuration string            `json:"configuration"`
	Patch         []int             `json:"patch_size"`
	Batch         int               `json:"batch_size"`
	Findings      []planner.Finding `json:"findings"`
	Notes         []string          `json:"notes"`
}

func runAdopt(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	name, _ := f.GetString("dataset")
	if name == "" {
		return usage(cmd, errors.New("no dataset is given: -d NUMBER or NAME"))
	}
	recipe, _ := f.GetBool("recipe")
	for _, only := range []string{"keep-spacing", "keep-normalisation", "plans-name"} {
		if recipe && f.Changed(only) {
			return usage(cmd, fmt.Errorf("--%s is not for --recipe, which keeps all of the dataset's plans", only))
		}
	}
	for _, only := range []string{"plans", "inherit"} {
		if !recipe && f.Changed(only) {
			return usage(cmd, fmt.Errorf("--%s is for --recipe", only))
		}
	}
	configuration, _ := f.GetString("model-configuration")
	model, warnings, err := pretrained(args[0], configuration)
	if err != nil {
		return err
	}
	d, err := openRaw(cmd, name)
	if err != nil {
		return err
	}
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	dir := filepath.Join(preprocessed, d.Name)
	workers, _ := f.GetInt("np")
	con := newConsole(cmd)
	fp, _, err := fingerprint.ExtractFolder(cmd.Context(), d, dir, false, fingerprint.Options{Workers: workers, Progress: con})
	if err != nil {
		return err
	}
	reader, err := d.Reader()
	if err != nil {
		return err
	}
	in := planner.Input{DatasetName: d.Name, Dataset: d.JSON, Fingerprint: fp, Reader: reader.Name()}
	var o planner.AdoptOptions
	if o.PatchSize, _ = f.GetIntSlice("patch-size"); len(o.PatchSize) == 0 {
		o.PatchSize = nil
	}
	o.BatchSize, _ = f.GetInt("batch-size")
	o.KeepSpacing, _ = f.GetBool("keep-spacing")
	o.KeepNormalisation, _ = f.GetBool("keep-normalisation")
	o.PlansName, _ = f.GetString("plans-name")
	o.Name, _ = f.GetString("name")
	o.Parent, _ = f.GetString("inherit")
	memoryOf := "--memory"
	if o.MemoryGB, _ = f.GetFloat64("memory"); o.MemoryGB == 0 {
		o.MemoryGB, memoryOf = trainingMemory()
	}
	force, _ := f.GetBool("force")

	var a *planner.Adopted
	var path string
	if recipe {
		own, _ := f.GetString("plans")
		path = filepath.Join(dir, own+".json")
		p, err := plans.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--recipe adds to plans that are there, and %s is not: run `lntorch plan -d %s` with the planner of the model's network first", path, name)
		}
		if err != nil {
			return err
		}
		if a, err = planner.Recipe(model, p, in, o); err != nil {
			return err
		}
		if slices.Contains(p.ConfigurationNames(), a.Configuration) && !force {
			return fmt.Errorf("%s has a configuration %s already: give another --name, or --force to replace it", path, a.Configuration)
		}
	} else {
		if a, err = planner.Adopt(model, in, o); err != nil {
			return err
		}
		path = filepath.Join(dir, a.Name+".json")
		if _, err := os.Stat(path); err == nil && !force {
			return fmt.Errorf("%s is there already: give another --plans-name, or --force to replace it with all of its configurations", path)
		}
		if err := planner.CopyDatasetJSON(d.Folder, dir); err != nil {
			return err
		}
		if err := planner.CopySplits(d.Folder, dir); err != nil {
			return err
		}
	}
	if err := plans.WriteJSON(path, a.Plans, false); err != nil {
		return err
	}
	for i := range a.Notes {
		a.Notes[i] += " (memory: " + memoryOf + ")"
	}
	for _, w := range warnings {
		a.Notes = append(a.Notes, "the model's weights are not what its plans say: "+w)
	}
	if asJSON, _ := f.GetBool("json"); asJSON {
		return printJSON(adoption{path, a.Name, a.Configuration, a.PatchSize, a.BatchSize, append([]planner.Finding{}, a.Findings...), append([]string{}, a.Notes...)})
	}
	s, err := summarisePlans(a.Plans, path)
	if err != nil {
		return err
	}
	s.Notes = a.Notes
	if err := s.print(); err != nil {
		return err
	}
	for _, x := range a.Findings {
		if x.Warning {
			fmt.Println("WARNING:", x)
		} else {
			fmt.Println("differs:", x)
		}
	}
	weights := args[0]
	if file, err := checkpointFile(weights); err == nil {
		weights = file
	}
	fmt.Printf("lntorch preprocess -d %s -plans_name %s -c %s\nlntorch train %s %s 0 -p %s -pretrained_weights %s\n", d.Name, a.Name, a.Configuration,
		d.Name, a.Configuration, a.Name, quoted(weights))
	return nil
}
