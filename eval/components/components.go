// Package components finds the connected components of a mask in a label map. It works on runs of voxels along x, so that time
// goes with the rows that hold anything, and memory with the runs: 12 bytes each. It is pure Go and uses all cores; the result
// does not depend on how many there are.
//
// It does not measure components; post-processing, counts and node scores do that with what it gives.
package components

import (
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/lntorch/lntorch/eval/mask"
)

// Integer is any element type of a label map.
type Integer = mask.Integer

// Connectivity is the number of neighbours of a voxel: those that share a face (6), an edge too (18), or a corner too (26).
type Connectivity int

// The three neighbourhoods of a voxel. Full is that of skimage.measure.label by default, which nnU-Net uses. For an image of
// one slice they are 4, 8 and 8 neighbours.
const (
	Faces Connectivity = 6
	Edges Connectivity = 18
	Full  Connectivity = 26
)

// Components are the components of a mask, numbered from 0 in the order of their first voxels, (z, y, x).
type Components struct {
	Voxels []int64 // of each component

	width  int     // voxels of a row
	runs   []run   // ordered by row and x
	starts []int32 // first run of each row, and the number of runs
}

// run is the voxels [from, to) of a row.
type run struct {
	from, to int32
	parent   int32 // a run of the same component that is not behind this one; in the end the component
}

// Find finds the components of the voxels of data, row-major of shape (z, y, x), that carry any of the labels. It returns an
// error for a shape that data does not fill and for more than 2^31 - 1 runs.
func Find[T Integer](data []T, shape [3]int, labels []int, c Connectivity) (*Components, error) {
	if min(shape[0], shape[1], shape[2]) < 0 || len(data) != shape[0]*shape[1]*shape[2] ||
		shape[2] > math.MaxInt32 {
		return nil, fmt.Errorf("components: shape %v for %d voxels", shape, len(data))
	}
	in := mask.NewLabelSet[T](labels)
	return find(shape, c, func(z0, z1 int, starts []int32) []run {
		return scan(data, shape, in, z0, z1, starts)
	})
}

// FindMask finds the components of a mask; rows and indices of voxels are those of its box. It
// returns an error for more than 2^31 - 1 runs.
func FindMask(m *mask.Mask, c Connectivity) (*Components, error) {
	return find(m.Shape, c, func(z0, z1 int, starts []int32) (runs []run) {
		for z := z0; z < z1; z++ {
			for y := range m.Shape[1] {
				before := len(runs)
				mask.Runs(m.Row(z, y), func(from, to int) {
					runs = append(runs, run{from: int32(from), to: int32(to)})
				})
				starts[z*m.Shape[1]+y+1] = int32(len(runs) - before)
			}
		}
		return runs
	})
}

// find joins the runs that scan finds in the slices [z0, z1); scan puts their number in each row
// into starts, one place further on.
func find(shape [3]int, c Connectivity, scan func(z0, z1 int, starts []int32) []run) (*Components,
	error) {
	if c != Faces && c != Edges && c != Full {
		return nil, fmt.Errorf("components: connectivity %d, expected 6, 18 or 26", int(c))
	}
	rows := shape[0] * shape[1]
	out := &Components{width: shape[2], starts: make([]int32, rows+1)}
	parts := out.split(shape[0])
	found := make([][]run, len(parts)-1)
	each(parts, func(k, z0, z1 int) { found[k] = scan(z0, z1, out.starts) })

	n := 0
	for _, f := range found {
		n += len(f)
	}
	if n > math.MaxInt32 {
		return nil, fmt.Errorf("components: %d runs of voxels, at most %d are supported: the labels are noise", n, math.MaxInt32)
	}
	out.runs = found[0]
	for _, f := range found[1:] {
		out.runs = append(out.runs, f...)
	}
	// starts holds the number of runs of each row one place further on.
	for r := range rows {
		out.starts[r+1] += out.starts[r]
	}
	for i := range out.runs {
		out.runs[i].parent = int32(i)
	}
	each(parts, func(_, z0, z1 int) {
		for z := z0; z < z1; z++ {
			out.join(z, shape[1], c, z > z0)
		}
	})
	for _, z := range parts[1 : len(parts)-1] {
		out.joinSlices(z, shape[1], c)
	}
	out.number()
	return out, nil
}

// split divides the slices among the cores.
func (c *Components) split(slices int) []int {
	n := max(min(runtime.GOMAXPROCS(0), slices), 1)
	parts := make([]int, n+1)
	for k := range parts {
		parts[k] = slices * k / n
	}
	return parts
}

