package dicom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/internal/inflate"
)

const (
	maxDepth = 32 // of sequences
	// maxMemory bounds what the module takes for a header, as elements, bytes and values announce it.
	maxMemory = 384 << 20
	// largeMemory is from where on only one header is read at a time.
	largeMemory  = 16 << 20
	maxFragments = 1 << 20
	undefined    = 0xffffffff
	// maxInflation is what deflate compresses at most.
	maxInflation = 1032
)

// large is held while a large header is read.
var large sync.Mutex

// encoding is how elements are written.
type encoding struct {
	order    binary.ByteOrder
	implicit bool
}

var implicitLittle = encoding{binary.LittleEndian, true}

// A walker checks the elements of a file and copies those that the dictionary knows.
type walker struct {
	in     input
	file   *File
	copy   []byte // in implicit VR little endian
	memory int64  // that the module will need for the copy
	locked bool

	leaveOut []tag.Tag // elements that are not copied
}

func (w *walker) unlock() {
	if w.locked {
		large.Unlock()
	}
}

var errMemory = fmt.Errorf("its header would take more than %d MB of memory", maxMemory>>20)

// need adds to the memory for the copy.
func (w *walker) need(n int64) error {
	if w.memory += n; w.memory > maxMemory {
		return errMemory
	}
	if w.memory > largeMemory && !w.locked {
		large.Lock()
		w.locked = true
	}
	return nil
}

// header is what stands before the value of an element. The vr of an item is "", that of an
// implicit element the dictionary's, "UN" if it has none.
type header struct {
	tag    tag.Tag
	vr     string
	length int64 // -1 if it is undefined
}

