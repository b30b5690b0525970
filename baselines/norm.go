package baselines

import (
	"strings"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "norm",
		Trainer: "nnUNetTrainer_norm",
		Summary: "trains norms and the segmentation heads",
		LR:      1e-3,
		Epochs:  200,
		New:     func(finetune.Values) (finetune.Method, error) { return norm{}, nil },
	})
}

// norm trains what has "norm" or "seg_layers" in its name. On nnU-Net's networks these are weights and biases of instance norms (Affine-IN), and the heads
// whole.
// Compat: the rule goes by the name alone, so that SwinUNETR's head (out.conv.conv) trains not at all; --train 'out.*' adds it.
// Source: LN-Seg-FM nnUNetTrainer_norm.py, train_step.
type norm struct{}

func (norm) Trains(name string, _ []int64) bool {
	return strings.Contains(name, "norm") || models.IsSegLayer(name)
}
