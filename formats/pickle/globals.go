package pickle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/formats/internal/array"
)

// canonicalModule maps the two spellings of a module to one: Python 2's builtins, which protocol 2
// uses, and numpy 2's private core.
func canonicalModule(m string) string {
	switch {
	case m == "__builtin__":
		return "builtins"
	case m == "numpy._core" || strings.HasPrefix(m, "numpy._core."):
		return "numpy.core" + m[len("numpy._core"):]
	}
	return m
}

// builtinFuncs is the allow-list of every pickle. A nil function is a name that is allowed as a
// value only.
var builtinFuncs = map[Global]func(*Decoder, Tuple) (any, error){
	{"builtins", "set"}:                       makeSet(false),
	{"builtins", "frozenset"}:                 makeSet(true),
	{"builtins", "bytes"}:                     makeBytes,
	{"builtins", "bytearray"}:                 makeByteArray,
	{"builtins", "complex"}:                   makeComplex,
	{"builtins", "list"}:                      nil,
	{"builtins", "dict"}:                      nil,
	{"builtins", "int"}:                       nil,
	{"builtins", "float"}:                     nil,
	{"builtins", "str"}:                       nil,
	{"builtins", "bool"}:                      nil,
	{"builtins", "tuple"}:                     nil,
	{"collections", "OrderedDict"}:            makeOrderedDict,
	{"collections", "defaultdict"}:            makeDefaultDict,
	{"_codecs", "encode"}:                     encodeText,
	{"numpy", "dtype"}:                        makeDType,
	{"numpy", "ndarray"}:                      nil,
	{"numpy.core.multiarray", "scalar"}:       makeScalar,
	{"numpy.core.multiarray", "_reconstruct"}: reconstruct,
	{"numpy.core.numeric", "_frombuffer"}:     fromBuffer,
	{"torch", "device"}:                       makeDevice,
	{"torch", "Size"}:                         makeSize,
}

// torchDTypes are the torch dtypes allowed as values.
var torchDTypes = []DType{
	"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
	"uint16", "uint32", "uint64",
	"bool", "complex32", "complex64", "complex128",
}

// global pushes an allowed class or function.
func (d *Decoder) global(module, name string) error {
	seen := Global{module, name}
	if !d.globals[seen] {
		d.globals[seen] = true
		d.names = append(d.names, seen)
	}
	g := Global{canonicalModule(module), name}
	_, builtin := builtinFuncs[g]
	_, extra := d.opts.Globals[g]
	switch {
	case builtin || extra:
		return d.pushNew(g, costText)
	case g.Module == "torch" && slices.Contains(torchDTypes, DType(name)):
		return d.pushNew(DType(name), costText)
	}
	return fmt.Errorf("global %q is not allowed: only plain data, numpy and torch tensors are "+
		"read, and nothing in a file is executed; if the file is trusted, re-save it in Python "+
		"with plain types", module+" "+name)
}

