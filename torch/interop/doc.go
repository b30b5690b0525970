// Package interop exchanges tensors with gotorch (github.com/wangkuiyi/gotorch), an independent Go binding of libtorch, and
// is the only package that imports it. Both bindings then work on one libtorch in one process: code written for
// gotorch can hand its tensors to lntorch and take results back, and lntorch's operators are checked against
// gotorch's (`make test-gotorch`). It is for code and tests of that kind; no part of lntorch's program uses it.
//
// It is built with the tag gotorch; `make gotorch` compiles the C++ that gotorch needs.
//
// What crosses is shared, not copied: libtorch counts the references, and each side gives back its own. Two rules
// come with gotorch:
//
//   - It frees tensors by finalizer, and does not keep operands alive while its own functions compute. Whoever calls
//     them calls runtime.KeepAlive on the operands afterwards.
//   - Importing it sets libtorch's threads to half of the cores, unless OMP_NUM_THREADS or MKL_NUM_THREADS is set, and locks
//     the main goroutine to its OS thread.
package interop
