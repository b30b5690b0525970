package ondevice

import (
	"errors"
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/torch"
)

func (p *Patch) fold(s *torch.Scope, _ *augment.Convert3DTo2DTransform) error {
	if p.dim() != 3 {
		return errors.New("found a patch of 2 axes, expected 3")
	}
	slices := func(t *torch.Tensor) (*torch.Tensor, int64) {
		n := t.Shape()
		return s.Reshape(t, n[0]*n[1], n[2], n[3]), n[0]
	}
	p.Image, p.folded[0] = slices(p.Image)
	if p.Seg != nil {
		seg, channels := slices(p.Seg)
		p.folded[1] = channels
		p.changeSeg(seg)
	}
	return nil
}

func (p *Patch) unfold(s *torch.Scope, _ *augment.Convert2DTo3DTransform) error {
	if p.folded[0] == 0 {
		return errors.New("found no Convert3DTo2DTransform before it, expected one")
	}
	back := func(t *torch.Tensor, channels int64) *torch.Tensor {
		n := t.Shape()
		return s.Reshape(t, channels, n[0]/channels, n[1], n[2])
	}
	p.Image = back(p.Image, p.folded[0])
	if p.Seg != nil {
		p.changeSeg(back(p.Seg, p.folded[1]))
	}
	p.folded = [2]int64{}
	return nil
}

// mirror reverses axes of image and segmentation.
func (p *Patch) mirror(s *torch.Scope, a *augment.MirrorParameters) error {
	axes, err := a.Flips(p.shape())
	if err != nil || len(axes) == 0 {
		return err
	}
	dims := make([]int64, len(axes))
	for i, axis := range axes {
		dims[i] = int64(axis + 1)
	}
	p.Image = s.Flip(p.Image, dims...)
	if p.Seg != nil {
		p.changeSeg(s.Flip(p.Seg, dims...))
	}
	return nil
}

// spatial cuts the patch out, or samples it.
func (p *Patch) spatial(s *torch.Scope, a *augment.SpatialParameters) error {
	g, err := a.Sampling(p.shape())
	if err != nil {
		return err
	}
	if g.Crop {
		p.Image = crop(s, p.Image, g)
		if p.Seg != nil {
			p.Seg = crop(s, p.Seg, g)
		}
		return nil
	}
	if p.Seg == nil {
		p.Image, _ = newSampler(s, p.Image.Device(), g).run(p.Image, nil, nil)
		return nil
	}
	decide := nearest
	if a.ModeSeg != "nearest" {
		decide = majority(s, p.Seg, a.SegOutsideTo)
	}
	p.Image, p.Seg = newSampler(s, p.Image.Device(), g).run(p.Image, p.Seg, decide)
	return nil
}

// crop is the box that begins at g.Start; outside of x it is 0.
func crop(s *torch.Scope, x *torch.Tensor, g augment.Sampling) *torch.Tensor {
	var pad []int64
	for i := len(g.Out) - 1; i >= 0; i-- {
		before, after := -g.Start[i], g.Start[i]+g.Out[i]-g.In[i]
		if g.Start[i] >= g.In[i] || g.Start[i]+g.Out[i] <= 0 {
			shape := append(x.Shape()[:1], torch.Sizes(g.Out)...)
			return s.Zeros(shape, x.DType(), x.Device())
		}
		pad = append(pad, int64(before), int64(after))
	}
	return s.Pad(x, pad, 0)
}

// sampler samples arrays at the places of an affine.
type sampler struct {
	s              *torch.Scope
	g              augment.Sampling
	rows           int64
	origin, places []*torch.Tensor // per axis: of each row, and of each voxel in a row (float64)
	stride         []int64         // per axis of the input, in voxels
	voxels         int64           // of the input
}

