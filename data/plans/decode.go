package plans

import (
	"fmt"
	"math"
	"os"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/brief"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/sniff"
)

// maxFile bounds JSON files. Plans are tens of kilobytes, the splits_final.json of a very large
// dataset a few megabytes.
const maxFile = 64 << 20

// ReadJSON reads the JSON file at path; see DecodeJSON for the values. Errors name the file.
func ReadJSON(path string) (any, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d MB, expected a JSON file of at most %d MB",
			path, info.Size()>>20, maxFile>>20)
	}
	data, err := regular.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := DecodeJSON(data)
	if err != nil {
		if found, next := sniff.What(data[:min(sniff.HeadSize, len(data))]); found != "" &&
			found != "a text" {
			return nil, fmt.Errorf("%s: found %s, expected JSON: %s", path, found, next)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// WriteJSON writes v to path as nnU-Net writes its files: as EncodeJSON with an indent of 4, no
// newline at the end. The file is replaced atomically.
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

// describe describes a JSON value for error messages.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case *Object:
		return "an object with keys " + list(v.Keys())
	}
	if l, ok := v.([]any); ok && len(l) > 40 {
		return fmt.Sprintf("a list of %d values", len(l))
	}
	b, err := EncodeJSON(v, -1, false)
	if err != nil {
		return "a value that is not JSON"
	}
	if len(b) > 80 {
		b = append(b[:77], "..."...)
	}
	return string(b)
}

// maxNames is the number of names that a message lists at most.
const maxNames = 30

func list(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return brief.Join(names, ", ", maxNames)
}

// section reads typed fields of one object and keeps the first error, which names the file, the
// path of the key, what was expected and what was found.
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
		*s.err = fmt.Errorf("%s: key %q is missing, expected %s; keys present: %s",
			s.where, key, want, list(s.obj.Keys()))
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

// field reads an optional field; def if it is absent or null.
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
	return field(s, key, "true or false", asBool, def)
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
	return field(s, key, "a list of true and false", listOf(asBool), nil)
}

func as[T any](v any) (T, bool) {
	t, ok := v.(T)
	return t, ok
}

// asInt accepts whole numbers with or without a decimal point: 2.0 is 2.
func asInt(v any) (int, bool) {
	switch v := v.(type) {
	case int64:
		return int(v), true
	case float64:
		return int(v), v == math.Trunc(v) && math.Abs(v) < 1<<53
	}
	return 0, false
}

// asBool accepts numbers, too, as Python's if does.
func asBool(v any) (bool, bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case int64:
		return v != 0, true
	case float64:
		return v != 0, true
	}
	return false, false
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
