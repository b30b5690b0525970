// Package pickle reads and writes Python pickles as data. Reading is an interpreter that knows a fixed list of harmless
// classes and functions and builds plain Go values from them; every other name in a file is an error that says so, and
// nothing is ever executed. Sizes are checked against the input before memory is taken, and a result is always a finite
// tree of bounded size and depth, so that any walk over it ends.
//
// It is not a general unpickler: objects of user classes, recursive structures and Python 2 text are refused.
//
// Python values become: None nil, bool, int64 (*big.Int beyond), float64, complex128, string, []byte, ByteArray, Tuple,
// *List, *Dict, *OrderedDict, *DefaultDict, *Set, *NumpyScalar, *NumpyDType, *NumpyArray, Size, Device, DType, and
// Global for a class used as a value. Marshal writes each of them as the same Python type again.
package pickle

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits bound what one pickle may make. The zero value stands for DefaultLimits.
type Limits struct {
	Bytes  int64 // size of the pickle
	Values int64 // objects made; a container counts as four
	Depth  int   // nesting of the result
}

// DefaultLimits leave room for a checkpoint with millions of logged numbers.
var DefaultLimits = Limits{Bytes: 2 << 30, Values: 8 << 20, Depth: 500}

// Func builds the value of a call that a pickle asks for.
type Func func(args Tuple) (any, error)

// Options extend the interpreter for one file format.
type Options struct {
	Limits Limits
	// Globals are names allowed beside the built-in list; a nil Func allows the name as a value only.
	Globals map[Global]Func
	// Persistent resolves a persistent id; without it persistent ids are an error.
	Persistent func(id any) (any, error)
}

// ReadFile reads a pickle file such as nnU-Net's properties of a case.
func ReadFile(path string) (any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	v, err := NewDecoder(f, info.Size(), Options{}).Decode()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// Unmarshal reads one pickle; bytes after its end are ignored, as Python does.
func Unmarshal(data []byte, opts Options) (any, error) {
	return NewDecoder(bytes.NewReader(data), int64(len(data)), opts).Decode()
}

// Decoder reads pickles that follow each other in one input.
type Decoder struct {
	r    *bufio.Reader
	size int64 // of the whole input
	pos  int64
	opts Options

	stack   []any
	marks   []int
	memo    map[int64]any
	values  int64 // budget left
	work    int64 // budget left, in bytes copied or hashed beyond the reading itself
	globals map[Global]bool
	names   []Global
}

// NewDecoder reads from r, which holds size bytes.
func NewDecoder(r io.Reader, size int64, opts Options) *Decoder {
	if opts.Limits == (Limits{}) {
		opts.Limits = DefaultLimits
	}
	return &Decoder{r: bufio.NewReaderSize(r, 64<<10), size: size, opts: opts, globals: map[Global]bool{}}
}

// Offset is the number of bytes read so far: after Decode, where the pickle ended.
func (d *Decoder) Offset() int64 { return d.pos }

// Globals lists the names met so far, in order of appearance, as the file spells them.
func (d *Decoder) Globals() []Global { return d.names }

// Decode reads the next pickle.
func (d *Decoder) Decode() (any, error) {
	start := d.pos
	left := d.size - start
	d.stack, d.marks, d.memo = nil, nil, map[int64]any{}
	d.values = d.opts.Limits.Values
	d.work = 64*min(left, d.opts.Limits.Bytes) + 64<<20
	for {
		at := d.pos
		op, err := d.byte()
		if err != nil {
			return nil, fmt.Errorf("pickle: at byte %d: %w", at, err)
		}
		if op == opStop {
			if len(d.marks) > 0 || len(d.stack) != 1 {
				return nil, fmt.Errorf("pickle: at byte %d: STOP with %d values and %d open marks", at, len(d.stack), len(d.marks))
			}
			root := d.stack[0]
			if err := checkTree(root, d.opts.Limits, d.pos-start); err != nil {
				return nil, fmt.Errorf("pickle: %w", err)
			}
			return root, nil
		}
		if err := d.step(op); err != nil {
			return nil, fmt.Errorf("pickle: at byte %d, opcode 0x%02x: %w", at, op, err)
		}
		if d.pos-start > d.opts.Limits.Bytes {
			return nil, fmt.Errorf("pickle: larger than the limit of %d bytes", d.opts.Limits.Bytes)
		}
	}
}

var errTruncated = errors.New("the data ends in the middle of the pickle (truncated?)")

func (d *Decoder) byte() (byte, error) {
	if d.pos >= d.size {
		return 0, errTruncated
	}
	b, err := d.r.ReadByte()
	if err == io.EOF {
		err = errTruncated
	}
	if err == nil {
		d.pos++
	}
	return b, err
}

// take reads n bytes into new memory.
func (d *Decoder) take(n uint64) ([]byte, error) {
	if n > uint64(d.size-d.pos) {
		return nil, fmt.Errorf("%d bytes announced, %d left: %w", n, d.size-d.pos, errTruncated)
	}
	b := make([]byte, n)
	k, err := io.ReadFull(d.r, b)
	d.pos += int64(k)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errTruncated
	}
	return b, err
}

