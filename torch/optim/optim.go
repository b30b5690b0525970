// Package optim holds the optimizers of lntorch's training loop with what stands beside them: nnU-Net's learning rate,
// gradient clipping and the gradient scaler of mixed precision. The arithmetic is torch's, in torch.Scope's SGDStep,
// ClipGradNorm and Amp…; here is the state that lives from step to step, and how it comes into and out of a
// checkpoint. Parameter groups, closures and optimizers that nnU-Net does not use are left out.
//
//	sgd, err := optim.NewSGD(params, torch.SGD{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true})
//	...
//	defer sgd.Close()
//	for epoch := range epochs {
//		sgd.SetLR(optim.PolyLR(1e-2, epoch, epochs, 0.9))
//		err := torch.With(func(s *torch.Scope) error {
//			... // clear gradients, forward, backward
//			optim.ClipGradNorm(s, params, 12)
//			sgd.Step(s, nil)
//			return nil
//		})
//	}
package optim

import "github.com/lntorch/lntorch/torch"

// PolyLR is the learning rate of epoch (from 0) in nnU-Net's schedule: initial·(1 - epoch/maxEpochs)^exponent. nnU-Net's
// exponent is 0.9. It has the bits of the reference, which computes with Python's float.
//
// Source: nnunetv2/training/lr_scheduler/polylr.py, PolyLRScheduler.step.
func PolyLR(initial float64, epoch, maxEpochs int, exponent float64) float64 {
	return initial * torch.Pow(1-float64(epoch)/float64(maxEpochs), exponent)
}

// ClipGradNorm scales the gradients of params so that their total L2 norm is at most max, and returns the norm found, a
// scalar of s (torch.nn.utils.clip_grad_norm_). nnU-Net's max is 12.
func ClipGradNorm(s *torch.Scope, params []*torch.Tensor, max float64) *torch.Tensor {
	return s.ClipGradNorm(params, max)
}
