// Package settings reads what a config struct declares in field tags: the flag that sets a
// field, its default, the variable of the environment, the values it may have, whether a training
// that is continued must keep it, and its name in run records. The command line, configuration
// files, experiments and run.json all go through these declarations, so that a setting is declared
// once, and a misspelt name is an error instead of a zero.
//
// Tags of a field:
//
//	flag:"lr"            name of the flag; fields without it are no settings
//	short:"o"            one-letter flag
//	nnunet:"tr"          nnU-Net's single-dash flag for it
//	help:"…"             for --help
//	default:"250"        value in a new struct; without it the zero value, which then stands for
//	                     "not given". Where zero is a value, too, the field is a pointer
//	env:"nnUNet_raw"     variable that gives the default, besides LNTORCH_<FLAG>
//	range:"1.."          smallest and largest number, either may be missing; ">0.." and "..<1"
//	                     leave the end itself out. NaN and infinities are never taken
//	values:"a,b"         what the text may be
//	alone:"on"           value where the flag stands without one
//	path:"true"          a path: a leading ~ is the home folder
//	bare:"true"          the name of a file or folder, without / in it
//	list:"true"          several values may follow the flag, as in nnU-Net: -f 0 1 2
//	hidden:"true"        not shown by --help
//	record:"…"           name in run records; without it the flag's name with underscores
//	keep:"…"             name under which a checkpoint keeps it: a training is only continued with
//	                     the same value
//	before:"…"           with keep: the value that training runs had before the setting existed; "*"
//	                     where it is not known, so that any value is taken
//
// Structs that are embedded contribute their fields. A setting whose tag is wrong panics: a test
// that builds the command line finds it.
package settings

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// UsageError is a mistake in what the user asked for, as opposed to a failure of the work itself.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the mistake itself.
func (e *UsageError) Unwrap() error { return e.Err }

// Usage makes a UsageError.
func Usage(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// A Field is one setting of a config struct. It has the methods of a command-line flag's value.
type Field struct {
	Name   string // of the flag
	Short  string // one letter, or empty
	NNUNet string // nnU-Net's single-dash flag, or empty
	Help   string
	Env    string // variable that gives the default, or empty
	List   bool   // several values may follow the flag
	Hidden bool
	Record string // name in run records
	Alone  string // value where the flag stands without one, or empty
	Keep   string // name in checkpoints, or empty
	Before string // value before the setting existed

	// IsSet: Set was called: the value was asked for.
	IsSet bool

	def     string
	path    bool
	bare    bool
	values  []string
	limits  limits
	value   reflect.Value
	began   bool // a list flag was given already: further values are added
	goField string
}

// Fields lists the settings of config, a pointer to a struct, in the order of its fields.
func Fields(config any) []*Field {
	v := reflect.ValueOf(config)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("settings: %T is not a pointer to a struct", config))
	}
	var list []*Field
	collect(v.Elem(), &list)
	seen := map[string]bool{}
	for _, f := range list {
		if seen[f.Name] {
			panic(fmt.Sprintf("settings: %T declares the flag %s twice", config, f.Name))
		}
		seen[f.Name] = true
	}
	return list
}

// Defaults gives the settings of config that have their zero value their defaults. It is for a new
// struct: in one that was filled, a zero may be meant.
func Defaults(config any) {
	for _, f := range Fields(config) {
		if f.def != "" && f.value.IsZero() {
			if err := f.parse(f.def); err != nil {
				panic(fmt.Sprintf("settings: %s: default: %v", f.goField, err))
			}
		}
	}
}

// New makes a config struct with its defaults.
func New[T any]() T {
	var config T
	Defaults(&config)
	return config
}

