// Package safetensors reads and writes the .safetensors format: a JSON header of names, element
// types, shapes and positions, then the elements. A file holds tensors and text, nothing that could
// be executed.
//
// It is not a model format: package checkpoint maps tensors to networks.
// Source: https://github.com/huggingface/safetensors, README "Format".
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/sniff"
)

// DType is an element type, by its name in the header.
type DType string

// Element types of the format.
const (
	Bool     DType = "BOOL"
	Uint8    DType = "U8"
	Int8     DType = "I8"
	Int16    DType = "I16"
	Uint16   DType = "U16"
	Float16  DType = "F16"
	BFloat16 DType = "BF16"
	Int32    DType = "I32"
	Uint32   DType = "U32"
	Float32  DType = "F32"
	Float64  DType = "F64"
	Int64    DType = "I64"
	Uint64   DType = "U64"
)

// dtypes lists the element types in the reference's sort order, with bytes per element.
var dtypes = []struct {
	name DType
	size int
}{
	{Bool, 1}, {Uint8, 1}, {Int8, 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {Int16, 2}, {Uint16, 2},
	{Float16, 2}, {BFloat16, 2},
	{Int32, 4}, {Uint32, 4}, {Float32, 4}, {Float64, 8}, {Int64, 8}, {Uint64, 8},
}

func (d DType) rank() int {
	for i, t := range dtypes {
		if t.name == d {
			return i
		}
	}
	return -1
}

// Size returns the number of bytes per element, 0 for a type that the format lacks.
func (d DType) Size() int {
	if i := d.rank(); i >= 0 {
		return dtypes[i].size
	}
	return 0
}

// maxHeader bounds the header's length; it is enough for 60,000 tensors.
// Differs: the reference allows 100 MB, whose entries would take many times as much memory.
const maxHeader = 8 << 20

const metadataKey = "__metadata__"

// Tensor is one tensor of an open file. Its methods may be called from several goroutines.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64

	path      string
	src       io.ReaderAt
	off, size int64
}

// Bytes returns the size of the elements in bytes.
func (t *Tensor) Bytes() int64 { return t.size }

// ReadAt fills p from byte off of the elements, little-endian and row-major.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > t.size-off {
		return 0, fmt.Errorf("safetensors: %s: %s: bytes %d to %d of %d", t.path, t.Name, off,
			off+int64(len(p)), t.size)
	}
	n, err := t.src.ReadAt(p, t.off+off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the file ends inside the data; it was truncated while being read")
	}
	return n, fmt.Errorf("safetensors: %s: %s: %w", t.path, t.Name, err)
}

// ReadInto fills dst, which must have exactly Bytes() bytes, with all elements.
func (t *Tensor) ReadInto(dst []byte) error {
	if int64(len(dst)) != t.size {
		return fmt.Errorf("safetensors: %s: %s: %d bytes into a buffer of %d", t.path, t.Name,
			t.size, len(dst))
	}
	_, err := t.ReadAt(dst, 0)
	return err
}

// File is an open file. Elements are read on demand.
type File struct {
	Tensors  []*Tensor // in the order of their elements in the file
	Metadata map[string]string

	byName map[string]*Tensor
	file   *os.File
}

// Tensor returns the tensor with that name, nil if there is none.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Close closes the file; its tensors cannot be read afterwards.
func (f *File) Close() error { return f.file.Close() }

// Open reads and checks the header of a file: names must be unique, shapes and sizes must agree,
// and the tensors must cover the data without gap or overlap.
func Open(path string) (*File, error) {
	file, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	var f *File
	if err == nil {
		f, err = read(file, info.Size(), path)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("safetensors: %s: %w", path, err)
	}
	f.file = file
	return f, nil
}

