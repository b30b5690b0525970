package volume

import (
	"fmt"
	"math"
	"strings"

	"github.com/lntorch/lntorch/internal/bits"
)

// Pixel is a type that pixels may have: any numeric type of fixed size.
type Pixel interface{ bits.Number }

// types has an empty slice of each pixel type. A new type is one line here.
var types = []Pixels{
	Slice[uint8]{},
	Slice[int8]{},
	Slice[uint16]{},
	Slice[int16]{},
	Slice[uint32]{},
	Slice[int32]{},
	Slice[uint64]{},
	Slice[int64]{},
	Slice[float32]{},
	Slice[float64]{},
}

// Pixels are the pixels of an image, row-major, of one of the types that MakePixels accepts. Slice
// implements the interface. Code that works on pixels of any type calls these methods for a row or
// a block at a time.
type Pixels interface {
	// Type is numpy's name of the type: "int16".
	Type() string
	// Size is the number of bytes per pixel.
	Size() int
	// Floating reports whether the type is a floating-point type.
	Floating() bool
	// Len is the number of pixels.
	Len() int
	// Value returns pixel i, for messages.
	Value(i int) any
	// Bytes returns the memory of the pixels, in native byte order.
	Bytes() []byte
	// Make returns n zeroed pixels of the same type.
	Make(n int) Pixels
	// Float32s converts len(dst) pixels, from index at on, as a C cast does.
	Float32s(dst []float32, at int)
	// Float64s does the same to float64.
	Float64s(dst []float64, at int)
	// Int64s does the same to int64. The result for values outside its range is undefined.
	Int64s(dst []int64, at int)
	// Zeros returns the number of zeros at the start of pixels [from, to). NaN is not zero.
	Zeros(from, to int) int
	// Extremes returns the indices of the smallest and the largest of the pixels [from, to),
	// ignoring NaN; -1 if there is none.
	Extremes(from, to int) (least, most int)
	// Gather returns an array of the given shape (z, y, x) for each channel of as many pixels.
	// Element (z, y, x) is pixel first + z·step[0] + y·step[1] + x·step[2] of the channel.
	Gather(shape [3]int, first int, step [3]int) Pixels
}

// Slice implements Pixels for the type T.
type Slice[T Pixel] []T

// Type implements Pixels.
func (p Slice[T]) Type() string { return fmt.Sprintf("%T", *new(T)) }

// Size implements Pixels.
func (p Slice[T]) Size() int { return len(bits.Bytes(make([]T, 1))) }

// Floating implements Pixels.
func (p Slice[T]) Floating() bool { return floating[T]() }

func floating[T Pixel]() bool {
	half := T(1)
	half /= 2
	return half != 0
}

// Len implements Pixels.
func (p Slice[T]) Len() int { return len(p) }

// Value implements Pixels.
func (p Slice[T]) Value(i int) any { return p[i] }

// Bytes implements Pixels.
func (p Slice[T]) Bytes() []byte { return bits.Bytes(p) }

// Make implements Pixels.
func (p Slice[T]) Make(n int) Pixels { return make(Slice[T], n) }

// Float32s implements Pixels.
func (p Slice[T]) Float32s(dst []float32, at int) { convert(dst, p[at:]) }

// Float64s implements Pixels.
func (p Slice[T]) Float64s(dst []float64, at int) { convert(dst, p[at:]) }

// Int64s implements Pixels.
func (p Slice[T]) Int64s(dst []int64, at int) { convert(dst, p[at:]) }

func convert[T, S Pixel](dst []T, src []S) {
	src = src[:len(dst)]
	for i, v := range src {
		dst[i] = T(v)
	}
}

// Zeros implements Pixels.
func (p Slice[T]) Zeros(from, to int) int {
	for i, v := range p[from:to] {
		if v != 0 {
			return i
		}
	}
	return to - from
}

