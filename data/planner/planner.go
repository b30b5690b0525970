// Package planner creates nnU-Net's plans from the fingerprint of a dataset: target spacing, patch
// and batch size, and network topology of every configuration. It also moves plans between datasets
// and adopts those of a pretrained model. Images are read by data/fingerprint, not here.
package planner

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/plans"
)

// Constants of all planners. Source: nnU-Net 2.5.1, default_experiment_planner.py.
const (
	anisotropy      = 3      // an axis is coarse if its spacing is this multiple of the others'
	baseFeatures    = 32     // channels of the first stage
	minBatch        = 2      //
	referenceBatch3 = 2      // batch sizes of the reference values
	referenceBatch2 = 12     //
	lowresThreshold = 0.25   // 3d_lowres is planned if a fullres patch covers less of the image
	lowresStep      = 1.03   // growth of its spacing per step of the search
	maxSteps        = 100000 // of patch reduction; real datasets take some hundreds
	croppedEnough   = 0.75   // if the crop leaves less than this, only the mask is normalised
)

// Planner is one of nnU-Net's planner classes.
type Planner struct {
	Name      string  // class name, the value of -pl
	PlansName string  // default name of the plans
	Network   string  // PlainConvUNet or ResidualEncoderUNet
	MemoryGB  float64 // the default target

	referenceGB   float64 // memory that the reference values correspond to
	reference3    float64 // feature map elements of a 3d network that fits
	reference2    float64 // the same for 2d
	fraction      float64 // fraction of the dataset's voxels that one batch may cover
	encoder       []int   // convolutions or residual blocks per stage; the last entry repeats
	maxStages     int
	decoder       int    // convolutions of every decoder stage
	halvedByBatch bool   // the patch shrinks if est/refBatch*2 > reference, not if est > reference
	identifier    string // prefix of the data folders of 2d and 3d_fullres; "": the plans' name
}

