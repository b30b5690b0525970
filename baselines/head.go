package baselines

import (
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "head",
		Trainer: "nnUNetTrainer_head",
		Summary: "trains the segmentation heads alone",
		LR:      1e-2,
		Epochs:  200,
		New:     func(finetune.Values) (finetune.Method, error) { return head{}, nil },
	})
}

// head trains what makes logits out of features. Nothing before it needs a gradient, so that autograd follows no layer of
// the trunk and keeps none of its activations.
// No trainer of LN-Seg-FM does this; learning rate and epochs are those of full fine-tuning.
type head struct{}

func (head) Trains(name string, _ []int64) bool { return models.IsHead(name) }