func newSampler(s *torch.Scope, d torch.Device, g augment.Sampling) *sampler {
	m := &sampler{s: s, g: g, rows: int64(len(g.Origin[0])), voxels: 1,
		stride: make([]int64, len(g.In))}
	width := g.Out[len(g.Out)-1]
	for axis := range g.In {
		place := make([]float64, width)
		for x := range place {
			place[x] = float64(x) * g.Step[axis]
		}
		m.origin = append(m.origin, torch.Upload(s, d, nil, g.Origin[axis], m.rows, 1))
		m.places = append(m.places, torch.Upload(s, d, nil, place, int64(width)))
	}
	for axis := len(g.In) - 1; axis >= 0; axis-- {
		m.stride[axis], m.voxels = m.voxels, m.voxels*int64(g.In[axis])
	}
	return m
}

// Voxels, times channels, are sampled in blocks: coordinates, weights and corners take some 120
// bytes each. An eighth of the input's voxels at a time keeps that below four inputs of float32.
const (
	blockVoxels = 1 << 19
	blockPart   = 8
)

// run samples image (linearly) and seg (by decide), which may be nil.
func (m *sampler) run(image, seg *torch.Tensor, decide decider) (*torch.Tensor, *torch.Tensor) {
	s := m.s
	width := int64(m.g.Out[len(m.g.Out)-1])
	flatImage, channels := m.flat(image), image.Shape()[0]
	image = s.Empty([]int64{m.rows * width, channels}, torch.Float32, image.Device())
	var flatSeg, labels *torch.Tensor
	if seg != nil {
		n := seg.Shape()[0]
		flatSeg, channels = m.flat(seg), max(channels, n)
		labels = s.Empty([]int64{m.rows * width, n}, torch.Int16, image.Device())
	}
	step := max(min(blockVoxels, m.voxels*channels/blockPart)/(width*channels), 1)
	for from := int64(0); from < m.rows; from += step {
		rows := min(step, m.rows-from)
		_ = s.With(func(c *torch.Scope) error { // the error stays in s
			cells := m.cells(c, from, rows)
			sampled := cells.linear(c, flatImage)
			c.Copy_(c.Narrow(image, 0, from*width, rows*width), sampled, true)
			sampled.Free()
			for _, t := range cells.sum {
				t.Free()
			}
			if seg != nil {
				decided := decide(c, cells, flatSeg)
				c.Copy_(c.Narrow(labels, 0, from*width, rows*width), decided, true)
			}
			return nil
		})
		if s.Err() != nil {
			return nil, nil
		}
	}
	image = m.unflat(image)
	if seg != nil {
		labels = m.unflat(labels)
	}
	return image, labels
}

// flat returns an array (c, …) as (voxels, c).
func (m *sampler) flat(x *torch.Tensor) *torch.Tensor {
	c := x.Shape()[0]
	return m.s.Contiguous(m.s.Transpose(m.s.Reshape(x, c, m.voxels), 0, 1), torch.Contiguous)
}

// unflat turns (voxels, c) into an array (c, …) of the result's size.
func (m *sampler) unflat(x *torch.Tensor) *torch.Tensor {
	c := x.Shape()[1]
	t := m.s.Contiguous(m.s.Transpose(x, 0, 1), torch.Contiguous)
	return m.s.Reshape(t, slices.Concat([]int64{c}, torch.Sizes(m.g.Out))...)
}

// cells are the cells of the input that voxels of some rows of the result lie in. A cell's lower
// corner is a voxel of the input, and so is its upper one: beyond the border a cell is the
// outermost one, with less weight.
type cells struct {
	m          *sampler
	from, rows int64
	base       *torch.Tensor // index of the lower corner (int64)
	// per axis, as (voxels, 1) float32: the weights of the lower and the upper voxel, and their
	// sum, which is 1 within the input
	lower, upper, sum []*torch.Tensor
}

// at returns the coordinates along an axis, (voxels, 1) float64. Those two voxels beyond the border
// and further may be any.
func (c *cells) at(s *torch.Scope, axis int) *torch.Tensor {
	at := s.Add(s.Narrow(c.m.origin[axis], 0, c.from, c.rows), c.m.places[axis])
	return s.Clamp(s.Reshape(at, -1, 1), -2, float64(c.m.g.In[axis]+1))
}

