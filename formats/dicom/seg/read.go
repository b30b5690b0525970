// Package seg reads and writes DICOM segmentations (PS3.3 A.51): segments as frames of bits, of fractions or of
// numbers of segments, each of which says where it lies. It places them as a label map on the grid
// of an image. Which image that is its caller knows.
package seg

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/formats/dicom/labels"
)

// A Segmentation is a SEG object without its pixels.
type Segmentation struct {
	Source        *dicom.Source
	Type          string // BINARY, FRACTIONAL or LABELMAP
	Rows, Columns int    // of a frame
	FrameCount    int
	Segments      []Segment // in the order of their numbers
	Referred      labels.References
	Syntax        string // TransferSyntaxUID

	file      *dicom.File
	allocated int // bits of a pixel: 1, 8, 16
	bits      int // stored
	maximum   int // MaximumFractionalValue
	padding   int // the pixel that means no segment; -1 if the file names none
	frames    []frame
	segment   map[int]int // index in Segments for each number
}

// A Segment is a part of a segmentation.
type Segment struct {
	Number int
	Label  string // a text of the file, never for messages
	Frames int    // that it has; in a LABELMAP, where all share them, all
}

// Types of segmentations.
const (
	Binary     = "BINARY"
	Fractional = "FRACTIONAL"
	LabelMap   = "LABELMAP"
)

// A frame is where a frame lies.
type frame struct {
	segment  int // index in Segments; -1 in a LABELMAP
	position labels.Vector
	row      labels.Vector // from a pixel to the next one of its row, mm
	column   labels.Vector // from a row to the next one, mm
	normal   labels.Vector // of length 1
	measures [2]float64    // SpacingBetweenSlices, SliceThickness; 0 if missing
}

const (
	// maxFrame bounds the pixels of a frame: goroutines hold one each.
	maxFrame  = 1 << 24
	maxFrames = 1 << 20
	far       = 1e7 // mm
)

// Read reads a segmentation's header.
func Read(s *dicom.Source) (*Segmentation, error) {
	f, err := dicom.Read(s)
	if err != nil {
		return nil, err
	}
	seg, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return seg, nil
}

func read(f *dicom.File) (*Segmentation, error) {
	if f.Class != dicom.ClassSegmentation && f.Class != dicom.ClassLabelMap {
		return nil, fmt.Errorf("%s: expected a Segmentation", dicom.Name(tag.SOPClassUID))
	}
	s := &Segmentation{Source: f.Source, file: f, Syntax: dicom.StandardUID(f.Syntax)}
	for _, series := range f.Items(tag.ReferencedSeriesSequence) {
		uid := series.Text(tag.SeriesInstanceUID)
		if uid != "" && !slices.Contains(s.Referred.Series, uid) {
			s.Referred.Series = append(s.Referred.Series, uid)
		}
	}
	if uid := f.Text(tag.FrameOfReferenceUID); uid != "" {
		s.Referred.Frames = []string{uid}
	}
	if err := s.pixels(); err != nil {
		return nil, err
	}
	if err := s.readSegments(); err != nil {
		return nil, err
	}
	if err := s.readFrames(); err != nil {
		return nil, err
	}
	f.Dataset = nil // what is needed of it was read
	return s, nil
}

