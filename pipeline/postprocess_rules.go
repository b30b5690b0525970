package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/regular"
)

// largest is nnU-Net's function that keeps the largest connected component. Here it is a name in a file and no more.
var largest = pickle.Global{Module: "nnunetv2.postprocessing.remove_connected_components", Name: "remove_all_but_largest_component_from_segmentation"}

// KeepLargest removes all but the largest connected component of the union of some labels and regions. Components of the same
// size all stay; neighbours share a corner at least.
// Source: remove_connected_components.py, remove_all_but_largest_component_from_segmentation.
type KeepLargest struct {
	Targets    []eval.Target
	Background int // label that removed voxels get

	list  bool // the targets stand in a list
	numpy bool // labels are numpy.int64
}

// String names the labels as nnU-Net prints them.
func (k KeepLargest) String() string {
	if !k.list && len(k.Targets) == 1 {
		return k.Targets[0].Key()
	}
	var keys []string
	for _, t := range k.Targets {
		keys = append(keys, t.Key())
	}
	return "[" + strings.Join(keys, ", ") + "]"
}

// apply changes labels in place.
func (k KeepLargest) apply(m *labelmap.Map) error {
	var labels []int
	for _, t := range k.Targets {
		labels = append(labels, t.Labels()...)
	}
	if m.Small != nil && int(uint8(k.Background)) != k.Background {
		return fmt.Errorf("background_label %d does not fit the labels of the file", k.Background)
	}
	found, err := findComponents(m, labels)
	if err != nil || len(found.Voxels) < 2 {
		return err
	}
	most := slices.Max(found.Voxels)
	found.Runs(func(component, from, to int) {
		if found.Voxels[component] < most {
			setLabels(m, from, to, k.Background)
		}
	})
	return nil
}

func (k KeepLargest) argument(target func(eval.Target) any, list func([]any) any) any {
	if !k.list && len(k.Targets) == 1 {
		return target(k.Targets[0])
	}
	var items []any
	for _, t := range k.Targets {
		items = append(items, target(t))
	}
	return list(items)
}

func (k KeepLargest) pickledTarget(t eval.Target) any {
	if t.IsRegion() {
		region := pickle.Tuple{}
		for _, l := range t.Labels() {
			region = append(region, int64(l))
		}
		return region
	}
	label := int64(t.Labels()[0])
	if !k.numpy {
		return label
	}
	s := &pickle.NumpyScalar{Data: binary.LittleEndian.AppendUint64(nil, uint64(label))}
	s.DType.Order, s.DType.Kind, s.DType.Size = '<', 'i', 8
	return s
}

func (k KeepLargest) described() (string, *plans.Object) {
	o := plans.NewObject("labels_or_regions", k.argument(jsonTarget, func(l []any) any { return l }))
	if k.Background != 0 {
		o.Set("background_label", k.Background)
	}
	return largest.Name, o
}

// jsonTarget is a label, or a region as a list: JSON has no tuples.
func jsonTarget(t eval.Target) any {
	if t.IsRegion() {
		return t.Labels()
	}
	return t.Labels()[0]
}

// removeSmall is the name of RemoveSmall in postprocessing.json. nnU-Net has no such function.
const removeSmall = "remove_small_components"

// RemoveSmall removes the connected components of the union of some labels that are smaller than a
// volume. Neighbours share a corner at least.
type RemoveSmall struct {
	Labels []int
	Below  float64 // mm³
}

// String names the volume.
func (r RemoveSmall) String() string { return fmt.Sprintf("components below %g mm³", r.Below) }

func (r RemoveSmall) described() (string, *plans.Object) {
	return removeSmall, plans.NewObject("labels", r.Labels, "below_mm3", r.Below)
}

func (r RemoveSmall) apply(m *labelmap.Map) error {
	mm3, err := voxelVolume(m)
	if err != nil {
		return err
	}
	c, err := findComponents(m, r.Labels)
	if err != nil {
		return err
	}
	r.remove(m, c, mm3)
	return nil
}

// remove sets the voxels of small components to 0; mm3 is the volume of a voxel.
func (r RemoveSmall) remove(m *labelmap.Map, c *components.Components, mm3 float64) {
	// Files hold spacings as float32: a component of just the volume stays.
	const rounding = 1e-6
	c.Runs(func(component, from, to int) {
		if float64(c.Voxels[component])*mm3 < r.Below*(1-rounding) {
			setLabels(m, from, to, 0)
		}
	})
}

// setLabels gives voxels from to to, in the order of memory, a label that fits the map.
func setLabels(m *labelmap.Map, from, to, label int) {
	for i := from; i < to; i++ {
		if m.Small != nil {
			m.Small[i] = uint8(label)
		} else {
			m.Wide[i] = int32(label)
		}
	}
}

