package volume

// Geometry says where the voxels lie in the patient.
type Geometry struct {
	Spacing      [3]float64 // mm, order (z, y, x)
	OriginXYZ    [3]float64 // mm, centre of the first voxel, LPS (as ITK)
	DirectionXYZ [9]float64 // row-major 3×3, columns are the directions of the x, y, z axes, LPS (as ITK)
}

// Image is an image with pixels of any type and its geometry: what every format fills.
type Image struct {
	Geometry
	Shape  [4]int // (c, z, y, x)
	Pixels Pixels // row-major
	// Memory has the axes of (z, y, x) in the order, slowest first, in which they lie in the memory of the numpy array that
	// nnU-Net makes of the file: numpy's sums depend on it. Zero stands for 0, 1, 2.
	Memory [3]int
}

// Transpose returns an image whose axis i of (z, y, x) is axis perm[i] of im; its geometry is left behind. It is im itself
// where the axes keep their order.
func (im *Image) Transpose(perm [3]int) *Image {
	if perm == [3]int{0, 1, 2} {
		return im
	}
	shape, step := transposed(im.Shape, perm)
	return &Image{Shape: shape, Pixels: im.Pixels.Gather([3]int(shape[1:]), 0, step)}
}
