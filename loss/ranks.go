package loss

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/torch"
)

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

// part is what this rank has to say of one head's loss.
type part struct {
	value *torch.Tensor // what needs no exchange, weighted; nil: nothing
	// To be summed over ranks, float64: intersection, prediction and truth of each class for batch
	// Dice; with an ignore label, the voxels that count. nil: nothing
	sums    *torch.Tensor
	classes int64         // of the Dice in sums; 0: it is in value
	entropy *torch.Tensor // summed over this rank's voxels that count; nil: it is in value
}

// shared is this rank's share of the loss of the global batch. The sums of all heads go into one
// exchange.
func (l *Loss) shared(s *torch.Scope, heads, targets []*torch.Tensor,
	weights []float64) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		parts := make([]part, len(heads))
		var sums []*torch.Tensor
		for i, w := range weights {
			if w == 0 {
				continue
			}
			err := s.With(func(s *torch.Scope) (err error) {
				if err := l.check(i, heads[i], targets[i]); err != nil {
					return err
				}
				parts[i], err = l.part(s, i, heads[i], targets[i])
				for _, t := range []*torch.Tensor{parts[i].value, parts[i].sums, parts[i].entropy} {
					s.Keep(t)
				}
				return err
			})
			if err != nil {
				s.Fail(err)
				return nil
			}
			if parts[i].sums != nil {
				sums = append(sums, parts[i].sums)
			}
		}
		var exchanged *torch.Tensor
		if len(sums) > 0 {
			exchanged = l.cfg.Ranks.Sum(s, s.Cat(0, sums...))
		}
		var total *torch.Tensor
		next := int64(0)
		for i, w := range weights {
			if w == 0 {
				continue
			}
			p := parts[i]
			if p.sums != nil {
				n := p.sums.Numel()
				p.sums = s.Narrow(exchanged, 0, next, n)
				next += n
			}
			term := s.MulScalar(l.finish(s, p), w)
			if total != nil {
				term = s.Add(total, term)
			}
			total = term
		}
		return total
	})
}

// part computes what needs no exchange.
func (l *Loss) part(s *torch.Scope, i int, x, target *torch.Tensor) (part, error) {
	r := l.cfg.Ranks
	rows := x.Shape()[0]
	if rows > int64(r.All) {
		return part{}, fmt.Errorf("loss: head %d has %d rows of a batch of %d", i, rows, r.All)
	}
	// A mean over this rank's rows, times this, has their weight in the mean over ranks.
	weight := float64(rows) * float64(r.World) / float64(r.All)
	if l.fused(x) {
		return l.fusedPart(s, i, x, target, weight)
	}
	var p, y, mask, wrong, entropy *torch.Tensor
	if l.cfg.Regions {
		y, mask = l.regions(s, target)
		p = s.Sigmoid(x)
		entropy = binaryEntropy(s, x, y, mask)
	} else {
		var labels *torch.Tensor
		labels, mask, wrong = l.labels(s, i, x, target, !l.waitless(x))
		p, y = foreground(s, x, labels)
		if mask == nil {
			entropy = s.CrossEntropy(x, s.Select(labels, 1, 0), torch.IgnoreNothing,
				torch.ReduceMean)
		} else {
			entropy = s.CrossEntropy(x, s.Select(s.To(target, torch.Int64, x.Device()), 1, 0),
				int64(*l.cfg.IgnoreLabel), torch.ReduceSum)
		}
	}
	var out part
	var sums []*torch.Tensor
	intersect, predicted, truth := overlap(s, p, y, mask)
	if s.Err() != nil {
		return part{}, s.Err()
	}
	if l.cfg.BatchDice {
		out.classes = p.Shape()[1]
		for _, t := range []*torch.Tensor{intersect, predicted, truth} {
			sums = append(sums, s.To(s.SumDims(t, false, 0), torch.Float64, x.Device()))
		}
	} else {
		out.value = s.MulScalar(diceOf(s, intersect, predicted, truth), weight)
	}
	switch {
	case mask != nil:
		out.entropy = entropy
		count := s.To(s.Sum(mask), torch.Float64, x.Device())
		sums = append(sums, s.Reshape(count, 1))
	case out.value != nil:
		out.value = s.Add(s.MulScalar(entropy, weight), out.value)
	default:
		out.value = s.MulScalar(entropy, weight)
	}
	if wrong != nil {
		out.value = s.MaskedFill(out.value, wrong, math.NaN())
	}
	if sums != nil {
		out.sums = s.Cat(0, sums...)
	}
	return out, s.Err()
}

// fusedPart is part in one operator.
func (l *Loss) fusedPart(s *torch.Scope, i int, x, target *torch.Tensor, weight float64) (part,
	error) {
	var out part
	var t *torch.Tensor
	var known bool
	if l.cfg.BatchDice {
		t, known = s.DiceCESums(x, target)
	} else {
		t, known = s.DiceCE(x, target, false, smooth)
	}
	if !known {
		l.labels(s, i, x, target, true) // fails s with the label
	}
	if s.Err() != nil {
		return out, s.Err()
	}
	if !l.cfg.BatchDice {
		out.value = s.MulScalar(t, weight)
		return out, s.Err()
	}
	c := x.Shape()[1]
	out.classes = c - 1
	sums := s.SliceDim(s.Reshape(s.Narrow(t, 0, 0, 3*c), 3, c), 1, 1, c, 1)
	out.sums = s.Reshape(sums, -1)
	mean := s.DivScalar(s.Select(t, 0, 3*c), float64(target.Numel()))
	out.value = s.MulScalar(s.To(mean, torch.Float32, x.Device()), weight)
	return out, s.Err()
}

// finish is the loss of a head, from the sums over ranks in p.sums.
func (l *Loss) finish(s *torch.Scope, p part) *torch.Tensor {
	value := p.value
	add := func(t *torch.Tensor) {
		if s.Err() != nil {
			return
		}
		if t = s.To(t, torch.Float32, t.Device()); value == nil {
			value = t
			return
		}
		value = s.Add(value, t)
	}
	if c := p.classes; c > 0 {
		add(diceOf(s, s.Narrow(p.sums, 0, 0, c), s.Narrow(p.sums, 0, c, c),
			s.Narrow(p.sums, 0, 2*c, c)))
	}
	if p.entropy != nil {
		// No voxel counts: the sum over them is 0, too.
		count := s.ClampMin(s.Narrow(p.sums, 0, 3*p.classes, 1), 1)
		add(s.Div(s.MulScalar(p.entropy, float64(l.cfg.Ranks.World)), s.Select(count, 0, 0)))
	}
	return value
}