// planners lists the classes.
// Source: default_experiment_planner.py, residual_encoder_unet_planners.py.
var planners = []*Planner{
	{
		Name: "ExperimentPlanner", PlansName: "nnUNetPlans", Network: "PlainConvUNet", MemoryGB: 8,
		referenceGB: 8, reference3: 560e6, reference2: 85e6, fraction: 0.05,
		encoder: []int{2}, maxStages: 14, decoder: 2, halvedByBatch: true,
	},
	resEnc("ResEncUNetPlanner", "nnUNetResEncUNetPlans", 8, 680e6, 135e6, 0.05),
	resEnc("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 8, 680e6, 135e6, 1),
	resEnc("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", 24, 2100e6, 380e6, 1),
	resEnc("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", 40, 3600e6, 560e6, 1),
}

func resEnc(name, plansName string, gb, reference3, reference2, fraction float64) *Planner {
	return &Planner{
		Name: name, PlansName: plansName, Network: "ResidualEncoderUNet", MemoryGB: gb,
		referenceGB: gb, reference3: reference3, reference2: reference2, fraction: fraction,
		encoder: []int{1, 3, 4, 6}, maxStages: 13, decoder: 1,
		// Compat: data folders are named as ExperimentPlanner's, so that the data can be shared.
		identifier: "nnUNetPlans",
	}
}

// Names lists the planner classes.
func Names() []string {
	var names []string
	for _, p := range planners {
		names = append(names, p.Name)
	}
	return names
}

// ForName returns the planner with that class name.
func ForName(name string) (*Planner, error) {
	for _, p := range planners {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("planner: %q is unknown, expected %s", name, strings.Join(Names(), ", "))
}

// Options override what a planner chooses. The zero value overrides nothing.
type Options struct {
	MemoryGB         float64   // GPU memory target; 0: the planner's own
	PlansName        string    // "": the planner's own
	PreprocessorName string    // "": DefaultPreprocessor
	TargetSpacing    []float64 // mm, of 3d_fullres, axes as read; nil: from the fingerprint
}

// Input is the dataset to plan for.
type Input struct {
	DatasetName string // Dataset005_Prostate
	Dataset     *plans.Dataset
	Fingerprint *fingerprint.Fingerprint
	Reader      string // class that reads the images, SimpleITKIO
}

// Result is a planned experiment.
type Result struct {
	Plans *plans.Object // in nnU-Net's key order
	Name  string        // of the plans
	Notes []string      // decisions to report
}

// Plan creates the plans. Values are computed in nnU-Net's order, so the file equals its own.
// Source: nnU-Net 2.5.1, ExperimentPlanner.plan_experiment.
func (p *Planner) Plan(in Input, o Options) (*Result, error) {
	r, err := p.plan(in, o)
	if err != nil {
		return nil, fmt.Errorf("planner: %s: %s: %w", in.DatasetName, p.Name, err)
	}
	return r, nil
}

func (p *Planner) plan(in Input, o Options) (*Result, error) {
	r := &run{Planner: p, in: in, memory: p.MemoryGB, name: p.PlansName,
		preprocessor: "DefaultPreprocessor"}
	if o.MemoryGB != 0 {
		r.memory = o.MemoryGB
	}
	if !(r.memory > 0) {
		return nil, fmt.Errorf("memory target of %v GB: expected a positive number", r.memory)
	}
	if o.PlansName != "" {
		r.name = o.PlansName
	}
	if o.PreprocessorName != "" {
		r.preprocessor = o.PreprocessorName
	}
	fp := in.Fingerprint
	spacing, err := targetSpacing(fp, o.TargetSpacing)
	if err != nil {
		return nil, err
	}
	if r.memory != p.MemoryGB && p.fraction == 1 {
		r.note("the memory target is %g GB; the default of %s is %g GB", r.memory, p.Name,
			p.MemoryGB)
	}
	forward := transpose(spacing)
	spacing = permute(spacing, forward)

	shapes := make([][]float64, len(fp.Shapes)) // of the resampled cases
	for i, shape := range fp.Shapes {
		shapes[i] = make([]float64, 3)
		for a, f := range forward {
			shapes[i][a] = math.RoundToEven(fp.Spacings[i][f] / spacing[a] * float64(shape[f]))
		}
	}
	shape := columns(shapes, median)
	if slices.Min(shape) < 1 {
		return nil, fmt.Errorf("the median image has %v voxels after resampling to %v mm: "+
			"the target spacing is too coarse", shape, spacing)
	}
	if r.cases, err = in.Dataset.NumTraining(); err != nil {
		return nil, err
	}
	voxels := product(shape) * float64(r.cases)

	configurations := &plans.Object{}
	var fullres, lowres *plans.Object
	if shape[0] == 1 {
		r.note("the images have one slice: only a 2d configuration is planned")
	} else {
		if fullres, lowres, err = r.plan3d(spacing, shape, voxels); err != nil {
			return nil, err
		}
	}
	flat, err := r.configuration("2d", spacing[1:], shape[1:], floats(shape[1:]), voxels)
	if err != nil {
		return nil, err
	}
	flat.object.Set("batch_dice", true)
	configurations.Set("2d", flat.object)
	if lowres != nil {
		lowres.Set("next_stage", "3d_cascade_fullres")
		configurations.Set("3d_lowres", lowres)
	}
	if fullres != nil {
		configurations.Set("3d_fullres", fullres)
	}
	if lowres != nil {
		configurations.Set("3d_cascade_fullres",
			plans.NewObject("inherits_from", "3d_fullres", "previous_stage", "3d_lowres"))
	}

	backward := make([]int, 3)
	for i, f := range forward {
		backward[f] = i
	}
	originalShape := make([]int, 3)
	for i, n := range permute(columns(toFloats(fp.Shapes), median), forward) {
		originalShape[i] = int(math.RoundToEven(n))
	}
	return &Result{Name: r.name, Notes: r.notes, Plans: plans.NewObject(
		"dataset_name", in.DatasetName,
		"plans_name", r.name,
		"original_median_spacing_after_transp", permute(columns(fp.Spacings, median), forward),
		"original_median_shape_after_transp", originalShape,
		"image_reader_writer", in.Reader,
		"transpose_forward", forward,
		"transpose_backward", backward,
		"configurations", configurations,
		"experiment_planner_used", p.Name,
		"label_manager", "LabelManager",
		"foreground_intensity_properties_per_channel", fp.Intensities().Clone(),
	)}, nil
}

// run is the state of one planning run.
type run struct {
	*Planner
	in                 Input
	cases              int // of the training set
	memory             float64
	steps              int // of patch reduction so far
	name, preprocessor string
	notes              []string
}

func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// targetSpacing is the spacing of 3d_fullres: the median per axis, but finer along an axis that is
// much coarser than the others and has few voxels. Source: determine_fullres_target_spacing.
func targetSpacing(fp *fingerprint.Fingerprint, overwrite []float64) ([]float64, error) {
	if overwrite != nil {
		if len(overwrite) != 3 || !(slices.Min(overwrite) > 0) ||
			math.IsInf(slices.Max(overwrite), 0) {
			return nil, fmt.Errorf("target spacing %v: expected three positive numbers", overwrite)
		}
		return slices.Clone(overwrite), nil
	}
	half := func(v []float64) float64 { return percentile(v, 50) }
	target := columns(fp.Spacings, half)
	size := columns(toFloats(fp.Shapes), half)
	worst := argmax(target)
	otherSpacing, otherSize := 0.0, math.Inf(1)
	for a := range target {
		if a != worst {
			otherSpacing, otherSize = max(otherSpacing, target[a]), min(otherSize, size[a])
		}
	}
	if target[worst] > anisotropy*otherSpacing && size[worst]*anisotropy < otherSize {
		var along []float64
		for _, s := range fp.Spacings {
			along = append(along, s[worst])
		}
		target[worst] = percentile(along, 10)
		if target[worst] < otherSpacing {
			target[worst] = otherSpacing + 1e-5
		}
	}
	return target, nil
}

// transpose moves the axis with the largest spacing to the front.
func transpose(spacing []float64) []int {
	forward := []int{argmax(spacing)}
	for a := range spacing {
		if a != forward[0] {
			forward = append(forward, a)
		}
	}
	return forward
}

// planned is a configuration with the values that the next one depends on.
type planned struct {
	object *plans.Object
	patch  []int
}

// plan3d plans 3d_fullres, and 3d_lowres if a patch covers too little of the image at full
// resolution.
func (r *run) plan3d(spacing, shape []float64, voxels float64) (fullres, lowres *plans.Object,
	err error) {
	full, err := r.configuration("3d_fullres", spacing, shape, floats(shape), voxels)
	if err != nil {
		return nil, nil, err
	}
	imageVoxels, patchVoxels := product(shape), productOf(full.patch)
	low, lowSpacing := planned{}, slices.Clone(spacing)
	var lowShape []any
	for patchVoxels/imageVoxels < lowresThreshold {
		coarsest := slices.Max(lowSpacing)
		// Axes much finer than the coarsest one are coarsened first, then all together.
		some := slices.ContainsFunc(lowSpacing, func(s float64) bool { return coarsest/s > 2 })
		for a, s := range lowSpacing {
			if !some || coarsest/s > 2 {
				lowSpacing[a] = s * lowresStep
			}
		}
		lowShape = nil
		rounded, scaled := make([]float64, 3), make([]float64, 3)
		for a := range shape {
			scaled[a] = spacing[a] / lowSpacing[a] * shape[a]
			rounded[a] = math.RoundToEven(scaled[a])
			lowShape = append(lowShape, int(rounded[a]))
		}
		imageVoxels = product(scaled)
		low, err = r.configuration("3d_lowres", slices.Clone(lowSpacing), rounded, lowShape,
			imageVoxels*float64(r.cases))
		if err != nil {
			return nil, nil, err
		}
		patchVoxels = productOf(low.patch)
	}
	if product(shape)/imageVoxels < 2 {
		if low.object != nil {
			r.note("no 3d_lowres: at its spacing images (%v) would be nearly as large as in "+
				"3d_fullres (%v)",
				lowShape, shape)
		}
		low.object = nil
	}
	if low.object != nil {
		low.object.Set("batch_dice", false)
	}
	full.object.Set("batch_dice", low.object != nil)
	return full.object, low.object, nil
}

// configuration plans one configuration for a median image of the given shape; shownShape is its
// form in the plans. voxels is the size of the dataset. Source: get_plans_for_configuration.
func (r *run) configuration(name string, spacing, shape []float64, shownShape []any,
	voxels float64) (planned, error) {
	dim := len(spacing)
	edge, reference, referenceBatch, maxFeatures := 256.0, r.reference3, float64(referenceBatch3),
		320
	if dim == 2 {
		edge, reference, referenceBatch, maxFeatures = 2048, r.reference2, referenceBatch2, 512
	}
	reference *= r.memory / r.referenceGB

	// A patch of volume edge**dim, cubic in mm, but no larger than the image.
	inverse := make([]float64, dim)
	for a, s := range spacing {
		inverse[a] = 1 / s
	}
	scale := math.Pow(math.Pow(edge, float64(dim))/product(inverse), 1/float64(dim))
	patch := make([]float64, dim)
	for a := range patch {
		patch[a] = min(math.RoundToEven(inverse[a]*scale), shape[a])
	}

	var (
		t        topology
		features []int
		estimate float64
		err      error
	)
	measure := func() {
		if n := len(t.strides); n > r.maxStages || slices.Min(t.patch) < 1 {
			err = fmt.Errorf("%s: a patch of %v at %v mm needs %d stages, the planner has %d; "+
				"give another -overwrite_target_spacing or -gpu_memory_target",
				name, t.patch, spacing, n, r.maxStages)
			return
		}
		features = t.features(maxFeatures)
		estimate = float64(t.featureMapSize(features, r.blocks(len(t.strides)), r.decoder,
			r.in.Dataset.NumLabelEntries(), r.Network == "ResidualEncoderUNet"))
	}
	tooLarge := func() bool {
		if r.halvedByBatch {
			return estimate/referenceBatch*2 > reference
		}
		return estimate > reference
	}
	t = newTopology(spacing, patch)
	for measure(); err == nil && tooLarge(); measure() {
		// In an image with one fine, short axis and two coarse, long ones no axis can be pooled,
		// and each step removes one voxel.
		if r.steps++; r.steps > maxSteps {
			return planned{}, fmt.Errorf("%s: no patch of images of %v voxels at %v mm fits into "+
				"%g GB after %d steps: are the spacings right?",
				name, shape, spacing, r.memory, maxSteps)
		}
		axis := 0 // the largest relative to the image; the last of equal ones
		for a := range t.patch {
			if float64(t.patch[a])/shape[a] >= float64(t.patch[axis])/shape[axis] {
				axis = a
			}
		}
		// Subtracting the divisor itself could skip sizes: with 64, 256 would become 192, though
		// 224 = 32·7 has one pooling less.
		smaller := floatsOf(t.patch)
		smaller[axis] -= float64(t.divisor[axis])
		step := newTopology(spacing, smaller).divisor[axis]
		next := floatsOf(t.patch)
		next[axis] -= float64(step)
		t = newTopology(spacing, next)
	}
	if err != nil {
		return planned{}, err
	}
	batch := math.RoundToEven(reference / estimate * referenceBatch)
	limit := math.RoundToEven(voxels * r.fraction / productOf(t.patch))
	batch = max(min(batch, limit), minBatch)
	if batch > math.MaxInt32 {
		return planned{},
			fmt.Errorf("%s: a batch of %g patches; lower -gpu_memory_target", name, batch)
	}

	schemes, masks := r.normalisation()
	dataFn, dataArgs := resampling(false, 3)
	segFn, segArgs := resampling(true, 1)
	probFn, probArgs := resampling(false, 1)
	return planned{patch: t.patch, object: plans.NewObject(
		"data_identifier", r.dataIdentifier(name),
		"preprocessor_name", r.preprocessor,
		"batch_size", int(batch),
		"patch_size", t.patch,
		"median_image_size_in_voxels", shownShape,
		"spacing", slices.Clone(spacing),
		"normalization_schemes", schemes,
		"use_mask_for_norm", masks,
		"resampling_fn_data", dataFn,
		"resampling_fn_seg", segFn,
		"resampling_fn_data_kwargs", dataArgs,
		"resampling_fn_seg_kwargs", segArgs,
		"resampling_fn_probabilities", probFn,
		"resampling_fn_probabilities_kwargs", probArgs,
		"architecture", r.architecture(dim, &t, features),
	)}, nil
}

// blocks returns the convolutions or residual blocks of each of n encoder stages.
func (p *Planner) blocks(n int) []int {
	b := make([]int, n)
	for i := range b {
		b[i] = p.encoder[min(i, len(p.encoder)-1)]
	}
	return b
}

func (r *run) dataIdentifier(configuration string) string {
	if r.identifier != "" && (configuration == "2d" || configuration == "3d_fullres") {
		return r.identifier + "_" + configuration
	}
	return r.name + "_" + configuration
}

func (r *run) architecture(dim int, t *topology, features []int) *plans.Object {
	n := len(t.strides)
	perStage := "n_conv_per_stage"
	if r.Network == "ResidualEncoderUNet" {
		perStage = "n_blocks_per_stage"
	}
	return plans.NewObject(
		"network_class_name", "dynamic_network_architectures.architectures.unet."+r.Network,
		"arch_kwargs", plans.NewObject(
			"n_stages", n,
			"features_per_stage", features,
			"conv_op", fmt.Sprintf("torch.nn.modules.conv.Conv%dd", dim),
			"kernel_sizes", anyList(t.kernels),
			"strides", anyList(t.strides),
			perStage, r.blocks(n),
			"n_conv_per_stage_decoder", slices.Repeat([]int{r.decoder}, n-1),
			"conv_bias", true,
			"norm_op", fmt.Sprintf("torch.nn.modules.instancenorm.InstanceNorm%dd", dim),
			"norm_op_kwargs", plans.NewObject("eps", 1e-5, "affine", true),
			"dropout_op", nil,
			"dropout_op_kwargs", nil,
			"nonlin", "torch.nn.LeakyReLU",
			"nonlin_kwargs", plans.NewObject("inplace", true),
		),
		"_kw_requires_import", []string{"conv_op", "norm_op", "dropout_op", "nonlin"},
	)
}

func resampling(seg bool, order int) (string, *plans.Object) {
	return "resample_data_or_seg_to_shape",
		plans.NewObject("is_seg", seg, "order", order, "order_z", 0, "force_separate_z", nil)
}

// normalisation chooses a scheme for each channel by its name, and whether it is restricted to the
// non-zero mask.
func (r *run) normalisation() (schemes []string, masks []any) {
	for _, name := range r.in.Dataset.ChannelNames {
		scheme := normalisationOf(name)
		schemes = append(schemes, scheme)
		masks = append(masks, scheme == zScore && r.in.Fingerprint.RelativeSize < croppedEnough)
	}
	return schemes, masks
}

const zScore = "ZScoreNormalization"

// normalisationOf returns the scheme for a channel name. Source:
// map_channel_name_to_normalization.py.
func normalisationOf(channel string) string {
	for _, m := range [][2]string{
		{"ct", "CTNormalization"}, {"nonorm", "NoNormalization"},
		{"rescale_to_0_1", "RescaleTo01Normalization"},
		{"rgb_to_0_1", "RGBTo01Normalization"}} {
		if strings.EqualFold(channel, m[0]) {
			return m[1]
		}
	}
	return zScore
}
