package infer

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/torch"
)

// tile is one position of the window: its first voxel in the padded image (z, y, x).
type tile struct{ start [3]int }

// grid is the padded image and the tiles that cover it.
type grid struct {
	channels int
	patch    [3]int // z, y, x; z is 1 in a 2d configuration
	padded   [3]int // z, y, x
	offset   [3]int // first voxel of the image in the padded one
	inside   [3]int // size of the image
	tiles    []tile
}

// newGrid pads the image (c,z,y,x) to at least the patch size, half of the missing voxels before
// and the rest after it, and covers it with tiles: first axis outermost; in a 2d configuration
// slice by slice.
// Source: nnU-Net 2.5.1, predict_from_raw_data.py, _internal_get_sliding_window_slicers;
// acvl_utils, pad_nd_image.
func newGrid(patch []int, shape [4]int, step float64) grid {
	g := grid{channels: shape[0], patch: [3]int{1, 1, 1}, inside: [3]int(shape[1:]),
		padded: [3]int(shape[1:])}
	flat := 3 - len(patch) // axes that the patch lacks
	copy(g.patch[flat:], patch)
	var starts [3][]int
	for axis, n := range g.patch {
		if axis < flat {
			for i := range g.padded[axis] {
				starts[axis] = append(starts[axis], i)
			}
			continue
		}
		if missing := n - g.inside[axis]; missing > 0 {
			g.padded[axis], g.offset[axis] = n, missing/2
		}
		starts[axis] = steps(g.padded[axis], n, step)
	}
	for _, z := range starts[0] {
		for _, y := range starts[1] {
			for _, x := range starts[2] {
				g.tiles = append(g.tiles, tile{[3]int{z, y, x}})
			}
		}
	}
	return g
}

// maxTiles bounds the tiles of an image, which are listed. A CT of 1000³ voxels has 3000 with a
// patch of 128³ and 2⋅10⁵ with one of 32³.
const maxTiles = 5_000_000

// tileEstimate is the number of tiles, as a float64: it may be beyond any integer.
func tileEstimate(patch []int, shape [4]int, step float64) float64 {
	flat := 3 - len(patch)
	n := 1.0
	for axis, size := range shape[1:] {
		if axis < flat {
			n *= float64(size)
		} else {
			n *= stepCount(max(size, patch[axis-flat]), patch[axis-flat], step)
		}
	}
	return n
}

// stepCount is the number of tiles along an axis of image ≥ patch voxels.
func stepCount(image, patch int, step float64) float64 {
	return math.Ceil(float64(image-patch)/(float64(patch)*step)) + 1
}

// steps returns the starts of the tiles along one axis of image ≥ patch voxels: the fewest with
// distances of at most step·patch, evenly spaced, rounded half to even.
// Source: nnU-Net 2.5.1, sliding_window_prediction.py, compute_steps_for_sliding_window.
func steps(image, patch int, step float64) []int {
	n := int(stepCount(image, patch, step))
	starts := make([]int, n)
	if n > 1 {
		distance := float64(image-patch) / float64(n-1)
		for i := range starts {
			starts[i] = int(math.RoundToEven(distance * float64(i)))
		}
	}
	return starts
}

// region is the box of the padded image covered by the sums: half-open ranges of the axes z, y and
// x.
type region [3][2]int

// size is the extent of the region along an axis.
func (r region) size(axis int) int { return r[axis][1] - r[axis][0] }

// part returns the intersection of tile t with the region: from, relative to the tile's start, and
// length along each axis. ok is false if it is empty.
func (r region) part(g *grid, t tile) (from, length [3]int, ok bool) {
	for i, start := range t.start {
		lo, hi := max(start, r[i][0]), min(start+g.patch[i], r[i][1])
		if lo >= hi {
			return from, length, false
		}
		from[i], length[i] = lo-start, hi-lo
	}
	return from, length, true
}

// load copies a tile of image (channels, inside) to dst (channels, patch) without writing the
// padding. All tiles have the same position along a padded axis, so padding that was 0 stays 0.
func (g *grid) load(dst, image []float32, t tile) {
	var lo, hi, at [3]int // range of the tile inside the image, and its first voxel there
	for i := range 3 {
		lo[i] = max(g.offset[i]-t.start[i], 0)
		hi[i] = min(g.offset[i]+g.inside[i]-t.start[i], g.patch[i])
		at[i] = t.start[i] + lo[i] - g.offset[i]
	}
	for c := range g.channels {
		for z := lo[0]; z < hi[0]; z++ {
			for y := lo[1]; y < hi[1]; y++ {
				row := dst[((c*g.patch[0]+z)*g.patch[1]+y)*g.patch[2]:][lo[2]:hi[2]]
				line := (c*g.inside[0]+at[0]+z-lo[0])*g.inside[1] + at[1] + y - lo[1]
				copy(row, image[line*g.inside[2]+at[2]:])
			}
		}
	}
}

// gaussian returns the weights of a patch, row-major: a Gaussian centred at voxel n/2 of each axis
// with σ = n/8 and maximum 10, zero beyond int(4σ+½) voxels. The values are not yet rounded to
// float16.
// Source: nnU-Net 2.5.1, sliding_window_prediction.py, compute_gaussian (scipy's gaussian_filter of
// one voxel, truncate 4).
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

// weightMap returns the patch weights as dtype on device: ones, or the Gaussian rounded to float16,
// with zeros replaced by the smallest positive weight so that no voxel has a weight sum of 0.
func weightMap(s *torch.Scope, patch []int, useGaussian bool, dtype torch.DType,
	device torch.Device) (*torch.Tensor, error) {
	shape := torch.Sizes(patch)
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
