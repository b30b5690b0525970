package meta

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// File is a MetaImage with its pixels.
type File struct {
	Header
	Pixels volume.Pixels // of the type that Header.Type names, x fastest
}

// maxRatio is the most that deflate can compress: 258 bytes in two bits.
const maxRatio = 1032

// ReadHeader reads the header of a file.
func ReadHeader(path string) (*Header, error) {
	h, f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, f.Close()
}

// Read reads a file, and the data file that it names. A size that does not fit what the header says is
// an error before memory is taken for it.
func Read(path string) (*File, error) {
	h, f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	from := int64(h.bytes)
	if h.file != "" {
		from = 0
		if f, err = openData(filepath.Dir(path), h.file); err != nil {
			return nil, fmt.Errorf("%s: ElementDataFile: %w", path, err)
		}
		defer f.Close()
	}
	p, err := h.read(f, from)
	if err != nil {
		if h.file != "" {
			return nil, fmt.Errorf("%s: %s: %w", path, h.file, err)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Header: *h, Pixels: p}, nil
}

func open(path string) (*Header, *os.File, error) {
	// A pipe would wait for its writer.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, nil, bare(err)
	}
	f, err := regular.Open(path)
	if err != nil {
		return nil, nil, bare(err)
	}
	b := make([]byte, min(info.Size(), maxHeader))
	n, err := io.ReadFull(f, b)
	var h *Header
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		h, err = parse(b[:n])
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return h, f, nil
}

// bare is an error without the path, which callers name.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// openData opens a data file in the folder of the header, or below it: a file from elsewhere must not
// make the program read what its user did not mean.
// Differs: ITK reads any path, lists of files and patterns.
func openData(folder, name string) (*os.File, error) {
	if strings.Fields(name)[0] == "LIST" || strings.Contains(name, "%") {
		return nil, fmt.Errorf("found %q, which stands for several files, expected LOCAL or one file: "+
			"read and write the image with SimpleITK", name)
	}
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("found %q, expected a file in the folder of the header or below it",
			name)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, bare(err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, bare(err))
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, bare(err))
	}
	return f, nil
}

// read reads the pixels from f, in which they begin at from, unless HeaderSize says otherwise.
func (h *Header) read(f *os.File, from int64) (volume.Pixels, error) {
	need, err := h.need()
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, bare(err)
	}
	switch {
	case h.skip > 0:
		from = h.skip
	case h.skip < 0:
		from = max(from, info.Size()-need) // what is too short is reported below
	}
	have := max(0, info.Size()-from)
	if !h.compressed && have < need {
		return nil, fmt.Errorf("found %d bytes of pixels, expected %d for %v of %s: "+
			"the file is cut off or its header wrong", have, need, h.Size, h.Type)
	}
	if h.compressed {
		if h.packed > have {
			return nil, fmt.Errorf("found %d compressed bytes, expected %d by CompressedDataSize: "+
				"the file is cut off", have, h.packed)
		}
		if h.packed > 0 {
			have = h.packed
		}
		if need/maxRatio > have {
			return nil, fmt.Errorf("found %d compressed bytes, which hold at most %d, expected %d for "+
				"%v of %s: the header is wrong or the file is cut off",
				have, have*maxRatio, need, h.Size, h.Type)
		}
	}
	p := volume.MakePixels(h.Type, int(need)/volume.MakePixels(h.Type, 0).Size())
	raw := p.Bytes()
	part := io.NewSectionReader(f, from, have)
	if h.compressed {
		err = h.inflate(part, raw)
	} else {
		_, err = io.ReadFull(part, raw)
	}
	if err != nil {
		return nil, err
	}
	if size := p.Size(); h.BigEndian == bits.LittleEndian && size > 1 {
		bits.Swap(raw, size)
	}
	return p, nil
}

// inflate fills raw from a zlib or gzip stream, which must end with it, and at CompressedDataSize.
// Differs: ITK gives other pixels, and no error, for a stream that is cut off, has a wrong checksum or
// another length, and where CompressedDataSize is missing or too small.
func (h *Header) inflate(part *io.SectionReader, raw []byte) error {
	in := bufio.NewReaderSize(part, 1<<16)
	var z io.Reader
	first, err := in.Peek(2)
	if err == nil && first[0] == 0x1f && first[1] == 0x8b {
		var g *gzip.Reader
		if g, err = gzip.NewReader(in); err == nil {
			g.Multistream(false)
			z = g
		}
	} else if err == nil {
		z, err = zlib.NewReader(in)
	}
	if err != nil {
		return fmt.Errorf("the compressed data do not begin as zlib's or gzip's: %w", err)
	}
	if n, err := io.ReadFull(z, raw); err != nil {
		return damaged(int64(n), int64(len(raw)), err)
	}
	if n, err := io.ReadFull(z, make([]byte, 1)); n > 0 {
		return fmt.Errorf("the compressed data hold more than %d bytes for %v of %s: "+
			"the header is wrong", len(raw), h.Size, h.Type)
	} else if err != io.EOF {
		return damaged(int64(len(raw)), int64(len(raw)), err)
	}
	at, err := part.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if at -= int64(in.Buffered()); h.packed > 0 && at != h.packed {
		return fmt.Errorf("CompressedDataSize: found %d, expected %d, where the compressed data end: "+
			"the header is wrong", h.packed, at)
	}
	return nil
}

func damaged(found, expected int64, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the compressed data are cut off after %d of %d bytes", found, expected)
	}
	return fmt.Errorf("the compressed data are damaged after %d of %d bytes: %w", found, expected, err)
}

// Head describes the file as every format does.
func (h *Header) Head() *volume.Header {
	head := &volume.Header{Format: "MetaImage", Size: h.Size, Type: h.Type, BigEndian: h.BigEndian,
		Description: h.Comment, Native: h, Extensions: h.more}
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
