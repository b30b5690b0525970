package volume

// ITK is the geometry of an image as ITK (and SimpleITK) has it, LPS. The slices are ordered x, y, z, t and have as many
// entries as the image has axes, Direction the square of that.
type ITK struct {
	Spacing   []float64 // mm, s
	Origin    []float64 // mm, s
	Direction []float64 // row-major; column i is the direction of axis i
}

// Header is what the head of an image file says, of any format.
type Header struct {
	Format      string // with its version: "NIfTI-1"
	Size        []int  // x, y, z, t, …
	Type        string // of the stored pixels: "int16"
	BigEndian   bool   // byte order of the stored pixels
	Geometry    *ITK   // nil where Problem says why
	Problem     error  // why SimpleITK would not read the geometry
	Description string
	Native      any  // the header of the format's own package: *nifti.Header
	Extensions  bool // there is more in the header than is read, which Rewrite leaves out
}

// File is an image file with its pixels.
type File interface {
	// Head describes the file.
	Head() *Header
	// Stored are the pixels as they are stored, x fastest.
	Stored() Pixels
	// Values are the pixels with the file's scaling applied, as ITK does. They may share memory with Stored.
	Values() Pixels
	// Image is the image as ITK reads it.
	Image() (*Image, *ITK, error)
}

// Format is a format of image files: what formats/image knows of it. Errors of the functions name the file.
type Format struct {
	Name    string   // "NIfTI"
	Endings []string // of the names of its files, in lower case, with the dot
	// Match reports whether a file that begins with these bytes (512, or all of a shorter file) may be of the format.
	Match func(first []byte) bool
	// Header reads the head alone.
	Header func(path string) (*Header, error)
	Read   func(path string) (File, error)
	// Write writes a new file with the sizes of the axes x, y, …, with workers goroutines at least one. It appears when it
	// is complete.
	Write func(path string, size []int, g *ITK, pixels Pixels, workers int) error
	// Rewrite writes f again with the header that it has and its stored pixels, or with other values for them. It reports
	// false, and writes nothing, where f is of another format.
	Rewrite func(path string, f File, values Pixels, workers int) (bool, error)
}
