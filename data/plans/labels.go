package plans

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Dataset is an nnU-Net dataset.json.
type Dataset struct {
	ChannelNames []string // in file order, which is channel order
	Labels       *Labels
	FileEnding   string // with the dot, e.g. ".nii.gz"

	source string
	raw    *Object
}

// NumTraining returns numTraining, the number of training cases. Only the planners and the
// integrity check of a raw dataset need it, so that a missing or invalid value is an error only
// here.
func (d *Dataset) NumTraining() (int, error) {
	var err error
	s := section{where: d.source, obj: d.raw, err: &err}
	const key = "numTraining"
	s.required(key, "the number of training cases")
	n := s.integer(key, 0)
	if err != nil {
		return 0, fmt.Errorf("plans: %w", err)
	}
	return n, nil
}

// Label is one entry of dataset.json's labels. A region (a list in the file) combines several
// values.
type Label struct {
	Name   string
	Values []int
	Region bool // a list in the file, even if of one value
}

// Labels describes the values of a segmentation.
type Labels struct {
	Entries           []Label // all entries in file order, background and ignore included
	AllLabels         []int   // all values except ignore, ascending, with background
	ForegroundLabels  []int   // AllLabels without 0
	Regions           []Label // foreground regions in file order; nil unless HasRegions
	HasRegions        bool    // a label is a list of several values: one sigmoid channel per region
	RegionsClassOrder []int   // value assigned to each region, in the order of Regions
	IgnoreLabel       *int    // or nil. Voxels with this value are excluded from loss and metrics
}

// NumSegmentationHeads returns the number of output channels of the network: labels including
// background but not ignore, or foreground regions.
func (l *Labels) NumSegmentationHeads() int {
	if l.HasRegions {
		return len(l.Regions)
	}
	return len(l.AllLabels)
}

// CheckConsecutive complains of labels with a gap: without regions the class of a network is the
// label, so that 0, 1, … are the only values that it predicts.
// Source: nnU-Net 2.5.1, verify_dataset_integrity.py, which demands the same.
func (l *Labels) CheckConsecutive() error {
	if n := len(l.AllLabels); !l.HasRegions && n > 0 && l.AllLabels[n-1] != n-1 {
		return fmt.Errorf("labels: found the values %v, expected 0 to %d without a gap, the classes that a network predicts: "+
			"renumber them in dataset.json", l.AllLabels, len(l.AllLabels)-1)
	}
	return nil
}

// NumInputChannels returns the number of input channels of the network of configuration c: the
// image channels, plus one per foreground label if c is the second stage of a cascade.
func (d *Dataset) NumInputChannels(c *Configuration) int {
	if c.PreviousStage != "" {
		return len(d.ChannelNames) + len(d.Labels.ForegroundLabels)
	}
	return len(d.ChannelNames)
}

// NumLabelEntries returns the number of entries of labels, including background, ignore and all
// regions. nnU-Net's planners use it as the number of classes.
func (d *Dataset) NumLabelEntries() int { return len(d.Labels.Entries) }

// Raw returns the whole document in file order. It must not be modified.
func (d *Dataset) Raw() *Object { return d.raw }

// LoadDataset reads a dataset.json.
func LoadDataset(path string) (*Dataset, error) {
	raw, err := readObject(path)
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return DatasetFromObject(raw, path)
}

// DatasetFromObject interprets raw, a decoded dataset.json. source names it in errors. raw is kept,
// not copied. Channels are read from channel_names or, in old files, modality.
// Source: nnU-Net 2.5.1, label_handling.py.
func DatasetFromObject(raw *Object, source string) (*Dataset, error) {
	var err error
	s := section{where: source, obj: raw, err: &err}
	d := &Dataset{FileEnding: s.str("file_ending"), source: source, raw: raw}
	if err == nil && strings.ContainsAny(d.FileEnding, "/\\\x00") {
		s.fail("file_ending", `an ending of file names such as ".nii.gz"`, d.FileEnding)
	}
	key := "modality"
	if !present(raw, key) {
		key = "channel_names"
	}
	s.required(key, `an object such as {"0": "CT"}`)
	channels := section{where: source + ": " + key, obj: s.object(key), err: &err}
	for _, k := range channels.obj.Keys() {
		d.ChannelNames = append(d.ChannelNames, channels.str(k))
	}
	if err == nil && len(d.ChannelNames) == 0 {
		s.fail(key, "at least one channel", s.object(key))
	}
	s.required("labels", `an object such as {"background": 0, "lymph_node": 1}`)
	if err == nil {
		d.Labels, err = parseLabels(s)
	}
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return d, nil
}

