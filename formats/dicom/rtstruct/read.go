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

// A StructureSet is an RTSTRUCT object without its contours' points, which ROI.Contours reads.
type StructureSet struct {
	Source   *dicom.Source
	ROIs     []*ROI // in the order of their numbers
	Unnamed  int    // ROIs with contours that the structure set does not list: they are left out
	Referred labels.References
}

// A ROI is a region of interest.
type ROI struct {
	Number int
	Name   string // a text of the file, never for messages
	// Contours of each type: a term of the standard, or "other"
	Types    map[string]int
	Count    int // of contours
	Referred labels.References
	contours []dicom.Dataset
}

// A Contour is a list of points that are joined by lines. A closed one ends where it begins without
// repeating the point.
type Contour struct {
	Type   string          // as in ROI.Types
	Points []labels.Vector // LPS, mm
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
	set := &StructureSet{Source: f.Source}
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
		r.contours = append(r.contours, contours...)
		r.Count = len(r.contours)
		for _, c := range contours {
			r.Types[typeOf(c)]++
		}
	}
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

// Contours reads the contours of a ROI.
func (r *ROI) Contours() ([]Contour, error) {
	all := make([]Contour, len(r.contours))
	for i := range all {
		points, err := r.points(i)
		if err != nil {
			return nil, err
		}
		all[i] = Contour{typeOf(r.contours[i]), points}
	}
	return all, nil
}

// points reads the points of a contour.
func (r *ROI) points(i int) ([]labels.Vector, error) {
	c := r.contours[i]
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("ROI %d: contour %d: %w", r.Number, i+1, fmt.Errorf(format, args...))
	}
	values, err := c.Floats(tag.ContourData, 0)
	if err != nil {
		return nil, wrong("%w", err)
	}
	if len(values)%3 != 0 {
		return nil, wrong("%s: found %d numbers, expected three for each point",
			dicom.Name(tag.ContourData), len(values))
	}
	if c.Has(tag.NumberOfContourPoints) {
		n, err := c.Int(tag.NumberOfContourPoints, 0, math.MaxInt32)
		if err != nil {
			return nil, wrong("%w", err)
		}
		if n != len(values)/3 {
			return nil, wrong("%s: found %d points, expected %d, as %s says: the file is damaged",
				dicom.Name(tag.ContourData), len(values)/3, n,
				dicom.Name(tag.NumberOfContourPoints))
		}
	}
	points := make([]labels.Vector, len(values)/3)
	for k := range points {
		points[k] = labels.Vector(values[3*k:])
		for _, x := range points[k] {
			if math.Abs(x) > far {
				return nil, wrong("%s: expected numbers up to %g mm", dicom.Name(tag.ContourData),
					float64(far))
			}
		}
	}
	return points, nil
}
