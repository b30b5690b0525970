// Package nrrd reads and writes NRRD files, .nrrd and .nhdr with data files, as ITK does: versions 1
// to 5, pixels of any integer type, float32 or float64, of either byte order, raw, compressed or as
// text. Files with several values per pixel are refused: nnU-Net takes one channel a file.
package nrrd

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/rawdata"
	"github.com/lntorch/lntorch/volume"
)

const (
	maxHeader = 1 << 20 // bytes of a header; key/value pairs of segmentations take some ten thousand
	maxAxes   = 16      // NRRD_DIM_MAX
	maxSpace  = 8       // NRRD_SPACE_DIM_MAX
)

// Header holds what the head of a file says.
type Header struct {
	Version   int    // 1 to 5
	Size      []int  // of the axes x, y, …: 2 to 4
	Type      string // of the pixels, as numpy calls it: "int16"
	BigEndian bool
	Encoding  string // raw, gzip, ascii, hex or bzip2

	axes     []axis // as they are in the file, with those that are left out of Size
	space    space
	spaceDim int       // number of axes of the space, 0 for none
	origin   []float64 // of spaceDim; nil for none
	sizes    []int     // of all axes
	lines    int64     // line skip
	skip     int64     // byte skip
	names    []string  // files of the pixels; none: this one
	parts    int       // number of axes of a part of the pixels where several files are named
	bytes    int       // of the header, with the empty line behind it
	more     bool      // there are pairs of keys and values, or fields that are not kept
}

// axis is what the fields say of an axis. NaN and nil stand for nothing.
type axis struct {
	spacing, min, max float64
	node              bool // centers: the first sample lies at min
	kind              string
	direction         []float64 // of the length spaceDim
}

// space is a patient's space: how its axes turn to those of LPS.
type space struct {
	name string
	dim  int
	sign [2]float64 // of x and y
}

