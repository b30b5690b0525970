// Package codec decodes the compressed pixel data of DICOM (PS3.5, annex A.4) in pure Go: RLE, JPEG
// lossless, JPEG-LS and baseline JPEG, one frame of one sample a pixel at a time. JPEG 2000 comes
// from a decoder that another package registers. It knows nothing of files, fragments or rescaling,
// and holds no image: pixels go to the caller's memory, and what it takes itself is a few rows.
//
//	if err := codec.Supported(syntax); err != nil { ... }        // what to do instead
//	if err := codec.Check(syntax, frame, header); err != nil { ... }  // before memory is taken
//	err := codec.Decode(pixels, syntax, frame, header)
package codec

import (
	"errors"
	"fmt"
	"math"
)

// A Frame is what the DICOM header says of each frame.
type Frame struct {
	Rows, Columns int
	BitsAllocated int // of a cell in memory: 8 or 16, with RLE 32 too
	BitsStored    int
	Signed        bool // PixelRepresentation 1
}

// Bytes is the length of the frame's pixels in memory: Rows x Columns cells of BitsAllocated bits.
// The error says what cannot be: sizes of 0 or beyond what DICOM's US holds, cells of part of a
// byte.
func (f Frame) Bytes() (int, error) {
	switch {
	case f.Rows < 1 || f.Rows > math.MaxUint16:
		return 0, fmt.Errorf("found %d for Rows, expected 1 to 65535", f.Rows)
	case f.Columns < 1 || f.Columns > math.MaxUint16:
		return 0, fmt.Errorf("found %d for Columns, expected 1 to 65535", f.Columns)
	case f.BitsAllocated != 8 && f.BitsAllocated != 16 && f.BitsAllocated != 32:
		return 0, fmt.Errorf("BitsAllocated: found %d, expected 8, 16 or 32", f.BitsAllocated)
	case f.BitsStored < 1 || f.BitsStored > f.BitsAllocated:
		return 0, fmt.Errorf("BitsStored: found %d, expected 1 to BitsAllocated, %d", f.BitsStored,
			f.BitsAllocated)
	}
	bytes := int64(f.Rows) * int64(f.Columns) * int64(f.BitsAllocated/8)
	if bytes > math.MaxInt {
		return 0, fmt.Errorf("%d Rows of %d Columns do not fit in memory", f.Rows,
			f.Columns)
	}
	return int(bytes), nil
}

// Check reads the headers of a frame's codestream, not its pixels, and says whether Decode can give
// them: the codestream must have the size that the DICOM header says, one sample a pixel, no more
// bits than BitsAllocated, and enough bytes for so many pixels to be possible at all. It makes no
// room for pixels, so that a caller can check every frame before making room for the first.
func Check(syntax string, codestream []byte, f Frame) error {
	if err := Supported(syntax); err != nil {
		return err
	}
	if _, err := f.Bytes(); err != nil {
		return err
	}
	return syntaxes[syntax].check(codestream, f)
}

// Decode writes the pixels of a frame to dst, whose length must be f.Bytes(): cells of
// BitsAllocated bits, little endian, row by row, as uncompressed pixel data of explicit little
// endian holds them. So bits above BitsStored are what the encoder put there or 0: mask them and
// extend the sign as with uncompressed data. codestream is all fragments of the frame, joined;
// padding at its end is ignored. An error means that dst holds no image. Decode may be called from
// several goroutines at once.
func Decode(dst []byte, syntax string, codestream []byte, f Frame) error {
	if err := Supported(syntax); err != nil {
		return err
	}
	bytes, err := f.Bytes()
	if err != nil {
		return err
	}
	if len(dst) != bytes {
		return fmt.Errorf("the memory for a frame has %d bytes, expected %d", len(dst), bytes)
	}
	return syntaxes[syntax].decode(dst, codestream, f)
}

var errShort = errors.New("the codestream is too short for so many pixels")

// cut says that a codestream ended, or made no sense, in the given row.
func cut(kind string, row int, f Frame) error {
	return fmt.Errorf("the %s codestream is cut off or damaged in row %d of %d", kind, row+1,
		f.Rows)
}
