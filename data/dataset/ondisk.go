package dataset

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

// A case that the cache has no room for would be read whole for each of its patches. Where it is
// unpacked, parts of its files are read instead. They are not mapped: a file that is cut short while
// it is mapped would end the program.

// unpackedCase are the files of a case whose voxels stay on disk.
type unpackedCase struct {
	data, seg string
	segType   string // of numpy: |i1 or <i2
}

// Types that are read in parts: those of nnU-Net's own files.
const (
	dataType  = "<f4"
	segNarrow = "|i1"
	segWide   = "<i2"
)

// LoadForPatches is Load for those who need a part of a case at a time: its voxels may stay on disk.
// Data and Seg then have a shape and no voxels, and Box reads them.
func (d *Dataset) LoadForPatches(key string) (*Case, error) { return d.load(key, true) }

// unpacked returns the files of a case that can be read in parts; nil if they cannot.
func (d *Dataset) unpacked(key string, shape [4]int) *unpackedCase {
	u := &unpackedCase{data: d.path(key, ".npy"), seg: d.path(key, "_seg.npy")}
	data, err := npz.OpenNpyParts(u.data)
	if err != nil {
		return nil
	}
	defer data.Close()
	seg, err := npz.OpenNpyParts(u.seg)
	if err != nil {
		return nil
	}
	defer seg.Close()
	u.segType = seg.DType
	known := data.DType == dataType && (seg.DType == segNarrow || seg.DType == segWide)
	if !known || !bits.LittleEndian || u.check(data, dataType, shape) != nil ||
		u.check(seg, seg.DType, segShape(shape)) != nil {
		return nil
	}
	return u
}

func segShape(shape [4]int) [4]int { return [4]int{1, shape[1], shape[2], shape[3]} }

// check complains of a file that is not what it was.
func (*unpackedCase) check(n *npz.Npy, dtype string, shape [4]int) error {
	if n.DType == dtype && !n.Fortran && slices.Equal(n.Shape, shape[:]) {
		return nil
	}
	return fmt.Errorf("found an array of shape %v and type %s, expected %v and %s as before: it was "+
		"changed while it was in use", n.Shape, n.DType, shape, dtype)
}

// onDisk is the case without its voxels.
func (c *Case) onDisk(u *unpackedCase) *Case {
	light := *c
	light.Data = &volume.Volume[float32]{Shape: c.Data.Shape}
	light.Seg = &volume.Volume[int16]{Shape: c.Seg.Shape}
	light.disk = u
	return &light
}

// Part is memory for a box of a case, which is used again.
type Part struct {
	image volume.Volume[float32]
	seg   volume.Volume[int16]
	bytes []byte
}

// Box returns volumes that hold all voxels of the case in the box of the given first voxel (z, y, x)
// and size, which may reach beyond it, and the voxel of the case that they begin at: the case's own
// volumes, or those of part, read from disk.
func (c *Case) Box(start, size [3]int, part *Part) (image *volume.Volume[float32],
	seg *volume.Volume[int16], first [3]int, err error) {
	if c.disk == nil {
		return c.Data, c.Seg, first, nil
	}
	var shape [3]int
	for axis, n := range c.Data.Spatial() {
		first[axis] = min(max(start[axis], 0), n-1)
		shape[axis] = max(min(start[axis]+size[axis], n)-first[axis], 1) // one voxel where the box lies outside
	}
	part.image.Resize([4]int{c.Data.Shape[0], shape[0], shape[1], shape[2]})
	part.seg.Resize([4]int{1, shape[0], shape[1], shape[2]})
	err = readBox(c, c.disk.data, dataType, c.Data.Shape, first, &part.image, &part.bytes,
		func(dst []float32, src []byte) { copy(bits.Bytes(dst), src) })
	if err != nil {
		return nil, nil, first, err
	}
	wide := func(dst []int16, src []byte) { copy(bits.Bytes(dst), src) }
	if c.disk.segType == segNarrow {
		wide = func(dst []int16, src []byte) {
			for i := range dst {
				dst[i] = int16(int8(src[i]))
			}
		}
	}
	err = readBox(c, c.disk.seg, c.disk.segType, c.Seg.Shape, first, &part.seg, &part.bytes, wide)
	return &part.image, &part.seg, first, err
}

// readBox fills into with the box of a file's array that begins at first: for each plane the bytes
// from its first row to its last at once, which is quicker than row by row.
func readBox[T any](c *Case, path, dtype string, shape [4]int, first [3]int, into *volume.Volume[T],
	buffer *[]byte, put func(dst []T, src []byte)) error {
	file, err := npz.OpenNpyParts(path)
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	defer file.Close()
	if err := c.disk.check(file, dtype, shape); err != nil {
		return fmt.Errorf("dataset: %s: %w", path, err)
	}
	width := 4
	switch dtype {
	case segNarrow:
		width = 1
	case segWide:
		width = 2
	}
	size := into.Spatial()
	row, stride := size[2]*width, shape[3]*width
	if need := (size[1]-1)*stride + row; cap(*buffer) < need {
		*buffer = make([]byte, need)
	}
	rows := (*buffer)[:(size[1]-1)*stride+row]
	out := into.Data
	for channel := range shape[0] {
		for z := range size[0] {
			at := ((channel*shape[1]+first[0]+z)*shape[2]+first[1])*shape[3] + first[2]
			if err := file.ReadAt(rows, int64(at)*int64(width)); err != nil {
				return fmt.Errorf("dataset: %w", err)
			}
			for y := range size[1] {
				put(out[:size[2]], rows[y*stride:][:row])
				out = out[size[2]:]
			}
		}
	}
	return nil
}
