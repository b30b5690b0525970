package augment

import (
	"math"

	"github.com/lntorch/lntorch/volume"
)

// Window is a box of a case, (z, y, x). It may reach beyond the case, where the image is 0 and the
// segmentation -1.
type Window struct {
	Start [3]int // first voxel, in the case
	Size  [3]int // voxels; one slice in 2d
	// Lowest is a label that no label of the case is below; -1 or more.
	Lowest int16
}

// windowed is implemented by parameters whose Apply reads a patch's window out of the case. For all
// others it is cut out before.
type windowed interface{ readsWindow() }

func (*SpatialParameters) readsWindow()      {}
func (*Convert3DTo2DTransform) readsWindow() {}

// isWindow reports whether the patch is still a part of a case.
func (p *Patch) isWindow() bool { return p.Window.Size[0] > 0 }

// slices is the number of slices that are channels; 0: none are.
func (p *Patch) slices() int {
	if p.folded.on && p.isWindow() {
		return p.Window.Size[0]
	}
	return 0
}

// cut cuts the window out of the case.
func (p *Patch) cut() {
	if p.isWindow() {
		p.cutBox(p.Window.Start, p.Window.Size)
	}
}

// cutBox makes a box of the case the patch.
func (p *Patch) cutBox(start, size [3]int) {
	image := p.newImage([4]int{p.Image.Shape[0], size[0], size[1], size[2]})
	p.Image.Crop(image, start, 0)
	p.Image = image
	if p.Seg != nil {
		seg := p.newSeg([4]int{p.Seg.Shape[0], size[0], size[1], size[2]})
		p.Seg.Crop(seg, start, -1)
		p.Seg = seg
	}
	p.Window = Window{}
	if p.folded.on {
		fold(&p.Image.Shape)
		if p.Seg != nil {
			fold(&p.Seg.Shape)
		}
	}
}

// view is what a transform reads: the channels of a patch, or of a case that it is a window of.
type view[T any] struct {
	data   []T
	shape  [4]int // of data
	start  [3]int // of the window, in data
	size   [3]int // of the window
	slices int    // of the window, where they are channels; 0: they are not
	lowest int16  // of a segmentation: no label is below it
}

// viewOf gives the view of a patch's image or segmentation.
func viewOf[T any](p *Patch, v *volume.Volume[T]) view[T] {
	if !p.isWindow() {
		return view[T]{data: v.Data, shape: v.Shape, size: v.Spatial(), lowest: math.MinInt16}
	}
	w := view[T]{data: v.Data, shape: v.Shape, start: p.Window.Start, size: p.Window.Size,
		slices: p.slices(), lowest: p.Window.Lowest}
	if w.slices > 0 {
		w.size[0] = 1
	}
	return w
}

// channels is the number of channels that a transform sees.
func (v *view[T]) channels() int { return v.shape[0] * max(v.slices, 1) }

// box returns the part of channel c that lies in the data: its first voxel in the window, its size,
// and its values, from its first voxel on and with the strides of the data. Where there is none, the
// size is 0.
func (v *view[T]) box(c int) (lower, size [3]int, data []T) {
	start := v.start
	if v.slices > 0 {
		start[0] += c % v.slices
		c /= v.slices
	}
	at := c
	for axis := range 3 {
		n := v.shape[1+axis]
		lower[axis] = max(0, -start[axis])
		size[axis] = min(v.size[axis], n-start[axis]) - lower[axis]
		if size[axis] <= 0 {
			return [3]int{}, [3]int{}, nil
		}
		at = at*n + start[axis] + lower[axis]
	}
	return lower, size, v.data[at:]
}
