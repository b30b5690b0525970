package planner

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
)

// Model is a pretrained model whose configuration a dataset adopts.
type Model struct {
	Source        string // name for messages
	Plans         *plans.Plans
	Configuration string
	Dataset       *plans.Dataset // of the training; nil if unknown
	// Network returns the network of a configuration, whether the plans or a trainer of its own
	// describe it.
	Network func(*plans.Configuration) (Network, error)
}

// Network holds what a patch must fit.
type Network struct {
	Divisor []int // of the patch size, per axis
	UNet    *UNet // nil if nnU-Net has no memory estimate for it: patch and batch stay as they are
}

// UNet holds the parameters of nnU-Net's memory estimate.
type UNet struct {
	Strides          [][]int // per stage, one entry per axis
	Features, Blocks []int   // per encoder stage; Blocks are residual blocks or convolutions
	DecoderConvs     []int   // per decoder stage
	Residual         bool
}

// AdoptOptions choose what is adopted. The zero value adopts everything from the model.
type AdoptOptions struct {
	PlansName         string  // of the new plans
	Name              string  // of the configuration; "": the model's (Recipe: with _adopted)
	Parent            string  // Recipe: the configuration to inherit from; "": 3d_fullres
	PatchSize         []int   // voxels; nil: the model's, smaller if MemoryGB requires it
	BatchSize         int     // 0: the model's, smaller if MemoryGB requires it
	MemoryGB          float64 // GPU memory, by nnU-Net's estimate; 0: no limit
	KeepSpacing       bool    // the dataset's own target spacing and axis order
	KeepNormalisation bool    // the dataset's own intensities and schemes
}

// Finding is a difference between the model's training data and the dataset.
type Finding struct {
	What    string `json:"what"`
	Model   string `json:"model"`
	Dataset string `json:"dataset"`
	Warning bool   `json:"warning"` // far from the training data, or further steps needed
	Note    string `json:"note,omitempty"`
}

func (f Finding) String() string {
	s := fmt.Sprintf("%s: model %s, dataset %s", f.What, f.Model, f.Dataset)
	if f.Note != "" {
		s += ": " + f.Note
	}
	return s
}

// Adopted is the result of Adopt and Recipe.
type Adopted struct {
	Result
	Configuration string
	PatchSize     []int
	BatchSize     int // 0: the parent's
	Findings      []Finding
}

// Adopt creates plans for the dataset with one configuration that presents images to the network as
// in the model's training: with the model's spacing, axis order, intensity statistics,
// normalisation, resampling and architecture, and a suitable patch and batch size. It is a new
// plans file, since statistics and axis order apply to a whole file.
func Adopt(m Model, in Input, o AdoptOptions) (*Adopted, error) {
	a, err := adopt(m, in, o)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	return a, nil
}

