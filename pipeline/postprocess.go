package pipeline

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
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
	if m.Small != nil {
		return keepLargest(m.Small, m.Shape, k)
	}
	return keepLargest(m.Wide, m.Shape, k)
}

func keepLargest[T components.Integer](data []T, shape [3]int, k KeepLargest) error {
	var labels []int
	for _, t := range k.Targets {
		labels = append(labels, t.Labels()...)
	}
	background := T(k.Background)
	if int(background) != k.Background {
		return fmt.Errorf("background_label %d does not fit the labels of the file", k.Background)
	}
	found, err := components.Find(data, shape, labels, components.Full)
	if err != nil || len(found.Voxels) < 2 {
		return err
	}
	most := slices.Max(found.Voxels)
	found.Runs(func(component, from, to int) {
		if found.Voxels[component] == most {
			return
		}
		for i := range data[from:to] {
			data[from+i] = background
		}
	})
	return nil
}

// Postprocessing is what is done with label volumes, in this order.
type Postprocessing []KeepLargest

func (p Postprocessing) apply(m *labelmap.Map) error {
	for _, k := range p {
		if err := k.apply(m); err != nil {
			return err
		}
	}
	return nil
}

// pickled is the content of postprocessing.pkl: functions, and their arguments.
func (p Postprocessing) pickled() any {
	functions, arguments := &pickle.List{}, &pickle.List{}
	for _, k := range p {
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

// described gives functions and arguments for postprocessing.json.
func (p Postprocessing) described() (functions, arguments []any) {
	functions, arguments = []any{}, []any{}
	for _, k := range p {
		functions = append(functions, largest.Name)
		o := plans.NewObject("labels_or_regions", k.argument(func(t eval.Target) any {
			if t.IsRegion() {
				return t.Labels()
			}
			return t.Labels()[0]
		}, func(l []any) any { return l }))
		if k.Background != 0 {
			o.Set("background_label", k.Background)
		}
		arguments = append(arguments, o)
	}
	return functions, arguments
}

// maxPostprocessing bounds the files that are read; nnU-Net's have a few hundred bytes.
const maxPostprocessing = 16 << 20

// ReadPostprocessing reads a postprocessing.pkl or postprocessing.json. Nothing in it is executed: names of functions are
// compared with those that are known.
func ReadPostprocessing(path string) (Postprocessing, error) {
	info, err := os.Stat(path)
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
		if f != any(largest) && f != any(largest.Name) {
			return nil, fmt.Errorf("%s: found the function %v, expected %s, the only one of nnU-Net's", path, f, largest.Name)
		}
		k, err := readKeepLargest(arguments[i])
		if err != nil {
			return nil, fmt.Errorf("%s: function %d: %w", path, i+1, err)
		}
		p = append(p, k)
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
	return nil, nil, fmt.Errorf("found a %s, expected a tuple of two lists, functions and their arguments", pickle.TypeName(v))
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

// readKeepLargest reads the arguments of the function, from a pickle or from JSON.
func readKeepLargest(v any) (k KeepLargest, err error) {
	each := func(key, value any) {
		switch key {
		case "labels_or_regions":
			k.Targets, k.list, k.numpy, err = readTargets(value)
		case "background_label":
			n, ok := wholeNumber(value)
			if !ok {
				err = fmt.Errorf("background_label: found a %s, expected a label", pickle.TypeName(value))
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
		return k, fmt.Errorf("found arguments of type %s, expected a dict", pickle.TypeName(v))
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
			return nil, false, false, fmt.Errorf("labels_or_regions: found a %s, expected labels and regions", pickle.TypeName(item))
		}
		var labels []int
		for _, member := range members {
			n, ok := wholeNumber(member)
			if !ok {
				return nil, false, false, fmt.Errorf("labels_or_regions: found a %s in a region, expected a label", pickle.TypeName(member))
			}
			labels = append(labels, n)
		}
		targets = append(targets, eval.Region(labels...))
	}
	return targets, list, numpy, nil
}

// wholeNumber reads a label; those beyond what a label volume can hold are none.
func wholeNumber(v any) (int, bool) {
	n, ok := pickle.AsInt(v)
	return int(n), ok && n >= -1<<15 && n < 1<<16
}

// LabelFiles says where the meaning of labels stands.
type LabelFiles struct {
	Plans   string `flag:"plans-json" nnunet:"plans_json" path:"true" help:"plans.json (default: in the input folder)"`
	Dataset string `flag:"dataset-json" nnunet:"dataset_json" path:"true" help:"dataset.json (default: in the input folder)"`
}

// DeterminePostprocessingConfig is the choice of post-processing for predictions with references.
type DeterminePostprocessingConfig struct {
	Input     string `flag:"input" short:"i" path:"true" help:"folder of predictions"`
	Reference string `flag:"reference" nnunet:"ref" path:"true" help:"folder of references, files of the same names"`
	LabelFiles
	Workers int  `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
	Remove  bool `flag:"remove-postprocessed" help:"do not keep the folder postprocessed"`
}

// Trial is one rule that was tried.
type Trial struct {
	Labels string  `json:"labels"` // a label, a region, or all of the foreground
	Before float64 `json:"dice_before"`
	After  float64 `json:"dice_after"`
	Kept   bool    `json:"kept"`
}

// Determined is the chosen post-processing.
type Determined struct {
	File   string  `json:"file"`
	Folder string  `json:"folder,omitempty"` // of post-processed predictions
	Trials []Trial `json:"trials"`
	Before float64 `json:"dice_before"` // mean over the foreground
	After  float64 `json:"dice_after"`
}

// DeterminePostprocessing tries whether removing all but the largest component, of the foreground and then of each label or
// region, raises the Dice, and writes postprocessing.pkl, postprocessing.json and the folder postprocessed as nnU-Net does.
// Compat: the foreground's rule is taken if its mean Dice rises and that of no label falls; a label's if its own rises,
// whatever happens to others. A summary.json that is there is trusted.
// Source: remove_connected_components.py, determine_postprocessing.
func DeterminePostprocessing(ctx context.Context, c DeterminePostprocessingConfig, o Output) (*Determined, error) {
	if c.Input == "" || c.Reference == "" {
		return nil, settings.Usage("-i and -ref must be given")
	}
	l, err := openLabelling(c.Input, c.Plans, c.Dataset)
	if err != nil {
		return nil, err
	}
	s := &search{labelling: l, c: c, o: o, workers: cmp.Or(c.Workers, casesAtATime())}
	files, err := filesEnding(c.Input, l.dataset.FileEnding)
	if err != nil {
		return nil, err
	}
	if s.cases, err = labelCases(files, c.Reference); err != nil {
		return nil, err
	}
	if references, err := filesEnding(c.Reference, l.dataset.FileEnding); err == nil && len(references) > len(files) {
		o.Printf("WARNING: %s has %d files, %d of them are predicted: determine post-processing on the whole dataset", c.Reference, len(references), len(files))
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s.save(ctx)
}

// search is the choice of post-processing under way.
type search struct {
	*labelling
	c       DeterminePostprocessingConfig
	o       Output
	workers int
	cases   *raw.Dataset

	chosen        Postprocessing
	before, after *eval.Summary
	trials        []Trial
}

func (s *search) run(ctx context.Context) error {
	path := filepath.Join(s.c.Input, "summary.json")
	var err error
	if s.before, err = eval.ReadSummary(path); errors.Is(err, fs.ErrNotExist) {
		if s.before, err = s.score(ctx, s.cases, s.c.Input, s.workers, s.o, nil); err == nil {
			err = s.before.Save(path)
		}
	}
	if err != nil {
		return err
	}
	for _, t := range s.targets {
		if !slices.ContainsFunc(s.before.Targets, func(o eval.Target) bool { return o.Key() == t.Key() }) {
			return fmt.Errorf("%s: found no scores of %s, which dataset.json names: remove the file, and it is made anew", path, t.Key())
		}
	}
	s.after = s.before

	all := KeepLargest{list: true, numpy: true}
	for _, v := range s.dataset.Labels.ForegroundLabels {
		all.Targets = append(all.Targets, eval.Label(v))
	}
	scored, err := s.try(ctx, all, "keep_largest_fg")
	if err != nil {
		return err
	}
	trial := Trial{"foreground", s.after.Foreground(eval.Dice), scored.Foreground(eval.Dice), false}
	trial.Kept = trial.After > trial.Before
	for _, t := range s.targets {
		if diceOf(scored, t) < diceOf(s.after, t) {
			trial.Kept = false
		}
	}
	s.take(trial, all, scored)
	if len(s.targets) == 1 {
		return nil
	}
	for _, t := range s.targets {
		rule := KeepLargest{Targets: []eval.Target{t}, numpy: !s.dataset.Labels.HasRegions}
		if scored, err = s.try(ctx, rule, "keep_largest_perClassOrRegion"); err != nil {
			return err
		}
		trial := Trial{t.Key(), diceOf(s.after, t), diceOf(scored, t), false}
		trial.Kept = trial.After > trial.Before
		s.take(trial, rule, scored)
	}
	return nil
}

func diceOf(s *eval.Summary, t eval.Target) float64 {
	return s.Mean(eval.Dice, slices.IndexFunc(s.Targets, func(o eval.Target) bool { return o.Key() == t.Key() }))
}

// try scores the predictions after what was chosen and one rule more.
// Compat: the summary names files of nnU-Net's temporary folder, as nnU-Net leaves it.
func (s *search) try(ctx context.Context, rule KeepLargest, temporary string) (*eval.Summary, error) {
	shown := joined(joined(joined(s.c.Input, "postprocessed"), "temp"), temporary)
	return s.score(ctx, s.cases, shown, s.workers, s.o, append(slices.Clone(s.chosen), rule).apply)
}

func (s *search) take(t Trial, rule KeepLargest, scored *eval.Summary) {
	s.trials = append(s.trials, t)
	if t.Kept {
		s.chosen, s.after = append(s.chosen, rule), scored
	}
}

func (s *search) save(ctx context.Context) (*Determined, error) {
	in := s.c.Input
	d := &Determined{File: filepath.Join(in, "postprocessing.pkl"), Folder: filepath.Join(in, "postprocessed"), Trials: s.trials,
		Before: s.before.Foreground(eval.Dice), After: s.after.Foreground(eval.Dice)}
	if s.c.Remove {
		if err := os.RemoveAll(d.Folder); err != nil {
			return nil, err
		}
		d.Folder = ""
	} else if err := s.saveFolder(ctx, d.Folder); err != nil {
		return nil, err
	}
	pkl, err := pickle.Marshal(s.chosen.pickled(), nil)
	if err == nil {
		err = atomicfile.Write(d.File, pkl)
	}
	if err != nil {
		return nil, err
	}
	functions, arguments := s.chosen.described()
	return d, plans.WriteJSON(filepath.Join(in, "postprocessing.json"), plans.NewObject(
		"input_folder", means(s.before), "postprocessed", means(s.after),
		"postprocessing_fns", functions, "postprocessing_kwargs", arguments), true)
}

// saveFolder fills the folder of post-processed predictions. Where nothing was chosen, all files of the input are copied, as
// nnU-Net does.
func (s *search) saveFolder(ctx context.Context, folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	if len(s.chosen) == 0 {
		files, err := filesEnding(s.c.Input, "")
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := errors.Join(ctx.Err(), copyFile(f, filepath.Join(folder, filepath.Base(f)))); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.postprocess(ctx, s.cases, s.chosen, folder, s.workers, s.o); err != nil {
		return err
	}
	return s.after.Save(filepath.Join(folder, "summary.json"))
}

// postprocess writes the label volumes of cases into a folder as p leaves them.
func (l *labelling) postprocess(ctx context.Context, cases *raw.Dataset, p Postprocessing, folder string, workers int, o Output) error {
	return cases.Each(ctx, workers, "post-processing", o.progress(), func(_ int, c raw.Case) error {
		m, err := l.read(c.Images[0])
		if err != nil {
			return err
		}
		if err := p.apply(m); err != nil {
			return fmt.Errorf("%s: %w", c.Images[0], err)
		}
		return m.Write(l.reader, filepath.Join(folder, c.ID))
	})
}

// means are the mean scores of a summary for postprocessing.json.
func means(s *eval.Summary) *plans.Object {
	values := func(of func(eval.Metric) float64) *plans.Object {
		o := &plans.Object{}
		for _, m := range eval.Metrics() {
			if m.NNUNet {
				o.Set(m.Name, of(m))
			}
		}
		return o
	}
	mean := &plans.Object{}
	for i, t := range s.Targets {
		mean.Set(t.Key(), values(func(m eval.Metric) float64 { return s.Mean(m, i) }))
	}
	return plans.NewObject("foreground_mean", values(s.Foreground), "mean", mean)
}

// ApplyPostprocessingConfig is post-processing that was determined, applied to a folder of predictions.
type ApplyPostprocessingConfig struct {
	Input  string `flag:"input" short:"i" path:"true" help:"folder of predictions"`
	Output string `flag:"output" short:"o" path:"true" help:"folder to write to"`
	File   string `flag:"pp-pkl-file" nnunet:"pp_pkl_file" path:"true" help:"postprocessing.pkl or postprocessing.json"`
	LabelFiles
	Workers int `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
}

// Applied is what ApplyPostprocessing did.
type Applied struct {
	Folder string   `json:"folder"`
	Files  int      `json:"files"`
	Rules  []string `json:"keep_largest"` // labels or regions
}

// ApplyPostprocessing writes the post-processed label volumes. A case that fails does not cost another one its result: the
// error names each.
// Source: remove_connected_components.py, apply_postprocessing_to_folder.
func ApplyPostprocessing(ctx context.Context, c ApplyPostprocessingConfig, o Output) (*Applied, error) {
	if c.Input == "" || c.Output == "" || c.File == "" {
		return nil, settings.Usage("-i, -o and -pp_pkl_file must be given")
	}
	p, err := ReadPostprocessing(c.File)
	if err != nil {
		return nil, err
	}
	l, err := openLabelling(c.Input, c.Plans, c.Dataset)
	if err != nil {
		return nil, err
	}
	files, err := filesEnding(c.Input, l.dataset.FileEnding)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Output, 0o777); err != nil {
		return nil, err
	}
	cases := &raw.Dataset{}
	for _, f := range files {
		cases.Cases = append(cases.Cases, raw.Case{ID: filepath.Base(f), Images: []string{f}})
	}
	a := &Applied{Folder: c.Output, Files: len(files), Rules: []string{}}
	for _, k := range p {
		a.Rules = append(a.Rules, k.String())
	}
	return a, l.postprocess(ctx, cases, p, c.Output, cmp.Or(c.Workers, casesAtATime()), o)
}
