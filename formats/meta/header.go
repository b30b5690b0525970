// Package meta reads and writes MetaImage files, .mha and .mhd with a data file, as ITK does: pixels
// of any integer type, float32 or float64, of either byte order, plain, compressed or as text, in the
// file or in others. Vector pixels are refused.
package meta

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/volume"
)

// maxHeader is the most that a header may take, in bytes; ITK's has some hundred.
const maxHeader = 1 << 20

// Header holds what the head of a file says.
type Header struct {
	Size      []int  // of the axes x, y, …: 2 to 4
	Type      string // of the pixels, as numpy calls it: "int16"
	BigEndian bool
	Spacing   []float64 // as the file has it: a negative one turns the axis round
	Origin    []float64 // LPS
	Matrix    []float64 // row-major; row i is the direction of axis i, LPS

	compressed bool
	text       bool     // the pixels are numbers in text
	skip       int64    // HeaderSize: offset of the pixels; -1: at the end of the file, 0: none
	files      []string // that hold the pixels; none: this one
	bytes      int      // of the header, with its last line's end
	more       bool     // there are fields that are not read
}

// The types of pixels that are read. MET_LONG has four bytes everywhere.
// Source: MetaIO 2023 (ITK 5.4), metaTypes.h, and itkMetaImageIO.cxx for those that are written.
var types = map[string]string{
	"MET_CHAR": "int8", "MET_ASCII_CHAR": "int8", "MET_UCHAR": "uint8",
	"MET_SHORT": "int16", "MET_USHORT": "uint16",
	"MET_INT": "int32", "MET_LONG": "int32", "MET_UINT": "uint32", "MET_ULONG": "uint32",
	"MET_LONG_LONG": "int64", "MET_ULONG_LONG": "uint64",
	"MET_FLOAT": "float32", "MET_DOUBLE": "float64",
}

var written = map[string]string{"int8": "MET_CHAR", "uint8": "MET_UCHAR",
	"int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT", "uint32": "MET_UINT",
	"int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG",
	"float32": "MET_FLOAT", "float64": "MET_DOUBLE"}

// The names of one thing, that which counts first where a file has several.
var (
	originNames  = []string{"Origin", "Offset", "Position"}
	matrixNames  = []string{"TransformMatrix", "Rotation", "Orientation"}
	spacingNames = []string{"ElementSpacing", "ElementSize"}
	orderNames   = []string{"BinaryDataByteOrderMSB", "ElementByteOrderMSB"}
)

// ignored are fields that change nothing, as in ITK.
var ignored = []string{"ObjectType", "ObjectSubType", "CenterOfRotation", "AnatomicalOrientation",
	"DistanceUnits", "ElementMin", "ElementMax", "ElementToIntensityFunctionSlope",
	"ElementToIntensityFunctionOffset", "Modality", "Name", "ID", "ParentID", "Color", "Comment"}

// split gives the field of a line. ITK takes a colon for the sign, too.
func split(line []byte) (key, value string, ok bool) {
	i := bytes.IndexAny(line, "=:")
	if i < 0 {
		return "", "", false
	}
	return strings.TrimSpace(string(line[:i])), strings.TrimSpace(string(line[i+1:])), true
}

// parse reads the header at the beginning of a file; b holds its first maxHeader bytes, or all of a
// shorter file. The field ElementDataFile ends it.
func parse(b []byte) (*Header, error) {
	h := &Header{}
	fields := map[string]string{}
	rest := b
	for {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok || bytes.IndexByte(line, 0) >= 0 {
			if len(fields) == 0 {
				return nil, errors.New("found no line such as NDims = 3, expected a MetaImage header")
			}
			return nil, errors.New("found no ElementDataFile, which ends the header: " +
				"the file is cut off, or not MetaImage")
		}
		rest = after
		key, value, ok := split(line)
		if !ok || key == "" {
			continue
		}
		// ITK needs the number of axes before what has a number for each.
		if _, ok := fields["NDims"]; !ok && (key == "DimSize" ||
			slices.Contains(slices.Concat(originNames, matrixNames, spacingNames), key)) {
			return nil, fmt.Errorf("found %s before NDims, expected NDims first, as ITK does", key)
		}
		fields[key] = value
		if key == "ElementDataFile" {
			h.bytes = len(b) - len(rest)
			return h, h.set(fields, rest)
		}
	}
}

