package seg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/formats/internal/parallel"
	"github.com/lntorch/lntorch/internal/bits"
)

// tables say for each value of a pixel what is drawn for it: one table for each label that a segment
// may have at once. -1 stands for a value that no segment has.
type tables [][]int32

// unknown is the entry for a pixel that names no segment.
const unknown = -1

// tables returns what is drawn for the pixels. In a LABELMAP it is a label, whose segments are in
// of; otherwise 1 for a pixel of the frame's segment.
func (s *Segmentation) tables(of [][]int, threshold float64) tables {
	n := 1 << s.allocated
	if s.Type != LabelMap {
		t := make([]int32, n)
		for v := range t {
			if x := v & (1<<s.bits - 1); x > 0 && float64(x)/float64(s.maximum) >= threshold {
				t[v] = 1
			}
		}
		return tables{t}
	}
	most := 1
	for _, labels := range of {
		most = max(most, len(labels))
	}
	all := make(tables, most)
	for layer := range all {
		t := make([]int32, n)
		for v := range t {
			x := v & (1<<s.bits - 1)
			i, known := s.segment[x]
			switch {
			case known && len(of[i]) > layer:
				t[v] = int32(of[i][layer])
			case !known && x != 0 && x != s.padding:
				t[v] = unknown
			}
		}
		all[layer] = t
	}
	return all
}

// A frameReader reads frames for one goroutine.
type frameReader struct {
	*Segmentation
	fragments [][]dicom.Span // of each frame, if they are compressed
	r         dicom.Reader
	stream    []byte
	buffer    []byte // the frame's pixels, little endian
	first     int    // bit of the buffer with which the frame begins
	cells     []uint16
}

// bufferMemory bounds what all goroutines together take for frames.
const bufferMemory = 256 << 20

// each calls draw for every frame that is wanted, on several goroutines, with what the table says
// for its pixels, row by row. cells are valid until draw returns.
func (s *Segmentation) each(t tables, workers int, wanted func(i int) bool,
	draw func(i int, cells []uint16)) error {
	var fragments [][]dicom.Span
	if s.file.Pixels.Compressed {
		var err error
		if fragments, err = s.file.Frames(s.FrameCount); err != nil {
			return err
		}
	}
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	const most = 8 // bytes of a pixel in all buffers
	workers = max(1, min(workers, bufferMemory/(s.Rows*s.Columns*most)))
	var list []int
	for i := range s.frames {
		if wanted(i) {
			list = append(list, i)
		}
	}
	// A file that is read front to back is read once.
	chunk := 8
	if s.file.Sequential() {
		chunk = max(len(list), 1)
	}
	return parallel.Each((len(list)+chunk-1)/chunk, workers, func(k int) error {
		r := &frameReader{Segmentation: s, fragments: fragments}
		var err error
		if r.r, err = s.file.OpenPixels(); err != nil {
			return err
		}
		defer r.r.Close()
		for _, i := range list[k*chunk : min(len(list), (k+1)*chunk)] {
			err := r.read(i)
			for layer := 0; err == nil && layer < len(t); layer++ {
				if err = r.look(t[layer]); err == nil {
					draw(i, r.cells)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: frame %d: %w", s.Source.Name, i+1, err)
			}
		}
		// behind the pixels there may be a checksum
		if f, ok := r.r.(interface{ Finish() error }); ok && s.file.Sequential() {
			if err := f.Finish(); err != nil {
				return fmt.Errorf("%s: %w", s.Source.Name, err)
			}
		}
		return nil
	})
}

// read reads a frame into the buffer, decompressed. Frames of bits run on across bytes, the lowest bit
// of a byte first.
func (r *frameReader) read(i int) error {
	n := r.Rows * r.Columns
	r.first = 0
	if r.file.Pixels.Compressed {
		stream, err := r.codestream(i)
		if err != nil {
			return err
		}
		header := codec.Frame{Rows: r.Rows, Columns: r.Columns, BitsAllocated: r.allocated,
			BitsStored: r.bits}
		if err := codec.Check(r.file.Syntax, stream, header); err != nil {
			return err
		}
		r.buffer = sized(r.buffer, n*r.allocated/8)
		return codec.Decode(r.buffer, r.file.Syntax, stream, header)
	}
	p := r.file.Pixels
	size := int64(n) * int64(r.allocated) // bits
	from, end := int64(i)*size/8, (int64(i+1)*size+7)/8
	swapped := p.BigEndian && p.VR == "OW"
	if swapped {
		from, end = from&^1, (end+1)&^1 // words of 16 bits
		if end > p.Length {
			return fmt.Errorf("%s: expected an even length", dicom.Name(tag.PixelData))
		}
	}
	r.buffer, r.first = sized(r.buffer, int(end-from)), int(int64(i)*size-8*from)
	if err := r.bytes(r.buffer, p.Offset+from); err != nil {
		return err
	}
	if swapped {
		bits.Swap(r.buffer, 2)
	}
	return nil
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// bytes reads a range of the file.
func (r *frameReader) bytes(dst []byte, at int64) error {
	n, err := r.r.ReadAt(dst, at)
	if n == len(dst) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s: the file ends too early: copy it again", dicom.Name(tag.PixelData))
	}
	return err
}

// codestream reads a compressed frame.
func (r *frameReader) codestream(i int) ([]byte, error) {
	const maxHeader = 1 << 20
	n := int64(0)
	for _, s := range r.fragments[i] {
		n += s.Length
	}
	if size := int64(r.Rows * r.Columns * r.allocated / 8); n > 4*size+maxHeader {
		return nil, fmt.Errorf("%s: found a codestream of %d bytes for a frame of %d",
			dicom.Name(tag.PixelData), n, size)
	}
	r.stream = sized(r.stream, int(n))
	to := r.stream
	for _, s := range r.fragments[i] {
		if err := r.bytes(to[:s.Length], s.Offset); err != nil {
			return nil, err
		}
		to = to[s.Length:]
	}
	return r.stream, nil
}

// look fills cells with what the table has for the pixels in the buffer.
func (r *frameReader) look(table []int32) error {
	if r.cells == nil {
		r.cells = make([]uint16, r.Rows*r.Columns)
	}
	worst := int32(0)
	switch r.allocated {
	case 1:
		one := uint16(table[1])
		for k := range r.cells {
			bit := r.first + k
			r.cells[k] = one * uint16(r.buffer[bit/8]>>(bit%8)&1)
		}
	case 8:
		for k, v := range r.buffer[r.first/8:][:len(r.cells)] {
			worst = min(worst, table[v])
			r.cells[k] = uint16(table[v])
		}
	case 16:
		for k := range r.cells {
			v := table[binary.LittleEndian.Uint16(r.buffer[2*k:])]
			worst = min(worst, v)
			r.cells[k] = uint16(v)
		}
	}
	if worst == unknown {
		return fmt.Errorf("%s: found a pixel that is no number of %s", dicom.Name(tag.PixelData),
			dicom.Name(tag.SegmentSequence))
	}
	return nil
}
