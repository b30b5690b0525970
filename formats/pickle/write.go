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
	"unicode/utf8"
)

// Persistent is written as a persistent id, which the reader resolves (torch: to a storage).
type Persistent struct{ ID any }

// Call is written as a call of a global, such as torch's _rebuild_tensor_v2.
type Call struct {
	Func Global
	Args Tuple
}

// Marshal writes v as a pickle of protocol 2, with only the opcodes that torch's weights_only
// unpickler supports (for integers of up to 255 bytes). Shared lists, dicts, tuples, arrays and
// byte strings stay shared. replace, if not nil, is called for each value of a foreign type and
// returns its replacement, usually a Call or a Persistent; further occurrences of a foreign pointer
// are written as references to the first. A value that contains itself and nesting deeper than
// DefaultLimits.Depth are errors.
func Marshal(v any, replace func(v any) (any, error)) ([]byte, error) {
	e := encoder{memo: map[any]uint32{}, open: map[any]bool{}, replace: replace}
	e.op(opProto, 2)
	if err := e.value(v, 0); err != nil {
		return nil, fmt.Errorf("pickle: %w", err)
	}
	e.op(opStop)
	return e.out, nil
}

type encoder struct {
	out     []byte
	memo    map[any]uint32
	open    map[any]bool // containers being written
	replace func(any) (any, error)
}

// Memo keys: text is shared by content, a foreign pointer by identity.
type (
	textID    string
	foreignID struct{ v any }
)

func (e *encoder) op(b ...byte) { e.out = append(e.out, b...) }

// known writes a memo reference if the object was written before.
func (e *encoder) known(id any) bool {
	i, ok := e.memo[id]
	switch {
	case !ok:
		return false
	case i < 256:
		e.op(opBinGet, byte(i))
	default:
		e.op(opLongBinGet)
		e.out = binary.LittleEndian.AppendUint32(e.out, i)
	}
	return true
}

// remember stores the object on top of the reader's stack in the memo.
func (e *encoder) remember(id any) {
	i := uint32(len(e.memo))
	e.memo[id] = i
	if i < 256 {
		e.op(opBinPut, byte(i))
		return
	}
	e.op(opLongBinPut)
	e.out = binary.LittleEndian.AppendUint32(e.out, i)
}

func (e *encoder) value(v any, depth int) error {
	if depth > DefaultLimits.Depth {
		return fmt.Errorf("nested deeper than %d levels", DefaultLimits.Depth)
	}
	id, shared := identity(v)
	if shared {
		if e.open[id] {
			return fmt.Errorf("a %s contains itself", TypeName(v))
		}
		if e.known(id) {
			return nil
		}
		e.open[id] = true
		defer delete(e.open, id)
	}
	depth++
	switch v := v.(type) {
	case nil:
		e.op(opNone)
	case bool:
		if v {
			e.op(opNewTrue)
		} else {
			e.op(opNewFalse)
		}
	case int:
		e.integer(int64(v))
	case int64:
		e.integer(v)
	case *big.Int:
		return e.bigInteger(v)
	case float64:
		e.op(opBinFloat)
		e.out = binary.BigEndian.AppendUint64(e.out, math.Float64bits(v))
	case complex128:
		return e.call(Global{"builtins", "complex"}, Tuple{real(v), imag(v)}, depth)
	case string:
		return e.text(v)
	case []byte:
		if err := e.bytes(v, depth); err != nil {
			return err
		}
		if shared {
			e.remember(id)
		}
	case ByteArray:
		if len(v) == 0 {
			return e.call(Global{"builtins", "bytearray"}, Tuple{}, depth)
		}
		return e.call(Global{"builtins", "bytearray"}, Tuple{latin1Text(v), "latin-1"}, depth)
	case Tuple:
		return e.tuple(v, id, depth)
	case *List:
		e.op(opEmptyList)
		e.remember(id)
		return e.items(v.Items, depth)
	case *Dict:
		e.op(opEmptyDict)
		e.remember(id)
		return e.pairs(v, depth)
	case *DefaultDict:
		var args Tuple
		if v.Factory != nil {
			args = Tuple{v.Factory}
		}
		if err := e.call(Global{"collections", "defaultdict"}, args, depth); err != nil {
			return err
		}
		e.remember(id)
		return e.pairs(&v.Dict, depth)
	case *OrderedDict:
		if err := e.call(Global{"collections", "OrderedDict"}, nil, depth); err != nil {
			return err
		}
		e.remember(id)
		if err := e.pairs(&v.Dict, depth); err != nil || v.Attrs == nil {
			return err
		}
		if err := e.value(v.Attrs, depth); err != nil {
			return err
		}
		e.op(opBuild)
	case *Set:
		name := "set"
		if v.Frozen {
			name = "frozenset"
		}
		if err := e.call(Global{"builtins", name}, Tuple{&List{Items: v.Items()}},
			depth); err != nil {
			return err
		}
		e.remember(id)
	case Global:
		return e.global(v)
	case *NumpyDType:
		return e.dtype(*v, depth)
	case *NumpyScalar:
		if err := e.reduce(Global{"numpy.core.multiarray", "scalar"}, depth, &v.DType,
			v.Data); err != nil {
			return err
		}
		e.remember(id)
	case *NumpyArray:
		shape := make(Tuple, len(v.Shape))
		for i, n := range v.Shape {
			shape[i] = n
		}
		if err := e.reduce(Global{"numpy.core.multiarray", "_reconstruct"}, depth,
			Global{"numpy", "ndarray"}, Tuple{int64(0)}, []byte("b")); err != nil {
			return err
		}
		e.remember(id)
		if err := e.value(Tuple{int64(1), shape, &v.DType, v.Fortran, v.Data}, depth); err != nil {
			return err
		}
		e.op(opBuild)
	case Size:
		dims := make(Tuple, len(v))
		for i, n := range v {
			dims[i] = n
		}
		return e.call(Global{"torch", "Size"}, Tuple{dims}, depth)
	case Device:
		args := Tuple{v.Type}
		if v.Index >= 0 {
			args = append(args, int64(v.Index))
		}
		return e.call(Global{"torch", "device"}, args, depth)
	case DType:
		if !slices.Contains(torchDTypes, v) {
			return fmt.Errorf("torch.%s is not a dtype", v)
		}
		return e.global(Global{"torch", string(v)})
	case Persistent:
		if err := e.value(v.ID, depth); err != nil {
			return err
		}
		e.op(opBinPersID)
	case Call:
		return e.call(v.Func, v.Args, depth)
	default:
		return e.foreign(v, depth)
	}
	return nil
}

