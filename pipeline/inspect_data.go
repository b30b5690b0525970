package pipeline

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/report"
)

// arraySummary is what --json prints of each array of an .npz or .npy file.
type arraySummary struct {
	Name  string   `json:"name"`
	DType string   `json:"dtype"`
	Shape []int    `json:"shape"`
	Min   *float64 `json:"min"` // of the finite values; null without
	Max   *float64 `json:"max"`
	NaN   int      `json:"nan"`
	Inf   int      `json:"inf"`
}

func summarise(v []float64) (s arraySummary) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, x := range v {
		switch {
		case math.IsNaN(x):
			s.NaN++
		case math.IsInf(x, 0):
			s.Inf++
		default:
			low, high = min(low, x), max(high, x)
		}
	}
	if low <= high {
		s.Min, s.Max = &low, &high
	}
	return s
}

// arrayList is what an .npz or .npy file holds.
type arrayList []arraySummary

func inspectArrays(path string) (arrayList, error) {
	list := arrayList{}
	add := func(name string, a *npz.Array) error {
		v, err := a.Float64s()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
		s := summarise(v)
		s.Name, s.DType, s.Shape = name, a.DType, append([]int{}, a.Shape...)
		list = append(list, s)
		return nil
	}
	if strings.HasSuffix(path, ".npy") {
		a, err := npz.OpenNpy(path)
		if err != nil {
			return nil, err
		}
		if err := add(filepath.Base(path), a); err != nil {
			return nil, err
		}
	} else {
		f, err := npz.OpenNpz(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for _, name := range f.Names() {
			a, err := f.Read(name)
			if err != nil {
				return nil, err
			}
			if err := add(name, a); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// Text prints the arrays for people.
func (list arrayList) Text(w io.Writer) error {
	t := report.Table{Columns: []report.Column{{Name: "array"}, {Name: "dtype"}, {Name: "shape"}, {Name: "min", Right: true}, {Name: "max", Right: true},
		{Name: "NaN", Right: true}, {Name: "inf", Right: true}}}
	number := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.6g", *v)
	}
	for _, a := range list {
		t.Add(a.Name, a.DType, fmt.Sprint(a.Shape), number(a.Min), number(a.Max), fmt.Sprint(a.NaN), fmt.Sprint(a.Inf))
	}
	return t.Text(w)
}

// pickledValue is what --json prints of each value of a .pkl file.
type pickledValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// pickledList is what a pickle holds.
type pickledList []pickledValue

// inspectPickle shows a pickle of plain data, such as nnU-Net's properties of a case.
func inspectPickle(path string) (pickledList, error) {
	v, err := pickle.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list := pickledList{}
	var visit func(name string, v any)
	visit = func(name string, v any) {
		d := pickle.AsDict(v)
		if d == nil || d.Len() == 0 {
			list = append(list, pickledValue{name, oneLine(v)})
			return
		}
		for k, e := range d.All() {
			visit(strings.TrimPrefix(name+"/"+keyText(k), "/"), e)
		}
	}
	visit("", v)
	return list, nil
}

// Text prints the values for people.
func (list pickledList) Text(w io.Writer) error {
	t := report.Table{Columns: []report.Column{{Name: "name"}, {Name: "value"}}}
	for _, x := range list {
		t.Add(x.Name, x.Value)
	}
	return t.Text(w)
}

// keyText is a key of a dict.
func keyText(k any) string {
	if s, ok := k.(string); ok {
		return s
	}
	return oneLine(k)
}

// oneLineLength is the longest text that oneLine gives.
const oneLineLength = 100

// oneLine writes a pickled value in one line, as Python would where that is short, else by its kind and size.
func oneLine(v any) string {
	if d := pickle.AsDict(v); d != nil {
		return fmt.Sprintf("dict of %d", d.Len())
	}
	items := func(list []any, open, end, kind string) string {
		var b strings.Builder
		for i, e := range list {
			if i > 0 {
				b.WriteString(", ")
			}
			if b.WriteString(oneLine(e)); b.Len() > oneLineLength {
				return fmt.Sprintf("%s of %d", kind, len(list))
			}
		}
		return open + b.String() + end
	}
	switch x := v.(type) {
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[x]
	case float64:
		return plans.PythonFloat(x)
	case string:
		if len(x) > oneLineLength {
			return fmt.Sprintf("str of %d", len(x))
		}
		return strconv.Quote(x)
	case []byte:
		return fmt.Sprintf("bytes of %d", len(x))
	case pickle.Tuple:
		return items(x, "(", ")", "tuple")
	case *pickle.List:
		return items(x.Items, "[", "]", "list")
	case *pickle.Set:
		return items(x.Items(), "{", "}", "set")
	case *pickle.NumpyScalar:
		return oneLine(x.Value())
	case *pickle.NumpyArray:
		text := fmt.Sprintf("array %s %v", x.DType, x.Shape)
		if v, err := x.Float64s(); err == nil {
			if s := summarise(v); s.Min != nil {
				text += fmt.Sprintf(", %.6g to %.6g", *s.Min, *s.Max)
			} else if len(v) > 0 {
				text += fmt.Sprintf(", %d NaN, %d inf", s.NaN, s.Inf)
			}
		}
		return text
	case *pth.Tensor:
		return fmt.Sprintf("tensor %s %v", x.DType, x.Size)
	case *pth.Storage:
		return fmt.Sprintf("storage of %d %s", x.Numel, x.DType)
	}
	return fmt.Sprint(v)
}
