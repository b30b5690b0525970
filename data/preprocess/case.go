package preprocess

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/volume"
)

// Settings are the preprocessing settings of a configuration, as in the plans.
type Settings struct {
	Transpose [3]int    // axis i of the result is axis Transpose[i] of the image
	Spacing   []float64 // mm, after transposing; with two values the first axis keeps its spacing
	Schemes   []Scheme  // one per channel
	Data, Seg Options
	Classes   []Class // for class_locations
}

// NewSettings returns the settings of configuration c of the plans, with the dataset's labels.
func NewSettings(p *plans.Plans, c *plans.Configuration, d *plans.Dataset) (*Settings, error) {
	fail := func(format string, args ...any) (*Settings, error) {
		return nil, fmt.Errorf("preprocess: configuration %s: %w",
			c.Name, fmt.Errorf(format, args...))
	}
	if c.PreprocessorName != "" && c.PreprocessorName != "DefaultPreprocessor" {
		return fail("preprocessor %s is not supported; plan with DefaultPreprocessor",
			c.PreprocessorName)
	}
	s := &Settings{Spacing: c.Spacing, Classes: Classes(d.Labels)}
	if len(p.TransposeForward) != 3 {
		return fail("transpose_forward has %d axes, expected 3", len(p.TransposeForward))
	}
	copy(s.Transpose[:], p.TransposeForward)
	if sorted := slices.Sorted(slices.Values(p.TransposeForward)); !slices.Equal(sorted,
		[]int{0, 1, 2}) {
		return fail("transpose_forward is %v, expected a permutation of 0, 1, 2",
			p.TransposeForward)
	}
	for _, v := range c.Spacing {
		if !(v > 0) || math.IsInf(v, 0) {
			return fail("spacing is %v, expected positive numbers", c.Spacing)
		}
	}
	if len(c.NormalizationSchemes) == 0 || len(c.NormalizationSchemes) != len(c.UseMaskForNorm) {
		return fail("found %d normalization_schemes and %d use_mask_for_norm, expected one of "+
			"each per channel",
			len(c.NormalizationSchemes), len(c.UseMaskForNorm))
	}
	for i, name := range c.NormalizationSchemes {
		scheme := Scheme{Name: name, Mask: c.UseMaskForNorm[i]}
		if i >= len(p.ChannelIntensities) {
			return fail("channel %d has no entry in foreground_intensity_properties_per_channel", i)
		}
		in := p.ChannelIntensities[i]
		scheme.Intensity = Intensity{in.Mean, in.Std, in.Percentile005, in.Percentile995}
		if name == "CTNormalization" &&
			math.IsNaN(in.Mean+in.Std+in.Percentile005+in.Percentile995) {
			return fail("channel %d: CTNormalization needs mean, std, percentile_00_5 and "+
				"percentile_99_5 in foreground_intensity_properties_per_channel", i)
		}
		s.Schemes = append(s.Schemes, scheme)
	}
	var err error
	if s.Data, err = options(c.ResampleData, false); err == nil {
		s.Seg, err = options(c.ResampleSeg, true)
	}
	if err != nil {
		return fail("%w", err)
	}
	return s, nil
}

// options reads the keyword arguments of a resampling function.
func options(r plans.Resampling, labels bool) (Options, error) {
	if r.Function != "resample_data_or_seg_to_shape" {
		return Options{}, fmt.Errorf("resampling function %q is not supported, expected "+
			"resample_data_or_seg_to_shape", r.Function)
	}
	o := Options{Order: 3}
	seg := false
	for _, key := range r.Kwargs.Keys() {
		v, _ := r.Kwargs.Get(key)
		ok := true
		whole := func(to *int) {
			n, isInt := v.(int64)
			*to, ok = int(n), isInt
		}
		switch key {
		case "is_seg":
			seg, ok = v.(bool)
		case "order":
			whole(&o.Order)
		case "order_z":
			whole(&o.OrderZ)
		case "force_separate_z":
			if v != nil {
				var force bool
				force, ok = v.(bool)
				o.ForceSeparateZ = &force
			}
		default:
			return o, fmt.Errorf("keyword argument %q of %s is not supported", key, r.Function)
		}
		if !ok {
			return o, fmt.Errorf("keyword argument %s of %s: found %v", key, r.Function, v)
		}
	}
	if _, ok := r.Kwargs.Get("force_separate_z"); !ok {
		o.ForceSeparateZ = new(bool) // the function's default is False
	}
	if seg != labels {
		of := map[bool]string{true: "labels", false: "images"}[labels]
		return o, fmt.Errorf("is_seg is %v in the keyword arguments of the resampling function "+
			"for %s", seg, of)
	}
	return o, o.check(labels)
}

// MaxVoxels is the limit of voxels per channel: eighty CTs of 512×512×400. Larger sizes come from a
// wrong spacing in a header.
const MaxVoxels = 1 << 33

// Case is a preprocessed case.
type Case struct {
	Data       *volume.Volume[float32] // normalised (c, z, y, x)
	Seg        any                     // (1, z, y, x): *volume.Volume[int8], int16 for labels > 127
	Properties *pickle.Dict            // for the .pkl
	Times      Times
}