func read(src io.ReaderAt, size int64, path string) (*File, error) {
	head := make([]byte, min(sniff.HeadSize, size))
	if _, err := src.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if len(head) < 9 || head[8] != '{' {
		if found, next := sniff.What(head); found != "" {
			return nil, fmt.Errorf("found %s, expected a safetensors file: %s", found, next)
		}
	}
	if size < 8 {
		return nil, fmt.Errorf("found %d bytes, expected a safetensors file, which begins with "+
			"the header's length in 8 bytes", size)
	}
	n := binary.LittleEndian.Uint64(head)
	if n > maxHeader {
		return nil, fmt.Errorf("the header's length is %d bytes, at most %d are allowed: this is "+
			"not a safetensors file, or it is damaged", n, maxHeader)
	}
	if int64(n) > size-8 {
		return nil, fmt.Errorf("the header's length is %d bytes, the file has %d: it is truncated",
			n, size)
	}
	header := make([]byte, n)
	if _, err := src.ReadAt(header, 8); err != nil {
		return nil, err
	}
	f := &File{byName: map[string]*Tensor{}}
	if err := f.parse(header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	slices.SortStableFunc(f.Tensors, func(a, b *Tensor) int {
		if a.off != b.off {
			return int(min(1, max(-1, a.off-b.off)))
		}
		return int(min(1, max(-1, a.size-b.size))) // empty tensors first
	})
	end := int64(0)
	for _, t := range f.Tensors {
		if t.off != end {
			return nil, fmt.Errorf("tensor %q begins at byte %d of the data, expected %d: "+
				"tensors may neither overlap nor leave gaps", t.Name, t.off, end)
		}
		end += t.size
		t.off += 8 + int64(n)
		t.src, t.path = src, path
	}
	if data := size - 8 - int64(n); end != data {
		return nil, fmt.Errorf("the header describes %d bytes of data, the file has %d: it is "+
			"truncated or damaged", end, data)
	}
	return f, nil
}

// parse reads the header's JSON token by token to detect repeated keys.
func (f *File) parse(header []byte) error {
	if !utf8.Valid(header) {
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(header))
	d.UseNumber()
	if err := open(d, '{'); err != nil {
		return err
	}
	metadata := false
	for d.More() {
		name, err := key(d)
		if err != nil {
			return err
		}
		if name == metadataKey {
			if metadata {
				return fmt.Errorf("%s appears twice", metadataKey)
			}
			metadata = true
			if f.Metadata, err = parseMetadata(d); err != nil {
				return fmt.Errorf("%s: %w", metadataKey, err)
			}
			continue
		}
		if f.byName[name] != nil {
			return fmt.Errorf("tensor %.80q appears twice", name)
		}
		t, err := parseTensor(d)
		if err != nil {
			return fmt.Errorf("tensor %.80q: %w", name, err)
		}
		t.Name = name
		f.byName[name] = t
		f.Tensors = append(f.Tensors, t)
	}
	if _, err := d.Token(); err != nil {
		return syntax(err)
	}
	if rest := bytes.TrimRight(header[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return fmt.Errorf("%d bytes follow its end", len(rest))
	}
	return nil
}

func syntax(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("its JSON is incomplete")
	}
	return err
}

func open(d *json.Decoder, bracket json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return syntax(err)
	}
	if t != bracket {
		return fmt.Errorf("found %.40v, expected %v", t, bracket)
	}
	return nil
}

func key(d *json.Decoder) (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", syntax(err)
	}
	return t.(string), nil // the decoder accepts only a string before a colon
}

func parseMetadata(d *json.Decoder) (map[string]string, error) {
	if err := open(d, '{'); err != nil {
		return nil, err
	}
	m := map[string]string{}
	for d.More() {
		k, err := key(d)
		if err != nil {
			return nil, err
		}
		if _, ok := m[k]; ok {
			return nil, fmt.Errorf("%.80q appears twice", k)
		}
		v, err := d.Token()
		if err != nil {
			return nil, syntax(err)
		}
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%.80q is not text", k)
		}
		m[k] = s
	}
	_, err := d.Token()
	return m, err
}

func parseTensor(d *json.Decoder) (*Tensor, error) {
	if err := open(d, '{'); err != nil {
		return nil, err
	}
	t := &Tensor{}
	var offsets []int64
	seen := map[string]bool{}
	for d.More() {
		k, err := key(d)
		if err != nil {
			return nil, err
		}
		if seen[k] {
			return nil, fmt.Errorf("%.40q appears twice", k)
		}
		seen[k] = true
		switch k {
		case "dtype":
			v, err := d.Token()
			if err != nil {
				return nil, syntax(err)
			}
			s, _ := v.(string)
			if t.DType = DType(s); t.DType.Size() == 0 {
				return nil, fmt.Errorf("element type %.40v is not known", v)
			}
		case "shape":
			if t.Shape, err = integers(d, array.MaxDims); err != nil {
				return nil, fmt.Errorf("shape: %w", err)
			}
		case "data_offsets":
			if offsets, err = integers(d, 2); err != nil {
				return nil, fmt.Errorf("data_offsets: %w", err)
			}
		default:
			return nil, fmt.Errorf("key %.40q is not known", k)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, syntax(err)
	}
	if !seen["dtype"] || !seen["shape"] || len(offsets) != 2 {
		return nil, errors.New("expected dtype, shape and two data_offsets")
	}
	want, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return nil, err
	}
	if t.off, t.size = offsets[0], offsets[1]-offsets[0]; t.size != want {
		return nil, fmt.Errorf("data_offsets %v hold %d bytes, shape %v of %s needs %d", offsets,
			t.size, t.Shape, t.DType, want)
	}
	return t, nil
}

// byteSize returns the size of a tensor's elements in bytes.
func byteSize(d DType, shape []int64) (int64, error) {
	n, err := array.Numel(shape)
	if err != nil {
		return 0, fmt.Errorf("shape %v: %w", shape, err)
	}
	hi, b := bits.Mul64(uint64(n), uint64(d.Size()))
	if hi != 0 || b > 1<<60 {
		return 0, fmt.Errorf("shape %v is larger than any file", shape)
	}
	return int64(b), nil
}

// integers reads a list of non-negative integers.
func integers(d *json.Decoder, limit int) ([]int64, error) {
	if err := open(d, '['); err != nil {
		return nil, err
	}
	list := []int64{}
	for d.More() {
		v, err := d.Token()
		if err != nil {
			return nil, syntax(err)
		}
		n, ok := v.(json.Number)
		x, err := n.Int64()
		if !ok || err != nil || x < 0 || strings.HasPrefix(string(n), "-") {
			return nil, fmt.Errorf("found %.40v, expected whole numbers of 0 or more", v)
		}
		if len(list) == limit {
			return nil, fmt.Errorf("more than %d integers", limit)
		}
		list = append(list, x)
	}
	_, err := d.Token()
	return list, err
}
