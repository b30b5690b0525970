package dicom

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// A Span is a range of bytes of a file, counted in what File.OpenPixels opens.
type Span struct{ Offset, Length int64 }

// text is a span as an element's value, of an even length.
func (s Span) text() string {
	text := fmt.Sprintf("%d+%d", s.Offset, s.Length)
	return text + strings.Repeat(" ", len(text)%2)
}

// Pixels says where the pixels of a file lie: as a whole, or as fragments of compressed frames.
type Pixels struct {
	Span              // of native pixels
	VR         string // "OW", "OB"; "OF" and "OD" are pixels of floating point
	BigEndian  bool
	Compressed bool // that is, encapsulated
	Fragments  []Span
	table      []uint64 // of each frame the offset of its first item from the first one; may lie
}

// pixels notes what the file's pixels are, and where. It returns true if it has read the element.
func (w *walker) pixels(h header, e encoding) (taken bool, err error) {
	p := w.file.Pixels
	if p == nil {
		p = &Pixels{}
	}
	switch h.tag {
	case tag.FloatPixelData:
		w.file.Pixels = &Pixels{VR: "OF"}
		return false, nil
	case tag.DoubleFloatPixelData:
		w.file.Pixels = &Pixels{VR: "OD"}
		return false, nil
	case tag.ExtendedOffsetTable:
		if h.length < 0 || h.length > 8*maxFragments {
			return false, fmt.Errorf("expected at most %d frames", maxFragments)
		}
		b, err := w.in.read(nil, h.length)
		for ; len(b) >= 8; b = b[8:] {
			p.table = append(p.table, e.order.Uint64(b))
		}
		w.file.Pixels = p
		return true, err
	case tag.PixelData:
	default:
		return false, nil
	}
	w.file.Pixels = p
	p.VR, p.BigEndian = h.vr, e.order == binary.BigEndian
	if p.Compressed = h.length < 0; !p.Compressed {
		p.Span = Span{w.in.offset(), h.length}
		return true, nil
	}
	return true, w.fragments(w.in.size, e, func(i int, length int64) error {
		if i > maxFragments {
			return fmt.Errorf("more than %d fragments", maxFragments)
		}
		if i > 0 {
			p.Fragments = append(p.Fragments, Span{w.in.offset(), length})
			return nil
		}
		if length > 4*maxFragments {
			return fmt.Errorf("its offset table is longer than %d frames", maxFragments)
		}
		b, err := w.in.read(nil, length)
		if len(b) > 0 {
			p.table = nil
		}
		for ; len(b) >= 4; b = b[4:] {
			p.table = append(p.table, uint64(e.order.Uint32(b)))
		}
		return err
	})
}

// OpenPixels opens the file to read its pixels, or what another Span names. The bytes come inflated
// where the file is deflated.
func (f *File) OpenPixels() (Reader, error) {
	r, err := f.Open()
	if err != nil || f.deflated == 0 {
		return r, err
	}
	return &both{f.inflated(r), r}, nil
}

// Sequential reports whether reading the pixels front to back is much faster than otherwise.
func (f *File) Sequential() bool { return f.InOrder || f.deflated > 0 }

// both closes what lies below, too.
type both struct {
	Reader
	below Reader
}

func (b *both) Close() error { return errors.Join(b.Reader.Close(), b.below.Close()) }

// Frames returns the fragments of each of n compressed frames: by the offset table where it is
// right, else one fragment a frame or by the markers with which codestreams begin.
func (f *File) Frames(n int) ([][]Span, error) {
	p := f.Pixels
	all := p.Fragments
	if n == 1 && len(all) > 0 {
		return [][]Span{all}, nil
	}
	if n < 1 || len(all) < n {
		return nil, fmt.Errorf("%s: %s: found %d fragments, expected %d frames", f.Name,
			Name(tag.PixelData), len(all), n)
	}
	if frames := p.byTable(n); frames != nil {
		return frames, nil
	}
	frames := make([][]Span, 0, n)
	if len(all) == n {
		for i := range all {
			frames = append(frames, all[i:i+1])
		}
		return frames, nil
	}
	r, err := f.OpenPixels()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	begin := 0
	for i := range all {
		first := make([]byte, 2)
		if all[i].Length >= 2 {
			if _, err := r.ReadAt(first, all[i].Offset); err != nil && !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		starts := first[0] == 0xff && (first[1] == 0xd8 || first[1] == 0x4f)
		if i > 0 && starts {
			frames = append(frames, all[begin:i])
			begin = i
		}
	}
	if frames = append(frames, all[begin:]); len(frames) != n {
		return nil, fmt.Errorf("%s: %s: %d fragments and no valid offset table, expected one "+
			"that tells %d frames apart", f.Name, Name(tag.PixelData), len(all), n)
	}
	return frames, nil
}

// itemHeader is the bytes before the value of an item.
const itemHeader = 8

// byTable divides the fragments by the offset table, or returns nil if it does not fit them.
func (p *Pixels) byTable(n int) [][]Span {
	if len(p.table) != n || p.table[0] != 0 {
		return nil
	}
	base := uint64(p.Fragments[0].Offset - itemHeader)
	var frames [][]Span
	begin := 0
	for i, s := range p.Fragments {
		at := uint64(s.Offset-itemHeader) - base
		if next := len(frames) + 1; i > 0 && next < n && at == p.table[next] {
			frames = append(frames, p.Fragments[begin:i])
			begin = i
		}
	}
	if frames = append(frames, p.Fragments[begin:]); len(frames) != n {
		return nil
	}
	return frames
}
