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

// Place brings a label map to the grid of the series, with its voxels in the order of Labels.
func (s *Series) Place(im *volume.Image) ([]uint16, error) {
	return labels.Place(im, s.Grid, "series")
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
