// Package train is lntorch's training loop: nnU-Net's trainer with a place for fine-tuning methods. It builds network,
// loaders and loss from the plans, runs the epochs, keeps checkpoints and logs, and validates at the end.
//
// It knows package finetune, and no method by name.
package train

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/machine"
)

// Head is what happens to the segmentation heads of pretrained weights.
type Head string

// Heads by nnU-Net's rule (those of its own networks are reinitialised, others are kept and must fit), reinitialised, kept,
// or kept as far as the classes are known.
const (
	HeadNNUNet Head = "nnunet"
	HeadReset  Head = "reset"
	HeadKeep   Head = "keep"
	HeadExtend Head = "extend"
)

// Channels is what happens to the first layers of weights that were trained on other input channels.
type Channels string

// Channels must agree, as in nnU-Net, or the known ones are kept.
const (
	ChannelsKeep   Channels = "keep"
	ChannelsExtend Channels = "extend"
)

// AugmentOn is where the transforms run.
type AugmentOn string

// Transforms run in the loader's workers, or on the device that trains.
const (
	AugmentOnCPU    AugmentOn = "cpu"
	AugmentOnDevice AugmentOn = "device"
)

// BatchSettings are what a user may set of a training's batches.
type BatchSettings struct {
	BatchSize int   `flag:"batch-size" range:"1.." keep:"batch_size" help:"batch size (default: the plans')"`
	PatchSize []int `flag:"patch-size" range:"1.." keep:"patch_size" help:"patch size z,y,x (default: the plans')"`
	augment.Choice
	Oversample float64 `flag:"oversample" default:"0.33" range:"0..1" keep:"oversample" record:"oversample_foreground_percent" help:"fraction of samples forced to contain foreground"`
	Seed       uint64  `flag:"seed" keep:"seed" help:"seed of weights, batches and dropout"`
	Workers    int     `flag:"workers" range:"1..256" help:"goroutines that prepare batches (default: the cores, four at most)"`
}

// Settings are what a user may set of a training; each is declared here and nowhere else.
type Settings struct {
	Head     Head     `flag:"head" default:"nnunet" values:"nnunet,reset,keep,extend" help:"segmentation heads of the pretrained weights: nnunet (its rule: the heads of its own networks are reset, any other is kept), reset, keep, or extend (known classes are kept, by name or number)"`
	Channels Channels `flag:"channels" default:"keep" values:"keep,extend" help:"input channels of the pretrained weights: keep (they must fit), or extend (known ones are kept, others start at 0)"`
	finetune.Refine
	Cases []string `flag:"cases" list:"true" keep:"cases" before:"" help:"with fold all: the only cases to train on; several may follow (default: every case)"`

	Epochs        int `flag:"epochs" range:"1.." help:"epochs (default: the method's)"`
	Iterations    int `flag:"iterations" default:"250" range:"1.." keep:"iterations" help:"iterations per epoch"`
	ValIterations int `flag:"val-iterations" range:"1.." keep:"val_iterations" help:"validation iterations per epoch (default: 50, fewer in proportion with fewer iterations)"`
	Accumulate    int `flag:"accumulate" default:"1" range:"1.." keep:"accumulate" before:"1" help:"batches that an iteration's gradient is the mean of, each with its own loss"`
	Optimizer
	BatchSettings
	AugmentOn AugmentOn `flag:"augment-on" default:"cpu" values:"cpu,device" keep:"augment_on" before:"cpu" help:"where batches are augmented: cpu (workers), or device (operators of libtorch; other roundings)"`
	SaveEvery int       `flag:"save-every" default:"1" range:"1.." help:"epochs between checkpoint_latest.pth"`

	Compress Compression `flag:"compress" default:"off" values:"off,fp16,bf16" keep:"compress" before:"off" help:"of several ranks: type of gradients on their way, half the bytes"`

	Recompute            bool `flag:"recompute" help:"recompute activations in the backward pass: less memory, more time (not every network; MONAI's use_checkpoint)"`
	Deterministic        bool `flag:"deterministic" help:"on CUDA: algorithms that give the same bits every time (slower)"`
	DisableCheckpointing bool `flag:"disable-checkpointing" help:"write no checkpoints"`
	ValidateBest         bool `flag:"val-best" help:"final validation with checkpoint_best.pth"`
	NoMirroring          bool `flag:"disable-tta" help:"final validation without mirroring"`

	Profile string `flag:"profile" path:"true" help:"folder for cpu.pprof and iteration.txt: where the time of the training goes"`
}

// Config is everything a training needs. A zero in Settings stands for the default that the field
// names; in Oversample, SaveEvery, WeightDecay and Momentum it is a value.
type Config struct {
	Settings
	machine.Machine

	Preprocessed  string // folder of the preprocessed dataset, <nnUNet_preprocessed>/DatasetXXX_Name
	Results       string // nnUNet_results
	PlansName     string // plans file without .json
	Configuration string
	Fold          string // a number or "all"
	Trainer       string // class name: part of the result folder's name, and of checkpoints

	MethodName string
	Method     finetune.Method
	Options    map[string]string // the method's options, for run.json and to compare with when continuing

	Pretrained       string           // checkpoint to start from; empty: random weights
	Source           *checkpoint.File // it, where the caller has opened it; not closed here
	Continue         bool             // continue from the result folder's checkpoint
	ValidateOnly     bool             // no training: final validation of checkpoint_final.pth
	Checkpoint       string           // with ValidateOnly: the weights to validate; empty: the fold's
	ValidationFolder string           // of the final validation; empty: the fold's
	Npz              bool             // final validation also writes probabilities and properties
	NoValidation     bool             // no final validation: the caller predicts and scores itself

	Ranks Ranks // that train together

	Version  string    // of lntorch, for run.json
	Echo     io.Writer // where log lines also go; nil: nowhere
	Progress Progress  // nil: none
}

