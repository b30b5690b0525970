package models

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// This file holds the parts shared by nnU-Net's U-Nets: arguments, parameter names, the convolution
// block and the decoder.
// Source: dynamic_network_architectures 0.3.1 (simple_conv_blocks.py, unet_decoder.py); names and
// order are its.

// UNet holds the common arguments, with scalars broadcast to one entry per stage. Stage 0 has full
// resolution.
type UNet struct {
	Axes             int     // 2 or 3, from conv_op
	FeaturesPerStage []int   // output channels of each encoder stage
	KernelSizes      [][]int // per stage, one entry per axis
	Strides          [][]int // per stage, one entry per axis; applied on entry to the stage
	DecoderConvs     []int   // convolutions or blocks per decoder stage, lowest resolution first
	ConvBias         bool
	Norm             *Norm    // nil: none
	Dropout          *Dropout // nil: none
	Nonlin           *Nonlin  // nil: none
	NonlinFirst      bool     // nonlinearity before the norm; PlainConvUNet only
}

// Norm is a normalisation layer; missing arguments have torch's defaults.
type Norm struct {
	Op                string // InstanceNorm2d, InstanceNorm3d, BatchNorm2d or BatchNorm3d
	Eps               float64
	Momentum          float64
	Affine            bool
	TrackRunningStats bool
}

// Dropout is a dropout layer; P is the dropout probability.
type Dropout struct {
	Op string // Dropout, Dropout2d or Dropout3d
	P  float64
}

// Nonlin is a nonlinearity; NegativeSlope is used by LeakyReLU only.
type Nonlin struct {
	Op            string // LeakyReLU or ReLU
	NegativeSlope float64
}

// SegLayers is nnU-Net's name for the segmentation heads. nnU-Net and LN-Seg-FM's trainers
// recognise heads only by this name.
const SegLayers = "seg_layers"

// IsSegLayer reports whether a parameter belongs to a head with that name.
// Source: nnU-Net 2.5.1, load_pretrained_weights.
func IsSegLayer(name string) bool { return strings.Contains(name, "."+SegLayers+".") }

// IsLowestHead reports whether a parameter belongs to the head of the lowest resolution of a network
// with several.
func IsLowestHead(name string) bool { return strings.Contains(name, "."+SegLayers+".0.") }

// registerUNet adds the common naming rules to the entry.
func registerUNet(e Entry) {
	e.IsHead = IsSegLayer
	e.IsTransposed = func(name string) bool { return strings.Contains(name, "transpconvs.") }
	e.Canonical = canonicalUNet
	Register(e)
}

// canonicalUNet removes aliases: the decoder lists the encoder again, and each block lists its
// layers again in all_modules.
// Source: dynamic_network_architectures 0.3.1, UNetDecoder and ConvDropoutNormReLU.
func canonicalUNet(name string) string {
	if strings.HasPrefix(name, "decoder.encoder.") {
		name = strings.TrimPrefix(name, "decoder.")
	}
	const list = ".all_modules."
	i := strings.LastIndex(name, list)
	if i < 0 {
		return name
	}
	number, rest, ok := strings.Cut(name[i+len(list):], ".")
	switch {
	case !ok:
		return name
	case number == "0":
		return name[:i] + ".conv." + rest
	}
	// Of the layers after the convolution only the norm has parameters.
	return name[:i] + ".norm." + rest
}

// The released networks of six stages.
const (
	releasedFeatures = "[32,64,128,256,320,320]"
	releasedKernels  = "[[3,3,3],[3,3,3],[3,3,3],[3,3,3],[3,3,3],[3,3,3]]"
	releasedStrides  = "[[1,1,1],[2,2,2],[2,2,2],[2,2,2],[2,2,2],[2,2,2]]"
)

// unetBlock is an architecture block as nnU-Net's planners write it for 3d; layers are the
// arguments that count convolutions and blocks. All are JSON.
func unetBlock(class, features, kernels, strides, layers string) string {
	return fmt.Sprintf(`{"network_class_name": "%s", "arch_kwargs": {
    "n_stages": %d, "features_per_stage": %s, "kernel_sizes": %s, "strides": %s, %s,
    "conv_op": "torch.nn.modules.conv.Conv3d", "conv_bias": true, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null,
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}}}`, class, strings.Count(features, ",")+1, features, kernels, strides, layers)
}