// Times are the durations of the steps of one case, or sums over several.
type Times struct {
	Read, Crop, Labels, Image, Write time.Duration
}

func (t *Times) add(o Times) {
	t.Read += o.Read
	t.Crop += o.Crop
	t.Labels += o.Labels
	t.Image += o.Image
	t.Write += o.Write
}

// Run preprocesses an image with its labels. With seg nil the labels are 0 inside the non-zero
// region and -1 outside, and no locations are sampled. spacing is in the order of the image's axes
// (z, y, x). Run adds the shapes and the box to properties. im and seg are not modified, but the
// Case may share their memory.
// Source: nnU-Net 2.5.1, default_preprocessor.py, run_case_npy.
func (s *Settings) Run(im, seg *volume.Image, spacing [3]float64, properties *pickle.Dict,
	threads int) (*Case, error) {
	if im.Shape[0] != len(s.Schemes) {
		return nil, fmt.Errorf("found %d channels, the plans have %d", im.Shape[0], len(s.Schemes))
	}
	if volume.Numel(im.Shape) == 0 {
		return nil, fmt.Errorf("the image has no voxels: shape %v", im.Shape)
	}
	if seg != nil && (seg.Shape[0] != 1 || [3]int(seg.Shape[1:]) != [3]int(im.Shape[1:])) {
		return nil, fmt.Errorf("the image has shape %v (c, z, y, x), its labels %v; expected one "+
			"channel of the same size (check the dataset with --verify_dataset_integrity)",
			im.Shape, seg.Shape)
	}
	for _, v := range spacing {
		if !(v > 0) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("the spacing is %v, expected positive numbers", spacing)
		}
	}
	if im.Pixels.Type() == "float64" { // nnU-Net reads images as float32
		cast := *im
		cast.Pixels = volume.Slice[float32](volume.Cast[float32](im.Pixels))
		im = &cast
	}
	start := time.Now()
	lap := func(to *time.Duration) {
		now := time.Now()
		*to, start = now.Sub(start), now
	}
	walked := memory{im: im}
	im = im.Transpose(s.Transpose)
	old := [3]float64{spacing[s.Transpose[0]], spacing[s.Transpose[1]], spacing[s.Transpose[2]]}
	target := [3]float64(append(old[:3-len(s.Spacing):3-len(s.Spacing)], s.Spacing...))

	box := NonZeroBox(im)
	out := Outside(im, box)
	var cropped [3]int
	for i, b := range box {
		cropped[i] = b[1] - b[0]
	}
	properties.Set("shape_before_cropping", intTuple(im.Shape[1:]))
	boxes := &pickle.List{}
	for _, b := range box {
		boxes.Items = append(boxes.Items, &pickle.List{Items: []any{int64(b[0]), int64(b[1])}})
	}
	properties.Set("bbox_used_for_cropping", boxes)
	properties.Set("shape_after_cropping_and_before_resampling", intTuple(cropped[:]))
	size := 1.0
	for i, n := range cropped {
		size *= max(old[i]/target[i]*float64(n), 1)
	}
	if !(size <= MaxVoxels) {
		return nil, fmt.Errorf("resampling %v voxels of %v mm to %v mm would give %.2g voxels, at "+
			"most %.2g are supported; is the image's spacing right?",
			cropped, old, target, size, float64(MaxVoxels))
	}
	shape := NewShape(cropped, old, target)
	if slices.Min(shape[:]) < 1 {
		return nil, fmt.Errorf("resampling %v voxels of %v mm to %v mm would give an empty image "+
			"of shape %v; is the image's spacing right?", cropped, old, target, shape)
	}

	c := &Case{Properties: properties}
	lap(&c.Times.Crop)
	var err error
	if seg != nil {
		seg = seg.Transpose(s.Transpose)
		if err := checkLabels(seg); err != nil {
			return nil, err
		}
		if _, hi := volume.Range(seg.Pixels); hi > math.MaxInt8 {
			err = runLabels[int16](c, s, seg, box, out, shape, old, target, threads)
		} else {
			err = runLabels[int8](c, s, seg, box, out, shape, old, target, threads)
		}
	} else {
		err = runLabels[int8](c, s, nil, box, out, shape, old, target, threads)
	}
	if err != nil {
		return nil, err
	}

	lap(&c.Times.Labels)
	c.Data = volume.New[float32]([4]int{im.Shape[0], shape[0], shape[1], shape[2]})
	voxels := shape[0] * shape[1] * shape[2]
	axis := SeparateAxis(s.Data.ForceSeparateZ, old, target)
	labelled := func() *Mask { return outsideLabels(out, seg, box) }
	for i, scheme := range s.Schemes {
		ch := newChannel(im, i, box)
		var skip *Mask
		sum := ch
		if scheme.Name == "ZScoreNormalization" {
			if scheme.Mask {
				skip = labelled()
			}
			if skip == nil {
				sum = walked.channel(ch, i, box, s.Transpose)
			}
		}
		curve, err := scheme.curve(sum, skip)
		if err != nil {
			return nil, fmt.Errorf("channel %d: %w", i, err)
		}
		src := curve.source(ch, skip)
		dst := c.Data.Data[i*voxels:][:voxels]
		if shape == cropped {
			each(shape[0], threads, func() func(int) {
				return func(z int) {
					for y := range shape[1] {
						src.load(dst[(z*shape[1]+y)*shape[2]:][:shape[2]], z, y, 0)
					}
				}
			})
			continue
		}
		resample(dst, src, shape, axis, s.Data, threads)
	}
	lap(&c.Times.Image)
	return c, nil
}