// uint reads a little-endian number of n bytes.
func (d *Decoder) uint(n int) (uint64, error) {
	var v uint64
	for i := range n {
		b, err := d.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * i)
	}
	return v, nil
}

// sized reads a length of n bytes and then as many bytes.
func (d *Decoder) sized(n int) ([]byte, error) {
	size, err := d.uint(n)
	if err != nil {
		return nil, err
	}
	return d.take(size)
}

// line reads up to a newline, which is dropped.
func (d *Decoder) line(limit int) (string, error) {
	var b []byte
	for {
		c, err := d.byte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return string(b), nil
		}
		if len(b) == limit {
			return "", fmt.Errorf("line longer than %d bytes", limit)
		}
		b = append(b, c)
	}
}

// charge takes n objects from the budget.
func (d *Decoder) charge(n int) error {
	d.values -= int64(n)
	if d.values < 0 {
		return fmt.Errorf("more than %d values", d.opts.Limits.Values)
	}
	return nil
}

// chargeWork takes n bytes of copying from the budget.
func (d *Decoder) chargeWork(n int) error {
	d.work -= int64(n)
	if d.work < 0 {
		return errors.New("the pickle repeats itself beyond measure (copying limit)")
	}
	return nil
}

// push adds a new object to the stack.
func (d *Decoder) push(v any) error {
	d.stack = append(d.stack, v)
	switch v.(type) {
	case *List, *Dict, *OrderedDict, *DefaultDict, *Set:
		return d.charge(4)
	}
	return d.charge(1)
}

var errUnderflow = errors.New("the stack holds too few values")

func (d *Decoder) base() int {
	if len(d.marks) == 0 {
		return 0
	}
	return d.marks[len(d.marks)-1]
}

func (d *Decoder) pop() (any, error) {
	if len(d.stack) <= d.base() {
		return nil, errUnderflow
	}
	v := d.stack[len(d.stack)-1]
	d.stack = d.stack[:len(d.stack)-1]
	return v, nil
}

func (d *Decoder) top() (any, error) {
	if len(d.stack) <= d.base() {
		return nil, errUnderflow
	}
	return d.stack[len(d.stack)-1], nil
}

// popMark removes and returns everything above the last mark. The slice is valid until the next push.
func (d *Decoder) popMark() ([]any, error) {
	if len(d.marks) == 0 {
		return nil, errors.New("no mark on the stack")
	}
	m := d.base()
	d.marks = d.marks[:len(d.marks)-1]
	items := d.stack[m:]
	d.stack = d.stack[:m]
	return items, nil
}

// tuple replaces the top n values by a Tuple.
func (d *Decoder) tuple(n int) error {
	if len(d.stack)-d.base() < n {
		return errUnderflow
	}
	t := Tuple(slices.Clone(d.stack[len(d.stack)-n:]))
	d.stack = d.stack[:len(d.stack)-n]
	if t == nil {
		t = Tuple{}
	}
	return d.push(t)
}

func (d *Decoder) setItem(target, key, value any) error {
	var dict *Dict
	switch t := target.(type) {
	case *Dict:
		dict = t
	case *OrderedDict:
		dict = &t.Dict
	case *DefaultDict:
		dict = &t.Dict
	default:
		return fmt.Errorf("item assignment to a %s", typeName(target))
	}
	return d.insert(dict, key, value)
}

