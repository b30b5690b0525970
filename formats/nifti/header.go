// Package nifti reads and writes single-file NIfTI-1 and NIfTI-2 images, .nii and .nii.gz, of
// either byte order, with pixels of any integer type, float32 or float64. Pixels are kept as
// stored; Image applies the file's scaling and returns the geometry that ITK would. Complex and
// colour pixels, .hdr/.img pairs and Analyze files are refused.
package nifti

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/volume"
)

const (
	size1, offset1 = 348, 352 // NIfTI-1: header size; pixel offset without extensions
	size2, offset2 = 540, 544 // NIfTI-2
)

// Header holds the fields of a NIfTI header that describe the pixels and their geometry. Fields
// that NIfTI-1 stores as float32 are widened to float64 without change.
type Header struct {
	Version   int  // 1 or 2
	BigEndian bool // byte order of header and pixels
	// sizes of the axes x, y, z, t, …, as many as in the file, each at least 1
	Dim  []int
	Type string // numpy's name of the stored type: "int16"
	// [0] is the handedness of the qform (qfac); [1], … are the spacings along x, y, z, t
	PixDim    [8]float64
	Offset    int64   // byte offset of the pixels in the file
	Slope     float64 // a pixel's value is stored·Slope + Inter; Slope 0 stands for 1
	Inter     float64
	Units     uint8 // bits 0–2: unit of space, bits 3–5: unit of time
	TOffset   float64
	QFormCode int
	SFormCode int
	Quatern   [3]float64    // b, c, d
	QOffset   [3]float64    // x, y, z
	SRow      [3][4]float64 // the sform: voxel indices x, y, z, 1 to mm, RAS
	Intent    int
	Descrip   string
	regular   byte // 'r' as written by ITK, or 0 as by nibabel
}

// Type codes of the format: the supported ones, and others that are only named in error messages.
var (
	typeNames = map[int16]string{2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64",
		256: "int8", 512: "uint16", 768: "uint32", 1024: "int64", 1280: "uint64"}
	refused = map[int16]string{1: "one bit a pixel", 32: "complex64", 128: "RGB colour",
		1536: "float128", 1792: "complex128", 2048: "complex256", 2304: "RGBA colour"}
)

// pixelSize returns the number of bytes per pixel of the named type.
func pixelSize(name string) int { return volume.MakePixels(name, 0).Size() }

