package preprocess

import (
	"math/bits"

	"github.com/lntorch/lntorch/volume"
)

// NonZeroBox returns the bounding box, half-open ranges of the axes (z, y, x), of the voxels that
// are not 0 in at least one channel of im; NaN counts as non-zero. If all voxels are 0 it is the
// whole image. nnU-Net fills holes before it computes the box, which does not change it: a hole is
// enclosed by the region on all sides.
// Source: nnU-Net 2.5.1, cropping.py, crop_to_nonzero; acvl_utils, get_bbox_from_mask.
func NonZeroBox(im *volume.Image) [3][2]int {
	nz, ny, nx := im.Shape[1], im.Shape[2], im.Shape[3]
	full := [3][2]int{{0, nz}, {0, ny}, {0, nx}}
	// anything reports whether any channel has a non-zero voxel in a box. In most images one of the
	// first rows has.
	anything := func(b [3][2]int) bool {
		for c := range im.Shape[0] {
			for z := b[0][0]; z < b[0][1]; z++ {
				for y := b[1][0]; y < b[1][1]; y++ {
					row := ((c*nz+z)*ny + y) * nx
					if n := b[2][1] - b[2][0]; im.Pixels.Zeros(row+b[2][0], row+b[2][1]) < n {
						return true
					}
				}
			}
		}
		return false
	}
	box := full
	for axis := range 3 {
		slab := func(i int) [3][2]int {
			b := box
			b[axis] = [2]int{i, i + 1}
			return b
		}
		lo, hi := full[axis][0], full[axis][1]
		for lo < hi && !anything(slab(lo)) {
			lo++
		}
		if lo == hi {
			return full
		}
		for !anything(slab(hi - 1)) {
			hi--
		}
		box[axis] = [2]int{lo, hi}
	}
	return box
}

// Mask is a set of voxels of a box, one bit each.
type Mask struct {
	shape [3]int // (z, y, x)
	words []uint64
}

func newMask(shape [3]int) *Mask {
	return &Mask{shape, make([]uint64, (shape[0]*shape[1]*shape[2]+63)/64)}
}

// Has reports whether voxel i, a row-major index into the box, is in the set.
func (m *Mask) Has(i int) bool { return m.words[i>>6]>>(i&63)&1 != 0 }

func (m *Mask) set(i int) { m.words[i>>6] |= 1 << (i & 63) }

// Len is the number of voxels in the set.
func (m *Mask) Len() int {
	n := 0
	for _, w := range m.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Outside returns the voxels of box that lie outside the non-zero region after its holes are
// filled: voxels that are 0 in every channel and 6-connected to the image border through such
// voxels. box is NonZeroBox's of im. nil means that there are none, as in most CTs.
// Source: scipy.ndimage.binary_fill_holes with its default structure.
func Outside(im *volume.Image, box [3][2]int) *Mask {
	// The flood fill starts at the faces of the box: beyond them everything is 0 or the image ends.
	p, shape := im.Pixels, im.Shape
	channel := shape[1] * shape[2] * shape[3]
	n := [3]int{box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0]}
	// row is the index of the first voxel of a row of the box in channel 0
	row := func(z, y int) int { return ((box[0][0]+z)*shape[2]+box[1][0]+y)*shape[3] + box[2][0] }
	zero := func(i int) bool {
		for ; i < p.Len(); i += channel {
			if p.Zeros(i, i+1) == 0 {
				return false
			}
		}
		return true
	}
	var m *Mask
	type run struct{ z, y, from, to int32 }
	var todo []run
	// take adds the run of zeros around x in a row, if x is an unvisited zero, and returns the next
	// x.
	take := func(z, y, x int) int {
		first, at := row(z, y), (z*n[1]+y)*n[2]
		if m != nil && m.Has(at+x) || !zero(first+x) {
			return x + 1
		}
		if m == nil {
			m = newMask(n)
		}
		from, to := x, n[2]
		for i := first; i < p.Len(); i += channel {
			to = min(to, x+p.Zeros(i+x, i+to))
		}
		for from > 0 && zero(first+from-1) {
			from--
		}
		for i := from; i < to; i++ {
			m.set(at + i)
		}
		todo = append(todo, run{int32(z), int32(y), int32(from), int32(to)})
		return to
	}
	for z := range n[0] {
		for y := range n[1] {
			if z > 0 && z < n[0]-1 && y > 0 && y < n[1]-1 {
				take(z, y, 0)
				take(z, y, n[2]-1)
				continue
			}
			for x := 0; x < n[2]; {
				x = take(z, y, x)
			}
		}
	}
	for len(todo) > 0 {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, d := range [4][2]int{{-1, 0}, {1, 0}, {0, -1}, {0, 1}} {
			z, y := int(r.z)+d[0], int(r.y)+d[1]
			if z < 0 || z >= n[0] || y < 0 || y >= n[1] {
				continue
			}
			for x := int(r.from); x < int(r.to); {
				x = take(z, y, x)
			}
		}
	}
	return m
}
