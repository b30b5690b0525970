package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/array"
)

// Tuple is a Python tuple. Two Tuples of equal length that share the memory of their first element
// are the same object.
type Tuple []any

// List is a Python list.
type List struct{ Items []any }

// ByteArray is a Python bytearray; bytes are []byte.
type ByteArray []byte

// Size is a Python torch.Size.
type Size []int64

// Device is a torch.device; Index is -1 if none was given.
type Device struct {
	Type  string
	Index int
}

// String returns the device as torch prints it: "cuda:0", "cpu".
func (d Device) String() string {
	if d.Index < 0 {
		return d.Type
	}
	return fmt.Sprintf("%s:%d", d.Type, d.Index)
}

// DType is a torch dtype by its name without "torch.": "float32".
type DType string

// Global is a class or function of the allow-list used as a value.
type Global struct{ Module, Name string }

// String returns "module.name".
func (g Global) String() string { return g.Module + "." + g.Name }

// Dict is a Python dict: insertion order is kept, and keys are equal where Python's are (1, 1.0,
// True and numpy.int64(1) are one key). The zero Dict is empty and ready to use.
type Dict struct {
	entries []entry
	index   map[any]int // canonical key → entry; built when the dict outgrows a linear search
}

type entry struct{ key, canon, value any }

// linearDict is the largest size of a Dict that is searched without an index.
const linearDict = 8

// Len is the number of entries.
func (d *Dict) Len() int { return len(d.entries) }

// Keys lists the keys in insertion order.
func (d *Dict) Keys() []any {
	keys := make([]any, len(d.entries))
	for i, e := range d.entries {
		keys[i] = e.key
	}
	return keys
}