func adopt(m Model, in Input, o AdoptOptions) (*Adopted, error) {
	c, network, err := m.configuration()
	if err != nil {
		return nil, err
	}
	dim := len(c.PatchSize)
	if c.PreviousStage != "" {
		return nil, fmt.Errorf("%s: configuration %s is the second stage of a cascade, whose "+
			"input is the output of %s: adopt that one, or a configuration without previous_stage",
			m.Source, c.Name, c.PreviousStage)
	}
	forward, backward, spacing := m.Plans.TransposeForward, m.Plans.TransposeBackward, c.Spacing
	if err := permutation(forward); err != nil {
		return nil, fmt.Errorf("%s: transpose_forward: %w", m.Source, err)
	}
	if o.KeepSpacing {
		if spacing, err = targetSpacing(in.Fingerprint, nil); err != nil {
			return nil, err
		}
		forward = transpose(spacing)
		spacing = permute(spacing, forward)[3-dim:]
		backward = make([]int, 3)
		for i, f := range forward {
			backward[f] = i
		}
	}
	image := medianShape(in, spacing, forward)
	s, err := m.size(c, network, image[3-dim:], in.Dataset.NumLabelEntries(), o)
	if err != nil {
		return nil, err
	}
	a := &Adopted{Configuration: o.Name, PatchSize: s.patch, BatchSize: s.batch}
	if a.Name = o.PlansName; a.Name == "" {
		a.Name = "nnUNetPlansAdopted"
	}
	if a.Configuration == "" {
		a.Configuration = c.Name
	}
	a.Notes = s.notes
	a.Findings = m.compare(c, in)

	raw := c.Raw().Clone()
	for _, key := range []string{"inherits_from", "next_stage", "previous_stage"} {
		raw.Delete(key)
	}
	raw.Set("data_identifier", a.Name+"_"+a.Configuration)
	raw.Set("batch_size", s.batch)
	raw.Set("patch_size", s.patch)
	raw.Set("median_image_size_in_voxels", floats(image[3-dim:]))
	raw.Set("spacing", spacing)
	v, _ := m.Plans.Raw().Get("foreground_intensity_properties_per_channel")
	if v == nil {
		v, _ = m.Plans.Raw().Get("foreground_intensity_properties_by_modality") // older plans
	}
	intensities, _ := v.(*plans.Object)
	if o.KeepNormalisation {
		r := &run{in: in}
		schemes, masks := r.normalisation()
		raw.Set("normalization_schemes", schemes)
		raw.Set("use_mask_for_norm", masks)
		intensities = in.Fingerprint.Intensities()
	} else if len(m.Plans.ChannelIntensities) < len(c.NormalizationSchemes) ||
		len(c.NormalizationSchemes) != len(in.Dataset.ChannelNames) {
		return nil, fmt.Errorf("%s normalises %d channels with statistics for %d, the dataset has "+
			"%d (%s): use --keep-normalisation to normalise as the dataset's own plans do",
			m.Source, len(c.NormalizationSchemes), len(m.Plans.ChannelIntensities),
			len(in.Dataset.ChannelNames), strings.Join(in.Dataset.ChannelNames, ", "))
	}
	planner, manager := m.Plans.ExperimentPlanner, m.Plans.LabelManager
	if planner == "" {
		planner = "ExperimentPlanner"
	}
	shape := columns(toFloats(in.Fingerprint.Shapes), median)
	originalShape := make([]int, 3)
	for i, f := range forward {
		originalShape[i] = int(math.RoundToEven(shape[f]))
	}
	a.Plans = plans.NewObject(
		"dataset_name", in.DatasetName,
		"plans_name", a.Name,
		"original_median_spacing_after_transp", permute(columns(in.Fingerprint.Spacings, median),
			forward),
		"original_median_shape_after_transp", originalShape,
		"image_reader_writer", in.Reader,
		"transpose_forward", slices.Clone(forward),
		"transpose_backward", slices.Clone(backward),
		"configurations", plans.NewObject(a.Configuration, raw),
		"experiment_planner_used", planner,
		"label_manager", manager,
		"foreground_intensity_properties_per_channel", intensities.Clone(),
	)
	return a, nil
}

// Recipe adds a configuration to the dataset's own plans, the manual step in LN-Seg-FM's readme: it
// inherits from 3d_fullres and has a patch size and the model's architecture. Spacing, statistics
// and, unless given, batch size are those of 3d_fullres. The plans are not modified; Adopted.Plans
// is a copy with the configuration appended.
func Recipe(m Model, own *plans.Plans, in Input, o AdoptOptions) (*Adopted, error) {
	a, err := recipe(m, own, in, o)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	return a, nil
}

