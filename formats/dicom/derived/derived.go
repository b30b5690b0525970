// Package derived holds what the objects that lntorch writes for a series have in common, SEG and
// RTSTRUCT: which patient, study and frame of reference they belong to, which slices they refer to,
// their labels on the grid of the series, and UIDs that follow from the content. What an object
// looks like it does not know: packages seg and rtstruct do.
//
// Of the series nothing is copied but what From and header name.
package derived

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
)

// A Series is the image that an object is made for.
type Series struct {
	StudyUID, SeriesUID, FrameOfReference string
	Slices                                []Slice // ascending along the normal
	Grid                                  *labels.Grid
	Orientation                           [6]float64    // ImageOrientationPatient
	header                                dicom.Dataset // of the first slice
}

// A Slice is an image, or a frame of one, that an object refers to.
type Slice struct {
	Class, Instance string     // SOP UIDs
	Frame           int        // from 1; 0 where the file has only one
	Position        [3]float64 // ImagePositionPatient
}

var validUID = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

// IsUID reports whether a text is a UID.
func IsUID(text string) bool { return len(text) <= 64 && validUID.MatchString(text) }

// From reads what objects for a stack need. It fails if the slices do not lie on a regular grid, as
// no label map does then, and if UIDs are missing, as in a series that was emptied of them.
func From(s *series.Stack) (*Series, error) {
	first := s.Slices[0]
	name := first.File.Name
	if last := s.Slices[len(s.Slices)-1]; last.File != first.File {
		name = first.File.Folder
	}
	if s.Problem != nil {
		return nil, s.Problem
	}
	if !s.Geometry.Regular {
		return nil, fmt.Errorf("%s: the slices do not lie on a regular grid (%s): no SEG or RTSTRUCT "+
			"can be written for it", name, strings.Join(s.Geometry.Problems, ", "))
	}
	size, g, err := s.Grid(false)
	if err != nil {
		return nil, err
	}
	grid, err := labels.NewGrid(size, g)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f, err := dicom.Read(first.File.Source)
	if err != nil {
		return nil, err
	}
	out := &Series{StudyUID: s.StudyUID, SeriesUID: s.SeriesUID, FrameOfReference: s.FrameOfReference,
		Grid: grid, Orientation: first.Orientation, header: f.Dataset}
	missing := map[tag.Tag]bool{}
	need := func(t tag.Tag, uid string) {
		if !IsUID(uid) {
			missing[t] = true
		}
	}
	need(tag.StudyInstanceUID, s.StudyUID)
	need(tag.SeriesInstanceUID, s.SeriesUID)
	need(tag.FrameOfReferenceUID, s.FrameOfReference)
	type place struct {
		instance string
		frame    int
	}
	seen := map[place]bool{}
	for _, slice := range s.Slices {
		one := Slice{Class: slice.File.Class, Instance: slice.File.Instance, Position: slice.Position}
		if slice.File.FrameCount > 1 {
			one.Frame = slice.Frame + 1
		}
		need(tag.SOPClassUID, one.Class)
		need(tag.SOPInstanceUID, one.Instance)
		if at := (place{one.Instance, one.Frame}); one.Instance != "" && seen[at] {
			return nil, fmt.Errorf("%s: %s: two slices have the same: an object cannot refer to them",
				name, dicom.Name(tag.SOPInstanceUID))
		} else {
			seen[at] = true
		}
		out.Slices = append(out.Slices, one)
	}
	var names []string
	for t := range missing {
		names = append(names, dicom.Name(t))
	}
	if len(names) > 0 {
		slices.Sort(names)
		return nil, fmt.Errorf("%s: %s: missing or no UID: a SEG or RTSTRUCT for the series cannot "+
			"refer to it", name, strings.Join(names, ", "))
	}
	return out, nil
}

// Made reports whether a file is an object that lntorch wrote.
func Made(path string) bool {
	source, err := dicom.FileSource(path)
	if err != nil {
		return false
	}
	f, err := dicom.Read(source)
	return err == nil && f.Text(tag.Manufacturer) == Program
}

// Point returns where a point of a slice lies, LPS, mm: x and y in pixels of the grid from the
// centre of the first one, in the plane in which the slice lies.
func (s *Series) Point(x, y float64, slice int) labels.Vector {
	z := s.Grid.Voxel(s.Slices[slice].Position)[2]
	return s.Grid.Place(labels.Vector{x, y, z})
}

// How the labels were made, as SEG and RTSTRUCT name it.
const (
	Automatic     = "AUTOMATIC"
	SemiAutomatic = "SEMIAUTOMATIC"
	Manual        = "MANUAL"
)

// Options are what an object says of itself.
type Options struct {
	Number      int    // SeriesNumber
	Description string // SeriesDescription
	Algorithm   string // of segments that do not say it themselves; "" for Automatic
	Version     string // of lntorch
}

// Program is what objects name as their maker and algorithm.
const Program = "lntorch"

// implementation names lntorch in the meta information: a UID of a fixed text, and a name.
var implementation = [2]string{uid([]byte("implementation of " + Program)), "LNTORCH"}

