package nrrd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// File is a NRRD image with its pixels.
type File struct {
	Header
	Pixels volume.Pixels // of the type that Header.Type names, x fastest
}

// ReadHeader reads the header of a file.
func ReadHeader(path string) (*Header, error) {
	h, f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, f.Close()
}

// Read reads a file, and the data files that it names. A size that does not fit what the header says
// is an error before memory is taken for it.
func Read(path string) (*File, error) {
	h, f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	p, err := h.data().Read(f, filepath.Dir(path), h.sizes, h.Type)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Header: *h, Pixels: p}, nil
}

func open(path string) (*Header, *os.File, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, nil, bare(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var h *Header
	if err == nil {
		b := make([]byte, min(info.Size(), maxHeader))
		var n int
		if n, err = io.ReadFull(f, b); err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
			h, err = parse(b[:n])
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, bare(err)
	}
	return h, f, nil
}

// bare is an error without the path, which callers name.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Head describes the file as every format does.
func (h *Header) Head() *volume.Header {
	head := &volume.Header{Format: fmt.Sprintf("NRRD%04d", h.Version), Size: h.Size, Type: h.Type,
		BigEndian: h.BigEndian, Native: h, Extensions: h.more}
	head.Geometry, head.Problem = h.ITK()
	return head
}

// Stored are the pixels.
func (f *File) Stored() volume.Pixels { return f.Pixels }

// Values are the pixels: ITK leaves out old min and old max.
func (f *File) Values() volume.Pixels { return f.Pixels }

// Image is the image as ITK reads it.
func (f *File) Image() (*volume.Image, *volume.ITK, error) {
	g, err := f.ITK()
	if err != nil {
		return nil, nil, err
	}
	return g.Image(f.Size, f.Pixels), g, nil
}
