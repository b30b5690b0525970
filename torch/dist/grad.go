package dist

import "github.com/lntorch/lntorch/torch"

// GatherGrad returns every rank's t, stacked: (world size, t's shape), with gradient: that of each
// rank's copy is summed over the ranks, and t gets its slice. The backward pass waits for the other
// ranks.
// Source: nnunetv2/utilities/ddp_allgather.py, AllGatherGrad.
func (g *Group) GatherGrad(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	return g.function(s, t, func(s *torch.Scope, x *torch.Tensor) (*torch.Tensor, error) {
		all, err := g.gather(s, "all-gather", x)
		if err != nil {
			return nil, err
		}
		return s.GatheredFrom(g.pg, t, all), nil
	})
}

// SumGrad returns the sum of all ranks' t, with gradient: where every rank goes on to compute the
// same loss from the sum, the gradient of that loss. DistributedDataParallel's average over the
// ranks divides it by their number, by which it is multiplied here, so that averaged gradients of
// parameters are those of the one loss. Nothing is exchanged in the backward pass.
func (g *Group) SumGrad(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	return g.function(s, t, func(s *torch.Scope, x *torch.Tensor) (*torch.Tensor, error) {
		sum := s.Clone(x)
		if s.Err() != nil {
			return nil, s.Err()
		}
		if err := g.AllReduce(s, sum); err != nil {
			return nil, err
		}
		return s.SummedFrom(t, sum, float64(g.Size())), nil
	})
}

// function gives f the elements of t, without gradient and in order.
func (g *Group) function(s *torch.Scope, t *torch.Tensor,
	f func(s *torch.Scope, x *torch.Tensor) (*torch.Tensor, error)) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		x := s.Contiguous(s.Detach(t), torch.Contiguous)
		if s.Err() != nil {
			return nil
		}
		out, err := f(s, x)
		if err != nil {
			s.Fail(err)
		}
		return out
	})
}