// All ranges over keys and values in insertion order.
func (d *Dict) All() func(yield func(key, value any) bool) {
	return func(yield func(key, value any) bool) {
		for _, e := range d.entries {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Get returns the value of a key; Go ints are Python ints. An unhashable key is not found.
func (d *Dict) Get(key any) (any, bool) {
	canon, err := canonical(key)
	if err != nil {
		return nil, false
	}
	if i := d.find(canon); i >= 0 {
		return d.entries[i].value, true
	}
	return nil, false
}

// Set adds an entry at the end or replaces the value of an equal key, which keeps its position and
// its first form, as in Python. It panics on an unhashable key.
func (d *Dict) Set(key, value any) {
	if n, ok := key.(int); ok {
		key = int64(n)
	}
	canon, err := canonical(key)
	if err != nil {
		panic("pickle: Dict.Set: " + err.Error())
	}
	d.set(key, canon, value)
}

// Delete removes a key if present.
func (d *Dict) Delete(key any) {
	canon, err := canonical(key)
	if err != nil {
		return
	}
	i := d.find(canon)
	if i < 0 {
		return
	}
	d.entries = slices.Delete(d.entries, i, i+1)
	if d.index != nil {
		d.reindex()
	}
}

func (d *Dict) find(canon any) int {
	if d.index != nil {
		if i, ok := d.index[canon]; ok {
			return i
		}
		return -1
	}
	for i := range d.entries {
		if d.entries[i].canon == canon {
			return i
		}
	}
	return -1
}

func (d *Dict) set(key, canon, value any) {
	if i := d.find(canon); i >= 0 {
		d.entries[i].value = value
		return
	}
	d.entries = append(d.entries, entry{key, canon, value})
	switch {
	case d.index != nil:
		d.index[canon] = len(d.entries) - 1
	case len(d.entries) > linearDict:
		d.reindex()
	}
}

func (d *Dict) reindex() {
	d.index = make(map[any]int, 2*len(d.entries))
	for i, e := range d.entries {
		d.index[e.canon] = i
	}
}

// OrderedDict is a collections.OrderedDict. Attrs are its instance attributes (a state dict's
// _metadata), nil if none.
type OrderedDict struct {
	Dict
	Attrs *Dict
}

// DefaultDict is a collections.defaultdict; Factory is a Global or nil.
type DefaultDict struct {
	Dict
	Factory any
}

// Set is a Python set or frozenset, in file order.
type Set struct {
	Frozen bool
	dict   Dict
}

// NewSet returns a set of the given items; it panics on an unhashable one.
func NewSet(items ...any) *Set {
	s := &Set{}
	for _, v := range items {
		s.dict.Set(v, nil)
	}
	return s
}

// Items lists the members.
func (s *Set) Items() []any { return s.dict.Keys() }

// Len is the number of members.
func (s *Set) Len() int { return s.dict.Len() }

// Has reports whether v is a member.
func (s *Set) Has(v any) bool { _, ok := s.dict.Get(v); return ok }

// NumpyDType is a numpy.dtype of numbers, bools or fixed-length text.
type NumpyDType struct{ array.DType }

// NumpyScalar is a numpy scalar: one element of DType in Data.
type NumpyScalar struct {
	DType NumpyDType
	Data  []byte
}

// Value returns the scalar as bool, int64, uint64 (only above int64's range), float64, complex128,
// string or []byte.
func (s *NumpyScalar) Value() any {
	data := s.Data
	if s.DType.Order == '>' && s.DType.Kind != 'U' {
		step := s.DType.Size
		if s.DType.Kind == 'c' {
			step /= 2
		}
		data = array.Swapped(data, step)
	}
	le := binary.LittleEndian
	switch s.DType.Short() {
	case "b1":
		return data[0] != 0
	case "i1":
		return int64(int8(data[0]))
	case "i2":
		return int64(int16(le.Uint16(data)))
	case "i4":
		return int64(int32(le.Uint32(data)))
	case "i8":
		return int64(le.Uint64(data))
	case "u1":
		return int64(data[0])
	case "u2":
		return int64(le.Uint16(data))
	case "u4":
		return int64(le.Uint32(data))
	case "u8":
		if v := le.Uint64(data); v > math.MaxInt64 {
			return v
		}
		return int64(le.Uint64(data))
	case "f2":
		return float64(array.Float16(le.Uint16(data)))
	case "f4":
		return float64(math.Float32frombits(le.Uint32(data)))
	case "f8":
		return math.Float64frombits(le.Uint64(data))
	case "c8":
		return complex(float64(math.Float32frombits(le.Uint32(data))),
			float64(math.Float32frombits(le.Uint32(data[4:]))))
	case "c16":
		return complex(math.Float64frombits(le.Uint64(data)),
			math.Float64frombits(le.Uint64(data[8:])))
	}
	if s.DType.Kind == 'U' {
		var text strings.Builder
		for i := 0; i+4 <= len(data); i += 4 {
			r := le.Uint32(data[i:])
			if s.DType.Order == '>' {
				r = binary.BigEndian.Uint32(data[i:])
			}
			text.WriteRune(rune(r))
		}
		return strings.TrimRight(text.String(), "\x00")
	}
	return data
}

// NumpyArray is a numpy.ndarray: Data holds the elements of DType in row-major order, or
// column-major if Fortran.
type NumpyArray struct {
	DType   NumpyDType
	Shape   []int64
	Fortran bool
	Data    []byte
}

// Numel is the number of elements.
func (a *NumpyArray) Numel() int {
	n := 1
	for _, s := range a.Shape {
		n *= int(s)
	}
	return n
}

// Int64s returns the elements in row-major order; float and text arrays are an error.
func (a *NumpyArray) Int64s() ([]int64, error) { return elements[int64](a) }

// Float64s returns the elements in row-major order; complex and text arrays are an error.
func (a *NumpyArray) Float64s() ([]float64, error) { return elements[float64](a) }

func elements[T array.Number](a *NumpyArray) ([]T, error) {
	data := a.Data
	if a.Fortran && len(a.Shape) > 1 {
		data = make([]byte, len(a.Data))
		array.Gather(data, a.Data, a.DType.Size, a.Shape, array.ColumnMajor(a.Shape))
	}
	out := make([]T, a.Numel())
	if err := array.Convert(out, a.DType.DType, data); err != nil {
		return nil, fmt.Errorf("pickle: numpy array: %w", err)
	}
	return out, nil
}

// AsInt returns the value of a Python or numpy integer or bool.
func AsInt(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case *NumpyScalar:
		switch v.DType.Kind {
		case 'b', 'i', 'u':
			return AsInt(v.Value())
		}
	}
	return 0, false
}

// AsDict returns a dict of any kind as a Dict, nil for other values.
func AsDict(v any) *Dict {
	switch d := v.(type) {
	case *Dict:
		return d
	case *OrderedDict:
		return &d.Dict
	case *DefaultDict:
		return &d.Dict
	}
	return nil
}

// AsFloat returns the value of a Python or numpy real number.
func AsFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case uint64:
		return float64(v), true
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true
	case *NumpyScalar:
		switch v.DType.Kind {
		case 'b', 'i', 'u', 'f':
			return AsFloat(v.Value())
		}
		return 0, false
	}
	n, ok := AsInt(v)
	return float64(n), ok
}

