package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// JPEG 2000 (T.800) and its high throughput (T.814): what the codestream's header says is checked
// here, the rest is a registered decoder's.

// A JPEG2000 is a codestream whose size is that of the frame.
type JPEG2000 struct {
	Codestream []byte // from start of codestream on, without the boxes of a JP2 file
	Precision  int    // bits of a sample, 1 to 16
	Signed     bool   // of the samples; PixelRepresentation may say otherwise
}

// A JPEG2000Decoder writes a frame's pixels to dst as Decode says: samples as f.Signed says,
// whatever c.Signed does. The codestream's image and tile size are checked already, the length of
// dst too; the rest of the codestream is not.
type JPEG2000Decoder func(dst []byte, c JPEG2000, f Frame) error

var jpeg2000Decoder struct {
	available func() error
	decode    JPEG2000Decoder
}

// RegisterJPEG2000 gives Decode a decoder of JPEG 2000 and HTJ2K, before the first call of any
// other function. available returns why it cannot decode, for the user, or nil;
// it is called for every frame, from several goroutines.
func RegisterJPEG2000(available func() error, decode JPEG2000Decoder) {
	jpeg2000Decoder.available, jpeg2000Decoder.decode = available, decode
}

// availableJPEG2000 returns why there is no decoder.
func availableJPEG2000() error {
	if jpeg2000Decoder.decode == nil {
		return errors.New("this program has none")
	}
	return jpeg2000Decoder.available()
}

func decodeJPEG2000(dst, b []byte, f Frame) error {
	c, err := parseJPEG2000(b, f)
	if err != nil {
		return err
	}
	return jpeg2000Decoder.decode(dst, c, f)
}

func checkJPEG2000(b []byte, f Frame) error {
	_, err := parseJPEG2000(b, f)
	return err
}

const (
	// maxPixels is far beyond what a detector has; a decoder needs 8 bytes for each.
	maxPixels = 1 << 26
	// freePixels may be in a codestream of any length: a frame of one value has hardly any.
	freePixels = 1 << 24
	maxFold    = 1024 // more pixels than freePixels need a byte for so many
	minTile    = 14   // bytes: SOT and SOD
)

// parseJPEG2000 reads the image and tile size, SIZ (T.800, A.5.1).
func parseJPEG2000(b []byte, f Frame) (c JPEG2000, err error) {
	if b, err = withoutBoxes(b); err != nil {
		return c, err
	}
	if len(b) < 4 || binary.BigEndian.Uint32(b) != 0xFF4FFF51 {
		return c, errors.New("the codestream is no JPEG 2000: it does not begin with FF 4F FF 51")
	}
	if len(b) < 6 || int(binary.BigEndian.Uint16(b[4:])) > len(b)-4 {
		return c, errors.New("the JPEG 2000 codestream is cut off in its header")
	}
	siz := b[4 : 4+int(binary.BigEndian.Uint16(b[4:]))]
	if len(siz) < 38 || len(siz) != 38+3*int(binary.BigEndian.Uint16(siz[36:])) {
		return c, errors.New("the image size of the JPEG 2000 codestream has a wrong length")
	}
	if n := (len(siz) - 38) / 3; n != 1 {
		return c, fmt.Errorf("the codestream has %d components, expected one sample a pixel", n)
	}
	at := func(i int) int64 { return int64(binary.BigEndian.Uint32(siz[i:])) }
	var (
		x0, y0         = at(12), at(16)
		columns, rows  = at(4) - x0, at(8) - y0
		tileX, tileY   = at(20), at(24)
		tileX0, tileY0 = at(28), at(32)
		precision      = int(siz[38]&0x7F) + 1
		stepX, stepY   = siz[39], siz[40]
		pixels, bytes  = int64(f.Rows) * int64(f.Columns), int64(len(b))
	)
	if columns != int64(f.Columns) || rows != int64(f.Rows) || stepX != 1 || stepY != 1 {
		return c, fmt.Errorf("the codestream has %d rows and %d columns (one sample in %d and "+
			"%d), but Rows is %d and Columns is %d", rows, columns, stepY, stepX, f.Rows, f.Columns)
	}
	if tileX0 > x0 || tileY0 > y0 || tileX0+tileX <= x0 || tileY0+tileY <= y0 {
		return c, errors.New("the tiles of the JPEG 2000 codestream do not begin where its image " +
			"does")
	}
	tilesX := (x0 + columns - tileX0 + tileX - 1) / tileX
	tilesY := (y0 + rows - tileY0 + tileY - 1) / tileY
	switch tiles := tilesX * tilesY; {
	case tiles > math.MaxUint16:
		return c, fmt.Errorf("the codestream has %d tiles, expected 65535 at most", tiles)
	case tiles > bytes/minTile:
		return c, errShort
	case f.BitsAllocated > 16:
		return c, fmt.Errorf("BitsAllocated: found %d, expected 8 or 16 with JPEG 2000",
			f.BitsAllocated)
	case precision > f.BitsAllocated:
		return c, fmt.Errorf("the codestream has samples of %d bits, but BitsAllocated is %d",
			precision, f.BitsAllocated)
	case pixels > maxPixels:
		return c, fmt.Errorf("%d rows of %d columns are more than the %d pixels that are decoded "+
			"from JPEG 2000", f.Rows, f.Columns, maxPixels)
	case pixels > freePixels && pixels/maxFold > bytes:
		return c, errShort
	}
	if err := hasTiles(b, int(tilesX*tilesY)); err != nil {
		return c, err
	}
	return JPEG2000{Codestream: b, Precision: precision, Signed: siz[38]&0x80 != 0}, nil
}

