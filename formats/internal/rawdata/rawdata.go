// Package rawdata reads the pixels of formats whose headers are text, NRRD and MetaImage: raw,
// compressed or as text, behind the header or in files of their own. Memory is taken once the files'
// sizes allow what the header announces.
package rawdata

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/lntorch/lntorch/formats/internal/inflate"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

// Encoding is how pixels are stored.
type Encoding int

// The encodings. A Deflate stream is one of zlib or gzip: its first bytes tell.
const (
	Raw Encoding = iota
	Deflate
	Bzip2
	Text // decimal numbers between spaces, line ends and commas
	Hex  // two digits a byte, with white space anywhere
)

// Data says where the pixels of an image lie and how.
type Data struct {
	Encoding  Encoding
	BigEndian bool
	From      int64 // where the data begin in each file
	Lines     int64 // lines to pass over in each file, from there on
	// Bytes to pass over behind the lines; compressed data are decompressed first. Of the negative -1-n
	// the pixels end n bytes before the end of the data.
	Skip  int64
	Exact bool // compressed data that hold more than the pixels are an error
	// The files in the header's folder, or below it, that hold equal parts of the pixels; none: the
	// pixels are in the header's file.
	Names []string
}

const (
	maxRatio = 1032 // the largest compression ratio of deflate: 258 bytes in two bits
	// What any bzip2 file may hold: its ratio has no bound worth the name, and an empty label map of
	// a thousand slices has some hundred bytes.
	bzip2Least = 256 << 20
)

// Bytes returns the number of bytes of an image; an error means that no file can hold them.
func Bytes(size []int, typeName string) (int64, error) {
	n := int64(volume.MakePixels(typeName, 0).Size())
	for _, d := range size {
		if n > math.MaxInt64/4/maxRatio/int64(d) {
			return 0, fmt.Errorf("found axes of %v voxels, more than any file holds", size)
		}
		n *= int64(d)
	}
	return n, nil
}

