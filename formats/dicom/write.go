package dicom

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// Elements is a data set to be written: elements, of which each method sets one. Their value
// representation is the data dictionary's; a tag that it lacks, or a value that is not of its
// kind, is a programmer's error and panics. They are written in the order of their tags, sequences
// and items with their lengths, texts in UTF-8: the same elements always give the same bytes.
//
// The module's writer is not used: it joins the texts of an element one by one, 19 s for a contour
// of 10,000 points, and copies a value again for each sequence around it.
type Elements struct{ all []newElement }

// newElement has a value or, as a sequence, items.
type newElement struct {
	tag   tag.Tag
	vr    string
	value []byte
	items []*Elements
}

// Transfer syntaxes that Write knows.
const (
	ImplicitLittle = implicitVR
	ExplicitLittle = explicitVR
)

func (d *Elements) set(e newElement) {
	for i := range d.all {
		if d.all[i].tag == e.tag {
			d.all[i] = e
			return
		}
	}
	d.all = append(d.all, e)
}

func representation(t tag.Tag, allowed ...string) string {
	vr := known(t)
	if !slices.Contains(allowed, vr) {
		panic(fmt.Sprintf("dicom: %s has the value representation %s, expected one of %v", Name(t),
			vr, allowed))
	}
	return vr
}

