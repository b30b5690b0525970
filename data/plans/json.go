package plans

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Object is a JSON object that keeps its keys in file order, as a Python dict does. The zero value
// is an empty object. A Go map would not do: checkpoints and result folders store plans.json and
// dataset.json, and the order of channels is the order of keys.
type Object struct {
	keys   []string
	values map[string]any
}

// NewObject builds an Object from alternating keys and values. It panics if a key is not a string.
func NewObject(pairs ...any) *Object {
	o := &Object{}
	for i := 0; i < len(pairs); i += 2 {
		o.Set(pairs[i].(string), pairs[i+1])
	}
	return o
}

// Get returns the value of key and whether it is present.
func (o *Object) Get(key string) (any, bool) {
	if o == nil {
		return nil, false
	}
	v, ok := o.values[key]
	return v, ok
}

// Set stores value under key. A key that is already present keeps its place.
func (o *Object) Set(key string, value any) {
	if o.values == nil {
		o.values = make(map[string]any)
	}
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

// Delete removes key if it is present.
func (o *Object) Delete(key string) {
	if _, ok := o.Get(key); ok {
		delete(o.values, key)
		o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
	}
}

// Keys returns the keys in order. The slice is a copy.
func (o *Object) Keys() []string {
	if o == nil {
		return nil
	}
	return slices.Clone(o.keys)
}

// Len returns the number of keys.
func (o *Object) Len() int {
	if o == nil {
		return 0
	}
	return len(o.keys)
}

// Clone returns a deep copy: nested objects and lists are copied too.
func (o *Object) Clone() *Object {
	if o == nil {
		return nil
	}
	c := &Object{}
	for _, k := range o.keys {
		c.Set(k, cloneValue(o.values[k]))
	}
	return c
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case *Object:
		return v.Clone()
	case []any:
		c := make([]any, len(v))
		for i := range v {
			c[i] = cloneValue(v[i])
		}
		return c
	}
	return v
}

// maxDepth bounds the nesting of a document, so that a hostile file cannot exhaust the stack.
const maxDepth = 1000

// DecodeJSON decodes one JSON document as Python's json.loads does: null to nil, true and false to
// bool, numbers without fraction and exponent to int64 (or *big.Int beyond its range), other
// numbers and the tokens NaN, Infinity and -Infinity to float64, then string, []any and *Object. A
// repeated key keeps its first position and its last value. Errors name line and column.
//
// Like json.loads of bytes it accepts UTF-8, with or without a byte order mark, and UTF-16 and
// UTF-32, which editors on Windows write; it detects them by the mark or the zero bytes.
//
// Differs: a lone surrogate escape is an error, since it is not valid in a Go string. nnU-Net
// itself only reads UTF-8 without a mark.
func DecodeJSON(data []byte) (any, error) {
	data, err := toUTF8(data)
	if err != nil {
		return nil, err
	}
	d := &jsonDecoder{data: data, memory: maxMemory}
	d.space()
	v, err := d.value(0)
	if err != nil {
		return nil, err
	}
	d.space()
	if d.pos != len(data) {
		return nil, d.errorf("unexpected text after the document")
	}
	return v, nil
}

// maxMemory bounds the memory of decoded values, which can be many times the size of the document.
const maxMemory = 96 << 20

// Memory charged per value, in bytes, rounded up to the cost of Go's allocator, slices and maps.
const (
	costValue  = 16
	costItem   = 32 // per list element
	costObject = 384
	costKey    = 128
)

type jsonDecoder struct {
	data   []byte
	pos    int
	memory int // remaining budget
}

func (d *jsonDecoder) charge(n int) error {
	if d.memory -= n; d.memory < 0 {
		return d.errorf("the values so far need more than %d MB of memory", maxMemory>>20)
	}
	return nil
}