func (e *encoder) foreign(v any, depth int) error {
	if e.replace == nil || reflect.ValueOf(v).Kind() != reflect.Pointer {
		return fmt.Errorf("a Go %T has no Python form", v)
	}
	id := foreignID{v}
	if e.known(id) {
		return nil
	}
	if e.open[id] {
		return fmt.Errorf("a %T contains itself", v)
	}
	e.open[id] = true
	defer delete(e.open, id)
	r, err := e.replace(v)
	if err != nil {
		return err
	}
	if err := e.value(r, depth); err != nil {
		return err
	}
	if _, ok := r.(Persistent); !ok { // torch writes a storage's id again each time
		e.remember(id)
	}
	return nil
}

func (e *encoder) integer(n int64) {
	switch {
	case n >= 0 && n < 1<<8:
		e.op(opBinInt1, byte(n))
	case n >= 0 && n < 1<<16:
		e.op(opBinInt2, byte(n), byte(n>>8))
	case n == int64(int32(n)):
		e.op(opBinInt)
		e.out = binary.LittleEndian.AppendUint32(e.out, uint32(n))
	default:
		b := binary.LittleEndian.AppendUint64(nil, uint64(n))
		for len(b) > 1 && (b[len(b)-1] == 0 && b[len(b)-2] < 0x80 ||
			b[len(b)-1] == 0xff && b[len(b)-2] >= 0x80) {
			b = b[:len(b)-1]
		}
		e.op(opLong1, byte(len(b)))
		e.op(b...)
	}
}

func (e *encoder) bigInteger(n *big.Int) error {
	if n.IsInt64() {
		e.integer(n.Int64())
		return nil
	}
	size := n.BitLen()/8 + 1
	if size > maxInt {
		return fmt.Errorf("integer of %d bytes, at most %d are written", size, maxInt)
	}
	m := n
	if n.Sign() < 0 {
		m = new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
	}
	b := m.FillBytes(make([]byte, size))
	slices.Reverse(b)
	if size < 256 {
		e.op(opLong1, byte(size))
	} else {
		e.op(opLong4)
		e.out = binary.LittleEndian.AppendUint32(e.out, uint32(size))
	}
	e.op(b...)
	return nil
}

