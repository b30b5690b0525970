package infer

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// chunkVoxels limits the float32 values that Labels holds at a time.
const chunkVoxels = 1 << 21

// Labels converts logits (heads,z,y,x) to labels (z,y,x), row-major. Without regions a voxel gets
// the class of the largest softmax probability; ties go to the lowest class. With regions it starts
// as background and gets the regions_class_order value of each region with a sigmoid above 0.5, in
// order, so later regions overwrite earlier ones.
// Source: nnU-Net 2.5.1, label_handling.py, convert_logits_to_segmentation.
func Labels(logits *torch.Tensor, l *plans.Labels) ([]uint8, error) {
	shape := logits.Shape()
	heads := l.NumSegmentationHeads()
	if len(shape) != 4 || shape[0] != int64(heads) {
		return nil, fmt.Errorf("infer: logits have shape %v, expected (%d heads, z, y, x) for "+
			"these labels", shape, heads)
	}
	if l.HasRegions && len(l.RegionsClassOrder) != heads {
		return nil, fmt.Errorf("infer: regions_class_order %v: expected one value for each of %d "+
			"regions", l.RegionsClassOrder, heads)
	}
	for _, v := range append([]int{heads - 1}, l.RegionsClassOrder...) {
		if v < 0 || v > 255 {
			return nil, fmt.Errorf("infer: label %d does not fit 8 bits: supported are 0 to 255; "+
				"renumber the labels in dataset.json", v)
		}
	}
	out := make([]uint8, shape[1]*shape[2]*shape[3])
	area := shape[2] * shape[3]
	depth := max(1, chunkVoxels/max(1, area*int64(heads)))
	err := torch.NoGrad(func() error {
		for z := int64(0); z < shape[1]; z += depth {
			n := min(depth, shape[1]-z)
			err := torch.With(func(s *torch.Scope) error {
				x := s.To(s.Narrow(logits, 1, z, n), torch.Float32, logits.Device())
				var labels *torch.Tensor
				if l.HasRegions {
					labels = paint(s, s.Sigmoid(x), l.RegionsClassOrder)
				} else {
					labels = s.To(s.Argmax(s.Softmax(x, 0), 0, false), torch.Uint8, logits.Device())
				}
				if s.Err() != nil {
					return s.Err()
				}
				return torch.CopyOut(labels, out[z*area:(z+n)*area])
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("infer: labels of logits %v: %w", shape, err)
	}
	return out, nil
}

// paint: probabilities (regions, z, y, x) → labels (z, y, x) uint8.
func paint(s *torch.Scope, probabilities *torch.Tensor, order []int) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	labels := s.Zeros(probabilities.Shape()[1:], torch.Uint8, probabilities.Device())
	for i, value := range order {
		labels = s.MaskedFill(labels, s.CompareScalar(s.Select(probabilities, 0, int64(i)),
			torch.Gt, 0.5), float64(value))
	}
	return labels
}

// SlabLabels converts a slab's logits as Labels does and writes the result to its position in out,
// the labels of the whole image of the given shape (z,y,x), row-major.
func SlabLabels(out []uint8, shape [3]int, slab volume.Slab, l *plans.Labels) error {
	axes := slab.Axes()
	size := [3]int{slab.Count, slab.Strip[1] - slab.Strip[0], shape[axes[2]]}
	n := size[0] * size[1] * size[2]
	if n <= 0 || len(slab.Data)%n != 0 || len(out) != shape[0]*shape[1]*shape[2] ||
		slab.First < 0 || slab.First+slab.Count > shape[axes[0]] ||
		slab.Strip[0] < 0 || slab.Strip[1] > shape[axes[1]] {
		return fmt.Errorf("infer: a slab of slices %d to %d of axis %d with %d values "+
			"does not fit an image of shape %v",
			slab.First, slab.First+slab.Count, slab.Axis, len(slab.Data), shape)
	}
	var labels []uint8
	err := torch.With(func(s *torch.Scope) error {
		x := torch.FromSlice(s, slab.Data,
			torch.Sizes([]int{len(slab.Data) / n, size[0], size[1], size[2]})...)
		if s.Err() != nil {
			return s.Err()
		}
		var err error
		labels, err = Labels(x, l)
		return err
	})
	if err != nil {
		return err
	}
	stride := [3]int{shape[1] * shape[2], shape[2], 1}
	for i := range size[0] {
		for j := range size[1] {
			at := (slab.First+i)*stride[axes[0]] + (slab.Strip[0]+j)*stride[axes[1]]
			row := labels[(i*size[1]+j)*size[2]:][:size[2]]
			for k, v := range row {
				out[at+k*stride[axes[2]]] = v
			}
		}
	}
	return nil
}
