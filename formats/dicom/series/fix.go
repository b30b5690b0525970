package series

import (
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/formats/internal/parallel"
	"github.com/lntorch/lntorch/volume"
)

// fixedGrid is the regular grid to which the slices of a stack are resampled: it has the axes and
// the in-plane spacing of the stack.
type fixedGrid struct {
	size    [3]int // x, y, z
	origin  vector
	spacing float64      // along the normal
	t       []float64    // of the slices, from the first one
	offset  [][2]float64 // of the grid's first voxel in each slice, in pixels
}

// mostVoxels bounds the grid, as a multiple of the stack's voxels.
const mostVoxels = 8

// nearly is how far from a whole pixel a position counts as that pixel.
const nearly = 1e-6

// fixed returns the grid for a stack without duplicates.
func (s *Stack) fixed() (*fixedGrid, error) {
	first := s.Slices[0].Position
	f := &fixedGrid{}
	var low, high [2]float64 // of the first pixels, in the plane
	place := make([][2]float64, len(s.Slices))
	for i, slice := range s.Slices {
		d := minus(slice.Position, first)
		f.t = append(f.t, dot(d, s.axes[2]))
		for k := range 2 {
			place[i][k] = dot(d, s.axes[k])
			low[k], high[k] = min(low[k], place[i][k]), max(high[k], place[i][k])
		}
	}
	d := distances(f.t)
	slices.Sort(d)
	f.spacing = d[0]
	if slices.Contains(s.Geometry.Problems, Irregular) {
		f.spacing = (d[len(d)/2] + d[(len(d)-1)/2]) / 2
	}
	voxels := 1.0
	for k := range 2 {
		more := math.Ceil((high[k]-low[k])/s.Spacing[k] - nearly)
		voxels *= more + float64(s.Size[k])
		f.size[k] = int(more) + s.Size[k]
	}
	planes := math.Floor(f.t[len(f.t)-1]/f.spacing+offMultiple) + 1
	voxels *= planes
	f.size[2] = int(planes)
	if voxels > mostVoxels*float64(s.Size[0])*float64(s.Size[1])*float64(s.Size[2]) {
		return nil, fmt.Errorf("%s: the regular grid would have %.3g voxels, more than %d times those "+
			"of the slices: they lie too far apart to be resampled", s.name(), voxels, mostVoxels)
	}
	for i := range 3 {
		f.origin[i] = first[i] + low[0]*s.axes[0][i] + low[1]*s.axes[1][i]
	}
	for i := range place {
		var o [2]float64
		for k := range 2 {
			o[k] = (low[k] - place[i][k]) / s.Spacing[k]
			if r := math.Round(o[k]); math.Abs(o[k]-r) < nearly {
				o[k] = r
			}
		}
		f.offset = append(f.offset, o)
	}
	return f, nil
}

// resample gives the values on the grid: linear between the two neighbouring slices, bilinear in
// each at the foot of the normal through the voxel. A voxel without a foot in both has the lowest of
// all values.
func (f *fixedGrid) resample(s *Stack, from volume.Pixels, workers int) volume.Pixels {
	low, _ := volume.Range(from)
	out := from.Make(f.size[0] * f.size[1] * f.size[2])
	parallel.Each(f.size[2], workers, func(z int) error {
		t := min(float64(z)*f.spacing, f.t[len(f.t)-1])
		b, _ := slices.BinarySearch(f.t, t)
		b = max(b, 1)
		a := b - 1
		weight := (t - f.t[a]) / (f.t[b] - f.t[a])
		if weight < nearly {
			b = a
		} else if weight > 1-nearly {
			a = b
		}
		r := rows{fixedGrid: f, from: from, size: s.Size}
		values, other := make([]float64, f.size[0]), make([]float64, f.size[0])
		for y := range f.size[1] {
			r.foot(values, a, y)
			if b != a {
				r.foot(other, b, y)
				for i := range values {
					values[i] = float64(values[i]*(1-weight)) + float64(other[i]*weight)
				}
			}
			for i, v := range values {
				if v != v {
					values[i] = low
				}
			}
			store(out, (z*f.size[1]+y)*f.size[0], values)
		}
		return nil
	})
	return out
}

// rows reads rows of slices for one goroutine.
type rows struct {
	*fixedGrid
	from volume.Pixels
	size [3]int // of the stack
	row  [2][]float64
}

// foot gives slice i at the feet of a row of the grid's voxels, NaN where there is none.
func (r *rows) foot(dst []float64, i, y int) {
	for k := range dst {
		dst[k] = math.NaN()
	}
	nx, ny := r.size[0], r.size[1]
	left, wx := split(r.offset[i][0])
	top, wy := split(r.offset[i][1])
	y += top
	// the last pixel from which there is a way to the next one, if one is needed
	lastX, lastY := nx-1, ny-1
	if wx > 0 {
		lastX--
	}
	if wy > 0 {
		lastY--
	}
	if y < 0 || y > lastY {
		return
	}
	if r.row[0] == nil {
		r.row = [2][]float64{make([]float64, nx), make([]float64, nx)}
	}
	row := r.row[0]
	r.from.Float64s(row, (i*ny+y)*nx)
	if wy > 0 {
		r.from.Float64s(r.row[1], (i*ny+y+1)*nx)
		for x, v := range r.row[1] {
			row[x] = float64(row[x]*(1-wy)) + float64(v*wy)
		}
	}
	for k := max(0, -left); k < len(dst) && k+left <= lastX; k++ {
		dst[k] = row[k+left]
		if wx > 0 {
			dst[k] = float64(dst[k]*(1-wx)) + float64(row[k+left+1]*wx)
		}
	}
}

// split divides a number into the whole below it and the rest.
func split(x float64) (below int, rest float64) {
	f := math.Floor(x)
	return int(f), x - f
}

// store writes values as pixels, rounded if they are integers.
func store(to volume.Pixels, at int, values []float64) {
	switch to := to.(type) {
	case volume.Slice[int16]:
		for i, v := range values {
			to[at+i] = int16(math.RoundToEven(v))
		}
	case volume.Slice[int32]:
		for i, v := range values {
			to[at+i] = int32(math.RoundToEven(v))
		}
	case volume.Slice[float32]:
		for i, v := range values {
			to[at+i] = float32(v)
		}
	}
}