func findComponents(m *labelmap.Map, labels []int) (*components.Components, error) {
	if m.Small != nil {
		return components.Find(m.Small, m.Shape, labels, components.Full)
	}
	return components.Find(m.Wide, m.Shape, labels, components.Full)
}

// voxelVolume is the volume of a voxel in mm³ by the geometry of the label file.
func voxelVolume(m *labelmap.Map) (float64, error) {
	if m.Properties == nil || m.Properties.SITK == nil && m.Properties.Nibabel == nil {
		return 0, errors.New("found no spacing: removing components below a volume needs label files " +
			"with millimetres, such as .nii.gz")
	}
	mm3 := 1.0
	for _, d := range m.Properties.Spacing {
		mm3 *= d
	}
	if !(mm3 > 0) || math.IsInf(mm3, 0) {
		return 0, fmt.Errorf("found the spacing %v mm, expected lengths above 0: mend the header",
			m.Properties.Spacing)
	}
	return mm3, nil
}

// Rule is one step of post-processing: KeepLargest or RemoveSmall.
type Rule interface {
	fmt.Stringer
	// apply changes the labels of a map in place.
	apply(m *labelmap.Map) error
	// described gives the name of the function and its arguments for postprocessing.json.
	described() (function string, arguments *plans.Object)
}

// Postprocessing is what is done with label volumes, in this order.
type Postprocessing []Rule

func (p Postprocessing) apply(m *labelmap.Map) error {
	for _, rule := range p {
		if err := rule.apply(m); err != nil {
			return err
		}
	}
	return nil
}

// pickled is the content of postprocessing.pkl: functions, and their arguments. Rules that nnU-Net
// does not have are left out.
func (p Postprocessing) pickled() any {
	functions, arguments := &pickle.List{}, &pickle.List{}
	for _, rule := range p {
		k, ok := rule.(KeepLargest)
		if !ok {
			continue
		}
		functions.Items = append(functions.Items, largest)
		d := &pickle.Dict{}
		d.Set("labels_or_regions", k.argument(k.pickledTarget, func(l []any) any { return &pickle.List{Items: l} }))
		if k.Background != 0 {
			d.Set("background_label", int64(k.Background))
		}
		arguments.Items = append(arguments.Items, d)
	}
	return pickle.Tuple{functions, arguments}
}

// described gives functions and arguments for postprocessing.json.
func (p Postprocessing) described() (functions, arguments []any) {
	functions, arguments = []any{}, []any{}
	for _, rule := range p {
		function, a := rule.described()
		functions, arguments = append(functions, function), append(arguments, a)
	}
	return functions, arguments
}

// maxPostprocessing bounds the files that are read; nnU-Net's have a few hundred bytes.
const maxPostprocessing = 16 << 20

