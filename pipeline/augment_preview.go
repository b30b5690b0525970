package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/volume"
)

// AugmentPreviewConfig draws what the network will see of a case.
type AugmentPreviewConfig struct {
	Case string // a preprocessed CASE.npz
	AugmentConfig
	Seed    uint64 `flag:"seed" help:"seed of all random numbers"`
	N       int    `flag:"number" short:"n" default:"6" range:"1..50" help:"draws to show"`
	Channel int    `flag:"channel" range:"0..10000" help:"channel of the image to show, counted from 0"`
	Output  string `flag:"output" short:"o" path:"true" help:"picture to write, .png"`
}

// AugmentPreview draws a patch of a case as it is, then as each of the first samples of a training
// with the same seed would transform it: the middle planes with the borders of the labels, and what
// was done. The patch lies around a foreground voxel that follows from the seed, or in the middle of
// a case without foreground.
func AugmentPreview(ctx context.Context, c AugmentPreviewConfig, o Output) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if c.Output == "" {
		return settings.Usage("-o is not given: expected the picture to write")
	}
	s, plan, err := c.augmentSetting()
	if err != nil {
		return err
	}
	if s.CascadeLabels != nil {
		return settings.Usage("a patch of the second stage of a cascade needs the labels of the first, which preview does not read")
	}
	key := strings.TrimSuffix(filepath.Base(c.Case), ".npz")
	set, err := dataset.Open(filepath.Dir(c.Case))
	if err != nil {
		return err
	}
	scan, err := set.Load(key)
	if err != nil {
		return err
	}
	channels := scan.Data.Shape[0]
	if c.Channels == 0 && plan == nil {
		s.Channels = channels
	}
	if channels != s.Channels {
		return fmt.Errorf("augment: %s: found %d channels, expected %d", scan.Source, channels, s.Channels)
	}
	if c.Channel >= channels {
		return settings.Usage("--channel %d: %s has channels 0 to %d", c.Channel, scan.Source, channels-1)
	}
	l, err := c.list(s, o)
	if err != nil {
		return err
	}
	unchanged := s
	unchanged.Augmentation, unchanged.MirrorAxes, unchanged.Trainer = "none", nil, ""
	plain, err := augment.New(unchanged)
	if err != nil {
		return err
	}
	p := preview{c: &c, scan: scan, list: l, voxel: previewPlace(scan, c.Seed)}
	p.legend(plan)
	sheet := report.SheetData{Labels: p.names, Columns: []string{"(y, x)", "(z, x), z up", "(z, y), z up"}}
	if len(l.PatchSize) == 2 {
		sheet.Columns = sheet.Columns[:1]
	}
	sheet.Title = fmt.Sprintf("%s, patch %s around voxel %s", key, numbered(l.PatchSize, "×"), numbered(p.voxel[:], ", "))
	if channels > 1 {
		sheet.Title += fmt.Sprintf(", channel %d", c.Channel)
	}
	p.spacing = [3]float64{1, 1, 1}
	if plan != nil && len(plan.conf.Spacing) == len(l.PatchSize) {
		copy(p.spacing[3-len(l.PatchSize):], plan.conf.Spacing)
	}
	first, err := p.row("unchanged", plain.Draw(augment.Sample{}.Augmentation), plain.InitialPatchSize)
	if err != nil {
		return err
	}
	sheet.Low, sheet.High = report.Window(p.patch.channel(c.Channel))
	sheet.Rows = append(sheet.Rows, first)
	progress := o.progress()
	progress.Begin("preview", c.N)
	defer progress.End()
	batch := plan.batch()
	for i := range c.N {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := augment.Sample{Seed: c.Seed, Stream: "train", Iteration: i / batch, Index: i % batch}
		row, err := p.row(fmt.Sprintf("iteration %d, sample %d", at.Iteration, at.Index), l.Draw(at.Augmentation), l.InitialPatchSize)
		if err != nil {
			return err
		}
		sheet.Rows = append(sheet.Rows, row)
		progress.Done(i+1, "")
	}
	return report.Sheet(c.Output, sheet)
}

