// Package array holds what the array formats share: numpy's type names, checked sizes, gathering of
// strided elements, and conversion of little- or big-endian bytes to Go numbers. It reads and
// writes no files.
package array

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// MaxDims is the largest number of axes accepted; torch and numpy 2 allow 64.
const MaxDims = 64

// DType is a numpy type: byte order, kind and bytes per element, as in "<f4".
// Kind is one of b (bool), i, u, f, c (complex), S (bytes), U (UTF-32 text).
type DType struct {
	Order byte // '<', '>' or '|' (no byte order)
	Kind  byte
	Size  int // bytes per element
}

// ParseDType reads a numpy type name such as "<f4", "|b1" or "f8" (native order is taken as
// little-endian). Structured, object, date and extended-precision types are refused.
func ParseDType(name string) (DType, error) {
	d := DType{Order: '<'}
	rest := name
	if rest != "" {
		switch rest[0] {
		case '<', '>', '|':
			d.Order = rest[0]
			rest = rest[1:]
		case '=':
			rest = rest[1:]
		}
	}
	if rest == "?" {
		rest = "b1"
	}
	if len(rest) < 2 || len(rest) > 10 {
		return DType{}, fmt.Errorf("array type %.40q is not supported", name)
	}
	d.Kind = rest[0]
	n, err := strconv.Atoi(rest[1:])
	if err != nil || n < 0 {
		return DType{}, fmt.Errorf("array type %.40q is not supported", name)
	}
	d.Size = n
	if d.Kind == 'U' {
		d.Size = 4 * n
	}
	ok := false
	switch d.Kind {
	case 'b':
		ok = n == 1
	case 'i', 'u':
		ok = n == 1 || n == 2 || n == 4 || n == 8
	case 'f':
		ok = n == 2 || n == 4 || n == 8
	case 'c':
		ok = n == 8 || n == 16
	case 'S', 'U':
		ok = true
	}
	if !ok {
		return DType{}, fmt.Errorf("array type %.40q is not supported", name)
	}
	if d.Size == 1 || d.Kind == 'S' {
		d.Order = '|'
	} else if d.Order == '|' {
		d.Order = '<'
	}
	return d, nil
}

// Short returns the name without byte order, as numpy pickles it: "f4", "U3".
func (d DType) Short() string {
	n := d.Size
	if d.Kind == 'U' {
		n /= 4
	}
	return string(d.Kind) + strconv.Itoa(n)
}

// String returns the full name, "<f4".
func (d DType) String() string { return string(d.Order) + d.Short() }

// Numel returns the product of the axis sizes. A negative size, more than MaxDims axes or an
// overflow of int64 is an error.
func Numel[T int | int64](size []T) (int64, error) {
	if len(size) > MaxDims {
		return 0, fmt.Errorf("%d axes, at most %d are supported", len(size), MaxDims)
	}
	n, zero := uint64(1), false
	over := false
	for _, s := range size {
		if s < 0 {
			return 0, fmt.Errorf("negative size %d", s)
		}
		zero = zero || s == 0
		if !zero && !over {
			hi, lo := bits.Mul64(n, uint64(s))
			n, over = lo, hi != 0 || lo > math.MaxInt64
		}
	}
	if zero {
		return 0, nil
	}
	if over {
		return 0, fmt.Errorf("the shape has more than 2^63 elements")
	}
	return int64(n), nil
}

// RowMajor returns the strides, in elements, of a C-contiguous array.
func RowMajor(size []int64) []int64 {
	stride := make([]int64, len(size))
	n := int64(1)
	for i := len(size) - 1; i >= 0; i-- {
		stride[i] = n
		n *= max(size[i], 1)
	}
	return stride
}

// ColumnMajor returns the strides, in elements, of a Fortran-contiguous array.
func ColumnMajor(size []int64) []int64 {
	stride := make([]int64, len(size))
	n := int64(1)
	for i := range size {
		stride[i] = n
		n *= max(size[i], 1)
	}
	return stride
}

// Gather copies the elements of a strided array in row-major order to dst. Element (i, j, …) starts
// at byte item*(i*stride[0] + j*stride[1] + …) of src. The caller has checked that dst has exactly
// the size of all elements and that src covers the last one. Strides are not negative.
func Gather(dst, src []byte, item int, size, stride []int64) {
	// Drop axes of size 1 and merge neighbouring axes that are contiguous.
	var ns, nt []int64
	for i, n := range size {
		switch {
		case n == 0:
			return
		case n == 1:
		case len(ns) > 0 && nt[len(nt)-1] == n*stride[i]:
			ns[len(ns)-1] *= n
			nt[len(nt)-1] = stride[i]
		default:
			ns, nt = append(ns, n), append(nt, stride[i])
		}
	}
	if len(ns) == 0 {
		copy(dst[:item], src)
		return
	}
	gather(dst, src, item, ns, nt)
}

