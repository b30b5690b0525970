// Package image opens and writes image files of any registered format. It detects the format of a
// file by its content, then by its name's ending. The formats themselves are packages of their own;
// a new one is a line in Formats.
package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/formats/meta"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/formats/nrrd"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// Formats lists the supported formats. One without endings is only read.
var Formats = []*volume.Format{
	&nifti.Format,
	&nrrd.Format,
	&meta.Format,
	&series.Format,
}

// Endings returns the file name endings that can be written.
func Endings() []string {
	var all []string
	for _, f := range Formats {
		all = append(all, f.Endings...)
	}
	return all
}

// Ending returns the longest ending of a registered format that a file's name has, as it is written
// there, or "".
func Ending(path string) string {
	name, longest := filepath.Base(path), 0
	for _, e := range Endings() {
		if strings.HasSuffix(strings.ToLower(name), e) {
			longest = max(longest, len(e))
		}
	}
	return name[len(name)-longest:]
}

// ForName returns the format for a file name, or nil if no format has its ending.
func ForName(path string) *volume.Format {
	lower := strings.ToLower(filepath.Base(path))
	for _, f := range Formats {
		if slices.ContainsFunc(f.Endings,
			func(e string) bool { return strings.HasSuffix(lower, e) }) {
			return f
		}
	}
	return nil
}

// Header reads the header of a file: sizes, type and geometry, but not the pixels.
func Header(path string) (*volume.Header, error) {
	f, err := detect(path)
	if err != nil {
		return nil, err
	}
	return f.Header(path)
}

// Read reads a file of any supported format.
func Read(path string) (volume.File, error) {
	f, err := detect(path)
	if err != nil {
		return nil, err
	}
	return f.Read(path)
}

// Bytes is the size of a file that has this header, with the data files that it names.
func Bytes(path string, h *volume.Header) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size() + rawdata.FileBytes(filepath.Dir(path), h.DataFiles), nil
}

// Write writes pixels in the format given by the name's ending, compressed where it can be. size holds the axes x, y, …; g is
// the geometry.
func Write(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
	f, err := forWriting(path)
	if err != nil {
		return err
	}
	return f.Write(path, size, g, pixels, workers)
}

// Convert writes f under another name. values, if not nil, replace its pixels. In the same format,
// pixels, scaling and header are kept; another format gets the scaled values and ITK's geometry.
func Convert(path string, f volume.File, values volume.Pixels, workers int) error {
	return convert(path, f, values, workers, false)
}

// ConvertRaw is Convert without compression. A name that stands for a compressed file is an error.
func ConvertRaw(path string, f volume.File, values volume.Pixels) error {
	if !CanBeRaw(path) {
		return fmt.Errorf("%s: the name stands for a compressed file, expected one without .gz", path)
	}
	return convert(path, f, values, 1, true)
}

// Create begins a file like ConvertRaw's for pixels that come in parts; nil where the format cannot.
func Create(path string, size []int, g *volume.ITK, typeName string) (volume.PixelWriter, error) {
	if f := ForName(path); f != nil && f.Create != nil {
		return f.Create(path, size, g, typeName)
	}
	return nil, nil
}

// CanBeRaw reports whether a file of that name may be uncompressed.
func CanBeRaw(path string) bool { return !strings.HasSuffix(strings.ToLower(path), ".gz") }

// As returns f as it is read once Convert has written it with that ending. The pixels share f's memory.
func As(ending string, f volume.File) (volume.File, error) {
	to, err := forWriting("image" + ending)
	if err != nil {
		return nil, err
	}
	if to.As == nil {
		return f, nil
	}
	return to.As(f)
}

// Beside returns the path of the file that Convert and ConvertRaw (raw) write the pixels to, where it
// is another than the named one; "" where it is not.
func Beside(path string, raw bool) string {
	if f := ForName(path); f != nil && f.Beside != nil {
		return f.Beside(path, raw)
	}
	return ""
}

func convert(path string, f volume.File, values volume.Pixels, workers int, raw bool) error {
	to, err := forWriting(path)
	if err != nil {
		return err
	}
	if done, err := to.Rewrite(path, f, values, workers); done || err != nil {
		return err
	}
	head := f.Head()
	if head.Geometry == nil {
		return fmt.Errorf("%s: the image has no geometry that %s can store: %w", path, to.Name,
			head.Problem)
	}
	if values == nil {
		values = f.Values()
	}
	size := head.Size[:len(head.Geometry.Spacing)]
	if raw && to.WriteRaw != nil {
		return to.WriteRaw(path, size, head.Geometry, values)
	}
	return to.Write(path, size, head.Geometry, values, workers)
}

func forWriting(path string) (*volume.Format, error) {
	if f := ForName(path); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%s: expected a name that ends in %s", path,
		strings.Join(Endings(), " or "))
}

// detect returns the format of a file. For a file that cannot be opened or is empty it returns some
// format, whose reader then reports the error.
func detect(path string) (*volume.Format, error) {
	first := firstBytes(path)
	for _, f := range Formats {
		if f.Match(first) {
			return f, nil
		}
	}
	if f := ForName(path); f != nil {
		return f, nil
	}
	if len(first) == 0 {
		return Formats[0], nil
	}
	var names []string
	for _, f := range Formats {
		if len(f.Endings) == 0 {
			names = append(names, f.Name)
			continue
		}
		names = append(names, f.Name+" ("+strings.Join(f.Endings, ", ")+")")
	}
	return nil, fmt.Errorf("%s: the file begins with % x, expected an image file: %s", path,
		first[:min(len(first), 4)], strings.Join(names, ", "))
}

// firstBytes reads the first 512 bytes of a regular file.
func firstBytes(path string) []byte {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := regular.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	first := make([]byte, 512)
	n, _ := io.ReadFull(f, first)
	return first[:n]
}
