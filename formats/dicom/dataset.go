package dicom

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"
)

// A Dataset is the elements of a file or of a sequence's item. Its methods do not look into
// sequences; a tag that is missing and one without a value are the same. Errors name the tag.
type Dataset []*dicom.Element

// element returns the first element of a tag, or nil.
func (d Dataset) element(t tag.Tag) *dicom.Element {
	for _, e := range d {
		if e.Tag == t {
			return e
		}
	}
	return nil
}

// Has reports whether a tag has a value, or a sequence an item.
func (d Dataset) Has(t tag.Tag) bool {
	e := d.element(t)
	if e == nil {
		return false
	}
	switch v := e.Value.GetValue().(type) {
	case []string:
		return len(v) > 1 || len(v) == 1 && trim(v[0]) != ""
	case []int:
		return len(v) > 0
	case []float64:
		return len(v) > 0
	case []*dicom.SequenceItemValue:
		return len(v) > 0
	}
	return false
}

const padding = " \x00\t\r\n"

// trim leaves out padding, which most texts do not have.
func trim(s string) string {
	if s == "" || s[0] > ' ' && s[len(s)-1] > ' ' {
		return s
	}
	return strings.Trim(s, padding)
}

// Texts returns the values of a text, in UTF-8 and without padding.
func (d Dataset) Texts(t tag.Tag) []string {
	e := d.element(t)
	if e == nil {
		return nil
	}
	v, _ := e.Value.GetValue().([]string)
	values := make([]string, len(v))
	for i := range v {
		values[i] = trim(v[i])
	}
	if len(values) == 1 && values[0] == "" {
		return nil
	}
	return values
}

// Text returns the first value of a text, or "".
func (d Dataset) Text(t tag.Tag) string {
	if v := d.Texts(t); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Floats returns the numbers of an element (DS, IS, FD, FL, US, …), nil if it is missing. Where n is
// not 0, another number of values is an error, a missing one too. NaN and infinities are refused.
func (d Dataset) Floats(t tag.Tag, n int) ([]float64, error) {
	wrong := func() error {
		if n == 0 {
			return fmt.Errorf("%s: expected numbers", Name(t))
		}
		if n == 1 {
			return fmt.Errorf("%s: expected a number", Name(t))
		}
		return fmt.Errorf("%s: expected %d numbers", Name(t), n)
	}
	if !d.Has(t) {
		if n > 0 {
			return nil, fmt.Errorf("%s is missing", Name(t))
		}
		return nil, nil
	}
	var values []float64
	switch v := d.element(t).Value.GetValue().(type) {
	case []float64:
		values = v
	case []int:
		for _, x := range v {
			values = append(values, float64(x))
		}
	case []string:
		values = make([]float64, len(v))
		for i, s := range v {
			x, err := number(s)
			if err != nil {
				return nil, wrong()
			}
			values[i] = x
		}
	}
	for _, x := range values {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, wrong()
		}
	}
	if values == nil || n > 0 && len(values) != n {
		return nil, wrong()
	}
	return values, nil
}

// number reads a DS or IS: strconv takes more, such as hexadecimal digits and "inf".
func number(s string) (float64, error) {
	s = trim(s)
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseFloat(s, 64)
}

// Span returns where the value of ContourData lies, the one element that is not read with the others: a
// structure set may have millions of points. It is empty if the element is missing.
func (d Dataset) Span() Span {
	var s Span
	if _, err := fmt.Sscanf(d.Text(tag.ContourData), "%d+%d", &s.Offset, &s.Length); err != nil {
		return Span{}
	}
	return s
}

// Decimals reads the numbers of a DS that lies at a span, in their order, and hands them to found. The
// buffer is for it alone while it runs. Nothing is found in padding. It stops at the first error.
func (s Span) Decimals(r Reader, buffer *[1 << 16]byte, found func(float64) error) error {
	kept := 0 // bytes of the buffer, of a number whose end was not read
	for at := int64(0); at < s.Length || kept > 0; {
		n := int(min(s.Length-at, int64(len(buffer)-kept)))
		if got, err := r.ReadAt(buffer[kept:kept+n], s.Offset+at); got < n {
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errEnd
			}
			return err
		}
		at += int64(n)
		text := buffer[:kept+n]
		if at == s.Length && int64(len(text)) == s.Length && trim(string(text)) == "" {
			return nil
		}
		for {
			end := bytes.IndexByte(text, '\\')
			if end < 0 {
				if at < s.Length {
					break
				}
				end = len(text)
			}
			x, err := number(string(text[:end]))
			if err != nil || math.IsInf(x, 0) {
				return errNumbers
			}
			if err := found(x); err != nil {
				return err
			}
			if end == len(text) {
				return nil
			}
			text = text[end+1:]
		}
		if len(text) == len(buffer) {
			return errNumbers
		}
		kept = copy(buffer[:], text)
	}
	return nil
}

var errNumbers = errors.New("expected numbers")

// Float returns a number, or otherwise if it is missing.
func (d Dataset) Float(t tag.Tag, otherwise float64) (float64, error) {
	if !d.Has(t) {
		return otherwise, nil
	}
	v, err := d.Floats(t, 1)
	if err != nil {
		return 0, err
	}
	return v[0], nil
}

// Int returns a whole number from least to most. It is an error if it is missing.
func (d Dataset) Int(t tag.Tag, least, most int) (int, error) {
	v, err := d.Floats(t, 1)
	if err != nil {
		return 0, err
	}
	if x := v[0]; x != math.Trunc(x) || x < float64(least) || x > float64(most) {
		return 0, fmt.Errorf("%s: expected a whole number from %d to %d", Name(t), least, most)
	}
	return int(v[0]), nil
}

// Items returns the items of a sequence.
func (d Dataset) Items(t tag.Tag) []Dataset {
	e := d.element(t)
	if e == nil {
		return nil
	}
	v, _ := e.Value.GetValue().([]*dicom.SequenceItemValue)
	items := make([]Dataset, len(v))
	for i := range v {
		items[i], _ = v[i].GetValue().([]*dicom.Element)
	}
	return items
}

// Item returns the first item of a sequence, which has no elements if there is none.
func (d Dataset) Item(t tag.Tag) Dataset {
	if items := d.Items(t); len(items) > 0 {
		return items[0]
	}
	return nil
}