// The names of the enumerations, without regard to case.
// Source: NrrdIO (ITK 5.4), enumsNrrd.c. Type block is not read.
var (
	types = synonyms(
		"int8", "signed char", "int8_t",
		"uint8", "uchar", "unsigned char", "uint8_t",
		"int16", "short", "short int", "signed short", "signed short int", "int16_t",
		"uint16", "ushort", "unsigned short", "unsigned short int", "uint16_t",
		"int32", "int", "signed int", "int32_t",
		"uint32", "uint", "unsigned int", "uint32_t",
		"int64", "longlong", "long long", "long long int", "signed long long",
		"signed long long int", "int64_t",
		"uint64", "ulonglong", "unsigned long long", "unsigned long long int", "uint64_t",
		"float32", "float", "float64", "double")
	encodings = map[string]string{"raw": "raw", "txt": "ascii", "text": "ascii", "ascii": "ascii",
		"hex": "hex", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
	spaces     = spaceNames()
	fieldNames = allFields()
)

// synonyms maps names to the type that numpy has a name for, which begins its group.
func synonyms(names ...string) map[string]string {
	all, of := map[string]string{}, ""
	for _, name := range names {
		if volume.MakePixels(name, 0) != nil {
			of = name
			if name == "float32" || name == "float64" {
				continue // only float and double
			}
		}
		all[name] = of
	}
	return all
}

// spaceNames are the spaces by all their names, in lower case.
// Differs: ITK before 2025 (SimpleITK 2.5.2) turns x of left-anterior-superior, not y, and so puts the
// image in a wrong place; ITK's pull request 5224 mended it.
func spaceNames() map[string]space {
	same := [2]float64{1, 1}
	spaces := map[string]space{}
	for _, s := range []space{{"right-anterior-superior", 3, [2]float64{-1, -1}},
		{"left-anterior-superior", 3, [2]float64{1, -1}}, {"left-posterior-superior", 3, same}} {
		initials := ""
		for word := range strings.SplitSeq(s.name, "-") {
			initials += word[:1]
		}
		// With time they stay as they are.
		timed := space{s.name + "-time", 4, same}
		spaces[initials], spaces[s.name] = s, s
		spaces[initials+"t"], spaces[timed.name] = timed, timed
	}
	for _, name := range []string{"scanner-xyz", "3d-right-handed", "3d-left-handed"} {
		spaces[name] = space{name, 3, same}
		spaces[name+"-time"] = space{name + "-time", 4, same}
	}
	for name, s := range maps.Clone(spaces) {
		if !strings.HasPrefix(name, "scanner") {
			spaces[strings.ReplaceAll(name, "-", " ")] = s
			spaces[strings.ReplaceAll(name, "-", "")] = s
		}
	}
	spaces["scanner-xyzt"] = spaces["scanner-xyz-time"]
	return spaces
}

// allFields are the fields by all their names, in lower case.
func allFields() map[string]string {
	all := map[string]string{"centers": "centerings"}
	for _, name := range slices.Concat(ignored, []string{"type", "dimension", "space", "sizes",
		"spacings", "kinds", "endian", "encoding", "centerings", "space dimension", "space directions",
		"space origin", "line skip", "byte skip", "data file", "axis mins", "axis maxs"}) {
		all[name], all[strings.ReplaceAll(name, " ", "")] = name, name
	}
	return all
}

// Fields that change nothing, as in ITK; those from content on say something that is not kept.
var ignored = []string{"number", "block size", "min", "max", "old min", "old max", "space units", "units",
	"content", "thicknesses", "labels", "sample units", "measurement frame"}

// The kinds of an axis along which space or time runs.
var domains = []string{"domain", "space", "time", "???", "none", ""}

// ranges are the kinds of an axis of values.
// Source: NrrdIO (ITK 5.4), enumsNrrd.c.
var ranges = strings.Fields("list point vector contravariant-vector covariant-vector normal stub scalar " +
	"complex 2-vector 3-color rgb-color rgbcolor rgb hsv-color hsvcolor hsv xyz-color 4-color " +
	"rgba-color rgbacolor rgba 3-vector 3-gradient 3-normal 4-vector quaternion " +
	"2d-symmetric-matrix 2d-sym-matrix 2d-symmetric-tensor 2d-sym-tensor " +
	"2d-masked-symmetric-matrix 2d-masked-sym-matrix 2d-masked-symmetric-tensor 2d-masked-sym-tensor " +
	"2d-matrix 2d-tensor 2d-masked-matrix 2d-masked-tensor " +
	"3d-symmetric-matrix 3d-sym-matrix 3d-symmetric-tensor 3d-sym-tensor " +
	"3d-masked-symmetric-matrix 3d-masked-sym-matrix 3d-masked-symmetric-tensor 3d-masked-sym-tensor " +
	"3d-matrix 3d-tensor 3d-masked-matrix 3d-masked-tensor")

// cutLine returns the first line of b, and what follows it. A line ends with \n, \r\n or \r.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexAny(b, "\r\n")
	if i < 0 {
		return b, nil, false
	}
	end := i + 1
	if b[i] == '\r' && end < len(b) && b[end] == '\n' {
		end++
	}
	return b[:i], b[end:], true
}

// version returns the version of a file that begins with this line, 0 if it is none.
func version(line []byte) int {
	if string(line) == "NRRD00.01" {
		return 1
	}
	if n, ok := bytes.CutPrefix(line, []byte("NRRD000")); ok && len(n) == 1 && n[0] >= '1' && n[0] <= '5' {
		return int(n[0] - '0')
	}
	return 0
}

