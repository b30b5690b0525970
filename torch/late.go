package torch

import (
	"errors"
	"slices"
)

// Late brings numbers from a device to the program without waiting for the work that is queued behind them: Put queues
// their copy, and Take, called when more work is queued, waits for that copy alone. It belongs to one goroutine.
type Late struct {
	device Device
	scope  *Scope
	free   []*late
	queued []*late // oldest first
}

// late is a set of numbers on its way.
type late struct {
	host *Tensor // float32, pinned unless the device is the CPU
	done *Event  // nil on the CPU
}

// NewLate makes a Late for numbers on d. Close frees it.
func NewLate(d Device) (*Late, error) {
	scope, err := NewScope()
	if err != nil {
		return nil, err
	}
	return &Late{device: d, scope: scope}, nil
}

// Put queues the copy of scalars, the same number of them each time; they may be freed afterwards.
func (l *Late) Put(scalars ...*Tensor) error {
	n, err := l.room(int64(len(scalars)))
	if err != nil {
		return err
	}
	err = NoGrad(func() error {
		return With(func(s *Scope) error {
			var flat []*Tensor
			for _, x := range scalars {
				flat = append(flat, s.Reshape(s.To(s.Detach(x), Float32, l.device), 1))
			}
			s.Copy_(n.host, s.Cat(0, flat...), true)
			return s.Err()
		})
	})
	if err == nil && n.done != nil {
		err = n.done.Record()
	}
	if err != nil {
		l.free = append(l.free, n)
		return err
	}
	l.queued = append(l.queued, n)
	return nil
}

func (l *Late) room(size int64) (*late, error) {
	if k := len(l.free) - 1; k >= 0 {
		n := l.free[k]
		l.free = l.free[:k]
		return n, nil
	}
	n := &late{}
	if l.device.Type == DeviceCPU {
		n.host = l.scope.Empty([]int64{size}, Float32, CPU)
	} else {
		n.host = l.scope.EmptyPinned([]int64{size}, Float32)
	}
	if err := l.scope.Err(); err != nil {
		return nil, err
	}
	var err error
	if l.device.Type != DeviceCPU {
		n.done, err = l.device.NewEvent()
	}
	return n, err
}

// Queued is the number of sets that were put and not taken.
func (l *Late) Queued() int { return len(l.queued) }

// Take gives the oldest set, and waits for it.
func (l *Late) Take() ([]float64, error) {
	if len(l.queued) == 0 {
		return nil, errors.New("torch: late: nothing was put")
	}
	n := l.queued[0]
	l.queued = slices.Delete(l.queued, 0, 1)
	l.free = append(l.free, n)
	if n.done != nil {
		if err := n.done.Synchronize(); err != nil {
			return nil, err
		}
	}
	narrow, err := Slice[float32](n.host)
	values := make([]float64, len(narrow))
	for i, v := range narrow {
		values[i] = float64(v)
	}
	return values, err
}

// Close frees what l holds; numbers on their way are lost.
func (l *Late) Close() {
	for _, n := range slices.Concat(l.free, l.queued) {
		if n.done != nil {
			_ = n.done.Synchronize() // the copy writes to host
			n.done.Free()
		}
	}
	l.free, l.queued = nil, nil
	l.scope.Close()
}
