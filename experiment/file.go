package experiment

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/nearest"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// File is an experiment's file: YAML, TOML or JSON. Lists keep the file's order. Paths in it are
// relative to its folder; here they are joined to that.
type File struct {
	Path string // of the file

	Name       string `flag:"name" bare:"true" help:"name of the experiment (default: the file's)"`
	Datasets   []*Dataset
	Networks   []*Network
	Methods    []*Method
	Train      []Setting // for all; a network's go over it, a method's over those
	Shots      []string  // numbers ascending, all last
	Draws      int       `flag:"draws" default:"3" range:"1..1000" help:"draws of cases"`
	Seeds      []uint64
	Seed       int64  `flag:"seed" range:"0..4294967295" help:"seed of draws and bootstrap"`
	Draw       string `flag:"draw" default:"balanced" values:"balanced,random" help:"rule of the draws"`
	SplitsFile string `flag:"splits" path:"true" help:"splits.json whose draws are taken"`
	Evaluate   EvaluateSettings
	Statistics Statistics
	Keep       Keep

	lines map[string]int // of the keys at the top
}

// Dataset is an entry of datasets.
type Dataset struct {
	Name     string
	Dataset  string `flag:"dataset" help:"raw dataset: number or name"`
	Test     CaseChoice
	Pool     CaseChoice
	Patient  string `flag:"patient" help:"pattern whose group 1 is the patient in a case's name"`
	Patients string `flag:"patients" path:"true" help:"CSV file with columns case, patient"`

	line    int // of the entry
	pattern *regexp.Regexp
}

// CaseChoice says which cases: those of a folder, or a list, or a number of them that is drawn.
type CaseChoice struct {
	Folder string
	Cases  []string
	Number int

	line int // 0: not in the file
}

// value is the choice as a file has it; nil where it has none.
func (c *CaseChoice) value() any {
	switch {
	case c.Cases != nil:
		return c.Cases
	case c.Number > 0:
		return c.Number
	case c.Folder != "":
		return c.Folder
	}
	return nil
}

// Network is an entry of networks.
type Network struct {
	Name       string
	Checkpoint string `flag:"checkpoint" path:"true" help:"checkpoint or model folder"`
	// TrainedOn are numbers or names of raw datasets, or one file that holds content hashes.
	TrainedOn []string
	Settings  []Setting

	line int
}

// Method is an entry of methods.
type Method struct {
	Name     string
	Settings []Setting

	line int
}

// Setting is a flag of lntorch train with its values, or one of the names that only a file knows:
// pretrained, and method none.
type Setting struct {
	Name   string
	Values []string

	line int
	at   string // key in the file
}

// EvaluateSettings is the part evaluate.
type EvaluateSettings struct {
	Metrics  []string `flag:"metrics" default:"Dice,NSD_2,HD95,recall,F1" help:"names of scores.json"`
	NoMirror bool     `flag:"disable-tta" help:"prediction without mirroring"`
	StepSize float64  `flag:"step-size" default:"0.5" range:">0..1" help:"distance of the prediction's tiles in patch sizes"`
}

// Statistics is the part statistics.
type Statistics struct {
	Primary   string  `flag:"primary" default:"Dice" help:"the metric that the study is about"`
	Reference string  `flag:"reference" help:"method, or network, that each other is compared with"`
	Alpha     float64 `flag:"alpha" default:"0.05" range:">0..<1" help:"intervals hold with 1-alpha"`
	Resamples int     `flag:"resamples" default:"10000" range:"1..1000000" help:"of the bootstrap"`
	Tie       map[string]float64
}

// Keep is the part keep.
type Keep struct {
	Checkpoints string `flag:"checkpoints" default:"delta" values:"all,final,delta,none" help:"weights that stay"`
	Predictions bool   `flag:"predictions" help:"predictions stay"`
}

// Table is the statistics as experiment/table takes them.
func (f *File) Table() table.Settings {
	return table.Settings{Primary: f.Statistics.Primary, Reference: f.Statistics.Reference,
		Alpha: f.Statistics.Alpha, Resamples: f.Statistics.Resamples, Seed: uint32(f.Seed),
		Tie: f.Statistics.Tie, Lower: table.LowerIsBetter}
}

// pretrained is the name, besides those of flags, that says whether a method starts from the
// network's weights.
const pretrained = "pretrained"

