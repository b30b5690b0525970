package infer

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/torch"
)

// tile is one place of the window: its first voxel along each axis of the patch and, in a 2d configuration, the slice.
type tile struct {
	slice int // of axis 0; -1 in a 3d configuration
	start []int
}

// grid is the padded image and the tiles that cover it.
type grid struct {
	channels int
	padded   [3]int // z, y, x
	offset   [3]int // where the image lies in the padded one
	inside   [3]int // size of the image
	tiles    []tile
}

// newGrid pads the image (c,z,y,x) to at least the patch, half of the missing voxels before and the rest after it, and
// lays tiles over it: first axis outermost; in a 2d configuration slice after slice.
// Source: nnU-Net 2.5.1, predict_from_raw_data.py, _internal_get_sliding_window_slicers; acvl_utils, pad_nd_image.
func newGrid(patch []int, shape [4]int, step float64) grid {
	g := grid{channels: shape[0], inside: [3]int(shape[1:]), padded: [3]int(shape[1:])}
	flat := 3 - len(patch) // axes that the patch lacks
	for i, n := range patch {
		axis := flat + i
		if missing := n - g.inside[axis]; missing > 0 {
			g.padded[axis], g.offset[axis] = n, missing/2
		}
	}
	places := [][]int{{}}
	for i, n := range patch {
		var longer [][]int
		starts := steps(g.padded[flat+i], n, step)
		for _, p := range places {
			for _, s := range starts {
				longer = append(longer, append(p[:len(p):len(p)], s))
			}
		}
		places = longer
	}
	if flat == 0 {
		for _, p := range places {
			g.tiles = append(g.tiles, tile{-1, p})
		}
		return g
	}
	for z := range g.padded[0] {
		for _, p := range places {
			g.tiles = append(g.tiles, tile{z, p})
		}
	}
	return g
}

// steps gives the tiles' starts along one axis of image ≥ patch voxels: as few as keep the distance at step·patch or
// below, evenly spread, rounded half to even.
// Source: nnU-Net 2.5.1, sliding_window_prediction.py, compute_steps_for_sliding_window.
func steps(image, patch int, step float64) []int {
	n := int(math.Ceil(float64(image-patch)/(float64(patch)*step))) + 1
	starts := make([]int, n)
	if n > 1 {
		distance := float64(image-patch) / float64(n-1)
		for i := range starts {
			starts[i] = int(math.RoundToEven(distance * float64(i)))
		}
	}
	return starts
}

// voxels is the size of the padded image.
func (g grid) voxels() int { return g.padded[0] * g.padded[1] * g.padded[2] }

// of is the part of x (…, z, y, x), a tensor over the padded image, that lies under t; a view without the axis of slices
// in a 2d configuration.
func (t tile) of(s *torch.Scope, x *torch.Tensor, patch []int) *torch.Tensor {
	axis := int64(x.Dim() - 3)
	if t.slice >= 0 {
		x = s.Select(x, axis, int64(t.slice))
	}
	for i, start := range t.start {
		x = s.Narrow(x, axis+int64(i), int64(start), int64(patch[i]))
	}
	return x
}

// inner is the part of x (…, z, y, x) that lies over the image itself; a view.
func (g grid) inner(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	axis := int64(x.Dim() - 3)
	for i := range 3 {
		if g.inside[i] != g.padded[i] {
			x = s.Narrow(x, axis+int64(i), int64(g.offset[i]), int64(g.inside[i]))
		}
	}
	return x
}

// gaussian is the weight of each voxel of a patch, row-major: a Gaussian around voxel n/2 of each axis with σ = n/8,
// its maximum 10, zero beyond int(4σ+½) voxels. The values are still to be rounded to float16.
// Source: nnU-Net 2.5.1, sliding_window_prediction.py, compute_gaussian (scipy's gaussian_filter of one voxel, truncate 4).
func gaussian(patch []int) []float64 {
	weights := []float64{1}
	for _, n := range patch {
		sigma := float64(n) / 8
		radius := int(4*sigma + 0.5)
		line, sum := make([]float64, n), 0.0
		for d := -radius; d <= radius; d++ {
			v := math.Exp(-0.5 / (sigma * sigma) * float64(d*d))
			sum += v
			if i := n/2 + d; i >= 0 && i < n {
				line[i] = v
			}
		}
		product := make([]float64, 0, len(weights)*n)
		for _, w := range weights {
			for _, v := range line {
				product = append(product, w*(v/sum))
			}
		}
		weights = product
	}
	most := 0.0
	for _, w := range weights {
		most = max(most, w)
	}
	for i := range weights {
		weights[i] /= most / 10
	}
	return weights
}

// weightMap is the patch's weights as dtype on device: the Gaussian rounded to float16, whose zeros become the smallest
// weight above zero so that no voxel's weights sum to nothing; or ones.
func weightMap(s *torch.Scope, patch []int, useGaussian bool, dtype torch.DType, device torch.Device) (*torch.Tensor, error) {
	shape := wide(patch)
	if !useGaussian {
		return s.Full(shape, 1, dtype, device), s.Err()
	}
	var rounded []float32
	err := s.With(func(c *torch.Scope) error {
		half := c.To(torch.FromSlice(c, gaussian(patch), shape...), torch.Float16, torch.CPU)
		var err error
		rounded, err = torch.Slice[float32](c.To(half, torch.Float32, torch.CPU))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("infer: weight map of patch %v: %w", patch, err)
	}
	least := float32(math.Inf(1))
	for _, w := range rounded {
		if w > 0 && w < least {
			least = w
		}
	}
	for i, w := range rounded {
		if w == 0 {
			rounded[i] = least
		}
	}
	return s.To(torch.FromSlice(s, rounded, shape...), dtype, device), s.Err()
}

func wide(v []int) []int64 {
	w := make([]int64, len(v))
	for i, x := range v {
		w[i] = int64(x)
	}
	return w
}