// set fills in h; what it does not know is left out. rest is what follows the header.
func (h *Header) set(fields map[string]string, rest []byte) error {
	take := func(names ...string) (name, value string, ok bool) {
		for _, n := range names {
			if v, found := fields[n]; found && !ok {
				name, value, ok = n, v, true
			}
			delete(fields, n)
		}
		return name, value, ok
	}
	list := func(n int, names []string) ([]float64, error) {
		name, value, ok := take(names...)
		if !ok {
			return nil, nil
		}
		v, err := numbers(value, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return v, nil
	}
	_, value, _ := take("NDims")
	n, err := strconv.Atoi(value)
	if err != nil || n < 2 || n > 4 {
		return fmt.Errorf("NDims: found %q, expected 2, 3 or 4 axes", value)
	}
	if _, value, ok := take("ElementNumberOfChannels"); ok && value != "1" {
		return fmt.Errorf("ElementNumberOfChannels: found %q, expected 1: store one channel per file",
			value)
	}
	_, value, _ = take("ElementType")
	var ok bool
	if h.Type, ok = types[value]; !ok {
		return fmt.Errorf("ElementType: found %q, expected one of MET_CHAR, MET_UCHAR, MET_SHORT, "+
			"MET_USHORT, MET_INT, MET_UINT, MET_LONG, MET_ULONG, MET_LONG_LONG, MET_ULONG_LONG, "+
			"MET_FLOAT and MET_DOUBLE: convert the pixels first", value)
	}
	_, value, _ = take("DimSize")
	sizes, err := numbers(value, n)
	if err != nil {
		return fmt.Errorf("DimSize: %w", err)
	}
	for _, v := range sizes {
		if v != math.Trunc(v) || v < 1 || v > math.MaxInt32 {
			return fmt.Errorf("DimSize: found %v, expected whole numbers of voxels from 1 to %d",
				sizes, math.MaxInt32)
		}
		h.Size = append(h.Size, int(v))
	}
	if h.Spacing, err = list(n, spacingNames); err != nil {
		return err
	}
	if h.Origin, err = list(n, originNames); err != nil {
		return err
	}
	if h.Matrix, err = list(n*n, matrixNames); err != nil {
		return err
	}
	if h.Spacing == nil {
		h.Spacing = slices.Repeat([]float64{1}, n)
	}
	if h.Origin == nil {
		h.Origin = make([]float64, n)
	}
	if h.Matrix == nil {
		h.Matrix = make([]float64, n*n)
		for i := range n {
			h.Matrix[n*i+i] = 1
		}
	}
	_, value, ok = take("BinaryData")
	h.text = ok && !yes(value)
	_, value, _ = take(orderNames...)
	h.BigEndian = yes(value)
	_, value, _ = take("CompressedData")
	h.compressed = yes(value)
	// Differs: ITK believes CompressedDataSize, and gives other pixels where it is wrong. Here the
	// stream says where it ends.
	take("CompressedDataSize")
	if h.compressed && h.text {
		return errors.New("CompressedData: found compressed text, expected BinaryData = True")
	}
	if _, value, ok := take("HeaderSize"); ok {
		h.skip, err = strconv.ParseInt(value, 10, 64)
		if err != nil || h.skip < -1 || h.skip == -1 && (h.compressed || h.text) {
			return fmt.Errorf("HeaderSize: found %q, expected the offset of the pixels, or -1 for "+
				"uncompressed ones at the end of the file", value)
		}
	}
	_, value, _ = take("ElementDataFile")
	switch value {
	case "LOCAL", "Local", "local":
		if h.skip > 0 && h.skip < int64(h.bytes) {
			return fmt.Errorf("HeaderSize: found %d, which lies in the header of %d bytes, "+
				"expected the offset of the pixels", h.skip, h.bytes)
		}
	case "":
		return errors.New("ElementDataFile: found nothing, expected LOCAL or the name of a file")
	default:
		if h.files, err = h.dataFiles(value, rest); err == nil {
			err = rawdata.Check(h.files)
		}
		if err != nil {
			return fmt.Errorf("ElementDataFile: %w", err)
		}
	}
	for _, name := range ignored {
		delete(fields, name)
	}
	h.more = len(fields) > 0
	return nil
}

// yes is how ITK reads True and False.
func yes(value string) bool {
	return strings.HasPrefix(value, "T") || strings.HasPrefix(value, "t") || strings.HasPrefix(value, "1")
}

// numbers reads n finite numbers; what follows them is left alone, as in ITK.
// Differs: ITK takes what is no number, and all behind it, for 0.
func numbers(value string, n int) ([]float64, error) {
	words := strings.Fields(value)
	if len(words) < n {
		return nil, fmt.Errorf("found %d numbers, expected %d", len(words), n)
	}
	v := make([]float64, n)
	for i := range v {
		var err error
		v[i], err = strconv.ParseFloat(words[i], 64)
		if err != nil || math.IsNaN(v[i]) || math.IsInf(v[i], 0) || strings.ContainsAny(words[i], "xX_") {
			return nil, fmt.Errorf("found %q, expected a finite number", words[i])
		}
	}
	return v, nil
}

// dataFiles gives the names of the data files: LIST and the number of axes of a file, behind which
// names follow, one a line; a pattern with the first and last number and the step between them; or one
// name.
func (h *Header) dataFiles(value string, rest []byte) ([]string, error) {
	n := len(h.Size)
	words := strings.Fields(value)
	if words[0] == "LIST" {
		axes := n - 1
		if len(words) > 1 {
			var err error
			axes, err = strconv.Atoi(strings.TrimRight(words[1], "dD"))
			if err != nil || axes < 1 || axes > n {
				return nil, fmt.Errorf("found %q, expected LIST and 1 to %d axes of a file", value, n)
			}
		}
		want := 1
		for _, size := range h.Size[axes:] {
			want = min(want*size, math.MaxInt32)
		}
		var names []string
		for len(names) < want {
			line, after, ok := bytes.Cut(rest, []byte("\n"))
			name := strings.TrimSpace(string(line))
			if name == "" {
				return nil, fmt.Errorf("found %d names of files behind LIST, expected %d", len(names), want)
			}
			names = append(names, name)
			if rest = after; !ok {
				rest = nil
			}
		}
		return names, nil
	}
	if !strings.Contains(value, "%") {
		return []string{value}, nil
	}
	last := h.Size[n-1]
	k := 1 // words of the name, which may have spaces where all three numbers follow
	if len(words) > 4 {
		k = len(words) - 3
	}
	var numbers []int
	for _, w := range words[k:] {
		v, err := strconv.ParseInt(w, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("found %q, expected a pattern with first and last number and step",
				value)
		}
		numbers = append(numbers, int(v))
	}
	from, step := 1, 1
	if len(numbers) > 0 {
		from = numbers[0]
	}
	if len(numbers) > 1 {
		to := numbers[1]
		if len(numbers) > 2 {
			step = numbers[2]
		} else if last > 1 {
			step = (to - from) / (last - 1)
		}
		// Compat: numbers behind those of the last slice are left out.
		if step == 0 || (to-from)/step < last-1 {
			return nil, fmt.Errorf("found the numbers %d to %d by steps of %d, expected %d for the last "+
				"axis", from, to, step, last)
		}
	}
	return rawdata.Pattern(strings.Join(words[:k], " "), from, step, last)
}

// data says where the pixels lie.
func (h *Header) data() *rawdata.Data {
	d := &rawdata.Data{BigEndian: h.BigEndian, Exact: true, Names: h.files, From: max(0, h.skip)}
	if h.files == nil && h.skip <= 0 {
		d.From = int64(h.bytes)
	}
	switch {
	case h.skip < 0:
		d.Skip = -1
	case h.compressed:
		d.Encoding = rawdata.Deflate
	case h.text:
		d.Encoding = rawdata.Text
	}
	return d
}

// ITK is the geometry as ITK has it. A direction is as long as the file has it.
// Source: ITK 5.4, itkMetaImageIO.cxx and itkImageFileReader.hxx; SimpleITK 2.5 in the tests.
func (h *Header) ITK() (*volume.ITK, error) {
	n := len(h.Size)
	g := &volume.ITK{Spacing: slices.Clone(h.Spacing), Origin: slices.Clone(h.Origin),
		Direction: make([]float64, n*n)}
	for axis := range n {
		sign := 1.0
		switch {
		case g.Spacing[axis] == 0:
			return nil, fmt.Errorf("ElementSpacing: found %v, expected distances other than 0",
				h.Spacing)
		case g.Spacing[axis] < 0:
			sign, g.Spacing[axis] = -1, -g.Spacing[axis]
		}
		for row := range n {
			v := h.Matrix[n*axis+row]
			if sign < 0 {
				v = -v
			}
			g.Direction[n*row+axis] = v
		}
	}
	if g.Determinant() == 0 {
		return nil, fmt.Errorf("TransformMatrix: found %v, expected linearly independent axes",
			h.Matrix)
	}
	return g, nil
}