// memory provides the voxels of an image in the order in which numpy iterates over its array:
// memory order, whatever the order of the axes.
type memory struct {
	im     *volume.Image // as read
	turned *volume.Image // with the axes in memory order; nil until needed
}

// channel returns channel c in memory order. ch is the channel within box, with transposed axes.
func (m *memory) channel(ch *channel, c int, box [3][2]int, transpose [3]int) *channel {
	order := m.im.Memory
	if order == [3]int{} {
		order = [3]int{0, 1, 2}
	}
	if order == transpose {
		return ch
	}
	if m.turned == nil {
		m.turned = m.im.Transpose(order)
	}
	var b [3][2]int
	for i, axis := range order {
		b[i] = box[inverse(transpose)[axis]]
	}
	return newChannel(m.turned, c, b)
}

// runLabels crops and resamples the labels and samples the class locations.
func runLabels[L Label](c *Case, s *Settings, seg *volume.Image, box [3][2]int, out *Mask,
	shape [3]int,
	old, target [3]float64, threads int) error {
	v := cropLabels[L](seg, box, out)
	v, err := ResampleLabels(v, shape, old, target, s.Seg, threads)
	if err != nil {
		return err
	}
	if seg != nil {
		c.Properties.Set("class_locations", locationsDict(locations(v, s.Classes)))
	}
	// nnU-Net chooses the type by the largest label after resampling.
	if wide, ok := any(v).(*volume.Volume[int16]); ok && slices.Max(wide.Data) <= math.MaxInt8 {
		c.Seg = &volume.Volume[int8]{Data: volume.Cast[int8](volume.Slice[int16](wide.Data)),
			Shape: wide.Shape}
		return nil
	}
	c.Seg = v
	return nil
}

// cropLabels crops the labels to the box, 0 without labels, and sets voxels that are 0 and in out
// to -1.
func cropLabels[L Label](seg *volume.Image, box [3][2]int, out *Mask) *volume.Volume[L] {
	v := volume.New[L]([4]int{1, box[0][1] - box[0][0], box[1][1] - box[1][0],
		box[2][1] - box[2][0]})
	if seg != nil {
		n := v.Spatial()
		row := make([]int64, n[2])
		for z := range n[0] {
			for y := range n[1] {
				seg.Pixels.Int64s(row,
					((box[0][0]+z)*seg.Shape[2]+box[1][0]+y)*seg.Shape[3]+box[2][0])
				dst := v.Data[(z*n[1]+y)*n[2]:][:n[2]]
				for x, l := range row {
					dst[x] = L(l)
				}
			}
		}
	}
	if out != nil {
		for i, l := range v.Data {
			if l == 0 && out.Has(i) {
				v.Data[i] = -1
			}
		}
	}
	return v
}

// outsideLabels is the set of voxels with a negative label, those in out that are labelled 0
// included.
func outsideLabels(out *Mask, seg *volume.Image, box [3][2]int) *Mask {
	lo := 0.0
	if seg != nil {
		lo, _ = volume.Range(seg.Pixels)
	}
	if out == nil && lo >= 0 {
		return nil
	}
	v := cropLabels[int16](seg, box, out)
	m := newMask(v.Spatial())
	for i, l := range v.Data {
		if l < 0 {
			m.set(i)
		}
	}
	return m
}

// labelError is a problem with the labels of a case; the caller adds the name of the file.
type labelError struct{ error }

// checkLabels returns an error for pixels that are not labels.
func checkLabels(seg *volume.Image) error {
	if i := volume.Fraction(seg.Pixels); i >= 0 {
		return labelError{fmt.Errorf("found the value %v in the labels, expected whole numbers "+
			"from 0 to %d: export the segmentation with integer labels; if rounding is intended, "+
			"use lntorch image convert --type int16 --round", seg.Pixels.Value(i), math.MaxInt16)}
	}
	if lo, hi := volume.Range(seg.Pixels); lo < -1 || hi > math.MaxInt16 {
		return labelError{fmt.Errorf("found labels from %g to %g, expected whole numbers from 0 "+
			"to %d: is it the image instead of the segmentation?", lo, hi, math.MaxInt16)}
	}
	return nil
}

func intTuple(v []int) pickle.Tuple {
	t := make(pickle.Tuple, len(v))
	for i, n := range v {
		t[i] = int64(n)
	}
	return t
}