// Extremes implements Pixels.
func (p Slice[T]) Extremes(from, to int) (least, most int) {
	for from < to && p[from] != p[from] {
		from++
	}
	if from >= to {
		return -1, -1
	}
	least, most = from, from
	lo, hi := p[from], p[from]
	for i, v := range p[from:to] {
		if v < lo {
			lo, least = v, from+i
		}
		if v > hi {
			hi, most = v, from+i
		}
	}
	return least, most
}

// Gather implements Pixels.
func (p Slice[T]) Gather(shape [3]int, first int, step [3]int) Pixels {
	out := make(Slice[T], len(p))
	n := shape[0] * shape[1] * shape[2]
	for c := 0; n > 0 && c < len(p); c += n {
		gather(out[c:][:n], p[c:][:n], shape, first, step)
	}
	return out
}

// gather fills dst, one channel of the given shape, as described at Gather.
func gather[T any](dst, src []T, shape [3]int, first int, step [3]int) {
	const block = 32 // tile size, so that every element of a cache line of src is used
	for z := range shape[0] {
		for y0 := 0; y0 < shape[1]; y0 += block {
			for x0 := 0; x0 < shape[2]; x0 += block {
				for y := y0; y < min(y0+block, shape[1]); y++ {
					row := dst[(z*shape[1]+y)*shape[2]:][:shape[2]]
					at := first + z*step[0] + y*step[1]
					for x := x0; x < min(x0+block, shape[2]); x++ {
						row[x] = src[at+x*step[2]]
					}
				}
			}
		}
	}
}

// TypeNames lists the pixel types, with word ("and", "or") before the last one.
func TypeNames(word string) string {
	var names []string
	for _, t := range types {
		names = append(names, t.Type())
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

// MakePixels returns n zeroed pixels of the named type, or nil if there is no such type.
func MakePixels(typeName string, n int) Pixels {
	for _, t := range types {
		if t.Type() == typeName {
			return t.Make(n)
		}
	}
	return nil
}

// blockSize is the number of pixels converted at a time to another type.
const blockSize = 4096

// blocks calls f with each block of pixels in turn, converted to float64; at is the index of its
// first pixel. It stops when f returns false.
func blocks(p Pixels, f func(block []float64, at int) bool) {
	buffer := make([]float64, min(blockSize, p.Len()))
	for at := 0; at < p.Len(); at += len(buffer) {
		b := buffer[:min(len(buffer), p.Len()-at)]
		p.Float64s(b, at)
		if !f(b, at) {
			return
		}
	}
}

// Range returns the smallest and the largest pixel, ignoring NaN; 0 and -1 if there is none.
func Range(p Pixels) (least, most float64) {
	lo, hi := p.Extremes(0, p.Len())
	if lo < 0 {
		return 0, -1
	}
	var v [2]float64
	p.Float64s(v[:1], lo)
	p.Float64s(v[1:], hi)
	return v[0], v[1]
}

// NaNs counts the pixels of [from, to) that are NaN.
func NaNs(p Pixels, from, to int) int {
	if !p.Floating() {
		return 0
	}
	n := 0
	buffer := make([]float32, blockSize)
	for ; from < to; from += len(buffer) {
		b := buffer[:min(len(buffer), to-from)]
		p.Float32s(b, from)
		for _, v := range b {
			if v != v {
				n++
			}
		}
	}
	return n
}

// Infinities counts the pixels that are infinite as float32.
func Infinities(p Pixels) int {
	if !p.Floating() {
		return 0
	}
	n := 0
	blocks(p, func(block []float64, _ int) bool {
		for _, v := range block {
			if math.IsInf(float64(float32(v)), 0) {
				n++
			}
		}
		return true
	})
	return n
}

// Fraction returns the index of the first pixel that is not an integer (NaN is not), or -1 if all
// are integers or infinite.
func Fraction(p Pixels) int {
	first := -1
	if !p.Floating() {
		return first
	}
	blocks(p, func(block []float64, at int) bool {
		for i, v := range block {
			if v != math.Trunc(v) {
				first = at + i
				return false
			}
		}
		return true
	})
	return first
}
