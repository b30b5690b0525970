package plans

import (
	"fmt"
	"slices"
)

// Dataset is an nnU-Net dataset.json.
type Dataset struct {
	ChannelNames []string // in file order, which is the order of the channels
	Labels       *Labels
	FileEnding   string // with its dot, e.g. ".nii.gz"
	NumTraining  int

	raw *Object
}

// Label is one entry of dataset.json's labels. A region (a list in the file) unites several values.
type Label struct {
	Name   string
	Values []int
	Region bool // the file has a list, even if of one value
}

// Labels says what the values of a segmentation mean.
type Labels struct {
	Entries           []Label // all entries in file order, background and ignore included
	AllLabels         []int   // every value but ignore, ascending, background included
	ForegroundLabels  []int   // AllLabels without 0
	Regions           []Label // foreground regions in file order; nil unless HasRegions
	HasRegions        bool    // some label is a list of more than one value: one sigmoid channel per region
	RegionsClassOrder []int   // value painted for each region, in the order of Regions
	IgnoreLabel       *int    // nil: none. Voxels with this value do not count in loss and scores
}

// NumSegmentationHeads returns the number of output channels of the network: labels including
// background but not ignore, or foreground regions.
func (l *Labels) NumSegmentationHeads() int {
	if l.HasRegions {
		return len(l.Regions)
	}
	return len(l.AllLabels)
}

// NumInputChannels returns the number of input channels of the network of configuration c: the
// image channels, plus one per foreground label if c is the second stage of a cascade.
func (d *Dataset) NumInputChannels(c *Configuration) int {
	if c.PreviousStage != "" {
		return len(d.ChannelNames) + len(d.Labels.ForegroundLabels)
	}
	return len(d.ChannelNames)
}

// NumLabelEntries returns the number of entries of labels, background, ignore and every region among them. nnU-Net's planners
// take it for the number of classes.
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
// not copied. Channels come from channel_names or its old name modality.
// Source: nnU-Net 2.5.1, label_handling.py.
func DatasetFromObject(raw *Object, source string) (*Dataset, error) {
	var err error
	s := section{where: source, obj: raw, err: &err}
	d := &Dataset{FileEnding: s.str("file_ending"), NumTraining: s.integer("numTraining", 0), raw: raw}
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

func parseLabels(s section) (*Labels, error) {
	in := section{where: s.where + ": labels", obj: s.object("labels"), err: s.err}
	l := &Labels{}
	for _, name := range in.obj.Keys() {
		e := Label{Name: name}
		if v, _ := in.obj.Get(name); v == nil {
			in.fail(name, "an integer or a list of integers", nil)
		} else if _, e.Region = v.([]any); e.Region {
			e.Values = in.ints(name)
		} else {
			e.Values = []int{field(in, name, "an integer or a list of integers", asInt, 0)}
		}
		l.Entries = append(l.Entries, e)
		if name != "ignore" {
			l.AllLabels = append(l.AllLabels, e.Values...)
			l.HasRegions = l.HasRegions || len(e.Values) > 1
		} else if e.Region {
			in.fail(name, "an integer, since the ignore label cannot be a region", in.obj.values[name])
		} else {
			l.IgnoreLabel = &e.Values[0]
		}
		if *s.err != nil {
			return nil, *s.err
		}
	}
	slices.Sort(l.AllLabels)
	l.AllLabels = slices.Compact(l.AllLabels)
	l.ForegroundLabels = slices.DeleteFunc(slices.Clone(l.AllLabels), func(v int) bool { return v == 0 })

	if in.required("background", "the value 0") && in.integer("background", -1) != 0 {
		in.fail("background", "the value 0", in.obj.values["background"])
	}
	if *s.err == nil && l.IgnoreLabel != nil && *l.IgnoreLabel != slices.Max(l.AllLabels)+1 {
		in.fail("ignore", fmt.Sprintf("%d, one above the largest other label", slices.Max(l.AllLabels)+1), *l.IgnoreLabel)
	}
	if *s.err == nil && l.HasRegions {
		for _, e := range l.Entries {
			background := !slices.ContainsFunc(e.Values, func(v int) bool { return v != 0 })
			if e.Name != "ignore" && !background {
				l.Regions = append(l.Regions, e)
			}
		}
		s.required("regions_class_order", "the value to paint for each region, since labels holds regions")
		if l.RegionsClassOrder = s.ints("regions_class_order"); *s.err == nil && len(l.RegionsClassOrder) != len(l.Regions) {
			s.fail("regions_class_order", fmt.Sprintf("%d entries, one per region", len(l.Regions)), s.obj.values["regions_class_order"])
		}
	}
	return l, *s.err
}