// text are the value representations that are text, width the bytes of numbers.
var (
	text = []string{"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM",
		"UC", "UI", "UR", "UT"}
	width = map[string]int{"US": 2, "SS": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
	// with lengths of 16 bits
	short = []string{"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN",
		"SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"}
)

// known returns the first value representation that the dictionary has for a tag.
func known(t tag.Tag) string {
	if t.Group&1 == 1 || t.Element == 0 {
		return "UN"
	}
	if info, err := tag.Find(t); err == nil && len(info.VRs) > 0 {
		return info.VRs[0]
	}
	return "UN"
}

// header reads the header of an element or an item.
func (w *walker) header(e encoding) (h header, err error) {
	b, err := w.in.next(8)
	if err != nil {
		return h, err
	}
	h.tag = tag.Tag{Group: e.order.Uint16(b), Element: e.order.Uint16(b[2:])}
	var length uint32
	switch {
	case h.tag.Group == 0xfffe:
		length = e.order.Uint32(b[4:])
	case e.implicit:
		h.vr, length = known(h.tag), e.order.Uint32(b[4:])
	default:
		h.vr = string(b[4:6])
		if b[4] < 'A' || b[4] > 'Z' || b[5] < 'A' || b[5] > 'Z' {
			return h, fmt.Errorf("%s: found no value representation: the file is damaged or its "+
				"transfer syntax is not what it says", code(h.tag))
		}
		if slices.Contains(short, h.vr) {
			length = uint32(e.order.Uint16(b[6:]))
			break
		}
		if b, err = w.in.next(4); err != nil {
			return h, err
		}
		length = e.order.Uint32(b)
	}
	h.length = int64(length)
	if length == undefined {
		h.length = -1
	}
	return h, nil
}

// code is a tag as it is written in the standard.
func code(t tag.Tag) string { return fmt.Sprintf("(%04x,%04x)", t.Group, t.Element) }

// Name returns a tag's keyword and number, for messages.
func Name(t tag.Tag) string {
	if info, err := tag.Find(t); err == nil {
		return info.Keyword + " " + code(t)
	}
	return code(t)
}

// walk walks the meta information and the data set.
func (w *walker) walk() error {
	little := encoding{binary.LittleEndian, false}
	for {
		b, err := w.in.peek(2)
		if errors.Is(err, io.EOF) {
			return errEnd
		} else if err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(b) != 2 {
			break
		}
		h, err := w.header(little)
		if err != nil {
			return err
		}
		if h.length < 0 || h.length > w.in.left() {
			return tooLong(h.tag)
		}
		to := map[tag.Tag]*string{tag.TransferSyntaxUID: &w.file.Syntax,
			tag.MediaStorageSOPClassUID:    &w.file.Class,
			tag.MediaStorageSOPInstanceUID: &w.file.Instance}[h.tag]
		if to == nil || h.length > 64 {
			w.in.skip(h.length)
			continue
		}
		uid, err := w.in.read(nil, h.length)
		if err != nil {
			return err
		}
		*to = strings.Trim(string(uid), " \x00")
	}
	e := little
	switch w.file.Syntax {
	case implicitVR:
		e.implicit = true
	case bigEndianVR:
		e.order = binary.BigEndian
	case deflatedExplicitVR:
		at := w.in.offset()
		w.file.deflated = at
		r := w.file.inflated(w.in.from)
		defer r.Close()
		w.in = input{from: r, size: w.in.left() * maxInflation}
	case "":
		// The file does not say: an explicit element has two letters there.
		if b, err := w.in.peek(6); err == nil {
			e.implicit = b[4] < 'A' || b[4] > 'Z' || b[5] < 'A' || b[5] > 'Z'
		}
		w.file.Syntax = explicitVR
		if e.implicit {
			w.file.Syntax = implicitVR
		}
	}
	return w.dataset(w.in.size, false, e, 0, true)
}

func tooLong(t tag.Tag) error {
	return fmt.Errorf("%s: its length runs beyond the file, or beyond the sequence that it is in: "+
		"the file is damaged or was not copied to its end", Name(t))
}

// dataset walks the elements up to end, or, if it is open, up to a delimiter before end. Depth is
// the number of sequences around it; depth 0 ends with the pixels.
func (w *walker) dataset(end int64, open bool, e encoding, depth int, keep bool) error {
	for {
		switch at := w.in.offset(); {
		case at == end && !open:
			return nil
		case at >= end:
			return errEnd
		}
		if depth == 0 {
			b, err := w.in.peek(8)
			if errors.Is(err, io.EOF) && len(bytes.Trim(b, "\x00")) == 0 {
				return nil
			}
		}
		h, err := w.header(e)
		if err != nil {
			return err
		}
		if h.tag == tag.ItemDelimitationItem && open {
			return nil
		}
		if h.tag.Group == 0xfffe {
			return fmt.Errorf("%s: found where an element was expected: the file is damaged",
				code(h.tag))
		}
		if h.length > end-w.in.offset() {
			return tooLong(h.tag)
		}
		if depth == 0 {
			switch taken, err := w.pixels(h, e); {
			case err != nil:
				return fmt.Errorf("%s: %w", Name(h.tag), err)
			case h.tag == tag.PixelData:
				return nil
			case taken:
				continue
			}
		}
		if err := w.element(h, end, e, depth, keep); err != nil {
			return err
		}
	}
}

// element walks the value of an element and copies it if the dictionary knows it.
func (w *walker) element(h header, end int64, e encoding, depth int, keep bool) error {
	dictionary := known(h.tag)
	// Each contour, in two sequences, repeats what slice it was drawn on: its points say it. The list of
	// all slices, in three, is kept.
	keep = keep && dictionary != "UN" && (h.tag != tag.ContourImageSequence || depth > 2) &&
		!slices.Contains(w.leaveOut, h.tag)
	switch {
	case h.vr == "SQ":
		return w.sequence(h, end, e, depth, keep && dictionary == "SQ")
	case h.vr == "UN" && h.length < 0: // PS3.5 6.2.2: always implicit little endian
		return w.sequence(h, end, implicitLittle, depth, keep && dictionary == "SQ")
	case h.length < 0: // bulk data in fragments
		return w.fragments(end, e, nil)
	case h.vr == "UN" && dictionary == "SQ":
		// A sequence that a program did not know. If it is none, it is nothing.
		start, length, memory := w.in.offset(), len(w.copy), w.memory
		if err := w.sequence(h, end, implicitLittle, depth, keep); err != nil {
			if errors.Is(err, errMemory) || errors.Is(err, errDepth) {
				return err
			}
			w.copy, w.memory = w.copy[:length], memory
			if rest := start + h.length - w.in.offset(); rest > 0 {
				w.in.skip(rest)
			}
		}
		return nil
	}
	size := width[dictionary]
	isText := slices.Contains(text, dictionary)
	same := h.vr == "UN" || isText && slices.Contains(text, h.vr) || size > 0 && width[h.vr] == size
	if !keep || !same || !isText && (size == 0 || h.length%int64(size) != 0) {
		w.in.skip(h.length)
		return nil
	}
	if h.tag == tag.ContourData {
		return w.span(h)
	}
	// the module's element, the bytes and their text, at most one value of text for two bytes
	if err := w.need(400 + 4*h.length); err != nil {
		return fmt.Errorf("%s: %w", Name(h.tag), err)
	}
	w.begin(h.tag, uint32(h.length))
	start := len(w.copy)
	var err error
	if w.copy, err = w.in.read(w.copy, h.length); err != nil {
		w.copy = w.copy[:start-8]
		return err
	}
	value := w.copy[start:]
	if isText {
		err = w.need(16 * int64(bytes.Count(value, []byte{'\\'})))
	} else {
		err = w.need(16 * int64(len(value)/size))
	}
	if err != nil {
		w.copy = w.copy[:start-8]
		return fmt.Errorf("%s: %w", Name(h.tag), err)
	}
	if size > 0 && e.order == binary.BigEndian && h.vr != "UN" {
		for i := 0; i < len(value); i += size {
			slices.Reverse(value[i : i+size])
		}
	}
	return nil
}

// span writes an element that says where the value lies: a structure set has a text of any length for
// its points, of which the module would make as many texts.
func (w *walker) span(h header) error {
	s := Span{w.in.offset(), h.length}
	value := ""
	if h.length > 0 {
		value = s.text()
	}
	if err := w.need(400 + 4*int64(len(value))); err != nil {
		return fmt.Errorf("%s: %w", Name(h.tag), err)
	}
	w.begin(h.tag, uint32(len(value)))
	w.copy = append(w.copy, value...)
	w.in.skip(h.length)
	return nil
}

// begin writes the header of an element.
func (w *walker) begin(t tag.Tag, length uint32) {
	le := binary.LittleEndian
	w.copy = le.AppendUint16(w.copy, t.Group)
	w.copy = le.AppendUint16(w.copy, t.Element)
	w.copy = le.AppendUint32(w.copy, length)
}

// end sets the length of the sequence or item whose value began at start.
func (w *walker) end(start int) {
	binary.LittleEndian.PutUint32(w.copy[start-4:], uint32(len(w.copy)-start))
}

var errDepth = fmt.Errorf("sequences are nested more than %d deep", maxDepth)

// sequence walks the items of a sequence.
func (w *walker) sequence(h header, end int64, e encoding, depth int, keep bool) error {
	if depth++; depth > maxDepth {
		return fmt.Errorf("%s: %w", Name(h.tag), errDepth)
	}
	before := len(w.copy)
	open := h.length < 0
	if !open {
		end = w.in.offset() + h.length
	}
	if keep {
		w.begin(h.tag, 0)
	}
	start := len(w.copy)
	err := w.items(h.tag, end, open, e, depth, keep)
	if !keep {
		return err
	}
	if err != nil {
		w.copy = w.copy[:before]
		return err
	}
	w.end(start)
	return nil
}

func (w *walker) items(of tag.Tag, end int64, open bool, e encoding, depth int, keep bool) error {
	for {
		switch at := w.in.offset(); {
		case at == end && !open:
			return nil
		case at >= end:
			return errEnd
		}
		h, err := w.header(e)
		switch {
		case err != nil:
			return err
		case h.tag == tag.SequenceDelimitationItem && open:
			return nil
		case h.tag != tag.Item:
			return fmt.Errorf("%s: found no item in the sequence: the file is damaged", Name(of))
		case h.length > end-w.in.offset():
			return tooLong(of)
		}
		itemEnd := end
		if h.length >= 0 {
			itemEnd = w.in.offset() + h.length
		}
		if keep {
			if err := w.need(400); err != nil {
				return fmt.Errorf("%s: %w", Name(of), err)
			}
			w.begin(h.tag, 0)
		}
		start := len(w.copy)
		if err := w.dataset(itemEnd, h.length < 0, e, depth, keep); err != nil {
			return err
		}
		if keep {
			w.end(start)
		}
	}
}

// fragments walks the items of encapsulated data, the offset table first.
func (w *walker) fragments(end int64, e encoding, found func(index int, length int64) error) error {
	for i := 0; ; i++ {
		if w.in.offset() == end { // nothing is missing but the delimiter
			return nil
		}
		h, err := w.header(e)
		switch {
		case err != nil && w.file.deflated > 0 && errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		case h.tag == tag.SequenceDelimitationItem:
			return nil
		case h.tag != tag.Item || h.length < 0:
			return errors.New("found no item of known length: the file is damaged")
		case h.length > end-w.in.offset():
			return fmt.Errorf("item %d is longer than the rest of the file: the file is damaged or "+
				"was not copied to its end", i)
		}
		if found != nil {
			at := w.in.offset()
			if err := found(i, h.length); err != nil {
				return err
			}
			h.length -= w.in.offset() - at
		}
		w.in.skip(h.length)
	}
}

// inflated reads the data set of a deflated file.
func (f *File) inflated(from io.ReaderAt) Reader {
	return &forward{open: func() (io.ReadCloser, error) {
		return inflate.NewReader(io.NewSectionReader(from, f.deflated, f.Size-f.deflated)), nil
	}}
}
