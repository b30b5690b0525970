package plans

import (
	"fmt"
	"slices"
	"strings"
)

// Architecture is the architecture block of a configuration: the constructor arguments of a
// PlainConvUNet or ResidualEncoderUNet, with scalars broadcast to one entry per stage. Number of
// input channels and of classes come from the data set, see Dataset. Stage 0 has full resolution.
type Architecture struct {
	NetworkClass     string  // last component of network_class_name: PlainConvUNet or ResidualEncoderUNet
	Dim              int     // 2 or 3, from conv_op
	NumStages        int     // resolutions of the encoder
	FeaturesPerStage []int   // output channels of each encoder stage
	KernelSizes      [][]int // per stage, one entry per axis
	Strides          [][]int // per stage, one entry per axis; applied on entry to the stage
	ConvsPerStage    []int   // PlainConvUNet: convolutions per encoder stage
	BlocksPerStage   []int   // ResidualEncoderUNet: residual blocks per encoder stage
	DecoderConvs     []int   // convolutions per decoder stage, lowest resolution first; NumStages-1 entries
	ConvBias         bool
	Norm             *Norm    // nil: none
	Dropout          *Dropout // nil: none
	Nonlin           *Nonlin  // nil: none
	NonlinFirst      bool     // PlainConvUNet: nonlinearity before the norm

	Block              string // ResidualEncoderUNet: BasicBlockD or BottleneckD
	BottleneckChannels []int  // ResidualEncoderUNet with BottleneckD: per stage
	StemChannels       int    // ResidualEncoderUNet: output channels of the stem; FeaturesPerStage[0] if not given

	// Networks that plans do not describe leave all but NetworkClass and Dim above empty.
	FeatureSize   int   // SwinUNETR: channels of the first hidden state
	Depths, Heads []int // SwinUNETR: blocks and attention heads of each stage
}

// Norm is a normalisation layer with the defaults of torch for arguments not given.
type Norm struct {
	Op                string // InstanceNorm2d, InstanceNorm3d, BatchNorm2d or BatchNorm3d
	Eps               float64
	Momentum          float64
	Affine            bool
	TrackRunningStats bool
}

// Dropout is a dropout layer; P is the probability of zeroing.
type Dropout struct {
	Op string // Dropout, Dropout2d or Dropout3d
	P  float64
}

// Nonlin is a nonlinearity; NegativeSlope is used by LeakyReLU only.
type Nonlin struct {
	Op            string // LeakyReLU or ReLU
	NegativeSlope float64
}

var (
	commonArguments = []string{"n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides",
		"n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs",
		"nonlin", "nonlin_kwargs", "deep_supervision"}
	plainArguments    = append([]string{"n_conv_per_stage", "nonlin_first"}, commonArguments...)
	residualArguments = append([]string{"n_blocks_per_stage", "block", "bottleneck_channels", "stem_channels"}, commonArguments...)
)

// Architecture parses the architecture block. The network class is found by the last component of
// its dotted name. Arguments that the class does not have are an error that names them; a stray
// deep_supervision is accepted and ignored, since training switches it at run time. Networks that
// ignore the block (SwinUNETR) need not call this.
// Source: dynamic_network_architectures 0.3.1, unet.py and the encoders it uses.
func (c *Configuration) Architecture() (*Architecture, error) {
	a, err := parseArchitecture(c.raw, c.file+": configuration "+c.Name, c.PatchSize)
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return a, nil
}