func (d *Decoder) call(f any, args Tuple) error {
	g, ok := f.(Global)
	if !ok {
		return fmt.Errorf("call of a %s", TypeName(f))
	}
	cost := costCall
	for _, a := range args { // the result may hold copies of them
		switch a := a.(type) {
		case Tuple:
			cost += costItem * len(a)
		case Size:
			cost += costItem * len(a)
		}
	}
	if err := d.charge(cost); err != nil {
		return err
	}
	var v any
	var err error
	if fn := d.opts.Globals[g]; fn != nil {
		v, err = fn(args)
	} else if fn := builtinFuncs[g]; fn != nil {
		v, err = fn(d, args)
	} else {
		return fmt.Errorf("calling %q is not allowed", g.Module+" "+g.Name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", g, err)
	}
	return d.push(v)
}

// build applies a state to a new object, as BUILD does.
func (d *Decoder) build(target, state any) (any, error) {
	switch t := target.(type) {
	case *OrderedDict:
		attrs, ok := state.(*Dict)
		if !ok {
			return nil, fmt.Errorf("OrderedDict with the state %s", TypeName(state))
		}
		if t.Attrs == nil {
			t.Attrs = &Dict{}
		}
		for k, v := range attrs.All() {
			if _, ok := k.(string); !ok {
				return nil, fmt.Errorf("attribute named by a %s", TypeName(k))
			}
			if err := d.insert(t.Attrs, k, v); err != nil {
				return nil, err
			}
		}
		return t, nil
	case *NumpyDType:
		return t, buildDType(t, state)
	case *NumpyArray:
		return t, d.buildArray(t, state)
	}
	return nil, fmt.Errorf("a %s takes no state", TypeName(target))
}

var errArgs = errors.New("unexpected arguments")

// sequence is the content of a list, tuple or set argument.
func (d *Decoder) sequence(args Tuple) ([]any, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if len(args) > 1 {
		return nil, errArgs
	}
	var items []any
	switch v := args[0].(type) {
	case *List:
		items = v.Items
	case Tuple:
		items = v
	case *Set:
		items = v.Items()
	default:
		return nil, errArgs
	}
	return items, d.charge(costItem * len(items))
}

func makeSet(frozen bool) func(*Decoder, Tuple) (any, error) {
	return func(d *Decoder, args Tuple) (any, error) {
		items, err := d.sequence(args)
		if err != nil {
			return nil, err
		}
		set := &Set{Frozen: frozen}
		return set, d.addAll(set, items)
	}
}

func makeOrderedDict(d *Decoder, args Tuple) (any, error) {
	pairs, err := d.sequence(args)
	if err != nil {
		return nil, err
	}
	o := &OrderedDict{}
	for _, p := range pairs {
		var kv []any
		switch p := p.(type) {
		case Tuple:
			kv = p
		case *List:
			kv = p.Items
		}
		if len(kv) != 2 {
			return nil, errArgs
		}
		if err := d.insert(&o.Dict, kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func makeDefaultDict(_ *Decoder, args Tuple) (any, error) {
	switch len(args) {
	case 0:
		return &DefaultDict{}, nil
	case 1:
		if g, ok := args[0].(Global); ok {
			return &DefaultDict{Factory: g}, nil
		}
		if args[0] == nil {
			return &DefaultDict{}, nil
		}
	}
	return nil, errArgs
}

// latin1 decodes text whose code points are bytes: the form of bytes below protocol 3.
func (d *Decoder) latin1(s string) ([]byte, error) {
	if err := d.chargeWork(len(s)); err != nil {
		return nil, err
	}
	b := make([]byte, 0, utf8.RuneCountInString(s))
	for _, r := range s {
		if r > 0xff {
			return nil, errors.New("bytes stored as text with a code point above 255")
		}
		b = append(b, byte(r))
	}
	return b, nil
}

func encodeText(d *Decoder, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, errArgs
	}
	s, ok := args[0].(string)
	codec, ok2 := args[1].(string)
	if !ok || !ok2 || (codec != "latin1" && codec != "latin-1") {
		return nil, errArgs
	}
	return d.latin1(s)
}

func makeBytes(d *Decoder, args Tuple) (any, error) {
	if len(args) != 0 {
		return nil, errArgs
	}
	return []byte{}, nil
}

func makeByteArray(d *Decoder, args Tuple) (any, error) {
	if len(args) == 0 {
		return ByteArray{}, nil
	}
	switch v := args[0].(type) {
	case []byte:
		if len(args) == 1 {
			return ByteArray(slices.Clone(v)), d.chargeWork(len(v))
		}
	case string:
		b, err := encodeText(d, args)
		if err != nil {
			return nil, err
		}
		return ByteArray(b.([]byte)), nil
	}
	return nil, errArgs
}

func makeComplex(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, errArgs
	}
	re, ok1 := args[0].(float64)
	im, ok2 := args[1].(float64)
	if !ok1 || !ok2 {
		return nil, errArgs
	}
	return complex(re, im), nil
}

func makeDType(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 3 {
		return nil, errArgs
	}
	name, ok := args[0].(string)
	if !ok {
		return nil, errArgs
	}
	t, err := array.ParseDType(name)
	if err != nil {
		return nil, err
	}
	return &NumpyDType{t}, nil
}

// buildDType applies numpy's state (version, order, subdtype, names, fields, element size,
// alignment, flags).
func buildDType(t *NumpyDType, state any) error {
	s, ok := state.(Tuple)
	if !ok || len(s) != 8 {
		return fmt.Errorf("numpy dtype %s with an unknown state", t)
	}
	order, ok := s[1].(string)
	if !ok || len(order) != 1 || !strings.Contains("<>|=", order) || s[2] != nil || s[3] != nil ||
		s[4] != nil {
		return fmt.Errorf("numpy dtype %s is structured or has an unknown byte order", t)
	}
	if n, ok := s[5].(int64); !ok || (n != -1 && n != int64(t.Size)) {
		return fmt.Errorf("numpy dtype %s with the element size %v", t, s[5])
	}
	if t.Order != '|' && order != "|" && order != "=" {
		t.Order = order[0]
	}
	return nil
}

func makeScalar(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, errArgs
	}
	t, ok1 := args[0].(*NumpyDType)
	b, ok2 := args[1].([]byte)
	if !ok1 || !ok2 {
		return nil, errArgs
	}
	if len(b) != t.Size {
		return nil, fmt.Errorf("%d bytes for a scalar of %s, %d expected", len(b), t, t.Size)
	}
	return &NumpyScalar{DType: *t, Data: b}, nil
}

// reconstruct returns the empty array that BUILD then fills: (numpy.ndarray, (0,), b"b").
func reconstruct(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 3 || args[0] != (Global{"numpy", "ndarray"}) {
		return nil, errArgs
	}
	return &NumpyArray{DType: NumpyDType{array.DType{Order: '|', Kind: 'i', Size: 1}},
		Shape: []int64{0}}, nil
}

// buildArray applies numpy's state (version, shape, dtype, fortran, data). As in numpy, a
// big-endian array becomes little-endian.
func (d *Decoder) buildArray(a *NumpyArray, state any) error {
	s, ok := state.(Tuple)
	if !ok || len(s) != 5 {
		return errors.New("numpy array with an unknown state")
	}
	fortran, ok := s[3].(bool)
	if !ok {
		return errors.New("numpy array with an unknown state")
	}
	if err := fillArray(a, s[1], s[2], fortran, s[4]); err != nil {
		return err
	}
	if a.DType.Order != '>' {
		return nil
	}
	// Not in place: another array may share the bytes.
	if err := d.chargeWork(len(a.Data)); err != nil {
		return err
	}
	width := a.DType.Size
	switch a.DType.Kind {
	case 'c':
		width /= 2
	case 'U':
		width = 4
	}
	a.Data = array.Swapped(a.Data, width)
	a.DType.Order = '<'
	return nil
}

// fromBuffer is protocol 5's form: (data, dtype, shape, "C" or "F").
func fromBuffer(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 4 || (args[3] != "C" && args[3] != "F") {
		return nil, errArgs
	}
	a := &NumpyArray{}
	return a, fillArray(a, args[2], args[1], args[3] == "F", args[0])
}

func fillArray(a *NumpyArray, shape, dtype any, fortran bool, data any) error {
	t, ok := dtype.(*NumpyDType)
	if !ok {
		return fmt.Errorf("numpy array with a %s as dtype", TypeName(dtype))
	}
	size, err := dims(shape)
	if err != nil {
		return fmt.Errorf("numpy array: %w", err)
	}
	var b []byte
	switch v := data.(type) {
	case []byte:
		b = v
	case ByteArray:
		b = v
	default:
		return fmt.Errorf("numpy array of %s with data of type %s", t, TypeName(data))
	}
	n, err := array.Numel(size)
	if err != nil {
		return fmt.Errorf("numpy array: %w", err)
	}
	if t.Size == 0 && n > 0 {
		return errors.New("numpy array of elements without a size")
	}
	if t.Size > 0 && (n != int64(len(b)/t.Size) || len(b)%t.Size != 0) {
		return fmt.Errorf("numpy array of shape %v and type %s with %d bytes", size, t, len(b))
	}
	a.DType, a.Shape, a.Fortran, a.Data = *t, size, fortran, b
	return nil
}

// dims reads a tuple of sizes.
func dims(v any) ([]int64, error) {
	t, ok := v.(Tuple)
	if !ok {
		if s, ok := v.(Size); ok {
			return s, nil
		}
		return nil, fmt.Errorf("a %s instead of a tuple of sizes", TypeName(v))
	}
	if len(t) > array.MaxDims {
		return nil, fmt.Errorf("%d axes, at most %d are supported", len(t), array.MaxDims)
	}
	out := make([]int64, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok {
			return nil, fmt.Errorf("a %s among the sizes", TypeName(x))
		}
		out[i] = n
	}
	return out, nil
}

func makeDevice(_ *Decoder, args Tuple) (any, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, errArgs
	}
	kind, ok := args[0].(string)
	if !ok {
		return nil, errArgs
	}
	dev := Device{Type: kind, Index: -1}
	if len(args) == 2 {
		n, ok := args[1].(int64)
		if !ok || n < 0 || n > 1<<15 {
			return nil, errArgs
		}
		dev.Index = int(n)
	}
	return dev, nil
}

func makeSize(_ *Decoder, args Tuple) (any, error) {
	if len(args) != 1 {
		return nil, errArgs
	}
	size, err := dims(args[0])
	if err != nil {
		return nil, err
	}
	return Size(size), nil
}
