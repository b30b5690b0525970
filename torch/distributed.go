package torch

// #include <stdlib.h>
// #include "shim_gen.h"
import "C"

import (
	"errors"
	"net"
	"syscall"
	"time"
	"unsafe"
)

// The mechanism of package torch/dist: c10d's store, process group and Reducer as they are. Every
// method that waits for other ranks says so.

var errClosed = errors.New("torch: the process group is closed")

// Store is a client of c10d's TCPStore, and its server in the process that was given a listener.
// Its methods may be called from several goroutines.
type Store struct{ c unsafe.Pointer }

// NewStore connects to a store, waiting at most limit. Keys are under prefix, if it is not empty.
// In the process that serves the store listener listens on port: the store takes a copy of it, so
// that the caller may close it; elsewhere it is nil.
func NewStore(host string, port int, listener *net.TCPListener, prefix string,
	limit time.Duration) (*Store, error) {
	if err := Load(); err != nil {
		return nil, err
	}
	socket := -1
	if listener != nil {
		file, err := listener.File()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		if socket, err = syscall.Dup(int(file.Fd())); err != nil { // the store closes it
			return nil, err
		}
		syscall.CloseOnExec(socket)
	}
	chost, cprefix := C.CString(host), C.CString(prefix)
	defer C.free(unsafe.Pointer(chost))
	defer C.free(unsafe.Pointer(cprefix))
	s := &Store{}
	err := message(C.lnt_store_new(chost, C.int64_t(port), C.int64_t(socket), cprefix,
		milliseconds(limit), &s.c))
	return s, err
}

// Set writes a key.
func (s *Store) Set(key string, value []byte) error {
	ckey, cvalue := C.CString(key), C.CBytes(value)
	defer C.free(unsafe.Pointer(ckey))
	defer C.free(cvalue)
	return message(C.lnt_store_set(s.c, ckey, cvalue, C.int64_t(len(value))))
}

// Get reads a key; it waits at most limit until another rank has written it.
func (s *Store) Get(key string, limit time.Duration) ([]byte, error) {
	ckey := C.CString(key)
	defer C.free(unsafe.Pointer(ckey))
	var out *C.char
	var n C.int64_t
	if err := message(C.lnt_store_get(s.c, ckey, milliseconds(limit), &out, &n)); err != nil {
		return nil, err
	}
	defer C.lnt_free_string(out)
	return C.GoBytes(unsafe.Pointer(out), C.int(n)), nil
}

// Free closes the connection, and the server.
func (s *Store) Free() {
	C.lnt_store_free(s.c)
	s.c = nil
}

// ProcessGroup is a process group of c10d. Collectives are called in the same order on every rank.
type ProcessGroup struct{ c unsafe.Pointer }

// NewGloo connects this rank to all others over Gloo and waits for them, as long as the store's
// limit. device is the names of network interfaces, separated by commas, or an address behind an @.
// A collective that gets nothing from a rank for limit fails.
func NewGloo(s *Store, rank, size int, device string, limit time.Duration) (*ProcessGroup, error) {
	cdevice := C.CString(device)
	defer C.free(unsafe.Pointer(cdevice))
	g := &ProcessGroup{}
	err := message(C.lnt_group_gloo(s.c, C.int64_t(rank), C.int64_t(size), cdevice,
		milliseconds(limit), &g.c))
	return g, err
}

// NewNCCL makes a group of this rank and all others over NCCL, which connects them at the first
// collective: that one waits, in C, until all have come to it or failed. Collectives are queued on
// the device: waiting for their Work makes the current stream wait. It needs the library that `make
// shim CUDA=1` builds. Half a minute after limit c10d's own watchdog ends a collective; of one that
// failed Check knows.
func NewNCCL(s *Store, rank, size int, limit time.Duration) (*ProcessGroup, error) {
	g := &ProcessGroup{}
	err := message(C.lnt_group_nccl(s.c, C.int64_t(rank), C.int64_t(size), milliseconds(limit),
		&g.c))
	return g, err
}

// Abort ends all collectives, those under way and those to come, with the error why. It may be
// called from any goroutine.
func (g *ProcessGroup) Abort(why string) {
	cwhy := C.CString(why)
	defer C.free(unsafe.Pointer(cwhy))
	if msg := C.lnt_group_abort(g.c, cwhy); msg != nil {
		C.lnt_free_string(msg)
	}
}

// Check is an error when collectives were aborted or, over NCCL, have failed: they are over for the
// device then, with any values. Values that were read before Check found nothing are right.
func (g *ProcessGroup) Check() error {
	if g.c == nil {
		return errClosed
	}
	return message(C.lnt_group_check(g.c))
}

// Free closes the connections; over Gloo it waits for collectives under way, even those that were
// aborted.
// Tensors of GatheredFrom must be gone.
func (g *ProcessGroup) Free() {
	C.lnt_group_free(g.c)
	g.c = nil
}

// Clock returns how many collectives were started, and the time from the start of the last one to
// the end of all; 0 while one is under way.
func (g *ProcessGroup) Clock() (started int64, waited time.Duration) {
	var n, ns C.int64_t
	if msg := C.lnt_group_clock(g.c, &n, &ns); msg != nil {
		C.lnt_free_string(msg)
	}
	return int64(n), time.Duration(ns)
}

// ReduceOp says how AllReduce combines the ranks' elements.
type ReduceOp int

// Operations of AllReduce.
const (
	OpSum ReduceOp = iota
	OpMax
)

// Work is a collective under way.
type Work struct{ c unsafe.Pointer }

// AllReduce replaces the contiguous t, of one shape and dtype on every rank, by the combination of
// all ranks'.
func (g *ProcessGroup) AllReduce(t *Tensor, op ReduceOp) (*Work, error) {
	return g.start("all_reduce", t, func(w *unsafe.Pointer) *C.char {
		return C.lnt_all_reduce(g.c, t.c, C.int64_t(op), w)
	})
}

