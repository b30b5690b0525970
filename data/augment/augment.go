// Package augment transforms training patches at random and converts their segmentations to the
// targets of the loss. Sampling and batching patches are data/loader's.
//
// Drawing and applying are separate: each Transform of a List draws the Parameters of a sample,
// which have the same effect on a patch wherever and however often they are applied.
// Parameters.Apply runs on the CPU. A transform is a file with the name of its class in
// batchgeneratorsv2, and a line in list.go.
package augment

import (
	"fmt"
	"math/rand/v2"

	"github.com/lntorch/lntorch/volume"
)

// Patch is one sample: image (c, z, y, x) and segmentation (1, z, y, x) of the same spatial shape.
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

// Parameters are drawn by a Transform for one sample. Their JSON has the keys of
// batchgeneratorsv2's get_parameters.
type Parameters interface {
	// Apply changes p, in place or by replacing its arrays. It uses no randomness.
	Apply(p *Patch) error
}

// List is a sequence of transforms. The zero value is nnU-Net's for validation: patches are not
// changed.
type List struct {
	// InitialPatchSize is the patch size that the transforms need as input (voxels, 2 or 3 axes);
	// nil: the size that they produce.
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

// Drawn holds the parameters drawn by a List for one sample: a step per transform.
type Drawn []Step

// Step holds the parameters drawn by one transform.
type Step struct {
	Transform  string // Transform.Name
	Parameters Parameters
}

// Apply applies each step in turn. An error names the transform that failed; p is then in an
// undefined state.
func (d Drawn) Apply(p *Patch) error {
	for _, s := range d {
		if err := s.Parameters.Apply(p); err != nil {
			return fmt.Errorf("augment: %s: %w", s.Transform, err)
		}
	}
	return nil
}
