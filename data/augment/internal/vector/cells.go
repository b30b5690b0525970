package vector

// Line is a row of voxels that lie somewhere in a box of axes (z, y, x), in fixed point with 32 bits
// for the fraction: voxel i at Origin + i·Step.
type Line struct {
	Size         [3]int // of the box
	Width, Plane int    // from a row of the box to the next one, and from a plane to the next one
	Origin, Step [3]int64
}

// inside reports whether the cells of n voxels, from each one's lower corner to the next voxel along
// each axis, lie wholly in the box, and the box in so many voxels.
func (l *Line) inside(n, voxels int) bool {
	for axis, size := range l.Size {
		first := l.Origin[axis] >> 32
		last := (l.Origin[axis] + int64(n-1)*l.Step[axis]) >> 32
		if min(first, last) < 0 || max(first, last)+1 >= int64(size) {
			return false
		}
	}
	return l.last() < voxels
}

// last is the index of the box's last voxel.
func (l *Line) last() int {
	return (l.Size[0]-1)*l.Plane + (l.Size[1]-1)*l.Width + l.Size[2] - 1
}

// Fraction is the part of a coordinate behind the point.
func Fraction(q int64) float32 { return float32(q&(1<<32-1)) * (1.0 / (1 << 32)) }

// Trilinear interpolates linearly between the eight voxels around each one of a line. All must lie in
// the volume.
func Trilinear(out, data []float32, l *Line) {
	n := trilinear(out, data, l)
	out = out[n:]
	qz, qy, qx := l.at(n)
	width, plane := l.Width, l.Plane
	for i := range out {
		at := int(qz>>32)*plane + int(qy>>32)*width + int(qx>>32)
		fz, fy, fx := Fraction(qz), Fraction(qy), Fraction(qx)
		a, b := data[at:at+2:at+2], data[at+width:at+width+2:at+width+2]
		at += plane
		c, d := data[at:at+2:at+2], data[at+width:at+width+2:at+width+2]
		a0 := a[0] + float32((a[1]-a[0])*fx)
		b0 := b[0] + float32((b[1]-b[0])*fx)
		c0 := c[0] + float32((c[1]-c[0])*fx)
		d0 := d[0] + float32((d[1]-d[0])*fx)
		a0 += float32((b0 - a0) * fy)
		c0 += float32((d0 - c0) * fy)
		out[i] = a0 + float32((c0-a0)*fz)
		qz += l.Step[0]
		qy += l.Step[1]
		qx += l.Step[2]
	}
}

// at returns the coordinates of voxel i.
func (l *Line) at(i int) (qz, qy, qx int64) {
	k := int64(i)
	return l.Origin[0] + k*l.Step[0], l.Origin[1] + k*l.Step[1], l.Origin[2] + k*l.Step[2]
}

// Uniform sets each voxel of a line whose eight voxels around have one label to that label. The
// indices of the others, whose labels out is left with, are written to mixed, and their number
// returned. mixed is as long as out.
func Uniform(out, data []int16, l *Line, mixed []int32) int {
	mixed = mixed[:len(out)]
	n, found := uniform(out, data, l, mixed)
	qz, qy, qx := l.at(n)
	width, plane := l.Width, l.Plane
	for i := n; i < len(out); i++ {
		at := int(qz>>32)*plane + int(qy>>32)*width + int(qx>>32)
		a, b := data[at:at+2:at+2], data[at+width:at+width+2:at+width+2]
		at += plane
		c, d := data[at:at+2:at+2], data[at+width:at+width+2:at+width+2]
		v := a[0]
		if (v^a[1])|(v^b[0])|(v^b[1])|(v^c[0])|(v^c[1])|(v^d[0])|(v^d[1]) == 0 {
			out[i] = v
		} else {
			mixed[found] = int32(i)
			found++
		}
		qz += l.Step[0]
		qy += l.Step[1]
		qx += l.Step[2]
	}
	return found
}
