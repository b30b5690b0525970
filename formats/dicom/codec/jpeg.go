package codec

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lntorch/lntorch/internal/bits"
)

// Markers of T.81, table B.1, and of T.87; 0xFF stands before each.
const (
	markerSOF0  = 0xC0 // baseline
	markerSOF3  = 0xC3 // lossless
	markerDHT   = 0xC4
	markerJPG   = 0xC8
	markerDAC   = 0xCC
	markerRST0  = 0xD0
	markerSOI   = 0xD8
	markerEOI   = 0xD9
	markerSOS   = 0xDA
	markerDQT   = 0xDB
	markerDNL   = 0xDC
	markerDRI   = 0xDD
	markerTEM   = 0x01
	markerSOFLS = 0xF7 // JPEG-LS
	markerLSE   = 0xF8
)

// A jpegHeader is what stands before the data of a codestream's first scan.
type jpegHeader struct {
	sof                      byte
	precision, rows, columns int
	components               int
	quantiser                byte // the component's quantisation table
	restart                  uint32
	huffman                  [2][4][]byte  // by class and destination: 16 counts, then values
	quantisers               [4]*[64]int32 // in zigzag order
	parameters               [5]int        // of JPEG-LS: MAXVAL, T1, T2, T3, RESET; 0: default

	// of the scan
	table, tableAC byte // destinations of its Huffman tables
	mapping        byte // JPEG-LS: the mapping table
	ss, se, ah, al byte // predictor or NEAR, interleave, point transform
	data           []byte
}

// parseJPEG reads the segments up to the first scan.
func parseJPEG(b []byte) (h jpegHeader, err error) {
	if len(b) < 2 || b[0] != 0xFF || b[1] != markerSOI {
		return h, errors.New("the codestream is no JPEG: it does not begin with FF D8")
	}
	at := 2
	for {
		if at >= len(b) {
			return h, errors.New("the JPEG codestream ends before its first scan")
		}
		if b[at] != 0xFF {
			return h, fmt.Errorf("byte %d of the JPEG codestream: found %#02x, expected a marker",
				at, b[at])
		}
		for at < len(b) && b[at] == 0xFF {
			at++
		}
		if at == len(b) {
			continue
		}
		marker := b[at]
		at++
		switch {
		case marker == markerTEM:
			continue
		case marker == markerEOI:
			return h, errors.New("the JPEG codestream ends before its first scan")
		case marker == 0 || marker == markerDNL || marker >= markerRST0 && marker <= markerSOI:
			return h, fmt.Errorf("the marker %#02x stands before the first scan of the JPEG "+
				"codestream", marker)
		}
		if len(b)-at < 2 {
			at = len(b)
			continue
		}
		size := int(binary.BigEndian.Uint16(b[at:]))
		if size < 2 || size > len(b)-at {
			return h, fmt.Errorf("the JPEG codestream is cut off in the segment of marker %#02x",
				marker)
		}
		segment := b[at+2 : at+size]
		at += size
		switch {
		case marker == markerDHT:
			err = h.readHuffman(segment)
		case marker == markerDQT:
			err = h.readQuantisers(segment)
		case marker == markerDRI:
			err = h.readRestart(segment)
		case marker == markerLSE:
			err = h.readParameters(segment)
		case marker == markerSOS:
			h.data = b[at:]
			return h, h.readScan(segment)
		case marker >= markerSOF0 && marker <= 0xCF && marker != markerJPG && marker != markerDAC,
			marker == markerSOFLS:
			err = h.readFrame(marker, segment)
		}
		if err != nil {
			return h, err
		}
	}
}

func (h *jpegHeader) readFrame(marker byte, s []byte) error {
	if h.sof != 0 {
		return errors.New("the JPEG codestream has two frame headers")
	}
	if len(s) < 6 || len(s) != 6+3*int(s[5]) {
		return errors.New("the frame header of the JPEG codestream has a wrong length")
	}
	h.sof, h.precision, h.components = marker, int(s[0]), int(s[5])
	h.rows, h.columns = int(binary.BigEndian.Uint16(s[1:])), int(binary.BigEndian.Uint16(s[3:]))
	if h.components > 0 {
		h.quantiser = s[8]
	}
	return nil
}

func (h *jpegHeader) readHuffman(s []byte) error {
	for len(s) > 0 {
		if len(s) < 17 {
			return errors.New("a Huffman table of the JPEG codestream is cut off")
		}
		size := 17
		for _, n := range s[1:17] {
			size += int(n)
		}
		if s[0]&0x0F > 3 || s[0]>>4 > 1 || size > 17+256 || size > len(s) {
			return errors.New("a Huffman table of the JPEG codestream is cut off or damaged")
		}
		h.huffman[s[0]>>4][s[0]&0x0F] = s[1:size]
		s = s[size:]
	}
	return nil
}