// insert adds to a dict and accounts for hashing the key.
func (d *Decoder) insert(dict *Dict, key, value any) error {
	if err := d.charge(1); err != nil {
		return err
	}
	canon, err := canonical(key)
	if err != nil {
		return err
	}
	switch k := canon.(type) {
	case string:
		err = d.chargeWork(len(k))
	case bytesKey:
		err = d.chargeWork(len(k))
	case tupleKey:
		err = d.chargeWork(8 * len(k))
	}
	if err != nil {
		return err
	}
	dict.set(key, canon, value)
	return nil
}

func (d *Decoder) appendTo(target any, items []any) error {
	list, ok := target.(*List)
	if !ok {
		return fmt.Errorf("append to a %s", typeName(target))
	}
	list.Items = append(list.Items, items...)
	return nil
}

func (d *Decoder) put(index int64) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	d.memo[index] = v
	return d.charge(1)
}

func (d *Decoder) get(index int64) error {
	v, ok := d.memo[index]
	if !ok {
		return fmt.Errorf("memo entry %d does not exist", index)
	}
	d.stack = append(d.stack, v)
	return nil
}

// text checks the UTF-8 that Python writes: surrogates are encoded like other code points.
func text(b []byte) (string, error) {
	s := string(b)
	if !validText(s) {
		return "", fmt.Errorf("text %.40q is not UTF-8", s)
	}
	return s, nil
}

func validText(s string) bool {
	if utf8.ValidString(s) {
		return true
	}
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n <= 1 {
			if len(s) < 3 || s[0] != 0xed || s[1]&0xe0 != 0xa0 || s[2]&0xc0 != 0x80 {
				return false
			}
			n = 3
		}
		s = s[n:]
	}
	return true
}

// maxInt is the length in bytes up to which integers are read; torch's own are at most 10.
const maxInt = 1024

// longInt decodes a little-endian two's complement integer.
func longInt(b []byte) (any, error) {
	if len(b) > maxInt {
		return nil, fmt.Errorf("integer of %d bytes, at most %d are read", len(b), maxInt)
	}
	if len(b) == 0 {
		return int64(0), nil
	}
	be := slices.Clone(b)
	slices.Reverse(be)
	n := new(big.Int).SetBytes(be)
	if be[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(be))))
	}
	return smallInt(n), nil
}

