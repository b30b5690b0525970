package ondevice

import (
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/torch"
)

// channel is a view of one channel of the image.
func (p *Patch) channel(s *torch.Scope, c int) *torch.Tensor {
	return s.Select(p.Image, 0, int64(c))
}

// noise adds sigma times the field.
func (p *Patch) noise(s *torch.Scope, a *augment.GaussianNoiseParameters) error {
	shape := p.shape()
	channels, err := a.Selected(shape)
	if err != nil || len(channels) == 0 {
		return err
	}
	field, err := a.Field(shape)
	if err != nil {
		return err
	}
	fields := int64(len(a.Sigmas.Values))
	sizes := slices.Concat([]int64{fields}, p.Image.Shape()[1:])
	noise := torch.Upload(s, p.Image.Device(), nil, field, sizes...)
	for i, c := range channels {
		if a.Sigmas.One { // all channels get the same field
			i = 0
		}
		s.Add_(p.channel(s, c), s.Select(noise, 0, int64(i)), float64(float32(a.Sigmas.Values[i])))
	}
	return nil
}

// blur smooths along one axis after the other.
func (p *Patch) blur(s *torch.Scope, a *augment.GaussianBlurParameters) error {
	channels, taps, err := a.Taps(p.shape())
	if err != nil {
		return err
	}
	for i, c := range channels {
		_ = s.With(func(s *torch.Scope) error { // the error stays in s
			before := p.channel(s, c)
			x := before
			for axis, k := range taps[i] {
				if len(k) > 1 {
					x = s.Block(func(s *torch.Scope) *torch.Tensor {
						return smooth(s, x, int64(axis), k)
					})
				}
			}
			if x != before {
				s.Copy_(before, x, true)
			}
			return nil
		})
	}
	return s.Err()
}

// smooth is a weighted sum of neighbours along an axis; the array is mirrored at its border, the
// voxels of the border not repeated. Not a convolution, whose inputs CUDA may round to 10 bits.
func smooth(s *torch.Scope, x *torch.Tensor, axis int64, taps []float32) *torch.Tensor {
	n, reach := x.Shape()[axis], int64(len(taps)-1)
	wide := s.Cat(axis, s.Flip(s.Narrow(x, axis, 1, reach), axis), x,
		s.Flip(s.Narrow(x, axis, n-1-reach, reach), axis))
	out := s.MulScalar(x, float64(taps[0]))
	for k := int64(1); k <= reach; k++ {
		pair := s.Add(s.Narrow(wide, axis, reach-k, n), s.Narrow(wide, axis, reach+k, n))
		s.Add_(out, pair, float64(taps[k]))
		pair.Free()
	}
	return out
}

func (p *Patch) brightness(s *torch.Scope, a *augment.MultiplicativeBrightnessParameters) error {
	channels, err := a.Selected(p.shape())
	if err != nil {
		return err
	}
	for i, c := range channels {
		s.MulScalar_(p.channel(s, c), float64(float32(a.Multipliers[i])))
	}
	return nil
}

// moments are the mean and the standard deviation of all voxels, computed in float64: scalars of
// float32 that stay on the device.
func moments(s *torch.Scope, x *torch.Tensor) (mean, deviation *torch.Tensor) {
	single := func(t *torch.Tensor) *torch.Tensor { return s.To(t, torch.Float32, x.Device()) }
	wide := s.To(x, torch.Float64, x.Device())
	exact := s.Mean(wide)
	s.Add_(wide, exact, -1)
	s.Mul_(wide, wide)
	mean, deviation = single(exact), single(s.Sqrt(s.Mean(wide)))
	wide.Free()
	return mean, deviation
}

// contrast computes (x - mean)·factor + mean.
func (p *Patch) contrast(s *torch.Scope, a *augment.ContrastParameters) error {
	channels, err := a.Selected(p.shape())
	if err != nil {
		return err
	}
	for i, c := range channels {
		_ = s.With(func(s *torch.Scope) error { // the error stays in s
			before := p.channel(s, c)
			mean, _ := moments(s, before)
			x := s.Sub(before, mean)
			s.MulScalar_(x, float64(float32(a.Multipliers[i])))
			s.Add_(x, mean, 1)
			if a.PreserveRange {
				x = s.Minimum(s.Maximum(x, s.Amin(before, false)), s.Amax(before, false))
			}
			s.Copy_(before, x, true)
			return nil
		})
	}
	return s.Err()
}

// smallRange is torch.clamp(…, min=1e-7) of ranges and deviations.
const smallRange = 1e-7

// gamma raises what lies between minimum and maximum to a power.
func (p *Patch) gamma(s *torch.Scope, a *augment.GammaParameters) error {
	channels, err := a.Selected(p.shape())
	if err != nil {
		return err
	}
	for i, c := range channels {
		_ = s.With(func(s *torch.Scope) error { // the error stays in s
			before := p.channel(s, c)
			x := before
			if a.InvertImage[i] {
				x = s.Neg(before)
			}
			low := s.Amin(x, false)
			width := s.Sub(s.Amax(x, false), low)
			power := s.Div(s.Sub(x, low), s.ClampMin(width, smallRange))
			power = s.Pow(power, float64(float32(a.Gamma[i])))
			s.Mul_(power, width)
			s.Add_(power, low, 1)
			if a.RetainStats[i] {
				mean, deviation := moments(s, x)
				shift, spread := moments(s, power)
				power = s.Sub(power, shift)
				s.Mul_(power, s.Div(deviation, s.ClampMin(spread, smallRange)))
				s.Add_(power, mean, 1)
			}
			if a.InvertImage[i] {
				power = s.Neg(power)
			}
			s.Copy_(before, power, true)
			return nil
		})
	}
	return s.Err()
}

// lowResolution takes the nearest voxels and interpolates linearly between them.
func (p *Patch) lowResolution(s *torch.Scope, a *augment.SimulateLowResolutionParameters) error {
	channels, rows, err := a.Axes(p.shape())
	if err != nil {
		return err
	}
	for i, c := range channels {
		_ = s.With(func(s *torch.Scope) error { // the error stays in s
			before := p.channel(s, c)
			x := before
			for axis, r := range rows[i] {
				if r.From != nil {
					x = s.IndexSelect(x, int64(axis), indices(s, x, r.From))
				}
			}
			for axis := len(rows[i]) - 1; axis >= 0; axis-- {
				if r := rows[i][axis]; r.From != nil {
					x = s.Block(func(s *torch.Scope) *torch.Tensor { return refine(s, x, axis, r) })
				}
			}
			if x != before {
				s.Copy_(before, x, true)
			}
			return nil
		})
	}
	return s.Err()
}

func indices(s *torch.Scope, x *torch.Tensor, index []int64) *torch.Tensor {
	return torch.Upload(s, x.Device(), nil, index, int64(len(index)))
}

// refine interpolates linearly along an axis.
func refine(s *torch.Scope, x *torch.Tensor, axis int, r augment.CoarseAxis) *torch.Tensor {
	left := s.IndexSelect(x, int64(axis), indices(s, x, r.Left))
	right := s.IndexSelect(x, int64(axis), indices(s, x, r.Right))
	shape := []int64{1, 1, 1}[:x.Dim()]
	shape[axis] = int64(len(r.Part))
	s.Add_(right, left, -1)
	s.Mul_(right, torch.Upload(s, x.Device(), nil, r.Part, shape...))
	s.Add_(left, right, 1)
	return left
}
