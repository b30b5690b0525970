package torchtest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
)

// Array is a tensor as plain data. Bools are 0 and 1.
type Array struct {
	DType string // PyTorch's name: "float32", "float64", "int64", "bool"
	Shape []int64
	Data  []float64 // row-major; float64 holds every element of these cases exactly
}

// UnmarshalJSON reads the elements from text, which may also be "nan" and "inf".
func (a *Array) UnmarshalJSON(text []byte) error {
	var raw struct {
		DType string
		Shape []int64
		Data  string
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	a.DType, a.Shape = raw.DType, raw.Shape
	for _, f := range strings.Fields(raw.Data) {
		bits := 64
		if a.DType == "float32" {
			bits = 32
		}
		v, err := strconv.ParseFloat(f, bits)
		if err != nil {
			return err
		}
		a.Data = append(a.Data, v)
	}
	return nil
}

// Case is an operator with its operands and PyTorch's results. Op is the method of torch.Scope; the
// methods T, Ints, Int, Float and Flag read its arguments by position.
type Case struct {
	Name    string
	Op      string
	Args    []any
	In      []*Array
	Out     []*Array
	Exact   bool // only IEEE rounding: every implementation gives the same bits
	InPlace bool // the result is the modified first operand

	// Gradients of sum(Out[0]·Cotangent) with respect to the operands, nil for operands without
	// one. Cotangent is nil for operators without a gradient.
	Cotangent *Array
	Grads     []*Array
}

// T returns the operand for argument i, nil if absent.
func (c *Case) T(i int) *Array {
	if m, ok := c.Args[i].(map[string]any); ok {
		return c.In[int(m["t"].(float64))]
	}
	return nil
}

// Float returns argument i as a float.
func (c *Case) Float(i int) float64 { return c.Args[i].(float64) }

// Int returns argument i as an integer.
func (c *Case) Int(i int) int64 { return int64(c.Float(i)) }

// Flag returns argument i as a bool.
func (c *Case) Flag(i int) bool { return c.Args[i].(bool) }

// Ints returns argument i as a list.
func (c *Case) Ints(i int) []int64 {
	var v []int64
	for _, x := range c.Args[i].([]any) {
		v = append(v, int64(x.(float64)))
	}
	return v
}

// Cases reads the suite's cases, written by scripts/golden/ops.py with PyTorch.
func Cases(t testing.TB) []*Case {
	t.Helper()
	var file struct{ Cases []*Case }
	golden.LoadJSON(t, "ops.json", &file)
	return file.Cases
}

// Run computes a case with an implementation of the operators: the outputs and, if the case has a
// cotangent, the gradient for each operand (nil for operands without one). ok is false if the
// implementation lacks the operator.
type Run func(t testing.TB, c *Case) (out, grads []*Array, ok bool)

// opTolerance allows for other summation orders and other implementations of exp. Measured against
// goldens of libtorch 2.4.1 on an AVX-512 machine: at most 2.5e-7 of the largest element, over AVX2
// and default kernels, two threads and libtorch 2.15.0.
var opTolerance = golden.Tolerance{Scale: 1e-6}

// OpSuite runs every case with an implementation, each in a subtest, and returns the number
// computed.
func OpSuite(t *testing.T, run Run) int {
	n := 0
	for _, c := range Cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			out, grads, ok := run(t, c)
			if !ok {
				t.Skipf("the implementation has no %s", c.Op)
			}
			n++
			c.compare(t, "output", c.Out, out)
			if c.Cotangent != nil {
				c.compare(t, "gradient", c.Grads, grads)
			}
		})
	}
	return n
}

func (c *Case) compare(t testing.TB, what string, want, got []*Array) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%d %ss, want %d", len(got), what, len(want))
		return
	}
	for i, w := range want {
		name := fmt.Sprintf("%s %d", what, i)
		g := got[i]
		if (w == nil) != (g == nil) {
			t.Errorf("%s: present is %t, want %t", name, g != nil, w != nil)
			continue
		}
		if w == nil {
			continue
		}
		if w.DType != g.DType || fmt.Sprint(w.Shape) != fmt.Sprint(g.Shape) {
			t.Errorf("%s is %s %v, want %s %v", name, g.DType, g.Shape, w.DType, w.Shape)
			continue
		}
		shape := make([]int, len(w.Shape))
		for j, d := range w.Shape {
			shape[j] = int(d)
		}
		tol := opTolerance
		if c.Exact || w.DType != "float32" {
			tol = golden.Tolerance{}
		}
		d := golden.Compare(shape, w.Data, g.Data, tol)
		if d.Count > 0 && !(d.Excess <= 1) {
			t.Errorf("%s: %v; allowed %v", name, d, tol)
		} else {
			t.Logf("%s: %v", name, d)
		}
	}
}

