package train

import (
	"context"
	"fmt"
	"hash/crc64"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/torch/optim"
)

// comparedEvery is how many steps lie between two comparisons of the ranks' weights.
const comparedEvery = 50

// fastBucket bounds, in bytes, the gradients that are exchanged together with fast numerics. With PyTorch's 25 MiB the
// last exchange, which no backward pass hides, and Gloo's own memory are larger.
const fastBucket = 8 << 20

// ranks is what the steps of a session share with those of other ranks, each of which has some rows of
// every batch: sums for the loss, gradients, losses. nil: the session is alone and shares nothing.
type ranks struct {
	*peers
	compress Compression
	reducer  *dist.Reducer // once the network has its weights
	reduce   time.Duration // waited for the last step's gradients after its backward pass
}

// newRanks is nil where there are no peers.
func newRanks(p *peers, c Compression) *ranks {
	if p == nil {
		return nil
	}
	return &ranks{peers: p, compress: c}
}

// loss is what a loss needs of the ranks.
func (r *ranks) loss() *loss.Ranks {
	if r == nil {
		return nil
	}
	timed := func(f func(*torch.Scope, *torch.Tensor) *torch.Tensor) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
		return func(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
			defer r.timed(time.Now())
			return f(s, t)
		}
	}
	return &loss.Ranks{World: r.group.Size(), Sum: timed(r.group.SumGrad), Gather: timed(r.group.GatherGrad)}
}

// Join gives the network rank 0's weights and prepares the exchange of gradients. It is called when
// the network has its weights, before the first step. Alone it does nothing.
func (s *Session) Join() error {
	r := s.ranks
	if r == nil {
		return nil
	}
	var all []*torch.Tensor
	for _, p := range s.Net.Module().StateDict() {
		if !slices.Contains(all, p.T) {
			all = append(all, p.T)
		}
	}
	for _, p := range s.Params { // adapters are not in the state dict
		if !slices.Contains(all, p.T) {
			all = append(all, p.T)
		}
	}
	if err := r.group.Broadcast(all, 0); err != nil {
		return err
	}
	fast := !s.cfg.Machine.IsReference()
	c := dist.ReducerConfig{Views: fast, Split: fast, Compress: r.compress.of()}
	if fast {
		c.Bucket = fastBucket
	}
	var params []*torch.Tensor
	for _, p := range s.reached() {
		c.Names, params = append(c.Names, p.Name), append(params, p.T)
	}
	var err error
	r.reducer, err = dist.NewReducer(r.group, params, c)
	return err
}

// rehearse takes the exchange of gradients through an iteration of nothing: c10d makes its buckets anew before
// the second, and three ranks or more sum in another order before than after. A training that goes on begins with
// the buckets of one that was never stopped, and so has its bits. Two ranks have them in any order.
func (s *Session) rehearse(rows torch.Rows) error {
	if s.peers.size() < 3 {
		return nil
	}
	s.Net.SetTraining(true)
	s.Net.SetDeepSupervision(true)
	return torch.With(func(sc *torch.Scope) error {
		if err := torch.ClearGrads(s.tensors); err != nil {
			return err
		}
		blank := func(sc *torch.Scope) (Batch, error) { return s.blank(sc, rows), sc.Err() }
		if _, _, _, err := s.gradients(sc, []Upload{blank}); err != nil {
			return err
		}
		if _, err := s.ranks.reducer.Wait(context.Background()); err != nil {
			return err
		}
		return torch.ClearGrads(s.tensors)
	})
}

// blank is a batch of zeros.
func (s *Session) blank(sc *torch.Scope, rows torch.Rows) Batch {
	c := &s.cfg
	image := append([]int64{rows.Count, int64(c.Spec.InputChannels)}, torch.Sizes(c.Patch)...)
	b := Batch{Image: sc.Zeros(image, torch.Float32, c.Machine.Device), Rows: rows}
	channels, dtype := int64(1), torch.Int16
	if c.Labels.HasRegions {
		channels, dtype = int64(c.Spec.NumClasses), torch.Uint8
		if c.Labels.IgnoreLabel != nil {
			channels++
		}
	}
	for _, size := range s.TargetSizes() {
		b.Targets = append(b.Targets, sc.Zeros(append([]int64{rows.Count, channels}, size...), dtype, c.Machine.Device))
	}
	return b
}

// reached lists the parameters whose gradients ranks exchange: those that train, but for a head that the loss
// leaves out, for whose gradients c10d would wait.
func (s *Session) reached() []finetune.Param {
	weights := s.headWeights()
	idle := weights[len(weights)-1] == 0
	var list []finetune.Param
	for _, p := range s.Trained {
		if !idle || !models.IsLowestHead(p.Name) {
			list = append(list, p)
		}
	}
	return list
}

// GradientBytes is how much several ranks exchange of gradients in a step.
func (s *Session) GradientBytes() int64 {
	n := int64(0)
	for _, p := range s.reached() {
		n += 4 * p.T.Numel()
	}
	return n
}