// parse reads the header at the beginning of a file; b holds its first maxHeader bytes, or all of a
// shorter file. Errors quote nothing that a user wrote for people: no comment, key, value or content.
func parse(b []byte) (*Header, error) {
	line, rest, _ := cutLine(b)
	h := &Header{Version: version(line)}
	if h.Version == 0 {
		return nil, errors.New("found no line NRRD0001 to NRRD0005 at the beginning, expected a NRRD file")
	}
	seen := map[string]bool{}
	for number := 2; ; number++ {
		line, after, ok := cutLine(rest)
		rest = after
		switch {
		case !ok && len(b) == maxHeader:
			return nil, fmt.Errorf("found no empty line, which ends the header, in the first %d bytes",
				maxHeader)
		case !ok && len(line) == 0 && h.names == nil:
			return nil, errors.New("found no empty line, which ends the header, and no data file: " +
				"the file is cut off")
		case len(line) == 0:
			h.bytes = len(b) - len(rest)
			return h, h.finish(seen)
		case line[0] == '#':
			continue
		}
		name, value, _ := strings.Cut(string(line), ": ")
		field, known := fieldNames[strings.ToLower(name)]
		if known && strings.HasPrefix(string(line[len(name):]), ": ") {
			if seen[field] {
				return nil, fmt.Errorf("%s: found twice, expected once", field)
			}
			seen[field] = true
			// Differs: ITK takes spaces behind a word for part of it.
			if err := h.set(field, strings.Trim(value, " \t"), seen); err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
			if h.parts > 0 && h.names == nil {
				if err := h.list(rest); err != nil {
					return nil, fmt.Errorf("%s: %w", field, err)
				}
				return h, h.finish(seen)
			}
			continue
		}
		if !strings.Contains(string(line), ":=") {
			return nil, fmt.Errorf("line %d is no comment, no field of NRRD and no key:=value, "+
				"expected one of these, or an empty line before the pixels", number)
		}
		h.more = true
	}
}

// set takes a field.
func (h *Header) set(field, value string, seen map[string]bool) (err error) {
	each := func(set func(*axis, float64)) error {
		v, err := h.perAxis(value)
		for i := range v {
			set(&h.axes[i], v[i])
		}
		return err
	}
	switch field {
	case "type":
		var ok bool
		if h.Type, ok = types[strings.ToLower(value)]; !ok {
			return fmt.Errorf("found %.40q, expected an integer type, float or double", value)
		}
	case "encoding":
		var ok bool
		if h.Encoding, ok = encodings[strings.ToLower(value)]; !ok {
			return fmt.Errorf("found %.40q, expected raw, gzip, ascii, hex or bzip2", value)
		}
	case "endian":
		switch strings.ToLower(value) {
		case "little":
		case "big":
			h.BigEndian = true
		default:
			return fmt.Errorf("found %.40q, expected little or big", value)
		}
	case "dimension":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxAxes {
			return fmt.Errorf("found %.40q, expected 1 to %d axes", value, maxAxes)
		}
		nan := math.NaN()
		h.axes = slices.Repeat([]axis{{spacing: nan, min: nan, max: nan}}, n)
	case "sizes":
		v, err := h.perAxis(value)
		for _, n := range v {
			if n != math.Trunc(n) || !(n >= 1 && n <= math.MaxInt32) {
				return fmt.Errorf("found %v, expected whole numbers of voxels from 1 to %d", v,
					math.MaxInt32)
			}
			h.sizes = append(h.sizes, int(n))
		}
		return err
	case "spacings":
		return each(func(a *axis, v float64) { a.spacing = v })
	case "axis mins":
		return each(func(a *axis, v float64) { a.min = v })
	case "axis maxs":
		return each(func(a *axis, v float64) { a.max = v })
	case "centerings", "kinds":
		words, err := h.words(value)
		for i, w := range words {
			w = strings.ToLower(w)
			switch {
			case field == "kinds" && (slices.Contains(domains, w) || slices.Contains(ranges, w)):
				h.axes[i].kind = w
			case field == "kinds" || !slices.Contains([]string{"node", "cell", "none", "???"}, w):
				return fmt.Errorf("found %.40q, expected one of NRRD's, ??? or none", words[i])
			default:
				h.axes[i].node = w == "node"
			}
		}
		return err
	case "space":
		if seen["space dimension"] {
			return errors.New("found with a space dimension, expected one of both")
		}
		s, ok := spaces[strings.ToLower(value)]
		if !ok {
			return fmt.Errorf("found %.40q, expected one of NRRD's, such as left-posterior-superior", value)
		}
		h.space, h.spaceDim = s, s.dim
	case "space dimension":
		if seen["space"] {
			return errors.New("found with a space, expected one of both")
		}
		h.spaceDim, err = strconv.Atoi(value)
		if err != nil || h.spaceDim < 0 || h.spaceDim > maxSpace {
			return fmt.Errorf("found %.40q, expected 1 to %d axes", value, maxSpace)
		}
	case "space directions":
		if h.axes == nil || h.spaceDim == 0 {
			return errors.New("found before dimension and space, expected these first, as ITK does")
		}
		for i := range h.axes {
			if h.axes[i].direction, value, err = h.vector(value); err != nil {
				return err
			}
		}
		if value != "" {
			return fmt.Errorf("found more than %d vectors, expected one for each axis", len(h.axes))
		}
	case "space origin":
		if h.spaceDim == 0 {
			return errors.New("found before space, expected space first, as ITK does")
		}
		h.origin, _, err = h.vector(value)
		return err
	case "line skip", "byte skip":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 && field == "line skip" {
			return fmt.Errorf("found %.40q, expected a whole number", value)
		}
		if field == "line skip" {
			h.lines = n
		} else {
			h.skip = n
		}
	case "data file":
		return h.dataFiles(value)
	default:
		h.more = h.more || slices.Index(ignored, field) >= slices.Index(ignored, "content")
	}
	return nil
}