func recipe(m Model, own *plans.Plans, in Input, o AdoptOptions) (*Adopted, error) {
	c, network, err := m.configuration()
	if err != nil {
		return nil, err
	}
	if o.Parent == "" {
		o.Parent = "3d_fullres"
	}
	parent, err := own.Configuration(o.Parent)
	if err != nil {
		return nil, err
	}
	if len(parent.PatchSize) != len(c.PatchSize) {
		return nil, fmt.Errorf("%s is a model with %d axes, %s of the dataset's plans has %d",
			m.Source, len(c.PatchSize), o.Parent, len(parent.PatchSize))
	}
	a := &Adopted{Configuration: o.Name, BatchSize: o.BatchSize}
	if a.Configuration == "" {
		a.Configuration = c.Name + "_adopted"
	}
	if a.Configuration == o.Parent {
		return nil, fmt.Errorf("the configuration cannot have the name %s of its parent", o.Parent)
	}
	given := o.BatchSize
	if o.BatchSize == 0 {
		o.BatchSize = parent.BatchSize
	}
	image := medianShape(in, parent.Spacing, own.TransposeForward)
	s, err := m.size(c, network, image[3-len(c.PatchSize):], in.Dataset.NumLabelEntries(), o)
	if err != nil {
		return nil, err
	}
	a.PatchSize, a.Notes, a.Name = s.patch, s.notes, own.PlansName
	a.Findings = m.compare(c, in)
	raw := plans.NewObject("inherits_from", o.Parent, "patch_size", s.patch)
	if given != 0 {
		raw.Set("batch_size", given)
	}
	if block, ok := c.Raw().Get("architecture"); ok { // always, if the plans describe the network
		raw.Set("architecture", block.(*plans.Object).Clone())
	}
	a.Plans = own.Raw().Clone()
	v, _ := a.Plans.Get("configurations")
	configurations := v.(*plans.Object)
	configurations.Delete(a.Configuration)
	configurations.Set(a.Configuration, raw)
	return a, nil
}

// configuration resolves the model's configuration.
func (m *Model) configuration() (*plans.Configuration, Network, error) {
	c, err := m.Plans.Configuration(m.Configuration)
	if err != nil {
		return nil, Network{}, err
	}
	n, err := m.Network(c)
	return c, n, err
}

func permutation(order []int) error {
	if !slices.Equal(slices.Sorted(slices.Values(order)), []int{0, 1, 2}) {
		return fmt.Errorf("expected a permutation of the axes 0, 1, 2, found %v", order)
	}
	return nil
}

// medianShape is the shape of the median image after resampling and transposing. A spacing with two
// values omits the first axis.
func medianShape(in Input, spacing []float64, forward []int) []float64 {
	rows := make([][]float64, len(in.Fingerprint.Shapes))
	for i, shape := range in.Fingerprint.Shapes {
		rows[i] = make([]float64, 3)
		for a, f := range forward {
			if k := a - (3 - len(spacing)); k >= 0 {
				resampled := in.Fingerprint.Spacings[i][f] / spacing[k] * float64(shape[f])
				rows[i][a] = math.RoundToEven(resampled)
			}
		}
	}
	return columns(rows, median)
}

// size is a patch and batch size.
type size struct {
	patch []int
	batch int
	notes []string
}

