package seg

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/internal/parallel"
	"github.com/lntorch/lntorch/volume"
)

const (
	samePlace = 0.01    // mm, along the normal
	sameWay   = 1e-3    // of directions, relative of spacings
	maxVoxels = 1 << 30 // of all planes
	nearly    = 1e-6    // of a pixel: halfway goes one way, not either
)

// A plane is where frames of one position along the normal lie.
type plane struct {
	t, u, v float64 // of its first pixel: along the normal in mm, along rows and columns in pixels
	slice   int     // among the planes with frames; -1 if there is no frame
}

// planes are the planes of a segmentation, ascending.
type planes struct {
	list             []plane
	at               labels.Vector // from which positions count
	normal, row, col labels.Vector // row and col lead to the next pixel by a scalar product
	reach            float64       // mm, beyond which a plane says nothing
}

// resample draws the segmentation on a grid of its own planes, and gives each voxel of grid the
// nearest pixel.
func (s *Segmentation) resample(grid *labels.Grid, all []labels.Label, of [][]int,
	o Options) (*labels.Map, error) {
	p, index, err := s.planes(o.Slices)
	if err != nil {
		return nil, err
	}
	size := [3]int{s.Columns, s.Rows, 0}
	for _, plane := range p.list {
		size[2] = max(size[2], plane.slice+1)
	}
	if size[0]*size[1] > maxVoxels/size[2] {
		return nil, fmt.Errorf("its %d planes of %d × %d pixels are too many to be resampled", size[2],
			size[0], size[1])
	}
	own := labels.NewMap(&labels.Grid{Size: size}, all)
	areas := make([]labels.Area, len(s.frames))
	for i := range areas {
		areas[i] = labels.Area{X1: size[0], Y1: size[1], Stride: size[0], DX: 1, DY: size[0],
			At: index[i] * size[0] * size[1]}
	}
	if _, err := s.draw(own, areas, of, o); err != nil {
		return nil, err
	}
	m := labels.NewMap(grid, all)
	switch to := m.Pixels.(type) {
	case volume.Slice[uint8]:
		nearest(to, own.Pixels.(volume.Slice[uint8]), p, size, grid, o.Workers)
	case volume.Slice[uint16]:
		nearest(to, own.Pixels.(volume.Slice[uint16]), p, size, grid, o.Workers)
	}
	if n := own.Overlaps(); n > 0 {
		m.Warn("%d pixels belong to several labels: they have the last of these", n)
	}
	m.Finish()
	return m, nil
}

// planes finds the planes of the frames, and of each frame the number of its plane among those that
// have frames.
func (s *Segmentation) planes(others []labels.Vector) (*planes, []int, error) {
	first := &s.frames[0]
	p := &planes{at: first.position, normal: first.normal}
	p.row = labels.Along(labels.Vector{}, 1/labels.Dot(first.row, first.row), first.row)
	p.col = labels.Along(labels.Vector{}, 1/labels.Dot(first.column, first.column), first.column)
	place := func(position labels.Vector) plane {
		d := labels.Sub(position, p.at)
		return plane{t: labels.Dot(d, p.normal), u: labels.Dot(d, p.row), v: labels.Dot(d, p.col),
			slice: -1}
	}
	at := make([]plane, len(s.frames))
	order := make([]int, len(s.frames))
	for i := range s.frames {
		f := &s.frames[i]
		if !same(f.row, first.row) || !same(f.column, first.column) {
			return nil, nil, fmt.Errorf("frame %d has another orientation or spacing than the first "+
				"one: expected the same, to be resampled", i+1)
		}
		at[i], order[i] = place(f.position), i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return compare(at[a].t, at[b].t)
	})
	index := make([]int, len(s.frames))
	for _, i := range order {
		n := len(p.list)
		if n == 0 || at[i].t-p.list[n-1].t > samePlace {
			at[i].slice = n
			p.list = append(p.list, at[i])
		} else if last := p.list[n-1]; max(math.Abs(at[i].u-last.u), math.Abs(at[i].v-last.v)) > offGrid {
			return nil, nil, fmt.Errorf("frame %d lies beside another one in its plane: expected "+
				"them at one place, to be resampled", i+1)
		}
		index[i] = len(p.list) - 1
	}
	if others != nil {
		p.reach = math.Inf(1)
		return p, index, p.add(others, place)
	}
	distance := math.Abs(first.measures[0])
	if distance <= 0 {
		for k := 1; k < len(p.list); k++ {
			if d := p.list[k].t - p.list[k-1].t; k == 1 || d < distance {
				distance = d
			}
		}
	}
	if distance <= 0 {
		distance = math.Abs(first.measures[1])
	}
	if distance <= 0 {
		return nil, nil, errors.New("it has one plane, which says nothing of its thickness: it cannot " +
			"be resampled")
	}
	p.reach = distance * (0.5 + nearly)
	return p, index, nil
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func same(a, b labels.Vector) bool {
	d := labels.Sub(a, b)
	return labels.Dot(d, d) <= sameWay*sameWay*labels.Dot(b, b)
}

