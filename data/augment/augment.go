// Package augment changes training patches at random and turns their segmentations into the targets
// of the loss. Pipeline is the place of the augmentations; those present mirror, or do nothing. It
// neither samples patches nor batches them.
package augment

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/lntorch/lntorch/volume"
)

// Patch is one sample: image (c, z, y, x) and segmentation (1, z, y, x) with the same spatial
// shape. Two-dimensional patches have one slice.
type Patch struct {
	Image *volume.Volume[float32]
	Seg   *volume.Volume[int16]
}

// Pipeline is a sequence of augmentations.
type Pipeline interface {
	// InputSize returns the size of the patches to sample so that Apply can make patches of size
	// final (voxels, 2 or 3 axes). It is at least final.
	InputSize(final []int) []int
	// Apply fills dst, which has the final size, from src, which has the input size. src may be
	// changed. All randomness comes from rng.
	Apply(dst, src Patch, rng *rand.Rand)
}

// Identity is the pipeline of validation: patches are taken as they are.
type Identity struct{}

// InputSize returns final.
func (Identity) InputSize(final []int) []int { return final }

// Apply copies src into dst.
func (Identity) Apply(dst, src Patch, _ *rand.Rand) {
	copy(dst.Image.Data, src.Image.Data)
	copy(dst.Seg.Data, src.Seg.Data)
}

// Mirror reverses each of its axes with probability 0.5, in image and segmentation alike.
// Source: batchgeneratorsv2 0.2.1, MirrorTransform.
type Mirror struct {
	// Axes are axes of the patch: 0, 1, 2 for (z, y, x) in 3d, 0, 1 for (y, x) in 2d.
	Axes []int
	// Dim is the number of axes of the patch, 2 or 3.
	Dim int
}

// MirrorAll mirrors along all dim axes, as nnU-Net does by default.
func MirrorAll(dim int) Mirror {
	axes := make([]int, dim)
	for i := range axes {
		axes[i] = i
	}
	return Mirror{Axes: axes, Dim: dim}
}

// InputSize returns final.
func (m Mirror) InputSize(final []int) []int { return final }

// Apply draws one number per axis, in the order of Axes.
func (m Mirror) Apply(dst, src Patch, rng *rand.Rand) {
	var flip [3]bool
	for _, axis := range m.Axes {
		flip[axis+3-m.Dim] = rng.Float64() < 0.5
	}
	src.Image.Flip(dst.Image, flip)
	src.Seg.Flip(dst.Seg, flip)
}

// DummyTwoD reports whether nnU-Net augments 3d patches of this size slice by slice, since they
// are too anisotropic for rotations out of plane: the largest size is more than three times the first.
func DummyTwoD(patch []int) bool {
	return len(patch) == 3 && float64(slices.Max(patch))/float64(patch[0]) > 3
}

// RotationRange returns the largest angle in radians by which nnU-Net rotates patches of this size
// about each axis: ±30° in 3d, ±180° in 2d and in dummy-2D, ±15° for 2d patches with sides of a ratio
// above 1.5.
func RotationRange(patch []int) float64 {
	switch {
	case len(patch) == 2 && float64(slices.Max(patch))/float64(slices.Min(patch)) > 1.5:
		return radians(15)
	case len(patch) == 3 && !DummyTwoD(patch):
		return radians(30)
	}
	return radians(180)
}

// radians converts with the roundings of the reference.
func radians(degrees float64) float64 { return degrees / 360 * 2 * math.Pi }

// InitialPatchSize returns the size of the patches that nnU-Net samples where it rotates and scales
// them: large enough for a patch of the final size turned by up to its RotationRange about one axis,
// divided by 0.85 for scaling.
// Source: nnU-Net 2.5.1, compute_initial_patch_size.py and
// nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size (0.85 is from there).
func InitialPatchSize(patch []int) []int {
	angle := min(radians(90), RotationRange(patch))
	sin, cos := math.Sincos(angle)
	p := make([]float64, len(patch))
	for i := range patch {
		p[i] = float64(patch[i])
	}
	size := slices.Clone(p)
	grow := func(i, j int, a, b float64) {
		size[i] = max(size[i], math.Abs(a))
		size[j] = max(size[j], math.Abs(b))
	}
	if len(patch) == 3 {
		grow(1, 2, p[1]*cos+p[2]*sin, p[2]*cos-p[1]*sin)
		grow(0, 2, p[0]*cos-p[2]*sin, p[0]*sin+p[2]*cos)
		grow(0, 1, p[0]*cos+p[1]*sin, p[1]*cos-p[0]*sin)
	} else {
		grow(0, 1, p[0]*cos+p[1]*sin, p[1]*cos-p[0]*sin)
	}
	out := make([]int, len(patch))
	for i := range out {
		out[i] = int(size[i] / 0.85)
	}
	if DummyTwoD(patch) {
		out[0] = patch[0]
	}
	return out
}
