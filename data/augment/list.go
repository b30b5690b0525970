package augment

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
	return l
}
