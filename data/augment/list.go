package augment

import "math/rand/v2"

// transforms makes the transforms of training, in the order in which they act, which is nnU-Net's.
// A new transform is a file of its own and a line here.
// Source: nnU-Net 2.5.1, nnUNetTrainer.get_training_transforms.
var transforms = []func(Setting) Transform{
	mirror,
}

// Setting is what the transforms of a training depend on.
type Setting struct {
	PatchSize []int // voxels (z, y, x) or (y, x)
}

// Training returns the list that training augments with.
func Training(s Setting) List {
	var l List
	for _, transform := range transforms {
		l.Transforms = append(l.Transforms, transform(s))
	}
	if len(transforms) == 0 {
		l.Transforms = []Transform{builtIn{len(s.PatchSize)}}
	}
	return l
}

// builtIn mirrors along all of its axes until transforms does.
type builtIn struct{ dim int }

func (builtIn) Name() string { return "mirroring" }

func (b builtIn) Draw(rng *rand.Rand) Parameters {
	var flip flips
	for axis := range b.dim {
		flip[axis+3-b.dim] = rng.Float64() < 0.5
	}
	return flip
}

type flips [3]bool

func (f flips) Apply(p *Patch) error {
	p.Image.Flip(f)
	p.Seg.Flip(f)
	return nil
}
