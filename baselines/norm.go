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

// norm trains parameters with "norm" or "seg_layers" in the name. In nnU-Net's networks these are
// the weights and biases of the instance norms (Affine-IN) and of the heads.
// Compat: the rule depends only on the name, so SwinUNETR's head (out.conv.conv) does not train;
// --train 'out.*' adds it.
// Source: LN-Seg-FM nnUNetTrainer_norm.py, train_step.
type norm struct{}

func (norm) Trains(name string, _ []int64) bool {
	return strings.Contains(name, "norm") || models.IsSegLayer(name)
}
