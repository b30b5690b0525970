package pth

import (
	"errors"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/formats/pickle"
)

// rebuilder builds tensors and storages from torch's calls and persistent ids.
type rebuilder struct {
	storages map[string]*Storage
	locate   func(s *Storage, key string) error
	file     int64 // size of the file
	stored   int64 // total bytes of all storages, which may be compressed
	viewed   int64 // bytes of all tensors together, as if each were read
}

var (
	globalTensorV2      = pickle.Global{Module: "torch._utils", Name: "_rebuild_tensor_v2"}
	globalTensorV3      = pickle.Global{Module: "torch._utils", Name: "_rebuild_tensor_v3"}
	globalTensorV1      = pickle.Global{Module: "torch._utils", Name: "_rebuild_tensor"}
	globalParameter     = pickle.Global{Module: "torch._utils", Name: "_rebuild_parameter"}
	globalParameterFull = pickle.Global{Module: "torch._utils",
		Name: "_rebuild_parameter_with_state"}
	globalUntyped = pickle.Global{Module: "torch.storage", Name: "UntypedStorage"}
)

// storageClass returns the class in a storage's persistent id.
func storageClass(d DType) pickle.Global {
	return pickle.Global{Module: "torch", Name: dtypes[d].class}
}

// options returns the interpreter's extensions for torch files.
func (r *rebuilder) options() pickle.Options {
	o := pickle.Options{Persistent: r.persistent, Globals: map[pickle.Global]pickle.Func{
		globalTensorV1: r.tensor, globalTensorV2: r.tensor, globalTensorV3: r.tensorV3,
		globalParameter: r.parameter, globalParameterFull: r.parameter, globalUntyped: nil,
	}}
	for d, t := range dtypes {
		if t.class != "" {
			o.Globals[storageClass(d)] = nil
		}
	}
	return o
}

// classDType returns the element type of a storage class.
func classDType(v any) (d DType, untyped bool, err error) {
	g, ok := v.(pickle.Global)
	if ok && g == globalUntyped {
		return Uint8, true, nil
	}
	for d, t := range dtypes {
		if ok && t.class != "" && g == storageClass(d) {
			return d, false, nil
		}
	}
	return 0, false, errors.New("storage of an unknown class")
}

// persistent resolves ("storage", class, key, location, numel), in legacy files with a sixth item.
func (r *rebuilder) persistent(id any) (any, error) {
	t, ok := id.(pickle.Tuple)
	if !ok || len(t) == 0 {
		return nil, errors.New("persistent id that is not a tuple")
	}
	if t[0] == "module" {
		return nil, errors.New("the file holds a whole pickled module, which only its own Python " +
			"code can rebuild; save its state_dict() instead")
	}
	if t[0] != "storage" || len(t) < 5 || len(t) > 6 {
		return nil, errors.New("persistent id that is not a storage")
	}
	if len(t) == 6 && t[5] != nil {
		return nil, errors.New("storage views of PyTorch before 0.4 are not supported; save the " +
			"file again with a newer torch")
	}
	dtype, untyped, err := classDType(t[1])
	if err != nil {
		return nil, err
	}
	key, ok1 := t[2].(string)
	location, ok2 := t[3].(string)
	numel, ok3 := t[4].(int64)
	if !ok1 || !ok2 || !ok3 || numel < 0 || numel > math.MaxInt64/int64(dtype.Size()) {
		return nil, errors.New("storage with a malformed persistent id")
	}
	if s := r.storages[key]; s != nil {
		if s.DType != dtype || s.untyped != untyped || s.Numel != numel {
			return nil, fmt.Errorf("storage %q is named twice with different types or sizes", key)
		}
		return s, nil
	}
	s := &Storage{DType: dtype, untyped: untyped, Numel: numel, Location: location}
	if err := r.locate(s, key); err != nil {
		return nil, err
	}
	r.storages[key] = s
	if r.stored = min(r.stored+s.Bytes(), 1<<60); r.stored/maxGain > r.file+1<<20 {
		return nil, fmt.Errorf("the storages have more than %d times the size of the file; save "+
			"it again with torch.save, which does not compress", maxGain)
	}
	return s, nil
}

// maxGain is the largest ratio of the size of all storages, or of all tensors, to the size of the
// file.
const maxGain = 64

var errTensorArgs = errors.New("unexpected arguments")

// tensor rebuilds from (storage, offset, size, stride[, requires_grad, backward_hooks[,
// metadata]]).
func (r *rebuilder) tensor(args pickle.Tuple) (any, error) {
	if len(args) != 4 && len(args) != 6 && len(args) != 7 {
		return nil, errTensorArgs
	}
	s, ok := args[0].(*Storage)
	if !ok {
		return nil, errTensorArgs
	}
	return r.view(s, s.DType, args)
}