func collect(v reflect.Value, list *[]*Field) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			collect(v.Field(i), list)
			continue
		}
		name, ok := sf.Tag.Lookup("flag")
		if !ok {
			continue
		}
		f := &Field{
			Name: name, Short: sf.Tag.Get("short"), NNUNet: sf.Tag.Get("nnunet"), Help: sf.Tag.Get("help"), Env: sf.Tag.Get("env"),
			List: sf.Tag.Get("list") == "true", Hidden: sf.Tag.Get("hidden") == "true",
			Record: sf.Tag.Get("record"), Alone: sf.Tag.Get("alone"), Keep: sf.Tag.Get("keep"), Before: sf.Tag.Get("before"),
			def: sf.Tag.Get("default"), path: sf.Tag.Get("path") == "true", bare: sf.Tag.Get("bare") == "true", value: v.Field(i),
			goField: t.Name() + "." + sf.Name,
		}
		if values := sf.Tag.Get("values"); values != "" {
			f.values = strings.Split(values, ",")
		}
		if f.Record == "" {
			f.Record = strings.ReplaceAll(name, "-", "_")
		}
		var err error
		if f.limits, err = parseLimits(sf.Tag.Get("range")); err != nil {
			panic(fmt.Sprintf("settings: %s: %v", f.goField, err))
		}
		if f.kind() == "" {
			panic(fmt.Sprintf("settings: %s: a setting of type %s", f.goField, sf.Type))
		}
		*list = append(*list, f)
	}
}

// kind is the type as --help names it; "" for one that no setting may have.
func (f *Field) kind() string {
	t := f.value.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool:
		return t.Kind().String()
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Uint64:
		return "uint"
	case reflect.Float64:
		return "float"
	case reflect.Slice:
		switch t.Elem().Kind() {
		case reflect.String:
			return "strings"
		case reflect.Int:
			return "ints"
		case reflect.Float64:
			return "floats"
		}
	}
	return ""
}

// Type is what --help prints behind the flag.
func (f *Field) Type() string { return f.kind() }

// Default is the default as text.
func (f *Field) Default() string { return f.def }

// IsBool reports whether the flag may stand without a value.
func (f *Field) IsBool() bool { return f.value.Kind() == reflect.Bool }

// Value is the setting's value.
func (f *Field) Value() any { return f.value.Interface() }

// Set gives the setting a value from text. A list's first Set replaces the default, later ones add.
// An empty text is an error: it comes of a variable that is not set, and would silently stand for the
// default.
func (f *Field) Set(text string) error {
	if text == "" && f.value.Kind() == reflect.String {
		return errors.New("found an empty value: give one, or leave the flag out")
	}
	if !f.began && f.value.Kind() == reflect.Slice {
		f.value.SetZero()
	}
	if err := f.parse(text); err != nil {
		return err
	}
	f.IsSet, f.began = true, true
	return nil
}

// SetDefault gives the setting another default than its tag.
func (f *Field) SetDefault(text string) error {
	f.value.SetZero()
	f.def = text
	return f.parse(text)
}

// Append adds a value to a list.
func (f *Field) Append(text string) error { return f.parse(text) }

