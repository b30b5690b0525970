package augment

import (
	"errors"
	"math/rand/v2"
)

// Convert3DTo2DTransform makes the slices of a patch its channels.
// Source: batchgeneratorsv2 0.2.1, pseudo2d.py.
type Convert3DTo2DTransform struct{}

// Name returns Convert3DTo2DTransform.
func (Convert3DTo2DTransform) Name() string { return "Convert3DTo2DTransform" }

// Draw draws nothing.
func (t Convert3DTo2DTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply reshapes (c, z, y, x) to (c·z, 1, y, x).
func (*Convert3DTo2DTransform) Apply(p *Patch) error {
	if p.Dim != 3 {
		return errors.New("found a patch of 2 axes, expected 3")
	}
	p.folded = folded{on: true, image: p.Image.Shape[0]}
	if p.Seg != nil {
		p.folded.seg = p.Seg.Shape[0]
	}
	p.Dim = 2
	if p.isWindow() {
		return nil // folded when it is cut out
	}
	fold(&p.Image.Shape)
	if p.Seg != nil {
		fold(&p.Seg.Shape)
	}
	return nil
}

func fold(shape *[4]int) { shape[0], shape[1] = shape[0]*shape[1], 1 }

func unfold(shape *[4]int, channels int) { shape[0], shape[1] = channels, shape[0]/channels }

// Convert2DTo3DTransform undoes Convert3DTo2DTransform.
// Source: batchgeneratorsv2 0.2.1, pseudo2d.py.
type Convert2DTo3DTransform struct{}

// Name returns Convert2DTo3DTransform.
func (Convert2DTo3DTransform) Name() string { return "Convert2DTo3DTransform" }

// Draw draws nothing.
func (t Convert2DTo3DTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply reshapes (c·z, 1, y, x) to (c, z, y, x).
func (*Convert2DTo3DTransform) Apply(p *Patch) error {
	if !p.folded.on {
		return errors.New("found no Convert3DTo2DTransform before it, expected one")
	}
	p.cut()
	unfold(&p.Image.Shape, p.folded.image)
	if p.Seg != nil {
		unfold(&p.Seg.Shape, p.folded.seg)
	}
	p.folded, p.Dim = folded{}, 3
	return nil
}
