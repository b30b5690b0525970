// Package checkpoint connects networks and files: it reads what PyTorch and nnU-Net saved into a network, and writes
// the state of a training as the dictionary that nnU-Net's own trainer saves and loads.
//
// The file format itself is package formats/pth.
package checkpoint

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
)

// Weight is one named tensor of a file.
type Weight struct {
	Name string
	*pth.Tensor
}

// File is an open checkpoint, of nnU-Net's dictionary or a bare state dict. Fields that the file does not have are zero.
type File struct {
	Path    string
	Weights []Weight // in the file's order, under the names of an unwrapped network without adapters
	// NNUNet is set for nnU-Net's dictionary; the fields below are filled for it alone.
	NNUNet        bool
	Trainer       string
	Configuration string
	Fold          string // a number or "all"
	Epoch         int    // the epoch that training would begin next
	// MirrorAxes are the axes that inference mirrors; nil when the file says None or nothing.
	MirrorAxes []int
	Plans      *plans.Plans   // from init_args
	Dataset    *plans.Dataset // from init_args

	globals []pickle.Global
	closer  io.Closer
	digest  string // once computed
	root    *pickle.Dict
}

// Close closes the file. Weights cannot be read afterwards.
func (f *File) Close() error { return f.closer.Close() }

// Root is the whole pickled dictionary.
func (f *File) Root() *pickle.Dict { return f.root }

// Globals are the Python names that the file mentions.
func (f *File) Globals() []pickle.Global { return f.globals }

