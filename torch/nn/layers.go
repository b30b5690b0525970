package nn

import (
	"math"

	"github.com/lntorch/lntorch/torch"
)

// Conv is torch.nn.Conv2d or Conv3d, depending on the length of its kernel, with "same"-like
// padding (k-1)/2 and dilation 1.
type Conv struct {
	*Module
	Weight, Bias             *Param // Bias is nil without bias
	kernel, stride, pad, dil []int64
}

// NewConv returns a convolution in → out.
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

// ForwardLean is Forward with a cheaper backward pass where the weight is frozen
// (torch.Scope.ConvLean).
func (c *Conv) ForwardLean(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return c.Weight.apply(s, x, c.Bias, func(x, w, b *torch.Tensor) *torch.Tensor {
		return s.ConvLean(x, w, b, c.stride, c.pad, c.dil, 1)
	})
}

// ConvTranspose is torch.nn.ConvTranspose2d or 3d whose stride equals its kernel. Its weight is
// (in, out, kernel…).
type ConvTranspose struct {
	*Module
	Weight, Bias *Param
	stride       []int64
}

// NewConvTranspose returns a transposed convolution in → out that upsamples by stride.
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
	return c.Weight.apply(s, x, c.Bias,
		func(x, w, b *torch.Tensor) *torch.Tensor { return s.ConvTranspose(x, w, b, c.stride) })
}

// ForwardCat concatenates the result of Forward and skip (n, c, d·stride…) along the channels, as
// one operator.
func (c *ConvTranspose) ForwardCat(s *torch.Scope, x, skip *torch.Tensor) *torch.Tensor {
	if a := c.Weight.Adapter; a != nil && !a.Folds() {
		return s.Cat(1, c.Forward(s, x), skip)
	}
	return c.Weight.apply(s, x, c.Bias,
		func(x, w, b *torch.Tensor) *torch.Tensor {
			return s.ConvTransposeCat(x, w, b, skip,
				c.stride)
		})
}

// heNormal is nnU-Net's InitWeights_He(1e-2): Kaiming normal with fan_in, and biases 0. fan_in is
// axis 1 times the kernel's volume; for a transposed convolution axis 1 is its outputs. The values
// are drawn on the CPU, so a seed gives the same network on every device.
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

// DefaultInit makes Reset use PyTorch's default initialisation, for networks that nnU-Net does not
// initialise.
func (c *Conv) DefaultInit() *Conv {
	c.OnReset(func(s *torch.Scope, g *torch.Generator) { kaimingUniform(s, g, c.Weight, c.Bias) })
	return c
}

// DefaultInit makes Reset use PyTorch's default initialisation.
func (c *ConvTranspose) DefaultInit() *ConvTranspose {
	c.OnReset(func(s *torch.Scope, g *torch.Generator) { kaimingUniform(s, g, c.Weight, c.Bias) })
	return c
}

// kaimingUniform is reset_parameters of PyTorch's convolutions and Linear, with the same values:
// kaiming_uniform_ with a = sqrt(5) for the weight, U(±1/sqrt(fan_in)) for the bias. The order of
// operations makes the bounds bit-equal to PyTorch's.
func kaimingUniform(s *torch.Scope, g *torch.Generator, weight, bias *Param) {
	fanIn := int64(1)
	for _, n := range weight.Shape[1:] {
		fanIn *= n
	}
	a := math.Sqrt(5)
	std := math.Sqrt(2/(1+a*a)) / math.Sqrt(float64(fanIn))
	bound := math.Sqrt(3) * std
	drawUniform(s, g, weight, bound)
	if bias != nil {
		drawUniform(s, g, bias, 1/math.Sqrt(float64(fanIn)))
	}
}

// drawUniform fills p from U[-bound, bound), drawn on the CPU like all initial values.
func drawUniform(s *torch.Scope, g *torch.Generator, p *Param, bound float64) {
	t := s.Empty(p.Shape, torch.Float32, torch.CPU)
	s.Uniform_(t, -bound, bound, g)
	s.Copy_(p.T, t, false)
	t.Free()
}

// TruncatedNormal fills p from N(0, std²) truncated at ±2, with the values of MONAI's
// trunc_normal_.
// Source: MONAI 1.3.0, networks/layers/weight_init.py.
func TruncatedNormal(s *torch.Scope, g *torch.Generator, p *Param, std float64) {
	const limit = 2
	low, high := (1+math.Erf(-limit/std/math.Sqrt2))/2, (1+math.Erf(limit/std/math.Sqrt2))/2
	t := s.Empty(p.Shape, torch.Float32, torch.CPU)
	s.Uniform_(t, 2*low-1, 2*high-1, g)
	s.Copy_(p.T, s.Clamp(s.MulScalar(s.Erfinv(t), std*math.Sqrt2), -limit, limit), false)
}

// Linear is torch.nn.Linear.
type Linear struct {
	*Module
	Weight, Bias *Param // Bias is nil without bias
}

// NewLinear returns a linear layer in → out.
func (b Builder) NewLinear(in, out int64, bias bool) *Linear {
	l := &Linear{Module: NewModule(), Weight: b.Param(out, in)}
	l.Weight.Use = LinearWeight
	l.Add("weight", l.Weight)
	if bias {
		l.Bias = b.Param(out)
		l.Add("bias", l.Bias)
	}
	l.OnReset(func(s *torch.Scope, g *torch.Generator) { kaimingUniform(s, g, l.Weight, l.Bias) })
	return l
}

// Forward: x (…, in) → (…, out).
func (l *Linear) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return l.Weight.apply(s, x, l.Bias, s.Linear)
}

// LayerNorm is torch.nn.LayerNorm over the last axis, with eps 1e-5.
type LayerNorm struct {
	*Module
	Weight, Bias *Param
}

// NewLayerNorm returns a norm over a last axis of the given size.
func (b Builder) NewLayerNorm(size int64) *LayerNorm {
	n := &LayerNorm{Module: NewModule(), Weight: b.Param(size), Bias: b.Param(size)}
	n.Add("weight", n.Weight)
	n.Add("bias", n.Bias)
	n.OnReset(func(s *torch.Scope, _ *torch.Generator) {
		s.Fill_(n.Weight.T, 1)
		s.Fill_(n.Bias.T, 0)
	})
	return n
}

// Forward: x (…, size) → the same shape.
func (n *LayerNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.LayerNorm(x, n.Weight.Shape, n.Weight.T, n.Bias.T, 1e-5)
}

// InstanceNorm is torch.nn.InstanceNorm2d or 3d without running statistics.
type InstanceNorm struct {
	*Module
	Weight, Bias *Param // nil without affine
	eps          float64
	zero         bool
}

// NewInstanceNorm returns a norm of channels; with affine it has a weight and a bias.
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

// ZeroInit makes Reset set the norm's weight to 0, so a residual block initially equals its
// shortcut.
func (n *InstanceNorm) ZeroInit() { n.zero = true }

// Forward: x (n, channels, …) → the same shape.
func (n *InstanceNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.InstanceNorm(x, value(n.Weight), value(n.Bias), n.eps)
}

// ForwardLeakyReLU is Forward, plus residual (nil: none), then LeakyReLU (slope 1: none), as one
// operator (torch.Scope.InstanceNormLeakyReLU).
func (n *InstanceNorm) ForwardLeakyReLU(s *torch.Scope, x, residual *torch.Tensor,
	slope float64) *torch.Tensor {
	return s.InstanceNormLeakyReLU(x, value(n.Weight), value(n.Bias), residual, n.eps, slope)
}

func value(p *Param) *torch.Tensor {
	if p == nil {
		return nil
	}
	return p.T
}
