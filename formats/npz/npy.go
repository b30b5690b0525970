// Package npz reads and writes numpy's .npy and .npz files of numbers, bools and fixed-length text.
// Structured arrays and object arrays (which are pickles) are refused. Sizes are checked against
// the input before memory is allocated.
package npz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/lntorch/lntorch/internal/regular"
)

// Array is a numpy array. Data holds its elements in row-major order, or column-major if Fortran is
// set, in the byte order of DType.
type Array struct {
	DType   string // "<f4", "|i1", "<i2", "|b1", …
	Shape   []int
	Fortran bool
	Data    []byte
}

// New returns an array of the given shape from values in row-major order; without a shape it has
// one axis. The shape must match the number of values.
func New[T array.Number | bool](values []T, shape ...int) (*Array, error) {
	if shape == nil {
		shape = []int{len(values)}
	}
	n, err := array.Numel(shape)
	if err != nil || n != int64(len(values)) {
		return nil, fmt.Errorf("npz: shape %v for %d values", shape, len(values))
	}
	a := &Array{Shape: slices.Clone(shape)}
	le := binary.LittleEndian
	switch v := any(values).(type) {
	case []bool:
		a.DType, a.Data = "|b1", make([]byte, len(v))
		for i, x := range v {
			if x {
				a.Data[i] = 1
			}
		}
	case []uint8:
		a.DType, a.Data = "|u1", slices.Clone(v)
	case []int8:
		a.DType, a.Data = "|i1", make([]byte, len(v))
		for i, x := range v {
			a.Data[i] = byte(x)
		}
	case []int16:
		a.DType, a.Data = "<i2", make([]byte, 2*len(v))
		for i, x := range v {
			le.PutUint16(a.Data[2*i:], uint16(x))
		}
	case []uint16:
		a.DType, a.Data = "<u2", make([]byte, 2*len(v))
		for i, x := range v {
			le.PutUint16(a.Data[2*i:], x)
		}
	case []int32:
		a.DType, a.Data = "<i4", make([]byte, 4*len(v))
		for i, x := range v {
			le.PutUint32(a.Data[4*i:], uint32(x))
		}
	case []uint32:
		a.DType, a.Data = "<u4", make([]byte, 4*len(v))
		for i, x := range v {
			le.PutUint32(a.Data[4*i:], x)
		}
	case []int64:
		a.DType, a.Data = "<i8", make([]byte, 8*len(v))
		for i, x := range v {
			le.PutUint64(a.Data[8*i:], uint64(x))
		}
	case []uint64:
		a.DType, a.Data = "<u8", make([]byte, 8*len(v))
		for i, x := range v {
			le.PutUint64(a.Data[8*i:], x)
		}
	case []float32:
		a.DType, a.Data = "<f4", make([]byte, 4*len(v))
		for i, x := range v {
			le.PutUint32(a.Data[4*i:], math.Float32bits(x))
		}
	case []float64:
		a.DType, a.Data = "<f8", make([]byte, 8*len(v))
		for i, x := range v {
			le.PutUint64(a.Data[8*i:], math.Float64bits(x))
		}
	default:
		return nil, fmt.Errorf("npz: no array of %T", values)
	}
	return a, nil
}

// Numel returns the number of elements.
func (a *Array) Numel() int {
	n, _ := array.Numel(a.Shape)
	return int(n)
}

// check verifies that the size of Data matches DType and Shape.
func (a *Array) check() (array.DType, error) {
	d, err := array.ParseDType(a.DType)
	if err != nil {
		return d, err
	}
	n, err := array.Numel(a.Shape)
	if err != nil {
		return d, err
	}
	if d.Size == 0 && len(a.Data) > 0 ||
		d.Size > 0 && (len(a.Data)%d.Size != 0 || int64(len(a.Data)/d.Size) != n) {
		return d, fmt.Errorf("an array of shape %v and type %s with %d bytes", a.Shape, a.DType,
			len(a.Data))
	}
	return d, nil
}

// RowMajor returns the bytes of the elements in row-major (C) order: Data itself if it already is.
func (a *Array) RowMajor() ([]byte, error) {
	d, err := a.check()
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	if !a.Fortran || len(a.Shape) < 2 {
		return a.Data, nil
	}
	size := make([]int64, len(a.Shape))
	for i, n := range a.Shape {
		size[i] = int64(n)
	}
	out := make([]byte, len(a.Data))
	array.Gather(out, a.Data, d.Size, size, array.ColumnMajor(size))
	return out, nil
}

// Float32s returns the elements in row-major order; other real types are rounded as numpy's astype
// does.
func (a *Array) Float32s() ([]float32, error) { return convert[float32](a) }

// Float64s returns the elements in row-major order, converted from any real type.
func (a *Array) Float64s() ([]float64, error) { return convert[float64](a) }