// labelValue describes a valid label value.
const labelValue = "an integer, a string of one, or a list of them"

// parseLabels parses values like the reference, which calls int() on them: "1", 1.0, 1.9 and true
// are 1. Values of regions, however, are compared with voxels as they are, so strings and
// fractions, which never equal a voxel, are an error. So they are for the ignore label, which must
// be an int in the reference.
func parseLabels(s section) (*Labels, error) {
	in := section{where: s.where + ": labels", obj: s.object("labels"), err: s.err}
	l := &Labels{}
	for _, name := range in.obj.Keys() {
		e := Label{Name: name}
		v, _ := in.obj.Get(name)
		if v == nil && name == "ignore" {
			continue
		}
		if v == nil {
			in.fail(name, labelValue, nil)
		} else if _, e.Region = v.([]any); e.Region {
			e.Values = field(in, name, labelValue, listOf(pythonInt), nil)
		} else {
			e.Values = []int{field(in, name, labelValue, pythonInt, 0)}
		}
		l.Entries = append(l.Entries, e)
		if name != "ignore" {
			l.AllLabels = append(l.AllLabels, e.Values...)
			l.HasRegions = l.HasRegions || len(e.Values) > 1
		} else if _, whole := v.(int64); !whole {
			in.fail(name, "a single integer, not a fraction, string or list", v)
		} else {
			l.IgnoreLabel = &e.Values[0]
		}
		for _, n := range e.Values {
			if n < 0 || n > math.MaxUint16 {
				in.fail(name, fmt.Sprintf("labels from 0 to %d", math.MaxUint16), v)
			}
		}
		if *s.err != nil {
			return nil, *s.err
		}
	}
	slices.Sort(l.AllLabels)
	l.AllLabels = slices.Compact(l.AllLabels)
	l.ForegroundLabels = slices.DeleteFunc(slices.Clone(l.AllLabels),
		func(v int) bool { return v == 0 })

	if in.required("background", "the value 0") {
		if n, ok := pythonInt(in.obj.values["background"]); !ok || n != 0 {
			in.fail("background", "the value 0", in.obj.values["background"])
		}
	}
	if *s.err == nil && l.IgnoreLabel != nil && *l.IgnoreLabel != slices.Max(l.AllLabels)+1 {
		want := fmt.Sprintf("%d, one above the largest other label", slices.Max(l.AllLabels)+1)
		in.fail("ignore", want, *l.IgnoreLabel)
	}
	if *s.err == nil && l.HasRegions {
		for _, e := range l.Entries {
			if v := in.obj.values[e.Name]; !isWhole(v) {
				in.fail(e.Name, "integers without quotes, since labels has regions", v)
			}
			background := !slices.ContainsFunc(e.Values, func(v int) bool { return v != 0 })
			if e.Name != "ignore" && !background {
				l.Regions = append(l.Regions, e)
			}
		}
		s.required("regions_class_order", "one value per region, since labels has regions")
		l.RegionsClassOrder = s.ints("regions_class_order")
		if *s.err == nil && len(l.RegionsClassOrder) != len(l.Regions) {
			want := fmt.Sprintf("%d entries, one per region", len(l.Regions))
			s.fail("regions_class_order", want, s.obj.values["regions_class_order"])
		}
	}
	return l, *s.err
}

// isWhole reports whether v is an integer, or a list of integers.
func isWhole(v any) bool {
	if _, ok := listOf(asInt)(v); ok {
		return true
	}
	_, ok := asInt(v)
	return ok
}

// pythonInt is Python's int(v): fractions are truncated, strings parsed, and true is 1.
func pythonInt(v any) (int, bool) {
	switch v := v.(type) {
	case int64:
		return int(v), true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case float64:
		return asInt(math.Trunc(v))
	case string:
		text := strings.TrimSpace(v)
		digits := strings.TrimLeft(text, "+-")
		if len(text)-len(digits) > 1 || strings.HasPrefix(digits, "_") ||
			strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
			return 0, false
		}
		n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
		return n, err == nil
	}
	return 0, false
}
