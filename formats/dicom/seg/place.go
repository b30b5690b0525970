package seg

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/lntorch/lntorch/formats/dicom/labels"
)

// Options say how a segmentation is drawn.
type Options struct {
	Threshold float64 // of a FRACTIONAL one: the smallest share, of 1, that is drawn
	// Resample takes for each voxel the nearest pixel. Without it frames must fall on the grid.
	Resample bool
	// Slices are the positions of the image's slices, ascending, if they are known. Without Resample
	// there is one for each slice of the grid, which it may miss a little: a frame falls on the
	// grid where it falls on such a slice, too. With Resample the grid was resampled from them: one
	// without a frame is empty.
	Slices  []labels.Vector
	Workers int // goroutines; 0 for as many as there are processors
}

// offGrid is how far from a voxel, in voxels, a pixel may lie.
const offGrid = 0.01

// Choose returns the labels for the chosen segments, or for each but 0, which is the background.
func (s *Segmentation) Choose(choices []labels.Choice) ([]labels.Label, error) {
	all, err := labels.Choose(choices, s.Parts(), "segment")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Source.Name, err)
	}
	return all, nil
}

// Parts lists the segments, in their order.
func (s *Segmentation) Parts() []labels.Part {
	parts := make([]labels.Part, len(s.Segments))
	for i, segment := range s.Segments {
		parts[i] = labels.Part{Number: segment.Number, Name: segment.Label,
			Empty: segment.Number == 0}
	}
	return parts
}

// Draw draws labels, which Choose returned, on a grid. Frames are placed by where they say they lie,
// whatever their order.
func (s *Segmentation) Draw(grid *labels.Grid, all []labels.Label, o Options) (*labels.Map, error) {
	if err := s.decodable(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Source.Name, err)
	}
	of := make([][]int, len(s.Segments)) // the labels of each segment, later ones first
	for l := len(all) - 1; l >= 0; l-- {
		for _, i := range all[l].Parts {
			of[i] = append(of[i], l+1)
		}
	}
	if o.Resample {
		m, err := s.resample(grid, all, of, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Source.Name, err)
		}
		return m, nil
	}
	areas := make([]labels.Area, len(s.frames))
	for i := range s.frames {
		var ok bool
		if areas[i], ok = s.area(grid, o.Slices, &s.frames[i]); !ok {
			return nil, s.notOn(grid, i)
		}
	}
	m := labels.NewMap(grid, all)
	outside, err := s.draw(m, areas, of, o)
	if err != nil {
		return nil, err
	}
	if outside > 0 {
		m.Warn("%d pixels of the segments lie outside of the image: they are left out", outside)
	}
	m.Finish()
	return m, nil
}

// draw draws each frame at its area, and returns how many of the pixels lie outside.
func (s *Segmentation) draw(m *labels.Map, areas []labels.Area, of [][]int,
	o Options) (int64, error) {
	var outside atomic.Int64
	wanted := func(i int) bool { return s.Type == LabelMap || len(of[s.frames[i].segment]) > 0 }
	err := s.each(s.tables(of, o.Threshold), o.Workers, wanted, func(i int, cells []uint16) {
		a := areas[i]
		if a.X0 > 0 || a.Y0 > 0 || a.X1 < s.Columns || a.Y1 < s.Rows {
			n := drawn(cells, labels.Area{X1: s.Columns, Y1: s.Rows, Stride: s.Columns})
			outside.Add(n - drawn(cells, a))
		}
		if s.Type == LabelMap {
			labels.Paint(m, a, cells, 1)
			return
		}
		for _, l := range of[s.frames[i].segment] {
			labels.Paint(m, a, cells, l)
		}
	})
	return outside.Load(), err
}

// drawn counts the cells of an area that are not 0.
func drawn(cells []uint16, a labels.Area) int64 {
	n := int64(0)
	for y := a.Y0; y < a.Y1; y++ {
		for _, c := range cells[y*a.Stride+a.X0 : y*a.Stride+a.X1] {
			if c != 0 {
				n++
			}
		}
	}
	return n
}

