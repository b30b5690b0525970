package torch

// #include "shim_gen.h"
import "C"

import (
	"errors"
	"runtime"
)

// libtorch keeps gradient mode, autocast and the OpenMP thread count per OS thread, while a
// goroutine may move between threads at any call. Every guard therefore takes a function, locks the
// goroutine to its thread while it runs, and restores the previous state, even if the function
// panics.

// NoGrad runs f without recording operations for autograd.
func NoGrad(f func() error) error { return gradMode(false, f) }

// EnableGrad runs f with recording on, for example inside NoGrad.
func EnableGrad(f func() error) error { return gradMode(true, f) }

func gradMode(on bool, f func() error) error {
	if err := Load(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := C.lnt_grad_mode(flag(on))
	defer C.lnt_grad_mode(was)
	return f()
}

// Autocast runs f with automatic mixed precision to dtype (Float16 or BFloat16) on a device type.
// The cache of cast weights is cleared when the outermost Autocast ends.
func Autocast(device DeviceType, dtype DType, f func() error) (err error) {
	if err := Load(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var enabled, oldType, cache, depth C.int64_t
	if err := message(C.lnt_autocast_get(C.int64_t(device), &enabled, &oldType,
		&cache)); err != nil {
		return err
	}
	if err := message(C.lnt_autocast_nest(1, &depth)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err,
			message(C.lnt_autocast_set(C.int64_t(device), enabled, oldType, cache)),
			message(C.lnt_autocast_nest(-1, &depth)))
	}()
	if err := message(C.lnt_autocast_set(C.int64_t(device), 1, C.int64_t(dtype), 1)); err != nil {
		return err
	}
	return f()
}

// InAutocast reports whether the calling thread is inside Autocast for a device type.
func InAutocast(device DeviceType) bool {
	var enabled, dtype, cache C.int64_t
	return Load() == nil && message(C.lnt_autocast_get(C.int64_t(device), &enabled, &dtype,
		&cache)) == nil && enabled != 0
}

// OnThread runs f locked to one OS thread, from which libtorch's operators use n threads (n <= 0:
// unchanged). Training and inference loops run entirely inside it, because OpenMP keeps one thread
// pool per calling thread.
func OnThread(n int, f func() error) error {
	if err := Load(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n > 0 {
		was := C.lnt_get_threads()
		if err := message(C.lnt_set_threads(C.int64_t(n))); err != nil {
			return err
		}
		defer func() {
			if msg := C.lnt_set_threads(was); msg != nil {
				C.lnt_free_string(msg)
			}
		}()
	}
	return f()
}

// Threads is the number of threads libtorch's operators use when called from this goroutine's
// current OS thread.
func Threads() int {
	if Load() != nil {
		return 0
	}
	return int(C.lnt_get_threads())
}

// ParallelThreads runs an empty parallel loop of n parts through at::parallel_for, compiled into
// the shim, and returns the number of OS threads used: below 2 on a machine with several cores, the
// shim's own kernels run serially.
func ParallelThreads(n int) (int, error) {
	if err := Load(); err != nil {
		return 0, err
	}
	var out C.int64_t
	err := message(C.lnt_parallel_probe(C.int64_t(n), &out))
	return int(out), err
}

// Deterministic makes libtorch use deterministic algorithms; it has no effect on the CPU.
func Deterministic(on bool) error {
	if err := Load(); err != nil {
		return err
	}
	return message(C.lnt_set_deterministic(flag(on)))
}

// BenchmarkCuDNN makes cuDNN time its algorithms for each new shape and use the fastest
// (torch.backends.cudnn.benchmark).
func BenchmarkCuDNN(on bool) error {
	if err := Load(); err != nil {
		return err
	}
	return message(C.lnt_set_cudnn_benchmark(flag(on)))
}
