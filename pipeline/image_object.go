package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/formats/dicom/rtstruct"
	"github.com/lntorch/lntorch/formats/dicom/seg"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// DICOMLabels says what the DICOM object of a label map is like.
type DICOMLabels struct {
	To          string   `flag:"to" values:"seg,rtstruct" help:"write labels as a DICOM object, seg or rtstruct, that belongs to the DICOM series (of image convert: --reference); its name ends in .dcm"`
	Names       []string `flag:"segment" path:"true" help:"with --to: VALUE=NAME, the name of a label; repeat it for more (default: those of the model, or of the dataset.json beside or above LABELS, else label VALUE)"`
	Attributes  string   `flag:"segments" path:"true" help:"with --to: JSON file with dcmqi's segmentAttributes: names, codes, colours"`
	PerNode     bool     `flag:"per-node" help:"with --to: a segment for each connected component (26 neighbours), NAME 1, NAME 2, …"`
	Pixels      string   `flag:"seg-type" default:"binary" values:"binary,labelmap" help:"with --to seg: kind of its pixels"`
	Algorithm   string   `flag:"algorithm" default:"automatic" values:"automatic,semiautomatic,manual" help:"with --to: how the labels were made"`
	Number      int      `flag:"series-number" default:"1000" range:"0..2147483647" help:"with --to: SeriesNumber"`
	Description string   `flag:"series-description" help:"with --to: SeriesDescription"`
}

// check reports flags that do not fit together.
func (c *DICOMLabels) check() error {
	if c.To == "" {
		var usual DICOMLabels
		settings.Defaults(&usual)
		if !reflect.DeepEqual(*c, usual) && !reflect.DeepEqual(*c, DICOMLabels{}) {
			return settings.Usage("--segment, --segments, --per-node, --seg-type, --algorithm, " +
				"--series-number and --series-description are for --to")
		}
		return nil
	}
	if c.Description != "" && derived.CheckName(c.Description) != nil {
		return settings.Usage("--series-description: expected at most 64 characters, no backslash, " +
			"no space around them")
	}
	if c.To != "seg" && c.Pixels != "binary" {
		return settings.Usage("--seg-type is for --to seg")
	}
	_, err := c.names()
	return err
}

// names parses --segment.
func (c *DICOMLabels) names() (map[int]string, error) {
	names := map[int]string{}
	for _, text := range c.Names {
		value, name, ok := strings.Cut(text, "=")
		v, err := strconv.Atoi(value)
		if !ok || err != nil || v < 1 || v > 65535 {
			return nil, settings.Usage("--segment %s: expected VALUE=NAME, with a value from 1 to 65535",
				text)
		}
		if err := derived.CheckName(name); err != nil {
			return nil, settings.Usage("--segment %s: %w", text, err)
		}
		if names[v] != "" {
			return nil, settings.Usage("--segment: value %d is there twice", v)
		}
		names[v] = name
	}
	return names, nil
}

// objectEnding ends the names of the objects that are written.
const objectEnding = ".dcm"

func isObjectName(path string) bool { return strings.EqualFold(filepath.Ext(path), objectEnding) }

// convertLabels writes the label map c.In as a DICOM object for the series c.Reference.
func convertLabels(c ConvertImageConfig, o Output) (*Converted, error) {
	roi := c.LabelsChoice
	roi.ReferenceSeries = ""
	switch {
	case c.Type != "" || c.Round || c.Uncompressed || c.FixGeometry || roi.set():
		return nil, settings.Usage("--type, --round, --uncompressed, --fix-geometry, --roi, " +
			"--ignore-references and --resample are not for --to")
	case c.Reference == "":
		return nil, settings.Usage("--to %s needs --reference SERIES, the DICOM series that the labels "+
			"belong to", c.To)
	case !isObjectName(c.Out):
		return nil, settings.Usage("OUT %s: expected a name that ends in .dcm", c.Out)
	}
	if _, err := os.Stat(c.Out); err == nil && !c.Force {
		return nil, fmt.Errorf("%s exists already: give --force to replace it", c.Out)
	}
	if !series.Is(c.Reference) {
		return nil, fmt.Errorf("--reference %s: found no DICOM, expected a series: a file, a folder or "+
			"a zip", c.Reference)
	}
	x, err := series.Find(c.Reference, system.Cores())
	if err != nil {
		return nil, err
	}
	stack, err := x.Choose(c.ReferenceSeries)
	if err != nil {
		return nil, fmt.Errorf("--reference: %w", err)
	}
	f, err := openImage(c.In, c.DICOMChoice, o)
	if err != nil {
		return nil, err
	}
	im, _, err := f.Image()
	if err != nil {
		return nil, err
	}
	names, err := datasetNames(c.In)
	if err != nil {
		return nil, err
	}
	done, err := c.DICOMLabels.write(c.Out, stack, im, names, o.Version)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.In, err)
	}
	for _, w := range done.Warnings {
		o.Printf("WARNING: %s", w)
	}
	return done, nil
}

