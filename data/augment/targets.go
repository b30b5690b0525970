package augment

import (
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/volume"
)

// Targets converts a segmentation patch to the targets of the loss: -1 becomes background, regions
// become one channel each, and each output of a network with deep supervision gets its own size. In
// the reference these are the last transforms for both training and validation.
type Targets struct {
	regions [][]int // nil: labels
	sizes   [][3]int
	dim     int
	nearest [][3][]int32 // per level and axis: index of the source voxel
}

// NewTargets prepares targets for patches of the given final size (2 or 3 axes). scales has one row
// per output of the network, highest resolution first, relative to the patch; nil is one output of
// full resolution.
// Source: nnU-Net 2.5.1, nnUNetTrainer.get_validation_transforms; batchgeneratorsv2 0.2.1.
func NewTargets(patch []int, labels *plans.Labels, scales [][]float64) *Targets {
	t := &Targets{dim: len(patch)}
	if labels.HasRegions {
		for _, r := range labels.Regions {
			t.regions = append(t.regions, r.Values)
		}
		if labels.IgnoreLabel != nil {
			t.regions = append(t.regions, []int{*labels.IgnoreLabel})
		}
	}
	if scales == nil {
		scales = [][]float64{slices.Repeat([]float64{1}, t.dim)}
	}
	for _, scale := range scales {
		size := [3]int{1, 1, 1}
		var index [3][]int32
		index[0] = []int32{0}
		for i, s := range scale {
			axis := i + 3 - t.dim
			size[axis] = int(math.RoundToEven(float64(patch[i]) * s))
			index[axis] = make([]int32, size[axis])
			nearestExact(index[axis], patch[i])
		}
		t.sizes = append(t.sizes, size)
		t.nearest = append(t.nearest, index)
	}
	return t
}

// nearestExact sets each index to the one of in voxels with the nearest centre, like torch's
// interpolate(mode="nearest-exact"): floor((i+0.5)·in/out), in float32.
func nearestExact(index []int32, in int) {
	scale := float32(in) / float32(len(index))
	for i := range index {
		index[i] = int32(min(int((float32(i)+0.5)*scale), in-1))
	}
}

// Levels returns the number of targets.
func (t *Targets) Levels() int { return len(t.sizes) }

// Channels returns the number of channels of each target: 1 for labels; for regions their number,
// plus one with an ignore label.
func (t *Targets) Channels() int {
	if t.regions == nil {
		return 1
	}
	return len(t.regions)
}

// Regions reports whether targets are regions, returned by Masks, or labels, returned by Labels.
func (t *Targets) Regions() bool { return t.regions != nil }

// Shape returns the shape (c, spatial axes) of the target at a level.
func (t *Targets) Shape(level int) []int {
	return append([]int{t.Channels()}, t.sizes[level][3-t.dim:]...)
}

// Labels writes the target at a level, of Shape(level), to dst.
func (t *Targets) Labels(dst []int16, seg *volume.Volume[int16], level int) {
	t.sample(seg, level, func(i int, label int16) {
		dst[i] = max(label, 0) // -1, outside the image, is background
	})
}

// Masks writes the target at a level, of Shape(level), to dst: 1 where a voxel is in the channel's
// region, else 0. With an ignore label, the last channel masks ignored voxels.
func (t *Targets) Masks(dst []uint8, seg *volume.Volume[int16], level int) {
	n := t.sizes[level][0] * t.sizes[level][1] * t.sizes[level][2]
	for c, region := range t.regions {
		channel := dst[c*n:][:n]
		t.sample(seg, level, func(i int, label int16) {
			channel[i] = 0
			if slices.Contains(region, int(max(label, 0))) {
				channel[i] = 1
			}
		})
	}
}

// sample calls visit for the voxels of seg's first channel that the level keeps, in order.
func (t *Targets) sample(seg *volume.Volume[int16], level int, visit func(i int, label int16)) {
	in, index, i := seg.Spatial(), &t.nearest[level], 0
	for _, z := range index[0] {
		for _, y := range index[1] {
			row := seg.Data[(int(z)*in[1]+int(y))*in[2]:][:in[2]]
			for _, x := range index[2] {
				visit(i, row[x])
				i++
			}
		}
	}
}
