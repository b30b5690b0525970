package volume

import (
	"fmt"
	"math"
)

// Convert gives pixels as the named type, as long as each of them is still what it was: integers have to fit and to be exact,
// numbers with a fraction are refused for an integer type unless round is set, which takes the nearest, to even ones at a tie.
// From float64 to float32 numbers are rounded; what becomes infinite by that is refused.
func Convert(pixels any, typeName string, round bool) (any, error) {
	switch typeName {
	case "uint8":
		return convertTo[uint8](pixels, typeName, round)
	case "int8":
		return convertTo[int8](pixels, typeName, round)
	case "uint16":
		return convertTo[uint16](pixels, typeName, round)
	case "int16":
		return convertTo[int16](pixels, typeName, round)
	case "uint32":
		return convertTo[uint32](pixels, typeName, round)
	case "int32":
		return convertTo[int32](pixels, typeName, round)
	case "uint64":
		return convertTo[uint64](pixels, typeName, round)
	case "int64":
		return convertTo[int64](pixels, typeName, round)
	case "float32":
		return convertTo[float32](pixels, typeName, round)
	case "float64":
		return convertTo[float64](pixels, typeName, round)
	}
	return nil, fmt.Errorf("pixels of type %q: expected uint8, int8, uint16, int16, uint32, int32, uint64, int64, float32 or float64", typeName)
}

func convertTo[T Pixel](pixels any, name string, round bool) (any, error) {
	var to []T
	var err error
	switch p := pixels.(type) {
	case []T:
		return p, nil
	case []uint8:
		to, err = whole[T](p, name)
	case []int8:
		to, err = whole[T](p, name)
	case []uint16:
		to, err = whole[T](p, name)
	case []int16:
		to, err = whole[T](p, name)
	case []uint32:
		to, err = whole[T](p, name)
	case []int32:
		to, err = whole[T](p, name)
	case []uint64:
		to, err = whole[T](p, name)
	case []int64:
		to, err = whole[T](p, name)
	case []float32:
		to, err = real[T](p, name, round)
	case []float64:
		to, err = real[T](p, name, round)
	default:
		panic(fmt.Sprintf("volume: pixels of type %T", pixels))
	}
	if err != nil {
		return nil, err
	}
	return to, nil
}

// whole converts integers.
func whole[T, S Pixel](from []S, name string) ([]T, error) {
	to := make([]T, len(from))
	for i, v := range from {
		to[i] = T(v)
		if S(to[i]) != v || (to[i] < 0) != (v < 0) {
			return nil, fmt.Errorf("pixel %d is %v, which %s does not hold", i, v, name)
		}
	}
	return to, nil
}

// real converts floating-point numbers.
func real[T Pixel, S float32 | float64](from []S, name string, round bool) ([]T, error) {
	to := make([]T, len(from))
	half := T(1)
	if half /= 2; half != 0 { // T is float32 or float64
		for i, v := range from {
			to[i] = T(v)
			if math.IsInf(float64(to[i]), 0) && !math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("pixel %d is %v, beyond the range of %s", i, v, name)
			}
		}
		return to, nil
	}
	low, high := limits[T]()
	for i, v := range from {
		r := math.RoundToEven(float64(v))
		if !(r >= low && r < high) {
			return nil, fmt.Errorf("pixel %d is %v, beyond the range of %s", i, v, name)
		}
		if r != float64(v) && !round {
			return nil, fmt.Errorf("pixel %d is %v, which %s does not hold", i, v, name)
		}
		to[i] = T(r)
	}
	return to, nil
}

// limits gives the smallest number of an integer type, and the first that is too large.
func limits[T Pixel]() (low, high float64) {
	var zero T
	switch any(zero).(type) {
	case uint8:
		return 0, 1 << 8
	case int8:
		return -1 << 7, 1 << 7
	case uint16:
		return 0, 1 << 16
	case int16:
		return -1 << 15, 1 << 15
	case uint32:
		return 0, 1 << 32
	case int32:
		return -1 << 31, 1 << 31
	case uint64:
		return 0, 1 << 64
	}
	return -1 << 63, 1 << 63
}
