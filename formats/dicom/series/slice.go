package series

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
)

// A Slice is a frame of a file: of most files the only one.
type Slice struct {
	File        *File
	Frame       int        // from 0
	Position    [3]float64 // ImagePositionPatient: the centre of the first pixel
	Orientation [6]float64 // ImageOrientationPatient: directions of rows (x) and columns (y)
	Spacing     [2]float64 // mm between pixels of a row (x) and between rows (y)

	between, thickness  float64 // SpacingBetweenSlices, SliceThickness; 0 if missing
	slope, intercept    float64
	acquisition, moment int // AcquisitionNumber, TemporalPositionIdentifier
	number              int // InstanceNumber
	localizer           bool
	problem             error // why it is no slice of a volume
	placed              bool  // has a position, so that it may be one
}

// A File is a DICOM file with an image. Of its header only what is needed here is kept: dicom.Read
// of its Source reads it again.
type File struct {
	*dicom.File
	Rows, Columns  int
	FrameCount     int
	Bits           int  // BitsStored
	Signed         bool // PixelRepresentation 1
	allocated      int  // bits of a pixel: 8, 16, 32
	shift          int  // bits below the stored ones
	series, study  string
	frame          string // FrameOfReferenceUID
	number         *int
	description    string
	modality       string
	frames         [][]dicom.Span
	multi          bool // has functional groups
	colour         bool // not one grey value a pixel
	seriesOrFolder string
}

// maxFrames bounds the frames of a file.
const maxFrames = 1 << 20

// slicesOf returns the frames of a file that has pixels. An error says that the header is damaged;
// what is merely not supported is a problem of the slices.
func slicesOf(f *dicom.File) ([]*Slice, error) {
	file := &File{File: f, FrameCount: 1, study: f.Text(tag.StudyInstanceUID),
		series: f.Text(tag.SeriesInstanceUID), frame: f.Text(tag.FrameOfReferenceUID),
		number: whole(f.Dataset, tag.SeriesNumber), modality: f.Text(tag.Modality),
		description: f.Text(tag.SeriesDescription)}
	file.seriesOrFolder = "series " + file.series
	if file.series == "" { // an anonymiser emptied it
		file.seriesOrFolder = "folder " + f.Folder
	}
	if f.Pixels == nil {
		return nil, fmt.Errorf("%s is missing", dicom.Name(tag.PixelData))
	}
	var err error
	if file.Rows, err = f.Int(tag.Rows, 1, math.MaxUint16); err != nil {
		return nil, err
	}
	if file.Columns, err = f.Int(tag.Columns, 1, math.MaxUint16); err != nil {
		return nil, err
	}
	if f.Has(tag.NumberOfFrames) {
		if file.FrameCount, err = f.Int(tag.NumberOfFrames, 1, maxFrames); err != nil {
			return nil, err
		}
	}
	problem := file.pixels()
	if problem == nil {
		if err := file.complete(); err != nil {
			return nil, err
		}
		if f.Pixels.Compressed {
			problem = supported(f.Syntax)
		}
	}
	header := f.Dataset
	f.Dataset = nil // not kept for thousands of files
	shared := header.Item(tag.SharedFunctionalGroupsSequence)
	each := header.Items(tag.PerFrameFunctionalGroupsSequence)
	file.multi = len(shared)+len(each) > 0
	count := file.FrameCount
	switch {
	case problem != nil && !file.multi:
		count = 1
	case file.multi && len(each) != file.FrameCount:
		return nil, fmt.Errorf("%s: found %d items, expected one for each of %d frames",
			dicom.Name(tag.PerFrameFunctionalGroupsSequence), len(each), file.FrameCount)
	case !file.multi && file.FrameCount > 1:
		count, problem = 1, fmt.Errorf("%s: found %d frames without functional groups, expected an "+
			"Enhanced or Legacy Converted object", dicom.Name(tag.NumberOfFrames), file.FrameCount)
	}
	all := make([]*Slice, count)
	for i := range all {
		s := &Slice{File: file, Frame: i, problem: problem}
		all[i] = s
		groups := groups{header}
		if file.multi {
			groups = append(groups[:0], each[i], shared, header)
		}
		if err := s.fill(groups); err != nil && s.problem == nil {
			s.problem = err
		}
	}
	return all, nil
}

// pixels reads what the pixels are and says what of it is not supported.
func (f *File) pixels() error {
	samples, err := f.Float(tag.SamplesPerPixel, 1)
	switch {
	case err != nil:
		return err
	case samples != 1:
		f.colour = true
		return fmt.Errorf("%s: found %g, expected 1: a colour image is not supported",
			dicom.Name(tag.SamplesPerPixel), samples)
	case f.Pixels.VR == "OF" || f.Pixels.VR == "OD":
		return fmt.Errorf("%s: pixels of floating point are not supported",
			dicom.Name(tag.FloatPixelData))
	case len(f.Items(tag.ModalityLUTSequence)) > 0:
		return fmt.Errorf("%s is not supported, expected RescaleSlope and RescaleIntercept",
			dicom.Name(tag.ModalityLUTSequence))
	}
	if p := f.Text(tag.PhotometricInterpretation); p != "MONOCHROME1" && p != "MONOCHROME2" {
		f.colour = p == "PALETTE COLOR" || p == "RGB" || strings.HasPrefix(p, "YBR_")
		return fmt.Errorf("%s: expected MONOCHROME1 or MONOCHROME2",
			dicom.Name(tag.PhotometricInterpretation))
	}
	if f.allocated, err = f.Int(tag.BitsAllocated, 1, 64); err != nil {
		return err
	}
	if !slices.Contains([]int{8, 16, 32}, f.allocated) {
		return fmt.Errorf("%s: found %d, expected 8, 16 or 32", dicom.Name(tag.BitsAllocated),
			f.allocated)
	}
	if f.Bits, err = f.Int(tag.BitsStored, 1, f.allocated); err != nil {
		return err
	}
	high := f.Bits - 1
	if f.Has(tag.HighBit) {
		if high, err = f.Int(tag.HighBit, f.Bits-1, f.allocated-1); err != nil {
			return err
		}
	}
	f.shift = high + 1 - f.Bits
	signed, err := f.Int(tag.PixelRepresentation, 0, 1)
	f.Signed = signed == 1
	return err
}