// cells computes those of some rows of the result.
func (m *sampler) cells(s *torch.Scope, from, rows int64) *cells {
	c := &cells{m: m, from: from, rows: rows}
	device, width := m.origin[0].Device(), int64(m.g.Out[len(m.g.Out)-1])
	base := s.Zeros([]int64{rows * width, 1}, torch.Float64, device)
	for axis, size := range m.g.In {
		_ = s.With(func(s *torch.Scope) error { // the error stays in the outer one
			at := c.at(s, axis)
			voxel := s.Clamp(s.Floor(at), 0, float64(max(size-2, 0)))
			s.Add_(base, voxel, float64(m.stride[axis]))
			// d is the distance from the lower voxel: 0 to 1, below or above beyond the border
			d := s.To(s.Sub(at, voxel), torch.Float32, at.Device())
			above, down := s.AddScalar(d, 1), s.Neg(d)
			lower := s.ClampMin(s.Minimum(s.AddScalar(down, 1), above), 0)
			s.AddScalar_(down, 2)
			upper := s.ClampMin(s.Minimum(d, down), 0)
			sum := s.Clamp(s.Minimum(above, down), 0, 1)
			if size == 1 { // there is no upper voxel
				upper, sum = s.MulScalar(upper, 0), s.Clone(lower)
			}
			c.lower, c.upper = append(c.lower, s.Keep(lower)), append(c.upper, s.Keep(upper))
			c.sum = append(c.sum, s.Keep(sum))
			return nil
		})
	}
	c.base = s.To(s.Reshape(base, -1), torch.Int64, device)
	base.Free()
	return c
}

// corner gathers the voxels of a corner, (voxels, c): bit 0 of upper is the last axis.
func (c *cells) corner(s *torch.Scope, flat *torch.Tensor, upper int) *torch.Tensor {
	shift := int64(0)
	for i, axis := 0, len(c.m.stride)-1; axis >= 0; i, axis = i+1, axis-1 {
		if upper>>i&1 == 1 && c.m.g.In[axis] > 1 {
			shift += c.m.stride[axis]
		}
	}
	return s.Index(s.Narrow(flat, 0, shift, c.m.voxels-shift), c.base)
}

// linear interpolates; beyond the border is 0.
func (c *cells) linear(s *torch.Scope, flat *torch.Tensor) *torch.Tensor {
	return c.between(s, flat, 0, 0)
}

// between interpolates along the axes from axis on, in the half of the cell that upper says.
func (c *cells) between(s *torch.Scope, flat *torch.Tensor, axis, upper int) *torch.Tensor {
	if axis == len(c.lower) {
		return c.corner(s, flat, upper)
	}
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		a := c.between(s, flat, axis+1, upper<<1)
		b := c.between(s, flat, axis+1, upper<<1|1)
		s.Add_(b, a, -1)
		s.Mul_(b, c.upper[axis])
		s.Mul_(a, c.sum[axis])
		s.Add_(a, b, 1)
		return a
	})
}

// decider chooses labels (int16) for voxels of the result.
type decider func(s *torch.Scope, c *cells, flat *torch.Tensor) *torch.Tensor

// nearest takes the nearest voxel's label, of two the one of even index; beyond the border 0.
//
// Compat: beyond the border labels are 0 here, not the smallest one.
func nearest(s *torch.Scope, c *cells, flat *torch.Tensor) *torch.Tensor {
	var index, outside *torch.Tensor
	for axis, size := range c.m.g.In {
		at := s.Round(c.at(s, axis))
		voxel := s.Clamp(at, 0, float64(size-1))
		beyond := s.Compare(at, torch.Ne, voxel)
		part := s.MulScalar(voxel, float64(c.m.stride[axis]))
		if index != nil {
			part, beyond = s.Add(index, part), s.Maximum(outside, beyond)
		}
		index, outside = part, beyond
	}
	index = s.To(s.Reshape(index, -1), torch.Int64, index.Device())
	return s.MaskedFill(s.Index(flat, index), outside, 0)
}

