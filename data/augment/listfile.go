package augment

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// MarshalJSON writes the list as lntorch augment pipeline prints it and Read reads it.
func (l List) MarshalJSON() ([]byte, error) {
	steps := make([]json.RawMessage, len(l.Transforms))
	for i, t := range l.Transforms {
		head := fmt.Sprintf(`{"transform":%q`, t.Name())
		if r, ok := t.(RandomTransform); ok {
			p, err := json.Marshal(r.ApplyProbability)
			if err != nil {
				return nil, err
			}
			head += fmt.Sprintf(`,"apply_probability":%s`, p)
			t = r.Transform
		}
		var err error
		if steps[i], err = withKeys(head, t); err != nil {
			return nil, err
		}
	}
	return json.Marshal(struct {
		Augmentation     string            `json:"augmentation"`
		PatchSize        []int             `json:"patch_size"`
		InitialPatchSize []int             `json:"initial_patch_size"`
		MirrorAxes       []int             `json:"mirror_axes"`
		Transforms       []json.RawMessage `json:"transforms"`
	}{l.Augmentation, l.PatchSize, l.InitialPatchSize, l.MirrorAxes, steps})
}

// fileHead is what a FILE may say beside its transforms.
type fileHead struct {
	Augmentation     string `json:"augmentation"`
	PatchSize        []int  `json:"patch_size"`
	InitialPatchSize []int  `json:"initial_patch_size"`
	MirrorAxes       []int  `json:"mirror_axes" null:"true"`
}

// Read makes a list of a text such as lntorch augment pipeline prints, for the setting. Random
// transforms may be left out, repeated, reordered, their numbers changed; what the data need at the
// end (without randomness) is added where it is missing, and must otherwise be as it is. warning is
// what a user should know, or "". s.Augmentation is not looked at; axes that are given there win.
func Read(text []byte, s Setting) (l List, warning string, err error) {
	fail := func(format string, args ...any) (List, string, error) {
		return List{}, "", fmt.Errorf(format, args...)
	}
	given := s.MirrorAxes != nil
	s.Augmentation = "nnunet"
	if s, err = s.resolve(); err != nil {
		return List{}, "", err
	}
	o, err := readObject(text)
	if err != nil {
		return List{}, "", err
	}
	var head fileHead
	if err := decode(&head, o, false, "transforms"); err != nil {
		return List{}, "", err
	}
	if head.PatchSize != nil && !slices.Equal(head.PatchSize, s.PatchSize) {
		return fail("patch_size: found %v, expected %v, the patch size of the run", head.PatchSize,
			s.PatchSize)
	}
	l = List{PatchSize: s.PatchSize}
	items, err := objects(o)
	if err != nil {
		return List{}, "", err
	}
	for i, item := range items {
		t, err := readTransform(item, i)
		if err != nil {
			return List{}, "", err
		}
		l.Transforms = append(l.Transforms, t)
	}
	axes := l.mirrored()
	if given {
		if axes = *s.MirrorAxes; !l.mirror(axes) && len(axes) > 0 {
			return fail("found no MirrorTransform for --mirror-axes, expected one")
		}
	} else if _, told := o["mirror_axes"]; told && !slices.Equal(head.MirrorAxes, axes) {
		return fail("mirror_axes: found %v, expected %v as in its MirrorTransform", head.MirrorAxes, axes)
	}
	if len(axes) > 0 {
		l.MirrorAxes = axes
	}
	var warnings []string
	if !among(axes, *s.MirrorAxes) {
		warnings = append(warnings, fmt.Sprintf("its MirrorTransform mirrors over axes %v, trainer %s over "+
			"%s: its axes are taken, in prediction too; --mirror-axes chooses others", axes, s.Trainer,
			axesText(*s.MirrorAxes)))
	}
	if l.Transforms, err = s.withTail(l.Transforms); err != nil {
		return List{}, "", err
	}
	spatial := slices.ContainsFunc(l.Transforms, func(t Transform) bool {
		return t.Name() == "SpatialTransform"
	})
	need := s.PatchSize
	if spatial {
		need = s.initialPatchSize()
	}
	if l.InitialPatchSize = need; head.InitialPatchSize != nil {
		if l.InitialPatchSize = head.InitialPatchSize; !Covers(l.InitialPatchSize, s.PatchSize) {
			return fail("initial_patch_size: found %v, expected %d sizes, none smaller than in %v",
				l.InitialPatchSize, len(s.PatchSize), s.PatchSize)
		}
		if !Covers(l.InitialPatchSize, need) {
			warnings = append(warnings, fmt.Sprintf("initial_patch_size %v is smaller than nnU-Net's %v: "+
				"corners of rotated patches will be empty", l.InitialPatchSize, need))
		}
	}
	if err := s.bind(&l); err != nil {
		return List{}, "", errors.New(strings.TrimPrefix(err.Error(), "augment: "))
	}
	return l, strings.Join(warnings, "; "), nil
}

// among reports whether all axes are allowed.
func among(axes, allowed []int) bool {
	return !slices.ContainsFunc(axes, func(a int) bool { return !slices.Contains(allowed, a) })
}

// axesText writes axes of mirroring.
func axesText(axes []int) string {
	if len(axes) == 0 {
		return "none"
	}
	return fmt.Sprint(axes)
}

// Covers reports whether a size has as many axes as another and is not smaller along any.
func Covers(size, patch []int) bool {
	if len(size) != len(patch) {
		return false
	}
	for i := range size {
		if size[i] < patch[i] {
			return false
		}
	}
	return true
}

