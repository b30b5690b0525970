// Package optim holds the optimizer of lntorch's training loop, nnU-Net's learning rate schedule,
// gradient clipping and the gradient scaler for mixed precision. It keeps the state between steps
// and converts it to and from checkpoints; the arithmetic is in torch.Scope's SGDStep, ClipGradNorm
// and Amp… methods. It has no parameter groups, closures or optimizers that nnU-Net does not use.
// Behaviour follows torch.optim and torch.amp.
//
//	sgd, err := optim.NewSGD(params, torch.SGD{
//		LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true})
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

// PolyLR is the learning rate of epoch (from 0) in nnU-Net's schedule: initial·(1 -
// epoch/maxEpochs)^exponent. nnU-Net's exponent is 0.9. It is bit-equal to the reference, which
// computes with Python floats.
//
// Source: nnunetv2/training/lr_scheduler/polylr.py, PolyLRScheduler.step.
func PolyLR(initial float64, epoch, maxEpochs int, exponent float64) float64 {
	return initial * torch.Pow(1-float64(epoch)/float64(maxEpochs), exponent)
}

// ClipGradNorm scales the gradients of params so that their total L2 norm is at most max, and
// returns the norm before clipping, a scalar of s (torch.nn.utils.clip_grad_norm_). nnU-Net's max
// is 12.
func ClipGradNorm(s *torch.Scope, params []*torch.Tensor, max float64) *torch.Tensor {
	return s.ClipGradNorm(params, max)
}
