package train

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// gradNorm is the total gradient norm that nnU-Net clips to. Source: nnUNetTrainer.train_step.
const gradNorm = 12

// Phase is a point of a step.
type Phase int

// Phases, in their order.
const (
	Cleared        Phase = iota // gradients are gone, the forward pass has not begun
	Uploaded                    // a batch is on the device
	Predicted                   // the network's outputs are there
	Forwarded                   // the loss is there, and what the backward pass needs
	Differentiated              // gradients of one batch are there
	Unscaled                    // gradients are complete and not clipped
	Chosen                      // the method has chosen; weights have not moved
)

// Batch is what a step learns from.
type Batch struct {
	Image   *torch.Tensor   // (n, channels, spatial…) float32, on the session's device
	Targets []*torch.Tensor // one for each level of deep supervision: int16 (n, 1, …), or uint8 (n, regions, …)
	Cases   []string        // for messages
	Rows    torch.Rows      // which rows of the global batch these are; zero: all
}

// Upload puts a batch on the session's device; its tensors live in s.
type Upload func(s *torch.Scope) (Batch, error)

// Outcome is what a step led to.
type Outcome struct {
	Loss float64
	Norm float64   // of the gradient before clipping; NaN with fp16, where overflow is in order
	Each []float64 // of several ranks: the loss of each, whose mean is Loss
}

// NotFiniteError is a loss or gradient norm that is NaN or infinite. The weights were not updated.
type NotFiniteError struct {
	What  string // "loss" or "gradient norm"
	Value float64
	Cases []string
	LR    float64
}

func (e *NotFiniteError) Error() string {
	from := fmt.Sprintf("learning rate %g", e.LR)
	if len(e.Cases) > 0 {
		from = "cases " + strings.Join(e.Cases, ", ") + ", " + from
	}
	return fmt.Sprintf("%s is %v, expected a number (%s); weights were not updated", e.What, e.Value, from)
}

// Step is one iteration, the n-th of the training: zero, forward, loss, backward, reduce, unscale, clip, finite check, mask,
// step. Gradients of several batches are accumulated: the loss is their mean. Of ranks that train together each steps on its
// own rows; from reduce on they have the same gradients. Where the device works on
// its own (CUDA with fast numerics, and a method that does not look at gradients) the outcome may come with
// a later step, or from Settle; so there can be none or several.
func (s *Session) Step(n int64, batches ...Upload) ([]Outcome, error) {
	var out Outcome
	err := torch.With(func(sc *torch.Scope) error {
		if err := torch.ManualSeed(mix(s.cfg.Seed, uint64(n))); err != nil { // dropout draws from it
			return err
		}
		if err := torch.ClearGrads(s.tensors); err != nil {
			return err
		}
		if err := s.hook(sc, Cleared, nil); err != nil {
			return err
		}
		l, logits, cases, err := s.gradients(sc, batches)
		if err != nil {
			return err
		}
		l, each, err := s.ranks.mean(sc, l, logits)
		if err != nil {
			return err
		}
		if s.Scaler != nil {
			s.Scaler.Unscale(sc, s.tensors)
		}
		if err := s.hook(sc, Unscaled, nil); err != nil {
			return err
		}
		norm := optim.ClipGradNorm(sc, s.tensors, gradNorm)
		if s.late != nil {
			return s.queue(sc, n, l, each, norm, cases)
		}
		if out, err = s.finite(sc, l, each, norm, cases); err != nil {
			return err
		}
		if s.Scaler != nil {
			var maskErr error
			s.Scaler.Step(sc, func() { maskErr = s.Update(sc, n) })
			s.Scaler.Update(sc)
			return errors.Join(maskErr, sc.Err())
		}
		return s.Update(sc, n)
	})
	if err != nil {
		return nil, err
	}
	if s.late != nil {
		return s.Settle(1)
	}
	return []Outcome{out}, nil
}

// gradients adds up the gradients of the batches and gives the mean of their losses, and for ranks that train together the
// sum of their logits. While the last backward pass goes on, ranks exchange gradients.
func (s *Session) gradients(sc *torch.Scope, batches []Upload) (total, logits *torch.Tensor, cases []string, err error) {
	add := func(c *torch.Scope, to **torch.Tensor, x *torch.Tensor) {
		if *to != nil {
			c.Add_(*to, x, 1)
			return
		}
		*to = x
		c.Keep(x)
	}
	for i, upload := range batches {
		last := i == len(batches)-1
		err := sc.With(func(c *torch.Scope) error {
			b, err := upload(c)
			if err != nil {
				return err
			}
			cases = append(cases, b.Cases...)
			if err := s.hook(c, Uploaded, nil); err != nil {
				return err
			}
			if last {
				if err := s.ranks.forward(); err != nil {
					return err
				}
			}
			l, heads, err := s.forward(c, b, s.hook)
			if err != nil {
				return err
			}
			if s.ranks != nil {
				add(c, &logits, mark(c, heads[0]))
			}
			if len(batches) > 1 {
				l = c.DivScalar(l, float64(len(batches)))
			}
			if err := s.hook(c, Forwarded, nil); err != nil {
				return err
			}
			back := l
			if s.Scaler != nil {
				back = s.Scaler.Scale(c, l)
			}
			if c.Err() != nil {
				return c.Err()
			}
			if err := s.ranks.backward(back, last); err != nil {
				return err
			}
			add(c, &total, c.Detach(l))
			return c.Err()
		})
		if err == nil {
			err = s.hook(sc, Differentiated, nil)
		}
		if err != nil {
			return nil, nil, nil, err
		}
	}
	return total, logits, cases, nil
}