// size chooses patch and batch size: those given, else the model's, reduced until nnU-Net's memory
// estimate is within the limit.
func (m *Model) size(c *plans.Configuration, n Network, median []float64, classes int,
	o AdoptOptions) (size, error) {
	s := size{patch: slices.Clone(c.PatchSize), batch: c.BatchSize}
	divisor := n.Divisor
	if len(divisor) != len(s.patch) {
		return s, fmt.Errorf("%s: strides have %d axes, the patch has %d", m.Source, len(divisor),
			len(s.patch))
	}
	if o.PatchSize != nil {
		s.patch = slices.Clone(o.PatchSize)
	}
	if o.BatchSize != 0 {
		s.batch = o.BatchSize
	}
	if s.batch < 1 || len(s.patch) != len(divisor) || slices.Min(s.patch) < 1 {
		return s, fmt.Errorf("patch %v, batch %d: expected %d positive sizes and a batch of at "+
			"least 1", s.patch, s.batch, len(divisor))
	}
	bottleneck := 1
	var nearest []string
	for a, p := range s.patch {
		bottleneck *= p / divisor[a]
		multiple := max(1, int(math.Round(float64(p)/float64(divisor[a]))))
		nearest = append(nearest, fmt.Sprint(multiple*divisor[a]))
	}
	for a, p := range s.patch {
		if p%divisor[a] != 0 {
			return s, fmt.Errorf("patch %v: the strides of %s need sizes divisible by %v; the "+
				"nearest are %s",
				s.patch, m.Source, divisor, strings.Join(nearest, ","))
		}
	}
	if bottleneck < 2 {
		return s, fmt.Errorf("patch %v: strides of %v reduce it to one voxel, which cannot be "+
			"normalised: choose a larger one", s.patch, divisor)
	}
	if o.MemoryGB <= 0 || n.UNet == nil {
		return s, nil
	}
	perGB, reference := 560e6/8, 2.0 // feature map elements, at this batch size
	if n.UNet.Residual {
		perGB = 680e6 / 8
	}
	if len(divisor) == 2 {
		perGB, reference = 85e6/8, 12
		if n.UNet.Residual {
			perGB = 135e6 / 8
		}
	}
	need := func(patch []int) float64 { // GB per patch in the batch
		return float64(n.UNet.size(patch, classes)) / perGB / reference
	}
	before := s
	for o.BatchSize == 0 && s.batch > minBatch && float64(s.batch)*need(s.patch) > o.MemoryGB {
		s.batch--
	}
	for o.PatchSize == nil && float64(s.batch)*need(s.patch) > o.MemoryGB {
		axis := -1 // the largest relative to the image that can shrink
		for a, p := range s.patch {
			if p-divisor[a] >= minEdge*divisor[a] &&
				(axis < 0 || float64(p)/median[a] >= float64(s.patch[axis])/median[axis]) {
				axis = a
			}
		}
		if axis < 0 {
			break
		}
		s.patch = slices.Clone(s.patch)
		s.patch[axis] -= divisor[axis]
	}
	gb := float64(s.batch) * need(s.patch)
	if !slices.Equal(s.patch, before.patch) || s.batch != before.batch {
		s.notes = append(s.notes, fmt.Sprintf("for %.3g GB of memory the patch is %v and the "+
			"batch %d; the model's are %v and %d",
			o.MemoryGB, s.patch, s.batch, c.PatchSize, c.BatchSize))
	}
	if gb > o.MemoryGB {
		s.notes = append(s.notes, fmt.Sprintf("patches of %v in batches of %d need about %.3g GB "+
			"of GPU memory, more than %.3g GB", s.patch, s.batch, gb, o.MemoryGB))
	}
	return s, nil
}

// size is nnU-Net's memory estimate of a network, see featureMapSize.
func (u *UNet) size(patch []int, classes int) int64 {
	t := topology{strides: u.Strides, patch: patch}
	return t.featureMapSize(u.Features, u.Blocks, slices.Max(u.DecoderConvs), classes, u.Residual)
}

// Beyond these bounds a dataset is far from the model's training data.
const (
	farSpacing = 2 // ratio of voxel sizes
	farMean    = 2 // standard deviations between the means
	farStd     = 2 // ratio of standard deviations
)