// Broadcast overwrites the contiguous t by root's.
func (g *ProcessGroup) Broadcast(t *Tensor, root int) (*Work, error) {
	return g.start("broadcast", t, func(w *unsafe.Pointer) *C.char {
		return C.lnt_broadcast(g.c, t.c, C.int64_t(root), w)
	})
}

// AllGather writes rank r's t, contiguous, to out[r]; out is (world size, t's shape).
func (g *ProcessGroup) AllGather(t, out *Tensor) (*Work, error) {
	if out == nil || out.c == nil {
		return nil, errNil
	}
	return g.start("all_gather", t, func(w *unsafe.Pointer) *C.char {
		return C.lnt_all_gather(g.c, t.c, out.c, w)
	})
}

func (g *ProcessGroup) start(op string, t *Tensor,
	call func(w *unsafe.Pointer) *C.char) (*Work, error) {
	if g.c == nil {
		return nil, errClosed
	}
	if t == nil || t.c == nil {
		return nil, errNil
	}
	w := &Work{}
	if msg := call(&w.c); msg != nil {
		return nil, newError(op, msg, t)
	}
	return w, nil
}

// Wait waits at most limit for w, and reports whether it is over. The error is the collective's.
func (w *Work) Wait(limit time.Duration) (bool, error) {
	var done C.int64_t
	err := message(C.lnt_work_wait(w.c, milliseconds(limit), &done))
	return done != 0, err
}

// Free frees w, which need not be over.
func (w *Work) Free() {
	if w.c != nil {
		C.lnt_work_free(w.c)
		w.c = nil
	}
}

// GatheredFrom returns gathered, which AllGather made of x, as a function of x: in the backward
// pass every rank's gradient of gathered is summed over the ranks, and x gets its slice. That pass
// waits for the other ranks.
func (s *Scope) GatheredFrom(g *ProcessGroup, x, gathered *Tensor) *Tensor {
	if !s.ready("all_gather", x, gathered) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("all_gather", C.lnt_gathered(g.c, x.c, gathered.c, &out), &out, x)
}

// SummedFrom returns sum, which AllReduce made of x, as a function of x: x gets factor times the
// gradient of sum.
func (s *Scope) SummedFrom(x, sum *Tensor, factor float64) *Tensor {
	if !s.ready("all_reduce", x, sum) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("all_reduce", C.lnt_summed(x.c, sum.c, C.double(factor), &out), &out, x)
}

// Compress is the type as which a Reducer sends gradients.
type Compress int

// Types of a Reducer's messages.
const (
	CompressNone Compress = iota
	CompressFP16
	CompressBF16
)

// ReducerConfig are the settings of NewReducer.
type ReducerConfig struct {
	First, Bucket int64 // bytes of the first bucket to be full, and of the others
	Whole         bool  // in the first iteration one bucket, with every parameter in order
	Views         bool  // gradients are views of the buckets
	Compress      Compress
}

// Reducer averages gradients over the ranks while the backward pass goes on (c10d's Reducer, as
// DistributedDataParallel uses it).
type Reducer struct{ c unsafe.Pointer }

// NewReducer returns a Reducer of the gradients of params: leaves that require grad, the same on
// every rank. Free it before the group.
func NewReducer(g *ProcessGroup, params []*Tensor, c ReducerConfig) (*Reducer, error) {
	if g.c == nil {
		return nil, errClosed
	}
	hs := handles(params)
	r := &Reducer{}
	err := message(C.lnt_reducer_new(g.c, first(hs), C.int64_t(len(hs)), C.int64_t(c.First),
		C.int64_t(c.Bucket), flag(c.Whole), flag(c.Views), C.int64_t(c.Compress), &r.c))
	return r, err
}

// Forward is called before each forward pass. Before the second it makes the buckets anew, in the
// order in which gradients came, and waits for rank 0's order.
func (r *Reducer) Forward() (rebuilt bool, err error) {
	var out C.int64_t
	err = message(C.lnt_reducer_forward(r.c, &out))
	return out != 0, err
}

// Backward is called before a backward pass whose gradients are to be averaged, together with what
// has been accumulated. That pass waits for the other ranks.
func (r *Reducer) Backward() error { return message(C.lnt_reducer_backward(r.c)) }

// Missing lists the parameters that have got no gradient since Backward, by their index.
func (r *Reducer) Missing(params int) ([]int, error) {
	seen := make([]byte, params+1)
	err := message(C.lnt_reducer_seen(r.c, unsafe.Pointer(&seen[0]), C.int64_t(params)))
	if err != nil {
		return nil, err
	}
	var missing []int
	for i, b := range seen[:params] {
		if b == 0 {
			missing = append(missing, i)
		}
	}
	return missing, nil
}

// Buckets are the bytes of each bucket, in the order in which they are reduced.
func (r *Reducer) Buckets() ([]int64, error) {
	sizes := make([]int64, 64)
	for {
		var n C.int64_t
		err := message(C.lnt_reducer_buckets(r.c, ints(sizes), C.int64_t(len(sizes)), &n))
		if err != nil || int(n) <= len(sizes) {
			return sizes[:n], err
		}
		sizes = make([]int64, n)
	}
}

// Free removes the Reducer's hooks from the parameters.
func (r *Reducer) Free() {
	if r.c != nil {
		C.lnt_reducer_free(r.c)
		r.c = nil
	}
}

// milliseconds rounds up: c10d takes 0 for no limit.
func milliseconds(d time.Duration) C.int64_t {
	return C.int64_t((d + time.Millisecond - 1) / time.Millisecond)
}
