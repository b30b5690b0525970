package ondevice

import (
	"cmp"
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/torch"
)

// mask sets the image to a value where the segmentation is below 0.
//
// Compat: all channels, not only those of apply_to_channels.
func (p *Patch) mask(s *torch.Scope, a *augment.MaskImageTransform) error {
	channel, err := p.shape().SegChannel("channel_idx_in_seg", a.ChannelIdxInSeg)
	if err != nil {
		return err
	}
	outside := s.CompareScalar(s.Select(p.Seg, 0, int64(channel)), torch.Lt, 0)
	p.Image = s.MaskedFill(p.Image, outside, float64(float32(a.SetOutsideTo)))
	return nil
}

// wideSeg makes the segmentation int16, for labels that int8 may not hold.
func (p *Patch) wideSeg(s *torch.Scope) {
	if p.Seg.DType() != torch.Int16 {
		p.changeSeg(s.To(p.Seg, torch.Int16, p.Seg.Device()))
	}
}

func (p *Patch) removeLabel(s *torch.Scope, a *augment.RemoveLabelTansform) error {
	if p.Seg == nil {
		return nil
	}
	p.wideSeg(s)
	is := s.CompareScalar(p.Seg, torch.Eq, float64(a.LabelValue))
	p.changeSeg(s.MaskedFill(p.Seg, is, float64(a.SetTo)))
	return nil
}

// moveToImage appends a channel per label to the image, and removes theirs from the segmentation.
func (p *Patch) moveToImage(s *torch.Scope, a *augment.MoveSegAsOneHotToDataTransform) error {
	source, err := a.Source(p.shape())
	if err != nil {
		return err
	}
	at, channels := int64(source), p.Seg.Shape()[0]
	parts := []*torch.Tensor{p.Image}
	for _, label := range a.AllLabels {
		is := s.CompareScalar(s.Narrow(p.Seg, 0, at, 1), torch.Eq, float64(label))
		parts = append(parts, s.To(is, torch.Float32, p.Image.Device()))
	}
	p.Image = s.Cat(0, parts...)
	p.Seg = s.Cat(0, s.Narrow(p.Seg, 0, 0, at), s.Narrow(p.Seg, 0, at+1, channels-at-1))
	return nil
}

// binaryOperator dilates and erodes channels with a ball; what a channel wins the others lose.
func (p *Patch) binaryOperator(s *torch.Scope,
	a *augment.ApplyRandomBinaryOperatorParameters) error {
	list, err := a.Operations(p.shape())
	if err != nil {
		return err
	}
	for _, o := range list {
		_ = s.With(func(s *torch.Scope) error { // the error stays in s
			before := p.channel(s, o.Channel)
			was := s.CompareScalar(before, torch.Ne, 0)
			is := was
			for _, dilate := range o.Dilate {
				if !dilate { // outside counts as 1
					is = s.LogicalNot(is)
				}
				is = s.Block(func(s *torch.Scope) *torch.Tensor { return dilated(s, is, o.Ball) })
				if !dilate {
					is = s.LogicalNot(is)
				}
			}
			won := s.Mul(is, s.LogicalNot(was))
			for _, other := range o.Others {
				x := p.channel(s, other)
				s.Copy_(x, s.MaskedFill(x, won, 0), true)
			}
			s.Copy_(before, is, true)
			return nil
		})
		if s.Err() != nil {
			break
		}
	}
	return s.Err()
}

// dilated is true where the ball around a voxel meets the mask (bool); outside is false. It counts,
// row of the ball by row, so that nothing is rounded.
func dilated(s *torch.Scope, mask *torch.Tensor, ball []augment.Run) *torch.Tensor {
	ball = slices.SortedFunc(slices.Values(ball), func(a, b augment.Run) int {
		return cmp.Or(cmp.Compare(a.Last-a.First, b.Last-b.First), cmp.Compare(a.First, b.First))
	})
	row := s.To(mask, torch.Float32, mask.Device())
	wide, counts := s.ZerosLike(row), s.ZerosLike(row) // wide: row, dilated along x
	dim := mask.Dim()
	first, last := 0, -1
	for _, r := range ball {
		// a longer row usually contains the shorter ones
		if last < first || r.First > first || r.Last < last {
			s.Fill_(wide, 0)
			first, last = r.First, r.First-1
		}
		for ; last < r.Last; last++ {
			addShifted(s, wide, row, []int{0, 0, last + 1}[3-dim:])
		}
		for ; first > r.First; first-- {
			addShifted(s, wide, row, []int{0, 0, first - 1}[3-dim:])
		}
		addShifted(s, counts, wide, []int{r.Z, r.Y, 0}[3-dim:])
	}
	return s.CompareScalar(counts, torch.Gt, 0)
}

// addShifted adds to each voxel of dst the one of src that lies further by shift, per axis.
func addShifted(s *torch.Scope, dst, src *torch.Tensor, shift []int) {
	_ = s.With(func(s *torch.Scope) error { // the error stays in s
		for axis, n := range dst.Shape() {
			by := int64(shift[axis])
			if by >= n || -by >= n {
				return nil
			}
			dst = s.Narrow(dst, int64(axis), max(-by, 0), n-max(by, -by))
			src = s.Narrow(src, int64(axis), max(by, 0), n-max(by, -by))
		}
		s.Add_(dst, src, 1)
		return nil
	})
}

// removeComponent clears components of channels. The host finds them.
func (p *Patch) removeComponent(s *torch.Scope,
	a *augment.RemoveRandomConnectedComponentFromOneHotEncodingParameters) error {
	image, err := download[float32](p.Image)
	if err != nil {
		return err
	}
	if err := a.Apply(&augment.Patch{Image: image, Dim: p.dim()}); err != nil {
		return err
	}
	p.Image = torch.Upload(s, p.Image.Device(), nil, image.Data, p.Image.Shape()...)
	return nil
}

// regions replaces labels by a channel of 0 and 1 for each region.
func (p *Patch) regions(s *torch.Scope, a *augment.ConvertSegmentationToRegionsTransform) error {
	if p.Seg == nil {
		return nil
	}
	source, err := a.Source(p.shape())
	if err != nil {
		return err
	}
	seg := s.Select(p.Seg, 0, int64(source))
	var masks []*torch.Tensor
	for _, region := range a.Regions {
		in := s.Zeros(seg.Shape(), torch.Bool, seg.Device())
		for _, label := range region {
			in = s.Maximum(in, s.CompareScalar(seg, torch.Eq, float64(label)))
		}
		masks = append(masks, s.To(in, torch.Int16, in.Device()))
	}
	p.Seg, p.Masks = s.Stack(0, masks...), true
	return nil
}

// downsample makes a target for each output of a network with deep supervision.
func (p *Patch) downsample(s *torch.Scope, a *augment.DownsampleSegForDSTransform) error {
	if p.Seg == nil {
		return nil
	}
	levels, err := a.Levels(p.shape())
	if err != nil {
		return err
	}
	p.wideSeg(s)
	p.Targets = nil
	for _, level := range levels {
		target := p.Seg
		for axis, index := range level {
			target = s.IndexSelect(target, int64(axis+1), indices(s, target, index))
		}
		p.Targets = append(p.Targets, target)
	}
	return nil
}
