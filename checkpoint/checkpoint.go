// Package checkpoint connects networks and files: it loads checkpoints of PyTorch and nnU-Net into
// networks, and saves the state of a training run as the dictionary that nnU-Net's own trainer
// saves and loads.
//
// The file formats themselves are packages formats/pth and formats/safetensors.
package checkpoint

import (
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/brief"
)

// Weight is a named tensor of a file.
type Weight struct {
	Name string
	*pth.Tensor
}

// File is an open checkpoint: nnU-Net's dictionary or a bare state dict. Fields that the file lacks
// are zero.
type File struct {
	// Format and Version name the container: "zip" or "legacy" of PyTorch, "safetensors".
	Format  string
	Version int
	Path    string
	// in file order, with the names of an unwrapped network without adapters
	Weights []Weight
	// NNUNet is set for nnU-Net's dictionary; the fields below are filled only then.
	NNUNet        bool
	Trainer       string
	Configuration string
	Fold          string // a number or "all"
	Epoch         int    // the next epoch to train
	// MirrorAxes lists the axes that inference mirrors; nil if the file holds None or nothing.
	MirrorAxes []int
	// MirrorAxesKnown: the file says them, None included.
	MirrorAxesKnown bool
	Plans           *plans.Plans   // from init_args
	Dataset         *plans.Dataset // from init_args
	// Under is the key that holds the weights in another program's file, such as "model"; ""
	// otherwise.
	Under string

	invalid []fault // metadata that is present but could not be read
	skipped []string
	globals []pickle.Global
	closer  io.Closer
	digest  string      // cached
	info    os.FileInfo // of the file when it was opened
	root    *pickle.Dict
}

// Keys of nnU-Net's dictionary and of its init_args, as arguments of Understood.
const (
	KeyTrainer       = "trainer_name"
	KeyEpoch         = "current_epoch"
	KeyMirrorAxes    = "inference_allowed_mirroring_axes"
	KeyInit          = "init_args"
	KeyConfiguration = "configuration"
	KeyFold          = "fold"
	KeyPlans         = "plans"
	KeyDataset       = "dataset_json"
)

// fault is the reason why metadata in the file could not be read.
type fault struct {
	key string
	err error
}

// Understood returns an error if the file has one of these keys in a form that could not be read,
// which leaves its field zero. Open accepts such a file because its weights are intact; callers
// that need a field check it first.
func (f *File) Understood(keys ...string) error {
	for _, o := range f.invalid {
		if slices.Contains(keys, o.key) || o.key == KeyInit && slices.ContainsFunc(keys, inInit) {
			return fmt.Errorf("checkpoint: %s: %w", f.Path, o.err)
		}
	}
	return nil
}

func inInit(key string) bool {
	return slices.Contains([]string{KeyConfiguration, KeyFold, KeyPlans, KeyDataset}, key)
}

// Notes lists what a user should know about how the file was read: the key that holds the weights,
// skipped entries, and metadata that could not be read.
func (f *File) Notes() []string {
	var notes []string
	if f.Under != "" {
		notes = append(notes, fmt.Sprintf("the weights are those under the key %q", f.Under))
	}
	if len(f.skipped) > 0 {
		notes = append(notes,
			fmt.Sprintf("skipped %d entries that are not weights, for example %s",
				len(f.skipped), f.skipped[0]))
	}
	for _, o := range f.invalid {
		notes = append(notes, "metadata that could not be read, which does not affect the "+
			"weights: "+o.err.Error())
	}
	return notes
}

// Close closes the file. Its weights cannot be read afterwards.
func (f *File) Close() error { return f.closer.Close() }

// Root returns the whole pickled dictionary.
func (f *File) Root() *pickle.Dict { return f.root }

// Globals returns the Python names in the file.
func (f *File) Globals() []pickle.Global { return f.globals }

// Open opens a checkpoint, .pth or .safetensors, and reads everything but the tensors' contents.
func Open(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f, err := open(path)
	if err == nil {
		f.info = info
	}
	return f, err
}

// Unchanged reports whether the file under the path is still the one that was opened.
func (f *File) Unchanged() bool {
	now, err := os.Stat(f.Path)
	return err == nil && os.SameFile(now, f.info) && now.Size() == f.info.Size() && now.ModTime().Equal(f.info.ModTime())
}

