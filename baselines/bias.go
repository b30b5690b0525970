package baselines

import (
	"strings"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "bias",
		Trainer: "nnUNetTrainer_bias",
		Summary: "trains biases and the segmentation heads",
		LR:      1e-2,
		Epochs:  200,
		New:     func(finetune.Values) (finetune.Method, error) { return bias{}, nil },
	})
}

// bias trains parameters with "bias" or "seg_layers" in the name. In nnU-Net's networks these are
// the biases of convolutions, norms and transposed convolutions, and the weights and biases of the
// heads.
// Compat: the rule depends only on the name, so only the bias of SwinUNETR's head (out.conv.conv)
// trains; --train 'out.*' adds its weight.
// Source: LN-Seg-FM nnUNetTrainer_bias.py, train_step.
type bias struct{}

func (bias) Trains(name string, _ []int64) bool {
	return strings.Contains(name, "bias") || models.IsSegLayer(name)
}
