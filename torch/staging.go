package torch

import (
	"fmt"
	"sync"
	"unsafe"
)

// Staging lends main memory that Go code fills and Upload copies to a device: pinned for CUDA, so
// that a copy needs no second one and nobody waits for it, and plain for the CPU. It is safe for
// concurrent use.
type Staging struct {
	device Device

	mu    sync.Mutex
	scope *Scope
	lent  map[unsafe.Pointer]*Tensor // one axis each, by its first element
}

// NewStaging returns memory for copies to d. Close frees what it lends.
func NewStaging(d Device) (*Staging, error) {
	scope, err := NewScope()
	if err != nil {
		return nil, err
	}
	return &Staging{device: d, scope: scope, lent: map[unsafe.Pointer]*Tensor{}}, nil
}

// Float32s lends n numbers, with any values, until Close.
func (g *Staging) Float32s(n int) ([]float32, error) { return lend[float32](g, n) }

// Int16s lends n numbers, with any values, until Close.
func (g *Staging) Int16s(n int) ([]int16, error) { return lend[int16](g, n) }

// Uint8s lends n numbers, with any values, until Close.
func (g *Staging) Uint8s(n int) ([]uint8, error) { return lend[uint8](g, n) }

func lend[T Element](g *Staging, n int) ([]T, error) {
	if n < 1 {
		return nil, fmt.Errorf("torch: staging: %d numbers, expected at least one", n)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.scope.Err(); err != nil {
		return nil, err
	}
	size := []int64{int64(n)}
	var t *Tensor
	if g.device.Type == DeviceCPU {
		t = g.scope.Empty(size, DTypeOf[T](), CPU)
	} else {
		t = g.scope.EmptyPinned(size, DTypeOf[T]())
	}
	if err := g.scope.Err(); err != nil {
		return nil, err
	}
	b, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	first := unsafe.Pointer(unsafe.SliceData(b))
	g.lent[first] = t
	return unsafe.Slice((*T)(first), n), nil
}

// holding returns what g has lent that begins with data; nil if nothing does.
func holding[T Element](g *Staging, data []T) *Tensor {
	if g == nil || len(data) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lent[unsafe.Pointer(unsafe.SliceData(data))]
}

// Close frees the memory that g has lent. Nothing may use it any more; copies under way may.
func (g *Staging) Close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scope.Close()
	clear(g.lent)
}

// Upload returns a tensor on d with a copy of data. On CUDA the copy is queued on the calling
// thread's current stream: memory that from has lent must keep its values until the stream has
// passed; other data are copied to pinned memory first, which libtorch keeps until then. from may be
// nil.
func Upload[T Element](s *Scope, d Device, from *Staging, data []T, shape ...int64) *Tensor {
	host := holding(from, data)
	switch {
	case host != nil:
		host = s.Reshape(s.Narrow(host, 0, 0, int64(len(data))), shape...)
		if d.Type == DeviceCPU {
			return s.Clone(host)
		}
	case d.Type == DeviceCPU:
		return FromSlice(s, data, shape...)
	default:
		host = s.EmptyPinned(shape, DTypeOf[T]())
		if s.Err() != nil {
			return nil
		}
		if err := CopyIn(host, data); err != nil {
			s.Fail(err)
			return nil
		}
	}
	return s.ToAsync(host, DTypeOf[T](), d)
}
