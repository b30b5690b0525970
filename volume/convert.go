package volume

import (
	"fmt"
	"math"
)

// Cast converts pixels of any type to T as a C cast does. A slice that already holds Ts is returned
// as it is. Converting a floating-point value outside T's range to an integer type gives an
// undefined result: callers check ranges first.
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

// Convert returns pixels as the named type and fails where a value would change. Integers must fit
// exactly. Values with a fraction are an error for an integer type unless round is set, which
// rounds to nearest, ties to even. float64 is rounded to float32; a finite value that overflows to
// infinity is an error. Pixels that already have the type are returned unchanged.
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

// converter is the method of Slice that Convert calls.
type converter interface {
	from(p Pixels, round bool) error
}

// from fills a slice with the pixels p, under Convert's rules.
func (to Slice[T]) from(p Pixels, round bool) error {
	if p.Floating() {
		return to.fromFloats(p, round)
	}
	if p, ok := p.(Slice[uint64]); ok { // the only integer type that int64 cannot hold
		return convertIntegers(to, p, p, 0)
	}
	buffer := make([]int64, min(blockSize, len(to)))
	for at := 0; at < len(to); at += len(buffer) {
		part := to[at:min(at+len(buffer), len(to))]
		p.Int64s(buffer[:len(part)], at)
		if err := convertIntegers(part, buffer, p, at); err != nil {
			return err
		}
	}
	return nil
}

// convertIntegers converts the integers from, which are the pixels of p from index at on.
func convertIntegers[T, S Pixel](to []T, from []S, p Pixels, at int) error {
	for i := range to {
		v := from[i]
		to[i] = T(v)
		if S(to[i]) != v || (to[i] < 0) != (v < 0) {
			return fmt.Errorf("pixel %d is %v, which %s does not hold", at+i, p.Value(at+i),
				Slice[T]{}.Type())
		}
	}
	return nil
}

// fromFloats converts floating-point pixels.
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
					err = fmt.Errorf("pixel %d is %v, which %s does not hold", at+i, p.Value(at+i),
						to.Type())
					return false
				}
				to[at+i] = T(r)
			}
			if beyond {
				err = fmt.Errorf("pixel %d is %v, beyond the range of %s", at+i, p.Value(at+i),
					to.Type())
				return false
			}
		}
		return true
	})
	return err
}

// limits returns the smallest value of an integer type and the first value above its range.
func limits[T Pixel]() (low, high float64) {
	bits := 8 * Slice[T]{}.Size()
	if lowest := T(0); lowest-1 > 0 {
		return 0, math.Ldexp(1, bits)
	}
	return -math.Ldexp(1, bits-1), math.Ldexp(1, bits-1)
}
