// Package delta stores the result of fine-tuning as a difference: the elements of each parameter
// that differ from the base, and the digest of the base, so that a delta is never applied to
// another one.
//
// A delta is a safetensors file. Its metadata holds "format" ("lntorch.delta"), "version" ("1"),
// "base_sha256" (checkpoint.File.Digest of the base) and the description of the result
// (checkpoint.AboutKey). A parameter NAME with few changed elements has two vectors: "NAME:index",
// the flat row-major indices in increasing order (I32, or I64 above 2^31 elements), and
// "NAME:value", the new float32 values. A parameter with at least a third of its elements changed,
// or with another shape, is stored whole under NAME. Unchanged parameters are absent.
package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/models"
)

// Metadata keys and values of the file.
const (
	formatKey  = "format"
	formatName = "lntorch.delta"
	versionKey = "version"
	version    = "1"
	// BaseKey holds the digest of the base, also in adapter files.
	BaseKey = "base_sha256"
)

// Suffixes of the two tensors of a sparse parameter.
const (
	indexSuffix = ":index"
	valueSuffix = ":value"
)

// Weight is a parameter of the fine-tuned network: float32, little-endian, row-major.
type Weight struct {
	Name  string
	Shape []int64
	Read  func(dst []byte) error
}

// change is one parameter that differs.
type change struct {
	name    string
	shape   []int64
	index   []int64 // nil for the whole parameter
	values  []byte
	changed int // elements
}

// Delta is the difference of two networks.
type Delta struct {
	Total, Changed int64 // elements of all parameters, and how many of them differ
	Base           string
	changes        []change
}

// Compare returns the bitwise differences of weights from base. Every weight must exist in base;
// aliases are optional.
func Compare(base *checkpoint.File, weights []Weight) (*Delta, error) {
	d := &Delta{}
	was := map[string]*pth.Tensor{}
	for _, w := range base.Weights {
		if c := models.Canonical(w.Name); was[c] == nil || c == w.Name {
			was[c] = w.Tensor
		}
	}
	for _, w := range weights {
		old := was[models.Canonical(w.Name)]
		if old == nil {
			return nil, fmt.Errorf("delta: %s has no weight %s: it is not the base of this "+
				"network; give the checkpoint that it was trained from", base.Path, w.Name)
		}
		c, err := compare(old, w)
		if err != nil {
			return nil, fmt.Errorf("delta: %s: %w", w.Name, err)
		}
		n := numel(w.Shape)
		d.Total += n
		if c == nil {
			continue
		}
		d.changes = append(d.changes, *c)
		d.Changed += int64(c.changed)
	}
	var err error
	d.Base, err = base.Digest(models.Canonical)
	return d, err
}

func numel(shape []int64) int64 {
	n := int64(1)
	for _, s := range shape {
		n *= s
	}
	return n
}

// compare returns the difference of w from old, nil if there is none.
func compare(old *pth.Tensor, w Weight) (*change, error) {
	now := make([]byte, 4*numel(w.Shape))
	if err := w.Read(now); err != nil {
		return nil, err
	}
	whole := &change{name: w.Name, shape: w.Shape, values: now, changed: len(now) / 4}
	if old.DType != pth.Float32 || !slices.Equal(old.Size, w.Shape) {
		return whole, nil
	}
	was := make([]byte, len(now))
	if err := old.ReadInto(was); err != nil {
		return nil, err
	}
	var index []int64
	var values []byte
	for i := 0; i < len(now); i += 4 {
		if binary.LittleEndian.Uint32(was[i:]) != binary.LittleEndian.Uint32(now[i:]) {
			index = append(index, int64(i/4))
			values = append(values, now[i:i+4]...)
		}
	}
	switch {
	case index == nil:
		return nil, nil
	case 3*len(index) >= len(now)/4:
		whole.changed = len(index)
		return whole, nil
	}
	return &change{w.Name, w.Shape, index, values, len(index)}, nil
}

// Bytes is the size of the file that Save writes, without the header.
func (d *Delta) Bytes() int64 {
	n := int64(0)
	for _, c := range d.changes {
		n += int64(len(c.values)) + int64(len(c.index))*int64(indexType(c.shape).Size())
	}
	return n
}

// Plain is the size of all the network's weights in bytes.
func (d *Delta) Plain() int64 { return 4 * d.Total }

func indexType(shape []int64) safetensors.DType {
	if numel(shape) > math.MaxInt32 {
		return safetensors.Int64
	}
	return safetensors.Int32
}

// Save writes the delta. about describes the fine-tuned network (checkpoint.Training.About); "" for
// none.
func (d *Delta) Save(path, about string) error {
	metadata := map[string]string{formatKey: formatName, versionKey: version, BaseKey: d.Base}
	if about != "" {
		metadata[checkpoint.AboutKey] = about
	}
	var entries []safetensors.Entry
	for _, c := range d.changes {
		if c.index == nil {
			entries = append(entries, safetensors.Entry{Name: c.name, DType: safetensors.Float32,
				Shape: c.shape, Read: safetensors.Bytes(c.values)})
			continue
		}
		dtype := indexType(c.shape)
		var index []byte
		for _, i := range c.index {
			if dtype == safetensors.Int32 {
				index = binary.LittleEndian.AppendUint32(index, uint32(i))
			} else {
				index = binary.LittleEndian.AppendUint64(index, uint64(i))
			}
		}
		n := []int64{int64(len(c.index))}
		entries = append(entries,
			safetensors.Entry{Name: c.name + indexSuffix, DType: dtype, Shape: n,
				Read: safetensors.Bytes(index)},
			safetensors.Entry{Name: c.name + valueSuffix, DType: safetensors.Float32, Shape: n,
				Read: safetensors.Bytes(c.values)})
	}
	if err := safetensors.Save(path, entries, metadata); err != nil {
		return fmt.Errorf("delta: %w", err)
	}
	return nil
}

