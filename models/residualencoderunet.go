package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// ResidualEncoderUNet is the class of nnU-Net's ResEnc networks (M, L and XL are one architecture):
// a stem and residual blocks in the encoder; the decoder is that of PlainConvUNet.
// Source: dynamic_network_architectures 0.3.1, unet.ResidualEncoderUNet, ResidualEncoder,
// residual.py.
type ResidualEncoderUNet struct {
	UNet
	BlocksPerStage     []int  // residual blocks per encoder stage
	Block              string // BasicBlockD or BottleneckD
	BottleneckChannels []int  // per stage; BottleneckD only
	StemChannels       int    // output channels of the stem; FeaturesPerStage[0] if not given
}

func init() {
	const class = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
	const blocks = `"n_blocks_per_stage": [1,3,4,6,6,6], "n_conv_per_stage_decoder": 1`
	registerUNet(Entry{Class: class, Summary: "nnU-Net's ResEnc M, L and XL",
		Parse: parseResidualEncoderUNet, Recognise: recogniseResidualEncoderUNet, Sizes: []Size{
			{Name: "resencl", Summary: "ResEnc M and L", Patch: []int{64, 64, 64},
				Block: unetBlock(class, releasedFeatures, releasedKernels, releasedStrides, blocks)},
			// Patch and topology are those of the published example for lymph nodes.
			{Name: "resenc", Summary: "ResEnc L of the published patch", Patch: []int{80, 112, 224},
				Block: unetBlock(class, releasedFeatures, releasedKernels,
					"[[1,1,1],[2,2,2],[2,2,2],[2,2,2],[2,2,2],[1,1,2]]", blocks)},
		}})
}

func parseResidualEncoderUNet(args plans.Arguments, dim int) Architecture {
	a := &ResidualEncoderUNet{}
	a.parse(args, a.Class(), dim, "n_blocks_per_stage", "block", "bottleneck_channels",
		"stem_channels")
	if !args.OK() {
		return a
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
		return a
	}
	if a.StemChannels = args.Int("stem_channels", a.FeaturesPerStage[0]); a.StemChannels < 1 {
		args.Fail("stem_channels", "a positive number", a.StemChannels)
	}
	return a
}

func recogniseResidualEncoderUNet(shapes map[string][]int64) *Spec {
	const first = "encoder.stem.convs.0.conv"
	if shapes[first+".weight"] == nil {
		return nil
	}
	a := &ResidualEncoderUNet{Block: "BasicBlockD", StemChannels: axisOf(shapes, first+".weight",
		0)}
	last := ".conv2.conv.weight"
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
	return a.recognise(a, shapes, first)
}

// Class returns the last component of the upstream class name.
func (a *ResidualEncoderUNet) Class() string { return "ResidualEncoderUNet" }

// Describe returns a one-line description.
func (a *ResidualEncoderUNet) Describe() string {
	return a.describe(a.Class(), fmt.Sprintf("blocks %v (%s)", a.BlocksPerStage, a.Block))
}

// Arguments returns the arguments that can be inferred from shapes.
func (a *ResidualEncoderUNet) Arguments() map[string]any {
	m := a.arguments()
	m["n_blocks_per_stage"], m["block"], m["stem_channels"] = a.BlocksPerStage, a.Block,
		a.StemChannels
	if a.BottleneckChannels != nil {
		m["bottleneck_channels"] = a.BottleneckChannels
	}
	return m
}

// Compare lists the arguments of the weights that differ.
func (a *ResidualEncoderUNet) Compare(weights Architecture) []string {
	return compareUNets(a,
		weights)
}

// Topology is the input of nnU-Net's memory estimate.
func (a *ResidualEncoderUNet) Topology() Topology { return a.topology(a.BlocksPerStage, true) }

// Activations estimates the number of values that a step keeps: for a residual block those of its
// two convolutions and the shortcut.
func (a *ResidualEncoderUNet) Activations(s Step) int64 {
	return a.activations(s, a.BlocksPerStage,
		3)
}

// New builds the network.
func (a *ResidualEncoderUNet) New(b nn.Builder, inputChannels, classes int) (Network, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	m := &mode{training: true}
	stem := newStackedConvs(b, &a.UNet, m, 1, inputChannels, a.StemChannels, a.KernelSizes[0],
		ones(a.Axes))
	in := a.StemChannels
	var stages [][]*residualBlock
	var modules []*nn.Module
	for i, f := range a.FeaturesPerStage {
		stride := a.Strides[i]
		var blocks []*residualBlock
		var bm []*nn.Module
		for range a.BlocksPerStage[i] {
			inner := 0
			if a.Block == "BottleneckD" {
				inner = a.BottleneckChannels[i]
			}
			r := newResidualBlock(b, &a.UNet, m, in, inner, f, a.KernelSizes[i], stride)
			blocks, bm = append(blocks, r), append(bm, r.module)
			in, stride = f, ones(a.Axes)
		}
		stages = append(stages, blocks)
		stage := nn.NewModule()
		stage.Child("blocks", nn.Sequence(bm...))
		modules = append(modules, stage)
	}
	encoder := nn.NewModule()
	encoder.Child("stem", stem.module)
	encoder.Child("stages", nn.Sequence(modules...))
	return newUNet(b, &a.UNet, classes, m, encoder,
		func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
			x = stem.forward(s, x, false)
			var skips []*torch.Tensor
			for i, blocks := range stages {
				y := s.Block(func(s *torch.Scope) *torch.Tensor {
					y := x
					for j, r := range blocks {
						z := r.forward(s, y)
						if j > 0 {
							y.Free()
						}
						y = z
					}
					return y
				})
				if i == 0 {
					x.Free() // the stem's output is no skip connection
				}
				x = y
				skips = append(skips, x)
			}
			return skips
		}), nil
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
			r.pool = wide(stride)
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
