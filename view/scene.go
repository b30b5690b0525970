// Package view shows an image, label maps on it and their nodes in a browser on this machine. A Scene
// is what the page shows: volumes as NIfTI in memory, and a list of nodes. A Server serves it, and
// nothing else, to whoever knows its URL. The page is in the folder page, around NiiVue, which the
// build fetches (third_party/niivue).
//
// It reads no files and writes none: what is shown is read before, and given as volume.File. It
// measures nodes with eval/nodes, as evaluation does, and needs no libtorch.
package view

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// A Volume is an image or a label map to show.
type Volume struct {
	Path  string // of the file, for messages
	Name  string // on the page
	File  volume.File
	Names map[int]string // of labels, where they are known
}

// Scene is what the page shows. It does not change once it is made.
type Scene struct {
	Warnings []string // what the user should know, which the page shows too

	volumes     []served
	description []byte // scene.json
}

// served is a volume as the browser gets it: an uncompressed NIfTI file in two parts, of which the
// second is the volume's own memory.
type served struct{ head, pixels []byte }

// The content of scene.json, which view.js reads.
type (
	sceneJSON struct {
		Image    imageJSON   `json:"image"`
		Labels   []labelJSON `json:"labels"`
		Warnings []string    `json:"warnings"`
		Axial    string      `json:"axial"` // array axis of slice numbers: i, j or k
	}
	imageJSON struct {
		Name    string     `json:"name"`
		URL     string     `json:"url"`
		Type    string     `json:"type"`
		Size    [3]int     `json:"size"`       // x, y, z
		Spacing [3]float64 `json:"spacing_mm"` // x, y, z
		Least   float64    `json:"least"`      // of the values that are not NaN
		Most    float64    `json:"most"`
		Range   [2]float64 `json:"range"` // of all but the outermost 0.5 % on either side
		// voxels (x, y, z) to mm, and the image's middle
		Affine [4][4]float64 `json:"affine_ras"`
		Centre [3]float64    `json:"centre_ras_mm"`
	}
	labelJSON struct {
		Name   string      `json:"name"`
		URL    string      `json:"url"`
		Type   string      `json:"type"`
		Values []valueJSON `json:"values"`
		Nodes  []nodeJSON  `json:"nodes"`
		Hidden int         `json:"hidden"` // nodes that the list leaves out: the smallest
		// it lies on the grid of the first label map, with which its nodes are compared
		Compared bool `json:"compared"`
	}
	valueJSON struct {
		Value  int    `json:"value"`
		Name   string `json:"name"`
		Voxels int64  `json:"voxels"`
		Nodes  int    `json:"nodes"`
	}
	nodeJSON struct {
		Label     int        `json:"label"`
		Node      int        `json:"node"` // of its label, from 1
		Voxels    int64      `json:"voxels"`
		MM3       float64    `json:"volume_mm3"`
		LongAxis  float64    `json:"long_axis_mm"`
		ShortAxis float64    `json:"short_axis_mm"`
		Slice     int        `json:"slice"`
		Centroid  [3]float64 `json:"centroid_lps_mm"`
		At        [3]float64 `json:"at_ras_mm"` // where the list jumps to
		// in the label maps that it is compared with: a node of the first in all others, another in
		// the first
		Matches []matchJSON `json:"matches"`
	}
	matchJSON struct {
		With    int     `json:"with"` // label map, from 0
		Node    int     `json:"node"` // 0: none
		IoU     float64 `json:"iou"`  // with the node that shares most
		Matched bool    `json:"matched"`
	}
)