func (h *jpegHeader) readQuantisers(s []byte) error {
	for len(s) > 0 {
		bytes := 1 + int(s[0]>>4)
		if bytes > 2 || s[0]&0x0F > 3 || len(s) < 1+64*bytes {
			return errors.New("a quantisation table of the JPEG codestream is cut off or damaged")
		}
		q := new([64]int32)
		for i := range q {
			for _, b := range s[1+i*bytes:][:bytes] {
				q[i] = q[i]<<8 | int32(b)
			}
		}
		h.quantisers[s[0]&0x0F] = q
		s = s[1+64*bytes:]
	}
	return nil
}

// readRestart reads the restart interval; JPEG-LS has longer ones (T.87, C.2.5).
func (h *jpegHeader) readRestart(s []byte) error {
	if len(s) < 2 || len(s) > 4 {
		return errors.New("the restart interval of the JPEG codestream has a wrong length")
	}
	h.restart = 0
	for _, b := range s {
		h.restart = h.restart<<8 | uint32(b)
	}
	return nil
}

// readParameters reads the preset parameters of JPEG-LS (T.87, C.2.4.1). Mapping tables are passed
// over: readScan refuses a scan that uses one.
func (h *jpegHeader) readParameters(s []byte) error {
	switch {
	case len(s) == 0:
		return errors.New("the parameters of the JPEG-LS codestream are cut off")
	case s[0] == 2 || s[0] == 3:
		return nil
	case s[0] != 1 || len(s) != 11:
		return fmt.Errorf("the JPEG-LS codestream has parameters of kind %d with %d bytes, "+
			"expected kind 1 with 11", s[0], len(s))
	}
	for i := range h.parameters {
		h.parameters[i] = int(binary.BigEndian.Uint16(s[1+2*i:]))
	}
	return nil
}

func (h *jpegHeader) readScan(s []byte) error {
	if h.sof == 0 {
		return errors.New("the JPEG codestream has a scan before its frame header")
	}
	if len(s) < 1 || len(s) != 4+2*int(s[0]) {
		return errors.New("the scan header of the JPEG codestream has a wrong length")
	}
	if s[0] != 1 {
		return fmt.Errorf("the JPEG codestream has %d components in a scan, expected one sample a "+
			"pixel", s[0])
	}
	h.table, h.tableAC, h.mapping = s[2]>>4, s[2]&0x0F, s[2]
	h.ss, h.se, h.ah, h.al = s[3], s[4], s[5]>>4, s[5]&0x0F
	return nil
}

// check compares the codestream with the DICOM header.
func (h *jpegHeader) check(sof byte, f Frame) error {
	switch {
	case h.sof != sof:
		return fmt.Errorf("the codestream is %s, but the transfer syntax says %s", processes(h.sof),
			processes(sof))
	case h.components != 1:
		return fmt.Errorf("the codestream has %d components, expected one sample a pixel",
			h.components)
	case h.rows != f.Rows || h.columns != f.Columns:
		return fmt.Errorf("the codestream has %d rows and %d columns, but Rows is %d and "+
			"Columns is %d", h.rows, h.columns, f.Rows, f.Columns)
	case h.precision < 2 || h.precision > 16:
		return fmt.Errorf("the codestream has samples of %d bits, expected 2 to 16", h.precision)
	case f.BitsAllocated > 16:
		return fmt.Errorf("BitsAllocated: found %d, expected 8 or 16 with JPEG", f.BitsAllocated)
	case h.precision > f.BitsAllocated:
		return fmt.Errorf("the codestream has samples of %d bits, but BitsAllocated is %d",
			h.precision, f.BitsAllocated)
	}
	return nil
}

// processes names the coding process of a frame header.
func processes(sof byte) string {
	switch sof {
	case markerSOF0:
		return "baseline JPEG"
	case 0xC1:
		return "extended JPEG"
	case 0xC2:
		return "progressive JPEG"
	case markerSOF3:
		return "lossless JPEG"
	case markerSOFLS:
		return "JPEG-LS"
	}
	return fmt.Sprintf("a JPEG of another process (marker %#02x)", sof)
}

// endOfScan looks at what follows the last pixel.
func endOfScan(b []byte) error {
	for len(b) > 1 && b[0] == 0xFF && b[1] == 0xFF {
		b = b[1:]
	}
	if len(b) > 1 && b[0] == 0xFF && b[1] == markerSOS {
		return errors.New("the codestream has a second scan, expected one")
	}
	return nil // an end without its marker is no loss
}

// nextRestart skips the n-th restart marker at the beginning of b.
func nextRestart(b []byte, n int) ([]byte, error) {
	for len(b) > 1 && b[0] == 0xFF && b[1] == 0xFF {
		b = b[1:]
	}
	if len(b) < 2 || b[0] != 0xFF || b[1] != markerRST0+byte(n%8) {
		return nil, errors.New("expected a restart marker")
	}
	return b[2:], nil
}

// storeRow writes a row of samples as little-endian cells of 8 or 16 bits, whichever dst has room
// for.
func storeRow(dst []byte, row []uint16, shift uint) {
	switch {
	case len(dst) == len(row):
		for i, v := range row {
			dst[i] = byte(v << shift)
		}
	case shift == 0 && bits.LittleEndian:
		copy(dst, bits.Bytes(row))
	default:
		for i, v := range row {
			binary.LittleEndian.PutUint16(dst[2*i:], v<<shift)
		}
	}
}
