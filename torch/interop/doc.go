// Package interop exchanges tensors with gotorch (github.com/wangkuiyi/gotorch), an independent Go
// binding of libtorch. It is the only package that imports gotorch. Both bindings use one libtorch
// in one process: code written for gotorch can pass tensors to lntorch and back, and lntorch's
// operators are checked against gotorch's (`make test-gotorch`). The lntorch program does not use
// it.
//
// It needs the build tag gotorch; `make gotorch` compiles gotorch's C++ library.
//
// Tensors are shared, not copied: libtorch counts references, and each side releases its own.
// gotorch imposes two rules:
//
//   - It frees tensors by finalizer, and does not keep operands alive during its own functions. Callers
//     must call runtime.KeepAlive on the operands afterwards.
//   - Importing it sets libtorch's threads to half of the cores, unless OMP_NUM_THREADS or
//     MKL_NUM_THREADS is set, and locks the main goroutine to its OS thread.
package interop