// readTransform reads one transform of a list.
func readTransform(o object, i int) (Transform, error) {
	k, err := kindOf(o, i)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (Transform, error) {
		return nil, fmt.Errorf("transform %d, %s: %w", i, k.name, err)
	}
	known := []string{"transform"}
	if k.gated {
		known = append(known, "apply_probability")
	}
	t := k.transform()
	if err := decode(t, o, true, known...); err != nil {
		return fail(err)
	}
	v := reflect.ValueOf(t).Elem()
	if err := fractions(v); err != nil {
		return fail(err)
	}
	out := v.Interface().(Transform)
	if p, ok := out.(interface{ limits() error }); ok {
		if err := p.limits(); err != nil {
			return fail(err)
		}
	}
	if raw, ok := o["apply_probability"]; ok {
		r := RandomTransform{Transform: out}
		if err := value(reflect.ValueOf(&r.ApplyProbability).Elem(), raw, false); err != nil {
			return fail(fmt.Errorf("apply_probability: %w", err))
		}
		if err := fraction01("apply_probability", r.ApplyProbability); err != nil {
			return fail(err)
		}
		out = r
	}
	return out, nil
}

// fractions checks the keys that are probabilities.
func fractions(v reflect.Value) error {
	names, fields := keysOf(v.Type())
	for i, name := range names {
		if f := v.FieldByIndex(fields[i].Index); strings.HasPrefix(name, "p_") && f.Kind() == reflect.Float64 {
			if err := fraction01(name, f.Float()); err != nil {
				return err
			}
		}
	}
	return nil
}

func fraction01(key string, v float64) error {
	if v >= 0 && v <= 1 {
		return nil
	}
	return fmt.Errorf("%s: found %v, expected a number from 0 to 1", key, v)
}

// within complains of ranges that reach where a transform cannot go.
func within(key string, r Range, low, high float64) error {
	if r.Low >= low && r.High <= high {
		return nil
	}
	return fmt.Errorf("%s: found %v to %v, expected numbers from %v to %v", key, r.Low, r.High, low, high)
}

func (t SpatialTransform) limits() error { return within("scaling", t.Scaling, 0.01, 100) }
func (t GaussianNoiseTransform) limits() error {
	return within("noise_variance", t.NoiseVariance, 0, 1e6)
}
func (t GaussianBlurTransform) limits() error { return within("blur_sigma", t.BlurSigma, 0.01, 1000) }
func (t SimulateLowResolutionTransform) limits() error {
	return within("scale", t.Scale, 0.01, 1)
}
func (t MultiplicativeBrightnessTransform) limits() error {
	return within("multiplier_range", t.MultiplierRange, -1e6, 1e6)
}
func (t ContrastTransform) limits() error {
	return within("contrast_range", t.ContrastRange, -1e6, 1e6)
}
func (t GammaTransform) limits() error { return within("gamma", t.Gamma, 0.01, 100) }

// mirrored returns the axes of the list's mirroring, ascending.
func (l *List) mirrored() []int {
	var axes []int
	for _, t := range l.Transforms {
		if m, ok := t.(MirrorTransform); ok {
			axes = append(axes, m.AllowedAxes...)
		}
	}
	slices.Sort(axes)
	return slices.Compact(axes)
}

// mirror gives the list's mirroring other axes, and reports whether there is any.
func (l *List) mirror(axes []int) bool {
	found := false
	kept := l.Transforms[:0]
	for _, t := range l.Transforms {
		if _, ok := t.(MirrorTransform); ok {
			found = true
			if len(axes) == 0 {
				continue
			}
			t = MirrorTransform{AllowedAxes: axes}
		}
		kept = append(kept, t)
	}
	l.Transforms = kept
	return found
}

// withTail adds what the data need and the list lacks. What it has of that must be in its place.
func (s Setting) withTail(list []Transform) ([]Transform, error) {
	need := s.tail(true)
	place := func(name string) int {
		return slices.IndexFunc(need, func(t Transform) bool { return t.Name() == name })
	}
	first := slices.IndexFunc(list, func(t Transform) bool { return ForTargets(t.Name()) })
	if first < 0 {
		first = len(list)
	}
	out := slices.Clone(list[:first])
	at := 0 // of need: what comes before is there
	for i, t := range list[first:] {
		p := place(t.Name())
		wrong := func(what string) error {
			return fmt.Errorf("transform %d, %s: %s", first+i, t.Name(), what)
		}
		switch {
		case !ForTargets(t.Name()):
			return nil, wrong("found behind what the data need, expected before " + list[first].Name())
		case p < 0:
			return nil, wrong("the data of this run need none; leave it out")
		case p < at:
			return nil, wrong("found out of its place, or twice; expected " + order(need))
		}
		if _, random := need[p].(RandomTransform); !random && !sameJSON(t, need[p]) {
			return nil, wrong("found other values than the data need; leave it out, and it is added as it must be")
		}
		out = append(addFixed(out, need[at:p]), t)
		at = p + 1
	}
	return addFixed(out, need[at:]), nil
}

// addFixed appends the transforms that are not random.
func addFixed(list, more []Transform) []Transform {
	for _, t := range more {
		if _, random := t.(RandomTransform); !random {
			list = append(list, t)
		}
	}
	return list
}

func order(list []Transform) string {
	return strings.Join(List{Transforms: list}.Names(), ", ")
}

func sameJSON(a, b Transform) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

// ForTargets reports whether a transform belongs to what the data need, at the end of a list.
func ForTargets(name string) bool {
	switch name {
	case "MaskImageTransform", "RemoveLabelTansform", "MoveSegAsOneHotToDataTransform",
		"ApplyRandomBinaryOperatorTransform",
		"RemoveRandomConnectedComponentFromOneHotEncodingTransform",
		"ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform":
		return true
	}
	return false
}