func parseArchitecture(raw *Object, where string, patch []int) (*Architecture, error) {
	var err error
	top := section{where: where, obj: raw, err: &err}
	if !top.required("architecture", "an architecture block (paste the one of the model to be fine-tuned)") {
		return nil, err
	}
	block := section{where: where + ": architecture", obj: top.object("architecture"), err: &err}
	if err != nil || !block.required("network_class_name", "a class name") || !block.required("arch_kwargs", "an object") {
		return nil, err
	}
	name := block.str("network_class_name")
	s := section{where: block.where + ".arch_kwargs", obj: block.object("arch_kwargs"), err: &err}
	if err != nil {
		return nil, err
	}

	a := &Architecture{NetworkClass: lastComponent(name)}
	known := plainArguments
	switch a.NetworkClass {
	case "PlainConvUNet":
	case "ResidualEncoderUNet":
		known = residualArguments
	default:
		return nil, fmt.Errorf("%s: network_class_name: expected PlainConvUNet or ResidualEncoderUNet, found %q", block.where, name)
	}
	if err := s.rejectUnknown(a.NetworkClass, known); err != nil {
		return nil, err
	}
	for _, key := range []string{"n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder"} {
		s.required(key, "a value for "+a.NetworkClass)
	}
	a.NumStages = s.integer("n_stages", 0)
	switch op := lastComponent(s.str("conv_op")); op {
	case "Conv2d":
		a.Dim = 2
	case "Conv3d":
		a.Dim = 3
	default:
		s.fail("conv_op", "Conv2d or Conv3d", op)
	}
	if err == nil && a.Dim != len(patch) {
		s.fail("conv_op", fmt.Sprintf("a convolution for the %d axes of patch_size", len(patch)), s.str("conv_op"))
	}
	if err == nil && (a.NumStages < 2 || a.NumStages > 32) {
		s.fail("n_stages", "between 2 and 32 stages", s.obj.values["n_stages"])
	}
	if err != nil {
		return nil, err
	}
	a.FeaturesPerStage = s.perStage("features_per_stage", a.NumStages)
	a.KernelSizes = s.perStageAndAxis("kernel_sizes", a.NumStages, a.Dim)
	a.Strides = s.perStageAndAxis("strides", a.NumStages, a.Dim)
	a.DecoderConvs = s.perStage("n_conv_per_stage_decoder", a.NumStages-1)
	a.ConvBias = s.boolean("conv_bias", false)
	a.Norm = s.norm(a.Dim)
	a.Dropout = s.dropout()
	a.Nonlin = s.nonlin()
	if a.NetworkClass == "PlainConvUNet" {
		s.required("n_conv_per_stage", "convolutions per stage")
		a.ConvsPerStage = s.perStage("n_conv_per_stage", a.NumStages)
		a.NonlinFirst = s.boolean("nonlin_first", false)
		return a, err
	}
	s.required("n_blocks_per_stage", "blocks per stage")
	a.BlocksPerStage = s.perStage("n_blocks_per_stage", a.NumStages)
	a.Block = lastComponent(s.str("block"))
	if a.Block == "" {
		a.Block = "BasicBlockD"
	}
	if a.Block != "BasicBlockD" && a.Block != "BottleneckD" {
		s.fail("block", "BasicBlockD or BottleneckD", a.Block)
	}
	if a.Block == "BottleneckD" {
		s.required("bottleneck_channels", "channels per stage, which BottleneckD needs")
		a.BottleneckChannels = s.perStage("bottleneck_channels", a.NumStages)
	}
	if err != nil {
		return nil, err
	}
	if a.StemChannels = s.integer("stem_channels", a.FeaturesPerStage[0]); a.StemChannels < 1 {
		s.fail("stem_channels", "a positive number", s.obj.values["stem_channels"])
	}
	return a, err
}

func lastComponent(dotted string) string {
	return dotted[strings.LastIndexByte(dotted, '.')+1:]
}

func (s section) rejectUnknown(class string, known []string) error {
	unknown := slices.DeleteFunc(s.obj.Keys(), func(k string) bool { return slices.Contains(known, k) })
	if len(unknown) > 0 {
		return fmt.Errorf("%s: %s has no argument %s; it knows %s", s.where, class, list(unknown), list(known))
	}
	return nil
}

// perStage reads an integer for all stages or a list with one for each of n.
func (s section) perStage(key string, n int) []int {
	want := fmt.Sprintf("a positive integer or a list of %d of them", n)
	return field(s, key, want, func(v any) ([]int, bool) {
		if i, ok := asInt(v); ok {
			return slices.Repeat([]int{i}, n), i > 0
		}
		l, ok := listOf(asInt)(v)
		return l, ok && len(l) == n && (n == 0 || slices.Min(l) > 0)
	}, nil)
}

// perStageAndAxis reads an integer for everything or a list with, for each stage, an integer for
// all axes or one integer per axis.
func (s section) perStageAndAxis(key string, stages, dim int) [][]int {
	want := fmt.Sprintf("a positive integer or, for each of %d stages, an integer or a list of %d", stages, dim)
	axes := func(v any) ([]int, bool) {
		if i, ok := asInt(v); ok {
			return slices.Repeat([]int{i}, dim), i > 0
		}
		l, ok := listOf(asInt)(v)
		return l, ok && len(l) == dim && slices.Min(l) > 0
	}
	return field(s, key, want, func(v any) ([][]int, bool) {
		if i, ok := asInt(v); ok {
			out := make([][]int, stages)
			for k := range out {
				out[k] = slices.Repeat([]int{i}, dim)
			}
			return out, i > 0
		}
		l, ok := listOf(axes)(v)
		return l, ok && len(l) == stages
	}, nil)
}

// layer reads an operation and its keyword arguments. The name is empty when there is none.
func (s section) layer(key string, ops, arguments []string) (string, section) {
	op := lastComponent(s.str(key))
	if op == "" {
		return "", s
	}
	if !slices.Contains(ops, op) {
		s.fail(key, strings.Join(ops, " or "), op)
		return "", s
	}
	kwargs := section{where: s.where + "." + key + "_kwargs", obj: s.object(key + "_kwargs"), err: s.err}
	if err := kwargs.rejectUnknown(op, arguments); err != nil && *s.err == nil {
		*s.err = err
	}
	return op, kwargs
}

func (s section) norm(dim int) *Norm {
	instance, batch := fmt.Sprintf("InstanceNorm%dd", dim), fmt.Sprintf("BatchNorm%dd", dim)
	op, k := s.layer("norm_op", []string{instance, batch}, []string{"eps", "momentum", "affine", "track_running_stats"})
	if op == "" {
		return nil
	}
	return &Norm{
		Op:                op,
		Eps:               k.float("eps", 1e-5),
		Momentum:          k.float("momentum", 0.1),
		Affine:            k.boolean("affine", op == batch),
		TrackRunningStats: k.boolean("track_running_stats", op == batch),
	}
}