// previewPlace is a foreground voxel of a case, or its middle.
func previewPlace(scan *dataset.Case, seed uint64) [3]int {
	var classes []dataset.Locations
	for _, l := range scan.Locations {
		if !slices.Contains(l.Labels, 0) && len(l.Voxels) > 0 {
			classes = append(classes, l)
		}
	}
	if classes == nil {
		n := scan.Data.Spatial()
		return [3]int{n[0] / 2, n[1] / 2, n[2] / 2}
	}
	rng := augment.Sample{Seed: seed, Stream: "preview"}.Rand("place")
	voxels := classes[rng.IntN(len(classes))].Voxels
	v := voxels[rng.IntN(len(voxels))]
	return [3]int{int(v[0]), int(v[1]), int(v[2])}
}

// preview makes the rows of a picture.
type preview struct {
	c       *AugmentPreviewConfig
	scan    *dataset.Case
	list    augment.List
	voxel   [3]int // in the middle of the patch
	spacing [3]float64
	names   []string        // of labels or regions
	colours map[int16]uint8 // of labels: a number from 1 on, as in names
	patch   previewPatch
	scratch augment.Scratch
}

type previewPatch struct{ augment.Patch }

// channel returns the voxels of a channel of the image.
func (p *previewPatch) channel(c int) []float32 {
	n := len(p.Image.Data) / p.Image.Shape[0]
	return p.Image.Data[c*n:][:n]
}

// legend names labels and regions: dataset.json's, and labels of the case that it does not have.
func (p *preview) legend(plan *planned) {
	p.colours = map[int16]uint8{}
	name := func(v int16, text string) {
		if _, ok := p.colours[v]; !ok && v > 0 {
			p.names = append(p.names, text)
			p.colours[v] = uint8(min(len(p.names), 255))
		}
	}
	if plan != nil {
		labels := plan.dataset.Labels
		if labels.HasRegions {
			for _, r := range labels.Regions {
				p.names = append(p.names, r.Name)
			}
			if labels.IgnoreLabel != nil {
				p.names = append(p.names, "ignore")
			}
			return
		}
		for _, e := range labels.Entries {
			for _, v := range e.Values {
				name(int16(v), e.Name)
			}
		}
	}
	for _, v := range p.scan.SegValues {
		name(v, fmt.Sprintf("label %d", v))
	}
}

// row cuts the patch out of the case, transforms it, and draws its middle planes.
func (p *preview) row(name string, drawn augment.Drawn, size []int) (report.SheetRow, error) {
	dim, channels, start := len(size), p.scan.Data.Shape[0], p.voxel
	for i, n := range size {
		start[i+3-dim] -= n / 2
	}
	image := volume.New[float32](volume.ShapeOf(channels, size))
	seg := volume.New[int16](volume.ShapeOf(1, size))
	p.scan.Data.Crop(image, start, 0)
	p.scan.Seg.Crop(seg, start, -1)
	p.patch = previewPatch{augment.Patch{Image: image, Seg: seg, Dim: dim, Scratch: &p.scratch}}
	if err := drawn.Apply(&p.patch.Patch); err != nil {
		return report.SheetRow{}, err
	}
	row := report.SheetRow{Name: name}
	for _, s := range drawn {
		row.Text = append(row.Text, describe(s, dim, channels)...)
	}
	if name != "unchanged" && row.Text == nil {
		row.Text = []string{"unchanged"}
	}
	planes := [][2]int{{1, 2}, {0, 2}, {0, 1}}
	for _, axes := range planes[:1+2*(dim-2)] {
		row.Planes = append(row.Planes, p.plane(axes[0], axes[1]))
	}
	return row, nil
}

// plane is the middle plane along two axes. The slices of a patch go upwards, as in a patient who
// stands.
func (p *preview) plane(vertical, horizontal int) report.SheetPlane {
	n := p.patch.Image.Spatial()
	out := report.SheetPlane{Shape: [2]int{n[vertical], n[horizontal]},
		Spacing: [2]float64{p.spacing[vertical], p.spacing[horizontal]}}
	voxels := n[0] * n[1] * n[2]
	var at []int
	for r := range n[vertical] {
		if vertical == 0 {
			r = n[0] - 1 - r
		}
		for x := range n[horizontal] {
			i := [3]int{n[0] / 2, n[1] / 2, n[2] / 2}
			i[vertical], i[horizontal] = r, x
			at = append(at, (i[0]*n[1]+i[1])*n[2]+i[2])
		}
	}
	image := p.patch.channel(p.c.Channel)
	for _, i := range at {
		out.Image = append(out.Image, image[i])
	}
	seg := p.patch.Seg
	if p.patch.Targets != nil {
		seg = p.patch.Targets[0]
	}
	for c := range seg.Shape[0] {
		labels := make([]uint8, len(at))
		for k, i := range at {
			v := seg.Data[c*voxels+i]
			if p.patch.Masks && v != 0 {
				labels[k] = uint8(min(c+1, 255))
			} else if !p.patch.Masks {
				labels[k] = p.colours[v]
			}
		}
		out.Labels = append(out.Labels, labels)
	}
	return out
}

