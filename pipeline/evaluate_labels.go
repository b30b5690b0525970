package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// EvaluateObjects says how RTSTRUCT and SEG become the label maps that are scored.
type EvaluateObjects struct {
	Image            string   `flag:"image" path:"true" help:"of RTSTRUCT and SEG: the image on whose grid they are drawn; a DICOM folder or zip may hold the series of all cases (default: the grid of the other side's file, else the series beside the object)"`
	ROIs             []string // of the flag --roi, which may hold commas: NAME=PATTERN or PATTERN
	Threshold        float64  `flag:"threshold" default:"0.5" range:">0..1" help:"of a fractional SEG: the smallest share that is foreground"`
	IgnoreReferences bool     `flag:"ignore-references" help:"draw labels that refer to another series and frame of reference, too"`
	Resample         bool     `flag:"resample" help:"of a SEG that does not fall on the grid: take the nearest pixel"`
}

// objects draws RTSTRUCT and SEG as label maps.
type objects struct {
	EvaluateObjects
	choices []labels.Choice
	values  []int // of the labels that choices make
	index   *series.Index
	out     Output
}

// isDICOM reports whether a path is a folder, a zip or a file of DICOM, and no file of another format.
func isDICOM(path string) bool {
	if image.Ending(path) != "" {
		return false
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return dicom.Holds(path, "")
	}
	return series.Is(path)
}

// open parses the choice of ROIs and finds the series of --image. entries are the labels that
// dataset.json names; without any, the choices stand for given or else for 1, 2, … It returns the
// names of these.
func (d *objects) open(names map[string]string, given []int) (map[string]string, error) {
	chosen, err := labels.ParseChoices(d.ROIs)
	if err != nil {
		return nil, settings.Usage("--roi %w", err)
	}
	values := map[string]int{}
	var known []string
	for key, name := range names {
		if t, err := eval.ParseTarget(key); err == nil && !t.IsRegion() {
			values[name] = t.Labels()[0]
			known = append(known, name)
		}
	}
	slices.SortFunc(known, func(a, b string) int { return values[a] - values[b] })
	switch {
	case names == nil && given != nil && len(chosen) > 0 && len(chosen) != len(given):
		return nil, settings.Usage("found %d --roi and %d labels in -l, expected one --roi for each "+
			"label, in the order of -l", len(chosen), len(given))
	case names == nil:
		names = map[string]string{}
		for i, c := range chosen {
			v := i + 1
			if given != nil {
				v = given[i]
			}
			d.choices, d.values = append(d.choices, c), append(d.values, v)
			names[eval.Label(v).Key()] = c.Name
		}
	case len(chosen) > 0:
		for _, c := range chosen {
			v, ok := values[c.Name]
			if !ok {
				return nil, settings.Usage("--roi %s=…: found no label of that name in dataset.json, "+
					"expected one of %s", c.Name, strings.Join(known, ", "))
			}
			d.choices, d.values = append(d.choices, c), append(d.values, v)
		}
	default: // what predict writes has the names of the labels, with --per-node a number behind them
		for _, name := range known {
			c, err := labels.ParseChoices([]string{"x=" + regexp.QuoteMeta(name) + `( \d+)?`})
			if err != nil {
				return nil, err
			}
			c[0].Name, c[0].Optional = name, true
			d.choices, d.values = append(d.choices, c[0]), append(d.values, values[name])
		}
	}
	if d.Image != "" && series.Is(d.Image) {
		if d.index, err = series.Find(d.Image, system.Cores()); err != nil {
			return nil, fmt.Errorf("--image: %w", err)
		}
	}
	return names, nil
}

// bytes is about how much drawing and scoring two objects on the largest series of --image takes.
func (d *objects) bytes() int64 {
	most := 0
	if d.index != nil {
		for _, s := range d.index.Stacks {
			if size, _, err := s.Grid(false); err == nil {
				most = max(most, size[0]*size[1]*size[2])
			}
		}
	}
	return 12 * int64(most)
}

// read reads the labels that an index of DICOM holds: those of a series, or drawn ones of the one
// RTSTRUCT or SEG there. other is the map of the other side, nil where that is an object, too.
func (d *objects) read(x *series.Index, other *labelmap.Map, otherPath string) (*labelmap.Map, error) {
	path := x.Path
	if len(labelObjects(x)) == 0 {
		f, err := openImage(path, DICOMChoice{}, d.out)
		if err != nil {
			return nil, err
		}
		return taken(path, f)
	}
	if len(d.choices) == 0 {
		return nil, fmt.Errorf("%s holds RTSTRUCT or SEG: name what is scored with --roi NAME=PATTERN, "+
			"in the order of -l, or give a dataset.json with the names of the labels", path)
	}
	object, err := oneObject(x)
	if err != nil {
		return nil, err
	}
	c := LabelsChoice{Threshold: d.Threshold, IgnoreReferences: d.IgnoreReferences, Resample: d.Resample}
	m, warnings, err := drawObject(object, d.choices, c, func(to labels.References) (*reference, error) {
		return d.grid(x, to, path, other, otherPath)
	})
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		d.out.Printf("WARNING: %s", w)
	}
	drawn, err := taken(path, labelMap{m})
	if err != nil {
		return nil, err
	}
	return d.renumber(drawn), nil
}

