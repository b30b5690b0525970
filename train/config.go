// Package train is lntorch's training loop: nnU-Net's trainer with a place for fine-tuning methods. It builds network,
// loaders and loss from the plans, runs the epochs, keeps checkpoints and logs, and validates at the end.
//
// It knows package finetune, and no method by name.
package train

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
)

// AMP is the mixed precision of a training.
type AMP string

// Mixed precisions: nnU-Net's choice (fp16 with gradient scaling on CUDA, none on the CPU), none, or as named.
const (
	AMPAuto AMP = "auto"
	AMPOff  AMP = "off"
	AMPFP16 AMP = "fp16"
	AMPBF16 AMP = "bf16"
)

// Head says what happens to the segmentation heads of pretrained weights.
type Head string

// Heads by nnU-Net's rule (seg_layers start anew, others go along and must fit), anew, as they are, or as far as the
// classes are known.
const (
	HeadNNUNet Head = "nnunet"
	HeadReset  Head = "reset"
	HeadKeep   Head = "keep"
	HeadExtend Head = "extend"
)

// Channels says what happens to the first layers of weights that were trained on other input channels.
type Channels string

// Channels must agree, as in nnU-Net, or the known ones are taken along.
const (
	ChannelsKeep   Channels = "keep"
	ChannelsExtend Channels = "extend"
)

// Config is everything a training needs. Zero stands for a default where the field says so.
type Config struct {
	Preprocessed  string // folder of the preprocessed dataset, <nnUNet_preprocessed>/DatasetXXX_Name
	Results       string // nnUNet_results
	PlansName     string // plans file without .json
	Configuration string
	Fold          string // a number or "all"
	Trainer       string // class name: part of the result folder's name, and of checkpoints

	MethodName string
	Method     finetune.Method
	Refine     finetune.Refine // of what the method trains

	Pretrained string   // checkpoint to start from; empty: random weights
	Head       Head     // "": HeadNNUNet
	Channels   Channels // "": ChannelsKeep
	Continue   bool     // go on from the result folder's checkpoint

	Epochs                    int
	Iterations                int   // of an epoch; 0: 250
	ValIterations             int   // of an epoch; 0: DefaultValIterations
	BatchSize                 int   // 0: the plans'
	PatchSize                 []int // nil: the plans'
	LR, WeightDecay, Momentum float64
	Oversample                float64 // part of a batch that must show foreground
	SaveEvery                 int     // epochs between checkpoint_latest.pth; 0: 1
	DisableCheckpointing      bool
	ValidateOnly              bool   // no training: final validation of checkpoint_final.pth
	ValidateBest              bool   // final validation with checkpoint_best.pth
	NoMirroring               bool   // final validation without test-time mirroring
	Checkpoint                string // with ValidateOnly: the weights to validate; empty: the fold's
	ValidationFolder          string // of the final validation; empty: the fold's

	Device  torch.Device
	Threads int // of libtorch's operators; 0: all cores
	Workers int // of the loaders; 0: the loader's default
	Seed    uint64
	AMP     AMP
	// Reference runs the reference's operators in its order. Without it lntorch may fuse and change layouts.
	Reference     bool
	Deterministic bool
	// Recompute computes the network's activations again in the backward pass, for less memory; not every network can.
	Recompute bool

	Version  string         // of lntorch, for run.json
	Settings map[string]any // the method's settings, for run.json and to compare with when going on
	Echo     io.Writer      // where log lines also go; nil: nowhere
	Progress Progress       // nil: none
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
	return fmt.Sprintf("train: stopped in epoch %d after %d iterations, saved in %s; go on with --c", e.Epoch, e.Iteration, e.Checkpoint)
}

// DefaultValIterations keeps nnU-Net's proportion of 50 validation to 250 training iterations, 50 at most.
func DefaultValIterations(iterations int) int { return max(1, min(50, (iterations+4)/5)) }

func (c *Config) defaults() error {
	if c.Method == nil || c.MethodName == "" {
		return errors.New("train: no fine-tuning method")
	}
	if c.Epochs <= 0 || c.LR <= 0 {
		return fmt.Errorf("train: %d epochs at learning rate %v: both must be positive", c.Epochs, c.LR)
	}
	if c.Iterations == 0 {
		c.Iterations = 250
	}
	if c.ValIterations == 0 {
		c.ValIterations = DefaultValIterations(c.Iterations)
	}
	if c.Iterations < 1 || c.ValIterations < 1 {
		return fmt.Errorf("train: %d iterations and %d validation iterations: both must be positive", c.Iterations, c.ValIterations)
	}
	if c.WeightDecay < 0 || c.Momentum < 0 || c.Momentum >= 1 || c.Oversample < 0 || c.Oversample > 1 {
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
	if c.Channels == "" {
		c.Channels = ChannelsKeep
	}
	if c.Channels != ChannelsKeep && c.Channels != ChannelsExtend {
		return fmt.Errorf("train: --channels %q: expected keep or extend", c.Channels)
	}
	if !slices.Contains([]AMP{"", AMPAuto, AMPOff, AMPFP16, AMPBF16}, c.AMP) {
		return fmt.Errorf("train: --amp %q: expected auto, off, fp16 or bf16", c.AMP)
	}
	if c.AMP == AMPFP16 && c.Device.Type == torch.DeviceCPU {
		return errors.New("train: --amp fp16 needs a CUDA device; on the CPU use bf16 or off")
	}
	if c.AMP == "" || c.AMP == AMPAuto {
		c.AMP = AMPOff
		if c.Device.Type == torch.DeviceCUDA {
			c.AMP = AMPFP16
		}
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
		return errors.New("train: --c goes on training, --val only validates: give one of them")
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