// parse reads the common arguments. own are the class's other arguments. deep_supervision is
// accepted and ignored, because training sets it at run time.
// Source: dynamic_network_architectures 0.3.1, unet.py and the encoders it uses.
func (a *UNet) parse(args plans.Arguments, class string, dim int, own ...string) {
	args.Allow(class, append(own, "n_stages", "features_per_stage", "conv_op", "kernel_sizes",
		"strides", "n_conv_per_stage_decoder",
		"conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
		"nonlin_kwargs", "deep_supervision"))
	for _, key := range []string{"n_stages", "features_per_stage", "conv_op", "kernel_sizes",
		"strides", "n_conv_per_stage_decoder"} {
		args.Require(key, "a value for "+class)
	}
	stages := args.Int("n_stages", 0)
	conv := args.String("conv_op")
	switch op := plans.LastComponent(conv); op {
	case "Conv2d":
		a.Axes = 2
	case "Conv3d":
		a.Axes = 3
	default:
		args.Fail("conv_op", "Conv2d or Conv3d", op)
	}
	if a.Axes != dim {
		args.Fail("conv_op", fmt.Sprintf("a convolution for the %d axes of patch_size", dim), conv)
	}
	if stages < 2 || stages > 32 {
		args.Fail("n_stages", "between 2 and 32 stages", stages)
	}
	if !args.OK() {
		return
	}
	a.FeaturesPerStage = args.PerStage("features_per_stage", stages)
	a.KernelSizes = args.PerStageAndAxis("kernel_sizes", stages, dim)
	a.Strides = args.PerStageAndAxis("strides", stages, dim)
	a.DecoderConvs = args.PerStage("n_conv_per_stage_decoder", stages-1)
	a.ConvBias = args.Bool("conv_bias", false)
	a.Norm = parseNorm(args, dim)
	a.Dropout = parseDropout(args)
	if op, k := args.Layer("nonlin", []string{"LeakyReLU", "ReLU"},
		[]string{"negative_slope", "inplace"}); op != "" {
		a.Nonlin = &Nonlin{Op: op, NegativeSlope: k.Float("negative_slope", 0.01)}
	}
}

func parseNorm(args plans.Arguments, dim int) *Norm {
	instance, batch := fmt.Sprintf("InstanceNorm%dd", dim), fmt.Sprintf("BatchNorm%dd", dim)
	op, k := args.Layer("norm_op", []string{instance, batch},
		[]string{"eps", "momentum", "affine", "track_running_stats"})
	if op == "" {
		return nil
	}
	return &Norm{Op: op, Eps: k.Float("eps", 1e-5), Momentum: k.Float("momentum", 0.1),
		Affine: k.Bool("affine", op == batch), TrackRunningStats: k.Bool("track_running_stats",
			op == batch)}
}

func parseDropout(args plans.Arguments) *Dropout {
	op, k := args.Layer("dropout_op", []string{"Dropout", "Dropout2d", "Dropout3d"},
		[]string{"p", "inplace"})
	if op == "" {
		return nil
	}
	d := &Dropout{Op: op, P: k.Float("p", 0.5)}
	if d.P < 0 || d.P > 1 {
		k.Fail("p", "a probability", d.P)
	}
	return d
}

// layers is how the layers of a decoder stage are named: prefix, number, last parameter.
type layers struct{ prefix, last string }

// convLayers are the layers of stackedConvs.
var convLayers = layers{"convs.", ".conv.weight"}