// majority decides by the weights of the labels around a voxel: t = 1000·weight, rounded to
// float16. Of the labels with t above 700 the largest wins, otherwise the one of largest t, of equal
// ones the smallest. Where no label has weight seg's smallest one, per channel, is taken, or outside.
//
// Compat: the rounding to float16 and the smallest label beyond the border.
// Source: batchgeneratorsv2 0.2.1, SpatialTransform._apply_to_segmentation.
func majority(s *torch.Scope, seg *torch.Tensor, outside *int16) decider {
	none := s.Full([]int64{1}, 0, torch.Int16, seg.Device())
	if outside != nil {
		s.Fill_(none, float64(*outside))
	} else {
		axes := []int64{1, 2, 3}[:seg.Dim()-1]
		none = s.To(s.Amin(seg, false, axes...), torch.Int16, seg.Device())
	}
	least := s.Full(nil, math.MinInt16, torch.Int16, seg.Device())
	return func(s *torch.Scope, c *cells, flat *torch.Tensor) *torch.Tensor {
		corners := make([]*torch.Tensor, 1<<len(c.lower))
		weights := make([]*torch.Tensor, len(corners))
		for i := range corners {
			corners[i] = s.Block(func(s *torch.Scope) *torch.Tensor {
				return s.To(c.corner(s, flat, i), torch.Int16, flat.Device())
			})
			weights[i] = s.Block(func(s *torch.Scope) *torch.Tensor { return c.weight(s, i) })
		}
		var best, sure, most *torch.Tensor
		for i, label := range corners {
			_ = s.With(func(b *torch.Scope) error { // the error stays in s
				t := share(b, corners, weights, i)
				above := b.Where(b.CompareScalar(t, torch.Gt, 700), label, least)
				if i == 0 {
					best, most, sure = b.Keep(b.Clone(label)), b.Keep(t), b.Keep(above)
					return nil
				}
				tie := b.Mul(b.Compare(t, torch.Eq, most), b.Compare(label, torch.Lt, best))
				better := b.Maximum(b.Compare(t, torch.Gt, most), tie)
				b.Copy_(best, b.Where(better, label, best), true)
				b.Copy_(most, b.Maximum(t, most), true)
				b.Copy_(sure, b.Maximum(above, sure), true)
				return nil
			})
		}
		best = s.Where(s.CompareScalar(most, torch.Gt, 0), best, none)
		return s.Where(s.CompareScalar(most, torch.Gt, 700), sure, best)
	}
}

// share is t of the label of corner i: its weight at all corners that have it, rounded to float16.
func share(s *torch.Scope, corners, weights []*torch.Tensor, i int) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		t := s.Zeros(corners[i].Shape(), torch.Float32, corners[i].Device())
		for k, other := range corners {
			if k == i {
				s.Add_(t, weights[k], 1)
				continue
			}
			_ = s.With(func(s *torch.Scope) error { // the error stays in the outer one
				s.Add_(t, s.WhereScalar(s.Compare(corners[i], torch.Eq, other), weights[k], 0), 1)
				return nil
			})
		}
		return s.To(s.To(t, torch.Float16, t.Device()), torch.Float32, t.Device())
	})
}

// weight is 1000 times the weight of a corner, (voxels, 1).
func (c *cells) weight(s *torch.Scope, upper int) *torch.Tensor {
	var w *torch.Tensor
	for axis := range c.lower {
		of := c.lower[axis]
		if upper>>(len(c.lower)-1-axis)&1 == 1 {
			of = c.upper[axis]
		}
		if w == nil {
			w = of
		} else {
			w = s.Mul(w, of)
		}
	}
	return s.MulScalar(w, 1000)
}
