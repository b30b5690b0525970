package augment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/internal/nearest"
)

func didYouMean(name string, names []string) string {
	if n := nearest.Name(name, names); n != "" {
		return fmt.Sprintf("; did you mean %q?", n)
	}
	return ""
}

// object is a JSON object whose values are not decoded yet.
type object map[string]json.RawMessage

// largestText is the size of a text that is decoded: a thousand transforms take less than a tenth of it.
const largestText = 16 << 20

// readObject reads a text that is one JSON object. An error names line and column.
func readObject(text []byte) (object, error) {
	if len(text) > largestText {
		return nil, fmt.Errorf("found %d bytes, expected %d at most: is it another file?", len(text), largestText)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	var o object
	err := d.Decode(&o)
	if err == nil && o == nil {
		err = errors.New("found null, expected a JSON object")
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		return nil, fmt.Errorf("found %s, expected a JSON object", kind.Value)
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("%s: not JSON: %v", position(text, syntax.Offset-1), syntax)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%s: not JSON: the text ends here", position(text, int64(len(text))))
	case err != nil:
		return nil, err
	}
	rest := text[d.InputOffset():]
	if trimmed := bytes.TrimLeft(rest, " \t\r\n"); len(trimmed) > 0 {
		return nil, fmt.Errorf("%s: found more behind the JSON object, expected one object, as one line of "+
			"lntorch augment sample or all that augment pipeline prints", position(text, int64(len(text)-len(trimmed))))
	}
	return o, nil
}

// position names a byte of a text by line and column, both from 1 on.
func position(text []byte, at int64) string {
	before := text[:min(max(at, 0), int64(len(text)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	return fmt.Sprintf("line %d, column %d", line, len(before)-bytes.LastIndexByte(before, '\n'))
}

// expecting is implemented by types of values that say what their JSON may be.
type expecting interface{ expected() string }

func (Scale) expected() string  { return "numbers, or lists of numbers" }
func (Region) expected() string { return "labels, or lists of labels" }

// expected says what JSON a Go type takes.
func expected(t reflect.Type) string {
	if e, ok := reflect.Zero(t).Interface().(expecting); ok {
		return e.expected()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Float64:
		return "a number"
	case reflect.Int16:
		return "an integer from -32768 to 32767"
	case reflect.Int:
		return "an integer"
	case reflect.Pointer:
		return expected(t.Elem())
	case reflect.Slice:
		what := expected(t.Elem())
		for article, plural := range map[string]string{"a number": "numbers", "an integer": "integers",
			"a text": "texts"} {
			if what == article {
				what = plural
			}
		}
		return "a list of " + strings.Replace(what, "a list", "lists", 1)
	}
	return "null"
}

// keysOf lists the keys of a struct.
func keysOf(t reflect.Type) (names []string, fields []reflect.StructField) {
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.IsExported() && name != "" && name != "-" {
			names, fields = append(names, name), append(fields, f)
		}
	}
	return names, fields
}

// decode fills a struct from an object. Keys of known are left to the caller; others that the struct
// does not have, and keys that it needs (all: unless null is a value of theirs), are errors.
func decode(into any, o object, all bool, known ...string) error {
	v := reflect.ValueOf(into).Elem()
	names, fields := keysOf(v.Type())
	if err := onlyKeys(o, slices.Concat(known, names)); err != nil {
		return err
	}
	for i, name := range names {
		raw, given := o[name]
		nullable := fields[i].Tag.Get("null") == "true"
		if !given {
			if fields[i].Tag.Get("need") == "true" || all && !nullable {
				return fmt.Errorf("key %q is missing, expected %s", name, expected(fields[i].Type))
			}
			continue
		}
		if err := value(v.FieldByIndex(fields[i].Index), raw, nullable); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// onlyKeys complains of the first key that is not among names.
func onlyKeys(o object, names []string) error {
	unknown := []string{}
	for k := range o {
		if !slices.Contains(names, k) {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	k := slices.Min(unknown)
	hint := didYouMean(k, names)
	if hint == "" {
		hint = ", expected " + strings.Join(names, ", ")
	}
	return fmt.Errorf("unknown key %.60q%s", k, hint)
}

// value decodes one value. null in a list of numbers is none of them.
func value(v reflect.Value, raw json.RawMessage, nullable bool) error {
	null := bytes.Equal(raw, []byte("null"))
	if null && nullable {
		v.SetZero()
		return nil
	}
	wrong := bytes.Contains(raw, []byte("null")) && raw[0] != '"'
	if !wrong {
		wrong = json.Unmarshal(raw, v.Addr().Interface()) != nil
	}
	if wrong {
		text := string(raw)
		if len(text) > 60 {
			text = text[:60] + "…"
		}
		or := ""
		if nullable {
			or = ", or null"
		}
		return fmt.Errorf("found %s, expected %s%s", text, expected(v.Type()), or)
	}
	return nil
}

// DecodeSpec reads the parameters of one sample: a JSON object with the list "transforms", as one
// line of lntorch augment sample has it. Other keys beside it are left alone. Nothing of it is
// applied yet, but what can be seen without a patch is checked.
func DecodeSpec(text []byte) (Drawn, error) {
	o, err := readObject(text)
	if err != nil {
		return nil, err
	}
	list, err := objects(o)
	if err != nil {
		return nil, err
	}
	drawn := Drawn{}
	for i, t := range list {
		k, err := kindOf(t, i)
		if err != nil {
			return nil, err
		}
		s, err := k.step(t)
		if err != nil {
			return nil, fmt.Errorf("transform %d, %s: %w", i, k.name, err)
		}
		drawn = append(drawn, s)
	}
	return drawn, nil
}

// objects reads the value of "transforms".
func objects(o object) ([]object, error) {
	raw, ok := o["transforms"]
	if !ok {
		return nil, errors.New(`key "transforms" is missing, expected a list of objects`)
	}
	var list []object
	if json.Unmarshal(raw, &list) != nil || list == nil || slices.ContainsFunc(list,
		func(o object) bool { return o == nil }) {
		return nil, errors.New("transforms: expected a list of objects, one for each transform")
	}
	if len(list) > maxTransforms {
		return nil, fmt.Errorf("transforms: found %d, expected %d at most", len(list), maxTransforms)
	}
	return list, nil
}

// maxTransforms bounds lists: their work is not bounded by the size of their text.
const maxTransforms = 1000

// kindOf finds the class that an object of a list names.
func kindOf(o object, i int) (*kind, error) {
	var name string
	if raw, ok := o["transform"]; !ok {
		return nil, fmt.Errorf(`transform %d: key "transform" is missing, expected the name of a class`, i)
	} else if json.Unmarshal(raw, &name) != nil {
		return nil, fmt.Errorf("transform %d: transform: found %.60s, expected the name of a class", i, raw)
	}
	if name == "RemoveLabelTransform" { // the right spelling
		name = "RemoveLabelTansform"
	}
	names := make([]string, len(kinds))
	for k := range kinds {
		if names[k] = kinds[k].name; names[k] == name {
			return &kinds[k], nil
		}
	}
	return nil, fmt.Errorf("transform %d: unknown transform %.80q%s", i, name, didYouMean(name, names))
}

// step reads the parameters of one transform.
func (k *kind) step(o object) (Step, error) {
	s := Step{Transform: k.name}
	apply := true
	if raw, ok := o["apply_transform"]; ok {
		s.Gated = true
		if err := value(reflect.ValueOf(&apply).Elem(), raw, false); err != nil {
			return s, fmt.Errorf("apply_transform: %w", err)
		}
	}
	p := k.parameters()
	if !apply {
		names, _ := keysOf(reflect.TypeOf(p).Elem())
		return s, onlyKeys(o, append(names, "transform", "apply_transform"))
	}
	if err := decode(p, o, false, "transform", "apply_transform"); err != nil {
		return s, err
	}
	if c, ok := p.(interface{ check() error }); ok {
		if err := c.check(); err != nil {
			return s, err
		}
	}
	s.Parameters = p
	return s, nil
}

// MarshalJSON writes the class, the gate where there is one, and the parameters.
func (s Step) MarshalJSON() ([]byte, error) {
	head := fmt.Sprintf(`{"transform":%q`, s.Transform)
	if s.Gated {
		head += fmt.Sprintf(`,"apply_transform":%v`, s.Parameters != nil)
	}
	return withKeys(head, s.Parameters)
}

// withKeys appends the keys of an object to a text that lacks its closing brace.
func withKeys(head string, keys any) ([]byte, error) {
	if keys == nil || reflect.ValueOf(keys).Kind() == reflect.Pointer && reflect.ValueOf(keys).IsNil() {
		return []byte(head + "}"), nil
	}
	body, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	if len(body) > 2 {
		head += ","
	}
	return append([]byte(head), body[1:]...), nil
}