// recognise sets the common arguments of whole, in which a is embedded and whose encoder arguments
// are set. first is the first convolution, decoder the layers of the decoder's stages. It returns
// nil if tensors are missing, as those of another class's decoder are.
// Source: the module trees of dynamic_network_architectures 0.3.1.
func (a *UNet) recognise(whole Architecture, shapes map[string][]int64, first string,
	decoder layers) *Spec {
	stages := a.Stages()
	if stages < 2 || countOf(shapes, "decoder.transpconvs.", ".weight") != stages-1 {
		return nil
	}
	a.Axes = len(a.KernelSizes[0])
	a.Strides = [][]int{ones(a.Axes)} // stage 0 has stride 1 in all nnU-Net plans
	for i := range stages - 1 {
		// The transposed convolution has the stride of the encoder stage that it inverts.
		a.Strides = append(a.Strides,
			kernelOf(shapes, fmt.Sprintf("decoder.transpconvs.%d.weight", stages-2-i)))
		a.DecoderConvs = append(a.DecoderConvs,
			countOf(shapes, fmt.Sprintf("decoder.stages.%d.%s", i, decoder.prefix), decoder.last))
	}
	if slices.Contains(a.DecoderConvs, 0) {
		return nil
	}
	for i := range stages {
		if len(a.KernelSizes[i]) != a.Axes || len(a.Strides[i]) != a.Axes {
			return nil
		}
	}
	a.ConvBias = shapes[first+".bias"] != nil
	return &Spec{Architecture: whole, InputChannels: axisOf(shapes, first+".weight", 1),
		NumClasses: axisOf(shapes, fmt.Sprintf("decoder.seg_layers.%d.weight", stages-2), 0)}
}

// Dim is the number of spatial axes.
func (a *UNet) Dim() int { return a.Axes }

// Stages is the number of resolutions.
func (a *UNet) Stages() int { return len(a.FeaturesPerStage) }

// Divisor is the product of the strides, per axis.
func (a *UNet) Divisor() []int {
	divisor := ones(a.Axes)
	for _, stride := range a.Strides {
		for axis := range divisor {
			divisor[axis] *= stride[axis]
		}
	}
	return divisor
}

// DeepSupervisionScales has a row for each stage except the lowest.
func (a *UNet) DeepSupervisionScales() [][]float64 { return plans.DeepSupervisionScales(a.Strides) }

func (a *UNet) describe(class, encoder string) string {
	return fmt.Sprintf("%s, %d stages, %dd, features %v, %s, decoder %v, kernels %v, strides %v",
		class, a.Stages(), a.Axes, a.FeaturesPerStage, encoder, a.DecoderConvs, a.KernelSizes,
		a.Strides)
}

func (a *UNet) arguments() map[string]any {
	return map[string]any{"n_stages": a.Stages(), "features_per_stage": a.FeaturesPerStage,
		"kernel_sizes": a.KernelSizes,
		"strides":      a.Strides, "n_conv_per_stage_decoder": a.DecoderConvs, "conv_bias": a.ConvBias}
}

// compareUNets compares argument by argument; arguments that a class lacks count as empty.
func compareUNets(want, weights Architecture) []string {
	p, w := want.Arguments(), weights.Arguments()
	var lines []string
	for _, name := range []string{"features_per_stage", "kernel_sizes", "strides",
		"n_conv_per_stage", "n_blocks_per_stage",
		"n_conv_per_stage_decoder", "conv_bias", "block", "bottleneck_channels", "stem_channels"} {
		a, b := p[name], w[name]
		switch {
		case a == nil && b == nil:
			continue
		case a == nil:
			a = reflect.Zero(reflect.TypeOf(b)).Interface()
		case b == nil:
			b = reflect.Zero(reflect.TypeOf(a)).Interface()
		}
		if name == "strides" {
			x, y := a.([][]int), b.([][]int)
			if len(x) != len(y) {
				continue
			}
			a, b = x[1:], y[1:] // the first cannot be inferred from shapes
		}
		lines = difference(lines, name, a, b)
	}
	return lines
}

func (a *UNet) topology(blocks, decoderConvs []int, residual bool) Topology {
	return Topology{Strides: a.Strides, Features: a.FeaturesPerStage, Blocks: blocks,
		DecoderConvs: decoderConvs, Residual: residual}
}