// uid returns a UID under 2.25, that of the UUID (version 8) that is the hash of its content.
func uid(content []byte) string {
	sum := sha256.Sum256(content)
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return "2.25." + new(big.Int).SetBytes(sum[:16]).String()
}

// A Namer returns the UID for one thing of an object, which a text names.
type Namer func(thing string) string

// Write writes an object. Its UIDs are those of its content: of the bytes that build's elements
// give with one UID for everything.
func Write(w io.Writer, syntax, class string, build func(Namer) *dicom.Elements) error {
	content := sha256.New()
	const none = "2.25.0"
	blank := build(func(string) string { return none })
	if err := blank.Write(content, syntax, class, none, implementation); err != nil {
		return err
	}
	key := content.Sum(nil)
	name := func(thing string) string { return uid(append(slices.Clone(key), thing...)) }
	return build(name).Write(w, syntax, class, name("instance"), implementation)
}

// What an object inherits: of type 2, there without a value where the series has none, and such as
// are there only if the series has them.
var (
	inherited = []tag.Tag{tag.PatientName, tag.PatientID, tag.PatientBirthDate, tag.PatientSex,
		tag.StudyDate, tag.StudyTime, tag.AccessionNumber, tag.ReferringPhysicianName, tag.StudyID,
		tag.PositionReferenceIndicator}
	inheritedIfThere = []tag.Tag{tag.IssuerOfPatientID, tag.StudyDescription,
		tag.PatientIdentityRemoved, tag.DeidentificationMethod}
	code = []tag.Tag{tag.CodeValue, tag.CodingSchemeDesignator, tag.CodingSchemeVersion,
		tag.CodeMeaning}
)

// Header returns the elements of patient, study, frame of reference, the object's own series and
// its equipment.
func (s *Series) Header(modality string, o Options, name Namer) *dicom.Elements {
	d := &dicom.Elements{}
	d.Text(tag.SpecificCharacterSet, "ISO_IR 192")
	for _, t := range inherited {
		d.Text(t, s.header.Texts(t)...)
	}
	for _, t := range inheritedIfThere {
		if s.header.Has(t) {
			d.Text(t, s.header.Texts(t)...)
		}
	}
	var methods []*dicom.Elements
	for _, item := range s.header.Items(tag.DeidentificationMethodCodeSequence) {
		method := &dicom.Elements{}
		for _, t := range code {
			if item.Has(t) {
				method.Text(t, item.Texts(t)...)
			}
		}
		methods = append(methods, method)
	}
	if len(methods) > 0 {
		d.Sequence(tag.DeidentificationMethodCodeSequence, methods...)
	}
	d.Text(tag.StudyInstanceUID, s.StudyUID)
	d.Text(tag.FrameOfReferenceUID, s.FrameOfReference)
	d.Text(tag.Modality, modality)
	d.Text(tag.SeriesInstanceUID, name("series"))
	d.Whole(tag.SeriesNumber, o.Number)
	if o.Description != "" {
		d.Text(tag.SeriesDescription, o.Description)
	}
	d.Text(tag.Manufacturer, Program)
	d.Text(tag.ManufacturerModelName, Program)
	d.Text(tag.DeviceSerialNumber, "0")
	d.Text(tag.SoftwareVersions, o.Version)
	return d
}

var (
	validDate = regexp.MustCompile(`^[12][0-9]{7}$`)
	validTime = regexp.MustCompile(`^[0-2][0-9]([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?$`)
)

// Moment returns the date and time that an object gives for its content: those of the study, for the
// bytes depend on the input alone; where the study has none, 1 January 1900, as there must be some.
func (s *Series) Moment() (date, time string) {
	date, time = s.header.Text(tag.StudyDate), s.header.Text(tag.StudyTime)
	if !validDate.MatchString(date) {
		date = "19000101"
	}
	if !validTime.MatchString(time) {
		time = "000000"
	}
	return date, time
}

// Lossy returns LossyImageCompression of the series with the ratios and methods that it states.
func (s *Series) Lossy() (yes bool, ratios []float64, methods []string) {
	if s.header.Text(tag.LossyImageCompression) != "01" {
		return false, nil, nil
	}
	ratios, err := s.header.Floats(tag.LossyImageCompressionRatio, 0)
	if err != nil {
		ratios = nil
	}
	return true, ratios, s.header.Texts(tag.LossyImageCompressionMethod)
}

// Reference returns an item that refers to a slice.
func (s *Slice) Reference() *dicom.Elements {
	d := &dicom.Elements{}
	d.Text(tag.ReferencedSOPClassUID, s.Class)
	d.Text(tag.ReferencedSOPInstanceUID, s.Instance)
	if s.Frame > 0 {
		d.Whole(tag.ReferencedFrameNumber, s.Frame)
	}
	return d
}

// Instances returns an item for each file of the series, in the order of the slices.
func (s *Series) Instances() []*dicom.Elements {
	var all []*dicom.Elements
	seen := map[string]bool{}
	for i := range s.Slices {
		if one := s.Slices[i]; !seen[one.Instance] {
			seen[one.Instance] = true
			one.Frame = 0
			all = append(all, one.Reference())
		}
	}
	return all
}