// parseHeader reads the header at the beginning of a file; b holds its first 540 bytes, or all of a
// shorter file.
func parseHeader(b []byte) (*Header, error) {
	if len(b) < size1 {
		return nil, fmt.Errorf("found %d bytes, expected a header of %d or %d bytes: the file is "+
			"cut off or not NIfTI", len(b), size1, size2)
	}
	h := &Header{Version: 1}
	var order binary.ByteOrder = binary.LittleEndian
	switch first := binary.LittleEndian.Uint32(b); {
	case first == size1:
	case first == size2:
		h.Version = 2
	case binary.BigEndian.Uint32(b) == size1:
		h.BigEndian, order = true, binary.BigEndian
	case binary.BigEndian.Uint32(b) == size2:
		h.Version, h.BigEndian, order = 2, true, binary.BigEndian
	default:
		return nil, fmt.Errorf("the file begins with % x, expected the header size %d or %d: not "+
			"NIfTI", b[:4], size1, size2)
	}
	at, single, pair := size1-4, "n+1\x00", "ni1\x00"
	if h.Version == 2 {
		if len(b) < size2 {
			return nil, fmt.Errorf("found %d bytes, expected a header of %d: the file is cut off",
				len(b), size2)
		}
		at, single, pair = 4, "n+2\x00", "ni2\x00"
	}
	switch magic := string(b[at : at+4]); magic {
	case single:
	case pair:
		return nil, errors.New("found one half of a .hdr/.img pair, expected an image in one " +
			"file: convert it to .nii.gz, for example with SimpleITK or nibabel")
	default:
		return nil, fmt.Errorf("found the magic %q at byte %d, expected %q: an Analyze file, or "+
			"not NIfTI", magic, at, single)
	}
	r := fields{b, order}
	var datatype int16
	var dims [8]int64
	if h.Version == 1 {
		for i := range dims {
			dims[i] = int64(r.i16(40 + 2*i))
		}
		datatype = r.i16(70)
		for i := range h.PixDim {
			h.PixDim[i] = r.f32(76 + 4*i)
		}
		offset := r.f32(108)
		if offset != offset || math.Abs(offset) > 1<<53 {
			return nil, fmt.Errorf("vox_offset: found %v, expected the byte offset of the pixels",
				offset)
		}
		h.Offset = int64(offset)
		h.Slope, h.Inter = r.f32(112), r.f32(116)
		h.Units = b[123]
		h.TOffset = r.f32(136)
		h.Descrip = text(b[148:228])
		h.QFormCode, h.SFormCode = int(r.i16(252)), int(r.i16(254))
		h.Intent = int(r.i16(68))
		h.regular = b[38]
		for i := range 3 {
			h.Quatern[i], h.QOffset[i] = r.f32(256+4*i), r.f32(268+4*i)
			for j := range 4 {
				h.SRow[i][j] = r.f32(280 + 16*i + 4*j)
			}
		}
	} else {
		datatype = r.i16(12)
		for i := range dims {
			dims[i] = r.i64(16 + 8*i)
		}
		for i := range h.PixDim {
			h.PixDim[i] = r.f64(104 + 8*i)
		}
		h.Offset = r.i64(168)
		h.Slope, h.Inter = r.f64(176), r.f64(184)
		h.TOffset = r.f64(216)
		h.Descrip = text(b[240:320])
		h.QFormCode, h.SFormCode = int(r.i32(344)), int(r.i32(348))
		for i := range 3 {
			h.Quatern[i], h.QOffset[i] = r.f64(352+8*i), r.f64(376+8*i)
			for j := range 4 {
				h.SRow[i][j] = r.f64(400 + 32*i + 8*j)
			}
		}
		h.Units = uint8(r.i32(500))
		h.Intent = int(r.i32(504))
	}
	return h, h.check(dims, datatype)
}

func (h *Header) check(dims [8]int64, datatype int16) error {
	if dims[0] < 1 || dims[0] > 7 {
		return fmt.Errorf("dim[0]: found %d axes, expected 1 to 7", dims[0])
	}
	for i, n := range dims[1 : dims[0]+1] {
		// Differs: ITK reads an axis with zero or a negative number of voxels as 1.
		if n < 1 {
			return fmt.Errorf("dim[%d]: found %d voxels, expected 1 or more", i+1, n)
		}
		if n > math.MaxInt32 {
			return fmt.Errorf("dim[%d]: found %d voxels, expected at most %d", i+1, n,
				math.MaxInt32)
		}
		h.Dim = append(h.Dim, int(n))
	}
	var ok bool
	if h.Type, ok = typeNames[datatype]; !ok {
		name := refused[datatype]
		if name == "" {
			name = "unknown"
		}
		return fmt.Errorf("datatype: found %d (%s), expected one of %s: convert the pixels first",
			datatype, name, volume.TypeNames("and"))
	}
	// Compat: ITK (nifti_clib) reads pixels from the end of the header if the offset lies inside
	// it.
	h.Offset = max(h.Offset, int64(h.size()))
	return nil
}

func (h *Header) size() int {
	if h.Version == 2 {
		return size2
	}
	return size1
}

// bytes returns the size of the pixels in bytes, or an error if no file could hold them.
func (h *Header) bytes() (int64, error) {
	n := int64(pixelSize(h.Type))
	for _, d := range h.Dim {
		if n > math.MaxInt64/4/int64(d) {
			return 0, fmt.Errorf("found axes of %v voxels, more than any file can hold", h.Dim)
		}
		n *= int64(d)
	}
	return n, nil
}

