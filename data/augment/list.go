package augment

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
)

// Setting holds what a list follows from: plans, dataset, trainer, and what the user asked for.
type Setting struct {
	PatchSize []int // voxels (z, y, x) or (y, x)
	Channels  int   // of the image, without a cascade's
	// UseMaskForNorm has an entry per channel: if any is set, the image is masked.
	UseMaskForNorm []bool
	CascadeLabels  []int // foreground labels of the previous stage; nil: there is none
	Regions        [][]int
	IgnoreLabel    *int
	Scales         [][]float64 // of deep supervision; nil: one output
	Trainer        string      // its name may choose list and mirror axes
	Augmentation   string      // nnunet, mirror, none; "": the trainer's
	MirrorAxes     *[]int      // nil: the trainer's
	Fixes          bool        // the intended form of what batchgeneratorsv2 0.2.1 gets wrong
}

// Augmentations are the lists that have names.
var Augmentations = []string{"nnunet", "mirror", "none"}

// SetClasses sets what follows from the labels of dataset.json.
func (s *Setting) SetClasses(l *plans.Labels) {
	if !l.HasRegions {
		return
	}
	s.IgnoreLabel = l.IgnoreLabel
	for _, r := range l.Regions {
		s.Regions = append(s.Regions, r.Values)
	}
}

// TargetShapes returns the shapes (c, …) of the targets that the list makes of a patch, highest
// resolution first: one channel of labels, or masks, a channel per region.
func (l List) TargetShapes(patch []int) (shapes [][]int, masks bool) {
	channels, scales := 1, []Scale{{1}}
	for _, t := range l.Transforms {
		switch t := t.(type) {
		case ConvertSegmentationToRegionsTransform:
			channels, masks = len(t.Regions), true
		case DownsampleSegForDSTransform:
			scales = t.DSScales
		}
	}
	for _, row := range scales {
		shape := []int{channels}
		for axis, n := range patch {
			shape = append(shape, int(scaled(n, row.of(axis))))
		}
		shapes = append(shapes, shape)
	}
	return shapes, masks
}

// Names returns the classes of the transforms, in order.
func (l List) Names() []string {
	names := make([]string, len(l.Transforms))
	for i, t := range l.Transforms {
		names[i] = t.Name()
	}
	return names
}

// input is what a transform gets.
type input struct {
	channels, dim int
	size          []int // nil: not known
	fixes         bool  // Setting.Fixes
}

// bound is implemented by transforms whose parameters depend on what they get.
type bound interface{ bind(in input) Transform }

func (t SpatialTransform) bind(in input) Transform                  { t.where = in; return t }
func (t GaussianNoiseTransform) bind(in input) Transform            { t.where = in; return t }
func (t GaussianBlurTransform) bind(in input) Transform             { t.where = in; return t }
func (t MultiplicativeBrightnessTransform) bind(in input) Transform { t.where = in; return t }
func (t ContrastTransform) bind(in input) Transform                 { t.where = in; return t }
func (t SimulateLowResolutionTransform) bind(in input) Transform    { t.where = in; return t }
func (t GammaTransform) bind(in input) Transform                    { t.where = in; return t }

// DA5 and its kin are not built.
var (
	otherLibrary = regexp.MustCompile(`^nnUNetTrainerDA5`)
	noMirroring  = regexp.MustCompile(`^nnUNetTrainer(NoMirroring|_\d+epochs?_NoMirroring|_DASegOrd0_NoMirroring)$`)
	onlyMirror01 = regexp.MustCompile(`^nnUNetTrainer_onlyMirror01(_DASegOrd0)?$`)
	segOrd0      = regexp.MustCompile(`^nnUNetTrainer(_onlyMirror01)?_DASegOrd0(_NoMirroring)?$`)
)

// Trainers are those of nnU-Net that differ from nnUNetTrainer in batches alone;
// nnUNetTrainer_Nepochs_NoMirroring is another.
func Trainers() []string {
	return []string{"nnUNetTrainerNoDA", "nnUNetTrainerNoMirroring", "nnUNetTrainer_onlyMirror01",
		"nnUNetTrainer_DASegOrd0", "nnUNetTrainer_onlyMirror01_DASegOrd0",
		"nnUNetTrainer_DASegOrd0_NoMirroring"}
}

// CheckTrainer refuses those whose transforms are not built.
func CheckTrainer(trainer string) error {
	if !otherLibrary.MatchString(trainer) {
		return nil
	}
	return fmt.Errorf("augment: trainer %s uses another library's transforms (batchgenerators), "+
		"which are not built; train with nnUNetTrainer, or choose a list with --augmentation and "+
		"another trainer", trainer)
}

