// Package pickle reads and writes Python pickles as data. The reader is an interpreter with an
// allow-list of harmless classes and functions, from which it builds plain Go values. Any other
// name in a file is an error, and nothing is ever executed. Memory comes from a budget: text and
// bytes are limited by the file's size, everything built around them by a fixed allowance. A result
// is always a finite tree of bounded size and depth, so that any walk over it ends.
//
// It is not a general unpickler: objects of user classes, recursive structures and Python 2 text
// are refused.
//
// Python values become: None nil, bool, int64 (*big.Int beyond), float64, complex128, string,
// []byte, ByteArray, Tuple, *List, *Dict, *OrderedDict, *DefaultDict, *Set, *NumpyScalar,
// *NumpyDType, *NumpyArray, Size, Device, DType, and Global for a class used as a value. Marshal
// writes each of them back as the same Python type.
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
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/internal/regular"
)

// Limits bound what one pickle may build. The zero value stands for DefaultLimits.
type Limits struct {
	Bytes int64 // size of the pickle
	// bytes for values, stack and memo, not counting the text and bytes in the pickle
	Memory int64
	Depth  int // nesting of the result
}

// DefaultLimits leave room for a checkpoint with two million logged numbers or thirty thousand
// tensors. With them no pickle takes two seconds or 256 MB, not counting text and bytes.
var DefaultLimits = Limits{Bytes: 2 << 30, Memory: 96 << 20, Depth: 500}

// Charges against Limits.Memory in bytes, rounded up to the cost of Go's allocator and of growing
// slices and maps.
const (
	costOp     = 4  // every opcode; bounds the time of those that allocate nothing
	costSlot   = 32 // an element of the stack, a list or the memo
	costItem   = 16 // an element of a tuple
	costNumber = 8
	costText   = 48  // in addition to its bytes
	costObject = 64  // an empty list, dict, tuple or other object
	costEntry  = 192 // an entry of a dict or set, with its index entry
	// the result of a call or of a persistent id, which may hold copies of its arguments
	costCall = 256
	costNode = 128 // a container in the check of the result
)

// Func builds the result of a call in a pickle.
type Func func(args Tuple) (any, error)

// Options extend the interpreter for one file format.
type Options struct {
	Limits Limits
	// Globals are names allowed in addition to the built-in list; a nil Func allows the name as a
	// value only.
	Globals map[Global]Func
	// Persistent resolves a persistent id; if nil, persistent ids are an error.
	Persistent func(id any) (any, error)
}