// write writes a label map as a DICOM object for a stack. Labels have the names of --segment, else
// of --segments, else those in names. The file appears when it is complete. The labels that it returns
// are the segments or ROIs, by number. version is that of the program.
func (c *DICOMLabels) write(path string, stack *series.Stack, im *volume.Image, names map[int]string,
	version string) (*Converted, error) {
	src, err := derived.From(stack)
	if err != nil {
		return nil, err
	}
	values, err := src.Place(im)
	if err != nil {
		return nil, err
	}
	l := &derived.Labels{Values: values}
	var warnings []string
	if l.Segments, warnings, err = c.segments(values, names); err != nil {
		return nil, err
	}
	done := &Converted{Labels: map[string]ConvertedLabel{}, Warnings: warnings}
	if c.PerNode {
		if l, err = perNode(l, src.Grid.Size); err != nil {
			return nil, err
		}
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	about := derived.Options{Number: c.Number, Description: c.Description,
		Algorithm: strings.ToUpper(c.Algorithm), Version: version}
	if c.To == "seg" {
		err = seg.Write(f, src, l, about, c.Pixels == "labelmap")
	} else {
		err = rtstruct.Write(f, src, l, about, system.Cores())
	}
	if err != nil {
		return nil, err
	}
	if err := f.Commit(); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	done.File, done.Bytes, done.Type = path, info.Size(), c.To
	counts := make([]int, 65536)
	for _, v := range l.Values {
		counts[v]++
	}
	for i, g := range l.Segments {
		done.Labels[strconv.Itoa(i+1)] = ConvertedLabel{g.Name, []string{g.Name}, counts[g.Value]}
	}
	return done, nil
}

// segments describes the labels that a map has, in ascending order. If it has none it describes all
// that are named, or label 1.
func (c *DICOMLabels) segments(values []uint16, names map[int]string) ([]derived.Segment, []string, error) {
	all := map[int]derived.Segment{}
	for v, name := range names {
		all[v] = derived.Segment{Value: v, Name: name}
	}
	asked := map[int]bool{}
	if c.Attributes != "" {
		list, err := seg.ReadAttributes(c.Attributes)
		if err != nil {
			return nil, nil, err
		}
		for _, g := range list {
			all[g.Value] = g
			asked[g.Value] = true
		}
	}
	given, err := c.names()
	if err != nil {
		return nil, nil, err
	}
	for v, name := range given {
		g := all[v]
		g.Value, g.Name = v, name
		all[v] = g
		asked[v] = true
	}
	warnings := []string{}
	present := derived.Present(values)
	if len(present) == 0 {
		warnings = append(warnings, "the label map is all background")
		if present = slices.Sorted(maps.Keys(all)); len(present) == 0 {
			present = []int{1}
		}
	}
	var list []derived.Segment
	for _, v := range present {
		g, ok := all[v]
		if !ok {
			g = derived.Segment{Value: v, Name: fmt.Sprintf("label %d", v)}
		}
		delete(asked, v)
		list = append(list, g)
	}
	for _, v := range slices.Sorted(maps.Keys(asked)) {
		warnings = append(warnings, fmt.Sprintf("label %d has no voxels: it is left out", v))
	}
	return list, warnings, nil
}

// perNode gives each connected component of each label a label of its own.
func perNode(l *derived.Labels, size [3]int) (*derived.Labels, error) {
	out := &derived.Labels{Values: make([]uint16, len(l.Values))}
	for _, g := range l.Segments {
		found, err := components.Find(l.Values, [3]int{size[2], size[1], size[0]}, []int{g.Value},
			components.Full)
		if err != nil {
			return nil, err
		}
		before := len(out.Segments)
		if n := before + len(found.Voxels); n > 65535 {
			return nil, fmt.Errorf("--per-node: found %d nodes or more, expected at most 65535", n)
		}
		found.Runs(func(k, from, to int) {
			for i := from; i < to; i++ {
				out.Values[i] = uint16(before + k + 1)
			}
		})
		for k := range found.Voxels {
			node := g
			node.Value = before + k + 1
			node.Name = fmt.Sprintf("%s %d", g.Name, k+1)
			node.TrackingID, node.TrackingUID = node.Name, ""
			out.Segments = append(out.Segments, node)
		}
	}
	if len(out.Segments) == 0 { // all background
		out.Segments = l.Segments
	}
	return out, nil
}

// datasetNames returns the names of labels in the dataset.json beside a label map or in the folder
// above.
func datasetNames(path string) (map[int]string, error) {
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, in := range []string{folder, filepath.Dir(folder)} {
		d, err := plans.LoadDataset(filepath.Join(in, "dataset.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return labelNames(d.Labels), nil
	}
	return map[int]string{}, nil
}

// labelNames returns the names of the values of a label map that can be names in DICOM. Of regions, a
// value is what a region has beside the later ones, which are written over it: "whole_tumor without
// tumor_core". Where those are other voxels than the value's in the dataset's own labels, it has no name.
func labelNames(l *plans.Labels) map[int]string {
	names := map[int]string{}
	add := func(value int, name string) {
		if value > 0 && derived.CheckName(name) == nil {
			names[value] = name
		}
	}
	if !l.HasRegions {
		for _, e := range l.Entries {
			if len(e.Values) == 1 {
				add(e.Values[0], e.Name)
			}
		}
		return names
	}
	for i, r := range l.Regions {
		rest, without := slices.Clone(r.Values), []string{}
		for _, later := range l.Regions[i+1:] {
			before := len(rest)
			rest = slices.DeleteFunc(rest, func(v int) bool { return slices.Contains(later.Values, v) })
			if len(rest) < before {
				without = append(without, later.Name)
			}
		}
		if len(rest) != 1 || rest[0] != l.RegionsClassOrder[i] {
			continue
		}
		name := r.Name
		if len(without) > 0 {
			name += " without " + strings.Join(without, ", ")
		}
		add(rest[0], name)
	}
	return names
}