// describe tells what a transform did, in a few words; nil where it did nothing, or only what the
// data need.
func describe(s augment.Step, dim, channels int) []string {
	if s.Parameters == nil {
		return nil
	}
	switch p := s.Parameters.(type) {
	case *augment.SpatialParameters:
		return describeSpatial(p)
	case *augment.GaussianNoiseParameters:
		return described("noise", p.ApplyToChannel, channels, p.Sigmas.Values)
	case *augment.GaussianBlurParameters:
		return described("blur", p.ApplyToChannel, channels, p.Sigmas...)
	case *augment.MultiplicativeBrightnessParameters:
		return described("brightness", p.ApplyToChannel, channels, p.Multipliers)
	case *augment.ContrastParameters:
		return described("contrast", p.ApplyToChannel, channels, p.Multipliers)
	case *augment.SimulateLowResolutionParameters:
		if !slices.ContainsFunc(slices.Concat(p.Scales...), func(v float64) bool { return v != 1 }) {
			return nil
		}
		return described("low resolution", p.ApplyToChannel, channels, p.Scales...)
	case *augment.GammaParameters:
		name := "gamma"
		if slices.Contains(p.InvertImage, true) {
			name = "gamma of the inverted image"
		}
		return described(name, p.ApplyToChannel, channels, p.Gamma)
	case *augment.MirrorParameters:
		return describeMirror(p, dim)
	}
	switch s.Transform {
	case "Convert3DTo2DTransform", "Convert2DTo3DTransform", "MaskImageTransform", "RemoveLabelTansform",
		"ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform":
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return []string{s.Transform}
	}
	return []string{string(text)}
}

func describeSpatial(p *augment.SpatialParameters) (text []string) {
	if slices.ContainsFunc(p.Angles, func(a float64) bool { return a != 0 }) {
		angles := p.Angles
		if len(p.PatchSize) == 2 {
			angles = angles[len(angles)-1:] // the others are drawn, and not used
		}
		line := "rotation"
		for _, a := range angles {
			line += fmt.Sprintf(" %.0f°", a*180/math.Pi)
		}
		text = append(text, line)
	}
	if slices.ContainsFunc(p.Scales, func(v float64) bool { return v != 1 }) {
		scales := p.Scales
		if slices.Max(scales) == slices.Min(scales) {
			scales = scales[:1]
		}
		text = append(text, "scale "+shortNumbers(scales))
	}
	return text
}

func describeMirror(p *augment.MirrorParameters, dim int) []string {
	if len(p.Axes) == 0 {
		return nil
	}
	line := "mirrored"
	for _, a := range p.Axes {
		line += " " + []string{"z", "y", "x"}[a+3-dim]
	}
	return []string{line}
}

// described lists a name and the numbers of each channel that a transform acts on.
func described(name string, on augment.Channels, channels int, numbers ...[]float64) []string {
	selected := on.Index
	for c, yes := range on.Mask {
		if yes {
			selected = append(selected, c)
		}
	}
	if len(selected) == 0 {
		return nil
	}
	var parts []string
	for _, n := range numbers {
		parts = append(parts, shortNumbers(n))
	}
	line := name + " " + strings.Join(parts, "; ")
	if channels > 1 {
		line += " (channels " + numbered(selected, " ") + ")"
	}
	return []string{line}
}

// shortNumbers writes numbers with two significant digits, three from 1 on.
func shortNumbers(values []float64) string {
	parts := make([]string, len(values))
	for i, v := range values {
		digits := 2
		if math.Abs(v) >= 1 {
			digits = 3
		}
		parts[i] = strconv.FormatFloat(v, 'g', digits, 64)
	}
	return strings.Join(parts, " ")
}

// numbered writes integers with a text between them.
func numbered(values []int, by string) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = strconv.Itoa(v)
	}
	return strings.Join(parts, by)
}
