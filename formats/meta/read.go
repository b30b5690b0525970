package meta

import (
	"fmt"
	"path/filepath"

	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/volume"
)

// File is a MetaImage with its pixels.
type File struct {
	Header
	Pixels volume.Pixels // of the type that Header.Type names, x fastest
}

// ReadHeader reads the header of a file.
func ReadHeader(path string) (*Header, error) {
	h, f, err := rawdata.Open(path, maxHeader, parse)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, f.Close()
}

// Read reads a file, and the data files that it names. A size that does not fit what the header says is
// an error before memory is taken for it.
func Read(path string) (*File, error) {
	h, f, err := rawdata.Open(path, maxHeader, parse)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	p, err := h.data().Read(f, filepath.Dir(path), h.Size, h.Type)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Header: *h, Pixels: p}, nil
}

// Head describes the file as every format does.
func (h *Header) Head() *volume.Header {
	head := &volume.Header{Format: "MetaImage", Size: h.Size, Type: h.Type, BigEndian: h.BigEndian, Native: h,
		Extensions: h.more, DataFiles: h.files}
	head.Geometry, head.Problem = h.ITK()
	return head
}

// Stored are the pixels.
func (f *File) Stored() volume.Pixels { return f.Pixels }

// Values are the pixels: ITK leaves out the file's scaling.
func (f *File) Values() volume.Pixels { return f.Pixels }

// Image is the image as ITK reads it.
func (f *File) Image() (*volume.Image, *volume.ITK, error) {
	g, err := f.ITK()
	if err != nil {
		return nil, nil, err
	}
	return g.Image(f.Size, f.Pixels), g, nil
}
