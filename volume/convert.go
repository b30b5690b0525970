package volume

import (
	"fmt"
	"math"
)

// Cast converts pixels of any type as C does; the slice itself comes back when it holds Ts. From floating-point to integer
// types, values outside of T's range give what the processor gives: callers check ranges first.
func Cast[T Pixel](p Pixels) []T {
	if same, ok := p.(Slice[T]); ok {
		return same
	}
	to := make([]T, p.Len())
	switch to := any(to).(type) {
	case []float32:
		p.Float32s(to, 0)
		return any(to).([]T)
	case []float64:
		p.Float64s(to, 0)
		return any(to).([]T)
	}
	buffer := make([]int64, min(blockSize, len(to)))
	for at := 0; at < len(to); at += len(buffer) {
		part := to[at:min(at+len(buffer), len(to))]
		p.Int64s(buffer[:len(part)], at)
		convert(part, buffer[:len(part)])
	}
	return to
}

// Convert gives pixels as the named type, as long as each of them is still what it was: integers have to fit and to be exact,
// numbers with a fraction are refused for an integer type unless round is set, which takes the nearest, to even ones at a tie.
// From float64 to float32 numbers are rounded; what becomes infinite by that is refused. Pixels that are of the type come
// back as they are.
func Convert(p Pixels, typeName string, round bool) (Pixels, error) {
	if p.Type() == typeName {
		return p, nil
	}
	to := MakePixels(typeName, p.Len())
	if to == nil {
		return nil, fmt.Errorf("pixels of type %q: expected %s", typeName, TypeNames("or"))
	}
	if err := to.(converter).from(p, round); err != nil {
		return nil, err
	}
	return to, nil
}

// converter is what Convert needs of a Slice.
type converter interface {
	from(p Pixels, round bool) error
}

// from fills a slice with the pixels p, as Convert does.
func (to Slice[T]) from(p Pixels, round bool) error {
	if p.Floating() {
		return to.fromFloats(p, round)
	}
	if p, ok := p.(Slice[uint64]); ok { // the one integer type that int64 does not hold
		return whole(to, p, p, 0)
	}
	buffer := make([]int64, min(blockSize, len(to)))
	for at := 0; at < len(to); at += len(buffer) {
		part := to[at:min(at+len(buffer), len(to))]
		p.Int64s(buffer[:len(part)], at)
		if err := whole(part, buffer, p, at); err != nil {
			return err
		}
	}
	return nil
}

// whole converts integers, which are the pixels of p from pixel at on.
func whole[T, S Pixel](to []T, from []S, p Pixels, at int) error {
	for i := range to {
		v := from[i]
		to[i] = T(v)
		if S(to[i]) != v || (to[i] < 0) != (v < 0) {
			return fmt.Errorf("pixel %d is %v, which %s does not hold", at+i, p.Value(at+i), Slice[T]{}.Type())
		}
	}
	return nil
}

// fromFloats converts floating-point numbers.
func (to Slice[T]) fromFloats(p Pixels, round bool) (err error) {
	low, high := limits[T]()
	blocks(p, func(block []float64, at int) bool {
		for i, v := range block {
			beyond := false
			if floating[T]() {
				to[at+i] = T(v)
				beyond = math.IsInf(float64(to[at+i]), 0) && !math.IsInf(v, 0)
			} else {
				r := math.RoundToEven(v)
				if beyond = !(r >= low && r < high); !beyond && r != v && !round {
					err = fmt.Errorf("pixel %d is %v, which %s does not hold", at+i, p.Value(at+i), to.Type())
					return false
				}
				to[at+i] = T(r)
			}
			if beyond {
				err = fmt.Errorf("pixel %d is %v, beyond the range of %s", at+i, p.Value(at+i), to.Type())
				return false
			}
		}
		return true
	})
	return err
}

// limits gives the smallest number of an integer type, and the first that is too large.
func limits[T Pixel]() (low, high float64) {
	bits := 8 * Slice[T]{}.Size()
	if lowest := T(0); lowest-1 > 0 {
		return 0, math.Ldexp(1, bits)
	}
	return -math.Ldexp(1, bits-1), math.Ldexp(1, bits-1)
}