// mark is finite where all logits are: their sum, in float32, as that of millions is beyond float16.
func mark(s *torch.Scope, logits *torch.Tensor) *torch.Tensor {
	return s.SumAs(s.Detach(logits), torch.Float32)
}

func (s *Session) hook(sc *torch.Scope, p Phase, masks []optim.Mask) error {
	if s.Hook == nil {
		return nil
	}
	return s.Hook(sc, p, masks)
}

// Update lets the method choose, and the optimizer step.
func (s *Session) Update(sc *torch.Scope, n int64) error {
	var chosen []optim.Mask // nil for an ordinary step
	if m, ok := s.cfg.Method.(finetune.Updater); ok {
		var err error
		if chosen, err = m.Update(sc, n, s.Trained); err != nil {
			return err
		}
	}
	if err := s.hook(sc, Chosen, chosen); err != nil {
		return err
	}
	s.SGD.Step(sc, s.spread(chosen))
	if sc.Err() != nil {
		return sc.Err()
	}
	return s.compare(n, chosen)
}

// spread puts the masks of the trained parameters at their places among all parameters.
func (s *Session) spread(chosen []optim.Mask) []optim.Mask {
	if chosen == nil || len(s.Trained) == len(s.Params) {
		return chosen
	}
	all := make([]optim.Mask, len(s.Params))
	next := 0
	for i, p := range s.Params {
		if next < len(s.Trained) && s.Trained[next].Name == p.Name {
			all[i] = chosen[next]
			next++
		}
	}
	return all
}

// forward gives the loss of a batch, and the network's heads. hook, if not nil, is called between
// them.
func (s *Session) forward(sc *torch.Scope, b Batch,
	hook func(*torch.Scope, Phase, []optim.Mask) error) (l *torch.Tensor, heads []*torch.Tensor, err error) {
	sc.SetRows(b.Rows)
	of := s.Loss
	if b.Rows.All > 0 {
		of = of.OfBatch(int(b.Rows.All))
	}
	err = s.cfg.Machine.Autocast(func() error {
		heads = s.Net.Forward(sc, b.Image)
		if hook != nil {
			if err := hook(sc, Predicted, nil); err != nil {
				return err
			}
		}
		l = of.Forward(sc, heads, b.Targets)
		return sc.Err()
	})
	return l, heads, err
}

// finite is an error where loss or gradient is NaN or infinite. With a gradient scaler
// overflowing gradients are in order; it skips their step.
func (s *Session) finite(sc *torch.Scope, l, each, norm *torch.Tensor, cases []string) (Outcome, error) {
	values := make([]float64, 2)
	var err error
	if values[0], err = l.Item(); err == nil {
		values[1], err = norm.Item()
	}
	if err == nil && each != nil {
		var of []float32
		of, err = torch.Slice[float32](sc.To(each, torch.Float32, torch.CPU))
		for _, v := range of {
			values = append(values, float64(v))
		}
	}
	if err != nil {
		return Outcome{}, errors.Join(sc.Err(), err)
	}
	return s.outcome(values, cases)
}

// outcome is that of a step: loss, norm, and for ranks that train together what mean gave of each, if their exchange
// went well.
func (s *Session) outcome(values []float64, cases []string) (Outcome, error) {
	if s.ranks != nil {
		if err := s.ranks.group.Check(); err != nil {
			return Outcome{}, err
		}
	}
	o := Outcome{Loss: values[0], Norm: values[1]}
	if s.Scaler != nil {
		o.Norm = math.NaN()
	}
	for i := 2; i < len(values); i += 2 {
		o.Each = append(o.Each, values[i])
	}
	if o.Each != nil {
		o.Loss = float64(meanLoss(o.Each))
	}
	bad := &NotFiniteError{What: "loss", Value: o.Loss, LR: s.SGD.LR()}
	switch {
	case !isFinite(o.Loss):
	case s.Scaler == nil && !isFinite(o.Norm):
		bad.What, bad.Value = "gradient norm", o.Norm
	default:
		return o, nil
	}
	var err error
	if bad.Cases, err = s.ranks.blame(values[2:], cases); err != nil {
		return o, err
	}
	return o, bad
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// Validate gives the loss of a batch without training on it, and the counts of nnU-Net's online
// evaluation.
func (s *Session) Validate(upload Upload) (value float64, counts []eval.Counts, err error) {
	err = torch.NoGrad(func() error {
		return torch.With(func(sc *torch.Scope) error {
			b, err := upload(sc)
			if err != nil {
				return err
			}
			l, heads, err := s.forward(sc, b, nil)
			if err != nil {
				return err
			}
			if value, err = l.Item(); err != nil {
				return err
			}
			tp, fp, fn, err := s.Loss.OnlineCounts(sc, heads[0], b.Targets[0])
			if err != nil {
				return err
			}
			for i := range tp {
				counts = append(counts, eval.Counts{TP: tp[i], FP: fp[i], FN: fn[i]})
			}
			return nil
		})
	})
	return value, counts, err
}

// mix spreads (seed, index) over 64 bits (SplitMix64).
func mix(seed, index uint64) uint64 {
	z := seed + (index+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