// Progress shows how far long work is. Calls come from one goroutine.
type Progress interface {
	Begin(task string, total int)
	Done(n int, note string)
	End()
}

type quiet struct{}

func (quiet) Begin(string, int) {}
func (quiet) Done(int, string)  {}
func (quiet) End()              {}

// Interrupted is the error of a training that was stopped from outside after saving.
type Interrupted struct {
	Epoch, Iteration int
	Checkpoint       string // empty with checkpointing disabled
}

func (e *Interrupted) Error() string {
	if e.Checkpoint == "" {
		return fmt.Sprintf("train: stopped in epoch %d after %d iterations; nothing was saved, for checkpointing is disabled", e.Epoch, e.Iteration)
	}
	return fmt.Sprintf("train: stopped in epoch %d after %d iterations, saved in %s; continue with --c", e.Epoch, e.Iteration, e.Checkpoint)
}

// DefaultValIterations keeps nnU-Net's proportion of 50 validation to 250 training iterations, 50 at most.
func DefaultValIterations(iterations int) int { return max(1, min(50, (iterations+4)/5)) }

// Check fills in defaults and validates the settings before any work.
func (c *Config) Check() error {
	if c.Method == nil || c.MethodName == "" {
		return errors.New("train: no fine-tuning method")
	}
	if c.Epochs <= 0 || !(c.LR > 0) || math.IsInf(c.LR, 0) {
		return fmt.Errorf("train: %d epochs at learning rate %v: expected numbers above 0", c.Epochs, c.LR)
	}
	if c.Iterations == 0 {
		c.Iterations = 250
	}
	if c.ValIterations == 0 {
		c.ValIterations = DefaultValIterations(c.Iterations)
	}
	if c.Accumulate == 0 {
		c.Accumulate = 1
	}
	if c.Iterations < 1 || c.ValIterations < 1 || c.Accumulate < 1 {
		return fmt.Errorf("train: %d iterations and %d validation iterations, gradients of %d batches: all must be positive",
			c.Iterations, c.ValIterations, c.Accumulate)
	}
	within := func(x, low, high float64) bool { return x >= low && x <= high } // false for NaN
	if !within(c.WeightDecay, 0, math.MaxFloat64) || !within(c.Momentum, 0, 1) || c.Momentum == 1 || !within(c.Oversample, 0, 1) {
		return fmt.Errorf("train: weight decay %v, momentum %v, oversampling %v: expected no negative decay, a momentum below 1, a fraction",
			c.WeightDecay, c.Momentum, c.Oversample)
	}
	if c.SaveEvery == 0 {
		c.SaveEvery = 1
	}
	if c.Head == "" {
		c.Head = HeadNNUNet
	}
	if !slices.Contains([]Head{HeadNNUNet, HeadReset, HeadKeep, HeadExtend}, c.Head) {
		return fmt.Errorf("train: --head %q: expected nnunet, reset, keep or extend", c.Head)
	}
	if c.AugmentOn == "" {
		c.AugmentOn = AugmentOnCPU
	}
	if c.AugmentOn != AugmentOnCPU && c.AugmentOn != AugmentOnDevice {
		return fmt.Errorf("train: --augment-on %q: expected cpu or device", c.AugmentOn)
	}
	if c.Channels == "" {
		c.Channels = ChannelsKeep
	}
	if c.Channels != ChannelsKeep && c.Channels != ChannelsExtend {
		return fmt.Errorf("train: --channels %q: expected keep or extend", c.Channels)
	}
	if c.Compress == "" {
		c.Compress = CompressOff
	}
	if c.Compress != CompressOff && c.IsReference() {
		return fmt.Errorf("train: --compress %s rounds gradients, --numerics reference has nnU-Net's: give one of them", c.Compress)
	}
	if c.Progress == nil {
		c.Progress = quiet{}
	}
	if c.Echo == nil {
		c.Echo = io.Discard
	}
	if c.Continue && c.Pretrained != "" && !c.ValidateOnly {
		return errors.New("train: --c continues a training, -pretrained_weights begins one: give one of them")
	}
	if c.Continue && c.ValidateOnly {
		return errors.New("train: --c continues training, --val only validates: give one of them")
	}
	if c.DisableCheckpointing && c.ValidateBest {
		return errors.New("train: --val_best needs checkpoint_best.pth, which --disable_checkpointing does not write")
	}
	return nil
}

// folder is <results>/<dataset>/<trainer>__<plans>__<configuration>, by the names in the plans file as nnU-Net does.
func (c *Config) folder(p *plans.Plans) string {
	return filepath.Join(c.Results, p.DatasetName, c.Trainer+"__"+p.PlansName+"__"+c.Configuration)
}
