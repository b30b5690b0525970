package volume

import (
	"fmt"
	"math"
	"strings"

	"github.com/lntorch/lntorch/internal/bits"
)

// Pixel is a type that pixels may have: every numeric type of a fixed size.
type Pixel interface{ bits.Number }

// types has an empty slice of each type of pixels. A new type is one line here.
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

// Pixels are the pixels of an image, row-major, of one of the types that MakePixels knows. Slice implements it; code that
// works on pixels of any type goes through these methods, a row or a block at a time.
type Pixels interface {
	// Type is the name of the type as numpy has it: "int16".
	Type() string
	// Size is the number of bytes of a pixel.
	Size() int
	// Floating reports whether pixels are floating-point numbers.
	Floating() bool
	// Len is the number of pixels.
	Len() int
	// Value is pixel i, for messages.
	Value(i int) any
	// Bytes is the memory of the pixels, in the machine's byte order.
	Bytes() []byte
	// Make returns n zeroed pixels of the same type.
	Make(n int) Pixels
	// Float32s converts len(dst) pixels from pixel at on, as C does.
	Float32s(dst []float32, at int)
	// Float64s does the same to float64.
	Float64s(dst []float64, at int)
	// Int64s does the same to int64. Numbers beyond its range give what the processor gives.
	Int64s(dst []int64, at int)
	// Zeros is the number of pixels of [from, to) before the first that is not 0. NaN is not.
	Zeros(from, to int) int
	// Extremes gives the indices of the smallest and of the largest of the pixels [from, to), NaN left out; -1 where
	// there is none.
	Extremes(from, to int) (least, most int)
	// Gather returns an array of the given shape (z, y, x), for each channel of as many pixels: element (z, y, x)
	// is pixel first + z·step[0] + y·step[1] + x·step[2] of the channel.
	Gather(shape [3]int, first int, step [3]int) Pixels
}

// Slice is pixels of type T.
type Slice[T Pixel] []T

// Type is described at Pixels, and so are the other methods.
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

// gather fills dst, a channel of the given shape, as Gather says.
func gather[T any](dst, src []T, shape [3]int, first int, step [3]int) {
	const block = 32 // rows of the result at a time, so that a cache line of src is used whole
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

// TypeNames lists the types that pixels may have; word stands before the last one: "and".
func TypeNames(word string) string {
	var names []string
	for _, t := range types {
		names = append(names, t.Type())
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

// MakePixels returns n zeroed pixels of the named type, nil for a name that is none.
func MakePixels(typeName string, n int) Pixels {
	for _, t := range types {
		if t.Type() == typeName {
			return t.Make(n)
		}
	}
	return nil
}

// blockSize is how many pixels are converted at a time where a function needs them in another type.
const blockSize = 4096

// blocks calls f for one block of pixels after the other, converted to float64; at is the index of the block's first pixel.
// It ends when f returns false.
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

// Range gives the smallest and the largest pixel, NaN left out; 0 and -1 where there is none.
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

// Fraction is the index of the first pixel that is no whole number (NaN is none), -1 where all are whole or infinite.
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
