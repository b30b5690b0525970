package rtstruct

import (
	"io"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/formats/internal/parallel"
)

// Write writes an RTSTRUCT: a ROI for each segment, with the closed contours of its pixels in every
// slice, in the order of the slices. A segment without voxels becomes a ROI without contours. The
// bytes depend on the arguments alone, but not on workers, the number of goroutines (0 for as many
// as there are processors).
func Write(w io.Writer, s *derived.Series, l *derived.Labels, o derived.Options, workers int) error {
	if err := l.Check(s); err != nil {
		return err
	}
	traced := trace(s, l, workers)
	return derived.Write(w, dicom.ImplicitLittle, dicom.ClassRTStructure,
		func(name derived.Namer) *dicom.Elements { return structureSet(s, l, o, traced, name) })
}

// trace returns the contours of each segment in each slice.
func trace(s *derived.Series, l *derived.Labels, workers int) [][][][]point {
	index := map[uint16]int{}
	traced := make([][][][]point, len(l.Segments))
	for i, g := range l.Segments {
		index[uint16(g.Value)] = i
		traced[i] = make([][][]point, s.Grid.Size[2])
	}
	size := s.Grid.Size
	n := size[0] * size[1]
	parallel.Each(size[2], workers, func(z int) error {
		slice := l.Values[z*n : (z+1)*n]
		for value, in := range boxes(slice, size[0]) {
			traced[index[value]][z] = contours(slice, size[0], value, in)
		}
		return nil
	})
	return traced
}

// boxes returns the box around the pixels of each label.
func boxes(slice []uint16, width int) map[uint16]box {
	all := map[uint16]box{}
	for i := 0; i < len(slice); i++ {
		v := slice[i]
		if v == 0 {
			continue
		}
		y, x0 := i/width, i%width
		end := (y + 1) * width
		for i+1 < end && slice[i+1] == v {
			i++
		}
		x1 := i%width + 1
		b, ok := all[v]
		if !ok {
			b = box{x0, y, x1, y}
		}
		all[v] = box{min(b.x0, x0), b.y0, max(b.x1, x1), y + 1}
	}
	return all
}

// detachedStudy is the class of the reference to the study: retired, but what the standard names.
const detachedStudy = "1.2.840.10008.3.1.2.3.1"

func structureSet(s *derived.Series, l *derived.Labels, o derived.Options, traced [][][][]point,
	name derived.Namer) *dicom.Elements {
	d := s.Header("RTSTRUCT", o, name)
	d.Text(tag.OperatorsName)
	date, time := s.Moment()
	d.Text(tag.StructureSetLabel, derived.Program)
	d.Text(tag.StructureSetDate, date)
	d.Text(tag.StructureSetTime, time)
	d.Text(tag.ApprovalStatus, "UNAPPROVED")

	image := &dicom.Elements{}
	image.Text(tag.SeriesInstanceUID, s.SeriesUID)
	image.Sequence(tag.ContourImageSequence, s.Instances()...)
	study := &dicom.Elements{}
	study.Text(tag.ReferencedSOPClassUID, detachedStudy)
	study.Text(tag.ReferencedSOPInstanceUID, s.StudyUID)
	study.Sequence(tag.RTReferencedSeriesSequence, image)
	frame := &dicom.Elements{}
	frame.Text(tag.FrameOfReferenceUID, s.FrameOfReference)
	frame.Sequence(tag.RTReferencedStudySequence, study)
	d.Sequence(tag.ReferencedFrameOfReferenceSequence, frame)

	var rois, all, observations []*dicom.Elements
	for i, g := range l.Segments {
		number := i + 1
		roi := &dicom.Elements{}
		roi.Whole(tag.ROINumber, number)
		roi.Text(tag.ReferencedFrameOfReferenceUID, s.FrameOfReference)
		roi.Text(tag.ROIName, g.Name)
		if g.Description != "" {
			roi.Text(tag.ROIDescription, g.Description)
		}
		roi.Text(tag.ROIGenerationAlgorithm, g.AlgorithmOr(o))
		rois = append(rois, roi)

		drawn := &dicom.Elements{}
		drawn.Whole(tag.ReferencedROINumber, number)
		c := l.RGB(i)
		drawn.Whole(tag.ROIDisplayColor, int(c[0]), int(c[1]), int(c[2]))
		if list := contourItems(s, traced[i]); len(list) > 0 {
			drawn.Sequence(tag.ContourSequence, list...)
		}
		all = append(all, drawn)

		observed := &dicom.Elements{}
		observed.Whole(tag.ObservationNumber, number)
		observed.Whole(tag.ReferencedROINumber, number)
		observed.Sequence(tag.RTROIIdentificationCodeSequence, g.TypeOrNode().Item())
		observed.Text(tag.RTROIInterpretedType)
		observed.Text(tag.ROIInterpreter)
		observations = append(observations, observed)
	}
	d.Sequence(tag.StructureSetROISequence, rois...)
	d.Sequence(tag.ROIContourSequence, all...)
	d.Sequence(tag.RTROIObservationsSequence, observations...)
	return d
}

// contourItems returns an item for each contour of a ROI.
func contourItems(s *derived.Series, bySlice [][][]point) []*dicom.Elements {
	// a millionth of a pixel, and at least of a mm
	digits := 6
	for pixel := slices.Min(s.Grid.ITK.Spacing[:2]); pixel < 0.5 && digits < 12; pixel *= 10 {
		digits++
	}
	var list []*dicom.Elements
	for z, drawn := range bySlice {
		for _, points := range drawn {
			data := make([]float64, 0, 3*len(points))
			for _, p := range points {
				at := s.Point(float64(p.x)/milli, float64(p.y)/milli, z)
				data = append(data, at[:]...)
			}
			item := &dicom.Elements{}
			item.Whole(tag.ContourNumber, len(list)+1)
			item.Sequence(tag.ContourImageSequence, s.Slices[z].Reference())
			item.Text(tag.ContourGeometricType, "CLOSED_PLANAR")
			item.Whole(tag.NumberOfContourPoints, len(points))
			item.Rounded(tag.ContourData, digits, data...)
			list = append(list, item)
		}
	}
	return list
}
