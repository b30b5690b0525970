// Package interop exchanges tensors with gotorch (github.com/wangkuiyi/gotorch), an independent Go binding of libtorch, and
// is the only package that imports it. Both bindings then work on one libtorch in one process: code written for
// gotorch can hand its tensors to lntorch and take results back, and lntorch's operators are checked against
// gotorch's (`make test-gotorch`).
//
// It is built with the tag gotorch; `make gotorch` compiles the C++ that gotorch needs.
package interop
