package nifti

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// File is a NIfTI image as stored.
type File struct {
	Header
	Pixels volume.Pixels // of type Header.Type, x fastest: row-major (…, t, z, y, x)
}

// maxRatio is the largest compression ratio of deflate: 258 bytes in two bits.
const maxRatio = 1032

// ReadHeader reads the header of a file.
func ReadHeader(path string) (*Header, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer s.close()
	return s.header, nil
}

// Read reads a file. A file size that does not match the header is an error, found before memory is
// allocated.
func Read(path string) (*File, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer s.close()
	f, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// source is an open file whose header has been read.
type source struct {
	header *Header
	r      io.Reader // the rest of the file, positioned at byte at
	at     int64     // bytes consumed so far
	most   int64     // the largest decompressed size that the file can have
	gz     bool
	close  func() error
}

func open(path string) (*source, error) {
	file, err := regular.Open(path)
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err // callers name the file
		}
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	s, err := newSource(file, info.Size())
	if err != nil {
		file.Close()
		return nil, err
	}
	s.close = file.Close
	return s, nil
}

// newSource reads the header from r, which holds size bytes. Like ITK and nibabel it detects
// compression by the content, not by the name.
func newSource(r io.Reader, size int64) (*source, error) {
	buffered := bufio.NewReaderSize(r, 1<<18)
	s := &source{r: buffered, most: size}
	if first, _ := buffered.Peek(2); compressed(first) {
		z, err := newMembers(buffered)
		if err != nil {
			return nil, fmt.Errorf("not a readable gzip file: %w", err)
		}
		s.r, s.gz, s.most = z, true, size*maxRatio
	}
	b := make([]byte, size2)
	n, err := io.ReadFull(s.r, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	if err == io.ErrUnexpectedEOF && s.gz && n < size1 {
		return nil, fmt.Errorf("found %d bytes, expected a header of %d: the compressed file is "+
			"cut off or not NIfTI", n, size1)
	}
	s.at = int64(n)
	if s.header, err = parseHeader(b[:n]); err != nil {
		return nil, err
	}
	// Bytes read beyond the header are read again from b.
	end := s.header.size()
	s.r, s.at = io.MultiReader(newBytes(b[end:n]), s.r), int64(end)
	return s, nil
}

// newBytes returns a reader that, unlike bytes.Reader, has no WriteTo, so that io.MultiReader
// copies nothing twice.
func newBytes(b []byte) io.Reader { return &rest{b} }

type rest struct{ b []byte }

func (r *rest) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func (s *source) read() (*File, error) {
	h := s.header
	need, err := h.bytes()
	if err != nil {
		return nil, err
	}
	if h.Offset > s.most || need > s.most-h.Offset {
		if s.gz {
			return nil, fmt.Errorf("found %d compressed bytes, which hold at most %d, expected "+
				"%d for %v pixels of %s from byte %d: the header is wrong or the file is cut off",
				s.most/maxRatio, s.most, need, h.Dim, h.Type, h.Offset)
		}
		return nil, fmt.Errorf("found %d bytes, expected %d for %v pixels of %s from byte %d: "+
			"the file is cut off or its header is wrong", s.most, h.Offset+need, h.Dim, h.Type,
			h.Offset)
	}
	if n, err := io.CopyN(io.Discard, s.r, h.Offset-s.at); err != nil {
		return nil, s.shortError(s.at+n, h.Offset+need, err)
	}
	size := pixelSize(h.Type)
	f := &File{Header: *h, Pixels: volume.MakePixels(h.Type, int(need/int64(size)))}
	raw := f.Pixels.Bytes()
	if n, err := io.ReadFull(s.r, raw); err != nil {
		return nil, s.shortError(h.Offset+int64(n), h.Offset+need, err)
	}
	if s.gz {
		// The checksum follows the last byte. Bytes after the pixels are ignored.
		// Compat: a file that ends before or within the checksum is accepted, as by SimpleITK: no
		// pixel is missing.
		if _, err := s.r.Read(make([]byte,
			1)); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, s.shortError(h.Offset+need, h.Offset+need, err)
		}
	}
	if h.BigEndian == bits.LittleEndian && size > 1 {
		bits.Swap(raw, size)
	}
	return f, nil
}

// shortError describes a file that ends or is damaged before its last pixel.
func (s *source) shortError(found, expected int64, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the file is cut off: found %d bytes, expected %d", found, expected)
	}
	return fmt.Errorf("after %d of %d bytes: %w", found, expected, err)
}
