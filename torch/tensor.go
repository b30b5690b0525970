package torch

// #include "shim_gen.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// DType is an element type; values are c10::ScalarType's.
type DType int

// Element types used by lntorch.
const (
	Uint8    DType = 0
	Int8     DType = 1
	Int16    DType = 2
	Int32    DType = 3
	Int64    DType = 4
	Float16  DType = 5
	Float32  DType = 6
	Float64  DType = 7
	Bool     DType = 11
	BFloat16 DType = 15
)

var dtypeNames = map[DType]string{Uint8: "uint8", Int8: "int8", Int16: "int16", Int32: "int32",
	Int64:   "int64",
	Float16: "float16", Float32: "float32", Float64: "float64", Bool: "bool", BFloat16: "bfloat16"}

// String is PyTorch's name of d, such as "float32".
func (d DType) String() string {
	if n, ok := dtypeNames[d]; ok {
		return n
	}
	return fmt.Sprintf("dtype(%d)", int(d))
}

// Size is the number of bytes of one element; 0 for an unknown type.
func (d DType) Size() int64 {
	switch d {
	case Uint8, Int8, Bool:
		return 1
	case Int16, Float16, BFloat16:
		return 2
	case Int32, Float32:
		return 4
	case Int64, Float64:
		return 8
	}
	return 0
}

// Tensor is a handle to a libtorch tensor, owned by a Scope. Once the scope is closed the handle is
// empty and every operator returns an error for it.
type Tensor struct {
	c     unsafe.Pointer
	scope *Scope
	slot  int
}

// info is the shim's description of a tensor, read in one call.
type info struct {
	dtype      DType
	device     Device
	grad       bool
	contiguous bool
	numel      int64
	itemsize   int64
	shape      []int64
	strides    []int64
}

const maxDims = 16

func (t *Tensor) info() (info, bool) {
	if t == nil || t.c == nil {
		return info{}, false
	}
	var raw [8 + 2*maxDims]int64
	if msg := C.lnt_info(t.c, (*C.int64_t)(unsafe.Pointer(&raw[0]))); msg != nil {
		C.lnt_free_string(msg)
		return info{}, false
	}
	n := raw[0]
	return info{DType(raw[1]), Device{DeviceType(raw[2]), int(raw[3])}, raw[4] != 0, raw[5] != 0,
			raw[6], raw[7],
			append(make([]int64, 0, n), raw[8:8+n]...), append(make([]int64, 0, n), raw[24:24+n]...)},
		true
}

// Shape is the size of each axis; nil for an empty handle.
func (t *Tensor) Shape() []int64 {
	i, _ := t.info()
	return i.shape
}

// Strides are in elements.
func (t *Tensor) Strides() []int64 {
	i, _ := t.info()
	return i.strides
}

// Dim is the number of axes.
func (t *Tensor) Dim() int { return len(t.Shape()) }

// Numel is the number of elements.
func (t *Tensor) Numel() int64 {
	i, _ := t.info()
	return i.numel
}

// DType is the element type.
func (t *Tensor) DType() DType {
	i, _ := t.info()
	return i.dtype
}

// Device is the device of the elements.
func (t *Tensor) Device() Device {
	i, _ := t.info()
	return i.device
}

// RequiresGrad reports whether t requires grad.
func (t *Tensor) RequiresGrad() bool {
	i, _ := t.info()
	return i.grad
}

// IsContiguous reports whether the elements are in row-major order without gaps.
func (t *Tensor) IsContiguous() bool {
	i, _ := t.info()
	return i.contiguous
}

// SharesStorage reports whether t and u are views of one storage.
func (t *Tensor) SharesStorage(u *Tensor) bool {
	if t == nil || u == nil || t.c == nil || u.c == nil {
		return false
	}
	var out C.int64_t
	if msg := C.lnt_same_storage(t.c, u.c, &out); msg != nil {
		C.lnt_free_string(msg)
		return false
	}
	return out != 0
}

// MoveTo makes dst the owner of t.
func (t *Tensor) MoveTo(dst *Scope) *Tensor {
	if t == nil || t.c == nil || t.scope == dst {
		return t
	}
	t.scope.disown(t)
	t.scope, t.slot = dst, len(dst.owned)
	dst.owned = append(dst.owned, t)
	return t
}

// Free frees t before its scope closes.
func (t *Tensor) Free() {
	if t == nil || t.c == nil {
		return
	}
	t.scope.disown(t)
	h := t.c
	t.c = nil
	C.lnt_free(&h, 1)
}

// Retain returns another handle to the same tensor, owned by s.
func (s *Scope) Retain(t *Tensor) *Tensor {
	if !s.ready("retain", t) {
		return nil
	}
	var out unsafe.Pointer
	return s.result("retain", C.lnt_retain(t.c, &out), &out, t)
}