func (e *encoder) text(s string) error {
	if e.known(textID(s)) {
		return nil
	}
	if !validText(s) {
		return fmt.Errorf("text %.40q is not UTF-8", s)
	}
	if len(s) > math.MaxUint32 {
		return errors.New("text of 4 GiB or more")
	}
	e.op(opBinUnicode)
	e.out = binary.LittleEndian.AppendUint32(e.out, uint32(len(s)))
	e.out = append(e.out, s...)
	e.remember(textID(s))
	return nil
}

// latin1Text returns bytes in protocol 2's form: one code point per byte.
func latin1Text(b []byte) string {
	var s strings.Builder
	s.Grow(len(b) + len(b)/2)
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

func (e *encoder) bytes(b []byte, depth int) error {
	if len(b) == 0 {
		return e.reduce(Global{"builtins", "bytes"}, depth)
	}
	if err := e.global(Global{"_codecs", "encode"}); err != nil {
		return err
	}
	s := latin1Text(b)
	if len(s) > math.MaxUint32 {
		return errors.New("bytes too long for protocol 2")
	}
	e.op(opBinUnicode)
	e.out = binary.LittleEndian.AppendUint32(e.out, uint32(len(s)))
	e.out = append(e.out, s...)
	if err := e.text("latin1"); err != nil {
		return err
	}
	e.op(opTuple2, opReduce)
	return nil
}

func (e *encoder) tuple(t Tuple, id any, depth int) error {
	if len(t) == 0 {
		e.op(opEmptyTuple)
		return nil
	}
	if len(t) > 3 {
		e.op(opMark)
	}
	for _, v := range t {
		if err := e.value(v, depth); err != nil {
			return err
		}
	}
	if len(t) > 3 {
		e.op(opTuple)
	} else {
		e.op(opTuple1 + byte(len(t)-1))
	}
	e.remember(id)
	return nil
}

// batch is the number of items that Python adds with one opcode.
const batch = 1000

func (e *encoder) items(items []any, depth int) error {
	for part := range slices.Chunk(items, batch) {
		if len(part) > 1 {
			e.op(opMark)
		}
		for _, v := range part {
			if err := e.value(v, depth); err != nil {
				return err
			}
		}
		if len(part) > 1 {
			e.op(opAppends)
		} else {
			e.op(opAppend)
		}
	}
	return nil
}

func (e *encoder) pairs(d *Dict, depth int) error {
	for part := range slices.Chunk(d.entries, batch) {
		if len(part) > 1 {
			e.op(opMark)
		}
		for _, p := range part {
			if err := e.value(p.key, depth); err != nil {
				return err
			}
			if err := e.value(p.value, depth); err != nil {
				return err
			}
		}
		if len(part) > 1 {
			e.op(opSetItems)
		} else {
			e.op(opSetItem)
		}
	}
	return nil
}

func (e *encoder) global(g Global) error {
	if e.known(g) {
		return nil
	}
	if g.Module == "" || g.Name == "" || strings.Contains(g.Module+g.Name, "\n") ||
		!utf8.ValidString(g.Module+g.Name) {
		return fmt.Errorf("%q is not the name of a global", g)
	}
	module := g.Module
	if module == "builtins" {
		module = "__builtin__" // protocol 2 is Python 2's
	}
	e.out = append(e.out, "c"+module+"\n"+g.Name+"\n"...)
	e.remember(g)
	return nil
}

// reduce is call with variadic arguments.
func (e *encoder) reduce(g Global, depth int, args ...any) error { return e.call(g, args, depth) }

// call writes the call of a global.
func (e *encoder) call(g Global, args Tuple, depth int) error {
	if err := e.global(g); err != nil {
		return err
	}
	if err := e.value(args, depth); err != nil {
		return err
	}
	e.op(opReduce)
	return nil
}

// dtype writes a numpy dtype once per pickle.
func (e *encoder) dtype(t NumpyDType, depth int) error {
	if e.known(t) {
		return nil
	}
	if err := e.reduce(Global{"numpy", "dtype"}, depth, t.Short(), false, true); err != nil {
		return err
	}
	e.remember(t)
	size, align, flags := -1, -1, 0
	switch t.Kind {
	case 'S':
		size, align = t.Size, 1
	case 'U':
		size, align, flags = t.Size, 4, 8
	}
	if err := e.value(Tuple{int64(3), string(t.Order), nil, nil, nil, int64(size), int64(align),
		int64(flags)}, depth); err != nil {
		return err
	}
	e.op(opBuild)
	return nil
}