// taken is the label map of an image that no reader of nnU-Net's reads.
func taken(path string, f volume.File) (*labelmap.Map, error) {
	im, _, err := f.Image()
	if err != nil {
		return nil, err
	}
	m, err := labelmap.New(im)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// renumber gives drawn labels 1, 2, … the values that they have in dataset.json or -l.
func (d *objects) renumber(m *labelmap.Map) *labelmap.Map {
	wide := make([]int32, m.Shape[0]*m.Shape[1]*m.Shape[2])
	for i := range wide {
		drawn := 0
		if m.Small != nil {
			drawn = int(m.Small[i])
		} else {
			drawn = int(m.Wide[i])
		}
		if drawn > 0 {
			wide[i] = int32(d.values[drawn-1])
		}
	}
	if m.Small != nil && slices.Max(d.values) <= 255 {
		for i, v := range wide {
			m.Small[i] = uint8(v)
		}
		return m
	}
	m.Small, m.Wide = nil, wide
	return m
}

// grid finds the image that an object is drawn on: that of --image, else the other side's grid, else
// a series at the object's own path.
func (d *objects) grid(x *series.Index, to labels.References, path string, other *labelmap.Map,
	otherPath string) (*reference, error) {
	switch {
	case d.index != nil:
		stack, err := d.index.Choose(referred(d.index, to))
		if err != nil {
			return nil, fmt.Errorf("--image, for %s: %w", path, err)
		}
		return stackReference(d.Image, stack, false, system.Cores())
	case d.Image != "":
		h, err := image.Header(d.Image)
		if err != nil {
			return nil, err
		}
		return fileReference(d.Image, h, system.Cores())
	case other != nil:
		return mapReference(otherPath, other)
	case len(x.Stacks) > 0:
		stack, err := x.Choose(referred(x, to))
		if err != nil {
			return nil, err
		}
		return stackReference(path, stack, false, system.Cores())
	}
	return nil, fmt.Errorf("%s and %s: both are objects without an image: name the DICOM series, or the "+
		"folder of all series, on whose grid they are drawn with --image", path, otherPath)
}

// mapReference is the grid of a label map as a reference.
func mapReference(path string, m *labelmap.Map) (*reference, error) {
	g, s := m.Geometry, m.Shape
	grid, err := labels.NewGrid([]int{s[2], s[1], s[0]}, &volume.ITK{
		Spacing: []float64{g.Spacing[2], g.Spacing[1], g.Spacing[0]}, Origin: g.OriginXYZ[:],
		Direction: g.DirectionXYZ[:]})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &reference{path: path, grid: grid, workers: system.Cores()}, nil
}

// read reads both label maps of a case.
func (e *evaluation) read(c raw.Case) (reference, prediction *labelmap.Map, err error) {
	paths := [2]string{c.Label, c.Images[0]}
	if _, err := os.Stat(c.Label); errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s is not there: every prediction needs the reference of its "+
			"name", c.Label)
	}
	maps, found := [2]*labelmap.Map{}, [2]*series.Index{}
	for _, i := range []int{1, 0} {
		if isDICOM(paths[i]) {
			found[i], err = series.Find(paths[i], system.Cores())
		} else {
			maps[i], err = labelmap.Read(e.readerOf(paths[i]), paths[i])
		}
		if err != nil {
			return nil, nil, err
		}
	}
	// A series has a grid of its own, on which the other side can be drawn.
	for _, objects := range []bool{false, true} {
		for i, x := range found {
			if x == nil || len(labelObjects(x)) > 0 != objects {
				continue
			}
			if maps[i], err = e.objects.read(x, maps[1-i], paths[1-i]); err != nil {
				return nil, nil, err
			}
		}
	}
	return maps[0], maps[1], nil
}

// readerOf returns the reader of a file: that of the dataset for files of its ending, else the one
// that nnU-Net takes for the ending, else the one that reads every format.
func (e *evaluation) readerOf(path string) images.Reader {
	ending := image.Ending(path)
	if e.reader != nil && ending == e.ending {
		return e.reader
	}
	reader, err := images.Choose(ending, "")
	if err != nil {
		reader, _ = images.ForName("SimpleITKIO")
	}
	return reader
}

// labelPaths lists the label volumes of a folder by case: the files that end so, or, where there is
// none, files of any format that reads; where there is none of these either, DICOM files, zips and
// folders, one a case. It also returns the cases in their order.
func labelPaths(folder, ending string) (paths map[string]string, order []string, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, err
	}
	for _, caseOf := range []func(os.DirEntry) string{
		func(e os.DirEntry) string {
			if ending == "" || !strings.HasSuffix(e.Name(), ending) || e.IsDir() {
				return ""
			}
			return strings.TrimSuffix(e.Name(), ending)
		},
		func(e os.DirEntry) string {
			if end := image.Ending(e.Name()); end != "" && !e.IsDir() {
				return strings.TrimSuffix(e.Name(), end)
			}
			return ""
		},
		func(e os.DirEntry) string {
			if strings.HasPrefix(e.Name(), ".") || !isDICOM(joined(folder, e.Name())) {
				return ""
			}
			if e.IsDir() {
				return e.Name()
			}
			return strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		},
	} {
		paths = map[string]string{}
		for _, e := range entries {
			name := caseOf(e)
			path := joined(folder, e.Name())
			if info, err := os.Stat(path); name == "" || err != nil ||
				!info.IsDir() && !info.Mode().IsRegular() {
				continue
			}
			if other := paths[name]; other != "" {
				return nil, nil, fmt.Errorf("%s and %s are both labels of case %s, expected one", other,
					path, name)
			}
			paths[name] = path
			order = append(order, name)
		}
		if len(order) > 0 {
			return paths, order, nil
		}
	}
	_, err = filesEnding(folder, ending)
	return nil, nil, err
}
