// Package ondevice applies the parameters that data/augment draws as operators of libtorch, on the
// device that trains: --augment-on device. Drawing, streams and noise fields stay data/augment's,
// so that a sample is the same sample on the CPU and on a device, up to rounding: data within 2e-5
// of the range of intensities for one transform, 1e-4 for a whole list, 99.99 % of the labels.
//
// What steers an operator is known on the host, so nothing waits for the device, with one
// exception: RemoveRandomConnectedComponentFromOneHotEncodingTransform, of cascades alone. How far
// a component reaches is known only when it is found, so its channels go to the host and back.
//
// It is not the loader: it neither chooses nor cuts out cases, and draws nothing.
package ondevice

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// Patch is one sample on a device.
type Patch struct {
	Image *torch.Tensor // (c, z, y, x) or (c, y, x), float32
	Seg   *torch.Tensor // (s, …) like the image, int16 or int8; nil: there is none
	Masks bool          // Seg holds a channel of 0 and 1 for each region
	// Targets are made of Seg by DownsampleSegForDSTransform, highest resolution first, int16. They
	// may be Seg itself.
	Targets []*torch.Tensor

	folded [2]int64 // channels of image and segmentation whose slices are channels; 0: they are not
}

// dim is the number of spatial axes.
func (p *Patch) dim() int { return p.Image.Dim() - 1 }

// shape is what data/augment asks for.
func (p *Patch) shape() augment.Shape {
	s := augment.Shape{Image: volumeShape(p.Image), Dim: p.dim()}
	if s.HasSeg = p.Seg != nil; s.HasSeg {
		s.Seg = volumeShape(p.Seg)
	}
	return s
}

// volumeShape returns the shape (c, z, y, x) of a tensor, with z = 1 in 2d.
func volumeShape(t *torch.Tensor) [4]int {
	s, shape := [4]int{1, 1, 1, 1}, t.Shape()
	for i, n := range shape[1:] {
		s[4-len(shape)+1+i] = int(n)
	}
	s[0] = int(shape[0])
	return s
}

// Apply applies the steps to p, without recording for autograd. It takes over p's tensors: they are
// overwritten or freed, and p's new ones live in s. Noise is made here unless Drawn.WithNoise has
// made it. An error names the transform that failed; p is then in an undefined state.
func Apply(s *torch.Scope, drawn augment.Drawn, p *Patch) error {
	return torch.NoGrad(func() error {
		for i, step := range drawn {
			if step.Parameters == nil {
				continue
			}
			if err := p.step(s, step.Parameters); err != nil {
				return fmt.Errorf("augment: transform %d, %s: %w", i, step.Transform, err)
			}
		}
		return nil
	})
}

// step applies one transform. Of what it makes, only p's new tensors stay.
func (p *Patch) step(s *torch.Scope, parameters augment.Parameters) error {
	before := *p
	err := s.With(func(c *torch.Scope) error {
		if err := p.apply(c, parameters); err != nil {
			return err
		}
		for _, t := range append([]*torch.Tensor{p.Image, p.Seg}, p.Targets...) {
			if t != nil && t != before.Image && t != before.Seg {
				t.MoveTo(s)
			}
		}
		return c.Err()
	})
	if err != nil {
		return err
	}
	if before.Image != p.Image {
		before.Image.Free()
	}
	if before.Seg != p.Seg && !slices.Contains(p.Targets, before.Seg) {
		before.Seg.Free()
	}
	return nil
}

// changeSeg replaces the segmentation, and the target that it is: on the CPU it changes in place.
func (p *Patch) changeSeg(seg *torch.Tensor) {
	for i, t := range p.Targets {
		if t == p.Seg {
			p.Targets[i] = seg
		}
	}
	p.Seg = seg
}

func (p *Patch) apply(s *torch.Scope, parameters augment.Parameters) error {
	switch a := parameters.(type) {
	case *augment.Convert3DTo2DTransform:
		return p.fold(s, a)
	case *augment.Convert2DTo3DTransform:
		return p.unfold(s, a)
	case *augment.SpatialParameters:
		return p.spatial(s, a)
	case *augment.GaussianNoiseParameters:
		return p.noise(s, a)
	case *augment.GaussianBlurParameters:
		return p.blur(s, a)
	case *augment.MultiplicativeBrightnessParameters:
		return p.brightness(s, a)
	case *augment.ContrastParameters:
		return p.contrast(s, a)
	case *augment.SimulateLowResolutionParameters:
		return p.lowResolution(s, a)
	case *augment.GammaParameters:
		return p.gamma(s, a)
	case *augment.MirrorParameters:
		return p.mirror(s, a)
	case *augment.MaskImageTransform:
		return p.mask(s, a)
	case *augment.RemoveLabelTansform:
		return p.removeLabel(s, a)
	case *augment.MoveSegAsOneHotToDataTransform:
		return p.moveToImage(s, a)
	case *augment.ApplyRandomBinaryOperatorParameters:
		return p.binaryOperator(s, a)
	case *augment.RemoveRandomConnectedComponentFromOneHotEncodingParameters:
		return p.removeComponent(s, a)
	case *augment.ConvertSegmentationToRegionsTransform:
		return p.regions(s, a)
	case *augment.DownsampleSegForDSTransform:
		return p.downsample(s, a)
	}
	return errors.New("is not built for a device; leave out --augment-on device")
}

// Upload returns the tensors of a patch on a device, owned by s. seg may be nil, and so may from,
// the memory that the patch may lie in.
func Upload(s *torch.Scope, d torch.Device, from *torch.Staging, image *volume.Volume[float32],
	seg *volume.Volume[int16], dim int) *Patch {
	p := &Patch{Image: torch.Upload(s, d, from, image.Data, tensorShape(image.Shape, dim)...)}
	if seg != nil {
		p.Seg = torch.Upload(s, d, from, seg.Data, tensorShape(seg.Shape, dim)...)
	}
	return p
}

// tensorShape is (c, z, y, x) or, in 2d, (c, y, x).
func tensorShape(shape [4]int, dim int) []int64 {
	return append([]int64{int64(shape[0])}, torch.Sizes(shape[4-dim:])...)
}

// Download copies a patch to the host, as data/augment has it.
func Download(p *Patch) (*augment.Patch, error) {
	out := &augment.Patch{Dim: p.dim(), Masks: p.Masks}
	image, err := download[float32](p.Image)
	if err != nil {
		return nil, err
	}
	out.Image = image
	if p.Seg == nil {
		return out, nil
	}
	if out.Seg, err = labels(p.Seg); err != nil {
		return nil, err
	}
	for _, t := range p.Targets {
		v, err := labels(t)
		if err != nil {
			return nil, err
		}
		out.Targets = append(out.Targets, v)
	}
	return out, nil
}

func download[T torch.Element](t *torch.Tensor) (*volume.Volume[T], error) {
	data, err := torch.Slice[T](t)
	if err != nil {
		return nil, err
	}
	return &volume.Volume[T]{Data: data, Shape: volumeShape(t)}, nil
}

// labels downloads a segmentation, which is int8 where no transform has touched it.
func labels(t *torch.Tensor) (v *volume.Volume[int16], err error) {
	if t.DType() == torch.Int16 {
		return download[int16](t)
	}
	err = torch.With(func(s *torch.Scope) error {
		v, err = download[int16](s.To(t, torch.Int16, t.Device()))
		return err
	})
	return v, err
}
