// Package images reads and writes images as the reader classes of nnU-Net do: the same arrays, the same spacing, and the same
// properties for the .pkl of a case. The files themselves are read by the packages in formats.
package images

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/volume"
)

// Reader is one of nnU-Net's reader classes.
type Reader interface {
	// Name is the class: image_reader_writer of plans.
	Name() string
	// Endings are the endings of file names that the class is chosen for.
	Endings() []string
	// Read reads a case, one file a channel. Image.Shape[0] is the number of channels, the pixels have the type of the files
	// or, where these differ, are float32; volume.Cast[float32] gives what nnU-Net reads. Spacing is as the class reports it, with the
	// 999-fold of the larger one along z for an image of two axes. Files whose shapes or spacings differ are an error;
	// what nnU-Net only warns of is in Properties.Warnings.
	Read(channels []string) (*volume.Image, *Properties, error)
	// ReadSeg reads labels.
	ReadSeg(path string) (*volume.Image, *Properties, error)
	// WriteSeg writes labels, seg of shape (1, z, y, x) with whole numbers of any type, with the geometry of p: what Read gave for the
	// case. Labels are stored as uint8.
	// Differs: nnU-Net stores labels above 255 modulo 256; they are stored as uint16 here.
	WriteSeg(path string, seg *volume.Image, p *Properties) error
}

// readers has nnU-Net's classes in the order in which they are tried; those without a reader need formats that are not read yet.
// Source: nnunetv2/imageio/reader_writer_registry.py, LIST_OF_IO_CLASSES.
var readers = []struct {
	name    string
	endings []string
	reader  Reader
}{
	{"NaturalImage2DIO", []string{".png", ".bmp", ".tif"}, nil},
	{"SimpleITKIO", simpleITK{}.Endings(), simpleITK{}},
	{"Tiff3DIO", []string{".tif", ".tiff"}, nil},
	{"NibabelIO", nibabel{}.Endings(), nibabel{}},
	{"NibabelIOWithReorient", nibabel{true}.Endings(), nibabel{true}},
}

// Supported are the endings of file names that can be read.
var Supported = image.Endings()

// ForName gives the reader of a class of nnU-Net's.
func ForName(class string) (Reader, error) {
	var known []string
	for _, r := range readers {
		if r.name == class && r.reader == nil {
			return nil, fmt.Errorf("image reader %s: files of type %s are not supported; %s are: convert the dataset, and set its file_ending and overwrite_image_reader_writer",
				class, strings.Join(r.endings, ", "), strings.Join(Supported, " and "))
		}
		if r.name == class {
			return r.reader, nil
		}
		if r.reader != nil {
			known = append(known, r.name)
		}
	}
	return nil, fmt.Errorf("image reader %q is unknown: expected %s", class, strings.Join(known, ", "))
}

// Choose gives the first of nnU-Net's classes that is for the file ending and can read the example; without an example the
// first that is for the ending.
func Choose(fileEnding, example string) (Reader, error) {
	var failed []string
	for _, r := range readers {
		if !slices.Contains(r.endings, strings.ToLower(fileEnding)) {
			continue
		}
		reader, err := ForName(r.name)
		if err == nil && example != "" {
			_, _, err = reader.Read([]string{example})
		}
		if err == nil {
			return reader, nil
		}
		failed = append(failed, r.name+": "+err.Error())
	}
	if failed != nil {
		return nil, fmt.Errorf("no image reader for %s files can be used: %s", fileEnding, strings.Join(failed, "; "))
	}
	return nil, fmt.Errorf("no image reader for files that end in %q: supported are %s", fileEnding, strings.Join(Supported, " and "))
}

// workers is how many goroutines compress a file.
var workers = runtime.GOMAXPROCS(0)

// one checks the arguments of a reader that were lists in Python.
func one(channels []string) error {
	if len(channels) == 0 {
		return fmt.Errorf("no image files were given")
	}
	return nil
}

// stack joins the channels of a case along the first axis. All images have the same (z, y, x).
func stack(images []*volume.Image) *volume.Image {
	if len(images) == 1 {
		return images[0]
	}
	out := *images[0]
	out.Shape[0] = 0
	out.Memory = memory(images)
	name := images[0].Pixels.Type()
	for _, im := range images {
		out.Shape[0] += im.Shape[0]
		if im.Pixels.Type() != name {
			name = "float32"
		}
	}
	out.Pixels = volume.MakePixels(name, volume.Numel(out.Shape))
	to := out.Pixels.Bytes()
	for _, im := range images {
		pixels := im.Pixels
		if pixels.Type() != name {
			pixels = volume.Slice[float32](volume.Cast[float32](pixels))
		}
		to = to[copy(to, pixels.Bytes()):]
	}
	return &out
}

// memory is the order of the axes in memory when numpy joins arrays: an axis comes before another where it does so in all of
// them, else they stay as they are. Source: numpy 1.26, PyArray_CreateMultiSortedStridePerm.
func memory(images []*volume.Image) [3]int {
	slower := func(a, b int) bool { // in all images
		return !slices.ContainsFunc(images, func(im *volume.Image) bool {
			m := im.Memory[:]
			if im.Memory == [3]int{} {
				m = []int{0, 1, 2}
			}
			return slices.Index(m, a) > slices.Index(m, b)
		})
	}
	order := []int{0, 1, 2}
	for i := 1; i < 3; i++ {
		axis, to := order[i], i
		for k := i - 1; k >= 0; k-- {
			if images[0].Shape[1+axis] == 1 || images[0].Shape[1+order[k]] == 1 {
				continue // their order is no order
			}
			if !slower(axis, order[k]) {
				break
			}
			to = k
		}
		order = slices.Insert(slices.Delete(order, i, i+1), to, axis)
	}
	return [3]int(order)
}

// labels gives labels as they are stored.
func labels(seg *volume.Image) (volume.Pixels, error) {
	if seg.Shape[0] != 1 {
		return nil, fmt.Errorf("labels of shape %v, expected one channel", seg.Shape)
	}
	if seg.Pixels.Type() == "uint8" {
		return seg.Pixels, nil
	}
	if i := volume.Fraction(seg.Pixels); i >= 0 {
		return nil, fmt.Errorf("found the value %v in the labels, expected whole numbers from 0 to 65535", seg.Pixels.Value(i))
	}
	least, most := volume.Range(seg.Pixels)
	if least < 0 || most > 65535 {
		return nil, fmt.Errorf("labels from %v to %v, expected 0 to 65535", least, most)
	}
	if most > 255 {
		return volume.Slice[uint16](volume.Cast[uint16](seg.Pixels)), nil
	}
	return volume.Slice[uint8](volume.Cast[uint8](seg.Pixels)), nil
}