// released is the value of epochs that stands for the method's own number.
const released = "released"

// maxFile bounds a file in bytes.
const maxFile = 4 << 20

// reserved are the flags of lntorch train that an experiment sets itself, with what to give instead.
var reserved = map[string]string{
	"raw": "", "preprocessed": "", "results": "", "plans": "", "no-prepare": "", "c": "", "val": "",
	"npz": "", "profile": "", "disable-checkpointing": "", "val-best": "", "use-compressed": "",
	"num-gpus": "", "dist": "", "master": "", "backend": "", "dist-timeout": "", "compress": "",
	"pretrained-weights": "checkpoint of the network, or pretrained: false",
	"seed":               "seeds",
	"cases":              "pool and shots",
	"device":             "--devices of experiment run",
	"threads":            "--threads of experiment run",
	"disable-tta":        "disable-tta of evaluate",
}

// Read reads an experiment's file. Mistakes are *settings.UsageError, a line for each with the file,
// the line and the key. What a table of scores does not need may be missing; Open asks for it.
func Read(path string) (*File, error) {
	text, err := regular.ReadFile(path)
	if err != nil {
		return nil, &settings.UsageError{Err: err}
	}
	if len(text) > maxFile {
		return nil, settings.Usage("%s: found %d bytes, expected an experiment's file of at most %d",
			path, len(text), maxFile)
	}
	root, err := parse(path, text)
	if err != nil {
		return nil, settings.Usage("%s: %w", path, err)
	}
	r := &reader{path: path, file: &File{Path: path, Seeds: []uint64{0, 1, 2}}}
	r.whole(root)
	return r.file, r.mistakes()
}

// reader takes a file's tree apart and collects the mistakes in it.
type reader struct {
	path   string
	file   *File
	splits bool // the file takes draws from another
	errs   []mistake
}

type mistake struct {
	line int
	err  error
}

// bad notes a mistake.
func (r *reader) bad(line int, key, format string, args ...any) {
	r.errs = append(r.errs, mistake{line, fmt.Errorf("%s:%d: %s: %w", r.path, line, key,
		fmt.Errorf(format, args...))})
}

// mistakes are what was noted, in the order of lines.
func (r *reader) mistakes() error {
	slices.SortStableFunc(r.errs, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var all []error
	for _, m := range r.errs {
		if len(all) == 20 {
			all = append(all, fmt.Errorf("and %d more", len(r.errs)-20))
			break
		}
		all = append(all, m.err)
	}
	if all == nil {
		return nil
	}
	return &settings.UsageError{Err: errors.Join(all...)}
}

// parts are the keys that need more than one value of text.
type parts map[string]func(n *node, key string)

// fill gives a config struct the values of a table. Keys may be written with _ or -.
func (r *reader) fill(config any, n *node, at string, more parts) {
	settings.Defaults(config)
	fields := map[string]*settings.Field{}
	known := slices.Collect(maps.Keys(more))
	for _, f := range settings.Fields(config) {
		fields[f.Name] = f
		known = append(known, f.Name)
	}
	slices.Sort(known)
	if n.kind == nullNode {
		return
	}
	if n.kind != tableNode {
		r.bad(n.line, at, "found %s, expected a table of %s", n.found(), strings.Join(known, ", "))
		return
	}
	for _, e := range n.entries {
		key := join(at, e.key)
		name := flagName(e.key)
		if part, ok := more[name]; ok {
			if e.value.kind != nullNode {
				part(e.value, key)
			}
			continue
		}
		f, ok := fields[name]
		if !ok {
			r.unknown(e, key, known)
			continue
		}
		r.set(f, e.value, key)
	}
}

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

// unknown notes a key that there is not.
func (r *reader) unknown(e entry, key string, known []string) {
	if n := nearest.Name(flagName(e.key), known); n != "" {
		r.bad(e.line, key, "no such key; did you mean %s?", n)
		return
	}
	r.bad(e.line, key, "no such key; expected %s", strings.Join(known, ", "))
}

// found says what a node is, for messages.
func (n *node) found() string {
	if n.kind == scalarNode {
		return strconv.Quote(n.text)
	}
	return n.kind.String()
}

// set gives a field the value of a node. No value leaves the default.
func (r *reader) set(f *settings.Field, n *node, key string) {
	texts, ok := r.texts(n, key, f.IsList())
	if !ok {
		return
	}
	if f.IsList() && len(texts) == 0 {
		r.bad(n.line, key, "found an empty list: give values, or leave the key out")
	}
	for _, text := range texts {
		if f.IsList() && strings.Contains(text, ",") && !f.IsPath() {
			r.bad(n.line, key, "found %q, expected a list: [%s]", text, strings.Join(strings.Split(text, ","), ", "))
			return
		}
		if err := f.Set(text); err != nil {
			r.bad(n.line, key, "%w", err)
			return
		}
	}
	if f.IsPath() && f.Type() == "string" {
		if err := f.Set(r.near(f.String())); err != nil {
			r.bad(n.line, key, "%w", err)
		}
	}
}

// texts are the values of a node that may be a list; false where it has none.
func (r *reader) texts(n *node, key string, several bool) ([]string, bool) {
	switch {
	case n.kind == nullNode:
		return nil, false
	case n.kind == scalarNode:
		return []string{n.text}, true
	case n.kind == tableNode:
		r.bad(n.line, key, "found a table, expected a value")
		return nil, false
	case !several:
		r.bad(n.line, key, "found a list, expected one value")
		return nil, false
	}
	var texts []string
	for _, v := range n.list {
		if v.kind != scalarNode {
			r.bad(v.line, key, "found %s in the list, expected values", v.kind)
			return nil, false
		}
		texts = append(texts, v.text)
	}
	return texts, true
}

// near joins a path of the file to its folder.
func (r *reader) near(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(r.path), path)
}