func smallInt(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

func decimalInt(s string) (any, error) {
	n, ok := new(big.Int).SetString(strings.TrimSuffix(s, "L"), 10)
	if !ok {
		return nil, fmt.Errorf("%.40q is not an integer", s)
	}
	return smallInt(n), nil
}

// step executes one opcode. The names are those of Python's pickletools.
func (d *Decoder) step(op byte) error {
	switch op {
	case opProto:
		v, err := d.byte()
		if err != nil {
			return err
		}
		if v > 5 {
			return fmt.Errorf("pickle protocol %d, at most 5 is known", v)
		}
		return nil
	case opFrame:
		n, err := d.uint(8)
		if err == nil && n > uint64(d.size-d.pos) {
			err = fmt.Errorf("frame of %d bytes, %d left: %w", n, d.size-d.pos, errTruncated)
		}
		return err

	case opNone:
		return d.push(nil)
	case opNewTrue:
		return d.push(true)
	case opNewFalse:
		return d.push(false)
	case opBinInt1, opBinInt2:
		v, err := d.uint(1 + int(op-opBinInt1)/2)
		if err != nil {
			return err
		}
		return d.push(int64(v))
	case opBinInt:
		v, err := d.uint(4)
		if err != nil {
			return err
		}
		return d.push(int64(int32(v)))
	case opLong1, opLong4:
		b, err := d.sized(1 + 3*int(op-opLong1))
		if err != nil {
			return err
		}
		v, err := longInt(b)
		if err != nil {
			return err
		}
		return d.push(v)
	case opInt, opLong:
		s, err := d.line(2 * maxInt)
		if err != nil {
			return err
		}
		if op == opInt && (s == "00" || s == "01") {
			return d.push(s == "01")
		}
		v, err := decimalInt(s)
		if err != nil {
			return err
		}
		return d.push(v)
	case opFloat:
		s, err := d.line(128)
		if err != nil {
			return err
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%.40q is not a number", s)
		}
		if math.IsNaN(v) {
			v = math.Float64frombits(0x7ff8 << 48) // Python's, not Go's
		}
		return d.push(v)
	case opBinFloat:
		b, err := d.take(8)
		if err != nil {
			return err
		}
		return d.push(math.Float64frombits(binary.BigEndian.Uint64(b)))

	case opBinUnicode, opShortBinUnicode, opBinUnicode8, opBinString, opShortBinString:
		b, err := d.sized(map[byte]int{opBinUnicode: 4, opShortBinUnicode: 1, opBinUnicode8: 8, opBinString: 4, opShortBinString: 1}[op])
		if err != nil {
			return err
		}
		s, err := text(b)
		if err != nil {
			return err
		}
		return d.push(s)
	case opUnicode:
		s, err := d.line(1 << 20)
		if err != nil {
			return err
		}
		if s, err = rawUnicode(s); err != nil {
			return err
		}
		return d.push(s)
	case opBinBytes, opShortBinBytes, opBinBytes8:
		b, err := d.sized(map[byte]int{opBinBytes: 4, opShortBinBytes: 1, opBinBytes8: 8}[op])
		if err != nil {
			return err
		}
		return d.push(b)
	case opByteArray8:
		b, err := d.sized(8)
		if err != nil {
			return err
		}
		return d.push(ByteArray(b))

	case opMark:
		d.marks = append(d.marks, len(d.stack))
		return d.charge(1)
	case opPop:
		if len(d.marks) > 0 && len(d.stack) == d.base() {
			_, err := d.popMark()
			return err
		}
		_, err := d.pop()
		return err
	case opPopMark:
		_, err := d.popMark()
		return err
	case opDup:
		v, err := d.top()
		if err != nil {
			return err
		}
		d.stack = append(d.stack, v)
		return nil

	case opEmptyTuple:
		return d.tuple(0)
	case opTuple1, opTuple2, opTuple3:
		return d.tuple(int(op-opTuple1) + 1)
	case opTuple:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		t := append(make(Tuple, 0, len(items)), items...)
		return d.push(t)
	case opEmptyList:
		return d.push(&List{})
	case opList:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.push(&List{Items: slices.Clone(items)})
	case opEmptyDict:
		return d.push(&Dict{})
	case opDict, opSetItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		if len(items)%2 != 0 {
			return errors.New("a key without a value")
		}
		var target any = &Dict{}
		if op == opSetItems {
			if target, err = d.top(); err != nil {
				return err
			}
		}
		for i := 0; i < len(items); i += 2 {
			if err := d.setItem(target, items[i], items[i+1]); err != nil {
				return err
			}
		}
		if op == opDict {
			return d.push(target)
		}
		return nil
	case opSetItem:
		value, err := d.pop()
		if err != nil {
			return err
		}
		key, err := d.pop()
		if err != nil {
			return err
		}
		target, err := d.top()
		if err != nil {
			return err
		}
		return d.setItem(target, key, value)
	case opAppend:
		v, err := d.pop()
		if err != nil {
			return err
		}
		target, err := d.top()
		if err != nil {
			return err
		}
		return d.appendTo(target, []any{v})
	case opAppends:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		target, err := d.top()
		if err != nil {
			return err
		}
		return d.appendTo(target, items)
	case opEmptySet:
		return d.push(&Set{})
	case opAddItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		target, err := d.top()
		if err != nil {
			return err
		}
		set, ok := target.(*Set)
		if !ok || set.Frozen {
			return fmt.Errorf("add to a %s", typeName(target))
		}
		return d.addAll(set, items)
	case opFrozenSet:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		set := &Set{Frozen: true}
		if err := d.addAll(set, items); err != nil {
			return err
		}
		return d.push(set)

	case opPut, opGet:
		s, err := d.line(20)
		if err != nil {
			return err
		}
		index, err := strconv.ParseInt(s, 10, 64)
		if err != nil || index < 0 {
			return fmt.Errorf("memo index %.40q", s)
		}
		if op == opPut {
			return d.put(index)
		}
		return d.get(index)
	case opBinPut, opLongBinPut, opBinGet, opLongBinGet:
		width := 1
		if op == opLongBinPut || op == opLongBinGet {
			width = 4
		}
		index, err := d.uint(width)
		if err != nil {
			return err
		}
		if op == opBinPut || op == opLongBinPut {
			return d.put(int64(index))
		}
		return d.get(int64(index))
	case opMemoize:
		return d.put(int64(len(d.memo)))

	case opGlobal:
		module, err := d.line(512)
		if err != nil {
			return err
		}
		name, err := d.line(512)
		if err != nil {
			return err
		}
		return d.global(module, name)
	case opStackGlobal:
		name, err := d.pop()
		if err != nil {
			return err
		}
		module, err := d.pop()
		if err != nil {
			return err
		}
		m, ok1 := module.(string)
		n, ok2 := name.(string)
		if !ok1 || !ok2 {
			return errors.New("a global named by something else than text")
		}
		return d.global(m, n)
	case opReduce, opNewObj:
		args, err := d.pop()
		if err != nil {
			return err
		}
		f, err := d.pop()
		if err != nil {
			return err
		}
		t, ok := args.(Tuple)
		if !ok {
			return fmt.Errorf("call with a %s instead of a tuple", typeName(args))
		}
		if op == opNewObj && len(t) > 0 {
			return errors.New("NEWOBJ with arguments is not supported")
		}
		return d.call(f, t)
	case opBuild:
		state, err := d.pop()
		if err != nil {
			return err
		}
		target, err := d.pop()
		if err != nil {
			return err
		}
		v, err := d.build(target, state)
		if err != nil {
			return err
		}
		d.stack = append(d.stack, v)
		return nil
	case opPersID, opBinPersID:
		var id any
		var err error
		if op == opPersID {
			id, err = d.line(1024)
		} else {
			id, err = d.pop()
		}
		if err != nil {
			return err
		}
		if d.opts.Persistent == nil {
			return errors.New("a persistent id in a file that must not have one (is it a PyTorch checkpoint?)")
		}
		v, err := d.opts.Persistent(id)
		if err != nil {
			return err
		}
		return d.push(v)
	}
	return fmt.Errorf("this opcode is not allowed (%s)", map[byte]string{
		opInst: "INST makes an object of any class", opObj: "OBJ makes an object of any class",
		opNewObjEx: "NEWOBJ_EX makes an object of any class",
		opExt1:     "EXT1 calls a registered extension", opExt2: "EXT2 calls a registered extension",
		opExt4: "EXT4 calls a registered extension", opString: "STRING is Python 2 text",
		opNextBuffer: "NEXT_BUFFER needs data outside the file", opReadOnlyBuffer: "READONLY_BUFFER needs data outside the file",
	}[op])
}

func (d *Decoder) addAll(set *Set, items []any) error {
	for _, v := range items {
		if err := d.insert(&set.dict, v, nil); err != nil {
			return err
		}
	}
	return nil
}

// rawUnicode decodes Python's raw-unicode-escape: Latin-1 bytes with \uXXXX and \UXXXXXXXX.
func rawUnicode(s string) (string, error) {
	var b []byte
	for i := 0; i < len(s); {
		n := 0
		if s[i] == '\\' && i+1 < len(s) {
			switch s[i+1] {
			case 'u':
				n = 4
			case 'U':
				n = 8
			}
		}
		if n == 0 {
			b = utf8.AppendRune(b, rune(s[i]))
			i++
			continue
		}
		if i+2+n > len(s) {
			return "", errors.New("text with a cut-off escape")
		}
		r, err := strconv.ParseUint(s[i+2:i+2+n], 16, 32)
		if err != nil || r > utf8.MaxRune {
			return "", fmt.Errorf("text with the escape %q", s[i:i+2+n])
		}
		if r >= 0xd800 && r < 0xe000 {
			b = append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
		} else {
			b = utf8.AppendRune(b, rune(r))
		}
		i += 2 + n
	}
	return string(b), nil
}
