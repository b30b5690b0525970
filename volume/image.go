package volume

// Geometry maps voxels to patient coordinates.
type Geometry struct {
	Spacing   [3]float64 // mm, order (z, y, x)
	OriginXYZ [3]float64 // mm, centre of the first voxel, LPS (as ITK)
	// row-major 3×3, columns are the directions of the x, y, z axes, LPS (as ITK)
	DirectionXYZ [9]float64
}

// Point returns where a voxel (z, y, x) lies: (x, y, z) in mm, LPS. Fractions lie between voxels.
func (g *Geometry) Point(index [3]float64) [3]float64 {
	point := g.OriginXYZ
	for axis, i := range index {
		for r := range 3 {
			point[r] += g.DirectionXYZ[3*r+2-axis] * g.Spacing[axis] * i
		}
	}
	return point
}

// Image is an image with pixels of any type and its geometry, as read from any format.
type Image struct {
	Geometry
	Shape  [4]int // (c, z, y, x)
	Pixels Pixels // row-major
	// Memory lists the axes of (z, y, x), slowest first, in the memory order of the numpy array
	// that nnU-Net makes of the file: numpy's sums depend on it. The zero value stands for 0, 1, 2.
	Memory [3]int
}

// Transpose returns an image whose axis i of (z, y, x) is axis perm[i] of im; the geometry is
// dropped. If the order of the axes does not change, it returns im itself.
func (im *Image) Transpose(perm [3]int) *Image {
	if perm == [3]int{0, 1, 2} {
		return im
	}
	shape, step := transposed(im.Shape, perm)
	return &Image{Shape: shape, Pixels: im.Pixels.Gather([3]int(shape[1:]), 0, step)}
}
