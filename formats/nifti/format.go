package nifti

import (
	"encoding/binary"
	"fmt"

	"github.com/lntorch/lntorch/volume"
)

// Format describes NIfTI to package formats/image.
var Format = volume.Format{
	Name:    "NIfTI",
	Endings: Endings,
	Match: func(first []byte) bool {
		if len(first) < 4 || compressed(first) {
			return compressed(first)
		}
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if n := order.Uint32(first); n == size1 || n == size2 {
				return true
			}
		}
		return false
	},
	Header: func(path string) (*volume.Header, error) {
		h, err := ReadHeader(path)
		if err != nil {
			return nil, err
		}
		return h.Head(), nil
	},
	Read: func(path string) (volume.File, error) {
		f, err := Read(path)
		if err != nil {
			return nil, err // not a nil *File in a non-nil interface
		}
		return f, nil
	},
	Write: func(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
		h, err := NewITK(size, pixels.Type(), g)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return Write(path, h, pixels, workers)
	},
	As: func(f volume.File) (volume.File, error) {
		own, err := Of(f)
		if err != nil {
			return nil, err
		}
		return own, nil
	},
	Rewrite: func(path string, f volume.File, values volume.Pixels, workers int) (bool, error) {
		own, ok := f.(*File)
		if !ok {
			return false, nil
		}
		h, pixels := own.Header, own.Pixels
		if values != nil {
			pixels = values
			h.Type, h.Slope, h.Inter = values.Type(), 1, 0
		}
		return true, Write(path, &h, pixels, workers)
	},
}

// Of returns an image file of any format as Read returns it once it is written as NIfTI: its geometry
// has NIfTI's float32. The pixels share f's memory.
func Of(f volume.File) (*File, error) {
	if own, ok := f.(*File); ok {
		return own, nil
	}
	head := f.Head()
	if head.Geometry == nil {
		return nil, head.Problem
	}
	pixels := f.Values()
	h, err := NewITK(head.Size[:len(head.Geometry.Spacing)], pixels.Type(), head.Geometry)
	if err != nil {
		return nil, err
	}
	b, err := h.encode()
	if err != nil {
		return nil, err
	}
	if h, err = parseHeader(b); err != nil {
		return nil, err
	}
	return &File{Header: *h, Pixels: pixels}, nil
}

// Head returns the header in the form common to all formats.
func (h *Header) Head() *volume.Header {
	head := &volume.Header{Format: fmt.Sprintf("NIfTI-%d", h.Version), Size: h.Dim, Type: h.Type,
		BigEndian: h.BigEndian, Native: h}
	head.Geometry, head.Problem = h.ITK()
	head.Extensions = h.Offset > offset2 || h.Version == 1 && h.Offset > offset1
	return head
}

// Stored returns the pixels as stored in the file.
func (f *File) Stored() volume.Pixels { return f.Pixels }