// encode returns the encoded header, followed by the four bytes that mark the absence of
// extensions.
func (h *Header) encode() ([]byte, error) {
	var order binary.ByteOrder = binary.LittleEndian
	if h.BigEndian {
		order = binary.BigEndian
	}
	var datatype int16
	for code, name := range typeNames {
		if name == h.Type {
			datatype = code
		}
	}
	if datatype == 0 {
		return nil, fmt.Errorf("pixels of type %q: expected one of %s", h.Type,
			volume.TypeNames("and"))
	}
	if len(h.Dim) < 1 || len(h.Dim) > 7 {
		return nil, fmt.Errorf("found %d axes, expected 1 to 7", len(h.Dim))
	}
	dims := [8]int64{int64(len(h.Dim)), 1, 1, 1, 1, 1, 1, 1}
	for i, d := range h.Dim {
		if d < 1 || h.Version == 1 && d > math.MaxInt16 {
			return nil, fmt.Errorf("axis %d has %d voxels, NIfTI-1 holds 1 to %d", i, d,
				math.MaxInt16)
		}
		dims[i+1] = int64(d)
	}
	bitpix := int16(8 * pixelSize(h.Type))
	if h.Version == 1 {
		w := fields{make([]byte, offset1), order}
		order.PutUint32(w.b, size1)
		w.b[38] = h.regular
		for i, d := range dims {
			order.PutUint16(w.b[40+2*i:], uint16(d))
		}
		order.PutUint16(w.b[68:], uint16(h.Intent))
		order.PutUint16(w.b[70:], uint16(datatype))
		order.PutUint16(w.b[72:], uint16(bitpix))
		for i, v := range h.PixDim {
			w.putF32(76+4*i, v)
		}
		w.putF32(108, offset1)
		w.putF32(112, h.Slope)
		w.putF32(116, h.Inter)
		w.b[123] = h.Units
		w.putF32(136, h.TOffset)
		copy(w.b[148:227], h.Descrip)
		order.PutUint16(w.b[252:], uint16(h.QFormCode))
		order.PutUint16(w.b[254:], uint16(h.SFormCode))
		for i := range 3 {
			w.putF32(256+4*i, h.Quatern[i])
			w.putF32(268+4*i, h.QOffset[i])
			for j := range 4 {
				w.putF32(280+16*i+4*j, h.SRow[i][j])
			}
		}
		copy(w.b[344:], "n+1\x00")
		return w.b, nil
	}
	w := fields{make([]byte, offset2), order}
	order.PutUint32(w.b, size2)
	copy(w.b[4:], "n+2\x00\r\n\x1a\n")
	order.PutUint16(w.b[12:], uint16(datatype))
	order.PutUint16(w.b[14:], uint16(bitpix))
	for i, d := range dims {
		order.PutUint64(w.b[16+8*i:], uint64(d))
	}
	for i, v := range h.PixDim {
		w.putF64(104+8*i, v)
	}
	order.PutUint64(w.b[168:], offset2)
	w.putF64(176, h.Slope)
	w.putF64(184, h.Inter)
	w.putF64(216, h.TOffset)
	copy(w.b[240:319], h.Descrip)
	order.PutUint32(w.b[344:], uint32(h.QFormCode))
	order.PutUint32(w.b[348:], uint32(h.SFormCode))
	for i := range 3 {
		w.putF64(352+8*i, h.Quatern[i])
		w.putF64(376+8*i, h.QOffset[i])
		for j := range 4 {
			w.putF64(400+32*i+8*j, h.SRow[i][j])
		}
	}
	order.PutUint32(w.b[500:], uint32(h.Units))
	order.PutUint32(w.b[504:], uint32(h.Intent))
	return w.b, nil
}

// fields decodes header fields at byte offsets.
type fields struct {
	b     []byte
	order binary.ByteOrder
}

func (f fields) i16(at int) int16   { return int16(f.order.Uint16(f.b[at:])) }
func (f fields) i32(at int) int32   { return int32(f.order.Uint32(f.b[at:])) }
func (f fields) i64(at int) int64   { return int64(f.order.Uint64(f.b[at:])) }
func (f fields) f64(at int) float64 { return math.Float64frombits(f.order.Uint64(f.b[at:])) }
func (f fields) f32(at int) float64 {
	return float64(math.Float32frombits(f.order.Uint32(f.b[at:])))
}
func (f fields) putF64(at int, v float64) { f.order.PutUint64(f.b[at:], math.Float64bits(v)) }
func (f fields) putF32(at int, v float64) {
	f.order.PutUint32(f.b[at:], math.Float32bits(float32(v)))
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
