package volume

import (
	"io"
	"math"
	"slices"
)

// ITK is the geometry of an image in ITK's (and SimpleITK's) convention, LPS. Spacing and Origin
// hold one entry per axis in the order x, y, z, t; Direction holds the square of that.
type ITK struct {
	Spacing   []float64 // mm, s
	Origin    []float64 // mm, s
	Direction []float64 // row-major; column i is the direction of axis i
}

// Shape returns (t as c, z, y, x) for the sizes of the axes x, y, z, t; missing axes have size 1,
// further axes are left out.
func Shape(size []int) [4]int {
	shape := [4]int{1, 1, 1, 1}
	for i, n := range size[:min(len(size), 4)] {
		shape[3-i] = n
	}
	return shape
}

// Image returns an image of pixels, x fastest, with the geometry, and axes as in Shape. A
// two-dimensional image becomes one slice of spacing 1.
func (g *ITK) Image(size []int, pixels Pixels) *Image {
	im := &Image{Shape: Shape(size), Pixels: pixels}
	n := len(g.Spacing)
	im.Geometry = Geometry{Spacing: [3]float64{1, 1, 1},
		DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	for i := range min(n, 3) {
		im.Spacing[2-i] = g.Spacing[i]
		im.OriginXYZ[i] = g.Origin[i]
		for j := range min(n, 3) {
			im.DirectionXYZ[3*i+j] = g.Direction[n*i+j]
		}
	}
	return im
}

// Determinant returns the determinant of Direction up to its sign, by elimination: 0 if the axes
// depend on each other.
func (g *ITK) Determinant() float64 {
	n := len(g.Spacing)
	m, d := slices.Clone(g.Direction), 1.0
	for c := range n {
		pivot := c
		for r := c + 1; r < n; r++ {
			if math.Abs(m[n*r+c]) > math.Abs(m[n*pivot+c]) {
				pivot = r
			}
		}
		p := m[n*pivot+c]
		if p == 0 {
			return 0
		}
		d *= p
		for k := range n {
			m[n*pivot+k], m[n*c+k] = m[n*c+k], m[n*pivot+k]
		}
		for r := c + 1; r < n; r++ {
			f := m[n*r+c] / p
			for k := c; k < n; k++ {
				m[n*r+k] -= f * m[n*c+k]
			}
		}
	}
	return d
}

// Header describes an image file of any format, as read from its header. It has none of the header's
// free texts, which may name a patient.
type Header struct {
	Format     string   // name and version: "NIfTI-1"
	Size       []int    // x, y, z, t, …
	Type       string   // of the stored pixels: "int16"
	BigEndian  bool     // byte order of the stored pixels
	Geometry   *ITK     // nil if Problem is set
	Problem    error    // why SimpleITK would not read the geometry
	Native     any      // header type of the format's package, such as *nifti.Header
	Extensions bool     // the header has extensions, which are not read and which Rewrite drops
	DataFiles  []string // that hold the pixels, by their names in the file's folder; nil: the file itself
}

// File is an image file with its pixels.
type File interface {
	// Head returns the header.
	Head() *Header
	// Stored returns the pixels as stored in the file, x fastest.
	Stored() Pixels
	// Values returns the pixels with the file's scaling applied as ITK does. They may share memory
	// with Stored.
	Values() Pixels
	// Image returns the image as ITK reads it.
	Image() (*Image, *ITK, error)
}

// A PixelWriter is an image file to which pixels are written in any order, from one goroutine or
// several: their bytes, little-endian, at the offset that they have among all. The file appears with
// Commit; after Abort there is none. Errors name the file.
type PixelWriter interface {
	io.WriterAt
	Commit() error
	Abort()
}

// Format describes an image file format to package formats/image. Errors returned by its functions
// name the file.
type Format struct {
	Name    string   // "NIfTI"
	Endings []string // file name endings, lower case, with the dot
	// Match reports whether a file that begins with these bytes (512, or all of a shorter file) may
	// have the format.
	Match func(first []byte) bool
	// Header reads the header only, not the pixels.
	Header func(path string) (*Header, error)
	Read   func(path string) (File, error)
	// Write writes a new file. size holds the axes x, y, …; workers is the number of goroutines, at
	// least one. The file appears under its name once it is complete. It is nil where the format is
	// only read; Endings is then empty.
	Write func(path string, size []int, g *ITK, pixels Pixels, workers int) error
	// WriteRaw is Write without compression; nil if the ending decides about it.
	WriteRaw func(path string, size []int, g *ITK, pixels Pixels) error
	// Create is WriteRaw for pixels that come in parts; nil where WriteRaw is.
	Create func(path string, size []int, g *ITK, typeName string) (PixelWriter, error)
	// Beside returns the path of the file that Write and WriteRaw (raw) write the pixels to where it
	// is another than path, else "". It is nil for formats of one file.
	Beside func(path string, raw bool) string
	// As returns f as Read returns it once Write has written it: where the format rounds, its
	// geometry differs. The pixels share f's memory. It is nil for formats that keep every bit.
	As func(f File) (File, error)
	// Rewrite writes f with its own header and its stored pixels, or with values in their place if
	// not nil. It returns false and writes nothing if f has another format.
	Rewrite func(path string, f File, values Pixels, workers int) (bool, error)
}
