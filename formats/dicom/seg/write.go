package seg

import (
	"fmt"
	"io"
	"math"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/derived"
)

// Write writes a SEG: segments numbered from 1 in the order of l, and of each the slices in which it
// has voxels, as frames of one bit a pixel; with labelMap the slices that have any, as frames of one
// label map whose pixels are the segments' numbers. Without any voxel there is one empty frame. The
// bytes depend on the arguments alone.
func Write(w io.Writer, s *derived.Series, l *derived.Labels, o derived.Options, labelMap bool) error {
	if err := l.Check(s); err != nil {
		return err
	}
	x := &writer{series: s, labels: l, options: o, number: make([]uint16, math.MaxUint16+1)}
	for i, g := range l.Segments {
		x.number[g.Value] = uint16(i + 1)
	}
	class := dicom.ClassSegmentation
	if labelMap {
		class = dicom.ClassLabelMap
		x.bits = 8
		if len(l.Segments) > math.MaxUint8 {
			x.bits = 16
		}
	} else {
		x.bits = 1
	}
	x.find()
	const longest = math.MaxUint32 - 1
	size := (int64(len(x.planes))*int64(s.Grid.Size[0])*int64(s.Grid.Size[1])*int64(x.bits) + 7) / 8
	if size >= longest {
		return fmt.Errorf("%d frames of %d × %d pixels do not fit a file of DICOM, which holds %d "+
			"bytes of pixels", len(x.planes), s.Grid.Size[0], s.Grid.Size[1], int64(longest))
	}
	x.pixels = make([]byte, size, size+1)
	if labelMap {
		x.fill()
	} else {
		x.pack()
	}
	return derived.Write(w, dicom.ExplicitLittle, class, x.elements)
}

// written is a frame: a slice in which a segment has voxels; segment 0 stands for all of a label map.
type written struct {
	segment uint16
	slice   int
}

type writer struct {
	series  *derived.Series
	labels  *derived.Labels
	options derived.Options
	number  []uint16    // of the segment with a label
	bits    int         // of a pixel
	planes  []written   // by segment, then ascending
	place   map[int]int // rank of a slice, from 1, among those that have frames
	pixels  []byte
}

// find finds the frames that have voxels.
func (x *writer) find() {
	n := x.series.Grid.Size[0] * x.series.Grid.Size[1]
	found := make([][]bool, x.series.Grid.Size[2]) // by slice, then by segment
	for z := range found {
		has := make([]bool, len(x.labels.Segments)+1)
		last := uint16(0)
		for _, v := range x.labels.Values[z*n : (z+1)*n] {
			if v == last || v == 0 {
				continue
			}
			last = v
			has[x.number[v]] = true
			has[0] = true // any
		}
		found[z] = has
	}
	first, end := 1, len(x.labels.Segments)+1
	if x.bits > 1 {
		first, end = 0, 1
	}
	for k := first; k < end; k++ {
		for z := range found {
			if found[z][k] {
				x.planes = append(x.planes, written{uint16(k), z})
			}
		}
	}
	if len(x.planes) == 0 {
		x.planes = []written{{uint16(first), 0}}
	}
	x.place = map[int]int{}
	used := make([]bool, len(found))
	for _, f := range x.planes {
		used[f.slice] = true
	}
	for z := range used {
		if used[z] {
			x.place[z] = len(x.place) + 1
		}
	}
}

// pack writes the frames as bits, the first pixel in the lowest bit; they run on across frames.
func (x *writer) pack() {
	n := x.series.Grid.Size[0] * x.series.Grid.Size[1]
	bySlice := make([][]int, x.series.Grid.Size[2])
	for k, f := range x.planes {
		bySlice[f.slice] = append(bySlice[f.slice], k)
	}
	begin := make([]int, len(x.labels.Segments)+1) // of a segment's frame, in bits
	for z, planes := range bySlice {
		for _, k := range planes {
			begin[x.planes[k].segment] = k * n
		}
		for i, v := range x.labels.Values[z*n : (z+1)*n] {
			if v != 0 {
				at := begin[x.number[v]] + i
				x.pixels[at>>3] |= 1 << (at & 7)
			}
		}
	}
}

// fill writes the frames as the numbers of segments.
func (x *writer) fill() {
	n := x.series.Grid.Size[0] * x.series.Grid.Size[1]
	for k, f := range x.planes {
		for i, v := range x.labels.Values[f.slice*n : (f.slice+1)*n] {
			if v == 0 {
				continue
			}
			if number := x.number[v]; x.bits == 8 {
				x.pixels[k*n+i] = byte(number)
			} else {
				x.pixels[2*(k*n+i)] = byte(number)
				x.pixels[2*(k*n+i)+1] = byte(number >> 8)
			}
		}
	}
}

// Codes of what stands in every SEG.
var (
	background   = derived.Code{Value: "125040", Scheme: "DCM", Meaning: "Background"}
	segmentation = derived.Code{Value: "113076", Scheme: "DCM", Meaning: "Segmentation"}
	source       = derived.Code{Value: "121322", Scheme: "DCM",
		Meaning: "Source image for image processing operation"}
)

