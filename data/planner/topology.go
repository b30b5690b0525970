package planner

import (
	"math"
	"slices"
)

// minEdge is the smallest edge of a feature map, in voxels. Source:
// UNet_featuremap_min_edge_length.
const minEdge = 4

// topology is the shape of a U-Net for a patch.
type topology struct {
	strides, kernels [][]int // per stage, one entry per axis
	patch            []int   // the patch, rounded up to multiples of divisor
	divisor          []int   // product of the strides, per axis
}

// newTopology pools the axes whose spacing is within a factor of two of the finest one, until the
// patch is small. Kernels have size 3 along an axis once its spacing is no longer much finer than
// the others'. The patch may have fractions (a median of two sizes).
// Source: nnU-Net 2.5.1, network_topology.py, get_pool_and_conv_props.
func newTopology(spacing, patch []float64) topology {
	dim := len(spacing)
	cur, size := slices.Clone(spacing), slices.Clone(patch)
	t := topology{
		strides: [][]int{slices.Repeat([]int{1}, dim)},
		divisor: slices.Repeat([]int{1}, dim),
		patch:   make([]int, dim),
	}
	kernel := slices.Repeat([]int{1}, dim)
	for {
		finest := math.Inf(1) // of the axes that can still be pooled
		for a := range dim {
			if size[a] >= 2*minEdge {
				finest = min(finest, cur[a])
			}
		}
		var pooled []int
		for a := range dim {
			if size[a] >= 2*minEdge && cur[a]/finest < 2 {
				pooled = append(pooled, a)
			}
		}
		if len(pooled) == 0 || len(pooled) == 1 && size[pooled[0]] < 3*minEdge {
			break
		}
		for a := range dim {
			if cur[a]/slices.Min(cur) < 2 {
				kernel[a] = 3
			}
		}
		stride := slices.Repeat([]int{1}, dim)
		for _, a := range pooled {
			stride[a] = 2
			t.divisor[a] *= 2
			cur[a] *= 2
			size[a] = math.Ceil(size[a] / 2)
		}
		t.strides = append(t.strides, stride)
		t.kernels = append(t.kernels, slices.Clone(kernel))
	}
	t.kernels = append(t.kernels, slices.Repeat([]int{3}, dim)) // the bottleneck
	for a, p := range patch {
		d := float64(t.divisor[a])
		if rest := math.Mod(p, d); rest != 0 {
			p += d - rest
		}
		t.patch[a] = int(p)
	}
	return t
}

// features returns the channels of each stage: doubled from 32 on, up to limit.
func (t *topology) features(limit int) []int {
	f := make([]int, len(t.strides))
	for i := range f {
		f[i] = baseFeatures
		if i > 0 {
			f[i] = min(limit, 2*f[i-1])
		}
	}
	return f
}

// featureMapSize is nnU-Net's memory estimate of a network: the feature map elements that its
// convolutions write for one patch. blocks holds the convolutions of each encoder stage, or the
// residual blocks if residual is set; decoder is the number of convolutions per decoder stage.
// Source: dynamic_network_architectures 0.3.1, compute_conv_feature_map_size of the encoders and
// the decoder.
func (t *topology) featureMapSize(features, blocks []int, decoder int, classes int,
	residual bool) int64 {
	size := slices.Clone(t.patch)
	voxels := func() int64 {
		n := int64(1)
		for _, s := range size {
			n *= int64(s)
		}
		return n
	}
	var total int64
	if residual {
		total = int64(features[0]) * voxels() // the stem
	}
	maps := make([]int64, len(t.strides)) // elements of one feature map per stage, all channels
	var full int64                        // voxels of the first stage
	for s, stride := range t.strides {
		strided := false
		for a := range size {
			strided = strided || stride[a] != 1
			size[a] /= stride[a]
		}
		maps[s] = int64(features[s]) * voxels()
		if s == 0 {
			full = voxels()
		}
		if !residual {
			total += int64(blocks[s]) * maps[s]
			continue
		}
		total += 2 * int64(blocks[s]) * maps[s]
		if strided || s > 0 && features[s] != features[s-1] {
			total += maps[s] // the skip's convolution
		}
	}
	for s := range len(maps) - 1 {
		total += int64(decoder+1) * maps[s] // and the transposed convolution
	}
	return total + int64(classes)*full
}