// MirrorAxesOf returns the axes that a trainer mirrors over; nil: none. Prediction mirrors over the
// same.
func MirrorAxesOf(trainer string, dim int) []int {
	switch {
	case noMirroring.MatchString(trainer), trainer == "nnUNetTrainerNoDA":
		return nil
	case onlyMirror01.MatchString(trainer) && dim == 2:
		return []int{0}
	case onlyMirror01.MatchString(trainer):
		return []int{0, 1}
	}
	return []int{0, 1, 2}[:dim]
}

// resolve fills in what the trainer chooses.
func (s Setting) resolve() (Setting, error) {
	if err := CheckTrainer(s.Trainer); err != nil {
		return s, err
	}
	dim := len(s.PatchSize)
	if dim != 2 && dim != 3 || slices.Min(s.PatchSize) < 1 {
		return s, fmt.Errorf("augment: patch size %v, expected 2 or 3 positive sizes", s.PatchSize)
	}
	if s.Channels < 1 {
		return s, fmt.Errorf("augment: found %d channels, expected at least one", s.Channels)
	}
	mirrors := s.Trainer
	if s.Augmentation == "" {
		if s.Augmentation = "nnunet"; s.Trainer == "nnUNetTrainerNoDA" {
			s.Augmentation = "none"
		}
	} else if s.Trainer == "nnUNetTrainerNoDA" {
		mirrors = "nnUNetTrainer" // an explicit list wins over the trainer's
	}
	if !slices.Contains(Augmentations, s.Augmentation) {
		return s, fmt.Errorf("augment: augmentation %q, expected %s or a file%s", s.Augmentation,
			strings.Join(Augmentations, ", "), didYouMean(s.Augmentation, Augmentations))
	}
	switch axes := MirrorAxesOf(mirrors, dim); {
	case s.Augmentation == "none" && s.MirrorAxes != nil && len(*s.MirrorAxes) > 0:
		return s, fmt.Errorf("augment: mirror axes %v, but augmentation none does not mirror; for "+
			"mirroring alone choose mirror", *s.MirrorAxes)
	case s.Augmentation == "none":
		s.MirrorAxes = &[]int{}
	case s.MirrorAxes == nil:
		s.MirrorAxes = &axes
	}
	for i, a := range *s.MirrorAxes {
		if a < 0 || a >= dim || slices.Contains((*s.MirrorAxes)[:i], a) {
			return s, fmt.Errorf("augment: mirror axes %v, expected each of 0 to %d once at most, "+
				"or none", *s.MirrorAxes, dim-1)
		}
	}
	return s, nil
}

// New returns the list in force: nnU-Net's, mirroring alone, or its validation's, with what the data
// need at the end.
// Source: nnU-Net 2.5.1, nnUNetTrainer.get_training_transforms, get_validation_transforms.
func New(s Setting) (List, error) {
	s, err := s.resolve()
	if err != nil {
		return List{}, err
	}
	l := List{Augmentation: s.Augmentation, PatchSize: s.PatchSize, InitialPatchSize: s.PatchSize}
	if len(*s.MirrorAxes) > 0 {
		l.MirrorAxes = *s.MirrorAxes
	}
	switch s.Augmentation {
	case "nnunet":
		l.InitialPatchSize = s.initialPatchSize()
		l.Transforms = s.random()
	case "mirror":
		l.Transforms = s.mirroring()
	}
	l.Transforms = append(l.Transforms, s.tail(s.Augmentation != "none")...)
	return l, s.bind(&l)
}

// dummy2D: slices of anisotropic patches are transformed as images.
func (s Setting) dummy2D() bool {
	return len(s.PatchSize) == 3 &&
		float64(slices.Max(s.PatchSize))/float64(s.PatchSize[0]) > 3
}

// rotation is the range of angles, radians.
func (s Setting) rotation() Range {
	degrees := 30.0
	switch {
	case s.dummy2D():
		degrees = 180
	case len(s.PatchSize) == 2:
		degrees = 180
		if float64(slices.Max(s.PatchSize))/float64(slices.Min(s.PatchSize)) > 1.5 {
			degrees = 15
		}
	}
	radians := degrees / 360 * 2 * math.Pi
	return Range{Low: -radians, High: radians}
}