// compare lists the differences between the model's training data and the dataset.
func (m *Model) compare(c *plans.Configuration, in Input) []Finding {
	var list []Finding
	add := func(warning bool, what string, model, dataset any, note string) {
		list = append(list, Finding{what, fmt.Sprint(model), fmt.Sprint(dataset), warning, note})
	}
	own := columns(in.Fingerprint.Spacings, median)
	forward := m.Plans.TransposeForward
	ownTransposed := permute(own, forward)[3-len(c.Spacing):]
	far, differs := false, false
	for a, s := range c.Spacing {
		ratio := max(s/ownTransposed[a], ownTransposed[a]/s)
		far, differs = far || ratio > farSpacing, differs || ratio > 1.001
	}
	if differs {
		note := ""
		if far {
			note = fmt.Sprintf("they differ by more than a factor of %d: structures are resampled "+
				"far from their scanned resolution", farSpacing)
		}
		add(far, "spacing in mm", short(c.Spacing), short(ownTransposed), note)
	}
	if t, err := targetSpacing(in.Fingerprint, nil); err == nil &&
		!slices.Equal(transpose(t), forward) {
		add(true, "order of axes", forward, transpose(t), "another axis is the coarsest: "+
			"check that the images are oriented like the model's")
	}
	schemes := c.NormalizationSchemes
	for i, name := range in.Dataset.ChannelNames {
		if i >= len(schemes) {
			break
		}
		if scheme := normalisationOf(name); scheme != schemes[i] {
			add(true, "normalisation of channel "+name, schemes[i], scheme,
				"the channel's name in dataset.json stands for another kind of intensities")
		}
	}
	if m.Dataset != nil {
		a, b := m.Dataset.ChannelNames, in.Dataset.ChannelNames
		if !slices.EqualFunc(a, b, strings.EqualFold) {
			add(len(a) != len(b), "channels", strings.Join(a, ", "), strings.Join(b, ", "), "")
		}
		if a, b := labelNames(m.Dataset), labelNames(in.Dataset); a != b {
			heads := m.Dataset.Labels.NumSegmentationHeads()
			ownHeads := in.Dataset.Labels.NumSegmentationHeads()
			note := ""
			if heads != ownHeads {
				note = fmt.Sprintf("the output layers have %d channels, the dataset needs %d: "+
					"they are reinitialised", heads, ownHeads)
			}
			add(false, "labels", a, b, note)
		}
	}
	for i, d := range in.Fingerprint.Channels {
		if i >= len(m.Plans.ChannelIntensities) || i >= len(in.Dataset.ChannelNames) {
			break
		}
		t := m.Plans.ChannelIntensities[i]
		if !finite(t.Mean) || !finite(t.Std) {
			continue
		}
		shift, ratio := math.Abs(d.Mean-t.Mean), max(d.Std/t.Std, t.Std/d.Std)
		if shift == 0 && ratio == 1 {
			continue
		}
		var why []string
		if shift > farMean*t.Std {
			why = append(why, fmt.Sprintf("the means differ by %.1f of the model's standard "+
				"deviations", shift/t.Std))
		}
		if ratio > farStd {
			why = append(why,
				fmt.Sprintf("the standard deviations differ by a factor of %.1f", ratio))
		}
		if d.Median < t.Percentile005 || d.Median > t.Percentile995 {
			why = append(why, fmt.Sprintf("half of the dataset's foreground is outside [%.4g, "+
				"%.4g], the range that CTs are clipped to", t.Percentile005, t.Percentile995))
		}
		describe := func(c plans.Intensity) string {
			return fmt.Sprintf("%.1f ± %.1f (0.5 to 99.5 %%: %.4g to %.4g)",
				c.Mean, c.Std, c.Percentile005, c.Percentile995)
		}
		add(len(why) > 0, "foreground intensities of channel "+in.Dataset.ChannelNames[i],
			describe(t), describe(d), strings.Join(why, "; "))
	}
	return list
}

func short(v []float64) string {
	var parts []string
	for _, x := range v {
		parts = append(parts, fmt.Sprintf("%.4g", x))
	}
	return strings.Join(parts, " × ")
}

func labelNames(d *plans.Dataset) string {
	var parts []string
	for _, e := range d.Labels.Entries {
		parts = append(parts, fmt.Sprintf("%s %v", e.Name, e.Values))
	}
	return strings.Join(parts, ", ")
}
