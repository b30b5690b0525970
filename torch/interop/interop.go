//go:build gotorch

package interop

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	gotorch "github.com/wangkuiyi/gotorch"

	"github.com/lntorch/lntorch/torch"
)

// FromGotorch returns t as a tensor owned by s, of any shape: elements, gradient and graph are
// shared, nothing is copied. It outlives t, which gotorch's finalizer may free at any time after
// its last use. It fails for a nil or undefined tensor (gotorch's gradient of a tensor without
// one), a dtype that lntorch lacks (complex, quantized), more than 16 axes, and a second libtorch
// in the process. Like operator errors, these are recorded in s.
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
		return nil, fmt.Errorf("interop: tensor from gotorch: %w", s.Err())
	}
	return ours, nil
}

// ToGotorch returns t as a gotorch tensor, shared as in FromGotorch, which outlives t's scope.
// gotorch frees it by finalizer: callers of gotorch's functions must keep it alive
// (runtime.KeepAlive) until they return. It fails for a freed or nil tensor, and if the process has
// a second libtorch.
func ToGotorch(t *torch.Tensor) (gotorch.Tensor, error) {
	if err := check(); err != nil {
		return gotorch.Tensor{}, err
	}
	h, err := t.Handle()
	if err != nil {
		return gotorch.Tensor{}, fmt.Errorf("interop: tensor to gotorch: %w", err)
	}
	p := new(unsafe.Pointer)
	*p = h
	gotorch.SetTensorFinalizer(p)
	return gotorch.Tensor{T: p}, nil
}

// check verifies, once, that both bindings use the same libtorch, because tensors cannot be shared
// between two copies. gotorch's is linked to the program and ours is open after Load, so the result
// does not change.
var check = sync.OnceValue(func() error {
	if err := torch.Load(); err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("interop: check that both bindings use one libtorch: %w", err)
	}
	if libs := mapped(string(maps), "libtorch_cpu.so"); len(libs) != 1 {
		return fmt.Errorf("interop: the process has %d libtorches (%s), expected one: build shim "+
			"and gotorch with the same TORCH or LIBTORCH",
			len(libs), strings.Join(libs, ", "))
	}
	return nil
})

// mapped lists the files in maps, the text of /proc/self/maps, whose name has the given prefix.
func mapped(maps, name string) []string {
	var files []string
	for line := range strings.Lines(maps) {
		i := strings.IndexByte(line, '/')
		if i < 0 {
			continue
		}
		path := strings.TrimSpace(line[i:])
		if strings.HasPrefix(path[strings.LastIndexByte(path, '/')+1:], name) &&
			!slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	return files
}
