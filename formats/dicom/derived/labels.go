package derived

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/volume"
)

// A Code is a concept of a coding scheme, such as SNOMED CT ("SCT").
type Code struct{ Value, Scheme, Meaning string }

// A Segment is what one value of a label map stands for.
type Segment struct {
	Value       int    // 1 to 65535
	Name        string // SegmentLabel, ROIName: 1 to 64 characters
	Description string
	// "" for what the options say
	Algorithm, AlgorithmName string
	Category, Type           *Code // nil for those of lymph nodes
	TypeModifier             []Code
	Region, RegionModifier   []Code
	Colour                   *[3]uint8 // RGB; nil for one of a list
	TrackingID, TrackingUID  string    // an UID is made for an ID without one
}

// Labels is a label map on the grid of a series.
type Labels struct {
	Values   []uint16  // x fastest, then y, then z, 0 is background
	Segments []Segment // in ascending order of their values; at least one
}

// tolerance is how far from a voxel of the series a voxel of the label map may be, in voxels.
const tolerance = 0.01

// Place brings a label map to the grid of the series, with its voxels in the order of Labels. The
// axes of the map may lead in any order and direction; what does not lie on the grid is refused, as
// are values that are not whole numbers from 0 to 65535.
func (s *Series) Place(im *volume.Image) ([]uint16, error) {
	if im.Shape[0] != 1 {
		return nil, fmt.Errorf("the label map has %d channels, expected one", im.Shape[0])
	}
	size := [3]int{im.Shape[3], im.Shape[2], im.Shape[1]}
	itk := &volume.ITK{Spacing: []float64{im.Spacing[2], im.Spacing[1], im.Spacing[0]},
		Origin: im.OriginXYZ[:], Direction: im.DirectionXYZ[:]}
	grid, err := labels.NewGrid(size[:], itk)
	if err != nil {
		return nil, fmt.Errorf("the label map: %w", err)
	}
	mismatch := fmt.Errorf("the label map does not lie on the grid of the series: it has %s, the "+
		"series has %s; write the labels on the grid of the series", grid, s.Grid)
	// The map's first voxel, and a step along each of its axes, in voxels of the series.
	first := s.Grid.Voxel(grid.Place(labels.Vector{}))
	var steps [3]labels.Vector
	for k := range steps {
		one := labels.Vector{}
		one[k] = 1
		steps[k] = labels.Sub(s.Grid.Voxel(grid.Place(one)), first)
	}
	axis, ok := assign(steps, size)
	if !ok {
		return nil, mismatch
	}
	// Each axis of the series: how its voxels follow one another in the map, where they begin.
	begin, stride := 0, [3]int{}
	strides := [3]int{1, size[0], size[0] * size[1]}
	var reversed [3]bool
	for k, a := range axis {
		if size[k] != s.Grid.Size[a] {
			return nil, mismatch
		}
		stride[a] = strides[k]
		if reversed[k] = size[k] > 1 && steps[k][a] < 0; reversed[k] {
			begin += strides[k] * (size[k] - 1)
			stride[a] = -strides[k]
		}
	}
	for corner := range 8 {
		at, want := first, labels.Vector{}
		for k, a := range axis {
			far := corner>>k&1 == 1
			if far {
				at = labels.Along(at, float64(size[k]-1), steps[k])
			}
			if far != reversed[k] {
				want[a] = float64(size[k] - 1)
			}
		}
		for i := range at {
			if !(math.Abs(at[i]-want[i]) <= tolerance) {
				return nil, mismatch
			}
		}
	}
	pixels := im.Pixels
	if to := s.Grid.Size; begin != 0 || stride != [3]int{1, to[0], to[0] * to[1]} {
		pixels = pixels.Gather([3]int{to[2], to[1], to[0]}, begin,
			[3]int{stride[2], stride[1], stride[0]})
	}
	values, err := volume.Convert(pixels, "uint16", false)
	if err != nil {
		return nil, fmt.Errorf("the label map: %w", err)
	}
	return values.(volume.Slice[uint16]), nil
}

