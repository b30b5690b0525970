package train

import (
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// late holds what iterations on a GPU still owe: an iteration is queued without waiting for the one before it, whose loss is
// read when it is there. Whether an update may happen is the GPU's own decision; what is not finite is reported when it is
// read, an iteration later.
type late struct {
	numbers *torch.Late
	keys    [][]string // cases of the iterations that numbers holds, oldest first
}

func newLate(d torch.Device) (*late, error) {
	numbers, err := torch.NewLate(d)
	return &late{numbers: numbers}, err
}

// lateLosses: methods that choose entries look at gradients, and so wait for them, themselves; the reference waits always.
func (t *trainer) lateLosses() bool {
	_, chooses := t.cfg.Method.(finetune.Updater)
	return t.cfg.Device.Type != torch.DeviceCPU && !t.cfg.Reference && !chooses
}

// stepLate ends an iteration: the update, which the device leaves out where loss or gradients are not finite, and the copy
// of the loss.
func (t *trainer) stepLate(s *torch.Scope, loss, norm *torch.Tensor, b *loader.Batch) error {
	if t.scaler != nil {
		t.scaler.StepUnless(s, func(skip *torch.Tensor) { t.sgd.StepUnless(s, skip) })
		t.scaler.Update(s)
	} else {
		t.sgd.StepUnless(s, optim.NotFinite(s, loss, norm))
	}
	if s.Err() != nil {
		return s.Err()
	}
	if err := t.late.numbers.Put(loss, norm); err != nil {
		return err
	}
	t.late.keys = append(t.late.keys, b.Keys)
	return nil
}

// settle reads the losses that the device owes, but for the last few.
func (t *trainer) settle(left int) error {
	for t.late != nil && t.late.numbers.Queued() > left {
		values, err := t.late.numbers.Take()
		if err != nil {
			return err
		}
		keys := t.late.keys[0]
		t.late.keys = t.late.keys[1:]
		if t.scaler != nil {
			values = values[:1] // overflowing gradients are in order
		}
		for i, what := range []string{"loss", "gradient norm"}[:len(values)] {
			if !isFinite(values[i]) {
				return t.notFinite(what, values[i], keys)
			}
		}
		t.losses = append(t.losses, values[0])
	}
	return nil
}
