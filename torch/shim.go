// Package torch is a small, explicit binding of libtorch: tensors, autograd and the operators that
// lntorch's networks, losses and optimizers use. It is not a general binding: it has only the
// operators that a network or a method needs. Operators are named and behave as in PyTorch.
//
// The package does not link libtorch. It opens liblntorch.so (built by `make shim` from torch/csrc)
// at run time and calls libtorch through it, so a program that imports torch also runs, without
// tensors, if libtorch is missing.
//
// Lifetimes are explicit: a tensor belongs to a Scope and is freed with it.
//
//	err := torch.With(func(s *torch.Scope) error {
//		x := torch.FromSlice(s, []float32{1, 2, 3}, 3)
//		sum, err := s.Sum(s.Mul(x, x)).Item()
//		fmt.Println(sum) // 14
//		return err
//	})
package torch

//go:generate go run ../internal/shimgen

/*
#cgo CFLAGS: -O2
#cgo linux LDFLAGS: -ldl
#include <stdlib.h>
#include "shim_gen.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"unsafe"

	"github.com/lntorch/lntorch/internal/sharedlib"
)

// libraryName is the file that `make shim` builds.
const libraryName = "liblntorch.so"

var library struct {
	once sync.Once
	path string
	err  error
}

// Load opens the shim, and libtorch with it, once per process; later calls return the same result.
// With calls it. Search order: the file named by LNTORCH_LIB; the program's directory; build/lib in
// the program's directory, the working directory and its parents. The error lists each path with
// what was found there, and the command that builds the shim.
func Load() error {
	library.once.Do(func() {
		var tried []string
		for _, path := range candidates() {
			if _, err := os.Stat(path); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					err = errors.New("no such file")
				}
				tried = append(tried, fmt.Sprintf("%s: %v", path, err))
				continue
			}
			if err := open(path); err != nil {
				tried = append(tried, fmt.Sprintf("%s: %v", path, err))
				continue
			}
			library.path = path
			return
		}
		library.err = fmt.Errorf("torch: no usable %s; tried:\n  %s\nbuild it with `make shim` "+
			"(it fetches libtorch), or set LNTORCH_LIB to its path",
			libraryName, strings.Join(tried, "\n  "))
	})
	return library.err
}

// LibraryPath is the path of the shim opened by Load; empty before.
func LibraryPath() string { return library.path }

func candidates() []string {
	if p := os.Getenv("LNTORCH_LIB"); p != "" {
		return []string{p}
	}
	return sharedlib.Candidates(libraryName)
}

func open(path string) error {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	buf := make([]byte, 4096)
	C.shim_open(cpath, (*C.char)(unsafe.Pointer(&buf[0])), C.int64_t(len(buf)))
	if n := strings.IndexByte(string(buf), 0); n > 0 {
		return errors.New(string(buf[:n]))
	}
	return message(C.lnt_init())
}

// message turns a returned C message into an error and frees it.
func message(c *C.char) error {
	if c == nil {
		return nil
	}
	text := C.GoString(c)
	C.lnt_free_string(c)
	return errors.New(text)
}

// text converts and frees a C string allocated by the shim.
func text(c *C.char) string {
	s := C.GoString(c)
	C.lnt_free_string(c)
	return s
}

// Version is libtorch's version, such as "2.4.1".
func Version() (string, error) {
	if err := Load(); err != nil {
		return "", err
	}
	var out *C.char
	if err := message(C.lnt_version(&out)); err != nil {
		return "", err
	}
	return text(out), nil
}

// CPUCapability is the instruction set used by libtorch's own kernels: "AVX512", "AVX2" or
// "DEFAULT".
func CPUCapability() (string, error) {
	if err := Load(); err != nil {
		return "", err
	}
	var out *C.char
	if err := message(C.lnt_cpu_capability(&out)); err != nil {
		return "", err
	}
	return text(out), nil
}

// Live returns the number of open tensor handles. Tests compare it before and after.
func Live() int64 {
	if library.path == "" {
		return 0
	}
	return int64(C.lnt_live())
}