// Text sets texts. Without any, or with only "", the element is there without a value, as one of
// type 2 may be. Bytes that are not UTF-8 become "?".
func (d *Elements) Text(t tag.Tag, values ...string) {
	vr := representation(t, text...)
	value := []byte(strings.ToValidUTF8(strings.Join(values, `\`), "?"))
	d.set(newElement{tag: t, vr: vr, value: padded(value, vr)})
}

// padded makes the length of a text even.
func padded(value []byte, vr string) []byte {
	if len(value)&1 == 0 {
		return value
	}
	if vr == "UI" {
		return append(value, 0)
	}
	return append(value, ' ')
}

// Whole sets whole numbers, of US, UL, SS, SL or IS.
func (d *Elements) Whole(t tag.Tag, values ...int) {
	vr := representation(t, "US", "UL", "SS", "SL", "IS")
	var b []byte
	for i, v := range values {
		switch vr {
		case "IS":
			if i > 0 {
				b = append(b, '\\')
			}
			b = strconv.AppendInt(b, int64(v), 10)
		case "US", "SS":
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		default:
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
	}
	d.set(newElement{tag: t, vr: vr, value: padded(b, vr)})
}

// Decimals sets numbers of a DS, each as exact as its 16 characters allow.
func (d *Elements) Decimals(t tag.Tag, values ...float64) {
	d.Rounded(t, -1, values...)
}

// Rounded is Decimals with at most so many digits after the point; -1 for any number.
func (d *Elements) Rounded(t tag.Tag, digits int, values ...float64) {
	vr := representation(t, "DS")
	b := make([]byte, 0, 12*len(values))
	for i, v := range values {
		if i > 0 {
			b = append(b, '\\')
		}
		b = appendDecimal(b, v, digits)
	}
	d.set(newElement{tag: t, vr: vr, value: padded(b, vr)})
}

// maxDecimal is the characters of a DS.
const maxDecimal = 16

// appendDecimal appends a number in at most 16 characters.
func appendDecimal(b []byte, v float64, digits int) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		panic("dicom: a DS holds finite numbers only")
	}
	start := len(b)
	if digits >= 0 {
		b = strconv.AppendFloat(b, v, 'f', digits, 64)
		if digits > 0 {
			end := len(b)
			for b[end-1] == '0' {
				end--
			}
			if b[end-1] == '.' {
				end--
			}
			b = b[:end]
		}
		if string(b[start:]) == "-0" {
			b = append(b[:start], '0')
		}
		if len(b)-start <= maxDecimal {
			return b
		}
	}
	if v == 0 {
		return append(b[:start], '0')
	}
	for precision := 17; ; precision-- {
		if precision == 17 { // the shortest text that is the number
			b = strconv.AppendFloat(b[:start], v, 'g', -1, 64)
		} else {
			b = strconv.AppendFloat(b[:start], v, 'g', precision, 64)
		}
		if len(b)-start <= maxDecimal {
			return b
		}
	}
}

// Bytes sets pixels, of OB or OW.
func (d *Elements) Bytes(t tag.Tag, vr string, value []byte) {
	if vr != "OB" && vr != "OW" {
		panic("dicom: bytes are OB or OW")
	}
	if len(value)&1 == 1 {
		value = append(value, 0)
	}
	d.set(newElement{tag: t, vr: vr, value: value})
}

// Tag sets a tag as a value, of AT.
func (d *Elements) Tag(t, value tag.Tag) {
	b := binary.LittleEndian.AppendUint16(nil, value.Group)
	b = binary.LittleEndian.AppendUint16(b, value.Element)
	d.set(newElement{tag: t, vr: representation(t, "AT"), value: b})
}

// Sequence sets a sequence of items.
func (d *Elements) Sequence(t tag.Tag, items ...*Elements) {
	d.set(newElement{tag: t, vr: representation(t, "SQ"), items: items})
}

// Write writes a file: the data set with its meta information, in implicit or explicit VR little
// endian. Class and instance are those of the file's SOP, which Write adds to the data set;
// implementation is a UID and a name of at most 16 characters. It fails for an element that is
// longer than its length field can say.
func (d *Elements) Write(w io.Writer, syntax, class, instance string, implementation [2]string) error {
	if syntax != ImplicitLittle && syntax != ExplicitLittle {
		panic("dicom: only little endian is written")
	}
	d.Text(tag.SOPClassUID, class)
	d.Text(tag.SOPInstanceUID, instance)
	meta := &Elements{}
	meta.set(newElement{tag: tag.FileMetaInformationVersion, vr: "OB", value: []byte{0, 1}})
	meta.Text(tag.MediaStorageSOPClassUID, class)
	meta.Text(tag.MediaStorageSOPInstanceUID, instance)
	meta.Text(tag.TransferSyntaxUID, syntax)
	meta.Text(tag.ImplementationClassUID, implementation[0])
	meta.Text(tag.ImplementationVersionName, implementation[1])
	length, err := meta.prepare(false)
	if err != nil {
		return err
	}
	meta.set(newElement{tag: tag.FileMetaInformationGroupLength, vr: "UL",
		value: binary.LittleEndian.AppendUint32(nil, uint32(length))})
	if _, err := meta.prepare(false); err != nil {
		return err
	}
	if _, err := d.prepare(syntax == ImplicitLittle); err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<16)
	b.Write(make([]byte, preamble))
	b.WriteString(magic)
	meta.write(b, false)
	d.write(b, syntax == ImplicitLittle)
	return b.Flush()
}

// prepare sorts the elements and returns how many bytes they take.
func (d *Elements) prepare(implicit bool) (int64, error) {
	slices.SortStableFunc(d.all, func(a, b newElement) int { return a.tag.Compare(b.tag) })
	total := int64(0)
	for i := range d.all {
		e := &d.all[i]
		for _, item := range e.items {
			if _, err := item.prepare(implicit); err != nil {
				return 0, err
			}
		}
		n := e.length(implicit)
		most := int64(undefined - 1)
		total += 8
		if !implicit {
			if slices.Contains(short, e.vr) {
				most = math.MaxUint16 - 1
			} else {
				total += 4
			}
		}
		if n > most {
			return 0, fmt.Errorf("%s would have %d bytes, expected at most %d", Name(e.tag), n, most)
		}
		total += n
	}
	return total, nil
}

// length is the bytes of the value.
func (e *newElement) length(implicit bool) int64 {
	n := int64(len(e.value))
	for _, item := range e.items {
		n += itemHeader + item.length(implicit)
	}
	return n
}

// length is the bytes of all elements.
func (d *Elements) length(implicit bool) int64 {
	n := int64(0)
	for i := range d.all {
		e := &d.all[i]
		n += 8 + e.length(implicit)
		if !implicit && !slices.Contains(short, e.vr) {
			n += 4
		}
	}
	return n
}

func (d *Elements) write(w *bufio.Writer, implicit bool) {
	le := binary.LittleEndian
	var b []byte
	for i := range d.all {
		e := &d.all[i]
		n := uint32(e.length(implicit))
		b = le.AppendUint16(b[:0], e.tag.Group)
		b = le.AppendUint16(b, e.tag.Element)
		switch {
		case implicit:
			b = le.AppendUint32(b, n)
		case slices.Contains(short, e.vr):
			b = append(b, e.vr...)
			b = le.AppendUint16(b, uint16(n))
		default:
			b = append(b, e.vr...)
			b = append(b, 0, 0)
			b = le.AppendUint32(b, n)
		}
		w.Write(b)
		w.Write(e.value)
		for _, item := range e.items {
			b = le.AppendUint16(b[:0], tag.Item.Group)
			b = le.AppendUint16(b, tag.Item.Element)
			w.Write(le.AppendUint32(b, uint32(item.length(implicit))))
			item.write(w, implicit)
		}
	}
}