// complete checks that the file has so many pixels.
func (f *File) complete() error {
	if native(f.Syntax) == f.Pixels.Compressed {
		if f.Pixels.Compressed {
			return fmt.Errorf("%s: found fragments, which %s does not have",
				dicom.Name(tag.PixelData), syntaxName(f.Syntax))
		}
		return fmt.Errorf("%s: found no fragments, which %s needs", dicom.Name(tag.PixelData),
			syntaxName(f.Syntax))
	}
	if f.Pixels.Compressed {
		if f.FrameCount > len(f.Pixels.Fragments) {
			return fmt.Errorf("%s: found %d fragments, expected %d frames",
				dicom.Name(tag.PixelData), len(f.Pixels.Fragments), f.FrameCount)
		}
		return nil
	}
	if want := f.frameSize() * int64(f.FrameCount); f.Pixels.Length < want {
		return fmt.Errorf("%s: found %d bytes, expected %d: the file is damaged",
			dicom.Name(tag.PixelData), f.Pixels.Length, want)
	}
	return nil
}

// frameSize is the bytes of a frame that is not compressed.
func (f *File) frameSize() int64 {
	return int64(f.Rows) * int64(f.Columns) * int64(f.allocated/8)
}

// groups are where an element of a frame may stand: the frame's own functional groups, those that
// the frames share, the file.
type groups []dicom.Dataset

// of returns the data set that has t: an item of the sequence in, or the file itself, which holds
// it directly.
func (g groups) of(in, t tag.Tag) dicom.Dataset {
	for _, d := range g[:len(g)-1] {
		if item := d.Item(in); item.Has(t) {
			return item
		}
	}
	return g[len(g)-1]
}

// fill reads where a slice lies and what its values are.
func (s *Slice) fill(g groups) error {
	number := func(in, t tag.Tag) int {
		n, err := g.of(in, t).Int(t, math.MinInt32, math.MaxInt32)
		if err != nil {
			return 0
		}
		return n
	}
	s.number = number(tag.FrameContentSequence, tag.InstanceNumber)
	s.acquisition = number(tag.FrameContentSequence, tag.AcquisitionNumber)
	s.moment = number(tag.FrameContentSequence, tag.TemporalPositionIdentifier)
	if s.File.multi {
		s.number = s.Frame
		s.acquisition = number(tag.FrameContentSequence, tag.FrameAcquisitionNumber)
		s.moment = number(tag.FrameContentSequence, tag.TemporalPositionIndex)
	}
	kinds := g.of(tag.CTImageFrameTypeSequence, tag.FrameType).Texts(tag.FrameType)
	kinds = append(kinds, g[len(g)-1].Texts(tag.ImageType)...)
	s.localizer = slices.Contains(kinds, "LOCALIZER")

	floats := func(in, t tag.Tag, to []float64) error {
		v, err := g.of(in, t).Floats(t, len(to))
		copy(to, v)
		return err
	}
	optional := func(in, t tag.Tag, otherwise float64) (float64, error) {
		return g.of(in, t).Float(t, otherwise)
	}
	s.placed = g.of(tag.PlanePositionSequence, tag.ImagePositionPatient).Has(tag.ImagePositionPatient)
	if err := floats(tag.PlanePositionSequence, tag.ImagePositionPatient, s.Position[:]); err != nil {
		return err
	}
	const far = 1e7 // mm
	for _, x := range s.Position {
		if math.Abs(x) > far {
			return fmt.Errorf("%s: expected at most %g mm", dicom.Name(tag.ImagePositionPatient),
				float64(far))
		}
	}
	err := floats(tag.PlaneOrientationSequence, tag.ImageOrientationPatient, s.Orientation[:])
	if err == nil {
		_, err = axesOf(s.Orientation)
	}
	if err != nil {
		return err
	}
	var pixel [2]float64 // between rows, then between columns
	if err := floats(tag.PixelMeasuresSequence, tag.PixelSpacing, pixel[:]); err != nil {
		return err
	}
	for _, x := range pixel {
		if x < 1e-4 || x > 1e4 {
			return fmt.Errorf("%s: expected 0.0001 to 10000 mm", dicom.Name(tag.PixelSpacing))
		}
	}
	s.Spacing = [2]float64{pixel[1], pixel[0]}
	// The distance of slices is measured; these serve where there is one slice alone.
	s.between, _ = optional(tag.PixelMeasuresSequence, tag.SpacingBetweenSlices, 0)
	s.thickness, _ = optional(tag.PixelMeasuresSequence, tag.SliceThickness, 0)
	const values = 1e9
	if s.slope, err = optional(tag.PixelValueTransformationSequence, tag.RescaleSlope, 1); err != nil {
		return err
	}
	s.intercept, err = optional(tag.PixelValueTransformationSequence, tag.RescaleIntercept, 0)
	if err != nil {
		return err
	}
	if s.slope == 0 || math.Abs(s.slope) > values || math.Abs(s.intercept) > values {
		return fmt.Errorf("%s, %s: expected numbers up to %g, and no slope of 0",
			dicom.Name(tag.RescaleSlope), dicom.Name(tag.RescaleIntercept), values)
	}
	return nil
}