func (s section) dropout() *Dropout {
	op, k := s.layer("dropout_op", []string{"Dropout", "Dropout2d", "Dropout3d"}, []string{"p", "inplace"})
	if op == "" {
		return nil
	}
	d := &Dropout{Op: op, P: k.float("p", 0.5)}
	if d.P < 0 || d.P > 1 {
		k.fail("p", "a probability", d.P)
	}
	return d
}

func (s section) nonlin() *Nonlin {
	op, k := s.layer("nonlin", []string{"LeakyReLU", "ReLU"}, []string{"negative_slope", "inplace"})
	if op == "" {
		return nil
	}
	return &Nonlin{Op: op, NegativeSlope: k.float("negative_slope", 0.01)}
}

// convertOldArchitecture gives a configuration of plans from before nnU-Net 2.4 the architecture
// block that those plans stand for and removes the keys it replaces. raw is modified.
// Source: nnU-Net 2.5.1, plans_handler.py, ConfigurationManager.
func convertOldArchitecture(raw *Object, where string) error {
	var err error
	s := section{where: where, obj: raw, err: &err}
	old := []string{"UNet_class_name", "UNet_base_num_features", "n_conv_per_stage_encoder", "n_conv_per_stage_decoder",
		"num_pool_per_axis", "pool_op_kernel_sizes", "conv_kernel_sizes", "unet_max_num_features"}
	for _, key := range old {
		s.required(key, "a value, as plans without an architecture block have it")
	}
	convs := s.ints("n_conv_per_stage_encoder")
	base, limit := s.integer("UNet_base_num_features", 0), s.integer("unet_max_num_features", 0)
	if err != nil {
		return err
	}
	class := s.str("UNet_class_name")
	path, perStage := "dynamic_network_architectures.architectures.unet.PlainConvUNet", "n_conv_per_stage"
	switch class {
	case "PlainConvUNet":
	case "ResidualEncoderUNet":
		path, perStage = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet", "n_blocks_per_stage"
	default:
		return fmt.Errorf("%s: UNet_class_name: expected PlainConvUNet or ResidualEncoderUNet, found %q", where, class)
	}
	features := make([]any, len(convs))
	for i, f := 0, base; i < len(convs); i, f = i+1, min(2*f, limit) {
		features[i] = int64(min(f, limit))
	}
	dim := len(raw.values["patch_size"].([]any))
	kwargs := NewObject(
		"n_stages", int64(len(convs)),
		"features_per_stage", features,
		"conv_op", fmt.Sprintf("torch.nn.modules.conv.Conv%dd", dim),
		"kernel_sizes", raw.values["conv_kernel_sizes"],
		"strides", raw.values["pool_op_kernel_sizes"],
		perStage, raw.values["n_conv_per_stage_encoder"],
		"n_conv_per_stage_decoder", raw.values["n_conv_per_stage_decoder"],
		"conv_bias", true,
		"norm_op", fmt.Sprintf("torch.nn.modules.instancenorm.InstanceNorm%dd", dim),
		"norm_op_kwargs", NewObject("eps", 1e-5, "affine", true),
		"dropout_op", nil,
		"dropout_op_kwargs", nil,
		"nonlin", "torch.nn.LeakyReLU",
		"nonlin_kwargs", NewObject("inplace", true),
	)
	for _, key := range old {
		raw.Delete(key)
	}
	raw.Set("architecture", NewObject(
		"network_class_name", path,
		"arch_kwargs", kwargs,
		"_kw_requires_import", []any{"conv_op", "norm_op", "dropout_op", "nonlin"},
	))
	return nil
}

// DeepSupervisionScales returns, for each output of the network with deep supervision, highest
// resolution first, the size of its target relative to the patch per axis: 1 / the cumulative
// product of the strides, without the last (lowest) stage. It has NumStages-1 rows; a network without stages has one output,
// of the patch's size.
func (a *Architecture) DeepSupervisionScales() [][]float64 {
	if a.NumStages == 0 {
		return [][]float64{slices.Repeat([]float64{1}, a.Dim)}
	}
	product := slices.Repeat([]int{1}, a.Dim)
	scales := make([][]float64, 0, a.NumStages-1)
	for _, stride := range a.Strides[:a.NumStages-1] {
		row := make([]float64, a.Dim)
		for axis := range row {
			product[axis] *= stride[axis]
			row[axis] = 1 / float64(product[axis])
		}
		scales = append(scales, row)
	}
	return scales
}

// DeepSupervisionWeights returns the weights of the losses of n outputs, highest resolution first:
// halved at each step, 0 for the last, divided by their sum. A term of weight 0 is left out of
// the loss, so the lowest head never gets a gradient.
//
// Differs: a single output has weight 1; the reference divides 0 by 0.
func DeepSupervisionWeights(n int) []float64 {
	w := make([]float64, n)
	sum := 0.0
	for i := range n - 1 {
		w[i] = 1 / float64(uint64(1)<<i)
		sum += w[i]
	}
	if n == 1 {
		return []float64{1}
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}