// add adds the slices of the image, on some of which the planes of the frames lie.
func (p *planes) add(all []labels.Vector, place func(labels.Vector) plane) error {
	const apart = 0.1 // mm
	found := 0
	var empty []plane
	for _, position := range all {
		s := place(position)
		i, _ := slices.BinarySearchFunc(p.list, s.t, func(p plane, t float64) int {
			return compare(p.t, t)
		})
		switch {
		case i < len(p.list) && p.list[i].t-s.t < apart, i > 0 && s.t-p.list[i-1].t < apart:
			found++
		default:
			empty = append(empty, s)
		}
	}
	if found < len(p.list) {
		return fmt.Errorf("%d of its planes lie on no slice of the image: choose the series that it was "+
			"made from, or give --resample, which takes the nearest pixel", len(p.list)-found)
	}
	p.list = append(p.list, empty...)
	slices.SortFunc(p.list, func(a, b plane) int { return compare(a.t, b.t) })
	return nil
}

// nearest gives each voxel of a grid the nearest pixel of the nearest plane.
func nearest[P uint8 | uint16](to, from []P, p *planes, size [3]int, grid *labels.Grid,
	workers int) {
	nx, ny := grid.Size[0], grid.Size[1]
	_ = parallel.Each(grid.Size[2], workers, func(z int) error {
		k := 0 // the nearest plane
		for y := range ny {
			row := to[(z*ny+y)*nx:][:nx]
			first := grid.Place(labels.Vector{0, float64(y), float64(z)})
			start := labels.Sub(first, p.at)
			step := labels.Sub(grid.Place(labels.Vector{1, float64(y), float64(z)}), first)
			t, dt := labels.Dot(start, p.normal), labels.Dot(step, p.normal)
			u, du := labels.Dot(start, p.row), labels.Dot(step, p.row)
			v, dv := labels.Dot(start, p.col), labels.Dot(step, p.col)
			for x := range row {
				i := float64(x)
				k = p.near(t+i*dt, k)
				plane := &p.list[k]
				if plane.slice < 0 || math.Abs(t+i*dt-plane.t) > p.reach {
					continue
				}
				a, b := math.Floor(u+i*du-plane.u+0.5+nearly), math.Floor(v+i*dv-plane.v+0.5+nearly)
				if a >= 0 && a < float64(size[0]) && b >= 0 && b < float64(size[1]) {
					row[x] = from[(plane.slice*size[1]+int(b))*size[0]+int(a)]
				}
			}
		}
		return nil
	})
}

// near returns the plane nearest to t, and of two the lower one. k is a guess.
func (p *planes) near(t float64, k int) int {
	middle := func(i int) float64 { return (p.list[i].t+p.list[i+1].t)/2 + nearly }
	if (k == 0 || t > middle(k-1)) && (k == len(p.list)-1 || t <= middle(k)) {
		return k
	}
	low, high := 0, len(p.list)-1
	for low < high {
		if i := (low + high) / 2; t > middle(i) {
			low = i + 1
		} else {
			high = i
		}
	}
	return low
}