// tensorV3 rebuilds from (storage, offset, size, stride, requires_grad, backward_hooks, dtype[,
// metadata]).
func (r *rebuilder) tensorV3(args pickle.Tuple) (any, error) {
	if len(args) != 7 && len(args) != 8 {
		return nil, errTensorArgs
	}
	s, ok1 := args[0].(*Storage)
	name, ok2 := args[6].(pickle.DType)
	if !ok1 || !ok2 {
		return nil, errTensorArgs
	}
	dtype, err := dtypeNamed(name)
	if err != nil {
		return nil, err
	}
	return r.view(s, dtype, append(append(pickle.Tuple{}, args[:6]...), args[7:]...))
}

func (r *rebuilder) view(s *Storage, dtype DType, args pickle.Tuple) (any, error) {
	offset, ok := args[1].(int64)
	if !ok {
		return nil, errTensorArgs
	}
	size, err := ints(args[2])
	if err != nil {
		return nil, err
	}
	stride, err := ints(args[3])
	if err != nil {
		return nil, err
	}
	t := &Tensor{Storage: s, Offset: offset, Size: size, Stride: stride, DType: dtype}
	if len(args) >= 6 {
		if t.RequiresGrad, ok = args[4].(bool); !ok {
			return nil, errTensorArgs
		}
		if !empty(args[5]) {
			return nil, errors.New("tensor with backward hooks, which are code; save it detached")
		}
	}
	if len(args) == 7 && !empty(args[6]) {
		return nil, errors.New("conjugated or negated view; save it with resolve_conj() and " +
			"resolve_neg()")
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	// An expanded tensor repeats elements: a small file with many of them must not demand huge
	// memory. The factor is far above what state dicts with aliases need.
	if r.viewed += t.Bytes(); r.viewed/maxGain > r.file+1<<20 {
		return nil, fmt.Errorf("the tensors have more than %d times the size of the file (at one "+
			"of shape %v)", maxGain, t.Size)
	}
	return t, nil
}

// ints reads a tuple of sizes or strides.
func ints(v any) ([]int64, error) {
	if s, ok := v.(pickle.Size); ok {
		return s, nil
	}
	t, ok := v.(pickle.Tuple)
	if !ok || len(t) > 64 {
		return nil, errTensorArgs
	}
	out := make([]int64, len(t))
	for i, x := range t {
		if out[i], ok = x.(int64); !ok {
			return nil, errTensorArgs
		}
	}
	return out, nil
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case *pickle.OrderedDict:
		return v.Len() == 0
	case *pickle.Dict:
		return v.Len() == 0
	}
	return false
}

// parameter rebuilds from (tensor, requires_grad, backward_hooks[, state]).
func (r *rebuilder) parameter(args pickle.Tuple) (any, error) {
	if len(args) != 3 && len(args) != 4 {
		return nil, errTensorArgs
	}
	data, ok1 := args[0].(*Tensor)
	grad, ok2 := args[1].(bool)
	if !ok1 || !ok2 {
		return nil, errTensorArgs
	}
	if !empty(args[2]) {
		return nil, errors.New("parameter with backward hooks, which are code; save its data")
	}
	if len(args) == 4 && !empty(args[3]) {
		return nil, errors.New("parameter with Python attributes; save its data")
	}
	t := *data
	t.Parameter, t.RequiresGrad = true, grad
	return &t, nil
}

// replacer returns the Python form of tensors and storages and numbers the storages by first
// appearance.
type replacer struct {
	keys  map[*Storage]int
	order []*Storage
}

func (r *replacer) replace(v any) (any, error) {
	switch v := v.(type) {
	case *Storage:
		if v.DType.Size() == 0 {
			return nil, fmt.Errorf("storage of unknown %s", v.DType)
		}
		key, ok := r.keys[v]
		if !ok {
			key = len(r.order)
			r.keys[v] = key
			r.order = append(r.order, v)
		}
		class, numel := storageClass(v.DType), v.Numel
		if v.untyped || class.Name == "" {
			class, numel = globalUntyped, v.Bytes()
		}
		return pickle.Persistent{ID: pickle.Tuple{"storage", class, fmt.Sprint(key), "cpu",
			numel}}, nil
	case *Tensor:
		if v.Storage == nil {
			return nil, errors.New("tensor without a storage")
		}
		if err := v.check(); err != nil {
			return nil, err
		}
		grad := v.RequiresGrad && !v.Parameter
		args := pickle.Tuple{v.Storage, v.Offset, tuple(v.Size), tuple(v.Stride), grad,
			&pickle.OrderedDict{}}
		call := pickle.Call{Func: globalTensorV2, Args: args}
		switch {
		case v.Storage.untyped || dtypes[v.DType].class == "":
			call = pickle.Call{Func: globalTensorV3,
				Args: append(args, pickle.DType(v.DType.String()))}
		case v.DType != v.Storage.DType:
			return nil, fmt.Errorf("tensor of %s on a storage of %s", v.DType, v.Storage.DType)
		}
		if v.Parameter {
			call = pickle.Call{Func: globalParameter,
				Args: pickle.Tuple{call, v.RequiresGrad, &pickle.OrderedDict{}}}
		}
		return call, nil
	}
	return nil, fmt.Errorf("a Go %T has no Python form", v)
}

func tuple(v []int64) pickle.Tuple {
	t := make(pickle.Tuple, len(v))
	for i, n := range v {
		t[i] = n
	}
	return t
}
