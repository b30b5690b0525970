package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

func init() {
	Register(Entry{Class: "ResidualEncoderUNet", New: newResidualEncoderUNet, Recognise: recogniseResidualEncoderUNet})
}

func recogniseResidualEncoderUNet(shapes map[string][]int64) *Spec {
	const first = "encoder.stem.convs.0.conv"
	if shapes[first+".weight"] == nil {
		return nil
	}
	a := &plans.Architecture{NetworkClass: "ResidualEncoderUNet", Block: "BasicBlockD", StemChannels: axisOf(shapes, first+".weight", 0)}
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
	return recogniseUNet(a, shapes, first)
}

// newResidualEncoderUNet builds nnU-Net's ResEnc networks (M, L and XL are one architecture): a stem, then residual
// blocks in the encoder; the decoder is PlainConvUNet's.
// Source: dynamic_network_architectures 0.3.1, unet.ResidualEncoderUNet, ResidualEncoder, residual.py.
func newResidualEncoderUNet(b nn.Builder, spec Spec) (Network, error) {
	a := spec.Architecture
	if err := checkUNet(a); err != nil {
		return nil, err
	}
	m := &mode{training: true}
	stem := newStackedConvs(b, a, m, 1, spec.InputChannels, a.StemChannels, a.KernelSizes[0], ones(a.Dim))
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
			r := newResidualBlock(b, a, m, in, inner, f, a.KernelSizes[i], stride)
			blocks, bm = append(blocks, r), append(bm, r.module)
			in, stride = f, ones(a.Dim)
		}
		stages = append(stages, blocks)
		stage := nn.NewModule()
		stage.Child("blocks", nn.Sequence(bm...))
		modules = append(modules, stage)
	}
	encoder := nn.NewModule()
	encoder.Child("stem", stem.module)
	encoder.Child("stages", nn.Sequence(modules...))
	return newUNet(b, spec, m, encoder, func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
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

// residualBlock is BasicBlockD (two convolutions) or BottleneckD (1×1, k×k with the stride, 1×1), with the shortcut of
// ResNet-D: average pooling where the block strides, then a 1×1 convolution without bias where the channels change.
type residualBlock struct {
	module  *nn.Module
	convs   []*convBlock
	pool    []int64    // kernel and stride of the pooling; nil for none
	project *convBlock // nil where the channels stay
	nonlin  func(*torch.Scope, *torch.Tensor) *torch.Tensor
	slope   float64 // of nonlin, 1 for none
}

// newResidualBlock makes a BottleneckD when inner, the channels between, is not 0.
func newResidualBlock(b nn.Builder, a *plans.Architecture, m *mode, in, inner, out int, kernel, stride []int) *residualBlock {
	r := &residualBlock{module: nn.NewModule(), slope: slope(a.Nonlin)}
	one := ones(a.Dim)
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
		r.project = newConvBlock(b, a, m, in, out, one, one, blockOptions{noNonlin: true, noDropout: true, noBias: true})
		skip = append(skip, r.project.module)
	}
	if skip != nil {
		r.module.Child("skip", nn.Sequence(skip...))
	}
	return r
}

func (r *residualBlock) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		// The shortcut comes first, as in the reference: autograd adds up the gradients of x in the reverse of the order in
		// which x was used, and the sum of three depends on it.
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