func open(path string) (*File, error) {
	if strings.HasSuffix(path, Extension) {
		return openSafetensors(path)
	}
	p, err := pth.Open(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f := &File{Path: path, Format: "zip", Version: p.Version, globals: p.Globals, closer: p}
	if p.Legacy {
		f.Format = "legacy"
	}
	if err := f.interpret(p.Root); err != nil {
		p.Close()
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	return f, nil
}

func (f *File) interpret(root any) error {
	if f.root = pickle.AsDict(root); f.root == nil {
		return fmt.Errorf("found a value of type %s, expected a dictionary: nnU-Net's checkpoint "+
			"or a state dict (in Python: torch.save(network.state_dict(), path))",
			pickle.TypeName(root))
	}
	weights, err := f.findWeights()
	if err != nil {
		return err
	}
	adapter := "" // the adapter's name in a wrapped network
	for key, value := range weights.All() {
		name := key.(string)
		if isExtraState(name, value) {
			f.skipped = append(f.skipped, name)
			continue
		}
		if strings.Contains(name, ".original_module.") {
			// PEFT's original of a layer that was trained in full, whose result is under
			// modules_to_save
			continue
		}
		if a := peft.AdapterName(name); a != "" && adapter != "" && a != adapter {
			return fmt.Errorf("it holds several adapters, %s and %s, whose tensors would get the "+
				"same names: save one of them with PEFT's save_pretrained and give its folder to "+
				"`lntorch merge`", adapter, a)
		} else if a != "" {
			adapter = a
		}
		f.Weights = append(f.Weights, Weight{peft.PlainName(name), value.(*pth.Tensor)})
	}
	if f.NNUNet {
		f.readMetadata()
	}
	return nil
}

// isExtraState reports whether an entry of a state dict is the result of a module's get_extra_state
// and so not a weight.
// Source: torch.nn.Module.state_dict, _EXTRA_STATE_KEY_SUFFIX.
func isExtraState(name string, value any) bool {
	_, tensor := value.(*pth.Tensor)
	return !tensor && (name == "_extra_state" || strings.HasSuffix(name, "._extra_state"))
}

// notWeights returns an error saying why a dict is not a state dict, nil if it is one.
func notWeights(d *pickle.Dict) error {
	for key, value := range d.All() {
		name, ok := key.(string)
		if !ok {
			return fmt.Errorf("the name %v of a weight is of type %s, expected text", key,
				pickle.TypeName(key))
		}
		if _, ok := value.(*pth.Tensor); !ok && !isExtraState(name, value) {
			return fmt.Errorf("weight %s is of type %s, expected a tensor", name,
				pickle.TypeName(value))
		}
	}
	return nil
}

// findWeights returns the state dict of the file: nnU-Net's network_weights, the dictionary itself,
// Lightning's state_dict, or the only entry that is a state dict.
func (f *File) findWeights() (*pickle.Dict, error) {
	if w, ok := f.root.Get("network_weights"); ok {
		f.NNUNet = true
		d := pickle.AsDict(w)
		if d == nil {
			return nil, fmt.Errorf("network_weights is of type %s, expected a dict",
				pickle.TypeName(w))
		}
		return d, notWeights(d)
	}
	own := notWeights(f.root)
	if own == nil {
		return f.root, nil
	}
	var found []string
	for key, value := range f.root.All() {
		d, name := pickle.AsDict(value), fmt.Sprint(key)
		if d == nil || d.Len() == 0 || notWeights(d) != nil {
			continue
		}
		if found = append(found, name); name == "state_dict" {
			found = []string{name}
			break
		}
	}
	if len(found) == 1 {
		f.Under = found[0]
		w, _ := f.root.Get(f.Under)
		return pickle.AsDict(w), nil
	}
	if len(found) > 1 {
		return nil, fmt.Errorf("found weights under %d keys (%s), expected one: save only the "+
			"right one, in Python: torch.save(torch.load(path, map_location=\"cpu\")[%q], "+
			"new_path)",
			len(found), shortList(found), found[0])
	}
	if w, ok := f.root.Get("state_dict"); ok && pickle.AsDict(w) != nil {
		return nil, notWeights(pickle.AsDict(w))
	}
	var keys []string
	for key := range f.root.All() {
		keys = append(keys, fmt.Sprint(key))
	}
	return nil, fmt.Errorf("found a dictionary with the keys %s, expected nnU-Net's checkpoint "+
		"(network_weights) or a state dict, as it is or under one key: %w; save only the "+
		"weights, in Python: torch.save(network.state_dict(), path)",
		shortList(keys), own)
}

// shortList joins the first few names and counts the rest.
func shortList(names []string) string {
	return brief.Join(names, ", ", 12)
}

// readMetadata fills the fields of nnU-Net's dictionary. What cannot be read stays zero and is
// added to f.invalid.
func (f *File) readMetadata() {
	read := func(key string, err error) {
		if err != nil {
			f.invalid = append(f.invalid, fault{key, err})
		}
	}
	var err error
	f.Trainer, err = text(f.root, KeyTrainer)
	read(KeyTrainer, err)
	epoch, err := integer(f.root, KeyEpoch)
	if err == nil && (epoch < 0 || epoch > math.MaxInt32) {
		err = fmt.Errorf("%s is %d, expected a number of epochs", KeyEpoch, epoch)
	}
	if read(KeyEpoch, err); err == nil {
		f.Epoch = int(epoch)
	}
	f.MirrorAxes, err = mirrorAxes(f.root)
	read(KeyMirrorAxes, err)
	_, f.MirrorAxesKnown = f.root.Get(KeyMirrorAxes)
	init, ok := f.root.Get(KeyInit)
	if !ok {
		return
	}
	args := pickle.AsDict(init)
	if args == nil {
		read(KeyInit, fmt.Errorf("%s is of type %s, expected a dict", KeyInit,
			pickle.TypeName(init)))
		return
	}
	inside := func(key string, err error) {
		if err != nil {
			read(key, fmt.Errorf("%s: %w", KeyInit, err))
		}
	}
	f.Configuration, err = text(args, KeyConfiguration)
	inside(KeyConfiguration, err)
	f.Fold, err = fold(args)
	inside(KeyFold, err)
	if p, ok := args.Get(KeyPlans); ok {
		f.Plans, err = plansOf(p)
		inside(KeyPlans, err)
	}
	if d, ok := args.Get(KeyDataset); ok {
		f.Dataset, err = datasetOf(d)
		inside(KeyDataset, err)
	}
}

// fold returns the fold: a number or "all".
func fold(args *pickle.Dict) (string, error) {
	v, _ := args.Get(KeyFold)
	if v == nil {
		return "", nil
	}
	if n, ok := wholeNumber(v); ok {
		return strconv.FormatInt(n, 10), nil
	}
	return text(args, KeyFold)
}

func mirrorAxes(root *pickle.Dict) ([]int, error) {
	const key = KeyMirrorAxes
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
		n, ok := wholeNumber(a)
		if !ok {
			return nil, fmt.Errorf("%s holds a value of type %s, expected axes", key,
				pickle.TypeName(a))
		}
		if n < 0 || n > 2 {
			return nil, fmt.Errorf("%s: %d is not an axis, expected 0, 1 or 2", key, n)
		}
		axes = append(axes, int(n))
	}
	return axes, nil
}

func plansOf(v any) (*plans.Plans, error) {
	o, err := objectOf(v, KeyPlans)
	if err != nil {
		return nil, err
	}
	return plans.FromObject(o, KeyPlans)
}

func datasetOf(v any) (*plans.Dataset, error) {
	o, err := objectOf(v, KeyDataset)
	if err != nil {
		return nil, err
	}
	return plans.DatasetFromObject(o, KeyDataset)
}

// objectOf converts a pickled dict to an object of package plans.
func objectOf(v any, key string) (*plans.Object, error) {
	if pickle.AsDict(v) == nil {
		return nil, fmt.Errorf("%s is of type %s, expected a dict", key, pickle.TypeName(v))
	}
	j, err := toJSON(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return j.(*plans.Object), nil
}

// items lists the elements that Python's iteration over v yields.
func items(v any) ([]any, error) {
	switch l := v.(type) {
	case pickle.Tuple:
		return l, nil
	case *pickle.List:
		return l.Items, nil
	case *pickle.Set:
		return l.Items(), nil
	case pickle.Size:
		out := make([]any, len(l))
		for i, n := range l {
			out[i] = n
		}
		return out, nil
	case *pickle.NumpyArray:
		if len(l.Shape) != 1 {
			break
		}
		if n, err := l.Int64s(); err == nil {
			out := make([]any, len(n))
			for i := range n {
				out[i] = n[i]
			}
			return out, nil
		}
		if x, err := l.Float64s(); err == nil {
			out := make([]any, len(x))
			for i := range x {
				out[i] = x[i]
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("found a value of type %s, expected a list", pickle.TypeName(v))
}

// wholeNumber returns the value of an integer, or of a float without a fraction: 30.0 is 30.
func wholeNumber(v any) (int64, bool) {
	if n, ok := pickle.AsInt(v); ok {
		return n, true
	}
	x, ok := pickle.AsFloat(v)
	return int64(x), ok && x == math.Trunc(x) && math.Abs(x) < 1<<53
}

// unwrapScalar returns the value of a numpy scalar, and other values unchanged.
func unwrapScalar(v any) any {
	if s, ok := v.(*pickle.NumpyScalar); ok {
		return s.Value()
	}
	return v
}

// text, integer and float read an entry of a dict; a missing one is "" or 0.
func text(d *pickle.Dict, key string) (string, error) {
	v, ok := d.Get(key)
	s, isText := unwrapScalar(v).(string)
	if ok && !isText {
		return "", fmt.Errorf("%s is of type %s, expected text", key, pickle.TypeName(v))
	}
	return s, nil
}

func integer(d *pickle.Dict, key string) (int64, error) {
	v, ok := d.Get(key)
	n, isWhole := wholeNumber(v)
	if ok && !isWhole {
		return 0, fmt.Errorf("%s is of type %s, expected a whole number", key, pickle.TypeName(v))
	}
	return n, nil
}

func float(d *pickle.Dict, key string) (float64, error) {
	v, ok := d.Get(key)
	x, isNumber := pickle.AsFloat(v)
	if ok && !isNumber {
		return 0, fmt.Errorf("%s is of type %s, expected a number", key, pickle.TypeName(v))
	}
	return x, nil
}

// toJSON converts pickled plain data to the ordered documents of package plans.
func toJSON(v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, int64, float64, string, *big.Int:
		return x, nil
	case uint64:
		return new(big.Int).SetUint64(x), nil
	case *pickle.NumpyScalar:
		return toJSON(x.Value())
	case pickle.Device:
		return x.String(), nil
	case pickle.DType:
		return "torch." + string(x), nil
	case pickle.Global: // a class, which plans refer to by its path
		return x.String(), nil
	case pickle.Tuple, *pickle.List, *pickle.Set, pickle.Size, *pickle.NumpyArray:
		out := []any{}
		list, err := items(x)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			j, err := toJSON(e)
			if err != nil {
				return nil, err
			}
			out = append(out, j)
		}
		return out, nil
	}
	d := pickle.AsDict(v)
	if d == nil {
		return nil, fmt.Errorf("a value of type %s cannot be stored in JSON", pickle.TypeName(v))
	}
	o := &plans.Object{}
	for k, e := range d.All() {
		j, err := toJSON(e)
		if err != nil {
			return nil, err
		}
		o.Set(jsonKey(k), j)
	}
	return o, nil
}

// jsonKey returns a dict key as json.dumps writes it: 0 is "0", None "null".
func jsonKey(k any) string {
	switch k := unwrapScalar(k).(type) {
	case string:
		return k
	case nil:
		return "null"
	case float64:
		return plans.PythonFloat(k)
	default:
		return fmt.Sprint(k)
	}
}

// fromJSON is the inverse of toJSON: what json.load returns, in pickled form.
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

// Lntorch returns what lntorch added to the file: the method and the number of iterations done in
// the current epoch; "" and 0 if another program wrote the file.
func (f *File) Lntorch() (method string, iteration int64) {
	v, _ := f.root.Get("lntorch")
	d := pickle.AsDict(v)
	if d == nil {
		return "", 0
	}
	method, _ = text(d, "method")
	iteration, _ = integer(d, "iteration")
	return method, iteration
}
