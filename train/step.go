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
}

// Upload puts a batch on the session's device; its tensors live in s.
type Upload func(s *torch.Scope) (Batch, error)

// Outcome is what a step led to.
type Outcome struct {
	Loss float64
	Norm float64 // of the gradient before clipping; NaN with fp16, where overflow is in order
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
// step. Gradients of several batches are accumulated: the loss is their mean. Where the device works on
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
		l, cases, err := s.gradients(sc, batches)
		if err != nil {
			return err
		}
		if s.Reduce != nil {
			if err := s.Reduce(sc, s.tensors); err != nil {
				return err
			}
		}
		if s.Scaler != nil {
			s.Scaler.Unscale(sc, s.tensors)
		}
		if err := s.hook(sc, Unscaled, nil); err != nil {
			return err
		}
		norm := optim.ClipGradNorm(sc, s.tensors, gradNorm)
		if s.late != nil {
			return s.queue(sc, l, norm, cases)
		}
		if out, err = s.finite(sc, l, norm, cases); err != nil {
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

// gradients adds up the gradients of the batches and gives the mean of their losses.
func (s *Session) gradients(sc *torch.Scope, batches []Upload) (total *torch.Tensor, cases []string, err error) {
	for _, upload := range batches {
		err := sc.With(func(c *torch.Scope) error {
			b, err := upload(c)
			if err != nil {
				return err
			}
			cases = append(cases, b.Cases...)
			if err := s.hook(c, Uploaded, nil); err != nil {
				return err
			}
			l, _, err := s.forward(c, b, s.hook)
			if err != nil {
				return err
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
			if err := back.Backward(); err != nil {
				return err
			}
			if l = c.Detach(l); total == nil {
				total = l
			} else {
				c.Add_(total, l, 1)
				return c.Err()
			}
			c.Keep(total)
			return c.Err()
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return total, cases, s.hook(sc, Differentiated, nil)
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
	return sc.Err()
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
	err = s.cfg.Machine.Autocast(func() error {
		heads = s.Net.Forward(sc, b.Image)
		if hook != nil {
			if err := hook(sc, Predicted, nil); err != nil {
				return err
			}
		}
		l = s.Loss.Forward(sc, heads, b.Targets)
		return sc.Err()
	})
	return l, heads, err
}

// finite is an error where loss or gradient is NaN or infinite. With a gradient scaler
// overflowing gradients are in order; it skips their step.
func (s *Session) finite(sc *torch.Scope, l, norm *torch.Tensor, cases []string) (Outcome, error) {
	out := Outcome{Norm: math.NaN()}
	var err error
	if out.Loss, err = l.Item(); err != nil {
		return out, errors.Join(sc.Err(), err)
	}
	if s.Scaler == nil {
		if out.Norm, err = norm.Item(); err != nil {
			return out, errors.Join(sc.Err(), err)
		}
	}
	return out, s.check(out, cases)
}

func (s *Session) check(o Outcome, cases []string) error {
	switch {
	case !isFinite(o.Loss):
		return &NotFiniteError{"loss", o.Loss, cases, s.SGD.LR()}
	case s.Scaler == nil && !isFinite(o.Norm):
		return &NotFiniteError{"gradient norm", o.Norm, cases, s.SGD.LR()}
	}
	return nil
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
