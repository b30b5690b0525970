package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/rtstruct"
	"github.com/lntorch/lntorch/formats/dicom/seg"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// LabelsChoice says on which image the labels of an RTSTRUCT or a SEG are drawn, and which.
type LabelsChoice struct {
	Reference        string   `flag:"reference" path:"true" help:"of RTSTRUCT and SEG: draw the labels on the grid of this DICOM series or image file; with --to: the series that the labels belong to"`
	ReferenceSeries  string   `flag:"reference-series" help:"stack of --reference, by number or SeriesInstanceUID; without it the one that the labels refer to"`
	ROIs             []string // of the flag --roi, which may hold commas: NAME=PATTERN or PATTERN, in the order of the values
	Threshold        float64  `flag:"threshold" default:"0.5" range:">0..1" help:"of a fractional SEG: the smallest share that is foreground"`
	IgnoreReferences bool     `flag:"ignore-references" help:"draw labels that refer to another series and frame of reference, too"`
	Resample         bool     `flag:"resample" help:"of a SEG that does not fall on the grid: take the nearest pixel"`
}

// set reports whether anything but the image was chosen.
func (c *LabelsChoice) set() bool {
	return c.ReferenceSeries != "" || len(c.ROIs) > 0 || c.IgnoreReferences || c.Resample
}

// A Converted is a file that ConvertImage wrote.
type Converted struct {
	File     string                    `json:"file"`
	Bytes    int64                     `json:"bytes"`
	Type     string                    `json:"type"`
	Labels   map[string]ConvertedLabel `json:"labels,omitempty"` // by value, of RTSTRUCT and SEG
	Warnings []string                  `json:"warnings"`
}

// A ConvertedLabel is a label of a map that was drawn.
type ConvertedLabel struct {
	Name   string   `json:"name"`
	ROIs   []string `json:"rois"` // names of the ROIs or segments
	Voxels int      `json:"voxels"`
}

