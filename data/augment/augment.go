// Package augment transforms training patches at random and converts their segmentations to the
// targets of the loss: nnU-Net's list of transforms with the numbers of batchgeneratorsv2 0.2.1.
// Sampling and batching patches are data/loader's.
//
// Drawing and applying are separate: each Transform of a List draws the Parameters of a sample,
// which have the same effect on a patch wherever and however often they are applied. Parameters are
// plain JSON with the class names and keys of batchgeneratorsv2, so that either side can draw them
// and either side can apply them (DecodeSpec, Drawn). Parameters.Apply runs on the CPU and uses no
// randomness. A transform is a file with the name of its class, and a line in registry.go.
package augment

import (
	"fmt"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
	"github.com/lntorch/lntorch/volume"
)

// Patch is one sample: image (c, z, y, x) and segmentation (s, z, y, x) of the same spatial shape.
type Patch struct {
	Image *volume.Volume[float32]
	Seg   *volume.Volume[int16] // nil: there is none
	// Dim is the number of spatial axes, 2 or 3. Two-dimensional patches have one slice.
	Dim int
	// Masks: Seg holds a channel of 0 and 1 for each region.
	Masks bool
	// Targets are made of Seg by DownsampleSegForDSTransform, highest resolution first. They may
	// share memory with Seg.
	Targets []*volume.Volume[int16]
	// Window, if it has a size, is where the patch lies in Image and Seg, which are then a whole case:
	// shared, and not to be changed. Drawn.Apply reads from it what the transforms need.
	Window Window
	// ImageInto and SegInto, if not nil, are where the first transform that makes a new image or
	// segmentation of as many voxels puts it.
	ImageInto *volume.Volume[float32]
	SegInto   *volume.Volume[int16]
	// Done, if not nil, is called by Drawn.Apply after each step that acted.
	Done func(transform string)
	// Scratch holds the memory that transforms need. With a Scratch that patches of one size have
	// used before, applying allocates nothing; nil: each patch brings its own.
	Scratch *Scratch

	folded folded
}

// folded remembers the channels of a patch whose slices are channels.
type folded struct {
	on         bool
	image, seg int
}

// Scratch is the memory of transforms, kept from patch to patch. Images and segmentations of a patch
// may lie in it: they are valid until it is used for the next patch. Not for concurrent use.
type Scratch struct {
	images    [2]volume.Volume[float32]
	segs      [2]volume.Volume[int16]
	targets   []volume.Volume[int16]
	list      []*volume.Volume[int16]
	field     []float32
	rows      [4][]float32
	offsets   []int
	powers    vector.Powers
	channels  []int
	axes      [3]lowResolutionAxis
	bits      [5][]uint64
	footprint []Run
	nearest   [3][]int32
	stack     []int32
	component []int32
	sizes     []int32
}

// newImage returns memory for another image than p's.
func (p *Patch) newImage(shape [4]int) *volume.Volume[float32] {
	if fits(p.ImageInto, p.Image, shape) {
		p.ImageInto.Shape = shape
		return p.ImageInto
	}
	s := p.scratch()
	return unused(p.Image, &s.images[0], &s.images[1], shape)
}

// newSeg returns memory for another segmentation than p's.
func (p *Patch) newSeg(shape [4]int) *volume.Volume[int16] {
	if fits(p.SegInto, p.Seg, shape) {
		p.SegInto.Shape = shape
		return p.SegInto
	}
	s := p.scratch()
	return unused(p.Seg, &s.segs[0], &s.segs[1], shape)
}

// fits reports whether a volume that was given for a result can take one of this shape.
func fits[T any](into, inUse *volume.Volume[T], shape [4]int) bool {
	return into != nil && into != inUse && len(into.Data) == volume.Numel(shape)
}

func (p *Patch) scratch() *Scratch {
	if p.Scratch == nil {
		p.Scratch = &Scratch{}
	}
	return p.Scratch
}

// grown returns s with n elements, in its own memory where that is enough. They are not cleared.
func grown[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	*s = (*s)[:n]
	return *s
}

// unused gives a shape to the first of two volumes that is not the one in use.
func unused[T any](inUse, first, second *volume.Volume[T], shape [4]int) *volume.Volume[T] {
	if inUse == first {
		first = second
	}
	first.Resize(shape)
	return first
}

// maxVoxels bounds what parameters may ask for: 512 MiB of float32.
const maxVoxels = 1 << 27

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

// RandomTransform applies a transform to a part of the samples.
// Source: batchgeneratorsv2 0.2.1, RandomTransform.
type RandomTransform struct {
	Transform
	ApplyProbability float64
}

// List is a sequence of transforms. The zero value changes nothing.
type List struct {
	// Augmentation names the list: nnunet, mirror, none, or the file it was read from.
	Augmentation string
	PatchSize    []int // voxels of the result, 2 or 3 axes; nil: not known
	// InitialPatchSize is the patch size that the transforms need as input (voxels, 2 or 3 axes);
	// nil: the size that they produce.
	InitialPatchSize []int
	MirrorAxes       []int // nil: none
	Transforms       []Transform
}

// Draw returns the parameters of one sample, drawn in the order of the transforms, each from its
// own random numbers.
func (l List) Draw(random Streams) Drawn {
	drawn := make(Drawn, 0, len(l.Transforms))
	occurred := map[string]int{}
	for _, t := range l.Transforms {
		name := t.Name()
		which := fmt.Sprintf("%s/%d", name, occurred[name])
		occurred[name]++
		drawn = append(drawn, draw(t, which, random))
	}
	return drawn
}

// draw draws the parameters of one transform. The gate comes first.
func draw(t Transform, which string, random Streams) Step {
	rng := random(which)
	s := Step{Transform: t.Name()}
	if r, ok := t.(RandomTransform); ok {
		s.Gated, t = true, r.Transform
		if rng.Float64() >= r.ApplyProbability {
			return s
		}
	}
	s.Parameters = t.Draw(rng)
	if n, ok := s.Parameters.(*GaussianNoiseParameters); ok {
		n.seed(random("field/" + which).Uint64())
	}
	return s
}

// Drawn holds the parameters drawn by a List for one sample: a step per transform.
type Drawn []Step

// Step holds the parameters drawn by one transform.
type Step struct {
	Transform  string     // Transform.Name
	Gated      bool       // it is a RandomTransform
	Parameters Parameters // nil: the gate was shut, the patch is not changed
}

// Apply applies each step in turn. An error names the transform that failed; p is then in an
// undefined state.
func (d Drawn) Apply(p *Patch) error {
	for i, s := range d {
		if s.Parameters == nil {
			continue
		}
		if _, ok := s.Parameters.(windowed); !ok {
			p.cut()
		}
		if err := s.Parameters.Apply(p); err != nil {
			return fmt.Errorf("augment: transform %d, %s: %w", i, s.Transform, err)
		}
		if p.Done != nil {
			p.Done(s.Transform)
		}
	}
	p.cut()
	return nil
}
