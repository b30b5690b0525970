package nn

import (
	"math"

	"github.com/lntorch/lntorch/torch"
)

// Conv is torch.nn.Conv2d or Conv3d, by the length of its kernel, with "same"-like padding (k-1)/2 and dilation 1.
type Conv struct {
	*Module
	Weight, Bias             *Param // Bias is nil without bias
	kernel, stride, pad, dil []int64
}

// NewConv makes a convolution in → out.
func (b Builder) NewConv(in, out int64, kernel, stride []int64, bias bool) *Conv {
	c := &Conv{Module: NewModule(), kernel: kernel, stride: stride}
	for _, k := range kernel {
		c.pad = append(c.pad, (k-1)/2)
		c.dil = append(c.dil, 1)
	}
	c.Weight = b.Param(append([]int64{out, in}, kernel...)...)
	c.Weight.Use = ConvWeight
	c.Add("weight", c.Weight)
	if bias {
		c.Bias = b.Param(out)
		c.Add("bias", c.Bias)
	}
	c.OnReset(func(s *torch.Scope, g *torch.Generator) { heNormal(s, g, c.Weight, c.Bias) })
	return c
}

// Forward: x (n, in, …) → (n, out, …).
func (c *Conv) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return c.Weight.apply(s, x, c.Bias, func(x, w, b *torch.Tensor) *torch.Tensor {
		return s.Conv(x, w, b, c.stride, c.pad, c.dil, 1)
	})
}

// ForwardLean is Forward that is cheaper to go back through where the weight does not train (torch.Scope.ConvLean).
func (c *Conv) ForwardLean(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.ConvLean(x, c.Weight.T, value(c.Bias), c.stride, c.pad, c.dil, 1)
}

// ConvTranspose is torch.nn.ConvTranspose2d or 3d whose stride equals its kernel. Its weight is (in, out, kernel…).
type ConvTranspose struct {
	*Module
	Weight, Bias *Param
	stride       []int64
}

// NewConvTranspose makes a transposed convolution in → out that enlarges by stride.
func (b Builder) NewConvTranspose(in, out int64, stride []int64, bias bool) *ConvTranspose {
	c := &ConvTranspose{Module: NewModule(), stride: stride}
	c.Weight = b.Param(append([]int64{in, out}, stride...)...)
	c.Weight.Use = ConvTransposeWeight
	c.Add("weight", c.Weight)
	if bias {
		c.Bias = b.Param(out)
		c.Add("bias", c.Bias)
	}
	c.OnReset(func(s *torch.Scope, g *torch.Generator) { heNormal(s, g, c.Weight, c.Bias) })
	return c
}

// Forward: x (n, in, d…) → (n, out, d·stride…).
func (c *ConvTranspose) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return c.Weight.apply(s, x, c.Bias, func(x, w, b *torch.Tensor) *torch.Tensor { return s.ConvTranspose(x, w, b, c.stride) })
}

// ForwardCat is Forward with skip (n, c, d·stride…) behind it along the channels, as one operator.
func (c *ConvTranspose) ForwardCat(s *torch.Scope, x, skip *torch.Tensor) *torch.Tensor {
	if a := c.Weight.Adapter; a != nil && !a.Folds() {
		return s.Cat(1, c.Forward(s, x), skip)
	}
	return c.Weight.apply(s, x, c.Bias, func(x, w, b *torch.Tensor) *torch.Tensor { return s.ConvTransposeCat(x, w, b, skip, c.stride) })
}

// heNormal is nnU-Net's InitWeights_He(1e-2): Kaiming normal with fan_in, and biases 0. fan_in is axis 1 times the kernel's
// volume; for a transposed convolution axis 1 is its outputs. The numbers are drawn on the CPU, so that a seed gives the
// same network on every device.
func heNormal(s *torch.Scope, g *torch.Generator, weight, bias *Param) {
	const slope = 1e-2
	fanIn := int64(1)
	for _, n := range weight.Shape[1:] {
		fanIn *= n
	}
	std := math.Sqrt(2/(1+slope*slope)) / math.Sqrt(float64(fanIn))
	t := s.Empty(weight.Shape, torch.Float32, torch.CPU)
	s.Normal_(t, 0, std, g)
	s.Copy_(weight.T, t, false)
	t.Free()
	if bias != nil {
		s.Fill_(bias.T, 0)
	}
}

// InstanceNorm is torch.nn.InstanceNorm2d or 3d without running statistics.
type InstanceNorm struct {
	*Module
	Weight, Bias *Param // nil without affine
	eps          float64
	zero         bool
}

// NewInstanceNorm makes a norm over channels; affine gives it a weight and a bias.
func (b Builder) NewInstanceNorm(channels int64, eps float64, affine bool) *InstanceNorm {
	n := &InstanceNorm{Module: NewModule(), eps: eps}
	n.Version = 2
	if affine {
		n.Weight, n.Bias = b.Param(channels), b.Param(channels)
		n.Add("weight", n.Weight)
		n.Add("bias", n.Bias)
		n.OnReset(func(s *torch.Scope, _ *torch.Generator) {
			one := 1.0
			if n.zero {
				one = 0
			}
			s.Fill_(n.Weight.T, one)
			s.Fill_(n.Bias.T, 0)
		})
	}
	return n
}

// ZeroInit makes Reset start the norm's weight at 0, so that a residual block begins as its shortcut.
func (n *InstanceNorm) ZeroInit() { n.zero = true }

// Forward keeps x's shape (n, channels, …).
func (n *InstanceNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.InstanceNorm(x, value(n.Weight), value(n.Bias), n.eps)
}

// ForwardLeakyReLU is Forward, then the sum with residual (nil: none), then the leaky rectifier (slope 1: none), as one
// operator (torch.Scope.InstanceNormLeakyReLU).
func (n *InstanceNorm) ForwardLeakyReLU(s *torch.Scope, x, residual *torch.Tensor, slope float64) *torch.Tensor {
	return s.InstanceNormLeakyReLU(x, value(n.Weight), value(n.Bias), residual, n.eps, slope)
}

func value(p *Param) *torch.Tensor {
	if p == nil {
		return nil
	}
	return p.T
}