// drawLabels draws the labels of an RTSTRUCT or a SEG on the grid of an image.
func drawLabels(c ConvertImageConfig, o Output) (volume.File, *Converted, error) {
	choices, err := labels.ParseChoices(c.ROIs)
	if err != nil {
		return nil, nil, settings.Usage("--roi %w", err)
	}
	if c.Series != "" {
		return nil, nil, settings.Usage("--series is for images: give --reference-series for " +
			"that of --reference")
	}
	object, err := labelObject(c.In)
	if err != nil {
		return nil, nil, err
	}
	m, warnings, err := drawObject(object, choices, c.LabelsChoice, func(to labels.References) (
		*reference, error) {
		return openReference(c, to)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, w := range warnings {
		o.Printf("WARNING: %s", w)
	}
	done := &Converted{Labels: map[string]ConvertedLabel{}, Warnings: warnings}
	for i, l := range m.Labels {
		done.Labels[strconv.Itoa(i+1)] = ConvertedLabel{l.Name, l.Names, l.Voxels}
	}
	return labelMap{m}, done, nil
}

// labelMap is a map that was drawn, as a file that is converted. It implements volume.File.
type labelMap struct{ *labels.Map }

func (m labelMap) Head() *volume.Header {
	return &volume.Header{Format: "labels", Size: m.Grid.Size[:], Type: m.Pixels.Type(),
		Geometry: m.Grid.ITK}
}
func (m labelMap) Stored() volume.Pixels { return m.Pixels }
func (m labelMap) Values() volume.Pixels { return m.Pixels }
func (m labelMap) Image() (*volume.Image, *volume.ITK, error) {
	return m.Grid.ITK.Image(m.Grid.Size[:], m.Pixels), m.Grid.ITK, nil
}

// labelObject finds the one RTSTRUCT or SEG at a path.
func labelObject(path string) (*series.Object, error) {
	if !series.Is(path) {
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		return nil, settings.Usage("--reference is for RTSTRUCT and SEG: %s is no DICOM", path)
	}
	x, err := series.Find(path, system.Cores())
	if err != nil {
		return nil, err
	}
	return oneObject(x)
}

// oneObject returns the RTSTRUCT or SEG of an index that has one.
func oneObject(x *series.Index) (*series.Object, error) {
	path, all := x.Path, labelObjects(x)
	if len(all) == 1 {
		return all[0], nil
	}
	if len(all) == 0 {
		var failed []error
		for _, d := range x.Damaged {
			failed = append(failed, d.Err)
		}
		if failed != nil {
			return nil, errors.Join(failed...)
		}
		return nil, fmt.Errorf("%s: found no RTSTRUCT or SEG; --reference is for these alone", path)
	}
	lines := make([]string, len(all))
	for i, o := range all {
		lines[i] = "  " + o.Name
	}
	return nil, fmt.Errorf("%s: found several RTSTRUCT or SEG, expected one: give one of\n%s", path,
		strings.Join(lines, "\n"))
}

// labelObjects lists the RTSTRUCT and SEG objects of an index.
func labelObjects(x *series.Index) []*series.Object {
	classes := []string{dicom.ClassRTStructure, dicom.ClassSegmentation, dicom.ClassLabelMap}
	var all []*series.Object
	for _, o := range x.Objects {
		if slices.Contains(classes, o.Class) {
			all = append(all, o)
		}
	}
	return all
}

// drawObject draws the chosen labels of an RTSTRUCT or a SEG on the image that open returns for what
// they refer to. It returns the map and what the user should know of it; messages name the object.
func drawObject(object *series.Object, choices []labels.Choice, c LabelsChoice,
	open func(to labels.References) (*reference, error)) (*labels.Map, []string, error) {
	draw := drawSegments
	if object.Class == dicom.ClassRTStructure {
		draw = drawStructures
	}
	m, warnings, err := draw(object, choices, c, open)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range m.Warnings {
		warnings = append(warnings, object.Name+": "+w)
	}
	return m, warnings, nil
}

// referencesOf reads what an RTSTRUCT or a SEG refers to.
func referencesOf(object *series.Object) (labels.References, error) {
	if object.Class == dicom.ClassRTStructure {
		set, err := rtstruct.Read(object.Source)
		if err != nil {
			return labels.References{}, err
		}
		return set.Referred, nil
	}
	s, err := seg.Read(object.Source)
	if err != nil {
		return labels.References{}, err
	}
	return s.Referred, nil
}

func drawStructures(object *series.Object, choices []labels.Choice, c LabelsChoice,
	open func(labels.References) (*reference, error)) (*labels.Map, []string, error) {
	set, err := rtstruct.Read(object.Source)
	if err != nil {
		return nil, nil, err
	}
	all, err := set.Choose(choices)
	if err != nil {
		return nil, nil, err
	}
	r, err := open(set.Referred)
	if err != nil {
		return nil, nil, err
	}
	another, drawn := false, 0
	var left []string // numbers of ROIs
	var refused error
	for k := range all {
		l := &all[k]
		var names []string
		var parts []int
		for j, i := range l.Parts {
			roi := set.ROIs[i]
			if roi.Count > 0 {
				what := fmt.Sprintf("%s: ROI %d", object.Name, roi.Number)
				other, err := r.check(roi.Referred, what, c.IgnoreReferences)
				if err != nil && !r.some {
					return nil, nil, err
				}
				if err != nil {
					left, refused = append(left, strconv.Itoa(roi.Number)), err
					continue
				}
				another = another || other
				drawn++
			}
			names, parts = append(names, l.Names[j]), append(parts, i)
		}
		l.Names, l.Parts = names, parts
	}
	if refused != nil && drawn == 0 {
		return nil, nil, refused
	}
	m, err := set.Draw(r.grid, all, r.workers)
	warnings := r.warnings(another)
	if left != nil {
		warnings = append(warnings, fmt.Sprintf("%s: ROIs of another series and another frame of reference "+
			"are left out: %s", object.Name, strings.Join(left, ", ")))
	}
	return m, warnings, err
}

func drawSegments(object *series.Object, choices []labels.Choice, c LabelsChoice,
	open func(labels.References) (*reference, error)) (*labels.Map, []string, error) {
	s, err := seg.Read(object.Source)
	if err != nil {
		return nil, nil, err
	}
	all, err := s.Choose(choices)
	if err != nil {
		return nil, nil, err
	}
	r, err := open(s.Referred)
	if err != nil {
		return nil, nil, err
	}
	another, err := r.check(s.Referred, object.Name+": the segmentation", c.IgnoreReferences)
	if err != nil {
		return nil, nil, err
	}
	o := seg.Options{Threshold: c.Threshold, Resample: c.Resample, Workers: r.workers}
	if r.stack != nil && !c.Resample {
		o.Resample = r.fixed
		for _, slice := range r.stack.Slices {
			o.Slices = append(o.Slices, slice.Position)
		}
	}
	m, err := s.Draw(r.grid, all, o)
	return m, r.warnings(another), err
}

// A reference is the image on whose grid labels are drawn.
type reference struct {
	path  string
	grid  *labels.Grid
	stack *series.Stack // nil for an image file
	fixed bool          // the grid is not that of the stack's slices

	workers int  // goroutines that draw on it
	byFrame bool // it is known that the labels share its frame of reference alone
	some    bool // of ROIs of several series and frames of reference its own are drawn
}

// openReference finds the image that labels are drawn on. Of several stacks it is the one that the
// labels refer to.
func openReference(c ConvertImageConfig, to labels.References) (*reference, error) {
	if series.Is(c.Reference) {
		x, err := series.Find(c.Reference, system.Cores())
		if err != nil {
			return nil, err
		}
		choice := c.ReferenceSeries
		if choice == "" {
			choice = referred(x, to)
		}
		stack, err := x.Choose(choice)
		if err != nil {
			return nil, fmt.Errorf("--reference: %w", err)
		}
		return stackReference(c.Reference, stack, c.FixGeometry, system.Cores())
	}
	if c.ReferenceSeries != "" || c.FixGeometry {
		return nil, settings.Usage("--reference-series and --fix-geometry are for DICOM: %s is none",
			c.Reference)
	}
	h, err := image.Header(c.Reference)
	if err != nil {
		return nil, err
	}
	return fileReference(c.Reference, h, system.Cores())
}

// stackReference is the stack as a reference; path names it for messages.
func stackReference(path string, stack *series.Stack, fix bool, workers int) (*reference, error) {
	size, g, err := stack.Grid(fix)
	if err != nil {
		return nil, err
	}
	grid, err := labels.NewGrid(size, g)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &reference{path: path, grid: grid, stack: stack, fixed: !stack.Geometry.Regular,
		workers: workers}, nil
}

// fileReference is an image file with this header as a reference.
func fileReference(path string, h *volume.Header, workers int) (*reference, error) {
	if h.Geometry == nil {
		return nil, fmt.Errorf("%s: %w", path, h.Problem)
	}
	grid, err := labels.NewGrid(h.Size, h.Geometry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &reference{path: path, grid: grid, workers: workers}, nil
}

// referred returns the UID of the one series of an index that labels refer to, or "".
func referred(x *series.Index, to labels.References) string {
	uid := ""
	for _, s := range x.Stacks {
		if s.SeriesUID == uid || !slices.Contains(to.Series, s.SeriesUID) {
			continue
		}
		if uid != "" {
			return ""
		}
		uid = s.SeriesUID
	}
	return uid
}

// check fails if labels refer to something else than the image. It reports whether they refer to
// another series in the image's frame of reference.
func (r *reference) check(to labels.References, what string, ignore bool) (other bool, err error) {
	if r.stack == nil { // nothing is known of an image file
		return false, nil
	}
	if r.stack.SeriesUID != "" && slices.Contains(to.Series, r.stack.SeriesUID) {
		return false, nil
	}
	if f := r.stack.FrameOfReference; f != "" && slices.Contains(to.Frames, f) {
		return len(to.Series) > 0, nil
	}
	if ignore {
		return false, nil
	}
	refers := "refers to another series and another frame of reference than stack %d of %s"
	if len(to.Series)+len(to.Frames) == 0 {
		refers = "names no series and no frame of reference, expected those of stack %d of %s"
	}
	if r.stack.SeriesUID == "" && r.stack.FrameOfReference == "" {
		refers = "cannot be compared with stack %d of %s, which has no SeriesInstanceUID and no " +
			"FrameOfReferenceUID"
	}
	return false, fmt.Errorf("%s "+refers+": choose another one with --reference and "+
		"--reference-series, or give --ignore-references if it is the right one", what, r.stack.Number, r.path)
}

// warnings are those that the choice of the reference gives.
func (r *reference) warnings(another bool) []string {
	all := []string{}
	if another && !r.byFrame {
		all = append(all, r.path+": the labels were made on another series in the same frame of "+
			"reference")
	}
	if r.stack == nil {
		return all
	}
	for _, w := range r.stack.Warnings {
		all = append(all, r.path+": "+w)
	}
	if r.fixed {
		all = append(all, r.path+": the labels lie on the regular grid to which --fix-geometry "+
			"resamples the slices")
	}
	return all
}

// roiInfo is what only an RTSTRUCT has.
type roiInfo struct {
	ROIs []roiRow `json:"rois"`
}

type roiRow struct {
	Number   int            `json:"number"`
	Name     string         `json:"name"`
	Contours int            `json:"contours"`
	Types    map[string]int `json:"types"`
}

// segInfo is what only a SEG has.
type segInfo struct {
	SegmentationType string       `json:"segmentation_type"`
	Segments         []segmentRow `json:"segments"`
}

type segmentRow struct {
	Number int    `json:"number"`
	Label  string `json:"label"`
	Frames int    `json:"frames"`
}

// inspectLabels describes an RTSTRUCT or a SEG.
func inspectLabels(o *series.Object) (*ImageInfo, error) {
	info := &ImageInfo{File: o.Name, Bytes: o.Size, ByteOrder: "little", Description: o.Description}
	var to labels.References
	if o.Class == dicom.ClassRTStructure {
		set, err := rtstruct.Read(o.Source)
		if err != nil {
			return nil, err
		}
		info.Format, to = "DICOM RTSTRUCT", set.Referred
		info.roiInfo = &roiInfo{ROIs: []roiRow{}}
		for _, r := range set.ROIs {
			info.ROIs = append(info.ROIs, roiRow{r.Number, r.Name, r.Count, r.Types})
		}
	} else {
		s, err := seg.Read(o.Source)
		if err != nil {
			return nil, err
		}
		info.Format, to = "DICOM SEG", s.Referred
		info.Size = []int{s.Columns, s.Rows, s.FrameCount}
		info.segInfo = &segInfo{SegmentationType: s.Type, Segments: []segmentRow{}}
		for _, segment := range s.Segments {
			info.Segments = append(info.Segments, segmentRow{segment.Number, segment.Label,
				segment.Frames})
		}
	}
	if len(to.Series) > 0 {
		info.SeriesUID = to.Series[0]
	}
	return info, nil
}

// text prints what only an RTSTRUCT has.
func (r *roiInfo) text(line func(name, format string, args ...any)) {
	for i, roi := range r.ROIs {
		name := ""
		if i == 0 {
			name = "ROIs"
		}
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(roi.Types)) {
			kinds = append(kinds, fmt.Sprintf("%d %s", roi.Types[kind], kind))
		}
		if kinds == nil {
			kinds = []string{"no contours"}
		}
		line(name, "%d %q: %s", roi.Number, roi.Name, strings.Join(kinds, ", "))
	}
}

// text prints what only a SEG has.
func (s *segInfo) text(line func(name, format string, args ...any)) {
	for i, segment := range s.Segments {
		name := ""
		if i == 0 {
			name = "segments"
		}
		line(name, "%d %q: %d frames, %s", segment.Number, segment.Label, segment.Frames,
			s.SegmentationType)
	}
}