func (d *jsonDecoder) errorf(format string, args ...any) error {
	before := d.data[:min(d.pos, len(d.data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Errorf("JSON line %d column %d: %s", line, column, fmt.Sprintf(format, args...))
}

func (d *jsonDecoder) space() {
	for d.pos < len(d.data) && strings.IndexByte(" \t\r\n", d.data[d.pos]) >= 0 {
		d.pos++
	}
}

func (d *jsonDecoder) peek() byte {
	if d.pos < len(d.data) {
		return d.data[d.pos]
	}
	return 0
}

func (d *jsonDecoder) token(t string) bool {
	if bytes.HasPrefix(d.data[d.pos:], []byte(t)) {
		d.pos += len(t)
		return true
	}
	return false
}

func (d *jsonDecoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, d.errorf("nested deeper than %d levels", maxDepth)
	}
	if err := d.charge(costValue); err != nil {
		return nil, err
	}
	switch c := d.peek(); {
	case d.pos >= len(d.data):
		return nil, d.errorf("the file ends where a value is expected (truncated?)")
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.list(depth)
	case c == '"':
		return d.str()
	case d.token("null"):
		return nil, nil
	case d.token("true"):
		return true, nil
	case d.token("false"):
		return false, nil
	case d.token("NaN"):
		return math.NaN(), nil
	case d.token("Infinity"):
		return math.Inf(1), nil
	case d.token("-Infinity"):
		return math.Inf(-1), nil
	default:
		return d.number()
	}
}

func (d *jsonDecoder) object(depth int) (any, error) {
	o := &Object{}
	d.pos++
	d.space()
	if d.token("}") {
		return o, nil
	}
	for {
		if d.peek() != '"' {
			return nil, d.errorf("expected a key in double quotes")
		}
		key, err := d.str()
		if err != nil {
			return nil, err
		}
		d.space()
		if !d.token(":") {
			return nil, d.errorf("expected ':' after key %q", key)
		}
		d.space()
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := d.charge(costKey); err != nil {
			return nil, err
		}
		if o.Len() == 0 {
			if err := d.charge(costObject); err != nil {
				return nil, err
			}
		}
		o.Set(key, v)
		d.space()
		if d.token("}") {
			return o, nil
		}
		if !d.token(",") {
			return nil, d.errorf("expected ',' or '}' after the value of %q", key)
		}
		d.space()
	}
}

func (d *jsonDecoder) list(depth int) (any, error) {
	l := []any{}
	d.pos++
	d.space()
	if d.token("]") {
		return l, nil
	}
	for {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := d.charge(costItem); err != nil {
			return nil, err
		}
		l = append(l, v)
		d.space()
		if d.token("]") {
			return l, nil
		}
		if !d.token(",") {
			return nil, d.errorf("expected ',' or ']' in a list")
		}
		d.space()
	}
}

func (d *jsonDecoder) digits() int {
	n := 0
	for '0' <= d.peek() && d.peek() <= '9' {
		d.pos++
		n++
	}
	return n
}

func (d *jsonDecoder) number() (any, error) {
	start := d.pos
	d.token("-")
	first := d.peek()
	if n := d.digits(); n == 0 || first == '0' && n > 1 {
		d.pos = start
		return nil, d.errorf("expected a value")
	}
	isFloat := false
	if rest := d.pos; d.token(".") {
		if d.digits() == 0 {
			d.pos = rest
			return nil, d.errorf("expected digits after the decimal point")
		}
		isFloat = true
	}
	if rest := d.pos; d.token("e") || d.token("E") {
		if !d.token("+") {
			d.token("-")
		}
		if d.digits() == 0 {
			d.pos = rest
			return nil, d.errorf("expected digits in the exponent")
		}
		isFloat = true
	}
	text := string(d.data[start:d.pos])
	if isFloat {
		f, _ := strconv.ParseFloat(text, 64) // out of range gives ±Inf or 0, as in Python
		return f, nil
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	if len(text) > 4300 { // Python's limit on the digits of an int
		return nil, d.errorf("integer of %d digits", len(text))
	}
	b, _ := new(big.Int).SetString(text, 10)
	return b, d.charge(64 * len(text)) // charged for the time, too
}

func (d *jsonDecoder) str() (string, error) {
	var b strings.Builder
	d.pos++
	if err := d.charge(costValue); err != nil {
		return "", err
	}
	for {
		if d.pos >= len(d.data) {
			return "", d.errorf("the file ends inside a string (truncated?)")
		}
		c := d.data[d.pos]
		switch {
		case c == '"':
			d.pos++
			return b.String(), nil
		case c == '\\':
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
		case c < 0x20:
			return "", d.errorf("control character in a string")
		default:
			r, n := utf8.DecodeRune(d.data[d.pos:])
			if r == utf8.RuneError && n <= 1 {
				return "", d.errorf("not valid UTF-8")
			}
			b.WriteRune(r)
			d.pos += n
		}
	}
}

func (d *jsonDecoder) escape() (rune, error) {
	d.pos++
	c := d.peek()
	d.pos++
	if i := strings.IndexByte(`"\/bfnrt`, c); c != 0 && i >= 0 {
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	if c != 'u' {
		return 0, d.errorf("unknown escape in a string")
	}
	r, err := d.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if d.token(`\u`) {
		low, err := d.hex4()
		if err != nil {
			return 0, err
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
	}
	return 0, d.errorf("lone surrogate escape in a string")
}

func (d *jsonDecoder) hex4() (rune, error) {
	if d.pos+4 > len(d.data) {
		return 0, d.errorf("the file ends inside an escape (truncated?)")
	}
	var r rune
	for _, c := range d.data[d.pos : d.pos+4] {
		i := strings.IndexByte("0123456789abcdef", c|0x20)
		if i < 0 || c < '0' {
			return 0, d.errorf("expected four hexadecimal digits after \\u")
		}
		r = r<<4 | rune(i)
	}
	d.pos += 4
	return r, nil
}

// EncodeJSON encodes v byte for byte as Python's json.dumps(v, indent=indent, sort_keys=sortKeys)
// does: ASCII only, floats as Python's repr, NaN and Infinity as tokens, no newline at the end.
// indent < 0 stands for Python's indent=None (everything on one line). nnU-Net writes plans.json
// and dataset.json of a result folder with indent 4 unsorted, most other files with indent 4
// sorted. v may contain nil, bool, int, int64, *big.Int, float64, string, *Object, []any, []string,
// []int and []float64; anything else is an error that names the Go type.
func EncodeJSON(v any, indent int, sortKeys bool) ([]byte, error) {
	e := &jsonEncoder{indent: indent, sortKeys: sortKeys}
	if err := e.value(v, 0); err != nil {
		return nil, err
	}
	return e.out, nil
}

type jsonEncoder struct {
	out      []byte
	indent   int
	sortKeys bool
}

func (e *jsonEncoder) value(v any, level int) error {
	if level > maxDepth {
		return fmt.Errorf("JSON: nested deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		e.out = append(e.out, "null"...)
	case bool:
		e.out = strconv.AppendBool(e.out, v)
	case int:
		e.out = strconv.AppendInt(e.out, int64(v), 10)
	case int64:
		e.out = strconv.AppendInt(e.out, v, 10)
	case *big.Int:
		e.out = v.Append(e.out, 10)
	case float64:
		e.out = append(e.out, PythonFloat(v)...)
	case string:
		e.str(v)
	case *Object:
		return e.object(v, level)
	case []any:
		return encodeList(e, v, level)
	case []string:
		return encodeList(e, v, level)
	case []int:
		return encodeList(e, v, level)
	case []float64:
		return encodeList(e, v, level)
	default:
		return fmt.Errorf("JSON: cannot write a value of type %T", v)
	}
	return nil
}

func (e *jsonEncoder) separator(first bool, level int) {
	switch {
	case e.indent >= 0:
		if !first {
			e.out = append(e.out, ',')
		}
		e.newline(level)
	case !first:
		e.out = append(e.out, ", "...)
	}
}

func (e *jsonEncoder) newline(level int) {
	if e.indent >= 0 {
		e.out = append(e.out, '\n')
		e.out = append(e.out, bytes.Repeat([]byte(" "), e.indent*level)...)
	}
}

func (e *jsonEncoder) object(o *Object, level int) error {
	keys := o.Keys()
	if e.sortKeys {
		slices.Sort(keys) // UTF-8 byte order is code-point order
	}
	e.out = append(e.out, '{')
	for i, k := range keys {
		e.separator(i == 0, level+1)
		e.str(k)
		e.out = append(e.out, ": "...)
		v, _ := o.Get(k)
		if err := e.value(v, level+1); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		e.newline(level)
	}
	e.out = append(e.out, '}')
	return nil
}

func encodeList[T any](e *jsonEncoder, l []T, level int) error {
	e.out = append(e.out, '[')
	for i := range l {
		e.separator(i == 0, level+1)
		if err := e.value(l[i], level+1); err != nil {
			return err
		}
	}
	if len(l) > 0 {
		e.newline(level)
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *jsonEncoder) str(s string) {
	e.out = append(e.out, '"')
	for _, r := range s {
		if i := strings.IndexRune("\"\\\b\f\n\r\t", r); i >= 0 {
			e.out = append(e.out, '\\', `"\bfnrt`[i])
		} else if r >= ' ' && r <= '~' {
			e.out = append(e.out, byte(r))
		} else if r > 0xffff {
			hi, lo := utf16.EncodeRune(r)
			e.out = fmt.Appendf(e.out, `\u%04x\u%04x`, hi, lo)
		} else {
			e.out = fmt.Appendf(e.out, `\u%04x`, r)
		}
	}
	e.out = append(e.out, '"')
}

// PythonFloat formats f as Python's json does: the shortest digits that parse to f, in positional
// notation for 1e-4 <= |f| < 1e16 and with an exponent otherwise, always with a point or an
// exponent; NaN, Infinity and -Infinity as tokens.
func PythonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exponent, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if exponent < -4 || exponent >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// toUTF8 converts the text of a JSON document to UTF-8.
// Source: Python's json.detect_encoding, RFC 4627 section 3.
func toUTF8(data []byte) ([]byte, error) {
	has := func(mark string) bool { return bytes.HasPrefix(data, []byte(mark)) }
	at := func(i int) byte { // 1 beyond the end
		if i < len(data) {
			return data[i]
		}
		return 1
	}
	switch {
	case has("\xef\xbb\xbf"):
		return data[3:], nil
	case has("\xff\xfe\x00\x00"), has("\x00\x00\xfe\xff"):
		return fromUTF32(data[4:], data[0] == 0)
	case has("\xff\xfe"), has("\xfe\xff"):
		return fromUTF16(data[2:], data[0] == 0xfe)
	case len(data) < 2 || at(0) != 0 && at(1) != 0:
		return data, nil
	case at(0) == 0 && at(1) == 0, at(0) != 0 && at(2) == 0 && at(3) == 0:
		return fromUTF32(data, at(0) == 0)
	}
	return fromUTF16(data, at(0) == 0)
}

func fromUTF16(data []byte, bigEndian bool) ([]byte, error) {
	if len(data)%2 != 0 {
		return nil, fmt.Errorf("JSON: UTF-16 with %d bytes, an odd number (truncated?)", len(data))
	}
	unit := func(i int) rune {
		if bigEndian {
			return rune(data[i])<<8 | rune(data[i+1])
		}
		return rune(data[i+1])<<8 | rune(data[i])
	}
	out := make([]byte, 0, len(data)/2+16)
	for i := 0; i < len(data); i += 2 {
		r := unit(i)
		if utf16.IsSurrogate(r) {
			low := rune(0)
			if i += 2; i < len(data) {
				low = unit(i)
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return nil, fmt.Errorf("JSON: not valid UTF-16 at byte %d", i)
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return out, nil
}

func fromUTF32(data []byte, bigEndian bool) ([]byte, error) {
	if len(data)%4 != 0 {
		return nil, fmt.Errorf("JSON: UTF-32 with %d bytes, no multiple of 4 (truncated?)",
			len(data))
	}
	out := make([]byte, 0, len(data)/4+16)
	for i := 0; i < len(data); i += 4 {
		r := binary.LittleEndian.Uint32(data[i:])
		if bigEndian {
			r = binary.BigEndian.Uint32(data[i:])
		}
		if r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
			return nil, fmt.Errorf("JSON: not valid UTF-32 at byte %d", i)
		}
		out = utf8.AppendRune(out, rune(r))
	}
	return out, nil
}
