// Package volume holds dense image and label arrays with axes (c, z, y, x), and operations that
// only move voxels: cropping with padding, flipping, transposing. Pixels is the only place that
// lists the pixel types. A two-dimensional image is a volume with one slice. File formats,
// resampling and networks live elsewhere.
package volume

import (
	"fmt"
)

// Volume is a dense array of voxels in row-major order, axes (c, z, y, x).
type Volume[T any] struct {
	Data  []T
	Shape [4]int
}

// New returns a zeroed volume of the given shape. It panics on a negative size.
func New[T any](shape [4]int) *Volume[T] {
	return &Volume[T]{Data: make([]T, Numel(shape)), Shape: shape}
}

// Numel returns the number of voxels of a shape, channels included.
func Numel(shape [4]int) int {
	return shape[0] * shape[1] * shape[2] * shape[3]
}

// ShapeOf returns the shape (c, z, y, x) for the sizes of the axes (z, y, x) or (y, x).
func ShapeOf(channels int, size []int) [4]int {
	shape := [4]int{channels, 1, 1, 1}
	copy(shape[4-len(size):], size)
	return shape
}

// Resize gives v a shape, in its own memory where that is enough. Its voxels are not cleared, and are
// in no order of the one before.
func (v *Volume[T]) Resize(shape [4]int) {
	n := Numel(shape)
	if cap(v.Data) < n {
		v.Data = make([]T, n)
	}
	v.Data, v.Shape = v.Data[:n], shape
}

// Spatial returns the sizes of the axes (z, y, x).
func (v *Volume[T]) Spatial() [3]int {
	return [3]int(v.Shape[1:])
}

// Crop fills dst with the box of v that begins at voxel start (z, y, x) and has the spatial shape
// of dst, in all channels. Outside v, dst is set to fill; start may be negative, and the box may
// lie entirely outside v. It panics if the channel counts differ.
func (v *Volume[T]) Crop(dst *Volume[T], start [3]int, fill T) {
	if dst.Shape[0] != v.Shape[0] {
		panic(fmt.Sprintf("volume: crop of %d channels into %d", v.Shape[0], dst.Shape[0]))
	}
	size, in := dst.Spatial(), v.Spatial()
	// columns [from, to) of a row of dst lie inside v
	from := min(max(-start[2], 0), size[2])
	to := max(min(in[2]-start[2], size[2]), from)
	row := 0
	for c := range dst.Shape[0] {
		for z := range size[0] {
			for y := range size[1] {
				out := dst.Data[row*size[2] : (row+1)*size[2]]
				row++
				zi, yi := start[0]+z, start[1]+y
				if zi < 0 || zi >= in[0] || yi < 0 || yi >= in[1] {
					set(out, fill)
					continue
				}
				set(out[:from], fill)
				if to > from {
					src := ((c*in[0]+zi)*in[1]+yi)*in[2] + start[2]
					copy(out[from:to], v.Data[src+from:src+to])
				}
				set(out[to:], fill)
			}
		}
	}
}

func set[T any](s []T, value T) {
	for i := range s {
		s[i] = value
	}
}

// Transpose returns a volume whose axis i of (z, y, x) is axis perm[i] of v. If the order of the
// axes does not change, it returns v itself.
func (v *Volume[T]) Transpose(perm [3]int) *Volume[T] {
	if perm == [3]int{0, 1, 2} {
		return v
	}
	shape, step := transposed(v.Shape, perm)
	out := New[T](shape)
	voxels := shape[1] * shape[2] * shape[3]
	for c := range shape[0] {
		gather(out.Data[c*voxels:][:voxels], v.Data[c*voxels:][:voxels], [3]int(shape[1:]), 0, step)
	}
	return out
}

// transposed returns the shape of a transposed array and the strides of its axes in the original
// array.
func transposed(shape [4]int, perm [3]int) (out [4]int, step [3]int) {
	out[0] = shape[0]
	stride := [3]int{shape[2] * shape[3], shape[3], 1}
	for i, from := range perm {
		out[1+i], step[i] = shape[1+from], stride[from]
	}
	return out, step
}