// Int64s returns the elements of an integer or bool array in row-major order; floats are an error.
func (a *Array) Int64s() ([]int64, error) { return convert[int64](a) }

// Int32s is Int64s for int32; a value that does not fit is an error.
func (a *Array) Int32s() ([]int32, error) { return convert[int32](a) }

// Int16s is Int64s for int16; a value that does not fit is an error.
func (a *Array) Int16s() ([]int16, error) { return convert[int16](a) }

// Int8s is Int64s for int8; a value that does not fit is an error.
func (a *Array) Int8s() ([]int8, error) { return convert[int8](a) }

// Uint8s is Int64s for uint8; a value that does not fit is an error.
func (a *Array) Uint8s() ([]uint8, error) { return convert[uint8](a) }

// Bools returns the elements of a bool array in row-major order.
func (a *Array) Bools() ([]bool, error) {
	if a.DType != "|b1" {
		return nil, fmt.Errorf("npz: an array of %s is not bool", a.DType)
	}
	data, err := a.RowMajor()
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(data))
	for i, b := range data {
		out[i] = b != 0
	}
	return out, nil
}

func convert[T array.Number](a *Array) ([]T, error) {
	data, err := a.RowMajor()
	if err != nil {
		return nil, err
	}
	d, err := array.ParseDType(a.DType)
	if err != nil {
		return nil, err
	}
	out := make([]T, a.Numel())
	if err := array.Convert(out, d, data); err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	return out, nil
}

const magic = "\x93NUMPY"

// maxHeader is the longest header that numpy itself reads by default.
const maxHeader = 10000

// ReadNpy reads one .npy from r. Memory grows with the data actually read.
func ReadNpy(r io.Reader) (*Array, error) {
	a, err := readNpy(r, -1)
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	return a, nil
}

// OpenNpy reads a .npy file. Bytes after the array are an error.
func OpenNpy(path string) (*Array, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	a, err := readNpy(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("npz: %s: %w", path, err)
	}
	return a, nil
}

// readNpy reads an array from r, which has size bytes; a negative size means unknown.
func readNpy(r io.Reader, size int64) (*Array, error) {
	a, need, used, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	if size >= 0 && need != size-used {
		return nil, fmt.Errorf("an array of shape %v and type %s needs %d bytes, the file holds "+
			"%d (truncated?)", a.Shape, a.DType, need, size-used)
	}
	const step = 16 << 20
	if size < 0 && need > step {
		for int64(len(a.Data)) < need {
			have := len(a.Data)
			a.Data = append(a.Data, make([]byte, min(need-int64(have), int64(max(have, step))))...)
			if n, err := io.ReadFull(r, a.Data[have:]); err != nil {
				return nil, short(err, a, int64(have+n), need)
			}
		}
		return a, nil
	}
	a.Data = make([]byte, need)
	if n, err := io.ReadFull(r, a.Data); err != nil {
		return nil, short(err, a, int64(n), need)
	}
	return a, nil
}

func short(err error, a *Array, have, need int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("an array of shape %v and type %s needs %d bytes, the file holds only "+
			"%d (truncated?)", a.Shape, a.DType, need, have)
	}
	return err
}

// readHeader reads up to the data and returns the array without it, the size of the data and the
// size of the header.
func readHeader(r io.Reader) (a *Array, need, used int64, err error) {
	cut := func(err error) error {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return errors.New("the file ends inside the .npy header (truncated?)")
		}
		return err
	}
	var head [12]byte
	if _, err := io.ReadFull(r, head[:8]); err != nil {
		return nil, 0, 0, cut(err)
	}
	if string(head[:6]) != magic {
		return nil, 0, 0, fmt.Errorf("not a .npy array: starts with %x", head[:6])
	}
	width := 4
	switch head[6] {
	case 1:
		width = 2
	case 2, 3:
	default:
		return nil, 0, 0, fmt.Errorf(".npy version %d.%d, 1 to 3 are known", head[6], head[7])
	}
	if _, err := io.ReadFull(r, head[8:8+width]); err != nil {
		return nil, 0, 0, cut(err)
	}
	length := binary.LittleEndian.Uint32(head[8:])
	if length > maxHeader {
		return nil, 0, 0, fmt.Errorf(".npy header of %d bytes, at most %d are read", length,
			maxHeader)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, 0, 0, cut(err)
	}
	a, err = parseHeader(string(text))
	if err != nil {
		return nil, 0, 0, fmt.Errorf(".npy header %.120q: %w",
			strings.TrimRight(string(text), " \n"), err)
	}
	d, err := array.ParseDType(a.DType)
	if err != nil {
		return nil, 0, 0, err
	}
	n, err := array.Numel(a.Shape)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("an array of shape %v: %w", a.Shape, err)
	}
	if d.Size > 0 && n > math.MaxInt64/int64(d.Size) {
		return nil, 0, 0, fmt.Errorf("an array of shape %v and type %s is larger than any memory",
			a.Shape, a.DType)
	}
	a.DType = d.String()
	return a, n * int64(d.Size), 8 + int64(width) + int64(length), nil
}

