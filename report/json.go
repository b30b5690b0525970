package report

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// JSON writes v, indented, like encoding/json, but NaN and infinities become null. nonFinite lists
// their positions, such as "best_ema" or "cases[3].dice". All --json output is written by it, so it
// is valid JSON whatever the files contain.
func JSON(w io.Writer, v any) (nonFinite []string, err error) {
	e := &encoder{}
	if err := e.value(reflect.ValueOf(v), ""); err != nil {
		return nil, fmt.Errorf("report: JSON: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, e.out.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("report: JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return e.nonFinite, err
}

type encoder struct {
	out       bytes.Buffer
	nonFinite []string
}

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func (e *encoder) value(v reflect.Value, path string) error {
	if !v.IsValid() {
		e.out.WriteString("null")
		return nil
	}
	if v.Type().Implements(marshaler) || v.Type().Implements(textMarshaler) {
		return e.leaf(v)
	}
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) {
			e.nonFinite = append(e.nonFinite, strings.TrimPrefix(path, "."))
			e.out.WriteString("null")
			return nil
		}
		return e.leaf(v)
	case reflect.Pointer, reflect.Interface:
		return e.value(v.Elem(), path)
	case reflect.Struct:
		e.out.WriteByte('{')
		first := true
		err := e.fields(v, path, &first)
		e.out.WriteByte('}')
		return err
	case reflect.Map:
		if v.IsNil() {
			e.out.WriteString("null")
			return nil
		}
		return e.object(v, path)
	case reflect.Slice:
		if v.IsNil() {
			e.out.WriteString("null")
			return nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return e.leaf(v) // base64
		}
		return e.list(v, path)
	case reflect.Array:
		return e.list(v, path)
	}
	return e.leaf(v)
}

// leaf writes a value that contains nothing to convert.
func (e *encoder) leaf(v reflect.Value) error {
	j := json.NewEncoder(&e.out)
	j.SetEscapeHTML(false)
	if err := j.Encode(v.Interface()); err != nil {
		return err
	}
	e.out.Truncate(e.out.Len() - 1) // the newline
	return nil
}

func (e *encoder) list(v reflect.Value, path string) error {
	e.out.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			e.out.WriteByte(',')
		}
		if err := e.value(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	e.out.WriteByte(']')
	return nil
}

// object writes a map with sorted keys.
func (e *encoder) object(v reflect.Value, path string) error {
	entries := map[string]reflect.Value{}
	for _, k := range v.MapKeys() {
		entries[fmt.Sprint(k.Interface())] = v.MapIndex(k)
	}
	e.out.WriteByte('{')
	for i, k := range slices.Sorted(maps.Keys(entries)) {
		if i > 0 {
			e.out.WriteByte(',')
		}
		if err := e.entry(k, entries[k], path); err != nil {
			return err
		}
	}
	e.out.WriteByte('}')
	return nil
}

func (e *encoder) entry(name string, v reflect.Value, path string) error {
	if err := e.leaf(reflect.ValueOf(name)); err != nil {
		return err
	}
	e.out.WriteByte(':')
	return e.value(v, path+"."+name)
}

// fields writes the exported fields of a struct, named by their json tags; an embedded struct's
// fields are written as its own.
func (e *encoder) fields(v reflect.Value, path string, first *bool) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			inner := v.Field(i)
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				if err := e.fields(inner, path, first); err != nil {
					return err
				}
				continue
			}
		}
		if !f.IsExported() || tagged && tag == "-" ||
			strings.Contains(options, "omitempty") && isEmpty(v.Field(i)) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if !*first {
			e.out.WriteByte(',')
		}
		*first = false
		if err := e.entry(name, v.Field(i), path); err != nil {
			return err
		}
	}
	return nil
}

// isEmpty is encoding/json's rule for omitempty.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Interface, reflect.Pointer:
		return v.IsZero()
	}
	return false
}
