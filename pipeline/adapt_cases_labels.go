package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/cases"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// dataset is the dataset.json of the cases: of nnU-Net's raw layout that of their folder, else the
// model's. Labels that --labels-map and --roi name are the model's if it knows all of these names,
// whose case, _ and - do not matter; else they are the labels 1, 2, … of a new list.
func (c *AdaptCasesConfig) dataset(m adaptModel) (*plans.Dataset, error) {
	k := &caseChecker{AdaptCasesConfig: *c, model: m}
	path := ""
	if c.ImageFiles == "" {
		path = cases.DatasetJSON(c.Cases)
	}
	return k.describe(path)
}

// describe makes the dataset.json of the cases, of which path is their own, "" without.
func (k *caseChecker) describe(path string) (*plans.Dataset, error) {
	known := k.model.Dataset
	if path != "" {
		own, err := plans.LoadDataset(path)
		if err != nil {
			return nil, err
		}
		known = own
	}
	wanted, err := k.names(known.Labels)
	if err != nil {
		return nil, err
	}
	isNew := slices.ContainsFunc(wanted, func(name string) bool {
		return labelNamed(known.Labels, name) == nil
	})
	if !isNew {
		return known, nil
	}
	doc := known.Raw().Clone()
	list := plans.NewObject("background", int64(0))
	value, ignore := int64(0), false
	for _, name := range wanted {
		switch {
		case plainName(name) == "background":
		case name == "ignore":
			ignore = true
		default:
			value++
			list.Set(name, value)
		}
	}
	if ignore {
		list.Set("ignore", value+1)
	}
	doc.Set("labels", list)
	doc.Delete("regions_class_order")
	return plans.DatasetFromObject(doc, "--labels-map")
}

// names are the labels that the flags name, in their order.
func (k *caseChecker) names(known *plans.Labels) ([]string, error) {
	var all []string
	add := func(name string) {
		if !slices.ContainsFunc(all, func(s string) bool { return plainName(s) == plainName(name) }) {
			all = append(all, name)
		}
	}
	for _, text := range k.LabelsMap {
		name, _, ok := strings.Cut(text, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, settings.Usage("--labels-map %q: expected NAME=VALUES, as in 'lymph "+
				"node=1'", text)
		}
		add(name)
	}
	choices, err := labels.ParseChoices(k.ROIs)
	if err != nil {
		return nil, settings.Usage("--roi %w", err)
	}
	for i, c := range choices {
		name, err := roiName(k.ROIs[i], c, known)
		if err != nil {
			return nil, err
		}
		add(name)
	}
	return all, nil
}

// roiName is the label that a --roi is for: of a pattern alone the only one that there is.
func roiName(text string, c labels.Choice, known *plans.Labels) (string, error) {
	if strings.Contains(text, "=") || labelNamed(known, c.Name) != nil {
		return c.Name, nil
	}
	if entries := foreground(known); len(entries) == 1 {
		return entries[0].Name, nil
	}
	return "", settings.Usage("--roi %q: expected NAME=PATTERN, as there are several labels: %s",
		text, labelList(known))
}

// foreground are the labels but background and ignore.
func foreground(l *plans.Labels) (list []plans.Label) {
	for _, e := range l.Entries {
		if e.Name != "ignore" && slices.ContainsFunc(e.Values, func(v int) bool { return v != 0 }) {
			list = append(list, e)
		}
	}
	return list
}

// plainName is a label's name without what is spelled now this way, now that.
func plainName(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(s),
		func(r rune) bool { return r == '_' || r == '-' || r == ' ' }), " ")
}

// labelNamed is the label of a name, nil if there is none.
func labelNamed(l *plans.Labels, name string) *plans.Label {
	for i, e := range l.Entries {
		if plainName(e.Name) == plainName(name) {
			return &l.Entries[i]
		}
	}
	return nil
}

// labelList shows labels for messages: 0 background, 1 lymph_node.
func labelList(l *plans.Labels) string {
	var all []string
	for _, e := range l.Entries {
		all = append(all, strings.Trim(fmt.Sprint(e.Values), "[]")+" ("+e.Name+")")
	}
	return strings.Join(all, ", ")
}

// caseLabels says what the values of label maps, ROIs and segments mean in the dataset.
type caseLabels struct {
	of      *plans.Labels
	values  map[int]int     // of --labels-map: from the files' to the dataset's; nil without
	choices []labels.Choice // of --roi
	to      []int           // of each choice: the dataset's value
}

