package augment

// transforms lists constructors of the training transforms, in nnU-Net's order. A new transform is
// a file of its own and a line here.
// Source: nnU-Net 2.5.1, nnUNetTrainer.get_training_transforms.
var transforms = []func(Setting) Transform{
	mirror,
}

// Setting holds the training settings that transforms depend on.
type Setting struct {
	PatchSize []int // voxels (z, y, x) or (y, x)
}

// Training returns the augmentation for training.
func Training(s Setting) List {
	var l List
	for _, transform := range transforms {
		l.Transforms = append(l.Transforms, transform(s))
	}
	return l
}