// String formats t as libtorch does, with its elements.
func (t *Tensor) String() string {
	if t == nil || t.c == nil {
		return "torch.Tensor(freed)"
	}
	var out *C.char
	if err := message(C.lnt_to_string(t.c, &out)); err != nil {
		return err.Error()
	}
	return text(out)
}

// Element lists the Go types of tensor elements.
type Element interface {
	uint8 | int8 | int16 | int32 | int64 | float32 | float64 | bool
}

// DTypeOf is the element type that holds a T.
func DTypeOf[T Element]() DType {
	var v T
	switch any(v).(type) {
	case uint8:
		return Uint8
	case int8:
		return Int8
	case int16:
		return Int16
	case int32:
		return Int32
	case int64:
		return Int64
	case float32:
		return Float32
	case float64:
		return Float64
	default:
		return Bool
	}
}

// FromSlice returns a CPU tensor of the given shape with a copy of data.
func FromSlice[T Element](s *Scope, data []T, shape ...int64) *Tensor {
	t := s.Empty(shape, DTypeOf[T](), CPU)
	if t == nil {
		return nil
	}
	if err := CopyIn(t, data); err != nil {
		s.Fail(err)
		return nil
	}
	return t
}

// CopyIn overwrites t with data (row-major), which must have t's dtype and number of elements. t
// may be on any device.
func CopyIn[T Element](t *Tensor, data []T) error {
	i, ok := t.info()
	if !ok {
		return errNil
	}
	if i.dtype != DTypeOf[T]() || i.numel != int64(len(data)) {
		return fmt.Errorf("torch: copy %d %s into tensor %v of %s", len(data), DTypeOf[T](),
			i.shape, i.dtype)
	}
	if len(data) == 0 {
		return nil
	}
	return message(C.lnt_copy_in(t.c, unsafe.Pointer(&data[0]), C.int64_t(i.numel*i.itemsize)))
}

// Slice returns a copy of t's elements, row-major; the dtype must be T's.
func Slice[T Element](t *Tensor) ([]T, error) {
	i, ok := t.info()
	if !ok {
		return nil, errNil
	}
	out := make([]T, i.numel)
	return out, CopyOut(t, out)
}

// CopyOut copies the elements of t, row-major, to dst, which must have t's dtype and number of
// elements.
func CopyOut[T Element](t *Tensor, dst []T) error {
	i, ok := t.info()
	if !ok {
		return errNil
	}
	if i.dtype != DTypeOf[T]() || i.numel != int64(len(dst)) {
		return fmt.Errorf("torch: copy tensor %v of %s into %d %s", i.shape, i.dtype, len(dst),
			DTypeOf[T]())
	}
	if len(dst) == 0 {
		return nil
	}
	return message(C.lnt_copy_out(t.c, unsafe.Pointer(&dst[0]), C.int64_t(i.numel*i.itemsize)))
}

// Bytes is the memory of a contiguous CPU tensor, valid while t is alive, so that files can be read
// and written without a copy.
func (t *Tensor) Bytes() ([]byte, error) {
	i, ok := t.info()
	if !ok {
		return nil, errNil
	}
	var p unsafe.Pointer
	if msg := C.lnt_data_ptr(t.c, &p); msg != nil {
		return nil, newError("data_ptr", msg, t)
	}
	return unsafe.Slice((*byte)(p), i.numel*i.itemsize), nil
}

// CopyBytesOut copies t, on any device, row-major, to dst, which must have exactly its size in
// bytes.
func (t *Tensor) CopyBytesOut(dst []byte) error {
	if t == nil || t.c == nil {
		return errNil
	}
	if len(dst) == 0 {
		return nil
	}
	return message(C.lnt_copy_out(t.c, unsafe.Pointer(&dst[0]), C.int64_t(len(dst))))
}

// CopyBytesIn overwrites t, on any device, with src (row-major), which must have exactly its size
// in bytes.
func (t *Tensor) CopyBytesIn(src []byte) error {
	if t == nil || t.c == nil {
		return errNil
	}
	if len(src) == 0 {
		return nil
	}
	return message(C.lnt_copy_in(t.c, unsafe.Pointer(&src[0]), C.int64_t(len(src))))
}

// Item is the value of a one-element tensor. On an accelerator it synchronises.
func (t *Tensor) Item() (float64, error) {
	if t == nil || t.c == nil {
		return 0, errNil
	}
	var out C.double
	if msg := C.lnt_item(t.c, &out); msg != nil {
		return 0, newError("item", msg, t)
	}
	return float64(out), nil
}

// Equal reports whether a and b have the same shape and elements (NaN is not equal to NaN).
func Equal(a, b *Tensor) (bool, error) {
	if a == nil || b == nil || a.c == nil || b.c == nil {
		return false, errNil
	}
	var out C.int64_t
	if msg := C.lnt_equal(a.c, b.c, &out); msg != nil {
		return false, newError("equal", msg, a, b)
	}
	return out != 0, nil
}