// Open opens a checkpoint, .pth or .safetensors, and reads everything but the tensors' contents.
func Open(path string) (*File, error) {
	if strings.HasSuffix(path, Extension) {
		return openSafetensors(path)
	}
	p, err := pth.Open(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f := &File{Path: path, globals: p.Globals, closer: p}
	if err := f.interpret(p.Root); err != nil {
		p.Close()
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	return f, nil
}

func (f *File) interpret(root any) error {
	if f.root = dictOf(root); f.root == nil {
		return fmt.Errorf("found a %T, expected nnU-Net's checkpoint dictionary or a state dict", root)
	}
	weights := f.root
	if w, ok := f.root.Get("network_weights"); ok {
		f.NNUNet = true
		if weights = dictOf(w); weights == nil {
			return fmt.Errorf("network_weights is a %T, expected a dict", w)
		}
	} else if w, ok := f.root.Get("state_dict"); ok && dictOf(w) != nil {
		weights = dictOf(w)
	}
	adapter := "" // the name of the adapter that a wrapped network has
	for key, value := range weights.All() {
		name, ok := key.(string)
		t, isTensor := value.(*pth.Tensor)
		if !ok || !isTensor {
			if f.NNUNet || weights != f.root {
				return fmt.Errorf("weight %v is a %T, expected a tensor", key, value)
			}
			return fmt.Errorf("entry %v is a %T: neither nnU-Net's checkpoint (no network_weights) nor a state dict of tensors", key, value)
		}
		if strings.Contains(name, ".original_module.") {
			continue // PEFT's copy of a layer that was trained as a whole and stands under modules_to_save
		}
		if a := peft.AdapterName(name); a != "" && adapter != "" && a != adapter {
			return fmt.Errorf("it holds several adapters, %s and %s, whose tensors would get the same names: save one of them with PEFT's save_pretrained and give its folder to `lntorch merge`", adapter, a)
		} else if a != "" {
			adapter = a
		}
		f.Weights = append(f.Weights, Weight{peft.PlainName(name), t})
	}
	if !f.NNUNet {
		return nil
	}
	var err error
	if f.Trainer, err = text(f.root, "trainer_name"); err != nil {
		return err
	}
	epoch, err := integer(f.root, "current_epoch")
	if err != nil {
		return err
	}
	if f.Epoch = int(epoch); epoch < 0 || epoch > math.MaxInt32 {
		return fmt.Errorf("current_epoch is %d", epoch)
	}
	if f.MirrorAxes, err = mirrorAxes(f.root); err != nil {
		return err
	}
	init, ok := f.root.Get("init_args")
	if !ok {
		return nil
	}
	args := dictOf(init)
	if args == nil {
		return fmt.Errorf("init_args is a %T, expected a dict", init)
	}
	if f.Configuration, err = text(args, "configuration"); err != nil {
		return fmt.Errorf("init_args: %w", err)
	}
	switch fold, _ := args.Get("fold"); x := fold.(type) {
	case string:
		f.Fold = x
	case int64:
		f.Fold = strconv.FormatInt(x, 10)
	case nil:
	default:
		return fmt.Errorf("init_args: fold is a %T, expected a number or a name", fold)
	}
	if p, ok := args.Get("plans"); ok {
		if f.Plans, err = plansOf(p, f.Path); err != nil {
			return err
		}
	}
	if d, ok := args.Get("dataset_json"); ok {
		obj, err := toJSON(d)
		if err != nil {
			return fmt.Errorf("init_args.dataset_json: %w", err)
		}
		o, ok := obj.(*plans.Object)
		if !ok {
			return fmt.Errorf("init_args.dataset_json is a %T, expected a dict", d)
		}
		if f.Dataset, err = plans.DatasetFromObject(o, f.Path+": init_args.dataset_json"); err != nil {
			return err
		}
	}
	return nil
}

func mirrorAxes(root *pickle.Dict) ([]int, error) {
	const key = "inference_allowed_mirroring_axes"
	v, _ := root.Get(key)
	if v == nil {
		return nil, nil
	}
	list, err := items(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	axes := []int{}
	for _, a := range list {
		n, ok := pickle.AsInt(a)
		if !ok || n < 0 || n > 2 {
			return nil, fmt.Errorf("%s: %v is no axis", key, a)
		}
		axes = append(axes, int(n))
	}
	return axes, nil
}

func plansOf(v any, path string) (*plans.Plans, error) {
	obj, err := toJSON(v)
	if err != nil {
		return nil, fmt.Errorf("init_args.plans: %w", err)
	}
	o, ok := obj.(*plans.Object)
	if !ok {
		return nil, fmt.Errorf("init_args.plans is a %T, expected a dict", v)
	}
	return plans.FromObject(o, path+": init_args.plans")
}

func dictOf(v any) *pickle.Dict {
	switch d := v.(type) {
	case *pickle.Dict:
		return d
	case *pickle.OrderedDict:
		return &d.Dict
	case *pickle.DefaultDict:
		return &d.Dict
	}
	return nil
}

func items(v any) ([]any, error) {
	switch l := v.(type) {
	case pickle.Tuple:
		return l, nil
	case *pickle.List:
		return l.Items, nil
	}
	return nil, fmt.Errorf("found a %T, expected a list", v)
}

// text, integer and float read an entry of a dict; one that is missing is "" or 0.
func text(d *pickle.Dict, key string) (string, error) {
	v, ok := d.Get(key)
	s, isText := v.(string)
	if ok && !isText {
		return "", fmt.Errorf("%s is a %T, expected a string", key, v)
	}
	return s, nil
}

func integer(d *pickle.Dict, key string) (int64, error) {
	v, ok := d.Get(key)
	n, isInt := pickle.AsInt(v)
	if ok && !isInt {
		return 0, fmt.Errorf("%s is a %T, expected an integer", key, v)
	}
	return n, nil
}

func float(d *pickle.Dict, key string) (float64, error) {
	v, ok := d.Get(key)
	x, isNumber := pickle.AsFloat(v)
	if ok && !isNumber {
		return 0, fmt.Errorf("%s is a %T, expected a number", key, v)
	}
	return x, nil
}

// toJSON turns pickled plain data into the ordered documents of package plans.
func toJSON(v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, int64, float64, string:
		return x, nil
	case *pickle.NumpyScalar:
		return toJSON(x.Value())
	case pickle.Tuple, *pickle.List:
		out := []any{}
		list, _ := items(x)
		for _, e := range list {
			j, err := toJSON(e)
			if err != nil {
				return nil, err
			}
			out = append(out, j)
		}
		return out, nil
	}
	d := dictOf(v)
	if d == nil {
		return nil, fmt.Errorf("a value of type %T has no place in JSON", v)
	}
	o := &plans.Object{}
	for k, e := range d.All() {
		j, err := toJSON(e)
		if err != nil {
			return nil, err
		}
		o.Set(fmt.Sprint(k), j)
	}
	return o, nil
}

// fromJSON is the inverse: what json.load would give, as pickled.
func fromJSON(v any) any {
	switch x := v.(type) {
	case *plans.Object:
		d := &pickle.Dict{}
		for _, k := range x.Keys() {
			e, _ := x.Get(k)
			d.Set(k, fromJSON(e))
		}
		return d
	case []any:
		l := &pickle.List{}
		for _, e := range x {
			l.Items = append(l.Items, fromJSON(e))
		}
		return l
	}
	return v
}

// Lntorch tells what lntorch added to the file: the method and the iterations done in the current epoch; "" and 0 when
// another program wrote it.
func (f *File) Lntorch() (method string, iteration int64) {
	v, _ := f.root.Get("lntorch")
	d := dictOf(v)
	if d == nil {
		return "", 0
	}
	method, _ = text(d, "method")
	iteration, _ = integer(d, "iteration")
	return method, iteration
}
