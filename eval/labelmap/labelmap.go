// Package labelmap reads label volumes with a dataset's image reader and compares them voxel by
// voxel. Which files belong together, and what becomes of the counts, is the caller's.
package labelmap

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/volume"
)

// limit bounds the labels of a file.
const limit = 1 << 30

// Map is a label volume (z, y, x), row-major.
type Map struct {
	Shape      [3]int
	Small      []uint8 // labels stored as one byte; otherwise Wide
	Wide       []int32
	Geometry   volume.Geometry
	Properties *images.Properties // of the file; nil if not read from one
}

// Read reads a label volume. Fractions, several channels and values beyond 2³⁰ are errors.
func Read(reader images.Reader, path string) (*Map, error) {
	im, p, err := reader.ReadSeg(path)
	if err != nil {
		return nil, err
	}
	m, err := New(im)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m.Properties = p
	return m, nil
}

// New returns the labels of an image with one channel. They share the image's memory if they are
// uint8.
func New(im *volume.Image) (*Map, error) {
	if im.Shape[0] != 1 {
		return nil, fmt.Errorf("found %d channels, expected one of labels", im.Shape[0])
	}
	m := &Map{Shape: [3]int(im.Shape[1:]), Geometry: im.Geometry}
	if small, ok := im.Pixels.(volume.Slice[uint8]); ok {
		m.Small = small
		return m, nil
	}
	if i := volume.Fraction(im.Pixels); i >= 0 {
		return nil, fmt.Errorf("found the value %v, expected whole numbers: these are no labels",
			im.Pixels.Value(i))
	}
	if least, most := volume.Range(im.Pixels); least < -limit || most > limit {
		return nil, fmt.Errorf("found values from %v to %v, expected labels", least, most)
	}
	m.Wide = volume.Cast[int32](im.Pixels)
	return m, nil
}

// Others lists labels of the map, ascending, that are neither 0 nor known; some, if there are many.
func (m *Map) Others(known []int) []int {
	const most = 20
	found := map[int]bool{0: true}
	for _, l := range known {
		found[l] = true
	}
	var others []int
	add := func(label int) {
		if !found[label] && len(others) < most {
			found[label] = true
			others = append(others, label)
		}
	}
	if m.Small != nil {
		var has [256]bool
		for _, v := range m.Small {
			has[v] = true
		}
		for v, there := range has {
			if there {
				add(v)
			}
		}
		return others
	}
	for i, v := range m.Wide {
		if i == 0 || v != m.Wide[i-1] {
			add(int(v))
		}
	}
	slices.Sort(others)
	return others
}

// Write writes the labels with the geometry that they were read with.
func (m *Map) Write(reader images.Reader, path string) error {
	im := &volume.Image{Shape: [4]int{1, m.Shape[0], m.Shape[1], m.Shape[2]},
		Pixels: volume.Slice[uint8](m.Small)}
	if m.Small == nil {
		im.Pixels = volume.Slice[int32](m.Wide)
	}
	return reader.WriteSeg(path, im, m.Properties)
}

// widened returns the labels as int32.
func (m *Map) widened() []int32 {
	if m.Small == nil {
		return m.Wide
	}
	return volume.Cast[int32](volume.Slice[uint8](m.Small))
}

// Compare counts the voxels of each target; voxels where the reference has the label ignore, which
// may be nil, do not count. The shapes must agree.
func Compare(ref, pred *Map, targets []eval.Target, ignore *int) ([]eval.Counts, error) {
	if ref.Small != nil && pred.Small != nil {
		return eval.Compare(eval.Map[uint8]{Data: ref.Small, Shape: ref.Shape[:]},
			eval.Map[uint8]{Data: pred.Small, Shape: pred.Shape[:]}, targets, ignore)
	}
	return eval.Compare(eval.Map[int32]{Data: ref.widened(), Shape: ref.Shape[:]},
		eval.Map[int32]{Data: pred.widened(), Shape: pred.Shape[:]}, targets, ignore)
}

// Targets lists what nnU-Net scores: foreground labels, or regions.
func Targets(l *plans.Labels) []eval.Target {
	var targets []eval.Target
	if l.HasRegions {
		for _, r := range l.Regions {
			if r.Region {
				targets = append(targets, eval.Region(r.Values...))
			} else {
				targets = append(targets, eval.Label(r.Values[0]))
			}
		}
		return targets
	}
	for _, label := range l.ForegroundLabels {
		targets = append(targets, eval.Label(label))
	}
	return targets
}
