package pipeline

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/train"
)

// TrainConfig is a training: from scratch, or of pretrained weights.
type TrainConfig struct {
	Dataset       string // number or name
	Configuration string
	Fold          string // number or "all"

	RawFolder
	PreprocessedFolder
	ResultsFolder
	Trainer string `flag:"trainer" bare:"true" nnunet:"tr" help:"trainer class, names the result folder and chooses the method (default: the method's)"`
	Method
	PlansName  string `flag:"plans" bare:"true" nnunet:"p" default:"nnUNetPlans" help:"name of the plans file, without .json"`
	Pretrained string `flag:"pretrained-weights" nnunet:"pretrained_weights" path:"true" help:"checkpoint to start from"`
	train.Settings
	machine.Machine
	NoPrepare    bool `flag:"no-prepare" help:"do not plan and preprocess the raw dataset where training data is missing"`
	Continue     bool `flag:"c" help:"continue from the fold's checkpoint"`
	ValidateOnly bool `flag:"val" help:"only the final validation, of checkpoint_final.pth"`
	Npz          bool `flag:"npz" help:"final validation also writes CASE.npz and CASE.pkl, for find-best and ensemble"`
	NoValidation bool // no final validation: for a road that predicts and scores itself

	UseCompressed bool `flag:"use-compressed" hidden:"true" help:"accepted as in nnU-Net; lntorch reads .npz directly and never unpacks"`
	launch.Config
	World World
}

// Train prepares what the training lacks, trains, and validates. Cancelling ctx ends it after the running
// iteration, saved, with *train.Interrupted. Of ranks that train together rank 0 has the result, and the
// others nil.
func Train(ctx context.Context, c TrainConfig, o Output) (result *train.Result, err error) {
	t, refused := c.training(o)
	ranks, err := Join(ctx, c.Config, c.World, &t.Machine, &o, refused)
	if err != nil {
		return nil, err
	}
	ctx, done := ranks.During(ctx)
	defer func() {
		err = ranks.Leave(ctx, err)
		done()
	}()
	t.Ranks, t.Echo, t.Progress = ranks.Ranks, o.Log, o.Progress
	if t.Preprocessed, err = preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, c.Results, !c.NoPrepare); err != nil {
		return nil, err
	}
	err = ranks.once(ctx, func() error {
		if c.Pretrained != "" {
			if t.Source, err = checkpoint.Open(c.Pretrained); err != nil {
				return err
			}
		}
		if c.NoPrepare {
			return nil
		}
		return prepareTraining(ctx, c.Raw, t, o)
	})
	if t.Source != nil {
		defer t.Source.Close()
	}
	if err != nil {
		return nil, err
	}
	return train.Run(ctx, t)
}

// training checks the settings and gives the training that they describe, which does not know its data yet.
func (c *TrainConfig) training(o Output) (train.Config, error) {
	if err := settings.Check(c); err != nil {
		return train.Config{}, err
	}
	if c.World == nil || c.World.Rank == 0 { // which alone writes
		if err := given("results", c.Results); err != nil {
			return train.Config{}, err
		}
	}
	method, options, err := c.effective()
	if err != nil {
		return train.Config{}, err
	}
	t := train.Config{Settings: c.Settings, Machine: c.Machine, Results: c.Results, PlansName: c.PlansName,
		Configuration: c.Configuration, Fold: c.Fold, Trainer: c.Trainer, MethodName: c.MethodName, Method: method, Options: options,
		Pretrained: c.Pretrained, Continue: c.Continue, ValidateOnly: c.ValidateOnly, Npz: c.Npz, NoValidation: c.NoValidation,
		Version: o.Version}
	return t, t.Check()
}

