package augment

import (
	"fmt"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
	"github.com/lntorch/lntorch/volume"
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
	flip, err := m.flips(p.Dim)
	if err != nil {
		return err
	}
	reverse(p.Image, flip)
	if p.Seg != nil {
		reverse(p.Seg, flip)
	}
	return nil
}

// flips marks the axes (z, y, x) of a patch of dim axes.
func (m MirrorParameters) flips(dim int) (flip [3]bool, err error) {
	for _, axis := range m.Axes {
		if axis < 0 || axis >= dim {
			return flip, fmt.Errorf("axis %d, expected one of the %d axes of the patch, counted from 0",
				axis, dim)
		}
		if flip[axis+3-dim] {
			return flip, fmt.Errorf("axis %d is listed twice, expected each axis once", axis)
		}
		flip[axis+3-dim] = true
	}
	return flip, nil
}

// reverse reverses the marked axes (z, y, x) in place.
func reverse[T float32 | int16](v *volume.Volume[T], axes [3]bool) {
	n := v.Spatial()
	at := func(i, axis int) int {
		if axes[axis] {
			return n[axis] - 1 - i
		}
		return i
	}
	var kept [256]T
	for c := range v.Shape[0] {
		row := func(z, y int) []T { return v.Data[((c*n[0]+z)*n[1]+y)*n[2]:][:n[2]] }
		for z := range n[0] {
			for y := range n[1] {
				toZ, toY := at(z, 0), at(y, 1)
				switch a, b := row(z, y), row(toZ, toY); {
				case toZ < z || toZ == z && toY < y: // already exchanged
				case toZ == z && toY == y:
					if half := n[2] / 2; axes[2] {
						vector.ExchangeReversed(a[:half], a[n[2]-half:])
					}
				case axes[2]:
					vector.ExchangeReversed(a, b)
				default:
					for len(a) > 0 {
						part := copy(kept[:], a)
						copy(a, b[:part])
						copy(b, kept[:part])
						a, b = a[part:], b[part:]
					}
				}
			}
		}
	}
}

// Flips lists the axes (z, y, x) or (y, x) to reverse, from 0 on.
func (m MirrorParameters) Flips(s Shape) (axes []int, err error) {
	flip, err := m.flips(s.Dim)
	for i, f := range flip[3-s.Dim:] {
		if f {
			axes = append(axes, i)
		}
	}
	return axes, err
}