// File is an open delta.
type File struct {
	Path  string
	Base  string // the digest of the base
	About string
	file  *safetensors.File
}

// ErrNoDelta is wrapped by the error of Open for a safetensors file that is not a delta.
var ErrNoDelta = errors.New("it is not an lntorch delta")

// Open opens a delta and checks that its index and value vectors match.
func Open(path string) (*File, error) {
	s, err := safetensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	f := &File{Path: path, Base: s.Metadata[BaseKey], About: s.Metadata[checkpoint.AboutKey],
		file: s}
	if err := f.check(); err != nil {
		s.Close()
		return nil, fmt.Errorf("delta: %s: %w", path, err)
	}
	return f, nil
}

func (f *File) check() error {
	if f.file.Metadata[formatKey] != formatName {
		return ErrNoDelta
	}
	if v := f.file.Metadata[versionKey]; v != version {
		return fmt.Errorf("its version is %q, expected %s: use the version of lntorch that wrote it", v, version)
	}
	for _, t := range f.file.Tensors {
		if name, ok := strings.CutSuffix(t.Name, indexSuffix); ok {
			v := f.file.Tensor(name + valueSuffix)
			if v == nil || len(t.Shape) != 1 || !slices.Equal(t.Shape, v.Shape) ||
				t.DType != safetensors.Int32 && t.DType != safetensors.Int64 {
				return fmt.Errorf("%s: its indices (%s of shape %v) have no values of the same "+
					"shape; the file is damaged", name, t.DType, t.Shape)
			}
			continue
		}
		if t.DType != safetensors.Float32 {
			return fmt.Errorf("%s is %s, expected F32", t.Name, t.DType)
		}
		if name, ok := strings.CutSuffix(t.Name, valueSuffix); ok &&
			f.file.Tensor(name+indexSuffix) == nil {
			return fmt.Errorf("%s: its values have no indices; the file is damaged", name)
		}
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Apply applies the delta to the base under edit, whose digest must be the delta's. The delta must
// stay open until the edit is saved.
func (f *File) Apply(base *checkpoint.File, e *checkpoint.Edit) error {
	if err := CheckBase(base, f.Base, f.Path); err != nil {
		return err
	}
	for _, t := range f.file.Tensors {
		if strings.HasSuffix(t.Name, valueSuffix) {
			continue // handled with its indices
		}
		name, sparse := strings.CutSuffix(t.Name, indexSuffix)
		var now *pth.Tensor
		var err error
		if sparse {
			now, err = f.scatter(e, name, t)
		} else {
			now, err = pth.FromSafetensors(t)
		}
		if err == nil {
			err = e.Replace(name, now)
		}
		if err != nil {
			return fmt.Errorf("delta: %s: %w", f.Path, err)
		}
	}
	e.SetAbout(f.About)
	return nil
}

// CheckBase returns an error unless base has the given digest, which the file from records; ""
// accepts any base.
func CheckBase(base *checkpoint.File, digest, from string) error {
	if digest == "" {
		return nil
	}
	is, err := base.Digest(models.Canonical)
	if err != nil {
		return err
	}
	if is != digest {
		return fmt.Errorf("%s was not trained from %s: its base has sha256 %.16s…, this "+
			"checkpoint %.16s…; pass the checkpoint that the training run started from as --base",
			from, base.Path, digest, is)
	}
	return nil
}

// scatter returns the weight name of the base with the delta's values written at their indices.
func (f *File) scatter(e *checkpoint.Edit, name string, index *safetensors.Tensor) (*pth.Tensor,
	error) {
	old := e.Tensor(name)
	if old == nil || old.DType != pth.Float32 {
		return nil, fmt.Errorf("%s: the base has no float32 weight of that name", name)
	}
	values := f.file.Tensor(name + valueSuffix)
	b, at, v := make([]byte, old.Bytes()), make([]byte, index.Bytes()), make([]byte, values.Bytes())
	if err := errors.Join(old.ReadInto(b), index.ReadInto(at), values.ReadInto(v)); err != nil {
		return nil, err
	}
	last := int64(-1)
	for k := range int(index.Shape[0]) {
		var i int64
		if index.DType == safetensors.Int32 {
			i = int64(int32(binary.LittleEndian.Uint32(at[4*k:])))
		} else {
			i = int64(binary.LittleEndian.Uint64(at[8*k:]))
		}
		if i <= last || i >= old.Numel() {
			return nil, fmt.Errorf("%s: index %d after %d, expected increasing ones below %d", name,
				i, last, old.Numel())
		}
		last = i
		copy(b[4*i:], v[4*k:4*k+4])
	}
	s, err := pth.NewStorage(pth.Float32, b)
	if err != nil {
		return nil, err
	}
	return pth.NewTensor(s, 0, old.Size, nil)
}