// words are those of a field that has one for each axis.
func (h *Header) words(value string) ([]string, error) {
	words := strings.FieldsFunc(value, blank)
	if h.axes == nil {
		return nil, errors.New("found before dimension, expected dimension first, as ITK does")
	}
	if len(words) != len(h.axes) {
		return nil, fmt.Errorf("found %d words, expected one for each of %d axes", len(words), len(h.axes))
	}
	return words, nil
}

// perAxis reads a number for each axis; NaN is one.
func (h *Header) perAxis(value string) ([]float64, error) {
	words, err := h.words(value)
	if err != nil {
		return nil, err
	}
	v := make([]float64, len(words))
	for i, w := range words {
		if v[i], err = number(w); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// number reads a number or NaN.
// Differs: ITK takes the part of a word that is a number.
func number(word string) (float64, error) {
	v, err := strconv.ParseFloat(word, 64)
	if err != nil || math.IsInf(v, 0) || strings.ContainsAny(word, "xX_") {
		return 0, fmt.Errorf("found %.40q, expected a finite number", word)
	}
	return v, nil
}

// vector reads the first vector, nil for none or NaN, and returns what follows it.
func (h *Header) vector(value string) (v []float64, rest string, err error) {
	value = strings.TrimLeft(value, " \t")
	if after, ok := strings.CutPrefix(value, "none"); ok &&
		(after == "" || after[0] == ' ' || after[0] == '\t') {
		return nil, strings.TrimLeft(after, " \t"), nil
	}
	inside, rest, ok := strings.Cut(value, ")")
	inside, open := strings.CutPrefix(inside, "(")
	if !ok || !open {
		return nil, "", errors.New("found no vector, expected numbers in parentheses, or none")
	}
	words := strings.Split(inside, ",")
	if len(words) != h.spaceDim {
		return nil, "", fmt.Errorf("found a vector of %d numbers, expected %d for the space", len(words),
			h.spaceDim)
	}
	missing := 0
	for _, w := range words {
		n, err := number(strings.Trim(w, " \t"))
		if err != nil {
			return nil, "", err
		}
		if math.IsNaN(n) {
			missing++
		}
		v = append(v, n)
	}
	if missing > 0 {
		v = nil
		if missing < h.spaceDim {
			return nil, "", errors.New("found a vector with some numbers NaN, expected all or none")
		}
	}
	return v, strings.TrimLeft(rest, " \t"), nil
}

// dataFiles takes the field data file: a name; LIST, behind which names follow; or a pattern with the
// first and last number and the step between them. Behind the latter two may stand the number of axes
// of a part, else it is one less than the image's.
func (h *Header) dataFiles(value string) error {
	words := strings.FieldsFunc(value, blank)
	switch {
	case len(words) == 0:
		return errors.New("found nothing, expected the name of a file")
	case strings.HasPrefix(value, "LIST"):
		words = strings.FieldsFunc(strings.TrimPrefix(value, "LIST"), blank)
		return h.several(words)
	case !strings.Contains(words[0], "%") || len(words) < 4:
		h.names = []string{value}
		return rawdata.Check(h.names)
	}
	if err := h.several(words[4:]); err != nil {
		return err
	}
	var numbers [3]int
	for i := range numbers {
		n, err := strconv.ParseInt(words[1+i], 10, 32)
		if err != nil {
			return fmt.Errorf("found %.40q, expected a whole number", words[1+i])
		}
		numbers[i] = int(n)
	}
	first, last, step := numbers[0], numbers[1], numbers[2]
	if step == 0 || (last-first)/step < 0 || (last-first)*step < 0 {
		return fmt.Errorf("found the numbers %d to %d by steps of %d, expected a sequence", first, last,
			step)
	}
	names, err := rawdata.Pattern(words[0], first, step, (last-first)/step+1)
	if err != nil {
		return err
	}
	h.names = names
	return h.fit()
}

func blank(r rune) bool { return r == ' ' || r == '\t' }

// several takes the number of axes of a part.
func (h *Header) several(words []string) error {
	if h.sizes == nil {
		return errors.New("found several files before sizes, expected sizes first, as ITK does")
	}
	h.parts = len(h.axes) - 1
	if len(words) > 0 {
		h.parts, _ = strconv.Atoi(words[0])
	}
	if h.parts < 1 || h.parts > len(h.axes) || len(words) > 1 {
		return fmt.Errorf("found files of %.40q axes, expected a number from 1 to %d",
			strings.Join(words, " "), len(h.axes))
	}
	return nil
}

// list takes the names behind data file: LIST, one a line, up to an empty line or the end.
func (h *Header) list(rest []byte) error {
	for len(rest) > 0 {
		var line []byte
		if line, rest, _ = cutLine(rest); len(line) == 0 {
			break
		}
		h.names = append(h.names, string(line))
	}
	return h.fit()
}

// fit checks that the files make up the image.
func (h *Header) fit() error {
	n, want := len(h.sizes), 1
	if h.parts == n {
		if last := h.sizes[n-1]; len(h.names) == 0 || last%len(h.names) != 0 {
			return fmt.Errorf("found %d files for %d slices of the last axis, expected equal parts",
				len(h.names), last)
		}
		return rawdata.Check(h.names)
	}
	for _, v := range h.sizes[h.parts:] {
		want = min(want*v, math.MaxInt32)
	}
	if want != len(h.names) {
		return fmt.Errorf("found %d files of %d axes for an image of %v, expected %d", len(h.names),
			h.parts, h.sizes, want)
	}
	return rawdata.Check(h.names)
}

// finish checks that there is what is needed.
func (h *Header) finish(seen map[string]bool) error {
	for _, name := range []string{"type", "dimension", "sizes", "encoding"} {
		if !seen[name] {
			return fmt.Errorf("found no field %s, which is required", name)
		}
	}
	if matters := h.Encoding != "ascii"; matters && !seen["endian"] &&
		volume.MakePixels(h.Type, 0).Size() > 1 {
		return fmt.Errorf("found no field endian, expected little or big for %s and %s", h.Type, h.Encoding)
	}
	values := 0
	for i, a := range h.axes {
		switch {
		case slices.Contains(domains, a.kind):
			h.Size = append(h.Size, h.sizes[i])
		case (a.kind == "stub" || a.kind == "scalar") && h.sizes[i] == 1 && values == 0:
			values++
		default:
			return fmt.Errorf("kinds: found the kind %q of axis %d, %d values for each pixel, expected "+
				"one: store one channel per file", a.kind, i+1, h.sizes[i])
		}
	}
	if n := len(h.Size); n < 2 || n > 4 {
		return fmt.Errorf("dimension: found %d axes of space and time, expected 2, 3 or 4", n)
	}
	return nil
}

// data says where the pixels lie.
func (h *Header) data() *rawdata.Data {
	d := &rawdata.Data{BigEndian: h.BigEndian, Lines: h.lines, Skip: h.skip, Names: h.names}
	if h.names == nil {
		d.From = int64(h.bytes)
	}
	d.Encoding = map[string]rawdata.Encoding{"raw": rawdata.Raw, "gzip": rawdata.Deflate,
		"bzip2": rawdata.Bzip2, "ascii": rawdata.Text, "hex": rawdata.Hex}[h.Encoding]
	return d
}

// ITK is the geometry as ITK has it.
// Source: ITK 5.4, itkNrrdImageIO.cxx and itkImageFileReader.hxx, NrrdIO's axis.c and simple.c;
// SimpleITK 2.5 in the tests.
func (h *Header) ITK() (*volume.ITK, error) {
	n := len(h.Size)
	g := &volume.ITK{Spacing: slices.Repeat([]float64{1}, n), Origin: make([]float64, n),
		Direction: make([]float64, n*n)}
	if h.spaceDim > 0 && h.spaceDim != n {
		return nil, fmt.Errorf("space: found %d axes of space for an image of %d, expected as many",
			h.spaceDim, n)
	}
	sign := func(row int) float64 {
		if row < 2 && h.space.dim == 3 {
			return h.space.sign[row]
		}
		return 1
	}
	var domain []axis
	for _, a := range h.axes {
		if slices.Contains(domains, a.kind) {
			domain = append(domain, a)
		}
	}
	for i, a := range domain {
		g.Direction[n*i+i] = 1
		switch {
		case a.spacing == 0:
			return nil, fmt.Errorf("spacings: found %v for axis %d, expected distances other than 0",
				a.spacing, i+1)
		case !math.IsNaN(a.spacing) && h.spaceDim > 0:
			return nil, errors.New("spacings: found with a space, expected space directions")
		case !math.IsNaN(a.spacing):
			g.Spacing[i] = a.spacing
			if a.spacing < 0 {
				g.Spacing[i], g.Direction[n*i+i] = -a.spacing, -1
			}
		case a.direction != nil:
			length := 0.0
			for _, v := range a.direction {
				length += float64(v * v)
			}
			length = math.Sqrt(length)
			if length == 0 || math.IsInf(length, 0) || math.IsInf(1/length, 0) {
				return nil, fmt.Errorf("space directions: found %v, expected vectors of a finite length "+
					"other than 0", a.direction)
			}
			g.Spacing[i] = length
			for row, v := range a.direction {
				g.Direction[n*row+i] = 1 / length * v * sign(row)
			}
		}
	}
	switch {
	case h.spaceDim == 0:
		if err := minima(domain, h.Size, g); err != nil {
			return nil, err
		}
	case h.origin != nil:
		for row, v := range h.origin {
			g.Origin[row] = v * sign(row)
		}
	}
	if g.Determinant() == 0 {
		return nil, errors.New("space directions: expected linearly independent axes")
	}
	return g, nil
}

// minima takes the origin from the least positions of the axes, where they have some.
func minima(domain []axis, size []int, g *volume.ITK) error {
	if math.IsNaN(domain[0].min) { // Compat: only that of the first axis counts
		return nil
	}
	for _, a := range domain {
		if math.IsNaN(a.max) && math.IsNaN(a.spacing) {
			return nil
		}
	}
	for i, a := range domain {
		spacing := a.spacing
		if math.IsNaN(spacing) {
			steps := size[i]
			if a.node {
				steps--
			}
			spacing = (a.max - a.min) / float64(steps)
		}
		g.Origin[i] = a.min
		if !a.node {
			g.Origin[i] += spacing / 2
		}
		if math.IsNaN(g.Origin[i]) || math.IsInf(g.Origin[i], 0) {
			return fmt.Errorf("axis mins: found no finite position of axis %d, expected one for each", i+1)
		}
	}
	return nil
}