// activations counts the outputs of the convolution and the activation for every convolution block,
// and those of the transposed convolution and the concatenation for every decoder stage. Fused
// blocks keep only the activation, fused upsampling only the concatenation. encoder and decoder are
// the numbers of convolution blocks of each stage.
func (a *UNet) activations(st Step, encoder, decoder []int) int64 {
	block, up := 2, 3
	if st.Fused {
		block, up = 1, 2
	}
	size := slices.Clone(st.Patch)
	voxels := make([]int64, a.Stages())
	numbers := int64(0)
	for s, stride := range a.Strides {
		voxels[s] = int64(st.Batch)
		for i := range size {
			size[i] = (size[i] + stride[i] - 1) / stride[i]
			voxels[s] *= int64(size[i])
		}
		numbers += int64(block*encoder[s]*a.FeaturesPerStage[s]) * voxels[s]
	}
	for i, n := range decoder {
		s := a.Stages() - 2 - i
		numbers += int64((block*n+up)*a.FeaturesPerStage[s]) * voxels[s]
	}
	return numbers
}

// check returns an error for layers that lntorch does not support.
func (a *UNet) check() error {
	if a.Norm != nil && !strings.HasPrefix(a.Norm.Op, "InstanceNorm") {
		return fmt.Errorf("norm_op %s is not supported, expected InstanceNorm2d or InstanceNorm3d",
			a.Norm.Op)
	}
	if a.Norm != nil && a.Norm.TrackRunningStats {
		return fmt.Errorf("norm_op_kwargs: track_running_stats is not supported")
	}
	return nil
}

// unet is a U-Net with either encoder.
type unet struct {
	root     *nn.Module
	encode   func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
	decoder  *decoder
	mode     *mode
	divisors []int64 // product of the strides per axis
}

// mode holds the settings that may change after construction, shared by all blocks of a network.
type mode struct {
	training        bool
	deepSupervision bool
	fast            bool
	fused           bool // in this pass
}

// fuses reports whether blocks run fused operators, which need channels last: always on the CPU; on
// CUDA if the shim has kernels and convolutions run in half precision, which is fastest in that
// layout.
func (m *mode) fuses(x *torch.Tensor) bool {
	d := x.Device().Type
	return m.fast && (d == torch.DeviceCPU || d.HasKernels() && torch.InAutocast(d))
}

// run is the convolution's forward in the current mode.
func (m *mode) run(c *nn.Conv) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		if m.fast {
			return c.ForwardLean(s, x)
		}
		return c.Forward(s, x)
	}
}

func channelsLast(axes int) torch.MemoryFormat {
	if axes == 2 {
		return torch.ChannelsLast
	}
	return torch.ChannelsLast3d
}

func (u *unet) Module() *nn.Module         { return u.root }
func (u *unet) SetDeepSupervision(on bool) { u.mode.deepSupervision = on }
func (u *unet) SetFast(on bool)            { u.mode.fast = on }

func (u *unet) SetTraining(on bool) {
	u.mode.training = on
	u.root.SetTraining(on)
}

// Forward: see Network.
func (u *unet) Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	shape := x.Shape()
	if len(shape) != 2+len(u.divisors) {
		s.Fail(fmt.Errorf("models: input has shape %v, expected (n, c, %d spatial axes)", shape,
			len(u.divisors)))
		return nil
	}
	if err := u.CheckInput(shape[2:]); err != nil {
		s.Fail(err)
		return nil
	}
	var heads []*torch.Tensor
	err := s.With(func(c *torch.Scope) error {
		if u.mode.fused = u.mode.fuses(x); u.mode.fused {
			x = c.Contiguous(x, channelsLast(len(u.divisors)))
		}
		heads = u.decoder.forward(c, u.encode(c, x))
		for _, h := range heads {
			c.Keep(h)
		}
		return nil
	})
	if err != nil { // already recorded in s
		return nil
	}
	return heads
}

// CheckInput: every size must be divisible by the product of the strides.
func (u *unet) CheckInput(spatial []int64) error {
	return checkInput(spatial, u.divisors, "the product of the strides")
}

// newUNet combines an encoder (its module and forward) and a decoder with stages made by newStage.
func newUNet(b nn.Builder, a *UNet, classes int, m *mode, encoder *nn.Module,
	encode func(*torch.Scope, *torch.Tensor) []*torch.Tensor, newStage newStage) *unet {
	u := &unet{root: nn.NewModule(), encode: encode, mode: m, divisors: torch.Sizes(a.Divisor())}
	u.decoder = newDecoder(b, a, classes, m, encoder, newStage)
	u.root.Child("encoder", encoder)
	u.root.Child("decoder", u.decoder.module)
	return u
}

