// Package images reads and writes images as nnU-Net's reader classes do: the same arrays, the same
// spacing, and the same properties for the .pkl of a case. Parsing the files is left to the
// packages in formats.
package images

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/volume"
)

// Reader is one of nnU-Net's reader classes.
type Reader interface {
	// Name is the name of the class: image_reader_writer in plans.
	Name() string
	// Endings are the file endings that the class is chosen for.
	Endings() []string
	// Read reads a case, one file per channel. Image.Shape[0] is the number of channels. Pixels
	// have the type of the files, float32 if these differ; volume.Cast[float32] gives what nnU-Net
	// reads. Spacing is the class's; an image with two axes gets 999 times the larger one along z.
	// Files of different shapes or spacings are an error; what nnU-Net only warns about is in
	// Properties.Warnings.
	Read(channels []string) (*volume.Image, *Properties, error)
	// Take makes a case of one channel of an image that nnU-Net does not read, such as a DICOM
	// series: what Read gives for the file with that ending to which it is converted. Errors do not
	// name the image.
	Take(f volume.File, ending string) (*volume.Image, *Properties, error)
	// ReadSeg reads a segmentation.
	ReadSeg(path string) (*volume.Image, *Properties, error)
	// WriteSeg writes a segmentation, seg of shape (1, z, y, x) with whole numbers of any type,
	// with the geometry in p, which Read returned for the case. Labels are stored as uint8.
	// Differs: nnU-Net stores labels above 255 modulo 256; here they are stored as uint16.
	WriteSeg(path string, seg *volume.Image, p *Properties) error
}

// readers lists nnU-Net's classes in the order in which they are tried. A nil reader stands for a
// class whose formats are not supported.
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

// Supported are the file endings that can be read.
var Supported = image.Endings()

// datasetEndings are those that nnU-Net has a class for, which reads them here, too.
func datasetEndings() string {
	var all []string
	for _, r := range readers {
		for _, e := range r.endings {
			if r.reader != nil && slices.Contains(Supported, e) && !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	return strings.Join(all, " or ")
}

// unread says that files of these types are not read, and how to convert them.
func unread(endings []string) error {
	return fmt.Errorf("files of type %s are not supported, expected %s: convert them, one channel per "+
		"file, with python3 -c 'import sys, SimpleITK as s; s.WriteImage(s.ReadImage(sys.argv[1]), "+
		"sys.argv[2], True)' IN OUT.nii.gz, and set the dataset's file_ending and "+
		"overwrite_image_reader_writer", strings.Join(endings, ", "), datasetEndings())
}

// ForName returns the reader of the given nnU-Net class.
func ForName(class string) (Reader, error) {
	var known []string
	for _, r := range readers {
		if r.name == class && r.reader == nil {
			return nil, fmt.Errorf("image reader %s: %w", class, unread(r.endings))
		}
		if r.name == class {
			return r.reader, nil
		}
		if r.reader != nil {
			known = append(known, r.name)
		}
	}
	return nil, fmt.Errorf("image reader %q is unknown: expected %s",
		class, strings.Join(known, ", "))
}

// Choose returns the first of nnU-Net's classes that supports the file ending and can read the
// example; without an example, the first that supports the ending.
func Choose(fileEnding, example string) (Reader, error) {
	if dicom.IsName("x" + fileEnding) {
		return nil, fmt.Errorf("file ending %q: nnU-Net reads no DICOM: lntorch import makes a dataset "+
			"of it", fileEnding)
	}
	var failed []string
	for _, r := range readers {
		if !slices.Contains(r.endings, strings.ToLower(fileEnding)) {
			continue
		}
		reader, err := ForName(r.name)
		if err == nil && !slices.Contains(Supported, strings.ToLower(fileEnding)) {
			err = unread([]string{fileEnding}) // .gipl
		}
		if err == nil && example != "" {
			_, _, err = reader.Read([]string{example})
		}
		if err == nil {
			return reader, nil
		}
		failed = append(failed, r.name+": "+err.Error())
	}
	if failed != nil {
		return nil, fmt.Errorf("no image reader can read %s files: %s",
			fileEnding, strings.Join(failed, "; "))
	}
	return nil, fmt.Errorf("no image reader for file ending %q: expected %s", fileEnding,
		datasetEndings())
}

// workers is the number of goroutines that compress a file.
var workers = runtime.GOMAXPROCS(0)

// one checks that there are files: in Python these arguments are lists.
func one(channels []string) error {
	if len(channels) == 0 {
		return fmt.Errorf("found no image files, expected one per channel")
	}
	return nil
}

// stack concatenates the channels of a case along the first axis. All images have the same (z, y,
// x).
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

// memory is the memory order of the axes after numpy concatenates arrays: an axis precedes another
// if it does so in all arrays; otherwise they keep their order.
// Source: numpy 1.26, PyArray_CreateMultiSortedStridePerm.
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
				continue // order undefined
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

// labels converts labels to their storage type.
func labels(seg *volume.Image) (volume.Pixels, error) {
	if seg.Shape[0] != 1 {
		return nil, fmt.Errorf("labels of shape %v, expected one channel", seg.Shape)
	}
	if seg.Pixels.Type() == "uint8" {
		return seg.Pixels, nil
	}
	if i := volume.Fraction(seg.Pixels); i >= 0 {
		return nil, fmt.Errorf("found the value %v in the labels, expected whole numbers from 0 "+
			"to 65535",
			seg.Pixels.Value(i))
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