func newCaseLabels(c *AdaptCasesConfig, d *plans.Dataset) (*caseLabels, error) {
	l := &caseLabels{of: d.Labels}
	for _, text := range c.LabelsMap {
		name, list, _ := strings.Cut(text, "=")
		to, err := l.value("--labels-map", strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if l.values == nil {
			l.values = map[int]int{}
		}
		for _, one := range strings.Split(list, ",") {
			v, err := strconv.Atoi(strings.TrimSpace(one))
			if err != nil || v < 0 || v > math.MaxUint16 {
				return nil, settings.Usage("--labels-map %q: found %q, expected values of the "+
					"label maps, as in 'lymph node=1,3'", text, one)
			}
			if before, twice := l.values[v]; twice && before != to {
				return nil, settings.Usage("--labels-map: the value %d is given to two labels", v)
			}
			l.values[v] = to
		}
	}
	var err error
	if l.choices, err = labels.ParseChoices(c.ROIs); err != nil {
		return nil, settings.Usage("--roi %w", err)
	}
	for i := range l.choices {
		l.choices[i].Optional = true
		name, err := roiName(c.ROIs[i], l.choices[i], d.Labels)
		if err != nil {
			return nil, err
		}
		to, err := l.value("--roi", name)
		if err != nil {
			return nil, err
		}
		l.to = append(l.to, to)
	}
	return l, nil
}

// value is the voxel's value of a label. That of a region is the one that stands for it alone.
func (l *caseLabels) value(flag, name string) (int, error) {
	e := labelNamed(l.of, name)
	if e == nil {
		return 0, settings.Usage("%s: there is no label %q, but %s", flag, name, labelList(l.of))
	}
	if len(e.Values) == 1 {
		return e.Values[0], nil
	}
	for i, r := range l.of.Regions {
		if r.Name == e.Name && slices.Contains(e.Values, l.of.RegionsClassOrder[i]) {
			return l.of.RegionsClassOrder[i], nil
		}
	}
	return 0, settings.Usage("%s: the label %q is a region of the values %v, and none of them "+
		"stands for it alone: map the values in the files", flag,
		e.Name, e.Values)
}

// allowed are the values that the dataset knows.
func (l *caseLabels) allowed() []int {
	all := append([]int{0}, l.of.AllLabels...)
	if l.of.IgnoreLabel != nil {
		all = append(all, *l.of.IgnoreLabel)
	}
	return all
}

// translate turns the values of a label map into the dataset's. notes are values that become
// background since --labels-map leaves them out. The error is what is wrong with the values.
func (l *caseLabels) translate(pixels volume.Pixels) (out volume.Pixels, notes []string,
	err error) {
	counts := map[float64]int{}
	raw.Tally(pixels, counts)
	if len(counts) > raw.MaxValues {
		return nil, nil, fmt.Errorf("more than %d different values: is this an image?",
			raw.MaxValues)
	}
	if n := counts[math.Inf(-1)]; n > 0 { // NaN, see Tally
		return nil, nil, fmt.Errorf("%d voxels of the labels are NaN or infinite, expected whole "+
			"numbers", n)
	}
	var values []float64
	for v := range counts {
		values = append(values, v)
	}
	slices.Sort(values)
	allowed := l.allowed()
	table := map[int]int{}
	var fractions, unknown []string
	var left []float64
	most := 0
	for _, v := range values {
		text := fmt.Sprintf("%.10g (%d voxels)", v, counts[v])
		switch {
		case v != math.Trunc(v):
			fractions = append(fractions, text)
			continue
		case math.Abs(v) > math.MaxInt32:
			unknown, left = append(unknown, text), append(left, v)
			continue
		}
		to, mapped := l.values[int(v)]
		switch {
		case l.values == nil:
			to = int(v)
		case !mapped && v != 0:
			notes = append(notes, text)
		}
		if !slices.Contains(allowed, to) {
			unknown, left = append(unknown, text), append(left, v)
		}
		table[int(v)] = to
		most = max(most, to)
	}
	switch {
	case len(fractions) > 0:
		return nil, nil, fmt.Errorf("the labels hold fractions, %s, expected whole numbers: were "+
			"they resampled with interpolation?", several(fractions))
	case len(unknown) > 0:
		return nil, nil, fmt.Errorf("the labels hold %s, expected %s: %s", several(unknown),
			labelList(l.of), l.suggest(left))
	}
	if notes != nil {
		notes = []string{"values that --labels-map leaves out become background: " + several(notes)}
	}
	if most > math.MaxUint8 {
		return translated[uint16](pixels, table), notes, nil
	}
	return translated[uint8](pixels, table), notes, nil
}

// suggest is the flag that gives unknown values a meaning.
func (l *caseLabels) suggest(values []float64) string {
	entries := foreground(l.of)
	if len(entries) != 1 || len(values) > 5 {
		return "say what the values mean with --labels-map NAME=VALUES, once for each label"
	}
	var list []string
	for v, to := range l.values {
		if to != 0 {
			list = append(list, strconv.Itoa(v))
		}
	}
	slices.Sort(list)
	for _, v := range values {
		list = append(list, strconv.FormatFloat(v, 'f', -1, 64))
	}
	return fmt.Sprintf("if they mean that too, give --labels-map '%s=%s'", entries[0].Name,
		strings.Join(list, ","))
}

// translated looks all values up.
func translated[T uint8 | uint16](pixels volume.Pixels, table map[int]int) volume.Pixels {
	out := make(volume.Slice[T], pixels.Len())
	block := make([]int64, min(4096, pixels.Len()))
	last, to := int64(0), T(table[0])
	for at := 0; at < pixels.Len(); at += len(block) {
		part := block[:min(len(block), pixels.Len()-at)]
		pixels.Int64s(part, at)
		for i, v := range part {
			if v != last {
				last, to = v, T(table[int(v)])
			}
			out[at+i] = to
		}
	}
	return out
}

// fromROIs gives a map that was drawn, with the values 1, 2, … for the choices, the dataset's
// values.
func (l *caseLabels) fromROIs(m *labels.Map) volume.Pixels {
	table := map[int]int{}
	most := 0
	for i, to := range l.to {
		table[i+1] = to
		most = max(most, to)
	}
	if most > math.MaxUint8 {
		return translated[uint16](m.Pixels, table)
	}
	return translated[uint8](m.Pixels, table)
}
