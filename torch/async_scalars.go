package torch

import (
	"errors"
	"slices"
)

// AsyncScalars copies scalars from a device to the host without waiting for work queued after them:
// Put queues the copy, and Take, called when more work is queued, waits only for that copy. It is
// not safe for concurrent use.
type AsyncScalars struct {
	device Device
	scope  *Scope
	free   []*scalarSet
	queued []*scalarSet // oldest first
}

// scalarSet is a set of scalars being copied.
type scalarSet struct {
	host *Tensor // float32, pinned unless the device is the CPU
	done *Event  // nil on the CPU
}

// NewAsyncScalars returns AsyncScalars for scalars on d. Close frees it.
func NewAsyncScalars(d Device) (*AsyncScalars, error) {
	scope, err := NewScope()
	if err != nil {
		return nil, err
	}
	return &AsyncScalars{device: d, scope: scope}, nil
}

// Put queues the copy of scalars, the same number in each call; they may be freed afterwards. A tensor of
// several entries stands for as many scalars.
func (a *AsyncScalars) Put(scalars ...*Tensor) error {
	size := int64(0)
	for _, x := range scalars {
		size += x.Numel()
	}
	n, err := a.room(size)
	if err != nil {
		return err
	}
	err = NoGrad(func() error {
		return With(func(s *Scope) error {
			var flat []*Tensor
			for _, x := range scalars {
				flat = append(flat, s.Reshape(s.To(s.Detach(x), Float32, a.device), -1))
			}
			s.Copy_(n.host, s.Cat(0, flat...), true)
			return s.Err()
		})
	})
	if err == nil && n.done != nil {
		err = n.done.Record()
	}
	if err != nil {
		a.free = append(a.free, n)
		return err
	}
	a.queued = append(a.queued, n)
	return nil
}

func (a *AsyncScalars) room(size int64) (*scalarSet, error) {
	if k := len(a.free) - 1; k >= 0 {
		n := a.free[k]
		a.free = a.free[:k]
		return n, nil
	}
	n := &scalarSet{}
	if a.device.Type == DeviceCPU {
		n.host = a.scope.Empty([]int64{size}, Float32, CPU)
	} else {
		n.host = a.scope.EmptyPinned([]int64{size}, Float32)
	}
	if err := a.scope.Err(); err != nil {
		return nil, err
	}
	var err error
	if a.device.Type != DeviceCPU {
		n.done, err = a.device.NewEvent()
	}
	return n, err
}

// Queued is the number of sets put and not yet taken.
func (a *AsyncScalars) Queued() int { return len(a.queued) }

// Take waits for the oldest set and returns it.
func (a *AsyncScalars) Take() ([]float64, error) {
	if len(a.queued) == 0 {
		return nil, errors.New("torch: AsyncScalars.Take: the queue is empty")
	}
	n := a.queued[0]
	a.queued = slices.Delete(a.queued, 0, 1)
	a.free = append(a.free, n)
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

// Close frees a; queued scalars are lost.
func (a *AsyncScalars) Close() {
	for _, n := range slices.Concat(a.free, a.queued) {
		if n.done != nil {
			_ = n.done.Synchronize() // the copy writes to host
			n.done.Free()
		}
	}
	a.free, a.queued = nil, nil
	a.scope.Close()
}
