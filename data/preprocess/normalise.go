package preprocess

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/eval/pynum"
	"github.com/lntorch/lntorch/volume"
)

// Intensity holds the foreground statistics of a channel that CTNormalization uses. Low and High
// are percentile_00_5 and percentile_99_5 of the plans.
type Intensity struct{ Mean, Std, Low, High float64 }

// Scheme is the normalisation of one channel: the name of nnU-Net's class, whether
// ZScoreNormalization is restricted to the non-zero region (Mask), and CTNormalization's
// statistics.
type Scheme struct {
	Name string
	Mask bool
	Intensity
}

// A curve is a normalisation with its parameters: clip to [lo, hi], subtract sub, divide by div, in
// float32 as numpy does. Masked voxels are not changed.
type curve struct {
	clip     bool
	lo, hi   float32
	shift    bool
	sub, div float32
}

func (c *curve) at(v float32) float32 {
	if c.clip {
		v = min(max(v, c.lo), c.hi)
	}
	if c.shift {
		v -= c.sub
	}
	return v / c.div
}

// A channel holds the pixels of one channel within the crop box, as float32 rows in axis order.
type channel struct {
	shape    [3]int
	row      func(dst []float32, z, y, x int)
	min, max float32
}

// curve computes the parameters of a scheme for a channel. Voxels in skip, if not nil, are ignored.
// Source: nnU-Net 2.5.1, default_normalization_schemes.py.
func (s Scheme) curve(ch *channel, skip *Mask) (curve, error) {
	const eps = 1e-8
	switch s.Name {
	case "CTNormalization":
		return curve{
			clip: true, lo: float32(s.Low), hi: float32(s.High),
			shift: true, sub: float32(s.Mean), div: float32(max(s.Std, eps)),
		}, nil
	case "ZScoreNormalization":
		mean, std := moments(ch, skip)
		return curve{shift: true, sub: mean, div: max(std, eps)}, nil
	case "RescaleTo01Normalization":
		return curve{shift: true, sub: ch.min, div: max(ch.max-ch.min, eps)}, nil
	case "RGBTo01Normalization":
		if ch.min < 0 || ch.max > 255 {
			return curve{}, fmt.Errorf("RGBTo01Normalization expects values from 0 to 255, found "+
				"%g to %g; is the channel an RGB image, as dataset.json states?", ch.min, ch.max)
		}
		return curve{div: 255}, nil
	case "NoNormalization":
		return curve{div: 1}, nil
	}
	return curve{}, fmt.Errorf("normalisation scheme %q is not supported, expected "+
		"CTNormalization, ZScoreNormalization, RescaleTo01Normalization, RGBTo01Normalization or "+
		"NoNormalization", s.Name)
}

// moments computes the mean and standard deviation of a channel as numpy 1.26 does in float32.
// Source: numpy 1.26, _methods.py, _mean and _var.
func moments(ch *channel, skip *Mask) (mean, std float32) {
	sum, n := ch.sum(skip, func([]float32) {})
	if n == 0 {
		return float32(math.NaN()), float32(math.NaN())
	}
	shift := sum / float32(n) // _var divides in the array's type, _mean in float64
	squares, _ := ch.sum(skip, func(block []float32) {
		for i, v := range block {
			v -= shift
			block[i] = v * v
		}
	})
	variance := float32(float64(squares) / float64(n))
	return float32(float64(sum) / float64(n)), float32(math.Sqrt(float64(variance)))
}

// sum adds the voxels that are not in skip, after change is applied to them, as numpy sums an array
// that holds them in that order. n is their number.
func (ch *channel) sum(skip *Mask, change func([]float32)) (sum float32, n int) {
	block := make([]float32, 0, pynum.Buffer)
	flush := func() {
		change(block)
		sum += pynum.Sum(block)
		n += len(block)
		block = block[:0]
	}
	row := make([]float32, ch.shape[2])
	i := 0
	for z := range ch.shape[0] {
		for y := range ch.shape[1] {
			ch.row(row, z, y, 0)
			kept := row
			if skip != nil {
				kept = kept[:0]
				for _, v := range row {
					if !skip.Has(i) {
						kept = append(kept, v)
					}
					i++
				}
			}
			for len(kept) > 0 {
				part := kept[:min(len(kept), cap(block)-len(block))]
				block, kept = append(block, part...), kept[len(part):]
				if len(block) == cap(block) {
					flush()
				}
			}
		}
	}
	flush()
	return sum, n
}

// newChannel returns channel c of an image within box.
func newChannel(im *volume.Image, c int, box [3][2]int) *channel {
	shape := im.Shape
	first := ((c*shape[1]+box[0][0])*shape[2]+box[1][0])*shape[3] + box[2][0]
	ny, nx := shape[2], shape[3]
	ch := &channel{}
	for i, b := range box {
		ch.shape[i] = b[1] - b[0]
	}
	ch.row = func(dst []float32, z, y, x int) {
		im.Pixels.Float32s(dst, first+(z*ny+y)*nx+x)
	}
	ch.min, ch.max = float32(math.NaN()), float32(math.NaN())
	var v [2]float32
	for z := range ch.shape[0] {
		for y := range ch.shape[1] {
			at := first + (z*ny+y)*nx
			lo, hi := im.Pixels.Extremes(at, at+ch.shape[2])
			if lo < 0 {
				continue
			}
			im.Pixels.Float32s(v[:1], lo)
			im.Pixels.Float32s(v[1:], hi)
			if !(v[0] >= ch.min) {
				ch.min = v[0]
			}
			if !(v[1] <= ch.max) {
				ch.max = v[1]
			}
		}
	}
	return ch
}

// source yields the normalised channel; voxels in skip are not changed.
func (c *curve) source(ch *channel, skip *Mask) source {
	s := source{shape: ch.shape, lo: c.at(ch.min), hi: c.at(ch.max)}
	ny, nx := ch.shape[1], ch.shape[2]
	s.load = func(dst []float32, z, y, x int) {
		ch.row(dst, z, y, x)
		if skip == nil {
			c.apply(dst)
			return
		}
		at := (z*ny+y)*nx + x
		for i, v := range dst {
			if !skip.Has(at + i) {
				dst[i] = c.at(v)
			}
		}
	}
	if skip != nil {
		// Voxels in skip extend the range.
		s.lo, s.hi = float32(math.Inf(1)), float32(math.Inf(-1))
		row := make([]float32, nx)
		for z := range ch.shape[0] {
			for y := range ny {
				s.load(row, z, y, 0)
				lo, hi := extremes(row)
				s.lo, s.hi = min(s.lo, lo), max(s.hi, hi)
			}
		}
	}
	return s
}

// apply normalises a row.
func (c *curve) apply(row []float32) {
	switch {
	case c.clip:
		lo, hi, sub, div := c.lo, c.hi, c.sub, c.div
		for i, v := range row {
			if v < lo {
				v = lo
			}
			if v > hi {
				v = hi
			}
			row[i] = (v - sub) / div
		}
	case c.shift:
		sub, div := c.sub, c.div
		for i, v := range row {
			row[i] = (v - sub) / div
		}
	case c.div != 1:
		for i, v := range row {
			row[i] = v / c.div
		}
	}
}