// NewScene prepares an image and label maps for the page. Of several label maps the first is the
// reference, with whose nodes those of the others are compared where the grids agree. Labels keep
// their type. A label map that holds fractions, many more values than labels have, or several
// channels is an error that names its file; one on another grid than the image is shown where its
// file says that it lies, with a warning. It ends with ctx, between two labels.
func NewScene(ctx context.Context, im Volume, labels []Volume) (*Scene, error) {
	s := &Scene{Warnings: []string{}}
	picture, _, err := im.File.Image()
	if err != nil {
		return nil, err
	}
	if n := picture.Shape[0]; n > 1 {
		picture = first(picture)
		s.warn("%s holds %d volumes: only the first is shown", im.Path, n)
	}
	out := sceneJSON{Labels: []labelJSON{}, Axial: axialName(picture.Geometry)}
	out.Image = imageJSON{Name: im.Name, URL: volumeURL(0), Type: picture.Pixels.Type(),
		Size: xyz(picture.Shape), Spacing: [3]float64{picture.Spacing[2], picture.Spacing[1],
			picture.Spacing[0]}}
	if out.Image.Least, out.Image.Most = volume.Range(picture.Pixels); !finite(out.Image.Least) ||
		!finite(out.Image.Most) {
		return nil, fmt.Errorf("%s: found infinite values, expected intensities", im.Path)
	}
	out.Image.Range = usual(picture.Pixels)
	out.Image.Affine, out.Image.Centre = affine(picture.Geometry), middle(picture)
	if err := s.add(im.Path, drawable(picture)); err != nil {
		return nil, err
	}

	var maps []*labelmap.Map
	for i, l := range labels {
		file, _, err := l.File.Image()
		if err != nil {
			return nil, err
		}
		m, err := labelmap.New(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Path, err)
		}
		if err := s.add(l.Path, drawableLabels(file, m)); err != nil {
			return nil, err
		}
		maps = append(maps, m)
		if !sameGrid(picture.Geometry, file.Geometry, [3]int(picture.Shape[1:]), m.Shape) {
			s.warn("%s lies on another grid than %s, and is shown where its file says:\n  %s\n  %s",
				l.Path, im.Path, gridText(file), gridText(picture))
		}
		described, err := describe(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Path, err)
		}
		described.Name, described.URL, described.Type = l.Name, volumeURL(i+1), file.Pixels.Type()
		for k := range described.Values {
			described.Values[k].Name = l.Names[described.Values[k].Value]
		}
		out.Labels = append(out.Labels, described.labelJSON)
		if n := len(described.noise); n > 0 {
			v := described.Values[described.noise[n-1]]
			s.warn("%s: label %d has %d components, more than nodes can be: none is listed%s", l.Path, v.Value,
				v.Nodes, andOthers(n-1, "of %d other labels neither"))
		}
		if n := len(described.leftOver); n > 0 {
			s.warn("%s: the labels have too many components together: none is listed of label %d%s", l.Path,
				described.Values[described.leftOver[0]].Value, andOthers(n-1, "nor of %d others"))
		}
	}
	for i := 1; i < len(maps); i++ {
		if !sameGrid(maps[0].Geometry, maps[i].Geometry, maps[0].Shape, maps[i].Shape) {
			s.warn("%s lies on another grid than %s: their nodes are not compared", labels[i].Path,
				labels[0].Path)
			continue
		}
		if err := compare(ctx, maps[0], maps[i], &out.Labels[0], &out.Labels[i], i); err != nil {
			return nil, err
		}
	}
	for i := range out.Labels {
		out.Labels[i].shorten()
	}
	out.Warnings = s.pageWarnings(append([]Volume{im}, labels...)...)
	s.description, err = json.Marshal(out)
	return s, err
}

// andOthers is a warning's end, empty for none.
func andOthers(n int, text string) string {
	if n == 0 {
		return ""
	}
	return ", " + fmt.Sprintf(text, n)
}

// pageWarnings are the warnings for the page, which shows no folders.
func (s *Scene) pageWarnings(all ...Volume) []string {
	page := slices.Clone(s.Warnings)
	for i := range page {
		for _, v := range all {
			page[i] = strings.ReplaceAll(page[i], v.Path, v.Name)
		}
	}
	return page
}

func (s *Scene) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

func volumeURL(i int) string { return fmt.Sprintf("volumes/%d.nii", i) }

