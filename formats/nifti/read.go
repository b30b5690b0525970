package nifti

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lntorch/lntorch/formats/internal/inflate"
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
	rest   []byte // read beyond the header
	r      io.Reader
	gz     *inflate.Stream // r if the file is compressed, else nil
	at     int64           // bytes of the header
	most   int64           // the largest decompressed size that the file can have
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

// newSource reads the header from a file of that size. Like ITK and nibabel it detects compression by
// the content, not by the name.
func newSource(file io.ReaderAt, size int64) (*source, error) {
	in := io.NewSectionReader(file, 0, size)
	s := &source{r: in, most: size}
	first := make([]byte, 2)
	if n, _ := file.ReadAt(first, 0); compressed(first[:n]) {
		z, err := inflate.NewStream(in)
		if err != nil {
			return nil, fmt.Errorf("not a readable gzip file: %w", err)
		}
		s.r, s.gz, s.most = z, z, size*maxRatio
	}
	b := make([]byte, size2)
	n, err := io.ReadFull(s.r, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read the header: %w", worded(err))
	}
	if err == io.ErrUnexpectedEOF && s.gz != nil && n < size1 {
		return nil, fmt.Errorf("found %d bytes, expected a header of %d: the compressed file is "+
			"cut off or not NIfTI", n, size1)
	}
	if s.header, err = parseHeader(b[:n]); err != nil {
		return nil, err
	}
	s.at = int64(s.header.size())
	s.rest = b[s.at:n]
	return s, nil
}

// compressed reports whether a file with these first bytes is a gzip file.
func compressed(first []byte) bool {
	return len(first) >= 2 && first[0] == 0x1f && first[1] == 0x8b
}

func (s *source) read() (*File, error) {
	h := s.header
	need, err := h.bytes()
	if err != nil {
		return nil, err
	}
	if h.Offset > s.most || need > s.most-h.Offset {
		if s.gz != nil {
			return nil, fmt.Errorf("found %d compressed bytes, which hold at most %d, expected "+
				"%d for %v pixels of %s from byte %d: the header is wrong or the file is cut off",
				s.most/maxRatio, s.most, need, h.Dim, h.Type, h.Offset)
		}
		return nil, fmt.Errorf("found %d bytes, expected %d for %v pixels of %s from byte %d: "+
			"the file is cut off or its header is wrong", s.most, h.Offset+need, h.Dim, h.Type,
			h.Offset)
	}
	rest := s.rest
	if skip := h.Offset - s.at; skip <= int64(len(rest)) {
		rest = rest[skip:]
	} else {
		if n, err := io.CopyN(io.Discard, s.r, skip-int64(len(rest))); err != nil {
			return nil, shortError(s.at+int64(len(rest))+n, h.Offset+need, err)
		}
		rest = nil
	}
	f := &File{Header: *h, Pixels: volume.MakePixels(h.Type, int(need/int64(pixelSize(h.Type))))}
	raw := f.Pixels.Bytes()
	n := copy(raw, rest)
	if s.gz == nil {
		var k int
		k, err = io.ReadFull(s.r, raw[n:])
		n += k
	} else if n == len(rest) {
		// The checksum follows the last byte. Bytes after the pixels are ignored.
		var k int
		k, _, err = s.gz.Fill(raw[n:])
		n += k
		// Compat: a file that ends before or within the checksum is accepted, as by SimpleITK: no
		// pixel is missing.
		if n == len(raw) && err == io.ErrUnexpectedEOF {
			err = nil
		}
	}
	if err != nil {
		return nil, shortError(h.Offset+int64(n), h.Offset+need, err)
	}
	f.inOrder()
	return f, nil
}

// inOrder brings the bytes of the pixels into the machine's order.
func (f *File) inOrder() {
	if size := pixelSize(f.Type); f.BigEndian == bits.LittleEndian && size > 1 {
		bits.Swap(f.Pixels.Bytes(), size)
	}
}

// shortError describes a file that ends or is damaged before its last pixel.
func shortError(found, expected int64, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the file is cut off: found %d bytes, expected %d", found, expected)
	}
	return fmt.Errorf("after %d of %d bytes: %w", found, expected, worded(err))
}

func worded(err error) error {
	if err == inflate.ErrChecksum {
		return errors.New("the checksum of the gzip data is wrong: the file is damaged, " +
			"copy or export it again")
	}
	return err
}
