package labels

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/volume"
)

// tolerance is how far from a voxel of an image a voxel of the label map may be, in voxels.
const tolerance = 0.01

// Place brings a label map to the grid of an image, x fastest, then y, then z. The axes of the map may
// lead in any order and direction; what does not lie on the grid is refused, as are values that are
// not whole numbers from 0 to 65535. of names the image for messages: "series".
func Place(im *volume.Image, to *Grid, of string) ([]uint16, error) {
	if im.Shape[0] != 1 {
		return nil, fmt.Errorf("the label map has %d channels, expected one", im.Shape[0])
	}
	size := [3]int{im.Shape[3], im.Shape[2], im.Shape[1]}
	itk := &volume.ITK{Spacing: []float64{im.Spacing[2], im.Spacing[1], im.Spacing[0]},
		Origin: im.OriginXYZ[:], Direction: im.DirectionXYZ[:]}
	grid, err := NewGrid(size[:], itk)
	if err != nil {
		return nil, fmt.Errorf("the label map: %w", err)
	}
	mismatch := fmt.Errorf("the label map does not lie on the grid of the %[3]s: it has %[1]s, the "+
		"%[3]s has %[2]s; write the labels on the grid of the %[3]s", grid, to, of)
	// The map's first voxel, and a step along each of its axes, in voxels of the image.
	first := to.Voxel(grid.Place(Vector{}))
	var steps [3]Vector
	for k := range steps {
		one := Vector{}
		one[k] = 1
		steps[k] = Sub(to.Voxel(grid.Place(one)), first)
	}
	axis, ok := assign(steps, size)
	if !ok {
		return nil, mismatch
	}
	// Each axis of the image: how its voxels follow one another in the map, where they begin.
	begin, stride := 0, [3]int{}
	strides := [3]int{1, size[0], size[0] * size[1]}
	var reversed [3]bool
	for k, a := range axis {
		if size[k] != to.Size[a] {
			return nil, mismatch
		}
		stride[a] = strides[k]
		if reversed[k] = size[k] > 1 && steps[k][a] < 0; reversed[k] {
			begin += strides[k] * (size[k] - 1)
			stride[a] = -strides[k]
		}
	}
	for corner := range 8 {
		at, want := first, Vector{}
		for k, a := range axis {
			far := corner>>k&1 == 1
			if far {
				at = Along(at, float64(size[k]-1), steps[k])
			}
			if far != reversed[k] {
				want[a] = float64(size[k] - 1)
			}
		}
		for i := range at {
			if !(math.Abs(at[i]-want[i]) <= tolerance) {
				return nil, mismatch
			}
		}
	}
	pixels := im.Pixels
	if n := to.Size; begin != 0 || stride != [3]int{1, n[0], n[0] * n[1]} {
		pixels = pixels.Gather([3]int{n[2], n[1], n[0]}, begin,
			[3]int{stride[2], stride[1], stride[0]})
	}
	values, err := volume.Convert(pixels, "uint16", false)
	if err != nil {
		return nil, fmt.Errorf("the label map: %w", err)
	}
	return values.(volume.Slice[uint16]), nil
}

// assign finds for each axis of the map the axis of the image that it follows. Axes with one voxel
// take what is left.
func assign(steps [3]Vector, size [3]int) (axis [3]int, ok bool) {
	taken := [3]bool{}
	for k := range axis {
		if size[k] == 1 {
			continue
		}
		for i, x := range steps[k] {
			if math.Abs(x) > math.Abs(steps[k][axis[k]]) {
				axis[k] = i
			}
		}
		if taken[axis[k]] {
			return axis, false
		}
		taken[axis[k]] = true
	}
	for k := range axis {
		if size[k] > 1 {
			continue
		}
		// its own direction first, as far as it is free
		best := -1
		for i := range taken {
			if !taken[i] && (best < 0 || math.Abs(steps[k][i]) > math.Abs(steps[k][best])) {
				best = i
			}
		}
		axis[k] = best
		taken[best] = true
	}
	return axis, true
}
