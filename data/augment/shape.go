package augment

import (
	"errors"
)

// Shape is what a patch is without its voxels. Methods that take one, such as Taps, Axes and
// Sampling, say what Apply does to such a patch, for those who do it by other means: train/ondevice
// applies the same parameters as operators on a device. Their errors are Apply's.
type Shape struct {
	Image [4]int // (c, z, y, x)
	Seg   [4]int // likewise; 0 channels or more
	Dim   int    // spatial axes, 2 or 3
	// HasSeg: there is a segmentation.
	HasSeg bool
}

func (p *Patch) shape() Shape {
	s := Shape{Image: p.Image.Shape, Dim: p.Dim}
	if s.HasSeg = p.Seg != nil; s.HasSeg {
		s.Seg = p.Seg.Shape
	}
	return s
}

// axes returns the sizes along (z, y, x) or (y, x).
func (s *Shape) axes() []int { return s.Image[4-s.Dim:] }

// SegChannel resolves an index, which may be negative, of a channel of the segmentation.
func (s Shape) SegChannel(key string, i int) (int, error) {
	if !s.HasSeg {
		return 0, errors.New("needs a segmentation, which is not given")
	}
	return channelOf(key, i, s.Seg[0])
}

// wide converts indices to libtorch's type of them.
func wide(v []int32) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// CutsOut is the number of first steps that do no more than cut the patch out: a SpatialTransform
// without affine, with the conversions around it. Applied to a window of a case they read the final
// patch alone.
func (d Drawn) CutsOut() int {
	folds := 0
	for i, step := range d {
		switch p := step.Parameters.(type) {
		case *Convert3DTo2DTransform:
			folds = 1
		case *SpatialParameters:
			n := i + 1 + folds
			if p.Affine != nil || n > len(d) {
				return 0
			}
			if _, ok := d[n-1].Parameters.(*Convert2DTo3DTransform); folds == 1 && !ok {
				return 0
			}
			return n
		default:
			return 0
		}
	}
	return 0
}