// convBlock is ConvDropoutNormReLU. The layers are registered under their own names and again, in
// the order in which they run, under all_modules.
type convBlock struct {
	module *nn.Module
	run    []func(*torch.Scope, *torch.Tensor) *torch.Tensor
	norm   *nn.InstanceNorm
	mode   *mode
	fused  int     // operators of run before the norm, if norm and rest can be fused; else 0
	slope  float64 // of the nonlinearity, 1 for none
}

// blockOptions disables parts of a convBlock.
type blockOptions struct{ noNonlin, noDropout, noBias bool }

func newConvBlock(b nn.Builder, a *UNet, m *mode, in, out int, kernel, stride []int,
	o blockOptions) *convBlock {
	c := &convBlock{module: nn.NewModule(), mode: m, slope: 1}
	conv := b.NewConv(int64(in), int64(out), torch.Sizes(kernel), torch.Sizes(stride), a.ConvBias && !o.noBias)
	c.module.Child("conv", conv.Module)
	c.run = append(c.run, m.run(conv))
	all := []*nn.Module{conv.Module}
	if a.Dropout != nil && !o.noDropout {
		d := nn.NewModule()
		c.module.Child("dropout", d)
		all = append(all, d)
		c.run = append(c.run, dropout(a.Dropout, m))
	}
	if a.Norm != nil {
		c.norm = b.NewInstanceNorm(int64(out), a.Norm.Eps, a.Norm.Affine)
		c.module.Child("norm", c.norm.Module)
		all = append(all, c.norm.Module)
		if !a.NonlinFirst {
			c.fused = len(c.run)
		}
		c.run = append(c.run, c.norm.Forward)
	}
	if a.Nonlin != nil && !o.noNonlin {
		n := nn.NewModule()
		c.module.Child("nonlin", n)
		all = append(all, n)
		c.run = append(c.run, nonlin(a.Nonlin))
		c.slope = slope(a.Nonlin)
		if last := len(all) - 1; a.NonlinFirst && a.Norm != nil {
			all[last], all[last-1] = all[last-1], all[last]
			c.run[last], c.run[last-1] = c.run[last-1], c.run[last]
		}
	}
	c.module.Child("all_modules", nn.Sequence(all...))
	return c
}

func (c *convBlock) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if c.fuses() {
		return c.forwardFused(s, x, nil, c.slope)
	}
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for _, f := range c.run {
			x = f(s, x)
		}
		return x
	})
}

func (c *convBlock) fuses() bool { return c.fused > 0 && c.mode.fused }

// forwardFused runs the norm, the sum with residual (nil for none) and LeakyReLU as one operator.
func (c *convBlock) forwardFused(s *torch.Scope, x, residual *torch.Tensor,
	slope float64) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for _, f := range c.run[:c.fused] {
			x = f(s, x)
		}
		return c.norm.ForwardLeakyReLU(s, x, residual, slope)
	})
}

func dropout(d *Dropout, m *mode) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		if d.Op == "Dropout" {
			if m.fused { // elements are drawn in memory order; libtorch 2.15 convolves one row into another than several
				x = s.Contiguous(x, channelsLast(len(x.Shape())-2))
			}
			return s.Dropout(x, d.P, m.training)
		}
		return s.FeatureDropout(x, d.P, m.training)
	}
}

// nonlin runs in place: its input is not needed again, and one activation less is kept.
func nonlin(n *Nonlin) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
	slope := n.NegativeSlope
	if n.Op == "ReLU" {
		return (*torch.Scope).Relu
	}
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.LeakyRelu_(x, slope) }
}

// slope is the nonlinearity's slope below 0.
func slope(n *Nonlin) float64 {
	switch {
	case n == nil:
		return 1
	case n.Op == "ReLU":
		return 0
	}
	return n.NegativeSlope
}

// stackedConvs is StackedConvBlocks: n blocks, of which the first may be strided and change the
// channels.
type stackedConvs struct {
	module *nn.Module
	blocks []*convBlock
}

