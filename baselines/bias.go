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

// bias trains what has "bias" or "seg_layers" in its name. On nnU-Net's networks these are the biases of convolutions, norms and transposed convolutions, and
// the heads whole.
// Compat: the rule goes by the name alone, so that SwinUNETR's head (out.conv.conv) trains its bias alone; --train 'out.*' adds it.
// Source: LN-Seg-FM nnUNetTrainer_bias.py, train_step.
type bias struct{}

func (bias) Trains(name string, _ []int64) bool {
	return strings.Contains(name, "bias") || models.IsSegLayer(name)
}