// Read reads the pixels of an image with the sizes of the axes x, y, …. header is the open file of the
// header, which lies in folder. Errors name a file of its own, not the header.
func (d *Data) Read(header *os.File, folder string, size []int, typeName string) (volume.Pixels, error) {
	need, err := Bytes(size, typeName)
	if err != nil {
		return nil, err
	}
	of := fmt.Sprintf("%v of %s", size, typeName)
	if len(d.Names) == 0 {
		info, err := header.Stat()
		if err != nil {
			return nil, bare(err)
		}
		if err := d.check(info.Size(), need, of, typeName); err != nil {
			return nil, err
		}
		p := volume.MakePixels(typeName, int(need)/volume.MakePixels(typeName, 0).Size())
		return p, d.fill(header, info.Size(), p, 0, p.Len(), of)
	}
	files, err := open(folder, header, d.Names)
	if err != nil {
		return nil, err
	}
	defer files.close()
	parts := len(d.Names)
	for _, name := range d.Names {
		f, length, err := files.open(name)
		if err == nil {
			f.Close()
			err = d.check(length, need/int64(parts), of, typeName)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	p := volume.MakePixels(typeName, int(need)/volume.MakePixels(typeName, 0).Size())
	for i, name := range d.Names {
		f, length, err := files.open(name)
		if err == nil {
			err = d.fill(f, length, p, i*(p.Len()/parts), (i+1)*(p.Len()/parts), of)
			f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return p, nil
}

// bare is an error without the path, which callers name.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// check compares the need of a file, or of its part, with the most that its length allows.
func (d *Data) check(length, need int64, of, typeName string) error {
	have := max(0, length-d.From)
	skip := max(d.Skip, -1-d.Skip)
	if skip > math.MaxInt64/2 {
		return fmt.Errorf("found %d bytes to skip, more than any file holds", d.Skip)
	}
	switch d.Encoding {
	case Raw:
		if have-skip < need {
			return fmt.Errorf("found %d bytes of pixels, expected %d for %s: the file is cut off or "+
				"its header wrong", max(0, have-skip), need, of)
		}
	case Text:
		if numbers := need / int64(volume.MakePixels(typeName, 0).Size()); have-skip < 2*numbers-1 {
			return fmt.Errorf("found %d bytes of text, expected %d numbers for %s: the file is cut off "+
				"or its header wrong", max(0, have-skip), numbers, of)
		}
	case Hex:
		if have-skip < 2*need {
			return fmt.Errorf("found %d hexadecimal digits, expected %d for %s: the file is cut off or "+
				"its header wrong", max(0, have-skip), 2*need, of)
		}
	default:
		if most := d.most(have); most-skip < need {
			return fmt.Errorf("found %d compressed bytes, which hold at most %d, expected %d for %s: "+
				"the header is wrong or the file is cut off", have, most, skip+need, of)
		}
	}
	return nil
}

// most is the most that compressed bytes may hold.
func (d *Data) most(have int64) int64 {
	if have > math.MaxInt64/maxRatio {
		return math.MaxInt64
	}
	if d.Encoding == Bzip2 {
		return max(have*maxRatio, bzip2Least)
	}
	return have * maxRatio
}

// fill reads the pixels from up to to from a file.
func (d *Data) fill(f *os.File, length int64, p volume.Pixels, from, to int, of string) error {
	size := p.Size()
	raw := p.Bytes()[from*size : to*size]
	at, err := d.passLines(f, length)
	if err != nil {
		return err
	}
	in := func() *io.SectionReader { return io.NewSectionReader(f, at, length-at) }
	switch d.Encoding {
	case Raw:
		first := at + d.Skip
		if d.Skip < 0 {
			first = length - (-1 - d.Skip) - int64(len(raw))
		}
		if first < at || length-first < int64(len(raw)) {
			return fmt.Errorf("found %d bytes of pixels, expected %d for %s: the file is cut off or "+
				"its header wrong", max(0, length-max(first, at)), len(raw), of)
		}
		_, err = io.ReadFull(io.NewSectionReader(f, first, int64(len(raw))), raw)
	case Text, Hex:
		if d.Skip < 0 {
			return errors.New("found text to be read from its end, expected a skip of 0 or more: only " +
				"the length of raw and compressed pixels is known")
		}
		r := bufio.NewReaderSize(io.NewSectionReader(f, at+d.Skip, max(0, length-at-d.Skip)), 1<<16)
		if d.Encoding == Text {
			return text(r, p, from, to)
		}
		err = hex(r, raw)
	case Deflate:
		err = d.inflate(in, raw, of)
	case Bzip2:
		err = d.bunzip(in, raw)
	}
	if err != nil {
		return err
	}
	if d.BigEndian == bits.LittleEndian && size > 1 {
		bits.Swap(raw, size)
	}
	return nil
}

// passLines returns where the data begin behind the lines. A line ends as in headers: \n, \r\n or \r.
func (d *Data) passLines(f *os.File, length int64) (int64, error) {
	at := min(d.From, length)
	if d.Lines == 0 {
		return at, nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, at, length-at), 1<<16)
	for i := int64(0); i < d.Lines; {
		c, err := r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("found %d lines, expected %d before the pixels, which line skip passes "+
				"over", i, d.Lines)
		}
		at++
		if c == '\r' {
			if next, _ := r.Peek(1); len(next) == 1 && next[0] == '\n' {
				r.Discard(1)
				at++
			}
		}
		if c == '\n' || c == '\r' {
			i++
		}
	}
	return at, nil
}

// inflate fills raw from zlib or gzip streams.
// Differs: ITK gives other pixels, and no error, for a stream that has a wrong checksum, and in
// MetaImage for one that is cut off.
func (d *Data) inflate(in func() *io.SectionReader, raw []byte, of string) error {
	s, err := inflate.NewStream(in())
	if err != nil {
		return err
	}
	skip := d.Skip
	if skip < 0 {
		all, err := io.Copy(io.Discard, s)
		if err != nil {
			return damaged(all, all, err)
		}
		if skip = all - (-1 - skip) - int64(len(raw)); skip < 0 {
			return fmt.Errorf("found %d bytes in the compressed data, expected %d", all,
				int64(len(raw))-1-d.Skip)
		}
		if s, err = inflate.NewStream(in()); err != nil {
			return err
		}
	}
	if n, err := io.CopyN(io.Discard, s, skip); err != nil {
		return damaged(n, skip, err)
	}
	n, more, err := s.Fill(raw)
	if n == len(raw) && err == io.ErrUnexpectedEOF && !d.Exact {
		// Compat: data that end before or in the checksum are taken, as by SimpleITK: no pixel
		// is missing.
		return nil
	}
	if err != nil {
		return damaged(skip+int64(n), skip+int64(len(raw)), err)
	}
	if more && d.Exact {
		return fmt.Errorf("the compressed data hold more than %d bytes for %s: the header is wrong",
			len(raw), of)
	}
	return nil
}

// bunzip fills raw from bzip2 streams.
func (d *Data) bunzip(in func() *io.SectionReader, raw []byte) error {
	open := func() io.Reader { return bzip2.NewReader(bufio.NewReaderSize(in(), 1<<16)) }
	r, skip, most := open(), d.Skip, d.most(in().Size())
	if skip < 0 {
		all, err := io.Copy(io.Discard, io.LimitReader(r, most+1))
		if err == nil && all > most {
			return fmt.Errorf("the compressed data hold more than %d bytes, the most for a file of %d",
				most, in().Size())
		}
		if err != nil {
			return damaged(all, int64(len(raw)), err)
		}
		if skip = all - (-1 - skip) - int64(len(raw)); skip < 0 {
			return fmt.Errorf("found %d bytes in the compressed data, expected %d", all,
				int64(len(raw))-1-d.Skip)
		}
		r = open()
	}
	if n, err := io.CopyN(io.Discard, r, skip); err != nil {
		return damaged(n, skip+int64(len(raw)), err)
	}
	n, err := io.ReadFull(r, raw)
	if err == nil {
		// The checksum of the last block is compared where the next one would begin.
		if _, err = io.ReadFull(r, make([]byte, 1)); err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		return damaged(skip+int64(n), skip+int64(len(raw)), err)
	}
	return nil
}

func damaged(found, expected int64, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the compressed data are cut off after %d of %d bytes", found, expected)
	}
	return fmt.Errorf("the compressed data are damaged after %d of %d bytes: %w", found, expected, err)
}
