//go:build gotorch

package interop

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	gotorch "github.com/wangkuiyi/gotorch"

	"github.com/lntorch/lntorch/torch"
)

// FromGotorch makes a tensor of s that is t: elements, gradient and graph are shared, nothing is copied. It outlives t,
// which gotorch's finalizer may free at any time after its last use.
func FromGotorch(s *torch.Scope, t gotorch.Tensor) (*torch.Tensor, error) {
	if t.T == nil || *t.T == nil {
		return nil, errors.New("interop: gotorch's tensor is nil")
	}
	if err := check(); err != nil {
		return nil, err
	}
	ours := s.FromHandle(*t.T)
	// Reading the handle does not keep t: without this its finalizer could run during the call.
	runtime.KeepAlive(t.T)
	if ours == nil {
		return nil, s.Err()
	}
	return ours, nil
}

// ToGotorch makes a gotorch tensor that is t, shared as in FromGotorch. gotorch frees it by finalizer: whoever passes it
// to gotorch's functions must keep it alive (runtime.KeepAlive) until they return.
func ToGotorch(t *torch.Tensor) (gotorch.Tensor, error) {
	if err := check(); err != nil {
		return gotorch.Tensor{}, err
	}
	h, err := t.Handle()
	if err != nil {
		return gotorch.Tensor{}, fmt.Errorf("interop: %w", err)
	}
	p := new(unsafe.Pointer)
	*p = h
	gotorch.SetTensorFinalizer(p)
	return gotorch.Tensor{T: p}, nil
}

// check makes sure that both bindings came to the same libtorch: a tensor of one copy means nothing to another.
func check() error {
	if err := torch.Load(); err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil // no way to tell
	}
	libs := map[string]bool{}
	for _, line := range strings.Split(string(maps), "\n") {
		if i := strings.IndexByte(line, '/'); i >= 0 && strings.HasSuffix(line, "/libtorch_cpu.so") {
			libs[line[i:]] = true
		}
	}
	if len(libs) > 1 {
		return fmt.Errorf("interop: two libtorches are loaded (%v): build shim and gotorch with the same TORCH or LIBTORCH", libs)
	}
	return nil
}
