// Package rtstruct reads and writes RT Structure Sets (PS3.3 A.19): regions of interest (ROIs) as contours,
// closed polygons in the planes of an image's slices. It draws them as a label map on the grid of
// an image. Which image that is its caller knows.
package rtstruct

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
)

// A StructureSet is an RTSTRUCT object without its contours' points, which Draw reads.
type StructureSet struct {
	Source   *dicom.Source
	ROIs     []*ROI // in the order of their numbers
	Unnamed  int    // ROIs with contours that the structure set does not list: they are left out
	Referred labels.References
	file     *dicom.File
}

// A ROI is a region of interest.
type ROI struct {
	Number int
	Name   string // a text of the file, never for messages
	// Contours of each type: a term of the standard, or "other"
	Types    map[string]int
	Count    int // of contours
	Referred labels.References
	contours []contour
}

// A contour is a list of points that are joined by lines. A closed one ends where it begins without
// repeating the point.
type contour struct {
	kind   string     // as in ROI.Types
	points dicom.Span // as DS
	count  int        // NumberOfContourPoints, -1 without it
	wrong  error      // of NumberOfContourPoints
}

// Types of contours (PS3.3 C.8.8.6.1).
const (
	Point           = "POINT"
	OpenPlanar      = "OPEN_PLANAR"
	OpenNonplanar   = "OPEN_NONPLANAR"
	ClosedPlanar    = "CLOSED_PLANAR"
	ClosedPlanarXOR = "CLOSEDPLANAR_XOR"
	other           = "other"
)

var types = []string{Point, OpenPlanar, OpenNonplanar, ClosedPlanar, ClosedPlanarXOR}

// Read reads a structure set's header, of the contours only their types.
func Read(s *dicom.Source) (*StructureSet, error) {
	f, err := dicom.Read(s)
	if err != nil {
		return nil, err
	}
	set, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return set, nil
}

func read(f *dicom.File) (*StructureSet, error) {
	if f.Class != dicom.ClassRTStructure {
		return nil, fmt.Errorf("%s: expected an RT Structure Set", dicom.Name(tag.SOPClassUID))
	}
	set := &StructureSet{Source: f.Source, file: f}
	series := map[string][]string{} // of each frame of reference
	for _, frame := range f.Items(tag.ReferencedFrameOfReferenceSequence) {
		uid := frame.Text(tag.FrameOfReferenceUID)
		set.Referred.Frames = add(set.Referred.Frames, uid)
		for _, study := range frame.Items(tag.RTReferencedStudySequence) {
			for _, s := range study.Items(tag.RTReferencedSeriesSequence) {
				series[uid] = add(series[uid], s.Text(tag.SeriesInstanceUID))
			}
		}
		for _, s := range series[uid] {
			set.Referred.Series = add(set.Referred.Series, s)
		}
	}
	set.Referred.Frames = add(set.Referred.Frames, f.Text(tag.FrameOfReferenceUID))
	byNumber := map[int]*ROI{}
	for _, item := range f.Items(tag.StructureSetROISequence) {
		number, err := item.Int(tag.ROINumber, math.MinInt32, math.MaxInt32)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dicom.Name(tag.StructureSetROISequence), err)
		}
		if byNumber[number] != nil {
			return nil, fmt.Errorf("%s: ROI %d is there twice, expected each number once",
				dicom.Name(tag.StructureSetROISequence), number)
		}
		r := &ROI{Number: number, Name: item.Text(tag.ROIName), Types: map[string]int{}}
		r.Referred = set.Referred
		if uid := item.Text(tag.ReferencedFrameOfReferenceUID); uid != "" {
			r.Referred.Frames = []string{uid}
			if s := series[uid]; s != nil {
				r.Referred.Series = s
			}
		}
		byNumber[number] = r
		set.ROIs = append(set.ROIs, r)
	}
	slices.SortFunc(set.ROIs, func(a, b *ROI) int { return cmp.Compare(a.Number, b.Number) })
	for _, item := range f.Items(tag.ROIContourSequence) {
		contours := item.Items(tag.ContourSequence)
		if len(contours) == 0 {
			continue
		}
		number, err := item.Int(tag.ReferencedROINumber, math.MinInt32, math.MaxInt32)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dicom.Name(tag.ROIContourSequence), err)
		}
		r := byNumber[number]
		if r == nil {
			set.Unnamed++
			continue
		}
		for _, c := range contours {
			one := contour{kind: typeOf(c), points: c.Span(), count: -1}
			if c.Has(tag.NumberOfContourPoints) {
				one.count, one.wrong = c.Int(tag.NumberOfContourPoints, 0, math.MaxInt32)
			}
			r.contours = append(r.contours, one)
			r.Types[one.kind]++
		}
		r.Count = len(r.contours)
	}
	f.Dataset = nil // what is needed of it was read
	return set, nil
}

// add adds a text that is not "" and not there yet.
func add(to []string, text string) []string {
	if text == "" || slices.Contains(to, text) {
		return to
	}
	return append(to, text)
}

// typeOf returns a contour's type if the standard knows it: another text may be anything.
func typeOf(contour dicom.Dataset) string {
	if t := contour.Text(tag.ContourGeometricType); slices.Contains(types, t) {
		return t
	}
	return other
}

// far is how many mm from the origin a point may lie.
const far = 1e7

// read hands the points of a contour to found, LPS, mm.
func (c *contour) read(r dicom.Reader, buffer *[1 << 16]byte, found func(labels.Vector)) error {
	if c.wrong != nil {
		return c.wrong
	}
	name := dicom.Name(tag.ContourData)
	var p labels.Vector
	n := 0 // numbers
	err := c.points.Decimals(r, buffer, func(x float64) error {
		if math.Abs(x) > far {
			return fmt.Errorf("expected numbers up to %g mm", float64(far))
		}
		p[n%3] = x
		if n++; n%3 == 0 {
			found(p)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case n%3 != 0:
		return fmt.Errorf("%s: found %d numbers, expected three for each point", name, n)
	case c.count >= 0 && n != 3*c.count:
		return fmt.Errorf("%s: found %d points, expected %d, as %s says: the file is damaged", name,
			n/3, c.count, dicom.Name(tag.NumberOfContourPoints))
	}
	return nil
}
