package volume

import "fmt"

// Geometry says where the voxels lie in the patient.
type Geometry struct {
	Spacing      [3]float64 // mm, order (z, y, x)
	OriginXYZ    [3]float64 // mm, centre of the first voxel, LPS (as ITK)
	DirectionXYZ [9]float64 // row-major 3×3, columns are the directions of the x, y, z axes, LPS (as ITK)
}

// Pixel is a type that the pixels of an Image may have.
type Pixel interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64
}

// Image is an image with pixels of any type and its geometry: what every format fills.
type Image struct {
	Geometry
	Shape  [4]int // (c, z, y, x)
	Pixels any    // []uint8, []int8, []uint16, []int16, []uint32, []int32, []uint64, []int64, []float32 or []float64; row-major
}

// TypeName is the type of the pixels as numpy calls it: "int16". It panics on a type that pixels may not have.
func (im *Image) TypeName() string {
	switch im.Pixels.(type) {
	case []uint8:
		return "uint8"
	case []int8:
		return "int8"
	case []uint16:
		return "uint16"
	case []int16:
		return "int16"
	case []uint32:
		return "uint32"
	case []int32:
		return "int32"
	case []uint64:
		return "uint64"
	case []int64:
		return "int64"
	case []float32:
		return "float32"
	case []float64:
		return "float64"
	}
	panic(fmt.Sprintf("volume: pixels of type %T", im.Pixels))
}

// MakePixels returns n zeroed pixels of the named type, nil for a name that is none.
func MakePixels(typeName string, n int) any {
	switch typeName {
	case "uint8":
		return make([]uint8, n)
	case "int8":
		return make([]int8, n)
	case "uint16":
		return make([]uint16, n)
	case "int16":
		return make([]int16, n)
	case "uint32":
		return make([]uint32, n)
	case "int32":
		return make([]int32, n)
	case "uint64":
		return make([]uint64, n)
	case "int64":
		return make([]int64, n)
	case "float32":
		return make([]float32, n)
	case "float64":
		return make([]float64, n)
	}
	return nil
}

// Float32 is the image as nnU-Net's readers cast it. It shares the memory when the pixels are float32.
func (im *Image) Float32() *Volume[float32] {
	return &Volume[float32]{Data: Cast[float32](im.Pixels), Shape: im.Shape}
}

// Cast converts pixels of any type as C does; the slice itself comes back when it is a []T. From floating-point to integer
// types, values outside of T's range give what the processor gives: callers check ranges first.
func Cast[T Pixel](pixels any) []T {
	if same, ok := pixels.([]T); ok {
		return same
	}
	switch p := pixels.(type) {
	case []uint8:
		return cast[T](p)
	case []int8:
		return cast[T](p)
	case []uint16:
		return cast[T](p)
	case []int16:
		return cast[T](p)
	case []uint32:
		return cast[T](p)
	case []int32:
		return cast[T](p)
	case []uint64:
		return cast[T](p)
	case []int64:
		return cast[T](p)
	case []float32:
		return cast[T](p)
	case []float64:
		return cast[T](p)
	}
	panic(fmt.Sprintf("volume: pixels of type %T", pixels))
}

func cast[T, S Pixel](from []S) []T {
	to := make([]T, len(from))
	for i, v := range from {
		to[i] = T(v)
	}
	return to
}

// Range gives the smallest and the largest pixel, NaN left out; 0 and -1 where there is none.
func Range(pixels any) (least, most float64) {
	switch p := pixels.(type) {
	case []uint8:
		return span(p)
	case []int8:
		return span(p)
	case []uint16:
		return span(p)
	case []int16:
		return span(p)
	case []uint32:
		return span(p)
	case []int32:
		return span(p)
	case []uint64:
		return span(p)
	case []int64:
		return span(p)
	case []float32:
		return span(p)
	case []float64:
		return span(p)
	}
	panic(fmt.Sprintf("volume: pixels of type %T", pixels))
}

func span[T Pixel](p []T) (least, most float64) {
	for len(p) > 0 && p[0] != p[0] {
		p = p[1:]
	}
	if len(p) == 0 {
		return 0, -1
	}
	a, b := p[0], p[0]
	for _, v := range p {
		if v < a {
			a = v
		}
		if v > b {
			b = v
		}
	}
	return float64(a), float64(b)
}