// each runs f for each part at the same time.
func each(parts []int, f func(k, z0, z1 int)) {
	var wg sync.WaitGroup
	for k := range len(parts) - 1 {
		wg.Go(func() { f(k, parts[k], parts[k+1]) })
	}
	wg.Wait()
}

// scan finds the runs of the slices [z0, z1) and puts their number in each row into starts, one place further on.
func scan[T Integer](data []T, shape [3]int, in mask.LabelSet[T], z0, z1 int, starts []int32) []run {
	var runs []run
	width := shape[2]
	for r := z0 * shape[1]; r < z1*shape[1]; r++ {
		before := len(runs)
		row := data[r*width:][:width]
		for x := 0; x < width; {
			v := row[x]
			from := x
			for x++; x < width && row[x] == v; x++ {
			}
			if !in.Holds(v) {
				continue
			}
			if last := len(runs) - 1; last >= before && int(runs[last].to) == from {
				runs[last].to = int32(x) // another label of the mask
				continue
			}
			runs = append(runs, run{from: int32(from), to: int32(x)})
		}
		starts[r+1] = int32(len(runs) - before)
	}
	return runs
}

// join unites the runs of slice z that touch, and with those of the slice before, if wanted.
func (c *Components) join(z, height int, n Connectivity, before bool) {
	for y := 1; y < height; y++ {
		c.unite(z*height+y-1, z*height+y, n != Faces)
	}
	if before {
		c.joinSlices(z, height, n)
	}
}

// joinSlices unites the runs of slice z with those of the slice before.
func (c *Components) joinSlices(z, height int, n Connectivity) {
	for y := range height {
		row, below := z*height+y, (z-1)*height+y
		c.unite(below, row, n != Faces)
		if n == Faces {
			continue
		}
		if y > 0 {
			c.unite(below-1, row, n == Full)
		}
		if y+1 < height {
			c.unite(below+1, row, n == Full)
		}
	}
}

// unite unites the runs of two rows that share an x, or, with corners, that lie side by side.
func (c *Components) unite(a, b int, corners bool) {
	i, endA := c.starts[a], c.starts[a+1]
	j, endB := c.starts[b], c.starts[b+1]
	reach := int32(0)
	if corners {
		reach = 1
	}
	for i < endA && j < endB {
		ra, rb := &c.runs[i], &c.runs[j]
		if ra.from < rb.to+reach && rb.from < ra.to+reach {
			c.link(i, j)
		}
		if ra.to < rb.to {
			i++
		} else {
			j++
		}
	}
}

func (c *Components) root(i int32) int32 {
	for c.runs[i].parent != i {
		above := c.runs[i].parent
		c.runs[i].parent = c.runs[above].parent
		i = c.runs[i].parent
	}
	return i
}

func (c *Components) link(i, j int32) {
	a, b := c.root(i), c.root(j)
	c.runs[max(a, b)].parent = min(a, b)
}

// number turns parents into components: a root is the first run of its component.
func (c *Components) number() {
	for i := range c.runs {
		r := &c.runs[i]
		if r.parent == int32(i) {
			r.parent = int32(len(c.Voxels))
			c.Voxels = append(c.Voxels, 0)
		} else {
			r.parent = c.runs[r.parent].parent // which lies before and has its number
		}
		c.Voxels[r.parent] += int64(r.to - r.from)
	}
}

// Shared calls f for each stretch of voxels that a component of a and one of b share: their numbers
// and its length. Masks of different shapes are an error.
func Shared(a, b *Components, f func(a, b, voxels int)) error {
	if a.width != b.width || len(a.starts) != len(b.starts) {
		return fmt.Errorf("components: rows of %d and of %d voxels, %d and %d of them: masks of one "+
			"shape are expected", a.width, b.width, len(a.starts)-1, len(b.starts)-1)
	}
	for row := range len(a.starts) - 1 {
		i, endA := a.starts[row], a.starts[row+1]
		j, endB := b.starts[row], b.starts[row+1]
		for i < endA && j < endB {
			ra, rb := &a.runs[i], &b.runs[j]
			if n := min(ra.to, rb.to) - max(ra.from, rb.from); n > 0 {
				f(int(ra.parent), int(rb.parent), int(n))
			}
			if ra.to < rb.to {
				i++
			} else {
				j++
			}
		}
	}
	return nil
}

// Runs calls f for each run of voxels, in row-major order: its component and the indices [from, to) of its voxels.
func (c *Components) Runs(f func(component, from, to int)) {
	for row := range len(c.starts) - 1 {
		for _, r := range c.runs[c.starts[row]:c.starts[row+1]] {
			f(int(r.parent), row*c.width+int(r.from), row*c.width+int(r.to))
		}
	}
}
