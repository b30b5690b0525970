package series

import (
	"slices"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/volume"
)

// Options say how a stack is read.
type Options struct {
	Fix     bool // resample slices that do not lie on a regular grid
	Workers int  // goroutines; 0 for as many as there are processors
}

// An Image is a stack with its pixels. It implements volume.File.
type Image struct {
	Stack    *Stack
	Fixed    bool     // was resampled
	Warnings []string // for the user
	head     *volume.Header
	pixels   volume.Pixels
}

// Format is the format of a DICOM file with one image, as package formats/image knows it: for more
// files, and for a choice among images, use Open.
var Format = volume.Format{
	Name:  format,
	Match: dicom.Match,
	Header: func(path string) (*volume.Header, error) {
		x, err := Find(path, 0)
		if err != nil {
			return nil, err
		}
		s, err := x.Choose("")
		if err != nil {
			return nil, err
		}
		return s.Header(), nil
	},
	Read: func(path string) (volume.File, error) {
		im, _, err := Open(path, "", Options{})
		if err != nil {
			return nil, err
		}
		return im, nil
	},
}

const format = "DICOM"

// Header returns what there is to know of the image without its pixels. Its Type is one that holds
// whatever the stored bits may be, its Native the stack.
func (s *Stack) Header() *volume.Header {
	h := &volume.Header{Format: format, Size: s.Size[:], Native: s,
		BigEndian: s.Slices[0].File.Pixels.BigEndian}
	if s.Problem != nil {
		h.Problem = s.Problem
		return h
	}
	widest := 0
	for _, slice := range s.Slices {
		widest = max(widest, slice.possibleType())
	}
	h.Type = typeNames[widest]
	_, h.Geometry, h.Problem = s.Grid(false)
	return h
}

// Read reads the pixels of a stack. It fails if the slices do not lie on a regular grid, unless
// o.Fix is set; never are different pixels at one position read.
func (s *Stack) Read(o Options) (*Image, error) {
	size, g, err := s.Grid(o.Fix)
	if err != nil {
		return nil, err
	}
	im := &Image{Stack: s, Warnings: slices.Clone(s.Warnings)}
	if im.pixels, err = pixels(s.Slices, o.Workers); err != nil {
		return nil, err
	}
	if !s.Geometry.Regular {
		f, err := s.fixed()
		if err != nil {
			return nil, err
		}
		im.pixels = f.resample(s, im.pixels, o.Workers)
		im.Fixed = true
		im.Warnings = append(im.Warnings, "the slices were resampled to a regular grid")
	}
	im.head = &volume.Header{Format: format, Size: size, Type: im.pixels.Type(), Geometry: g,
		BigEndian: s.Slices[0].File.Pixels.BigEndian, Native: s}
	return im, nil
}

// Pixels reads the values of all slices, whatever their geometry: int16 where that holds them, else
// int32 or float32.
func (s *Stack) Pixels(workers int) (volume.Pixels, error) {
	if s.Problem != nil {
		return nil, s.Problem
	}
	return pixels(s.Slices, workers)
}

// Open reads the image at a path: of its stacks the one that Index.Choose returns for s. It returns
// the index as soon as there is one.
func Open(path, s string, o Options) (*Image, *Index, error) {
	x, err := Find(path, o.Workers)
	if err != nil {
		return nil, nil, err
	}
	stack, err := x.Choose(s)
	if err != nil {
		return nil, x, err
	}
	im, err := stack.Read(o)
	return im, x, err
}

// Is reports whether a path may hold DICOM: a DICOM file, a folder or a zip.
func Is(path string) bool { return dicom.Is(path) }

// Head implements volume.File.
func (im *Image) Head() *volume.Header { return im.head }

// Stored implements volume.File. The pixels are those of Values: the stored bits may mean something
// else in each slice.
func (im *Image) Stored() volume.Pixels { return im.pixels }

// Values implements volume.File.
func (im *Image) Values() volume.Pixels { return im.pixels }

// Image implements volume.File.
func (im *Image) Image() (*volume.Image, *volume.ITK, error) {
	return im.head.Geometry.Image(im.head.Size, im.pixels), im.head.Geometry, nil
}
