package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"math"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/deflate"
	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// Format is MetaImage as formats/image knows it.
var Format = volume.Format{
	Name:    "MetaImage",
	Endings: []string{".mha", ".mhd"},
	Match:   match,
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
	// A file holds no more than the image's values and geometry.
	Rewrite: func(string, volume.File, volume.Pixels, int) (bool, error) { return false, nil },
}

// match finds the line that every header has, and before it nothing but lines of text.
func match(first []byte) bool {
	for {
		line, rest, ok := bytes.Cut(first, []byte("\n"))
		if key, _, ok := split(line); ok && key == "NDims" {
			return true
		}
		if !ok || bytes.IndexByte(line, 0) >= 0 {
			return false
		}
		first = rest
	}
}

// Write writes an image with the sizes of the axes x, y, …, as ITK does, with workers goroutines (at
// least one): the pixels compressed, little-endian, in the file itself, or beside an .mhd in NAME.zraw.
// The files appear when they are complete, that of the pixels first.
func Write(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
	return named(path, write(path, size, g, pixels, max(workers, 1)))
}

// WriteRaw is Write without compression; the file beside an .mhd is NAME.raw.
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
	head, err := encode(size, typeName, g)
	if err != nil {
		return nil, named(path, err)
	}
	name, err := dataFile(file)
	if err != nil {
		return nil, named(path, err)
	}
	return rawdata.Create(path, file, fmt.Appendf(nil, string(head), "CompressedData = False\n", name))
}

func named(path string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// write compresses with workers goroutines.
func write(path string, size []int, g *volume.ITK, pixels volume.Pixels, workers int) error {
	head, err := encode(size, pixels.Type(), g)
	if err != nil {
		return err
	}
	raw, err := rawdata.LittleEndian(size, pixels)
	if err != nil {
		return err
	}
	file := beside(path, false)
	name, err := dataFile(file)
	if err != nil {
		return err
	}
	header := func(packed int64) []byte {
		return fmt.Appendf(nil, string(head),
			fmt.Sprintf("CompressedData = True\nCompressedDataSize = %d\n", packed), name)
	}
	if file == "" {
		return create(path, func(f *atomicfile.File) error { return behind(f, header, raw, workers) })
	}
	var packed int64
	err = create(file, func(f *atomicfile.File) (err error) {
		packed, err = compress(f, raw, workers)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return atomicfile.Write(path, header(packed))
}

// create writes a file that appears when it is complete.
func create(path string, content func(*atomicfile.File) error) error {
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

// behind writes raw, compressed, behind the header that says how many bytes that are. It begins where
// they lie if raw becomes half as long, as CT does. Where the number then has fewer digits, or more,
// there are seldom many bytes to move.
func behind(f *atomicfile.File, header func(packed int64) []byte, raw []byte, workers int) error {
	from := int64(len(header(int64(len(raw) / 2))))
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	packed, err := compress(f, raw, workers)
	if err != nil {
		return err
	}
	first := header(packed)
	if err := move(f, from, int64(len(first)), packed); err != nil {
		return err
	}
	_, err = f.WriteAt(first, 0)
	return err
}

// move moves the last n bytes of a file to where they begin at byte to.
func move(f *atomicfile.File, from, to, n int64) error {
	if from == to {
		return nil
	}
	part := make([]byte, min(n, moved))
	for done := int64(0); done < n; {
		b := part[:min(int64(len(part)), n-done)]
		at := done
		if to > from { // the last ones first
			at = n - done - int64(len(b))
		}
		if _, err := f.ReadAt(b, from+at); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, to+at); err != nil {
			return err
		}
		done += int64(len(b))
	}
	return f.Truncate(to + n)
}

// moved is how many bytes move takes at a time.
const moved = 1 << 20

// dataFile is what the header says of where the pixels are: in it, or in the file at that path.
func dataFile(path string) (string, error) {
	if path == "" {
		return "LOCAL", nil
	}
	name := filepath.Base(path)
	if strings.ContainsAny(name, "\r\n%") || strings.TrimSpace(name) != name ||
		strings.Fields(name)[0] == "LIST" {
		return "", errors.New("the header cannot name a data file of this name, " +
			"expected one without line ends and %: choose another, or .mha")
	}
	return name, nil
}

// beside returns the path of the pixels' file, "" if they lie in the named one.
func beside(path string, raw bool) string {
	if !strings.HasSuffix(strings.ToLower(path), ".mhd") {
		return ""
	}
	if path = path[:len(path)-len(".mhd")]; raw {
		return path + ".raw"
	}
	return path + ".zraw"
}

// compress writes raw as a zlib stream of n bytes.
func compress(w io.Writer, raw []byte, workers int) (n int64, err error) {
	sum := make(chan uint32, 1) // computed meanwhile
	go func() { sum <- adler32.Checksum(raw) }()
	out := &counter{w: w}
	d := deflate.New(out, workers, deflate.ImageLevel)
	// Deflate, 32 KiB, a fast level; before d writes the first block.
	_, err = out.Write([]byte{0x78, 0x5e})
	if err == nil {
		_, err = d.Write(raw)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return 0, err
	}
	_, err = out.Write(binary.BigEndian.AppendUint32(nil, <-sum))
	return out.n, err
}

// counter counts what is written to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// encode is the header that ITK 5.4 writes, with a format for the lines about compression
// and for ElementDataFile.
// Source: MetaIO 2023 (ITK 5.4), metaImage.cxx, M_SetupWriteFields, and itkMetaImageIO.cxx.
func encode(size []int, typeName string, g *volume.ITK) ([]byte, error) {
	if err := rawdata.Writable(size, g); err != nil {
		return nil, err
	}
	n := len(size)
	met, ok := written[typeName]
	if !ok {
		return nil, fmt.Errorf("pixels of type %q: expected one of %s", typeName,
			volume.TypeNames("and"))
	}
	matrix := make([]float64, n*n)
	for axis := range n {
		for row := range n {
			matrix[n*axis+row] = g.Direction[n*row+axis]
		}
	}
	sizes := make([]float64, n)
	for i, v := range size {
		sizes[i] = float64(v)
	}
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%s = %v\n", key, value) }
	line("ObjectType", "Image")
	line("NDims", n)
	line("BinaryData", "True")
	line("BinaryDataByteOrderMSB", "False")
	b.WriteString("%s")
	line("TransformMatrix", text(matrix))
	line("Offset", text(g.Origin))
	line("CenterOfRotation", text(make([]float64, n)))
	if n == 3 {
		line("AnatomicalOrientation", anatomical(g.Direction))
	}
	line("ElementSpacing", text(g.Spacing))
	line("DimSize", text(sizes))
	if n != 3 {
		line("AnatomicalOrientation", strings.Repeat("?", n))
	}
	line("ElementType", met)
	line("ElementDataFile", "%s")
	return []byte(b.String()), nil
}

func text(numbers []float64) string { return rawdata.Digits(numbers, " ") }

// anatomical names from where the axes x, y, z come: R or L, A or P, I or S. The largest cosine settles
// its axis first. Nobody reads it.
func anatomical(direction []float64) string {
	letters, done := []byte("???"), [3]bool{}
	for range 3 {
		axis, row, most := -1, -1, -1.0
		for a := range 3 {
			for r := range 3 {
				if c := math.Abs(direction[3*r+a]); letters[a] == '?' && !done[r] && c > most {
					axis, row, most = a, r, c
				}
			}
		}
		done[row] = true
		letters[axis] = "RAI"[row]
		if direction[3*row+axis] < 0 {
			letters[axis] = "LPS"[row]
		}
	}
	return string(letters)
}
