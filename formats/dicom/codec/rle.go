package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const rleHeader = 64 // bytes: the number of segments, then 15 offsets

// rleSegments returns the byte planes of a frame, the most significant first (PS3.5, G.3 to G.5).
func rleSegments(data []byte, f Frame) ([][]byte, error) {
	if len(data) < rleHeader {
		return nil, errors.New("the RLE data are shorter than their header of 64 bytes")
	}
	planes := f.BitsAllocated / 8
	if n := binary.LittleEndian.Uint32(data); n != uint32(planes) {
		return nil, fmt.Errorf("the RLE data have %d segments, expected %d, one for each byte of a "+
			"pixel of one sample with %d bits allocated", n, planes, f.BitsAllocated)
	}
	segments := make([][]byte, planes)
	end := len(data)
	for i := planes - 1; i >= 0; i-- {
		begin := int64(binary.LittleEndian.Uint32(data[4+4*i:]))
		if begin < rleHeader || begin > int64(end) {
			return nil, fmt.Errorf("RLE segment %d begins at byte %d, expected from %d to %d", i+1,
				begin, rleHeader, end)
		}
		segments[i] = data[begin:end]
		end = int(begin)
	}
	return segments, nil
}

func checkRLE(data []byte, f Frame) error {
	segments, err := rleSegments(data, f)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if int64(len(s))*64 < int64(f.Rows)*int64(f.Columns) { // 2 bytes give 128 at most
			return errShort
		}
	}
	return nil
}

func decodeRLE(dst, data []byte, f Frame) error {
	segments, err := rleSegments(data, f)
	if err != nil {
		return err
	}
	for i, s := range segments {
		plane := len(segments) - 1 - i // little endian
		n, more := unpack(dst[plane:], len(segments), s)
		switch {
		case more:
			return fmt.Errorf("RLE segment %d has more data than pixels", i+1)
		case n < f.Rows*f.Columns:
			return fmt.Errorf("RLE segment %d is cut off in row %d of %d", i+1, n/f.Columns+1,
				f.Rows)
		}
	}
	return nil
}

// unpack expands a PackBits segment to every stride-th byte of dst. It returns how many it wrote,
// and whether there were more. Zeros and codes for nothing at the end are padding: a segment does
// not say how long it is.
func unpack(dst []byte, stride int, src []byte) (n int, more bool) {
	total := (len(dst) + stride - 1) / stride
	for n < total && len(src) >= 2 {
		code := int(int8(src[0]))
		at := n * stride
		switch {
		case code >= 0:
			literal := src[1:]
			if code+1 > len(literal) {
				return n, false
			}
			if n+code+1 > total {
				return n, true
			}
			literal = literal[:code+1]
			src = src[code+2:]
			n += len(literal)
			if stride == 1 {
				copy(dst[at:], literal)
				continue
			}
			for _, b := range literal {
				dst[at] = b
				at += stride
			}
		case code == -128: // nothing
			src = src[1:]
		default:
			n += 1 - code
			if n > total {
				return n, true
			}
			for b, end := src[1], n*stride; at < end && at < len(dst); at += stride {
				dst[at] = b
			}
			src = src[2:]
		}
	}
	return n, n == total && slices.ContainsFunc(src,
		func(b byte) bool { return b != 0 && b != 0x80 })
}
