package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// This file holds the parts shared by networks with residual blocks: the encoder and the block.
// Source: dynamic_network_architectures 0.3.1, residual_encoders.py and residual.py.

// ResidualEncoder holds the arguments of a U-Net whose encoder has residual blocks behind a stem.
type ResidualEncoder struct {
	UNet
	BlocksPerStage     []int  // residual blocks per encoder stage
	Block              string // of the encoder: BasicBlockD or BottleneckD
	BottleneckChannels []int  // per stage; BottleneckD only
	StemChannels       int    // output channels of the stem; FeaturesPerStage[0] if not given
}

// parse reads the arguments of class.
func (a *ResidualEncoder) parse(args plans.Arguments, class string, dim int) {
	a.UNet.parse(args, class, dim, "n_blocks_per_stage", "block", "bottleneck_channels", "stem_channels")
	if !args.OK() {
		return
	}
	args.Require("n_blocks_per_stage", "blocks per stage")
	a.BlocksPerStage = args.PerStage("n_blocks_per_stage", a.Stages())
	if a.Block = plans.LastComponent(args.String("block")); a.Block == "" {
		a.Block = "BasicBlockD"
	}
	if a.Block != "BasicBlockD" && a.Block != "BottleneckD" {
		args.Fail("block", "BasicBlockD or BottleneckD", a.Block)
	}
	if a.Block == "BottleneckD" {
		args.Require("bottleneck_channels", "channels per stage, which BottleneckD needs")
		a.BottleneckChannels = args.PerStage("bottleneck_channels", a.Stages())
	}
	if !args.OK() {
		return
	}
	if a.StemChannels = args.Int("stem_channels", a.FeaturesPerStage[0]); a.StemChannels < 1 {
		args.Fail("stem_channels", "a positive number", a.StemChannels)
	}
}

// recognise sets the arguments of whole, in which a is embedded, with decoder stages of the given
// layers. It returns nil for the tensors of another network.
func (a *ResidualEncoder) recognise(whole Architecture, shapes map[string][]int64, decoder layers) *Spec {
	const first = "encoder.stem.convs.0.conv"
	if shapes[first+".weight"] == nil {
		return nil
	}
	a.Block, a.StemChannels = "BasicBlockD", axisOf(shapes, first+".weight", 0)
	last := blockLayers.last
	if shapes["encoder.stages.0.blocks.0.conv3.conv.weight"] != nil {
		a.Block, last = "BottleneckD", ".conv3.conv.weight"
	}
	stage := func(s int) string { return fmt.Sprintf("encoder.stages.%d.blocks.", s) }
	for s := 0; shapes[stage(s)+"0"+last] != nil; s++ {
		middle := stage(s) + "0.conv2.conv.weight"
		a.FeaturesPerStage = append(a.FeaturesPerStage, axisOf(shapes, stage(s)+"0"+last, 0))
		a.BlocksPerStage = append(a.BlocksPerStage, countOf(shapes, stage(s), last))
		a.KernelSizes = append(a.KernelSizes, kernelOf(shapes, middle))
		if a.Block == "BottleneckD" {
			a.BottleneckChannels = append(a.BottleneckChannels, axisOf(shapes, middle, 0))
		}
	}
	return a.UNet.recognise(whole, shapes, first, decoder)
}

func (a *ResidualEncoder) describe(class string) string {
	return a.UNet.describe(class, fmt.Sprintf("blocks %v (%s)", a.BlocksPerStage, a.Block))
}

// Arguments returns the arguments that can be inferred from shapes.
func (a *ResidualEncoder) Arguments() map[string]any {
	m := a.arguments()
	m["n_blocks_per_stage"], m["block"] = a.BlocksPerStage, a.Block
	m["stem_channels"] = a.StemChannels
	if a.BottleneckChannels != nil {
		m["bottleneck_channels"] = a.BottleneckChannels
	}
	return m
}

// convsPerStage counts convolutions: for each block of the encoder its two and that of the shortcut.
func (a *ResidualEncoder) convsPerStage() []int {
	var convs []int
	for _, n := range a.BlocksPerStage {
		convs = append(convs, 3*n)
	}
	return convs
}

// build returns the network with decoder stages made by newStage.
func (a *ResidualEncoder) build(b nn.Builder, inputChannels, classes int,
	newStage newStage) (Network, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	m := &mode{training: true}
	stem := newStackedConvs(b, &a.UNet, m, 1, inputChannels, a.StemChannels, a.KernelSizes[0],
		ones(a.Axes))
	in := a.StemChannels
	var stages []*stackedBlocks
	var modules []*nn.Module
	for i, f := range a.FeaturesPerStage {
		inner := 0
		if a.Block == "BottleneckD" {
			inner = a.BottleneckChannels[i]
		}
		st := newStackedBlocks(b, &a.UNet, m, a.BlocksPerStage[i], in, inner, f, a.KernelSizes[i],
			a.Strides[i])
		stages, modules = append(stages, st), append(modules, st.module)
		in = f
	}
	encoder := nn.NewModule()
	encoder.Child("stem", stem.module)
	encoder.Child("stages", nn.Sequence(modules...))
	return newUNet(b, &a.UNet, classes, m, encoder, func(s *torch.Scope,
		x *torch.Tensor) []*torch.Tensor {
		x = stem.forward(s, x, false)
		var skips []*torch.Tensor
		for i, st := range stages {
			x = st.forward(s, x, i == 0) // the stem's output is no skip connection
			skips = append(skips, x)
		}
		return skips
	}, newStage), nil
}

