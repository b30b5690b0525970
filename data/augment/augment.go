// Package augment changes training patches at random and turns their segmentations into the targets
// of the loss. It neither samples patches nor batches them.
//
// Drawing and applying are apart: each Transform of a List draws the Parameters of a sample, and
// those, applied to a patch, make the same change wherever and however often they are applied.
// Parameters.Apply runs on the CPU. A transform is a file that bears the name of its class in
// batchgeneratorsv2, and a line in list.go.
package augment

import (
	"fmt"
	"math/rand/v2"

	"github.com/lntorch/lntorch/volume"
)

// Patch is one sample: image (c, z, y, x) and segmentation (1, z, y, x) with the same spatial
// shape.
type Patch struct {
	Image *volume.Volume[float32]
	Seg   *volume.Volume[int16]
	// Dim is the number of spatial axes, 2 or 3. Two-dimensional patches have one slice.
	Dim int
}

// Transform is one augmentation with the ranges of its parameters.
type Transform interface {
	// Name is the name of its class in batchgeneratorsv2.
	Name() string
	// Draw returns the parameters of one sample. All randomness comes from rng.
	Draw(rng *rand.Rand) Parameters
}

// Parameters are what a Transform drew for one sample. As JSON they have the keys of
// batchgeneratorsv2's get_parameters.
type Parameters interface {
	// Apply changes p, in place or by giving it other arrays. It draws nothing.
	Apply(p *Patch) error
}

// List is a sequence of transforms. The zero value is nnU-Net's for validation: patches stay as they
// are.
type List struct {
	// InitialPatchSize is the size of the patches that the transforms take (voxels, 2 or 3 axes);
	// nil: the size that they make.
	InitialPatchSize []int
	Transforms       []Transform
}

// Draw returns the parameters of one sample, drawn in the order of the transforms.
func (l List) Draw(rng *rand.Rand) Drawn {
	var d Drawn
	for _, t := range l.Transforms {
		d = append(d, Step{t.Name(), t.Draw(rng)})
	}
	return d
}

// Drawn is what a List drew for one sample: a step for each of its transforms.
type Drawn []Step

// Step is the parameters that one transform drew.
type Step struct {
	Transform  string // Transform.Name
	Parameters Parameters
}

// Apply changes p by each step in turn. An error names the transform that failed; p is then half
// changed.
func (d Drawn) Apply(p *Patch) error {
	for _, s := range d {
		if err := s.Parameters.Apply(p); err != nil {
			return fmt.Errorf("augment: %s: %w", s.Transform, err)
		}
	}
	return nil
}