// Torch computes cases with package torch on a device. It finds the operator by name, so any method
// of torch.Scope that takes tensors, numbers and lists can have a case.
func Torch(device torch.Device) Run {
	return Through(device, func(t testing.TB, s *torch.Scope, c *Case,
		in []*torch.Tensor) ([]*torch.Tensor, bool) {
		t.Helper()
		method := reflect.ValueOf(s).MethodByName(c.Op)
		if !method.IsValid() {
			t.Fatalf("torch.Scope has no operator %s", c.Op)
		}
		results := method.Call(c.values(t, method.Type(), in))
		if s.Err() != nil || c.InPlace {
			return in[:1], true
		}
		var out []*torch.Tensor
		for _, r := range results {
			out = append(out, r.Interface().(*torch.Tensor))
		}
		return out, true
	})
}

// Through computes cases with any implementation that takes and returns tensors of package torch.
// call returns the results, for an in-place operator the first operand, or false if there is no
// such operator.
func Through(device torch.Device, call func(t testing.TB, s *torch.Scope, c *Case,
	in []*torch.Tensor) ([]*torch.Tensor, bool)) Run {
	return func(t testing.TB, c *Case) (out, grads []*Array, ok bool) {
		t.Helper()
		err := torch.With(func(s *torch.Scope) error {
			in := make([]*torch.Tensor, len(c.In))
			for i, a := range c.In {
				in[i] = s.To(a.tensor(s), mustDType(t, a.DType), device)
				if c.Cotangent != nil && c.Grads[i] != nil {
					if err := in[i].SetRequiresGrad(true); err != nil {
						return err
					}
				}
			}
			var tensors []*torch.Tensor
			if tensors, ok = call(t, s, c, in); !ok || s.Err() != nil {
				return nil
			}
			for _, x := range tensors {
				out = append(out, array(t, s, x))
			}
			if c.Cotangent == nil {
				return nil
			}
			cot := s.To(c.Cotangent.tensor(s), torch.Float32, device)
			if s.Err() != nil {
				return nil
			}
			if err := tensors[0].BackwardFrom(cot, false); err != nil {
				return err
			}
			for i := range in {
				var a *Array
				if g := s.Grad(in[i]); g != nil {
					a = array(t, s, g)
				}
				grads = append(grads, a)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out, grads, ok
	}
}

// values converts the arguments to the operator's parameters.
func (c *Case) values(t testing.TB, f reflect.Type, in []*torch.Tensor) []reflect.Value {
	t.Helper()
	tensor := func(i int) *torch.Tensor {
		if m, ok := c.Args[i].(map[string]any); ok {
			return in[int(m["t"].(float64))]
		}
		return nil
	}
	var vs []reflect.Value
	for i := range c.Args {
		p := f.In(min(i, f.NumIn()-1))
		if f.IsVariadic() && i >= f.NumIn()-1 {
			p = p.Elem()
		}
		switch {
		case p == reflect.TypeFor[*torch.Tensor]():
			vs = append(vs, reflect.ValueOf(tensor(i)))
		case p.Kind() == reflect.Slice:
			vs = append(vs, reflect.ValueOf(c.Ints(i)))
		case p.Kind() == reflect.Bool:
			vs = append(vs, reflect.ValueOf(c.Flag(i)))
		default:
			vs = append(vs, reflect.ValueOf(c.Float(i)).Convert(p))
		}
	}
	return vs
}

func mustDType(t testing.TB, name string) torch.DType {
	t.Helper()
	for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Int64, torch.Bool,
		torch.Uint8} {
		if d.String() == name {
			return d
		}
	}
	t.Fatalf("the op suite has no element type %q", name)
	return 0
}

// tensor returns a's elements as a CPU tensor; the caller converts its dtype.
func (a *Array) tensor(s *torch.Scope) *torch.Tensor {
	return torch.FromSlice(s, a.Data, a.Shape...)
}

func array(t testing.TB, s *torch.Scope, x *torch.Tensor) *Array {
	t.Helper()
	a := &Array{DType: x.DType().String(), Shape: x.Shape()}
	data, err := torch.Slice[float64](s.To(s.Detach(x), torch.Float64, torch.CPU))
	if err != nil {
		t.Fatal(err)
	}
	a.Data = data
	return a
}

// Elements32 returns a's elements as float32.
func (a *Array) Elements32() []float32 {
	v := make([]float32, len(a.Data))
	for i, x := range a.Data {
		v[i] = float32(x)
	}
	return v
}