func xyz(shape [4]int) [3]int { return [3]int{shape[3], shape[2], shape[1]} }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// usual is the range of the values without the outermost 0.5 % on either side, of about 200,000 of
// them; it is never empty.
func usual(p volume.Pixels) [2]float64 {
	var values []float64
	var v [1]float64
	for i := 0; i < p.Len(); i += 1 + p.Len()/200_000 {
		if p.Float64s(v[:], i); !math.IsNaN(v[0]) {
			values = append(values, v[0])
		}
	}
	if len(values) == 0 {
		return [2]float64{0, 1}
	}
	slices.Sort(values)
	out := len(values) / 200
	least, most := values[out], values[len(values)-1-out]
	if most <= least {
		most = least + 1
	}
	return [2]float64{least, most}
}

// first is the first volume of an image that has several.
func first(im *volume.Image) *volume.Image {
	one := *im
	one.Shape[0] = 1
	one.Pixels = im.Pixels.Make(one.Shape[1] * one.Shape[2] * one.Shape[3])
	copy(one.Pixels.Bytes(), im.Pixels.Bytes())
	return &one
}

// drawable gives an image a type that NiiVue draws as it is: it makes float64 of 32-bit integers and
// loses their last pixel, and knows no uint64.
func drawable(im *volume.Image) *volume.Image {
	if im.Pixels.Size() < 4 || im.Pixels.Type() == "float32" {
		return im
	}
	one := *im
	one.Pixels = volume.Slice[float32](volume.Cast[float32](im.Pixels))
	return &one
}

// drawableLabels is the file's image with its own type, or with that of the labels where NiiVue does
// not know the file's.
func drawableLabels(im *volume.Image, m *labelmap.Map) *volume.Image {
	if im.Pixels.Type() != "uint64" {
		return im
	}
	one := *im
	one.Pixels = volume.Slice[int32](m.Wide)
	return &one
}

// add keeps an image as NIfTI.
func (s *Scene) add(path string, im *volume.Image) error {
	size := xyz(im.Shape)
	h, err := nifti.NewNibabel(size[:], im.Pixels.Type(), affine(im.Geometry))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h.Units = 2 // mm
	head, pixels, err := nifti.Encode(h, im.Pixels)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.volumes = append(s.volumes, served{head, pixels})
	return nil
}

// affine maps voxels (x, y, z) to mm, RAS.
func affine(g volume.Geometry) (m [4][4]float64) {
	for row := range 3 {
		sign := -1.0 // x and y of LPS
		if row == 2 {
			sign = 1
		}
		for axis := range 3 {
			m[row][axis] = sign * g.DirectionXYZ[3*row+axis] * g.Spacing[2-axis]
		}
		m[row][3] = sign * g.OriginXYZ[row]
	}
	m[3][3] = 1
	return m
}

// middle is the centre of the middle voxel, RAS, mm.
func middle(im *volume.Image) [3]float64 {
	p := im.Point([3]float64{float64(im.Shape[1] / 2), float64(im.Shape[2] / 2),
		float64(im.Shape[3] / 2)})
	return [3]float64{-p[0], -p[1], p[2]}
}

// sameGrid reports whether two grids have one size, and every corner in one place within 5 % of the
// smallest spacing: evaluation's rule.
func sameGrid(a, b volume.Geometry, shapeA, shapeB [3]int) bool {
	if shapeA != shapeB {
		return false
	}
	least := min(a.Spacing[0], a.Spacing[1], a.Spacing[2])
	for corner := range 8 {
		var index [3]float64
		for axis := range 3 {
			index[axis] = float64((corner >> axis & 1) * (shapeA[axis] - 1))
		}
		p, q := a.Point(index), b.Point(index)
		if math.Hypot(math.Hypot(p[0]-q[0], p[1]-q[1]), p[2]-q[2]) > 0.05*least {
			return false
		}
	}
	return true
}

func gridText(im *volume.Image) string {
	g := im.Geometry
	return fmt.Sprintf("size %d×%d×%d, spacing %.5g×%.5g×%.5g mm, origin %.6g, %.6g, %.6g, "+
		"direction %.4g", im.Shape[3], im.Shape[2], im.Shape[1], g.Spacing[2], g.Spacing[1],
		g.Spacing[0], g.OriginXYZ[0], g.OriginXYZ[1], g.OriginXYZ[2], g.DirectionXYZ)
}