// pixels reads what the pixels are, and checks that the file has so many.
func (s *Segmentation) pixels() (err error) {
	f := s.file
	s.Type = f.Text(tag.SegmentationType)
	if !slices.Contains([]string{Binary, Fractional, LabelMap}, s.Type) {
		s.Type = ""
		return fmt.Errorf("%s: expected %s, %s or %s", dicom.Name(tag.SegmentationType), Binary,
			Fractional, LabelMap)
	}
	if f.Pixels == nil {
		return fmt.Errorf("%s is missing", dicom.Name(tag.PixelData))
	}
	if s.Rows, err = f.Int(tag.Rows, 1, math.MaxUint16); err != nil {
		return err
	}
	if s.Columns, err = f.Int(tag.Columns, 1, math.MaxUint16); err != nil {
		return err
	}
	if s.Rows*s.Columns > maxFrame {
		return fmt.Errorf("found frames of %d × %d pixels, expected at most %d", s.Columns, s.Rows,
			maxFrame)
	}
	if s.FrameCount, err = f.Int(tag.NumberOfFrames, 1, maxFrames); err != nil {
		return err
	}
	if n, err := f.Float(tag.SamplesPerPixel, 1); err != nil || n != 1 {
		return fmt.Errorf("%s: expected 1", dicom.Name(tag.SamplesPerPixel))
	}
	allowed := map[string][]int{Binary: {1, 8}, Fractional: {8}, LabelMap: {8, 16}}[s.Type]
	s.allocated, err = f.Int(tag.BitsAllocated, 1, 16)
	if err != nil || !slices.Contains(allowed, s.allocated) {
		return fmt.Errorf("%s: expected one of %d for %s", dicom.Name(tag.BitsAllocated), allowed,
			s.Type)
	}
	if s.bits, err = f.Int(tag.BitsStored, 1, s.allocated); err != nil {
		return err
	}
	if s.maximum = 1; s.Type == Fractional {
		if s.maximum, err = f.Int(tag.MaximumFractionalValue, 1, math.MaxUint8); err != nil {
			return err
		}
	}
	if s.padding = -1; f.Has(tag.PixelPaddingValue) {
		if s.padding, err = f.Int(tag.PixelPaddingValue, 0, math.MaxUint16); err != nil {
			return err
		}
	}
	return s.complete()
}

// complete compares the pixels with what the header says.
func (s *Segmentation) complete() error {
	p := s.file.Pixels
	size := int64(s.Rows) * int64(s.Columns) * int64(s.FrameCount) // pixels
	if !p.Compressed {
		if want := (size*int64(s.allocated) + 7) / 8; p.Length < want {
			return fmt.Errorf("%s: found %d bytes, expected %d for %d frames: the file is damaged",
				dicom.Name(tag.PixelData), p.Length, want, s.FrameCount)
		}
		return nil
	}
	if s.allocated == 1 {
		return fmt.Errorf("%s: found compressed frames of one bit a pixel, expected them as they are",
			dicom.Name(tag.PixelData))
	}
	if len(p.Fragments) < s.FrameCount {
		return fmt.Errorf("%s: found %d fragments, expected %d frames", dicom.Name(tag.PixelData),
			len(p.Fragments), s.FrameCount)
	}
	// As for images (package series): deflate's ratio, and some room.
	const maxRatio, room = 1032, 256 << 20
	compressed := int64(0)
	for _, f := range p.Fragments {
		compressed += f.Length
	}
	if announced := size * int64(s.allocated/8); announced > room+maxRatio*compressed {
		return fmt.Errorf("%s: %d bytes of codestreams cannot hold %d bytes of pixels",
			dicom.Name(tag.PixelData), compressed, announced)
	}
	return nil
}

// decodable reports why the pixels cannot be read here. What the segments are can be read anyhow.
func (s *Segmentation) decodable() error {
	if !s.file.Pixels.Compressed {
		return nil
	}
	err := codec.Supported(s.file.Syntax)
	if err != nil && s.Syntax == "" { // the error shows it
		err = errors.New("a transfer syntax that is not of the standard is not supported")
	}
	return err
}

func (s *Segmentation) readSegments() error {
	name := dicom.Name(tag.SegmentSequence)
	for _, item := range s.file.Items(tag.SegmentSequence) {
		number, err := item.Int(tag.SegmentNumber, 0, math.MaxUint16)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.Segments = append(s.Segments, Segment{Number: number, Label: item.Text(tag.SegmentLabel)})
	}
	slices.SortStableFunc(s.Segments, func(a, b Segment) int {
		return cmp.Compare(a.Number, b.Number)
	})
	s.segment = map[int]int{}
	for i, segment := range s.Segments {
		if _, twice := s.segment[segment.Number]; twice {
			return fmt.Errorf("%s: segment %d is there twice, expected each number once", name,
				segment.Number)
		}
		s.segment[segment.Number] = i
	}
	if len(s.Segments) == 0 {
		return fmt.Errorf("%s is missing", name)
	}
	return nil
}