func (x *writer) elements(name derived.Namer) *dicom.Elements {
	s := x.series
	d := s.Header("SEG", x.options, name)
	date, time := s.Moment()
	d.Text(tag.ContentDate, date)
	d.Text(tag.ContentTime, time)
	d.Whole(tag.InstanceNumber, 1)
	d.Text(tag.ContentLabel, "SEGMENTATION")
	d.Text(tag.ContentDescription)
	d.Text(tag.ContentCreatorName)
	d.Text(tag.ImageType, "DERIVED", "PRIMARY")

	d.Whole(tag.SamplesPerPixel, 1)
	d.Text(tag.PhotometricInterpretation, "MONOCHROME2")
	d.Whole(tag.Rows, s.Grid.Size[1])
	d.Whole(tag.Columns, s.Grid.Size[0])
	d.Whole(tag.BitsAllocated, x.bits)
	d.Whole(tag.BitsStored, x.bits)
	d.Whole(tag.HighBit, x.bits-1)
	d.Whole(tag.PixelRepresentation, 0)
	d.Whole(tag.NumberOfFrames, len(x.planes))
	d.Text(tag.LossyImageCompression, "00")
	if lossy, ratios, methods := s.Lossy(); lossy {
		d.Text(tag.LossyImageCompression, "01")
		if len(ratios) > 0 {
			d.Decimals(tag.LossyImageCompressionRatio, ratios...)
		}
		if len(methods) > 0 {
			d.Text(tag.LossyImageCompressionMethod, methods...)
		}
	}
	vr := "OB"
	if x.bits == 1 {
		d.Text(tag.SegmentationType, "BINARY")
		d.Text(tag.SegmentsOverlap, "NO")
	} else {
		d.Text(tag.SegmentationType, "LABELMAP")
		d.Whole(tag.PixelPaddingValue, 0)
		if x.bits == 16 {
			vr = "OW"
		}
	}
	d.Bytes(tag.PixelData, vr, x.pixels)
	d.Sequence(tag.SegmentSequence, x.segments(name)...)
	x.dimensions(d, name)

	image := &dicom.Elements{}
	image.Text(tag.SeriesInstanceUID, s.SeriesUID)
	image.Sequence(tag.ReferencedInstanceSequence, s.Instances()...)
	d.Sequence(tag.ReferencedSeriesSequence, image)

	measures := &dicom.Elements{}
	spacing := s.Grid.ITK.Spacing
	measures.Decimals(tag.PixelSpacing, spacing[1], spacing[0])
	measures.Decimals(tag.SliceThickness, spacing[2])
	measures.Decimals(tag.SpacingBetweenSlices, spacing[2])
	orientation := &dicom.Elements{}
	orientation.Decimals(tag.ImageOrientationPatient, s.Orientation[:]...)
	shared := &dicom.Elements{}
	shared.Sequence(tag.PixelMeasuresSequence, measures)
	shared.Sequence(tag.PlaneOrientationSequence, orientation)
	d.Sequence(tag.SharedFunctionalGroupsSequence, shared)
	d.Sequence(tag.PerFrameFunctionalGroupsSequence, x.groups()...)
	return d
}

// segments returns an item for each segment, in a label map after one for the background.
func (x *writer) segments(name derived.Namer) []*dicom.Elements {
	var all []*dicom.Elements
	if x.bits > 1 {
		all = append(all, segment(0, "Background", &background, &background,
			derived.Automatic, [3]uint8{}))
		all[0].Text(tag.SegmentAlgorithmName, derived.Program)
	}
	for i := range x.labels.Segments {
		g := &x.labels.Segments[i]
		algorithm := g.AlgorithmOr(x.options)
		d := segment(i+1, g.Name, g.CategoryOrAnatomy(), g.TypeOrNode(), algorithm, x.labels.RGB(i))
		if g.Description != "" {
			d.Text(tag.SegmentDescription, g.Description)
		}
		if algorithm != derived.Manual {
			d.Text(tag.SegmentAlgorithmName, g.AlgorithmNameOr())
		}
		// in the item of the code that they modify
		kind := g.TypeOrNode().Item()
		addCodes(kind, tag.SegmentedPropertyTypeModifierCodeSequence, g.TypeModifier)
		d.Sequence(tag.SegmentedPropertyTypeCodeSequence, kind)
		if len(g.Region) > 0 {
			region := g.Region[0].Item()
			addCodes(region, tag.AnatomicRegionModifierSequence, g.RegionModifier)
			d.Sequence(tag.AnatomicRegionSequence, region)
		}
		if g.TrackingID != "" {
			d.Text(tag.TrackingID, g.TrackingID)
			uid := g.TrackingUID
			if uid == "" {
				uid = name(fmt.Sprintf("tracking %d", i+1))
			}
			d.Text(tag.TrackingUID, uid)
		}
		all = append(all, d)
	}
	return all
}