// area returns the part of a frame that lies in the grid, and its voxels. It returns false if the
// frame's pixels are not voxels of the grid, or of one that continues it, and do not lie on one of
// the image's slices like its pixels.
func (s *Segmentation) area(grid *labels.Grid, image []labels.Vector, f *frame) (labels.Area, bool) {
	x, signX := along(grid.Steps(f.row))
	y, signY := along(grid.Steps(f.column))
	if x == y {
		return labels.Area{}, false
	}
	first := grid.Voxel(f.position)
	for _, v := range first {
		const most = 1 << 30
		if !(math.Abs(v) < most) {
			return labels.Area{}, false
		}
	}
	sign := labels.Vector{}
	sign[x], sign[y] = float64(signX), float64(signY)
	at, ok := s.voxel(grid, f, labels.Vector{}, x, y, sign)
	if k := math.Round(first[2]); !ok && x+y == 1 && k >= 0 && k < float64(len(image)) {
		off := labels.Sub(grid.Voxel(image[int(k)]), labels.Vector{0, 0, k})
		at, ok = s.voxel(grid, f, off, x, y, sign)
	}
	if !ok {
		return labels.Area{}, false
	}
	a := labels.Area{X1: s.Columns, Y1: s.Rows, Stride: s.Columns}
	step := [3]int{1, grid.Size[0], grid.Size[0] * grid.Size[1]}
	for k := range 3 {
		a.At += at[k] * step[k]
	}
	a.DX, a.DY = signX*step[x], signY*step[y]
	a.X0, a.X1 = inside(at[x], signX, grid.Size[x], s.Columns)
	a.Y0, a.Y1 = inside(at[y], signY, grid.Size[y], s.Rows)
	if z := 3 - x - y; at[z] < 0 || at[z] >= grid.Size[z] {
		a.X1, a.Y1 = a.X0, a.Y0
	}
	return a, true
}

// voxel returns the voxel of a frame's first pixel, if all of its pixels are voxels of the grid, moved
// by off voxels. Rows of the frame follow axis x up or down, as sign says, columns axis y.
func (s *Segmentation) voxel(grid *labels.Grid, f *frame, off labels.Vector, x, y int,
	sign labels.Vector) (at [3]int, ok bool) {
	first := labels.Sub(grid.Voxel(f.position), off)
	for k := range 3 {
		first[k] = math.Round(first[k])
		at[k] = int(first[k])
	}
	for _, column := range []int{0, s.Columns - 1} {
		for _, row := range []int{0, s.Rows - 1} {
			place := labels.Along(f.position, float64(column), f.row)
			v := labels.Sub(grid.Voxel(labels.Along(place, float64(row), f.column)), off)
			want := first
			want[x] += sign[x] * float64(column)
			want[y] += sign[y] * float64(row)
			for k := range 3 {
				if !(math.Abs(v[k]-want[k]) <= offGrid) {
					return at, false
				}
			}
		}
	}
	return at, true
}

// along returns the axis that a step follows most, and whether up or down.
func along(step labels.Vector) (axis, sign int) {
	for k := range 3 {
		if math.Abs(step[k]) > math.Abs(step[axis]) {
			axis = k
		}
	}
	if step[axis] < 0 {
		return axis, -1
	}
	return axis, 1
}

// inside returns the range of i, from 0 to n, for which at + sign·i is one of size voxels.
func inside(at, sign, size, n int) (from, to int) {
	if from, to = -at, size-at; sign < 0 {
		from, to = at-size+1, at+1
	}
	from = min(max(from, 0), n)
	return from, min(max(to, from), n)
}

// notOn says that a frame does not lie on the grid, and shows both.
func (s *Segmentation) notOn(grid *labels.Grid, i int) error {
	f := &s.frames[i]
	length := func(v labels.Vector) float64 { return math.Sqrt(labels.Dot(v, v)) }
	return fmt.Errorf("%s: frame %d does not fall on the voxels of the image: it has %d × %d pixels of "+
		"%.5g × %.5g mm from (%.6g, %.6g, %.6g) along %s; the image has %s. Choose the series that "+
		"it was made from, or give --resample, which takes the nearest pixel", s.Source.Name, i+1,
		s.Columns, s.Rows, length(f.row), length(f.column), f.position[0], f.position[1], f.position[2],
		labels.Directions(f.row, f.column), grid)
}