// ReadFile reads a pickle file such as nnU-Net's properties of a case.
func ReadFile(path string) (any, error) {
	f, err := regular.Open(path)
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

// Decoder reads consecutive pickles from one input.
type Decoder struct {
	r    *bufio.Reader
	size int64 // size of the whole input
	pos  int64
	opts Options

	stack   []any
	marks   []int
	deepest int           // largest size of stack and marks so far, already charged
	memo    []any         // by index; absent{} for unused indices
	sparse  map[int64]any // memo entries far beyond the end of memo
	kept    int64         // number of entries in both
	memory  int64         // budget left
	pushed  int64         // number of values pushed
	work    int64         // budget left, in bytes copied or hashed in addition to reading
	globals map[Global]bool
	names   []Global
}

// NewDecoder reads from r, which holds size bytes.
func NewDecoder(r io.Reader, size int64, opts Options) *Decoder {
	if opts.Limits == (Limits{}) {
		opts.Limits = DefaultLimits
	}
	return &Decoder{r: bufio.NewReaderSize(r, 64<<10), size: size, opts: opts,
		globals: map[Global]bool{}}
}

// Offset is the number of bytes read so far: after Decode, where the pickle ended.
func (d *Decoder) Offset() int64 { return d.pos }

// Globals lists the names seen so far, in order of appearance, as spelled in the file.
func (d *Decoder) Globals() []Global { return d.names }

// Decode reads the next pickle.
func (d *Decoder) Decode() (any, error) {
	start := d.pos
	d.stack, d.marks, d.deepest, d.memo, d.sparse, d.kept = nil, nil, 0, nil, nil, 0
	d.memory, d.pushed, d.work = d.opts.Limits.Memory, 0, 64<<20
	for {
		at := d.pos
		op, err := d.byte()
		if err != nil {
			return nil, fmt.Errorf("pickle: at byte %d: %w", at, err)
		}
		if op == opStop {
			if len(d.marks) > 0 || len(d.stack) != 1 {
				return nil, fmt.Errorf("pickle: at byte %d: STOP with %d values and %d open marks",
					at, len(d.stack), len(d.marks))
			}
			root := d.stack[0]
			if err := d.checkTree(root, d.pos-start); err != nil {
				return nil, fmt.Errorf("pickle: %w", err)
			}
			return root, nil
		}
		if err = d.charge(costOp); err == nil {
			err = d.step(op)
		}
		if err != nil {
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

// fill reads exactly len(b) bytes.
func (d *Decoder) fill(b []byte) (int, error) {
	if int64(len(b)) > d.size-d.pos {
		return 0, errTruncated
	}
	k, err := io.ReadFull(d.r, b)
	d.pos += int64(k)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errTruncated
	}
	return k, err
}

// take reads n bytes into newly allocated memory.
func (d *Decoder) take(n uint64) ([]byte, error) {
	if n > uint64(d.size-d.pos) {
		return nil, fmt.Errorf("%d bytes announced, %d left: %w", n, d.size-d.pos, errTruncated)
	}
	d.work += 2 * int64(n)
	b := make([]byte, n)
	_, err := d.fill(b)
	return b, err
}

// uint reads a little-endian integer of n bytes.
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

// sized reads an n-byte length and then that many bytes.
func (d *Decoder) sized(n int) ([]byte, error) {
	size, err := d.uint(n)
	if err != nil {
		return nil, err
	}
	return d.take(size)
}

// line reads up to a newline, which it drops.
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

// charge takes n bytes from the budget.
func (d *Decoder) charge(n int) error {
	d.memory -= int64(n)
	if d.memory < 0 {
		return fmt.Errorf("its values need more than %d MB of memory, more than any network "+
			"checkpoint needs", d.opts.Limits.Memory>>20)
	}
	return nil
}

// chargeWork takes n bytes of copying from the budget.
func (d *Decoder) chargeWork(n int) error {
	d.work -= int64(n)
	if d.work < 0 {
		return errors.New("the pickle copies the same data too often (copying limit)")
	}
	return nil
}

// push pushes a value whose memory has been charged.
func (d *Decoder) push(v any) error {
	d.stack = append(d.stack, v)
	d.pushed++
	return d.grown()
}

// pushNew pushes a new value and charges its memory.
func (d *Decoder) pushNew(v any, cost int) error {
	if err := d.charge(cost); err != nil {
		return err
	}
	return d.push(v)
}

// grown charges for the stack if it is larger than ever before.
func (d *Decoder) grown() error {
	n := len(d.stack) + len(d.marks) - d.deepest
	if n <= 0 {
		return nil
	}
	d.deepest += n
	return d.charge(n * costSlot)
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

// popMark removes and returns everything above the last mark. The slice is valid until the next
// push.
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

// tuple replaces the top n values with a Tuple.
func (d *Decoder) tuple(n int) error {
	if len(d.stack)-d.base() < n {
		return errUnderflow
	}
	t := append(make(Tuple, 0, n), d.stack[len(d.stack)-n:]...)
	d.stack = d.stack[:len(d.stack)-n]
	return d.pushNew(t, costObject+n*costItem)
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
		return fmt.Errorf("item assignment to a %s", TypeName(target))
	}
	return d.insert(dict, key, value)
}

// insert adds to a dict and charges for hashing the key.
func (d *Decoder) insert(dict *Dict, key, value any) error {
	canon, err := canonical(key)
	if err != nil {
		return err
	}
	cost := costEntry
	switch k := canon.(type) {
	case string:
		err = d.chargeWork(len(k))
	case bytesKey:
		cost += len(k)
		err = d.chargeWork(len(k))
	case tupleKey:
		cost += len(k)
		err = d.chargeWork(64 * len(k))
	}
	if err == nil {
		err = d.charge(cost)
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
		return fmt.Errorf("append to a %s", TypeName(target))
	}
	list.Items = append(list.Items, items...)
	return d.charge(len(items) * costSlot)
}

// absent marks an unused index of the memo.
type absent struct{}

// put stores the top of the stack in the memo. Python numbers entries from 0 or 1; any index is
// allowed.
func (d *Decoder) put(index int64) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	if n := int64(len(d.memo)); index > n+16 {
		if d.sparse == nil {
			d.sparse = map[int64]any{}
		}
		if _, ok := d.sparse[index]; !ok {
			d.kept++
		}
		d.sparse[index] = v
		return d.charge(4 * costSlot)
	}
	for int64(len(d.memo)) <= index {
		d.memo = append(d.memo, absent{})
		if err := d.charge(costSlot); err != nil {
			return err
		}
	}
	if d.memo[index] == (absent{}) {
		d.kept++
	}
	d.memo[index] = v
	return nil
}

func (d *Decoder) get(index int64) error {
	v, ok := d.sparse[index]
	if index < int64(len(d.memo)) {
		_, missing := d.memo[index].(absent)
		v, ok = d.memo[index], !missing
	}
	if !ok {
		return fmt.Errorf("memo entry %d does not exist", index)
	}
	return d.push(v)
}

// text pushes a string with an n-byte length, in the UTF-8 that Python writes.
func (d *Decoder) text(n int) error {
	b, err := d.sized(n)
	if err != nil {
		return err
	}
	s := string(b)
	if !validText(s) {
		return fmt.Errorf("text %.40q is not UTF-8", s)
	}
	return d.pushNew(s, costText)
}

// bytes pushes bytes with an n-byte length.
func (d *Decoder) bytes(n int) error {
	b, err := d.sized(n)
	if err != nil {
		return err
	}
	return d.pushNew(b, costText)
}

// validText checks Python's UTF-8, which encodes surrogates like other code points.
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

// maxInt is the largest size of an integer in bytes; torch writes at most 10.
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
		return d.pushNew(int64(v), costNumber)
	case opBinInt:
		v, err := d.uint(4)
		if err != nil {
			return err
		}
		return d.pushNew(int64(int32(v)), costNumber)
	case opLong1, opLong4:
		b, err := d.sized(1 + 3*int(op-opLong1))
		if err != nil {
			return err
		}
		v, err := longInt(b)
		if err != nil {
			return err
		}
		return d.pushNew(v, costText+len(b))
	case opInt, opLong:
		s, err := d.line(2 * maxInt)
		if err != nil {
			return err
		}
		if op == opInt && (s == "00" || s == "01") {
			return d.push(s == "01")
		}
		if err := d.chargeWork(len(s) * len(s) / 16); err != nil { // parsing time is quadratic
			return err
		}
		v, err := decimalInt(s)
		if err != nil {
			return err
		}
		return d.pushNew(v, costText+len(s))
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
			v = math.Float64frombits(0x7ff8 << 48) // Python's NaN, which differs from Go's
		}
		return d.pushNew(v, costNumber)
	case opBinFloat:
		var b [8]byte
		if _, err := d.fill(b[:]); err != nil {
			return err
		}
		return d.pushNew(math.Float64frombits(binary.BigEndian.Uint64(b[:])), costNumber)

	case opShortBinUnicode, opShortBinString:
		return d.text(1)
	case opBinUnicode, opBinString:
		return d.text(4)
	case opBinUnicode8:
		return d.text(8)
	case opUnicode:
		s, err := d.line(1 << 20)
		if err != nil {
			return err
		}
		if s, err = rawUnicode(s); err != nil {
			return err
		}
		return d.pushNew(s, costText)
	case opShortBinBytes:
		return d.bytes(1)
	case opBinBytes:
		return d.bytes(4)
	case opBinBytes8:
		return d.bytes(8)
	case opByteArray8:
		b, err := d.sized(8)
		if err != nil {
			return err
		}
		return d.pushNew(ByteArray(b), costText)

	case opMark:
		d.marks = append(d.marks, len(d.stack))
		return d.grown()
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
		return d.push(v)

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
		return d.pushNew(t, costObject+len(items)*costItem)
	case opEmptyList:
		return d.pushNew(&List{}, costObject)
	case opList:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.pushNew(&List{Items: slices.Clone(items)}, costObject+len(items)*costItem)
	case opEmptyDict:
		return d.pushNew(&Dict{}, costObject)
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
			return d.pushNew(target, costObject)
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
		return d.pushNew(&Set{}, costObject)
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
			return fmt.Errorf("add to a %s", TypeName(target))
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
		return d.pushNew(set, costObject)

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
		return d.put(d.kept)

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
			return errors.New("a global whose name is not text")
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
			return fmt.Errorf("call with a %s instead of a tuple", TypeName(args))
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
		return d.push(v)
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
			return errors.New("a persistent id in a file that must not contain one (is it a " +
				"PyTorch checkpoint?)")
		}
		v, err := d.opts.Persistent(id)
		if err != nil {
			return err
		}
		return d.pushNew(v, costCall)
	}
	return fmt.Errorf("this opcode is not allowed (%s)", map[byte]string{
		opInst: "INST makes an object of any class", opObj: "OBJ makes an object of any class",
		opNewObjEx: "NEWOBJ_EX makes an object of any class",
		opExt1:     "EXT1 calls a registered extension",
		opExt2:     "EXT2 calls a registered extension",
		opExt4:     "EXT4 calls a registered extension", opString: "STRING is Python 2 text",
		opNextBuffer:     "NEXT_BUFFER needs data outside the file",
		opReadOnlyBuffer: "READONLY_BUFFER needs data outside the file",
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

// rawUnicode decodes Python's raw-unicode-escape: Latin-1 bytes with escapes \uXXXX and \UXXXXXXXX.
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
