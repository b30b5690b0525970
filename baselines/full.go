// Package baselines holds the fine-tuning methods that DGST is compared with, one file each: full,
// bias, norm and head tuning, and LoRA. A method selects parameters and attaches adapters; the
// training loop is package train, the optimizer torch/optim. Rules and defaults follow the trainers
// of LN-Seg-FM; LoRA follows PEFT 0.14.0.
package baselines

import "github.com/lntorch/lntorch/finetune"

func init() {
	finetune.Register(finetune.Entry{
		Name:    "full",
		Trainer: "nnUNetTrainer",
		Summary: "trains every parameter",
		LR:      1e-2,
		Epochs:  200,
		Stock:   true,
		New:     func(finetune.Values) (finetune.Method, error) { return full{}, nil },
	})
}

// full trains every parameter: ordinary fine-tuning, and training from scratch.
// Source: LN-Seg-FM nnUNetTrainer.py (nnU-Net's own trainer with 200 epochs).
type full struct{}

func (full) Trains(string, []int64) bool { return true }