// parseHeader reads the Python dict {'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}.
func parseHeader(s string) (*Array, error) {
	p := literal{s: s}
	a := &Array{}
	seen := map[string]bool{}
	p.expect('{')
	for p.err == nil && !p.accept('}') {
		key := p.text()
		p.expect(':')
		if seen[key] {
			p.fail("key %q twice", key)
		}
		seen[key] = true
		switch key {
		case "descr":
			if p.peek() == '[' || p.peek() == '(' {
				p.fail("structured arrays are not supported")
			}
			a.DType = p.text()
		case "fortran_order":
			a.Fortran = p.bool()
		case "shape":
			a.Shape = p.tuple()
		default:
			p.fail("unknown key %q", key)
		}
		if !p.accept(',') && p.peek() != '}' {
			p.fail("',' or '}' expected")
		}
	}
	if p.err == nil && (p.peek() != 0 || len(seen) != 3) {
		p.fail("'descr', 'fortran_order' and 'shape' expected and nothing else")
	}
	return a, p.err
}

// literal is a cursor in a Python literal. After the first error it no longer moves.
type literal struct {
	s   string
	err error
}

func (p *literal) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
		p.s = ""
	}
}

// peek skips white space and returns the next character, 0 at the end.
func (p *literal) peek() byte {
	p.s = strings.TrimLeft(p.s, " \t\r\n")
	if p.s == "" {
		return 0
	}
	return p.s[0]
}

func (p *literal) accept(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

func (p *literal) expect(c byte) {
	if !p.accept(c) {
		p.fail("%q expected", c)
	}
}

// text reads a string without escapes.
func (p *literal) text() string {
	quote := p.peek()
	if quote != '\'' && quote != '"' {
		p.fail("a string expected")
		return ""
	}
	end := strings.IndexByte(p.s[1:], quote)
	if end < 0 || strings.Contains(p.s[1:1+end], "\\") {
		p.fail("a plain string expected")
		return ""
	}
	t := p.s[1 : 1+end]
	p.s = p.s[end+2:]
	return t
}

func (p *literal) bool() bool {
	p.peek()
	for _, word := range []string{"True", "False"} {
		if rest, ok := strings.CutPrefix(p.s, word); ok {
			p.s = rest
			return word == "True"
		}
	}
	p.fail("True or False expected")
	return false
}

// tuple reads (), (1,) or (1, 2); Python 2 wrote 1L.
func (p *literal) tuple() []int {
	shape := []int{}
	p.expect('(')
	for p.err == nil && !p.accept(')') {
		p.peek()
		n := 0
		for n < len(p.s) && p.s[n] >= '0' && p.s[n] <= '9' {
			n++
		}
		v, err := strconv.ParseInt(p.s[:n], 10, 64)
		if err != nil || len(shape) >= array.MaxDims {
			p.fail("a tuple of at most %d sizes expected", array.MaxDims)
			return nil
		}
		p.s = p.s[n:]
		p.accept('L')
		shape = append(shape, int(v))
		if !p.accept(',') && p.peek() != ')' {
			p.fail("',' or ')' expected")
		}
	}
	return shape
}

// WriteNpy writes an array byte for byte as numpy.save does.
func WriteNpy(w io.Writer, a *Array) error {
	d, err := a.check()
	if err != nil {
		return fmt.Errorf("npz: %w", err)
	}
	if _, err := w.Write(header(a, d)); err != nil {
		return err
	}
	_, err = w.Write(a.Data)
	return err
}

// header returns numpy's header: version 1.0, padded so that the data starts at a multiple of 64
// bytes. As in numpy, it leaves room for the first axis (the last one in Fortran order) to grow.
func header(a *Array, d array.DType) []byte {
	shape := make([]string, len(a.Shape))
	for i, n := range a.Shape {
		shape[i] = strconv.Itoa(n)
	}
	list := strings.Join(shape, ", ")
	if len(shape) == 1 {
		list += ","
	}
	fortran := "False"
	if a.Fortran {
		fortran = "True"
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }", d, fortran, list)
	if len(shape) > 0 {
		grow := shape[0]
		if a.Fortran {
			grow = shape[len(shape)-1]
		}
		text += strings.Repeat(" ", max(0, 21-len(grow)))
	}
	pad := 64 - (10+len(text)+1)%64
	text += strings.Repeat(" ", pad) + "\n"
	out := append([]byte(magic), 1, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(text)))
	return append(out, text...)
}