func addCodes(d *dicom.Elements, t tag.Tag, codes []derived.Code) {
	var items []*dicom.Elements
	for i := range codes {
		items = append(items, codes[i].Item())
	}
	if len(items) > 0 {
		d.Sequence(t, items...)
	}
}

func segment(number int, label string, category, kind *derived.Code, algorithm string,
	rgb [3]uint8) *dicom.Elements {
	d := &dicom.Elements{}
	d.Whole(tag.SegmentNumber, number)
	d.Text(tag.SegmentLabel, label)
	d.Text(tag.SegmentAlgorithmType, algorithm)
	d.Sequence(tag.SegmentedPropertyCategoryCodeSequence, category.Item())
	d.Sequence(tag.SegmentedPropertyTypeCodeSequence, kind.Item())
	lab := cieLab(rgb)
	d.Whole(tag.RecommendedDisplayCIELabValue, int(lab[0]), int(lab[1]), int(lab[2]))
	return d
}

// dimensions says by what the frames are ordered.
func (x *writer) dimensions(d *dicom.Elements, name derived.Namer) {
	uid := name("dimensions")
	organization := &dicom.Elements{}
	organization.Text(tag.DimensionOrganizationUID, uid)
	d.Sequence(tag.DimensionOrganizationSequence, organization)
	index := func(pointer, group tag.Tag, label string) *dicom.Elements {
		i := &dicom.Elements{}
		i.Text(tag.DimensionOrganizationUID, uid)
		i.Tag(tag.DimensionIndexPointer, pointer)
		i.Tag(tag.FunctionalGroupPointer, group)
		i.Text(tag.DimensionDescriptionLabel, label)
		return i
	}
	position := index(tag.ImagePositionPatient, tag.PlanePositionSequence, "Image Position Patient")
	if x.bits > 1 {
		d.Sequence(tag.DimensionIndexSequence, position)
		return
	}
	d.Sequence(tag.DimensionIndexSequence, index(tag.ReferencedSegmentNumber,
		tag.SegmentIdentificationSequence, "Segment Number"), position)
}

// groups returns the functional groups of each frame.
func (x *writer) groups() []*dicom.Elements {
	var all []*dicom.Elements
	for _, f := range x.planes {
		slice := &x.series.Slices[f.slice]
		d := &dicom.Elements{}
		content := &dicom.Elements{}
		if x.bits > 1 {
			content.Whole(tag.DimensionIndexValues, x.place[f.slice])
		} else {
			content.Whole(tag.DimensionIndexValues, int(f.segment), x.place[f.slice])
			identity := &dicom.Elements{}
			identity.Whole(tag.ReferencedSegmentNumber, int(f.segment))
			d.Sequence(tag.SegmentIdentificationSequence, identity)
		}
		d.Sequence(tag.FrameContentSequence, content)
		position := &dicom.Elements{}
		position.Decimals(tag.ImagePositionPatient, slice.Position[:]...)
		d.Sequence(tag.PlanePositionSequence, position)
		image := slice.Reference()
		image.Text(tag.SpatialLocationsPreserved, "YES")
		image.Sequence(tag.PurposeOfReferenceCodeSequence, source.Item())
		derivation := &dicom.Elements{}
		derivation.Sequence(tag.DerivationCodeSequence, segmentation.Item())
		derivation.Sequence(tag.SourceImageSequence, image)
		d.Sequence(tag.DerivationImageSequence, derivation)
		all = append(all, d)
	}
	return all
}

// cieLab converts sRGB to DICOM's CIELab (PS3.3 C.10.7.1.1): L* from 0 to 100, a* and b* from -128
// to 127, each spread over 16 bits. White is that of D65, as in highdicom, dcmqi and viewers, so that
// they show the colour that was meant.
func cieLab(rgb [3]uint8) [3]uint16 {
	var linear [3]float64
	for i, v := range rgb {
		c := float64(v) / 255
		if c <= 0.04045 {
			linear[i] = c / 12.92
		} else {
			linear[i] = math.Pow((c+0.055)/1.055, 2.4)
		}
	}
	// IEC 61966-2-1: linear sRGB to XYZ, and the white of D65
	toXYZ := [3][3]float64{{0.4124, 0.3576, 0.1805}, {0.2126, 0.7152, 0.0722},
		{0.0193, 0.1192, 0.9505}}
	white := [3]float64{0.9505, 1, 1.089}
	var f [3]float64
	for i, row := range toXYZ {
		t := (row[0]*linear[0] + row[1]*linear[1] + row[2]*linear[2]) / white[i]
		const linearBelow = 6. / 29
		if t > linearBelow*linearBelow*linearBelow {
			f[i] = math.Cbrt(t)
		} else {
			f[i] = t/(3*linearBelow*linearBelow) + 4./29
		}
	}
	spread := func(v, least, most float64) uint16 {
		return uint16(math.Round(min(max((v-least)/(most-least), 0), 1) * math.MaxUint16))
	}
	return [3]uint16{spread(116*f[1]-16, 0, 100), spread(500*(f[0]-f[1]), -128, 127),
		spread(200*(f[1]-f[2]), -128, 127)}
}