// Replace replaces the values of a list.
func (f *Field) Replace(texts []string) error {
	f.value.SetZero()
	for _, t := range texts {
		if err := f.parse(t); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice lists the values of a list.
func (f *Field) GetSlice() []string {
	if f.value.Kind() != reflect.Slice {
		return []string{f.String()}
	}
	out := make([]string, f.value.Len())
	for i := range out {
		out[i] = text(f.value.Index(i))
	}
	return out
}

// elem is the type of the setting's value, or of a list's elements.
func (f *Field) elem() reflect.Type {
	t := f.value.Type()
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// IsList reports whether the setting has several values.
func (f *Field) IsList() bool { return f.value.Kind() == reflect.Slice }

// IsPath reports whether the setting is a path.
func (f *Field) IsPath() bool { return f.path }

// String is the value as the command line would give it.
func (f *Field) String() string {
	if f == nil || !f.value.IsValid() {
		return "" // pflag asks a zero Field
	}
	if f.value.Kind() == reflect.Slice {
		return strings.Join(f.GetSlice(), ",")
	}
	if f.value.IsZero() && f.def == "" && !f.IsSet && f.value.Kind() != reflect.Bool {
		return "" // not given
	}
	return text(f.value)
}

func text(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() == reflect.Float64 {
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// parse puts text into the value; lists are added to.
func (f *Field) parse(s string) error {
	v := f.value
	if v.Kind() == reflect.Slice {
		if s == "" {
			return nil
		}
		parts := strings.Split(s, ",")
		if f.path {
			parts = []string{s} // a path may hold commas: the flag is repeated
		}
		for _, part := range parts {
			e := reflect.New(v.Type().Elem()).Elem()
			if !f.path {
				part = strings.TrimSpace(part)
			}
			if err := f.parseOne(e, part); err != nil {
				return err
			}
			v.Set(reflect.Append(v, e))
		}
		return nil
	}
	return f.parseOne(v, s)
}

func (f *Field) parseOne(v reflect.Value, s string) error {
	if v.Kind() == reflect.Pointer {
		n := reflect.New(v.Type().Elem())
		if err := f.parseOne(n.Elem(), s); err != nil {
			return err
		}
		v.Set(n)
		return nil
	}
	fail := func() error { return fmt.Errorf("found %q, expected %s", s, f.expected()) }
	switch v.Kind() {
	case reflect.String:
		if f.values != nil && !slices.Contains(f.values, s) {
			return fail()
		}
		if f.bare && (strings.ContainsAny(s, "/\x00") || s == "." || s == "..") {
			return fail()
		}
		if f.path {
			var err error
			if s, err = home(s); err != nil {
				return err
			}
		}
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fail()
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || !f.limits.hold(float64(n)) {
			return fail()
		}
		v.SetInt(n)
	case reflect.Uint64:
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || !f.limits.hold(float64(n)) {
			return fail()
		}
		v.SetUint(n)
	case reflect.Float64:
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(x, 0) || math.IsNaN(x) || !f.limits.hold(x) {
			return fail()
		}
		v.SetFloat(x)
	}
	return nil
}

// expected is what the setting may be, for messages.
func (f *Field) expected() string {
	what := map[string]string{"int": "a whole number", "ints": "whole numbers", "uint": "a whole number from 0 on",
		"float": "a number", "floats": "numbers", "bool": "true or false"}[f.kind()]
	switch {
	case f.values != nil:
		what = oneOf(f.values)
	case f.bare:
		what = "a name without a folder"
	case f.limits.text != "":
		what += " " + f.limits.text
	}
	return what
}

// Usage is the help text, with the values that it may have where the text does not name them all.
func (f *Field) Usage() string {
	for _, v := range f.values {
		if !strings.Contains(f.Help, v) {
			return f.Help + ": " + oneOf(f.values)
		}
	}
	return f.Help
}

func oneOf(values []string) string {
	if len(values) < 2 {
		return strings.Join(values, "")
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}

// home replaces a leading ~ by the home folder, as a shell does where it is not quoted.
func home(path string) (string, error) {
	if path != "~" && !strings.HasPrefix(path, "~/") {
		if strings.HasPrefix(path, "~") {
			return "", fmt.Errorf("%s: the home folder of another user is not looked up: give the path in full", path)
		}
		return path, nil
	}
	folder, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%s: %w: give the path in full", path, err)
	}
	return filepath.Join(folder, path[1:]), nil
}

// limits are the numbers that a setting may have.
type limits struct {
	low, high         float64
	openLow, openHigh bool
	given             bool
	text              string
}

func parseLimits(tag string) (l limits, err error) {
	if tag == "" {
		return l, nil
	}
	low, high, ok := strings.Cut(tag, "..")
	if !ok {
		return l, fmt.Errorf("range %q: expected LOW..HIGH", tag)
	}
	l = limits{low: math.Inf(-1), high: math.Inf(1), given: true}
	low, l.openLow = strings.CutPrefix(low, ">")
	high, l.openHigh = strings.CutPrefix(high, "<")
	var words []string
	if low != "" {
		if l.low, err = strconv.ParseFloat(low, 64); err != nil {
			return l, err
		}
		words = append(words, map[bool]string{false: "of at least ", true: "above "}[l.openLow]+low)
	}
	if high != "" {
		if l.high, err = strconv.ParseFloat(high, 64); err != nil {
			return l, err
		}
		words = append(words, map[bool]string{false: "at most ", true: "below "}[l.openHigh]+high)
	}
	l.text = strings.Join(words, " and ")
	return l, nil
}

func (l limits) hold(x float64) bool {
	if !l.given {
		return true
	}
	return (x > l.low || x == l.low && !l.openLow) && (x < l.high || x == l.high && !l.openHigh)
}