// blockLayers are the layers of stackedBlocks of BasicBlockD.
var blockLayers = layers{"blocks.", ".conv2.conv.weight"}

// stackedBlocks is StackedResidualBlocks: blocks of which the first may be strided and change the
// number of channels.
type stackedBlocks struct {
	module *nn.Module
	blocks []*residualBlock
}

// newStackedBlocks returns n blocks: BottleneckD with inner channels, or BasicBlockD if inner is 0.
func newStackedBlocks(b nn.Builder, a *UNet, m *mode, n, in, inner, out int, kernel,
	stride []int) *stackedBlocks {
	st := &stackedBlocks{module: nn.NewModule()}
	var modules []*nn.Module
	for range n {
		r := newResidualBlock(b, a, m, in, inner, out, kernel, stride)
		st.blocks, modules = append(st.blocks, r), append(modules, r.module)
		in, stride = out, ones(len(stride))
	}
	st.module.Child("blocks", nn.Sequence(modules...))
	return st
}

// forward frees x as early as possible, if this is its last use.
func (st *stackedBlocks) forward(s *torch.Scope, x *torch.Tensor, last bool) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for i, r := range st.blocks {
			y := r.forward(s, x)
			if i > 0 || last {
				x.Free() // autograd holds on to what it needs
			}
			x = y
		}
		return x
	})
}

// residualBlock is BasicBlockD (two convolutions) or BottleneckD (1×1, k×k with the stride, 1×1),
// with the shortcut of ResNet-D: average pooling if the block is strided, then a 1×1 convolution
// without bias if the channels change.
type residualBlock struct {
	module  *nn.Module
	convs   []*convBlock
	pool    []int64    // kernel and stride of the pooling; nil for none
	project *convBlock // nil if the channels do not change
	nonlin  func(*torch.Scope, *torch.Tensor) *torch.Tensor
	slope   float64 // of nonlin, 1 for none
}

// newResidualBlock returns a BottleneckD with inner channels, or a BasicBlockD if inner is 0.
func newResidualBlock(b nn.Builder, a *UNet, m *mode, in, inner, out int, kernel,
	stride []int) *residualBlock {
	r := &residualBlock{module: nn.NewModule(), slope: slope(a.Nonlin)}
	one := ones(a.Axes)
	plain := blockOptions{noDropout: true}
	last := blockOptions{noNonlin: true, noDropout: true}
	if inner == 0 {
		r.convs = []*convBlock{
			newConvBlock(b, a, m, in, out, kernel, stride, blockOptions{}),
			newConvBlock(b, a, m, out, out, kernel, one, last),
		}
	} else {
		r.convs = []*convBlock{
			newConvBlock(b, a, m, in, inner, one, one, plain),
			newConvBlock(b, a, m, inner, inner, kernel, stride, blockOptions{}),
			newConvBlock(b, a, m, inner, out, one, one, last),
		}
	}
	for i, c := range r.convs {
		r.module.Child([]string{"conv1", "conv2", "conv3"}[i], c.module)
	}
	if n := r.convs[len(r.convs)-1].norm; n != nil {
		n.ZeroInit()
	}
	if a.Nonlin != nil {
		r.nonlin = nonlin(a.Nonlin)
		r.module.Child([]string{"nonlin2", "nonlin3"}[len(r.convs)-2], nn.NewModule())
	}
	var skip []*nn.Module
	for _, n := range stride {
		if n != 1 && r.pool == nil {
			r.pool = torch.Sizes(stride)
			skip = append(skip, nn.NewModule())
		}
	}
	if in != out {
		r.project = newConvBlock(b, a, m, in, out, one, one,
			blockOptions{noNonlin: true, noDropout: true, noBias: true})
		skip = append(skip, r.project.module)
	}
	if skip != nil {
		r.module.Child("skip", nn.Sequence(skip...))
	}
	return r
}

func (r *residualBlock) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		// The shortcut is first, as in the reference: autograd sums the gradients of x in reverse
		// order of use, and the sum of three depends on the order.
		skip := x
		if r.pool != nil {
			skip = s.AvgPool(skip, r.pool, r.pool)
		}
		if r.project != nil {
			skip = r.project.forward(s, skip)
		}
		y := x
		last := len(r.convs) - 1
		for i, c := range r.convs {
			if i == last && c.fuses() {
				return c.forwardFused(s, y, skip, r.slope)
			}
			z := c.forward(s, y)
			if i > 0 {
				y.Free()
			}
			y = z
		}
		s.Add_(y, skip, 1)
		if r.nonlin != nil {
			y = r.nonlin(s, y)
		}
		return y
	})
}
