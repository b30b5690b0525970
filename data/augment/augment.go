// Package augment changes training patches at random and turns their segmentations into the targets
// of the loss. Pipeline is the place of the augmentations; those present mirror, or do nothing. It
// neither samples patches nor batches them.
package augment

import (
	"math/rand/v2"

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
	Identity{}.Apply(dst, src, nil)
	dst.Image.Flip(flip)
	dst.Seg.Flip(flip)
}
