package npz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/lntorch/lntorch/internal/bits"
)

// Stream reads the elements of one array in order, without holding it.
type Stream struct {
	Shape []int
	DType string // as Array.DType

	where  string
	dtype  array.DType
	left   int64 // elements
	member io.ReadCloser
	raw    []byte
}

// Stream opens an array of real numbers to read it in row-major order. An array in Fortran order is read whole.
func (f *File) Stream(name string) (*Stream, error) {
	e := f.entries[name]
	if e == nil {
		return nil, fmt.Errorf("npz: %s: no array %q; there are %q", f.path, name, f.names)
	}
	s := &Stream{where: fmt.Sprintf("npz: %s: array %q", f.path, name)}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	a, need, used, err := readHeader(r)
	if err == nil && need != int64(e.UncompressedSize64)-used {
		err = fmt.Errorf("an array of shape %v and type %s needs %d bytes, the file holds %d (truncated?)", a.Shape, a.DType, need, int64(e.UncompressedSize64)-used)
	}
	if err == nil {
		s.dtype, err = array.ParseDType(a.DType)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	s.Shape, s.DType, s.left, s.member = a.Shape, a.DType, int64(a.Numel()), r
	if a.Fortran && len(a.Shape) > 1 {
		r.Close()
		return s, s.whole(f, name)
	}
	return s, nil
}

// whole replaces the member by the array in row-major order.
func (s *Stream) whole(f *File, name string) error {
	a, err := f.Read(name)
	if err != nil {
		return err
	}
	values, err := a.Float32s()
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	s.member, s.dtype = io.NopCloser(&floats{values}), float32Type
	return nil
}

var float32Type = array.DType{Order: '<', Kind: 'f', Size: 4}

// floats reads numbers as little-endian float32.
type floats struct{ values []float32 }

func (f *floats) Read(p []byte) (int, error) {
	if len(f.values) == 0 {
		return 0, io.EOF
	}
	n := min(len(p)/4, len(f.values))
	for i, v := range f.values[:n] {
		binary.LittleEndian.PutUint32(p[4*i:], math.Float32bits(v))
	}
	f.values = f.values[n:]
	return 4 * n, nil
}

// Float32s fills dst with the next elements. Other real types are rounded as numpy's astype does. The checksum is compared
// when the last element is read.
func (s *Stream) Float32s(dst []float32) error {
	if int64(len(dst)) > s.left {
		return fmt.Errorf("%s: %d elements asked for, %d are left", s.where, len(dst), s.left)
	}
	err := s.read(dst)
	if s.left -= int64(len(dst)); err == nil && s.left == 0 {
		var b [1]byte
		var more int
		if more, err = s.member.Read(b[:]); more > 0 {
			err = errors.New("more data than announced")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s: damaged or truncated: %w", s.where, err)
	}
	return nil
}

// read fills dst: from its own memory where that is how the file has the numbers.
func (s *Stream) read(dst []float32) error {
	if s.dtype == float32Type && bits.LittleEndian {
		_, err := io.ReadFull(s.member, bits.Bytes(dst))
		return err
	}
	n := len(dst) * s.dtype.Size
	if cap(s.raw) < n {
		s.raw = make([]byte, n)
	}
	raw := s.raw[:n]
	if _, err := io.ReadFull(s.member, raw); err != nil {
		return err
	}
	return array.Convert(dst, s.dtype, raw)
}

// Close ends the reading.
func (s *Stream) Close() error { return s.member.Close() }

// AddFloat32s writes one array of float32 whose elements come from w, row-major and little-endian, so that it is never held.
func (w *Writer) AddFloat32s(name string, shape []int, from io.WriterTo) error {
	if w.err != nil {
		return w.err
	}
	if err := w.addFloat32s(name, shape, from); err != nil {
		w.err = fmt.Errorf("npz: %s: array %q: %w", w.path, name, err)
	}
	return w.err
}

func (w *Writer) addFloat32s(name string, shape []int, from io.WriterTo) error {
	out, err := w.begin(name)
	if err != nil {
		return err
	}
	want, err := array.Numel(shape)
	if err != nil {
		return err
	}
	if _, err := out.Write(header(&Array{Shape: shape}, float32Type)); err != nil {
		return err
	}
	n, err := from.WriteTo(out)
	if err == nil && n != 4*want {
		err = fmt.Errorf("%d bytes for shape %v", n, shape)
	}
	return err
}
