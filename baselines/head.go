package baselines

import (
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "head",
		Trainer: "nnUNetTrainer_head",
		Summary: "trains only the segmentation heads",
		LR:      1e-2,
		Epochs:  200,
		New:     func(finetune.Values) (finetune.Method, error) { return head{}, nil },
	})
}

// head trains the layers that map features to logits. Nothing before them requires a gradient, so
// autograd records no layer of the trunk and keeps none of its activations. No trainer of LN-Seg-FM
// does this; learning rate and epochs are those of full fine-tuning.
type head struct{}

func (head) Trains(name string, _ []int64) bool { return models.IsHead(name) }
