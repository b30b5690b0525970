package nrrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/deflate"
	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// Format is NRRD as formats/image knows it.
var Format = volume.Format{
	Name:    "NRRD",
	Endings: []string{".nrrd", ".nhdr"},
	Match:   func(first []byte) bool { return bytes.HasPrefix(first, []byte("NRRD0")) },
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
			return nil, err // no *File that is nil in an interface that is not
		}
		return f, nil
	},
	Write:    Write,
	WriteRaw: WriteRaw,
	Create:   Create,
	Beside:   beside,
	As:       as,
	// A file holds no more than the image's values and geometry.
	Rewrite: func(string, volume.File, volume.Pixels, int) (bool, error) { return false, nil },
}

// Write writes an image with the sizes of the axes x, y, …, as ITK does, with workers goroutines (at
// least one): the pixels as gzip, little-endian, in the file itself, or beside a .nhdr in NAME.raw.gz.
// The files appear when they are complete, that of the pixels first.
func Write(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
	return named(path, write(path, size, g, pixels, max(workers, 1)))
}

// WriteRaw is Write without compression; the file beside a .nhdr is NAME.raw.
func WriteRaw(path string, size []int, g *volume.ITK, pixels volume.Pixels) error {
	w, err := createRaw(path, size, g, pixels.Type())
	if err != nil {
		return err
	}
	return w.All(size, pixels)
}

// Create is WriteRaw for pixels that come in parts.
func Create(path string, size []int, g *volume.ITK, typeName string) (volume.PixelWriter, error) {
	w, err := createRaw(path, size, g, typeName)
	if err != nil {
		return nil, err // no *Writer that is nil in an interface that is not
	}
	return w, nil
}

func createRaw(path string, size []int, g *volume.ITK, typeName string) (*rawdata.Writer, error) {
	file := beside(path, true)
	head, err := header(file, size, typeName, "raw", g)
	if err != nil {
		return nil, named(path, err)
	}
	return rawdata.Create(path, file, head)
}

// as returns f as Read returns it once it is written: spacings times directions are rounded.
func as(f volume.File) (volume.File, error) {
	head := f.Head()
	if head.Geometry == nil {
		return nil, head.Problem
	}
	pixels := f.Values()
	b, err := encode(head.Size[:len(head.Geometry.Spacing)], pixels.Type(), "raw", head.Geometry)
	if err != nil {
		return nil, err
	}
	h, err := parse(append(b, '\n'))
	if err != nil {
		return nil, err
	}
	return &File{Header: *h, Pixels: pixels}, nil
}

func named(path string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// write compresses with workers goroutines.
func write(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
	file := beside(path, false)
	head, err := header(file, size, pixels.Type(), "gzip", g)
	if err != nil {
		return err
	}
	raw, err := rawdata.LittleEndian(size, pixels)
	if err != nil {
		return err
	}
	if file == "" {
		return create(path, func(w io.Writer) error {
			if _, err := w.Write(head); err != nil {
				return err
			}
			return deflate.Gzip(w, workers, raw)
		})
	}
	data := func(w io.Writer) error { return deflate.Gzip(w, workers, raw) }
	if err := create(file, data); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return atomicfile.Write(path, head)
}

// header is the whole header of an image whose pixels follow it or lie in the file at the path given.
func header(file string, size []int, typeName, encoding string, g *volume.ITK) ([]byte, error) {
	head, err := encode(size, typeName, encoding, g)
	if err != nil {
		return nil, err
	}
	if file == "" {
		return append(head, '\n'), nil
	}
	name := filepath.Base(file)
	if strings.ContainsAny(name, "\r\n%") || strings.TrimSpace(name) != name ||
		strings.HasPrefix(name, "LIST") {
		return nil, errors.New("the header cannot name a data file of this name, expected one without " +
			"line ends and %: choose another, or .nrrd")
	}
	return fmt.Appendf(head, "data file: %s\n", name), nil
}

// beside returns the path of the pixels' file, "" if they lie in the named one.
func beside(path string, raw bool) string {
	if !strings.HasSuffix(strings.ToLower(path), ".nhdr") {
		return ""
	}
	if path = path[:len(path)-len(".nhdr")]; raw {
		return path + ".raw"
	}
	return path + ".raw.gz"
}

// create writes a file that appears when it is complete.
func create(path string, content func(io.Writer) error) error {
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	if err := content(f); err != nil {
		f.Abort()
		return err
	}
	return f.Commit()
}

var written = map[string]string{"int8": "signed char", "uint8": "unsigned char", "int16": "short",
	"uint16": "unsigned short", "int32": "int", "uint32": "unsigned int", "int64": "long long int",
	"uint64": "unsigned long long int", "float32": "float", "float64": "double"}

// encode is the header that ITK 5.4 writes, without what ends it.
// Source: ITK 5.4, itkNrrdImageIO.cxx, Write, and NrrdIO's formatNRRD.c.
func encode(size []int, typeName, encoding string, g *volume.ITK) ([]byte, error) {
	if err := rawdata.Writable(size, g); err != nil {
		return nil, err
	}
	n := len(size)
	cType, ok := written[typeName]
	if !ok {
		return nil, fmt.Errorf("pixels of type %q: expected one of %s", typeName, volume.TypeNames("and"))
	}
	sizes, vectors := make([]string, n), make([]string, n)
	for i, v := range size {
		sizes[i] = strconv.Itoa(v)
		along := make([]float64, n)
		for row := range along {
			along[row] = g.Spacing[i] * g.Direction[n*row+i]
			if math.IsInf(along[row], 0) {
				return nil, fmt.Errorf("the spacing %v and direction %v are more than a number holds",
					g.Spacing, g.Direction)
			}
		}
		vectors[i] = vector(along)
	}
	var b strings.Builder
	b.WriteString("NRRD0004\n# Complete NRRD file format specification at:\n" +
		"# http://teem.sourceforge.net/nrrd/format.html\n")
	line := func(key string, value any) { fmt.Fprintf(&b, "%s: %v\n", key, value) }
	line("type", cType)
	line("dimension", n)
	if n == 3 {
		line("space", "left-posterior-superior")
	} else {
		line("space dimension", n)
	}
	line("sizes", strings.Join(sizes, " "))
	line("space directions", strings.Join(vectors, " "))
	line("kinds", strings.TrimSpace(strings.Repeat("domain ", n)))
	if !strings.HasSuffix(typeName, "int8") {
		line("endian", "little")
	}
	line("encoding", encoding)
	line("space origin", vector(g.Origin))
	return []byte(b.String()), nil
}

// vector writes a vector as NRRD does.
func vector(numbers []float64) string { return "(" + rawdata.Digits(numbers, ",") + ")" }