// Canonical keys: keys equal in Python have the same comparable Go value. Strings and ints, nearly
// all keys, stand for themselves; these types represent the rest.
type (
	noneKey  struct{}
	bytesKey string
	tupleKey string
)

// maxKey bounds the canonical form of a tuple or frozenset key, which may share its parts many
// times over.
const maxKey = 64 << 10

var errKeySize = errors.New("dict key is too large")

// canonical returns the comparable form of a key; the error says why v cannot be a key.
func canonical(v any) (any, error) {
	switch v := v.(type) {
	case string, int64, Device, DType, Global:
		return v, nil
	case nil:
		return noneKey{}, nil
	case int:
		return int64(v), nil
	case uint64:
		return canonical(new(big.Int).SetUint64(v))
	case bool:
		n, _ := AsInt(v)
		return n, nil
	case float64:
		if v == math.Trunc(v) && v >= -1<<63 && v < 1<<63 {
			return int64(v), nil
		}
		return v, nil
	case complex128:
		if imag(v) == 0 {
			return canonical(real(v))
		}
		return v, nil
	case []byte:
		return bytesKey(v), nil
	case *big.Int:
		if v.IsInt64() {
			return v.Int64(), nil
		}
		return tupleKey("i" + v.Text(62)), nil
	case *NumpyScalar:
		return canonical(v.Value())
	case *NumpyDType:
		return tupleKey("n" + v.String()), nil
	case Tuple, Size, *Set:
		form, err := appendKey(nil, v, 0)
		return tupleKey(form), err
	}
	return nil, fmt.Errorf("unhashable dict key of type %s", TypeName(v))
}

// appendKey appends an unambiguous encoding of v: a tag, a length and the parts.
func appendKey(b []byte, v any, depth int) ([]byte, error) {
	if depth > 32 || len(b) > maxKey {
		return nil, errKeySize
	}
	var parts []any
	tag := byte('(')
	switch v := v.(type) {
	case Tuple:
		parts = v
	case Size:
		for _, n := range v {
			parts = append(parts, n)
		}
	case *Set:
		if !v.Frozen {
			return nil, fmt.Errorf("unhashable dict key of type set")
		}
		tag = '{'
		var forms []string
		total := 0
		for _, e := range v.dict.entries {
			form, err := appendKey(nil, e.key, depth+1)
			if err != nil {
				return nil, err
			}
			if total += len(form); total > maxKey {
				return nil, errKeySize
			}
			forms = append(forms, string(form))
		}
		slices.Sort(forms)
		b = binary.AppendUvarint(append(b, tag), uint64(len(forms)))
		for _, form := range forms {
			b = append(b, form...)
		}
		return b, nil
	default:
		c, err := canonical(v)
		if err != nil {
			return nil, err
		}
		if text := reflect.ValueOf(c); text.Kind() == reflect.String && text.Len() > maxKey {
			return nil, errKeySize
		}
		form := fmt.Sprintf("%T:%v", c, c)
		b = binary.AppendUvarint(append(b, 'x'), uint64(len(form)))
		return append(b, form...), nil
	}
	b = binary.AppendUvarint(append(b, tag), uint64(len(parts)))
	for _, p := range parts {
		var err error
		if b, err = appendKey(b, p, depth+1); err != nil {
			return nil, err
		}
	}
	if len(b) > maxKey {
		return nil, errKeySize
	}
	return b, nil
}

// TypeName returns the Python name of v's type, for messages to users. Types of other packages
// provide it by a method PythonType.
func TypeName(v any) string {
	switch v := v.(type) {
	case interface{ PythonType() string }:
		return v.PythonType()
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int, int64, uint64, *big.Int:
		return "int"
	case float64:
		return "float"
	case complex128:
		return "complex"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case ByteArray:
		return "bytearray"
	case Tuple:
		return "tuple"
	case *List:
		return "list"
	case *Dict:
		return "dict"
	case *OrderedDict:
		return "OrderedDict"
	case *DefaultDict:
		return "defaultdict"
	case *Set:
		if v.Frozen {
			return "frozenset"
		}
		return "set"
	case *NumpyArray:
		return "numpy.ndarray"
	case *NumpyScalar:
		return "numpy scalar"
	case *NumpyDType:
		return "numpy.dtype"
	case Size:
		return "torch.Size"
	case Device:
		return "torch.device"
	case DType:
		return "torch.dtype"
	case Global:
		return v.String()
	}
	return fmt.Sprintf("%T", v)
}
