package augment

import (
	"fmt"
	"math/rand/v2"
)

// MirrorTransform reverses each of its axes with probability 0.5, in image and segmentation.
// Source: batchgeneratorsv2 0.2.1, MirrorTransform.
type MirrorTransform struct {
	// AllowedAxes are axes of the patch: 0, 1, 2 for (z, y, x) in 3d, 0, 1 for (y, x) in 2d.
	AllowedAxes []int `json:"allowed_axes"`
}

// Name returns MirrorTransform.
func (MirrorTransform) Name() string { return "MirrorTransform" }

// Draw draws one random number per axis, in the order of AllowedAxes.
func (m MirrorTransform) Draw(rng *rand.Rand) Parameters {
	p := &MirrorParameters{Axes: []int{}}
	for _, axis := range m.AllowedAxes {
		if rng.Float64() < 0.5 {
			p.Axes = append(p.Axes, axis)
		}
	}
	return p
}

// MirrorParameters are the axes to reverse.
type MirrorParameters struct {
	Axes []int `json:"axes" need:"true"`
}

// Apply reverses the axes in place. Axes that the patch does not have, or that occur twice, are an
// error.
func (m MirrorParameters) Apply(p *Patch) error {
	var flip [3]bool
	for _, axis := range m.Axes {
		if axis < 0 || axis >= p.Dim {
			return fmt.Errorf("axis %d, expected one of the %d axes of the patch, counted from 0",
				axis, p.Dim)
		}
		if flip[axis+3-p.Dim] {
			return fmt.Errorf("axis %d is listed twice, expected each axis once", axis)
		}
		flip[axis+3-p.Dim] = true
	}
	p.Image.Flip(flip)
	if p.Seg != nil {
		p.Seg.Flip(flip)
	}
	return nil
}
