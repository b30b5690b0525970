// Package dicom reads the headers of DICOM files that may be hostile, and finds where their pixels
// lie. It decodes no pixels and knows nothing of series: packages below it do.
//
// A file is walked once here: the tags, lengths and nesting of its elements are checked against the
// file, while those that the data dictionary knows are written anew, without private elements and
// bulk data, in implicit VR little endian. Only that copy is handed to github.com/suyashkumar/dicom,
// which parses the values (texts by their character set, numbers, sequences). By itself that module
// takes the memory that a length announces, follows any nesting, and puts values into errors and
// logs; on the copy no length can be wrong.
//
// Errors name the file, the tag and what was expected, never the value of a text element.
package dicom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"
)

// A File is a DICOM file whose header was read.
type File struct {
	*Source
	Syntax   string  // TransferSyntaxUID, as the file has it
	Class    string  // SOPClassUID, or MediaStorageSOPClassUID if that is missing
	Instance string  // SOPInstanceUID, or MediaStorageSOPInstanceUID if that is missing
	Dataset          // of the file, without its meta information
	Pixels   *Pixels // nil if the file has none

	deflated int64 // where the deflated data set begins; 0 if it is not deflated
}

// SOP classes that are no images although they may have pixels.
const (
	ClassDirectory     = "1.2.840.10008.1.3.10"
	ClassSegmentation  = "1.2.840.10008.5.1.4.1.1.66.4"
	ClassLabelMap      = "1.2.840.10008.5.1.4.1.1.66.7"
	ClassRTStructure   = "1.2.840.10008.5.1.4.1.1.481.3"
	ClassRTDose        = "1.2.840.10008.5.1.4.1.1.481.2"
	preamble           = 128
	magic              = "DICM"
	implicitVR         = "1.2.840.10008.1.2"
	explicitVR         = "1.2.840.10008.1.2.1"
	deflatedExplicitVR = "1.2.840.10008.1.2.1.99"
	bigEndianVR        = "1.2.840.10008.1.2.2"
)

// ErrNotDICOM is the error of a file without the letters DICM at byte 128.
var ErrNotDICOM = errors.New("found no DICM at byte 128, expected a DICOM file (PS3.10)")

// Read reads the header of a file, with all elements but private ones, bulk data and those left out,
// up to its pixels. It uses at most 400 MB, and little for usual files. With an error it returns what
// stands before the damage, or nil.
func Read(s *Source, leaveOut ...tag.Tag) (*File, error) {
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f := &File{Source: s}
	w := &walker{in: input{from: r, size: s.Size}, file: f, leaveOut: leaveOut}
	defer w.unlock()
	first, err := w.in.peek(preamble + len(magic))
	if err != nil || string(first[preamble:]) != magic {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		return nil, fmt.Errorf("%s: %w", s.Name, ErrNotDICOM)
	}
	w.in.skip(preamble + int64(len(magic)))
	err = w.walk()
	if errors.Is(err, errMemory) {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	if parsed, failed := parse(w.copy); failed != nil && err == nil {
		err = failed
	} else {
		f.Dataset = parsed
	}
	if f.Pixels != nil && f.Pixels.VR == "" { // an offset table without pixels
		f.Pixels = nil
	}
	if uid := f.Text(tag.SOPClassUID); uid != "" {
		f.Class = uid
	}
	if uid := f.Text(tag.SOPInstanceUID); uid != "" {
		f.Instance = uid
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", s.Name, err)
	}
	return f, nil
}

var standardUID = regexp.MustCompile(`^1\.2\.840\.10008\.[0-9.]{1,40}$`)

// StandardUID returns a UID that the standard defines, such as a transfer syntax, and "" for any
// other text, which may say something of a patient: what it returns can be shown.
func StandardUID(uid string) string {
	if standardUID.MatchString(uid) {
		return uid
	}
	return ""
}

// parse hands a header that the walker wrote to the module. It says nothing of the module's error,
// which may hold values.
func parse(header []byte) (d Dataset, err error) {
	defer func() {
		if recover() != nil {
			d, err = nil, errHeader
		}
	}()
	le := binary.LittleEndian
	var b bytes.Buffer
	b.Write(make([]byte, preamble))
	b.WriteString(magic)
	syntax := implicitVR + "\x00"
	b.Write(le.AppendUint32([]byte{2, 0, 0, 0, 'U', 'L', 4, 0}, uint32(8+len(syntax))))
	b.Write(le.AppendUint16([]byte{2, 0, 0x10, 0, 'U', 'I'}, uint16(len(syntax))))
	b.WriteString(syntax)
	size := b.Len() + len(header)
	all, failed := dicom.Parse(io.MultiReader(&b, bytes.NewReader(header)), int64(size), nil,
		dicom.SkipProcessingPixelDataValue(), dicom.AllowUnknownSpecificCharacterSet())
	if failed != nil {
		return nil, errHeader
	}
	for _, e := range all.Elements {
		if e.Tag.Group > 2 {
			d = append(d, e)
		}
	}
	return d, nil
}

var errHeader = errors.New("the elements of its header cannot be read")