// initialPatchSize is the size whose rotations by the largest angle cover the patch, over 0.85.
//
// Compat: objects may shrink by more than 1/0.85: corners are then empty. A rotation about each
// axis alone is considered.
// Source: nnU-Net 2.5.1, compute_initial_patch_size.py.
func (s Setting) initialPatchSize() []int {
	p := make([]float64, len(s.PatchSize))
	for i, n := range s.PatchSize {
		p[i] = float64(n)
	}
	quarter := 90.0
	angle := min(s.rotation().High, quarter/360*2*math.Pi)
	sin, cos := math.Sin(angle), math.Cos(angle)
	size := slices.Clone(p)
	cover := func(i, j int) {
		size[i] = max(size[i], math.Abs(float64(p[i]*cos)+float64(p[j]*sin)))
		size[j] = max(size[j], math.Abs(float64(p[j]*cos)-float64(p[i]*sin)))
	}
	if len(p) == 3 {
		cover(1, 2)
		cover(2, 0) // about axis 1 the sign is the other one
		cover(0, 1)
	} else {
		cover(0, 1)
	}
	out := make([]int, len(p))
	for i, v := range size {
		out[i] = int(v / 0.85)
	}
	if s.dummy2D() {
		out[0] = s.PatchSize[0]
	}
	return out
}

// random are the transforms that are nnU-Net's augmentation.
func (s Setting) random() []Transform {
	spatial := SpatialTransform{PatchSize: s.PatchSize, PRotation: 0.2, Rotation: s.rotation(),
		PScaling: 0.2, Scaling: Range{Low: 0.7, High: 1.4}, PSynchronizeScalingAxes: 1,
		ModeSeg: "bilinear"}
	if segOrd0.MatchString(s.Trainer) {
		spatial.ModeSeg = "nearest"
	}
	list := []Transform{spatial}
	var ignore []int
	if s.dummy2D() {
		ignore = []int{0}
		spatial.PatchSize = s.PatchSize[1:]
		list = []Transform{Convert3DTo2DTransform{}, spatial, Convert2DTo3DTransform{}}
	}
	contrast := func(low, high float64) Range { return Range{low, high, true} }
	power := GammaTransform{Gamma: contrast(0.7, 1.5), PPerChannel: 1, PRetainStats: 1}
	inverted := power
	inverted.PInvertImage = 1
	list = append(list,
		RandomTransform{GaussianNoiseTransform{NoiseVariance: Range{High: 0.1}, PPerChannel: 1,
			SynchronizeChannels: true}, 0.1},
		RandomTransform{GaussianBlurTransform{BlurSigma: Range{Low: 0.5, High: 1},
			PPerChannel: 0.5}, 0.2},
		RandomTransform{MultiplicativeBrightnessTransform{MultiplierRange: contrast(0.75, 1.25),
			PPerChannel: 1}, 0.15},
		RandomTransform{ContrastTransform{ContrastRange: contrast(0.75, 1.25), PreserveRange: true,
			PPerChannel: 1}, 0.15},
		RandomTransform{SimulateLowResolutionTransform{Scale: Range{Low: 0.5, High: 1},
			SynchronizeAxes: true, IgnoreAxes: ignore, PPerChannel: 0.5}, 0.25},
		RandomTransform{inverted, 0.1},
		RandomTransform{power, 0.3},
	)
	return append(list, s.mirroring()...)
}

func (s Setting) mirroring() []Transform {
	if len(*s.MirrorAxes) == 0 {
		return nil
	}
	return []Transform{MirrorTransform{AllowedAxes: *s.MirrorAxes}}
}

// tail is what the data need. In validation the image is not masked and nothing is random.
func (s Setting) tail(training bool) []Transform {
	var list []Transform
	if training && slices.Contains(s.UseMaskForNorm, true) {
		mask := MaskImageTransform{ApplyToChannels: []int{}}
		for c, use := range s.UseMaskForNorm {
			if use {
				mask.ApplyToChannels = append(mask.ApplyToChannels, c)
			}
		}
		list = append(list, mask)
	}
	list = append(list, RemoveLabelTansform{LabelValue: -1, SetTo: 0})
	if s.CascadeLabels != nil {
		move := MoveSegAsOneHotToDataTransform{SourceChannelIdx: 1, AllLabels: []int16{}}
		var channels []int
		for i, label := range s.CascadeLabels {
			move.AllLabels = append(move.AllLabels, int16(label))
			channels = append(channels, i-len(s.CascadeLabels))
		}
		list = append(list, move)
		if training && channels != nil {
			list = append(list,
				RandomTransform{ApplyRandomBinaryOperatorTransform{ChannelIdx: channels,
					AnyOfThese: binaryOperators, StrelSize: Range{Low: 1, High: 8}, PPerLabel: 1}, 0.4},
				RandomTransform{RemoveRandomConnectedComponentFromOneHotEncodingTransform{
					ChannelIdx: channels, DontDoIfCoversMore: 0.15, PPerLabel: 1}, 0.2})
		}
	}
	if s.Regions != nil {
		var regions []Region
		for _, r := range s.Regions {
			regions = append(regions, r)
		}
		if s.IgnoreLabel != nil {
			regions = append(regions, Region{*s.IgnoreLabel})
		}
		list = append(list, ConvertSegmentationToRegionsTransform{Regions: regions})
	}
	if s.Scales != nil {
		var scales []Scale
		for _, row := range s.Scales {
			scales = append(scales, row)
		}
		list = append(list, DownsampleSegForDSTransform{DSScales: scales})
	}
	return list
}

