package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// This file holds what PlainConvUNet and ResidualEncoderUNet share: the convolution block and the decoder.
// Source: dynamic_network_architectures 0.3.1 (simple_conv_blocks.py, unet_decoder.py); names and order are its.

// unet is a U-Net around some encoder.
type unet struct {
	root     *nn.Module
	encode   func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
	decoder  *decoder
	mode     *mode
	divisors []int64 // product of the strides per axis
}

// mode is what may change after construction; every block of a network points to the same one.
type mode struct {
	training        bool
	deepSupervision bool
	fast            bool
	fused           bool // in this pass
}

// fuses says whether blocks run their fused operators, which want channels last: on the CPU always, on CUDA where the shim
// has kernels and the convolutions compute in half precision, whose matrix units are quickest in that order.
func (m *mode) fuses(x *torch.Tensor) bool {
	d := x.Device().Type
	return m.fast && (d == torch.DeviceCPU || d.HasKernels() && torch.InAutocast(d))
}

// run is the convolution's forward in the mode of the moment.
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
		s.Fail(fmt.Errorf("models: input has shape %v, expected (n, c, %d spatial axes)", shape, len(u.divisors)))
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
	if err != nil { // s has it already
		return nil
	}
	return heads
}

// CheckInput: every size must be divisible by the strides' product.
func (u *unet) CheckInput(spatial []int64) error {
	return checkInput(spatial, u.divisors, "the product of the strides")
}

// newUNet puts an encoder (its module, forward and architecture) and a decoder together.
func newUNet(b nn.Builder, spec Spec, m *mode, encoder *nn.Module, encode func(*torch.Scope, *torch.Tensor) []*torch.Tensor) *unet {
	a := spec.Architecture
	u := &unet{root: nn.NewModule(), encode: encode, mode: m}
	u.decoder = newDecoder(b, a, spec.NumClasses, m, encoder)
	u.root.Child("encoder", encoder)
	u.root.Child("decoder", u.decoder.module)
	u.divisors = make([]int64, a.Dim)
	for i := range u.divisors {
		u.divisors[i] = 1
		for _, st := range a.Strides {
			u.divisors[i] *= int64(st[i])
		}
	}
	return u
}

// checkUNet refuses layers that lntorch's blocks do not have.
func checkUNet(a *plans.Architecture) error {
	if a.Norm != nil && (len(a.Norm.Op) < 12 || a.Norm.Op[:12] != "InstanceNorm") {
		return fmt.Errorf("norm_op %s is not supported, InstanceNorm2d and InstanceNorm3d are", a.Norm.Op)
	}
	if a.Norm != nil && a.Norm.TrackRunningStats {
		return fmt.Errorf("norm_op_kwargs: track_running_stats is not supported")
	}
	return nil
}

// convBlock is ConvDropoutNormReLU. The layers stand under their own names and again, the same objects, under
// all_modules in the order in which they run.
type convBlock struct {
	module *nn.Module
	run    []func(*torch.Scope, *torch.Tensor) *torch.Tensor
	norm   *nn.InstanceNorm
	mode   *mode
	fused  int     // operators of run before the norm, if the norm and the rest of run can be one; else 0
	slope  float64 // of the nonlinearity, 1 for none
}

// blockOptions leaves out parts of a convBlock.
type blockOptions struct{ noNonlin, noDropout, noBias bool }

func newConvBlock(b nn.Builder, a *plans.Architecture, m *mode, in, out int, kernel, stride []int, o blockOptions) *convBlock {
	c := &convBlock{module: nn.NewModule(), mode: m, slope: 1}
	conv := b.NewConv(int64(in), int64(out), wide(kernel), wide(stride), a.ConvBias && !o.noBias)
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

// forwardFused does the norm, the sum with residual (nil for none) and the rectifier in one operator.
func (c *convBlock) forwardFused(s *torch.Scope, x, residual *torch.Tensor, slope float64) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for _, f := range c.run[:c.fused] {
			x = f(s, x)
		}
		return c.norm.ForwardLeakyReLU(s, x, residual, slope)
	})
}

func dropout(d *plans.Dropout, m *mode) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		if d.Op == "Dropout" {
			return s.Dropout(x, d.P, m.training)
		}
		return s.FeatureDropout(x, d.P, m.training)
	}
}

// nonlin runs in place: the tensor before it is needed by nobody, and one activation less is kept.
func nonlin(n *plans.Nonlin) func(*torch.Scope, *torch.Tensor) *torch.Tensor {
	slope := n.NegativeSlope
	if n.Op == "ReLU" {
		return (*torch.Scope).Relu
	}
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.LeakyRelu_(x, slope) }
}

// slope is the nonlinearity's factor below 0.
func slope(n *plans.Nonlin) float64 {
	switch {
	case n == nil:
		return 1
	case n.Op == "ReLU":
		return 0
	}
	return n.NegativeSlope
}

// stackedConvs is StackedConvBlocks: n blocks, of which the first may stride and change the channels.
type stackedConvs struct {
	module *nn.Module
	blocks []*convBlock
}

func newStackedConvs(b nn.Builder, a *plans.Architecture, m *mode, n, in, out int, kernel, stride []int) *stackedConvs {
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

// forward frees x as soon as it is used up, if this is its last use.
func (c *stackedConvs) forward(s *torch.Scope, x *torch.Tensor, last bool) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		for i, b := range c.blocks {
			y := b.forward(s, x)
			if i > 0 || last {
				x.Free() // autograd holds on to what it needs
			}
			x = y
		}
		return x
	})
}

// decoder is UNetDecoder: from low to high resolution it enlarges, joins the skip connection and convolves; every stage
// has a segmentation head.
type decoder struct {
	module *nn.Module
	up     []*nn.ConvTranspose
	stages []*stackedConvs
	heads  []*nn.Conv
	mode   *mode
}

func newDecoder(b nn.Builder, a *plans.Architecture, classes int, m *mode, encoder *nn.Module) *decoder {
	d := &decoder{module: nn.NewModule(), mode: m}
	var stages, ups, heads []*nn.Module
	one := ones(a.Dim)
	for i := range a.NumStages - 1 {
		t := a.NumStages - 2 - i // encoder stage whose skip comes in
		f := a.FeaturesPerStage[t]
		up := b.NewConvTranspose(int64(a.FeaturesPerStage[t+1]), int64(f), wide(a.Strides[t+1]), a.ConvBias)
		st := newStackedConvs(b, a, m, a.DecoderConvs[i], 2*f, f, a.KernelSizes[t], one)
		head := b.NewConv(int64(f), int64(classes), wide(one), wide(one), true)
		d.up, d.stages, d.heads = append(d.up, up), append(d.stages, st), append(d.heads, head)
		ups, stages, heads = append(ups, up.Module), append(stages, st.module), append(heads, head.Module)
	}
	d.module.Child("encoder", encoder)
	d.module.Child("stages", nn.Sequence(stages...))
	d.module.Child("transpconvs", nn.Sequence(ups...))
	d.module.Child("seg_layers", nn.Sequence(heads...))
	return d
}

// forward: skips from high to low resolution → heads from high to low resolution. It frees the handles of skips as they
// are used up.
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

func wide(v []int) []int64 {
	w := make([]int64, len(v))
	for i, x := range v {
		w[i] = int64(x)
	}
	return w
}

func ones(n int) []int {
	v := make([]int, n)
	for i := range v {
		v[i] = 1
	}
	return v
}