// gather fills the start of dst and returns the rest.
func gather(dst, src []byte, item int, size, stride []int64) []byte {
	n, step := int(size[0]), int(stride[0])*item
	if len(size) > 1 {
		for i := range n {
			dst = gather(dst, src[i*step:], item, size[1:], stride[1:])
		}
		return dst
	}
	if step == item {
		copy(dst, src[:n*item])
		return dst[n*item:]
	}
	switch item {
	case 1:
		for i := range n {
			dst[i] = src[i*step]
		}
	case 2:
		for i := range n {
			binary.LittleEndian.PutUint16(dst[2*i:], binary.LittleEndian.Uint16(src[i*step:]))
		}
	case 4:
		for i := range n {
			binary.LittleEndian.PutUint32(dst[4*i:], binary.LittleEndian.Uint32(src[i*step:]))
		}
	case 8:
		for i := range n {
			binary.LittleEndian.PutUint64(dst[8*i:], binary.LittleEndian.Uint64(src[i*step:]))
		}
	default:
		for i := range n {
			copy(dst[item*i:item*(i+1)], src[i*step:])
		}
	}
	return dst[n*item:]
}

// Number lists the element types that Convert can produce.
type Number interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

// Convert reads len(dst) elements of type d from src. Any real type converts to a float type,
// rounding as numpy's astype does. Only bools and integers that fit convert to an integer type.
// Complex and text types are refused.
func Convert[T Number](dst []T, d DType, src []byte) error {
	if len(src)/max(d.Size, 1) < len(dst) {
		return fmt.Errorf("%d bytes are fewer than %d elements of %s", len(src), len(dst), d)
	}
	if d.Order == '>' {
		src = Swapped(src[:len(dst)*d.Size], d.Size)
	}
	var probe T
	half := 0.5
	toFloat := T(half) != probe
	if d.Kind == 'f' && !toFloat {
		return fmt.Errorf("%s does not convert to %T without loss", d, probe)
	}
	le := binary.LittleEndian
	switch d.Short() {
	case "b1":
		for i := range dst {
			dst[i] = 0
			if src[i] != 0 {
				dst[i] = 1
			}
		}
	case "u1":
		for i := range dst {
			dst[i] = T(src[i])
			if !toFloat && (dst[i] < 0 || uint64(dst[i]) != uint64(src[i])) {
				return unfit[T](src[i], i)
			}
		}
	case "i1":
		for i := range dst {
			v := int8(src[i])
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], int64(v)) {
				return unfit[T](v, i)
			}
		}
	case "i2":
		for i := range dst {
			v := int16(le.Uint16(src[2*i:]))
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], int64(v)) {
				return unfit[T](v, i)
			}
		}
	case "i4":
		for i := range dst {
			v := int32(le.Uint32(src[4*i:]))
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], int64(v)) {
				return unfit[T](v, i)
			}
		}
	case "i8":
		for i := range dst {
			v := int64(le.Uint64(src[8*i:]))
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], v) {
				return unfit[T](v, i)
			}
		}
	case "u2":
		for i := range dst {
			v := le.Uint16(src[2*i:])
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], int64(v)) {
				return unfit[T](v, i)
			}
		}
	case "u4":
		for i := range dst {
			v := le.Uint32(src[4*i:])
			dst[i] = T(v)
			if !toFloat && !sameInt(dst[i], int64(v)) {
				return unfit[T](v, i)
			}
		}
	case "u8":
		for i := range dst {
			v := le.Uint64(src[8*i:])
			dst[i] = T(v)
			if !toFloat && (dst[i] < 0 || uint64(dst[i]) != v) {
				return unfit[T](v, i)
			}
		}
	case "f2":
		for i := range dst {
			dst[i] = T(Float16(le.Uint16(src[2*i:])))
		}
	case "f4":
		for i := range dst {
			dst[i] = T(math.Float32frombits(le.Uint32(src[4*i:])))
		}
	case "f8":
		for i := range dst {
			dst[i] = T(math.Float64frombits(le.Uint64(src[8*i:])))
		}
	default:
		return fmt.Errorf("%s does not convert to %T", d, probe)
	}
	return nil
}

// sameInt reports whether the integer x has the value v, which is false for a uint64 above int64's
// range.
func sameInt[T Number](x T, v int64) bool {
	return int64(x) == v && (x < 0) == (v < 0)
}

func unfit[T Number](v any, i int) error {
	var t T
	return fmt.Errorf("value %v at index %d does not fit into %T", v, i, t)
}

// Swapped returns a copy of src with the bytes of each element reversed; size is the element size
// in bytes.
func Swapped(src []byte, size int) []byte {
	out := make([]byte, len(src))
	for i := 0; i+size <= len(src); i += size {
		for j := range size {
			out[i+j] = src[i+size-1-j]
		}
	}
	return out
}

// Float16 converts an IEEE half to float32, including NaN payloads and subnormals.
func Float16(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 31
	frac := uint32(h) & 0x3ff
	switch exp {
	case 0:
		v := float32(frac) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
