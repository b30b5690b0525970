// Package baselines holds the methods that DGST is compared with, one file each.
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

// full trains everything: ordinary fine-tuning, and training from the start.
// Source: LN-Seg-FM nnUNetTrainer.py (nnU-Net's own trainer with 200 epochs).
type full struct{}

func (full) Trains(string, []int64) bool { return true }