// assign finds for each axis of the map the axis of the series that it follows. Axes with one voxel
// take what is left.
func assign(steps [3]labels.Vector, size [3]int) (axis [3]int, ok bool) {
	taken := [3]bool{}
	for k := range axis {
		if size[k] == 1 {
			continue
		}
		for i, x := range steps[k] {
			if math.Abs(x) > math.Abs(steps[k][axis[k]]) {
				axis[k] = i
			}
		}
		if taken[axis[k]] {
			return axis, false
		}
		taken[axis[k]] = true
	}
	for k := range axis {
		if size[k] > 1 {
			continue
		}
		// its own direction first, as far as it is free
		best := -1
		for i := range taken {
			if !taken[i] && (best < 0 || math.Abs(steps[k][i]) > math.Abs(steps[k][best])) {
				best = i
			}
		}
		axis[k] = best
		taken[best] = true
	}
	return axis, true
}

// maxLabel is the largest number of a segment.
const maxLabel = math.MaxUint16

// maxName is the characters of a LO.
const maxName = 64

// Check reports what an object cannot hold.
func (l *Labels) Check(s *Series) error {
	if want := s.Grid.Voxels(); len(l.Values) != want {
		return fmt.Errorf("found %d labels, expected %d voxels", len(l.Values), want)
	}
	if len(l.Segments) == 0 || len(l.Segments) > maxLabel {
		return fmt.Errorf("found %d segments, expected 1 to %d", len(l.Segments), maxLabel)
	}
	known := make([]bool, maxLabel+1)
	known[0] = true
	before := 0
	for _, g := range l.Segments {
		if g.Value <= before || g.Value > maxLabel {
			return fmt.Errorf("label %d: expected values from 1 to %d in ascending order", g.Value,
				maxLabel)
		}
		before = g.Value
		known[g.Value] = true
		if err := CheckName(g.Name); err != nil {
			return fmt.Errorf("label %d: %w", g.Value, err)
		}
	}
	for _, v := range l.Values {
		if !known[v] {
			return fmt.Errorf("label %d has no segment", v)
		}
	}
	return nil
}

// CheckName reports why a text cannot be the name of a segment.
func CheckName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > maxName || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7f }) ||
		!utf8.ValidString(name) {
		return fmt.Errorf("name %q: expected 1 to %d characters, no backslash, no space around it",
			name, maxName)
	}
	return nil
}

// Present returns the labels of a map but 0, in ascending order.
func Present(values []uint16) []int {
	seen := make([]bool, maxLabel+1)
	for _, v := range values {
		seen[v] = true
	}
	var all []int
	for v, is := range seen[1:] {
		if is {
			all = append(all, v+1)
		}
	}
	return all
}

// colours are given to segments without one, again and again.
var colours = [][3]uint8{{230, 80, 60}, {60, 160, 230}, {80, 200, 90}, {240, 190, 40}, {170, 90, 210},
	{40, 200, 190}, {240, 130, 40}, {230, 100, 180}, {150, 200, 40}, {110, 110, 230}, {190, 140, 90},
	{130, 170, 150}}

// RGB returns the colour of the segment with this index.
func (l *Labels) RGB(index int) [3]uint8 {
	if c := l.Segments[index].Colour; c != nil {
		return *c
	}
	return colours[index%len(colours)]
}

// Codes that segments without their own have.
var (
	anatomy = Code{"91723000", "SCT", "Anatomical Structure"}
	node    = Code{"59441001", "SCT", "Lymph Node"}
)

// Item returns the item of a code sequence.
func (c *Code) Item() *dicom.Elements {
	d := &dicom.Elements{}
	d.Text(tag.CodeValue, c.Value)
	d.Text(tag.CodingSchemeDesignator, c.Scheme)
	d.Text(tag.CodeMeaning, c.Meaning)
	return d
}

// CategoryOrAnatomy returns the segment's category, or that of lymph nodes.
func (g *Segment) CategoryOrAnatomy() *Code {
	if g.Category != nil {
		return g.Category
	}
	return &anatomy
}

// TypeOrNode returns the segment's type, or that of lymph nodes.
func (g *Segment) TypeOrNode() *Code {
	if g.Type != nil {
		return g.Type
	}
	return &node
}

// AlgorithmOr returns how the segment was made: as it says, or as the options do.
func (g *Segment) AlgorithmOr(o Options) string {
	return cmp.Or(g.Algorithm, o.Algorithm, Automatic)
}

// AlgorithmNameOr returns the segment's algorithm, or lntorch.
func (g *Segment) AlgorithmNameOr() string { return cmp.Or(g.AlgorithmName, Program) }
