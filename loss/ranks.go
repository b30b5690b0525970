package loss

import "github.com/lntorch/lntorch/torch"

// Ranks is what a loss needs of a distributed training, where every rank holds some rows of the
// global batch and calls Forward once a step, and where the gradients of all ranks are summed and
// divided by World afterwards (DistributedDataParallel).
//
// With Config.Fast each rank's value is scaled such that the mean over ranks, of values and of
// gradients, is the loss of one rank that holds the global batch, also where ranks have unequal
// numbers of rows. Without, it is nnU-Net's: each rank's own mean, all ranks weighted alike, and
// batch Dice over the gathered sums (AllGatherGrad).
//
// Both functions are collectives: all ranks call them in the same order, with equal shapes and
// types. Failure of one fails the scope.
type Ranks struct {
	World int // number of ranks
	All   int // rows of the global batch; this rank's are those of the logits

	// Sum is the sum of t, float64, over all ranks. The gradient of t is World times that of the
	// result, without an exchange: the later division by World makes it that of the global loss.
	Sum func(s *torch.Scope, t *torch.Tensor) *torch.Tensor
	// Gather stacks t of all ranks, (World, …) in the order of ranks. t is float32, or int64 without
	// gradient. The gradient of t is this rank's slice of the result's gradients, which are summed
	// over ranks first. Source: nnU-Net 2.5.1, ddp_allgather.py.
	Gather func(s *torch.Scope, t *torch.Tensor) *torch.Tensor
}

// OfBatch is l for global batches of n rows.
func (l *Loss) OfBatch(n int) *Loss {
	if l.cfg.Ranks == nil || l.cfg.Ranks.All == n {
		return l
	}
	c := *l
	ranks := *l.cfg.Ranks
	ranks.All = n
	c.cfg.Ranks = &ranks
	return &c
}