// ReadPostprocessing reads a postprocessing.pkl or postprocessing.json. Nothing in it is executed: names of functions are
// compared with those that are known.
func ReadPostprocessing(path string) (Postprocessing, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: determine-postprocessing writes it", path)
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPostprocessing {
		return nil, fmt.Errorf("%s: %d bytes, expected a postprocessing.pkl of at most %d", path, info.Size(), maxPostprocessing)
	}
	var functions, arguments []any
	if strings.HasSuffix(path, ".json") {
		functions, arguments, err = describedFunctions(path)
	} else {
		functions, arguments, err = pickledFunctions(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(functions) != len(arguments) {
		return nil, fmt.Errorf("%s: found %d functions and arguments of %d", path, len(functions), len(arguments))
	}
	p := Postprocessing{}
	for i, f := range functions {
		var rule Rule
		switch f {
		case any(largest), any(largest.Name):
			rule, err = readKeepLargest(arguments[i])
		case any(removeSmall):
			rule, err = readRemoveSmall(arguments[i])
		default:
			return nil, fmt.Errorf("%s: found the function %v, expected %s, the only one of nnU-Net's, "+
				"or %s in a .json", path, f, largest.Name, removeSmall)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: function %d: %w", path, i+1, err)
		}
		p = append(p, rule)
	}
	return p, nil
}

func pickledFunctions(path string) (functions, arguments []any, err error) {
	data, err := regular.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	v, err := pickle.Unmarshal(data, pickle.Options{Globals: map[pickle.Global]pickle.Func{largest: nil}})
	if err != nil {
		return nil, nil, fmt.Errorf("no postprocessing.pkl that can be read: %w", err)
	}
	pair, ok := v.(pickle.Tuple)
	if ok && len(pair) == 2 {
		functions, ok1 := pair[0].(*pickle.List)
		arguments, ok2 := pair[1].(*pickle.List)
		if ok1 && ok2 {
			return functions.Items, arguments.Items, nil
		}
	}
	return nil, nil, fmt.Errorf("found a %s, expected a tuple of two lists, functions and their arguments", typeName(v))
}

func describedFunctions(path string) (functions, arguments []any, err error) {
	v, err := plans.ReadJSON(path)
	if err != nil {
		return nil, nil, err
	}
	o, _ := v.(*plans.Object)
	f, _ := o.Get("postprocessing_fns")
	a, _ := o.Get("postprocessing_kwargs")
	functions, ok1 := f.([]any)
	arguments, ok2 := a.([]any)
	if !ok1 || !ok2 {
		return nil, nil, errors.New("found no lists postprocessing_fns and postprocessing_kwargs: expected a postprocessing.json")
	}
	return functions, arguments, nil
}

// readRemoveSmall reads the arguments of RemoveSmall from JSON.
func readRemoveSmall(v any) (r RemoveSmall, err error) {
	o, ok := v.(*plans.Object)
	if !ok {
		return r, fmt.Errorf("found arguments of type %s, expected an object", typeName(v))
	}
	labels, _ := o.Get("labels")
	list, ok := labels.([]any)
	for _, l := range list {
		n, whole := wholeNumber(l)
		ok = ok && whole
		r.Labels = append(r.Labels, n)
	}
	if !ok || len(list) == 0 {
		return r, fmt.Errorf("labels: found %s, expected a list of labels", foundJSON(labels))
	}
	below, _ := o.Get("below_mm3")
	if n, whole := wholeNumber(below); whole {
		below = float64(n)
	}
	if r.Below, ok = below.(float64); !ok || !(r.Below > 0) {
		return r, fmt.Errorf("below_mm3: found %s, expected a volume in mm³", foundJSON(below))
	}
	return r, nil
}

// readKeepLargest reads the arguments of the function, from a pickle or from JSON.
func readKeepLargest(v any) (k KeepLargest, err error) {
	each := func(key, value any) {
		switch key {
		case "labels_or_regions":
			k.Targets, k.list, k.numpy, err = readTargets(value)
		case "background_label":
			n, ok := wholeNumber(value)
			if !ok {
				err = fmt.Errorf("background_label: found a %s, expected a label", typeName(value))
			}
			k.Background = n
		default:
			err = fmt.Errorf("found the argument %v, expected labels_or_regions and background_label", key)
		}
	}
	switch d := v.(type) {
	case *pickle.Dict:
		for key, value := range d.All() {
			if err == nil {
				each(key, value)
			}
		}
	case *plans.Object:
		for _, key := range d.Keys() {
			if value, _ := d.Get(key); err == nil {
				each(key, value)
			}
		}
	default:
		return k, fmt.Errorf("found arguments of type %s, expected a dict", typeName(v))
	}
	if err == nil && k.Targets == nil {
		err = errors.New("found no argument labels_or_regions")
	}
	return k, err
}

// readTargets reads a label, a region, or a list of them. JSON has no tuples: a region reads as the list of its labels, which
// means the same.
func readTargets(v any) (targets []eval.Target, list, numpy bool, err error) {
	targets = []eval.Target{}
	items := []any{v}
	switch l := v.(type) {
	case *pickle.List:
		items, list = l.Items, true
	case []any:
		items, list = l, true
	}
	for _, item := range items {
		if n, ok := wholeNumber(item); ok {
			_, isNumpy := item.(*pickle.NumpyScalar)
			numpy = numpy || isNumpy
			targets = append(targets, eval.Label(n))
			continue
		}
		var members []any
		switch r := item.(type) {
		case pickle.Tuple:
			members = r
		case *pickle.List:
			members = r.Items
		case []any:
			members = r
		default:
			return nil, false, false, fmt.Errorf("labels_or_regions: found a %s, expected labels and regions", typeName(item))
		}
		var labels []int
		for _, member := range members {
			n, ok := wholeNumber(member)
			if !ok {
				return nil, false, false, fmt.Errorf("labels_or_regions: found a %s in a region, expected a label", typeName(member))
			}
			labels = append(labels, n)
		}
		targets = append(targets, eval.Region(labels...))
	}
	return targets, list, numpy, nil
}

// typeName names the type of a value of a pickle or of JSON as Python does.
func typeName(v any) string {
	switch v.(type) {
	case []any:
		return "list"
	case *plans.Object:
		return "dict"
	}
	return pickle.TypeName(v)
}

// foundJSON shows a value of a JSON file in an error.
func foundJSON(v any) string {
	if v == nil {
		return "none"
	}
	if _, ok := v.(*plans.Object); ok {
		return "an object"
	}
	return fmt.Sprint(v)
}

// wholeNumber reads a label; those beyond what a label volume can hold are none.
func wholeNumber(v any) (int, bool) {
	n, ok := pickle.AsInt(v)
	return int(n), ok && n >= -1<<15 && n < 1<<16
}