// effective fills in what the method decides where nothing is given: its name, the trainer, epochs,
// the learning rate. options are all of the method's, as they are in force.
func (c *TrainConfig) effective() (m finetune.Method, options map[string]string, err error) {
	entry, trainer, err := c.Method.entry(c.Trainer, c.Pretrained != "")
	if err != nil {
		return nil, nil, err
	}
	if m, options, err = c.Method.make(entry); err != nil {
		return nil, nil, err
	}
	c.MethodName, c.Trainer = entry.Name, trainer
	if c.Epochs == 0 {
		c.Epochs = entry.Epochs
	}
	if c.LR == 0 {
		c.LR = entry.LR
	}
	return m, options, nil
}

// Effective checks the settings of a training and gives them by flag, with those of its method, as
// they are in force: as if all had been given.
func (c TrainConfig) Effective() (map[string]any, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	_, options, err := c.effective()
	if err != nil {
		return nil, err
	}
	if c.ValIterations == 0 {
		c.ValIterations = train.DefaultValIterations(c.Iterations)
	}
	all := map[string]any{}
	for _, f := range settings.Fields(&c) {
		all[f.Name] = f.Value()
	}
	for name, text := range options {
		all[name] = text
	}
	return all, nil
}

// preprocessedDataset gives the folder of a preprocessed dataset. It may be missing where the raw dataset is
// there to make it of.
func preprocessedDataset(dataset string, r RawFolder, p PreprocessedFolder, results string, prepare bool) (string, error) {
	if err := given("preprocessed", p.Preprocessed); err != nil {
		return "", err
	}
	name, err := raw.FindName(dataset, p.Preprocessed, r.Raw, results)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(p.Preprocessed, name)
	if _, err = os.Stat(folder); err == nil {
		return folder, nil
	}
	if prepare && r.Raw != "" {
		if _, err := os.Stat(filepath.Join(r.Raw, name, "dataset.json")); err == nil {
			return folder, nil
		}
	}
	return "", fmt.Errorf("dataset %s is not preprocessed: %w", name, err)
}

// ValidateConfig is the validation of any checkpoint.
type ValidateConfig struct {
	Dataset       string // number or name
	Configuration string
	Fold          string // number or "all"

	RawFolder
	PreprocessedFolder
	ResultsFolder
	Checkpoint string `flag:"checkpoint" path:"true" help:"weights to score"`
	Output     string `flag:"output" short:"o" path:"true" help:"folder for predictions and summary.json"`
	PlansName  string `flag:"plans" bare:"true" nnunet:"p" default:"nnUNetPlans" help:"name of the plans file, without .json"`
	PatchSize  []int  `flag:"patch-size" range:"1.." help:"patch size z,y,x (default: the plans')"`
	NoMirror   bool   `flag:"disable-tta" help:"no mirroring"`
	Npz        bool   `flag:"npz" help:"write CASE.npz and CASE.pkl, too"`
	machine.Machine
}

// Validate predicts the validation cases of a fold with a checkpoint as it is, heads included, and scores
// them as the final validation of a training run does.
func Validate(ctx context.Context, c ValidateConfig, o Output) (*train.Result, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	if c.Checkpoint == "" || c.Output == "" {
		return nil, settings.Usage("--checkpoint and -o must be given")
	}
	// No step is made; the method only says which parameters would train.
	entry, method, err := Method{}.Make()
	if err != nil {
		return nil, err
	}
	t := train.Config{Settings: settings.New[train.Settings](), Machine: c.Machine, Results: c.Results, PlansName: c.PlansName,
		Configuration: c.Configuration, Fold: c.Fold, MethodName: entry.Name, Method: method,
		ValidateOnly: true, Checkpoint: c.Checkpoint, ValidationFolder: c.Output, Npz: c.Npz,
		Version: o.Version, Echo: o.Log, Progress: o.Progress}
	t.Epochs, t.LR, t.PatchSize, t.NoMirroring = entry.Epochs, entry.LR, c.PatchSize, c.NoMirror
	if t.Preprocessed, err = preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, c.Results, false); err != nil {
		return nil, err
	}
	if err := o.resolve(&t.Machine); err != nil {
		return nil, err
	}
	return train.Run(ctx, t)
}