// readFrames reads where each frame lies and which segment it shows.
func (s *Segmentation) readFrames() error {
	shared := s.file.Item(tag.SharedFunctionalGroupsSequence)
	each := s.file.Items(tag.PerFrameFunctionalGroupsSequence)
	if len(each) != s.FrameCount {
		return fmt.Errorf("%s: found %d items, expected one for each of %d frames",
			dicom.Name(tag.PerFrameFunctionalGroupsSequence), len(each), s.FrameCount)
	}
	s.frames = make([]frame, s.FrameCount)
	for i := range s.frames {
		// the item of a functional group that has an element, of the frame or of all
		group := func(in, t tag.Tag) dicom.Dataset {
			if item := each[i].Item(in); item.Has(t) {
				return item
			}
			return shared.Item(in)
		}
		if err := s.readFrame(&s.frames[i], group); err != nil {
			return fmt.Errorf("frame %d: %w", i+1, err)
		}
	}
	for i := range s.Segments {
		if s.Type == LabelMap {
			s.Segments[i].Frames = s.FrameCount
		}
	}
	return nil
}

func (s *Segmentation) readFrame(f *frame, group func(in, t tag.Tag) dicom.Dataset) error {
	if f.segment = -1; s.Type != LabelMap {
		number, err := group(tag.SegmentIdentificationSequence, tag.ReferencedSegmentNumber).
			Int(tag.ReferencedSegmentNumber, 1, math.MaxUint16)
		if err != nil {
			return err
		}
		i, ok := s.segment[number]
		if !ok {
			return fmt.Errorf("%s: found %d, expected a number of %s",
				dicom.Name(tag.ReferencedSegmentNumber), number, dicom.Name(tag.SegmentSequence))
		}
		f.segment = i
		s.Segments[i].Frames++
	}
	position, err := group(tag.PlanePositionSequence, tag.ImagePositionPatient).
		Floats(tag.ImagePositionPatient, 3)
	if err != nil {
		return err
	}
	f.position = labels.Vector(position)
	for _, x := range position {
		if math.Abs(x) > far {
			return fmt.Errorf("%s: expected at most %g mm", dicom.Name(tag.ImagePositionPatient),
				float64(far))
		}
	}
	o, err := group(tag.PlaneOrientationSequence, tag.ImageOrientationPatient).
		Floats(tag.ImageOrientationPatient, 6)
	if err != nil {
		return err
	}
	row, column := labels.Vector(o[:3]), labels.Vector(o[3:])
	const length, angle = 1e-2, 1e-3
	if math.Abs(labels.Dot(row, row)-1) > length ||
		math.Abs(labels.Dot(column, column)-1) > length ||
		math.Abs(labels.Dot(row, column)) > angle {
		return fmt.Errorf("%s: expected two orthogonal vectors of length 1",
			dicom.Name(tag.ImageOrientationPatient))
	}
	row, column = labels.Unit(row), labels.Unit(column)
	f.normal = labels.Unit(labels.Cross(row, column))
	measures := group(tag.PixelMeasuresSequence, tag.PixelSpacing)
	spacing, err := measures.Floats(tag.PixelSpacing, 2) // between rows, then between columns
	if err != nil {
		return err
	}
	for _, x := range spacing {
		if x < 1e-4 || x > 1e4 {
			return fmt.Errorf("%s: expected 0.0001 to 10000 mm", dicom.Name(tag.PixelSpacing))
		}
	}
	f.row = labels.Along(labels.Vector{}, spacing[1], row)
	f.column = labels.Along(labels.Vector{}, spacing[0], column)
	// only where frames do not lie on the image's grid
	f.measures[0], _ = measures.Float(tag.SpacingBetweenSlices, 0)
	f.measures[1], _ = measures.Float(tag.SliceThickness, 0)
	return nil
}