// Waited is how long the last step waited, after its backward pass, until the gradients were the mean of all
// ranks'.
func (s *Session) Waited() time.Duration {
	if s.ranks == nil {
		return 0
	}
	return s.ranks.reduce
}

func (r *ranks) close() {
	if r != nil && r.reducer != nil {
		r.reducer.Close()
	}
}

// forward is called before the forward pass of the batch whose backward pass completes the gradients.
func (r *ranks) forward() error {
	if r == nil {
		return nil
	}
	return r.reducer.Forward()
}

// backward is loss.Backward; where it completes the gradients, ranks exchange them while it goes on.
func (r *ranks) backward(loss *torch.Tensor, complete bool) error {
	if r == nil || !complete {
		return loss.Backward()
	}
	if err := r.reducer.Backward(); err != nil {
		return err
	}
	return r.group.Explain(loss.Backward())
}

// mean makes sure that the gradients are the mean of all ranks', and gives the mean of their losses. each
// holds every rank's loss and the sum of its logits: (ranks, 2).
func (r *ranks) mean(s *torch.Scope, l, logits *torch.Tensor) (mean, each *torch.Tensor, err error) {
	if r == nil {
		return l, nil, nil
	}
	if r.reduce, err = r.reducer.Wait(context.Background()); err != nil {
		return nil, nil, err
	}
	r.waited += r.reduce
	defer r.timed(time.Now())
	world := int64(r.group.Size())
	each = s.Zeros([]int64{world, 2}, torch.Float32, l.Device())
	own := s.Select(each, 0, int64(r.group.Rank()))
	s.Copy_(own, s.Cat(0, s.Reshape(l, 1), s.Reshape(logits, 1)), false)
	if s.Err() != nil {
		return nil, nil, s.Err()
	}
	if err = r.group.AllReduce(s, each); err != nil {
		return nil, nil, err
	}
	return s.Mean(s.Select(each, 1, 0)), each, s.Err()
}

// GoOn tells whether every rank goes on: none of them was asked to stop. All ranks call it before each
// step, and stop, if at all, before the same one.
func (s *Session) GoOn(ctx context.Context) (bool, error) { return s.peers.goOn(ctx) }

// blame names the cases of the ranks from which a loss or gradient came that is no number. all ranks
// call it after the same step. values are those of mean's each.
func (r *ranks) blame(values []float64, cases []string) ([]string, error) {
	if r == nil {
		return cases, nil
	}
	all, err := gather(r.peers, cases)
	if err != nil {
		return nil, err
	}
	var named []string
	for _, of := range []int{1, 0} { // logits first: with sums over all ranks every loss is bad
		for rank := range all {
			if i := 2*rank + of; i < len(values) && !isFinite(values[i]) {
				named = append(named, fmt.Sprintf("%s (rank %d)", strings.Join(all[rank], ", "), rank))
			}
		}
		if named != nil {
			return named, nil
		}
	}
	return slices.Concat(all...), nil
}

var polynomial = crc64.MakeTable(crc64.ECMA)

// compare is an error where the ranks' weights or masks differ after step n. It compares after the last
// step, and some on the way.
func (s *Session) compare(n int64, masks []optim.Mask) error {
	r := s.ranks
	if r == nil || (n+1)%comparedEvery != 0 && n+1 != s.cfg.Steps {
		return nil
	}
	var sums []uint64
	for i, p := range s.Trained {
		list := []*torch.Tensor{p.T}
		if masks != nil && masks[i].Indices != nil {
			list = append(list, masks[i].Indices)
		}
		sum := uint64(0)
		for _, t := range list {
			if err := eachBytes(t, func(b []byte) { sum = crc64.Update(sum, polynomial, b) }); err != nil {
				return err
			}
		}
		sums = append(sums, sum)
	}
	all, err := gather(r.peers, sums)
	if err != nil {
		return err
	}
	for i, p := range s.Trained {
		for rank := range all {
			if len(all[rank]) != len(sums) || all[rank][i] != all[0][i] {
				return fmt.Errorf("after iteration %d the weights or masks of %s differ between rank 0 and rank %d, which are the "+
					"same as long as all is well: a rank's memory or program is faulty; start again from the last checkpoint", n, p.Name, rank)
			}
		}
	}
	return nil
}

// eachBytes calls f with the memory of a tensor, piece by piece.
func eachBytes(t *torch.Tensor, f func([]byte)) error {
	const entries = 1 << 20
	return torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			flat := s.Reshape(s.Detach(t), -1)
			for at, n := int64(0), t.Numel(); at < n && s.Err() == nil; at += entries {
				if err := s.With(func(s *torch.Scope) error {
					part := s.To(s.Narrow(flat, 0, at, min(entries, n-at)), t.DType(), torch.CPU)
					if s.Err() != nil {
						return s.Err()
					}
					b, err := part.Bytes()
					f(b)
					return err
				}); err != nil {
					return err
				}
			}
			return s.Err()
		})
	})
}