// checking is implemented by transforms that may ask for what there is not.
type checking interface{ check(in input) error }

// bind follows the shape of a patch through the list, and tells each transform what it gets. What
// does not fit is an error.
func (s Setting) bind(l *List) error {
	in := input{s.Channels, len(s.PatchSize), l.InitialPatchSize, s.Fixes}
	var before *input // Convert3DTo2DTransform
	cut := false      // there was a SpatialTransform
	for i, t := range l.Transforms {
		r, gated := t.(RandomTransform)
		if gated {
			t = r.Transform
		}
		err := s.pass(t, &in, &before, &cut)
		if c, ok := t.(checking); ok && err == nil {
			err = c.check(in)
		}
		if err != nil {
			return fmt.Errorf("augment: transform %d, %s: %w", i, t.Name(), err)
		}
		if b, ok := t.(bound); ok {
			at := in
			if sp, ok := t.(SpatialTransform); ok {
				at.size = sp.from(l.InitialPatchSize)
			}
			t = b.bind(at)
		}
		if gated {
			t = RandomTransform{t, r.ApplyProbability}
		}
		l.Transforms[i] = t
	}
	switch {
	case before != nil:
		return errors.New("augment: Convert3DTo2DTransform without a Convert2DTo3DTransform behind it")
	case !cut && !slices.Equal(l.InitialPatchSize, s.PatchSize):
		return fmt.Errorf("augment: initial_patch_size: found %v, expected the patch size %v, as no "+
			"SpatialTransform makes the one of the other", l.InitialPatchSize, s.PatchSize)
	}
	return nil
}

// CheckPatch complains of transforms that some draws of would fail on a patch: axes that are shorter
// than a blur's kernel, or of which low resolution may leave nothing. batchgeneratorsv2 fails at such
// a draw, in the midst of a training.
func (l List) CheckPatch() error {
	for i, t := range l.Transforms {
		if r, ok := t.(RandomTransform); ok {
			if t = r.Transform; r.ApplyProbability == 0 {
				continue
			}
		}
		c, ok := t.(interface{ fits() error })
		if !ok {
			continue
		}
		if err := c.fits(); err != nil {
			return fmt.Errorf("augmentation %s: transform %d, %s: %w; leave it out of a FILE for "+
				"--augmentation (lntorch augment pipeline prints the list), or take a larger patch",
				l.Augmentation, i, t.Name(), err)
		}
	}
	return nil
}

// from returns the last axes of a size, as many as the transform has.
func (t SpatialTransform) from(size []int) []int { return size[len(size)-len(t.PatchSize):] }

// pass changes the shape as a transform does.
func (s Setting) pass(t Transform, in *input, before **input, cut *bool) error {
	switch t := t.(type) {
	case Convert3DTo2DTransform:
		if in.dim != 3 {
			return errors.New("found patches of 2 axes, expected 3")
		}
		was := *in
		*before, in.channels, in.dim = &was, in.channels*in.size[0], 2
		in.size = in.size[1:]
	case Convert2DTo3DTransform:
		if *before == nil {
			return errors.New("found no Convert3DTo2DTransform before it, expected one")
		}
		in.size = slices.Concat((*before).size[:1], in.size)
		in.channels, in.dim, *before = (*before).channels, 3, nil
	case SpatialTransform:
		want := s.PatchSize
		if *before != nil {
			want = want[1:]
			if (*before).size[0] != s.PatchSize[0] {
				return fmt.Errorf("initial_patch_size: found %d slices, expected %d as in the patch size, "+
					"as slices are channels here", (*before).size[0], s.PatchSize[0])
			}
		}
		switch {
		case *cut:
			return errors.New("found a second one, expected one at most")
		case !slices.Equal(t.PatchSize, want):
			return fmt.Errorf("patch_size: found %v, expected %v, the patch size of the run",
				t.PatchSize, want)
		}
		*cut, in.size = true, t.PatchSize
	case MirrorTransform:
		for _, a := range t.AllowedAxes {
			if a < 0 || a >= in.dim {
				return fmt.Errorf("allowed_axes: found axis %d, expected 0 to %d", a, in.dim-1)
			}
		}
	case MoveSegAsOneHotToDataTransform:
		in.channels += len(t.AllLabels)
	}
	return nil
}
