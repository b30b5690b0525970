package train

import (
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// late holds what steps on a GPU still owe: a step is queued without waiting for the one before it, whose
// loss is read when it is there. Whether an update may happen is the GPU's own decision; what is not
// finite is reported when it is read, a step later.
type late struct {
	numbers *torch.AsyncScalars
	cases   [][]string // of the steps that numbers holds, oldest first
}

func newLate(d torch.Device) (*late, error) {
	numbers, err := torch.NewAsyncScalars(d)
	if err != nil {
		return nil, err
	}
	return &late{numbers: numbers}, nil
}

// queues: methods that choose entries look at gradients, and so wait for them, themselves; the reference
// waits always.
func (s *Session) queues() bool {
	_, chooses := s.cfg.Method.(finetune.Updater)
	m := &s.cfg.Machine
	return m.Device.Type != torch.DeviceCPU && !m.IsReference() && !chooses && !s.cfg.Wait
}

// queue ends a step: the update, which the device skips where loss or gradients are not finite,
// and the copy of the loss.
func (s *Session) queue(sc *torch.Scope, n int64, l, each, norm *torch.Tensor, cases []string) error {
	if s.Scaler != nil {
		s.Scaler.StepUnless(sc, func(skip *torch.Tensor) { s.SGD.StepUnless(sc, skip) })
		s.Scaler.Update(sc)
	} else {
		s.SGD.StepUnless(sc, optim.NotFinite(sc, l, norm))
	}
	if sc.Err() != nil {
		return sc.Err()
	}
	numbers := []*torch.Tensor{l, norm}
	if each != nil {
		numbers = append(numbers, each)
	}
	if err := s.late.numbers.Put(numbers...); err != nil {
		return err
	}
	s.late.cases = append(s.late.cases, cases)
	return s.compare(n, nil)
}

// Settle waits for the outcomes that the device still owes, but for the last few.
func (s *Session) Settle(left int) ([]Outcome, error) {
	var outcomes []Outcome
	for s.late != nil && s.late.numbers.Queued() > left {
		values, err := s.late.numbers.Take()
		if err != nil {
			return nil, err
		}
		cases := s.late.cases[0]
		s.late.cases = s.late.cases[1:]
		o, err := s.outcome(values, cases)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}
