package plans

import (
	"fmt"
	"os"
	"strings"

	"github.com/lntorch/lntorch/internal/atomicfile"
)

// maxFile bounds the JSON files that are read into memory. Plans are tens of kilobytes, a
// splits_final.json of a very large data set a few megabytes.
const maxFile = 256 << 20

// ReadJSON reads the JSON file at path; see DecodeJSON for the values. Errors name the file.
func ReadJSON(path string) (any, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes, expected a JSON file of at most %d", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := DecodeJSON(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// WriteJSON writes v as nnU-Net writes its files: see EncodeJSON, with an indent of 4 and no newline at the end. The file
// appears whole or not at all.
func WriteJSON(path string, v any, sortKeys bool) error {
	b, err := EncodeJSON(v, 4, sortKeys)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(path, b)
}

func readObject(path string) (*Object, error) {
	v, err := ReadJSON(path)
	if err != nil {
		return nil, err
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, fmt.Errorf("%s: expected a JSON object, found %s", path, describe(v))
	}
	return o, nil
}

// describe says what a JSON value is, for error messages.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case *Object:
		return "an object with keys " + list(v.Keys())
	}
	b, err := EncodeJSON(v, -1, false)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if len(b) > 80 {
		b = append(b[:77], "..."...)
	}
	return string(b)
}

func list(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}

// section reads typed fields of one object and remembers the first error, which names the file,
// the path of the key, what was expected and what was found.
type section struct {
	where string // file and path of the object
	obj   *Object
	err   *error // shared by all sections of one document
}

func (s section) fail(key, want string, got any) {
	if *s.err == nil {
		*s.err = fmt.Errorf("%s: %s: expected %s, found %s", s.where, key, want, describe(got))
	}
}

func (s section) missing(key, want string) {
	if *s.err == nil {
		*s.err = fmt.Errorf("%s: key %q is missing, expected %s; keys present: %s", s.where, key, want, list(s.obj.Keys()))
	}
}

// required reports the missing key unless it is present and not null.
func (s section) required(key, want string) bool {
	if v, ok := s.obj.Get(key); !ok {
		s.missing(key, want)
	} else if v == nil {
		s.fail(key, want, nil)
	}
	return *s.err == nil
}

// field reads an optional field. An absent or null one leaves def.
func field[T any](s section, key, want string, convert func(any) (T, bool), def T) T {
	v, ok := s.obj.Get(key)
	if !ok || v == nil {
		return def
	}
	t, ok := convert(v)
	if !ok {
		s.fail(key, want, v)
		return def
	}
	return t
}

func (s section) str(key string) string {
	return field(s, key, "a string", as[string], "")
}
func (s section) boolean(key string, def bool) bool {
	return field(s, key, "true or false", as[bool], def)
}
func (s section) integer(key string, def int) int {
	return field(s, key, "an integer", asInt, def)
}
func (s section) float(key string, def float64) float64 {
	return field(s, key, "a number", asFloat, def)
}
func (s section) object(key string) *Object {
	return field(s, key, "an object", as[*Object], nil)
}
func (s section) ints(key string) []int {
	return field(s, key, "a list of integers", listOf(asInt), nil)
}
func (s section) floats(key string) []float64 {
	return field(s, key, "a list of numbers", listOf(asFloat), nil)
}
func (s section) strings(key string) []string {
	return field(s, key, "a list of strings", listOf(as[string]), nil)
}
func (s section) bools(key string) []bool {
	return field(s, key, "a list of true and false", listOf(as[bool]), nil)
}

func as[T any](v any) (T, bool) {
	t, ok := v.(T)
	return t, ok
}

func asInt(v any) (int, bool) {
	i, ok := v.(int64)
	return int(i), ok
}

func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	}
	return 0, false
}

func listOf[T any](convert func(any) (T, bool)) func(any) ([]T, bool) {
	return func(v any) ([]T, bool) {
		l, ok := v.([]any)
		if !ok {
			return nil, false
		}
		out := make([]T, len(l))
		for i := range l {
			if out[i], ok = convert(l[i]); !ok {
				return nil, false
			}
		}
		return out, true
	}
}