func newStackedConvs(b nn.Builder, a *UNet, m *mode, n, in, out int, kernel,
	stride []int) *stackedConvs {
	s := &stackedConvs{module: nn.NewModule()}
	var ms []*nn.Module
	for range n {
		c := newConvBlock(b, a, m, in, out, kernel, stride, blockOptions{})
		s.blocks = append(s.blocks, c)
		ms = append(ms, c.module)
		in, stride = out, ones(len(stride))
	}
	s.module.Child("convs", nn.Sequence(ms...))
	return s
}

// forward frees x as early as possible, if this is its last use.
func (c *stackedConvs) forward(s *torch.Scope, x *torch.Tensor, last bool) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for i, b := range c.blocks {
			y := b.forward(s, x)
			if i > 0 || last {
				x.Free() // autograd keeps what it needs
			}
			x = y
		}
		return x
	})
}

// decoder is UNetDecoder or UNetResDecoder: from low to high resolution it upsamples, concatenates the skip
// connection and convolves; every stage has a segmentation head.
type decoder struct {
	module *nn.Module
	up     []*nn.ConvTranspose
	stages []stage
	heads  []*nn.Conv
	mode   *mode
}

// stage is a stack of layers. Its forward frees x as early as possible, if this is its last use.
type stage interface {
	forward(s *torch.Scope, x *torch.Tensor, last bool) *torch.Tensor
}

// newStage returns a decoder stage of n layers from in to out channels, and its module.
type newStage func(b nn.Builder, m *mode, n, in, out int, kernel []int) (stage, *nn.Module)

// convStage returns a stage of UNetDecoder.
func (a *UNet) convStage(b nn.Builder, m *mode, n, in, out int, kernel []int) (stage, *nn.Module) {
	st := newStackedConvs(b, a, m, n, in, out, kernel, ones(a.Axes))
	return st, st.module
}

func newDecoder(b nn.Builder, a *UNet, classes int, m *mode, encoder *nn.Module,
	newStage newStage) *decoder {
	d := &decoder{module: nn.NewModule(), mode: m}
	var stages, ups, heads []*nn.Module
	one := ones(a.Axes)
	for i := range a.Stages() - 1 {
		t := a.Stages() - 2 - i // encoder stage of the skip connection
		f := a.FeaturesPerStage[t]
		up := b.NewConvTranspose(int64(a.FeaturesPerStage[t+1]), int64(f), torch.Sizes(a.Strides[t+1]),
			a.ConvBias)
		st, module := newStage(b, m, a.DecoderConvs[i], 2*f, f, a.KernelSizes[t])
		head := b.NewConv(int64(f), int64(classes), torch.Sizes(one), torch.Sizes(one), true)
		d.up, d.stages, d.heads = append(d.up, up), append(d.stages, st), append(d.heads, head)
		ups, stages, heads = append(ups, up.Module), append(stages, module),
			append(heads, head.Module)
	}
	d.module.Child("encoder", encoder)
	d.module.Child("stages", nn.Sequence(stages...))
	d.module.Child("transpconvs", nn.Sequence(ups...))
	d.module.Child("seg_layers", nn.Sequence(heads...))
	return d
}

// forward: skips from high to low resolution → heads from high to low resolution. It frees skips
// after their last use.
func (d *decoder) forward(s *torch.Scope, skips []*torch.Tensor) []*torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	low := skips[len(skips)-1]
	var heads []*torch.Tensor
	for i := range d.stages {
		skip := skips[len(skips)-2-i]
		x := s.Block(func(s *torch.Scope) *torch.Tensor {
			joined := s.Block(func(s *torch.Scope) *torch.Tensor {
				if d.mode.fused {
					return d.up[i].ForwardCat(s, low, skip)
				}
				return s.Cat(1, d.up[i].Forward(s, low), skip)
			})
			low.Free()
			skip.Free()
			return d.stages[i].forward(s, joined, true)
		})
		low = x
		if d.mode.deepSupervision || i == len(d.stages)-1 {
			heads = append([]*torch.Tensor{d.heads[i].Forward(s, x)}, heads...)
		}
	}
	return heads
}

func ones(n int) []int {
	v := make([]int, n)
	for i := range v {
		v[i] = 1
	}
	return v
}
