package rtstruct

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/raster"
	"github.com/lntorch/lntorch/formats/internal/parallel"
)

const (
	// inPlane is how much the points of a contour may differ in z, in voxels.
	inPlane = 0.1
	// nearly keeps rounding from dividing contours halfway between two slices among both.
	nearly = 1e-6
)

// Choose returns the labels for the chosen ROIs, or for each that has contours.
func (s *StructureSet) Choose(choices []labels.Choice) ([]labels.Label, error) {
	all, err := labels.Choose(choices, s.Parts(), "ROI")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Source.Name, err)
	}
	return all, nil
}

// Parts lists the ROIs, in their order.
func (s *StructureSet) Parts() []labels.Part {
	parts := make([]labels.Part, len(s.ROIs))
	for i, r := range s.ROIs {
		parts[i] = labels.Part{Number: r.Number, Name: r.Name, Empty: r.Count == 0}
	}
	return parts
}

// drawn is a contour of a label on its way to a slice.
type drawn struct {
	*placed
	label int // value
	part  int // counts the label's ROIs
}

// placed is a contour with its slice and its path there.
type placed struct {
	roi, contour int // indices
	path         []raster.Point
	slice        int
	fate         fate
	outside      bool // a part of it lies outside the image
}

// beside reports whether contours are of one ROI of one label on one slice.
func (d *drawn) beside(other *drawn) bool {
	return d.slice == other.slice && d.label == other.label && d.part == other.part
}

// A fate is what becomes of a contour.
type fate int

const (
	isDrawn fate = iota
	isOpen       // a point or a line
	isUnknown
	isEmpty
	isElsewhere // more than half a slice from the image
)

// Draw draws labels, which Choose returned, on a grid. A voxel belongs to a ROI if its centre lies
// inside an odd number of the ROI's closed contours on that slice, or on one (raster.Fill); of a
// contour's slices it is the nearest. Draw fails if a contour does not lie in the plane of a slice.
//
// Differs: rt-utils' reader adds every pixel that a contour touches; dcmrtstruct2nii leaves out
// centres on a contour.
func (s *StructureSet) Draw(grid *labels.Grid, all []labels.Label, workers int) (*labels.Map,
	error) {
	contours := make([][]placed, len(s.ROIs)) // of each ROI that a label has
	for l := range all {
		for _, i := range all[l].Parts {
			contours[i] = make([]placed, len(s.ROIs[i].contours))
		}
	}
	if err := s.place(grid, contours, workers); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Source.Name, err)
	}
	var list []drawn
	for l := range all {
		for part, i := range all[l].Parts {
			for c := range contours[i] {
				list = append(list, drawn{placed: &contours[i][c], label: l + 1, part: part})
			}
		}
	}
	m := labels.NewMap(grid, all)
	s.warn(m, list)
	list = slices.DeleteFunc(list, func(d drawn) bool { return d.fate != isDrawn })
	// Of a slice, all contours of a label's ROI are drawn at once.
	slices.SortStableFunc(list, func(a, b drawn) int {
		return slices.Compare([]int{a.slice, a.label, a.part}, []int{b.slice, b.label, b.part})
	})
	var groups [][]drawn
	for from := 0; from < len(list); {
		end := from + 1
		for end < len(list) && list[end].beside(&list[from]) {
			end++
		}
		groups = append(groups, list[from:end])
		from = end
	}
	columns, rows := grid.Size[0], grid.Size[1]
	plane := func() *raster.Plane { return raster.New(columns, rows) }
	_ = parallel.EachWith(len(groups), workers, plane,
		func(plane *raster.Plane, i int) error {
			first := groups[i][0]
			paths := make([][]raster.Point, len(groups[i]))
			for k, d := range groups[i] {
				paths[k] = d.path
			}
			box := plane.Fill(paths...)
			area := labels.Area{X0: box.X0, Y0: box.Y0, X1: box.X1, Y1: box.Y1,
				Stride: plane.Stride, At: first.slice * rows * columns, DX: 1, DY: columns}
			labels.Paint(m, area, plane.Cells, first.label)
			plane.Clear(box)
			return nil
		})
	m.Finish()
	return m, nil
}

// maxPoints bounds the points that are held at a time, of 16 bytes each.
const maxPoints = 1 << 24

// most is how many points a contour has at most, by what it says and by its length: three numbers of
// a digit take six bytes.
func (c *contour) most() int {
	n := int(c.points.Length/6) + 1
	if c.count >= 0 {
		n = min(n, c.count)
	}
	return n
}