// hasTiles looks for a part of each tile: OpenJPEG takes a missing one for an empty one.
func hasTiles(b []byte, tiles int) error {
	const sot, minPart = 0xFF90, 12 // marker and segment of a tile-part
	at := 2
	for { // the main header's segments
		if at+4 > len(b) {
			return errors.New("the JPEG 2000 codestream is cut off in its header")
		}
		marker := binary.BigEndian.Uint16(b[at:])
		if marker == sot {
			break
		}
		if marker < 0xFF00 {
			return fmt.Errorf("byte %d of the JPEG 2000 codestream: found %#04x, expected a marker",
				at, marker)
		}
		at += 2 + int(binary.BigEndian.Uint16(b[at+2:]))
	}
	seen, found := make([]bool, tiles), 0
	for at+minPart <= len(b) && binary.BigEndian.Uint16(b[at:]) == sot {
		tile := int(binary.BigEndian.Uint16(b[at+4:]))
		size := int64(binary.BigEndian.Uint32(b[at+6:]))
		if size == 0 { // to the end
			size = int64(len(b) - at)
		}
		if tile >= tiles || size < minTile || size > int64(len(b)-at) {
			return fmt.Errorf("the JPEG 2000 codestream is cut off or damaged in tile %d of %d",
				tile+1, tiles)
		}
		if !seen[tile] {
			seen[tile] = true
			found++
		}
		at += int(size)
	}
	if found < tiles {
		return fmt.Errorf("the JPEG 2000 codestream is cut off or damaged: it has %d of its %d "+
			"tiles", found, tiles)
	}
	return nil
}

// withoutBoxes returns the codestream in a JP2 file (T.800, annex I), which PS3.5, 8.2.4, forbids
// and some write all the same. Without boxes it returns b.
func withoutBoxes(b []byte) ([]byte, error) {
	const signature = "\x00\x00\x00\x0CjP  \r\n\x87\n"
	if len(b) < len(signature) || string(b[:len(signature)]) != signature {
		return b, nil
	}
	for len(b) >= 8 {
		kind, head, size := string(b[4:8]), uint64(8), uint64(binary.BigEndian.Uint32(b))
		switch {
		case size == 0: // to the end
			size = uint64(len(b))
		case size == 1 && len(b) >= 16:
			head, size = 16, binary.BigEndian.Uint64(b[8:])
		}
		if size < head || size > uint64(len(b)) {
			break
		}
		content := b[head:size]
		switch kind {
		case "jp2c":
			return content, nil
		case "jp2h":
			if hasPalette(content) {
				return nil, errors.New("the codestream has a palette, expected one sample a pixel")
			}
		}
		b = b[size:]
	}
	return nil, errors.New("the JP2 boxes hold no codestream, or are cut off")
}

// hasPalette looks for the palette among the boxes in a JP2 header.
func hasPalette(b []byte) bool {
	for len(b) >= 8 {
		size := binary.BigEndian.Uint32(b)
		if string(b[4:8]) == "pclr" {
			return true
		}
		if size < 8 || uint64(size) > uint64(len(b)) {
			return false
		}
		b = b[size:]
	}
	return false
}