// whole reads the top of the file.
func (r *reader) whole(root *node) {
	f := r.file
	f.lines = map[string]int{}
	for _, e := range root.entries {
		f.lines[e.key] = e.line
	}
	r.splits = root.get("splits") != nil
	r.fill(f, root, "", parts{
		"datasets": func(n *node, key string) { r.named(n, key, r.dataset) },
		"networks": func(n *node, key string) { r.named(n, key, r.network) },
		"methods":  func(n *node, key string) { r.named(n, key, r.method) },
		"train": func(n *node, key string) {
			f.Train = r.flags(n, key, parts{}, false)
		},
		"shots": r.shots,
		"seeds": r.seeds,
		"evaluate": func(n *node, key string) {
			r.fill(&f.Evaluate, n, key, nil)
			r.metrics(n, key)
		},
		"statistics": func(n *node, key string) {
			r.fill(&f.Statistics, n, key, parts{"tie": r.ties})
		},
		"keep": func(n *node, key string) { r.fill(&f.Keep, n, key, nil) },
	})
	settings.Defaults(&f.Evaluate)
	settings.Defaults(&f.Statistics)
	settings.Defaults(&f.Keep)
	if f.Statistics.Tie == nil {
		f.Statistics.Tie = map[string]float64{"Dice": 0.005, "NSD_2": 0.005, "HD95": 0.1}
	}
	if f.Name == "" {
		base := filepath.Base(r.path)
		f.Name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	if strings.ContainsFunc(f.Name, unicode.IsControl) { // it gets into scripts and tables
		r.bad(r.lineOf(root, "name"), "name", "found %q, expected one line without control characters", f.Name)
	}
	if last := f.Seed + int64(f.Draws) - 1; last > math.MaxUint32 {
		r.bad(r.lineOf(root, "seed"), "seed", "found %d, expected a number that with %d draws stays "+
			"below 2^32", f.Seed, f.Draws)
	}
	r.names(root)
}

func (r *reader) lineOf(root *node, keys ...string) int {
	line := 1
	for _, k := range keys {
		for _, e := range root.entries {
			if e.key == k {
				line, root = e.line, e.value
				break
			}
		}
	}
	return line
}

// names checks what refers to other parts of the file.
func (r *reader) names(root *node) {
	f := r.file
	s := &f.Statistics
	known := slices.Clone(f.Evaluate.Metrics)
	line := r.lineOf(root, "statistics", "primary")
	if root.get("evaluate") != nil || root.get("methods") != nil { // else for scores of any metrics
		if !slices.Contains(known, s.Primary) {
			r.bad(line, "statistics.primary", "%w", notAmong(s.Primary, known, "metric of evaluate"))
		}
		for _, metric := range slices.Sorted(maps.Keys(s.Tie)) {
			if root.get("statistics") != nil && root.get("statistics").get("tie") != nil &&
				!slices.Contains(known, metric) {
				r.bad(r.lineOf(root, "statistics", "tie", metric), "statistics.tie."+metric, "%w",
					notAmong(metric, known, "metric of evaluate"))
			}
		}
	}
	if s.Reference == "" || root.get("methods") == nil {
		return
	}
	o := f.order()
	names := slices.Concat(o.Methods, o.Networks)
	if !slices.Contains(names, s.Reference) {
		r.bad(r.lineOf(root, "statistics", "reference"), "statistics.reference", "%w",
			notAmong(s.Reference, names, "method and no network"))
	}
}

// notAmong is the error of a name that is none of those known.
func notAmong(name string, known []string, what string) error {
	if n := nearest.Name(name, known); n != "" {
		return fmt.Errorf("%q is no %s; did you mean %s?", name, what, n)
	}
	if len(known) == 0 {
		return fmt.Errorf("%q is no %s: there is none", name, what)
	}
	if len(known) > 12 {
		known = append(slices.Clone(known[:12]), "…")
	}
	return fmt.Errorf("%q is no %s; expected %s", name, what, strings.Join(known, ", "))
}

// named reads a table of entries with names of the user's.
func (r *reader) named(n *node, key string, read func(name string, e entry, key string)) {
	if n.kind != tableNode {
		r.bad(n.line, key, "found %s, expected names with a table each", n.found())
		return
	}
	for _, e := range n.entries {
		at := join(key, e.key)
		if e.key == "" || strings.Contains(e.key, ",") || strings.ContainsFunc(e.key, unicode.IsControl) || len(e.key) > 100 {
			r.bad(e.line, at, "found %q, expected a name of one line, without a comma", e.key)
			continue
		}
		if e.value.kind != tableNode {
			r.bad(e.line, at, "found %s, expected a table", e.value.found())
			continue
		}
		read(e.key, e, at)
	}
}

func (r *reader) dataset(name string, e entry, key string) {
	d := &Dataset{Name: name, line: e.line}
	r.fill(d, e.value, key, parts{
		"test": func(n *node, key string) { r.cases(&d.Test, n, key, "imagesTs", true) },
		"pool": func(n *node, key string) { r.cases(&d.Pool, n, key, "imagesTr", false) },
	})
	if d.Dataset == "" {
		r.bad(e.line, key, "dataset is missing: the number or name of a raw dataset")
	}
	if d.Test.line == 0 && !r.splits {
		r.bad(e.line, key, "test is missing: imagesTs, a list of cases, or a number")
	}
	if d.Pool.line == 0 {
		d.Pool.Folder = "imagesTr"
	}
	if d.Patient != "" && d.Patients != "" {
		r.bad(r.lineOf(e.value, "patients"), join(key, "patients"), "found patient, too: give one of them")
	}
	if d.Patient != "" {
		var err error
		line := r.lineOf(e.value, "patient")
		if d.pattern, err = regexp.Compile(d.Patient); err != nil {
			r.bad(line, join(key, "patient"), "%w", err)
		} else if d.pattern.NumSubexp() < 1 {
			r.bad(line, join(key, "patient"), "found %q, expected a pattern with a group: (…) is the patient", d.Patient)
		}
	}
	r.file.Datasets = append(r.file.Datasets, d)
}

// cases reads a choice of cases.
func (r *reader) cases(c *CaseChoice, n *node, key, folder string, number bool) {
	expected := folder + " or a list of cases"
	if number {
		expected = folder + ", a list of cases, or a number"
	}
	c.line = n.line
	switch n.kind {
	case listNode:
		texts, ok := r.texts(n, key, true)
		if ok && len(texts) == 0 {
			r.bad(n.line, key, "found an empty list, expected %s", expected)
		}
		for i, t := range texts {
			if slices.Contains(texts[:i], t) {
				r.bad(n.list[i].line, key, "case %s is there twice", t)
			}
		}
		c.Cases = texts
	case scalarNode:
		count, err := strconv.Atoi(n.text)
		switch {
		case n.text == folder:
			c.Folder = folder
		case err == nil && number && count > 0:
			c.Number = count
		default:
			r.bad(n.line, key, "found %q, expected %s", n.text, expected)
		}
	default:
		r.bad(n.line, key, "found %s, expected %s", n.found(), expected)
	}
}

func (r *reader) network(name string, e entry, key string) {
	n := &Network{Name: name, line: e.line}
	n.Settings = r.flags(e.value, key, parts{
		"checkpoint": func(v *node, key string) {
			if texts, ok := r.texts(v, key, false); ok {
				n.Checkpoint = r.near(texts[0])
			}
		},
		"trained-on": func(v *node, key string) {
			texts, _ := r.texts(v, key, true)
			n.TrainedOn = append([]string{}, texts...)
			for i, t := range texts {
				if !datasetName(t) {
					n.TrainedOn[i] = r.near(t)
				}
			}
		},
	}, false)
	if n.Checkpoint == "" {
		r.bad(e.line, key, "checkpoint is missing: a file, or a model folder")
	}
	r.file.Networks = append(r.file.Networks, n)
}

// datasetName reports whether a text is a dataset's number or name, and no file.
func datasetName(text string) bool {
	_, err := strconv.Atoi(text)
	return err == nil || strings.HasPrefix(text, "Dataset") && !strings.ContainsAny(text, "/.")
}

func (r *reader) method(name string, e entry, key string) {
	m := &Method{Name: name, line: e.line}
	m.Settings = r.flags(e.value, key, parts{}, true)
	r.file.Methods = append(r.file.Methods, m)
}

// flags reads flags of lntorch train, besides the keys in more. With methods also method and
// pretrained.
func (r *reader) flags(n *node, key string, more parts, methods bool) (list []Setting) {
	if n.kind != tableNode {
		r.bad(n.line, key, "found %s, expected a table of flags of lntorch train", n.found())
		return nil
	}
	c := settings.New[pipeline.TrainConfig]()
	fields := map[string]*settings.Field{}
	known := slices.Collect(maps.Keys(more))
	for _, f := range settings.Fields(&c) {
		fields[f.Name] = f
		if _, ok := reserved[f.Name]; !ok && (f.Name != "method" || methods) {
			known = append(known, f.Name)
		}
	}
	options := map[string]finetune.Option{}
	for _, entry := range finetune.Entries() {
		for _, o := range entry.Options {
			options[o.Name] = o
			known = append(known, o.Name)
		}
	}
	if methods {
		known = append(known, pretrained)
	}
	slices.Sort(known)
	for _, e := range n.entries {
		at, name := join(key, e.key), flagName(e.key)
		if part, ok := more[name]; ok {
			if e.value.kind != nullNode {
				part(e.value, at)
			}
			continue
		}
		if instead, ok := reserved[name]; ok {
			hint := ""
			if instead != "" {
				hint = "; give " + instead
			}
			r.bad(e.line, at, "an experiment sets this flag itself%s", hint)
			continue
		}
		s := Setting{Name: name, line: e.line, at: at}
		f, isField := fields[name]
		o, isOption := options[name]
		switch {
		case (name == "method" || name == pretrained) && !methods:
			r.bad(e.line, at, "belongs into methods")
			continue
		case !isField && !isOption && name != pretrained:
			r.unknown(e, at, known)
			continue
		}
		var ok bool
		if s.Values, ok = r.texts(e.value, at, isField && f.IsList()); !ok {
			continue
		}
		switch {
		case name == pretrained:
			if _, err := strconv.ParseBool(s.Values[0]); err != nil {
				r.bad(e.line, at, "found %q, expected true or false", s.Values[0])
			}
		case name == "method":
			if err := knownMethod(s.Values[0]); err != nil {
				r.bad(e.line, at, "%w", err)
			}
		case name == "epochs" && s.Values[0] == released:
		case isField:
			r.set(f, e.value, at)
			if f.IsPath() && f.Type() == "string" {
				s.Values = []string{r.pathOrName(s.Values[0])}
				if v := s.Values[0]; name == "augmentation" && !isFile(v) && !slices.Contains(augment.Augmentations, v) {
					r.bad(e.line, at, "found %q, expected %s, or a file", v, strings.Join(augment.Augmentations, ", "))
				}
			}
		case o.Values != nil && !slices.Contains(o.Values, s.Values[0]):
			r.bad(e.line, at, "%w", notAmong(s.Values[0], o.Values, "value of --"+name))
		}
		list = append(list, s)
	}
	return list
}

// pathOrName joins a path to the file's folder, where a file is there: --augmentation also takes names.
func (r *reader) pathOrName(text string) string {
	if near := r.near(text); isFile(near) {
		return near
	}
	return text
}

func knownMethod(name string) error {
	known := append(pipeline.MethodNames(), NoTraining)
	if slices.Contains(known, name) {
		return nil
	}
	return notAmong(name, known, "method of lntorch train")
}

func (r *reader) shots(n *node, key string) {
	texts, ok := r.texts(n, key, true)
	if !ok {
		return
	}
	if len(texts) == 0 {
		r.bad(n.line, key, "found an empty list, expected numbers of cases")
	}
	last := 0
	for i, t := range texts {
		k, err := strconv.Atoi(t)
		switch {
		case t == AllShots && i == len(texts)-1:
		case t == AllShots:
			r.bad(n.line, key, "found %s before %s, expected it last", AllShots, texts[i+1])
		case err != nil || k < 1 || t != strconv.Itoa(k):
			r.bad(n.line, key, "found %q, expected numbers of cases from 1 on, and %s last", t, AllShots)
		case k <= last:
			r.bad(n.line, key, "found %d behind %d, expected ascending numbers", k, last)
		default:
			last = k
		}
	}
	r.file.Shots = texts
}

func (r *reader) seeds(n *node, key string) {
	if n.kind == scalarNode {
		count, err := strconv.Atoi(n.text)
		if err != nil || count < 1 || count > 1000 {
			r.bad(n.line, key, "found %q, expected a number from 1 to 1000, or a list of seeds", n.text)
			return
		}
		r.file.Seeds = make([]uint64, count)
		for i := range r.file.Seeds {
			r.file.Seeds[i] = uint64(i)
		}
		return
	}
	texts, ok := r.texts(n, key, true)
	if !ok {
		return
	}
	if len(texts) == 0 {
		r.bad(n.line, key, "found an empty list, expected seeds")
	}
	r.file.Seeds = nil
	for _, t := range texts {
		s, err := strconv.ParseUint(t, 10, 64)
		switch {
		case err != nil:
			r.bad(n.line, key, "found %q, expected whole numbers from 0 on", t)
		case slices.Contains(r.file.Seeds, s):
			r.bad(n.line, key, "%d is there twice", s)
		default:
			r.file.Seeds = append(r.file.Seeds, s)
		}
	}
}

func (r *reader) ties(n *node, key string) {
	if n.kind != tableNode {
		r.bad(n.line, key, "found %s, expected metrics with a number each", n.found())
		return
	}
	r.file.Statistics.Tie = map[string]float64{}
	for _, e := range n.entries {
		x, err := strconv.ParseFloat(e.value.text, 64)
		if e.value.kind != scalarNode || err != nil || !(x >= 0) || math.IsInf(x, 0) {
			r.bad(e.line, join(key, e.key), "found %s, expected a number of at least 0", e.value.found())
			continue
		}
		r.file.Statistics.Tie[e.key] = x
	}
}

// metrics checks the names of metrics.
func (r *reader) metrics(n *node, key string) {
	e := &r.file.Evaluate
	s := scores.Settings{Tolerances: e.tolerances(), Match: []scores.Rule{{}}}
	known := append(s.Metrics(), scores.Detections...)
	line := r.lineOf(n, "metrics")
	for i, name := range e.Metrics {
		if !slices.Contains(known, name) {
			r.bad(line, join(key, "metrics"), "%w", notAmong(name, known, "metric of scores.json"))
		}
		if slices.Contains(e.Metrics[:i], name) {
			r.bad(line, join(key, "metrics"), "%s is there twice", name)
		}
	}
}

// tolerances are evaluate's, and those that metrics name besides: NSD_4 needs 4 mm.
func (e *EvaluateSettings) tolerances() []float64 {
	list := []float64{1, 2, 3}
	for _, name := range e.Metrics {
		text, ok := strings.CutPrefix(name, "NSD_")
		x, err := strconv.ParseFloat(text, 64)
		if ok && err == nil && x >= 0 && !math.IsInf(x, 0) && !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	slices.Sort(list)
	return list
}