// place finds the slices of contours and their paths there. contours has room for those of each ROI that
// is drawn.
func (s *StructureSet) place(grid *labels.Grid, contours [][]placed, workers int) error {
	var list []*placed
	points := 0
	for i := range contours {
		for c := range contours[i] {
			at := &contours[i][c]
			at.roi, at.contour = i, c
			from := &s.ROIs[i].contours[c]
			switch from.kind {
			case ClosedPlanar, ClosedPlanarXOR:
				list = append(list, at)
				points += from.most()
			case other:
				at.fate = isUnknown
			default:
				at.fate = isOpen
			}
		}
	}
	if points > maxPoints {
		return fmt.Errorf("the contours have %d points, expected at most %d: draw fewer ROIs at a "+
			"time, with --roi", points, maxPoints)
	}
	slices.SortStableFunc(list, func(a, b *placed) int { // as they lie in the file
		return cmp.Compare(s.span(a).Offset, s.span(b).Offset)
	})
	// A file that is read front to back is read once.
	chunk := 64
	if s.file.Sequential() {
		chunk = max(len(list), 1)
	}
	buffer := func() *[1 << 16]byte { return new([1 << 16]byte) }
	return parallel.EachWith((len(list)+chunk-1)/chunk, workers, buffer,
		func(buffer *[1 << 16]byte, k int) error {
			r, err := s.file.OpenPixels()
			if err != nil {
				return err
			}
			defer r.Close()
			for _, d := range list[k*chunk : min(len(list), (k+1)*chunk)] {
				if err := s.placeOne(grid, d, r, buffer); err != nil {
					return err
				}
			}
			// behind the points there may be a checksum
			if f, ok := r.(interface{ Finish() error }); ok && s.file.Sequential() {
				return f.Finish()
			}
			return nil
		})
}

func (s *StructureSet) span(d *placed) dicom.Span { return s.ROIs[d.roi].contours[d.contour].points }

// placeOne reads a contour, and finds its slice and its path there.
func (s *StructureSet) placeOne(grid *labels.Grid, d *placed, r dicom.Reader,
	buffer *[1 << 16]byte) error {
	roi := s.ROIs[d.roi]
	c := &roi.contours[d.contour]
	if c.count > 0 {
		d.path = make([]raster.Point, 0, c.most())
	}
	low, high, sum, n := math.Inf(1), math.Inf(-1), 0.0, 0
	err := c.read(r, buffer, func(p labels.Vector) {
		v := grid.Voxel(p)
		if n++; n <= c.most() { // more than that are an error
			d.path = append(d.path, raster.Point(v[:2]))
		}
		low, high, sum = min(low, v[2]), max(high, v[2]), sum+v[2]
		d.outside = d.outside || outside(v[0], grid.Size[0]) || outside(v[1], grid.Size[1])
	})
	if err != nil {
		return fmt.Errorf("ROI %d: contour %d: %w", roi.Number, d.contour+1, err)
	}
	if n == 0 {
		d.fate = isEmpty
		return nil
	}
	if high-low > inPlane {
		return fmt.Errorf("ROI %d: contour %d does not lie in the plane of a slice: its points "+
			"differ by %.3g slices, expected at most %g; choose the series that it was drawn on, or "+
			"other ROIs with --roi", roi.Number, d.contour+1, high-low, inPlane)
	}
	z := sum / float64(n)
	if z < -0.5-nearly || z > float64(grid.Size[2])-0.5+nearly {
		d.fate, d.path = isElsewhere, nil
		return nil
	}
	d.slice = min(max(int(math.Floor(z+0.5+nearly)), 0), grid.Size[2]-1)
	return nil
}

// outside reports whether a coordinate lies in no voxel of n.
func outside(x float64, n int) bool { return x < -0.5-nearly || x > float64(n)-0.5+nearly }

// warn tells what is not drawn, or looks as if something were missing. list is in the order of the
// labels.
func (s *StructureSet) warn(m *labels.Map, list []drawn) {
	if s.Unnamed > 0 {
		m.Warn("%d ROIs have contours but no entry in the structure set: they are left out",
			s.Unnamed)
	}
	for l := range m.Labels {
		var counts [isElsewhere + 1]int
		out := 0
		on := map[int]map[int]bool{} // slices of a ROI
		for ; len(list) > 0 && list[0].label == l+1; list = list[1:] {
			d := list[0]
			counts[d.fate]++
			if d.outside && d.fate == isDrawn {
				out++
			}
			if d.fate == isDrawn {
				if on[d.roi] == nil {
					on[d.roi] = map[int]bool{}
				}
				on[d.roi][d.slice] = true
			}
		}
		for _, c := range []struct {
			n    int
			what string
		}{
			{counts[isOpen], "are points or lines and enclose nothing: they are left out"},
			{counts[isUnknown], "are of a type that is not of the standard: they are left out"},
			{counts[isEmpty], "have no points"},
			{counts[isElsewhere],
				"lie more than half a slice outside of the image: they are left out"},
			{out, "lie in part outside of the image's slices"},
		} {
			if c.n > 0 {
				m.Warn("label %d: %d contours %s", l+1, c.n, c.what)
			}
		}
		for _, i := range m.Labels[l].Parts {
			if step := everyNth(on[i]); step > 1 {
				m.Warn("label %d: ROI %d has no contours on neighbouring slices, at most on every %s: "+
					"the slices between stay empty", l+1, s.ROIs[i].Number, ordinal(step))
			}
		}
	}
}

func ordinal(n int) string {
	switch n {
	case 2:
		return "second"
	case 3:
		return "third"
	}
	return fmt.Sprintf("%dth", n)
}

// everyNth returns the smallest distance between the slices of a ROI, or 1 for fewer than three.
func everyNth(on map[int]bool) int {
	if len(on) < 3 {
		return 1
	}
	var all []int
	for z := range on {
		all = append(all, z)
	}
	slices.Sort(all)
	step := math.MaxInt
	for i := 1; i < len(all); i++ {
		step = min(step, all[i]-all[i-1])
	}
	return step
}
