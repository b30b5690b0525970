package augment

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// GaussianBlurTransform smooths channels along each axis.
// Source: batchgeneratorsv2 0.2.1, GaussianBlurTransform.
type GaussianBlurTransform struct {
	BlurSigma           Range   `json:"blur_sigma"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	SynchronizeAxes     bool    `json:"synchronize_axes"`
	PPerChannel         float64 `json:"p_per_channel"`

	where input
}

// Name returns GaussianBlurTransform.
func (GaussianBlurTransform) Name() string { return "GaussianBlurTransform" }

// Draw draws a coin per channel, and a deviation for each selected channel and axis.
func (t GaussianBlurTransform) Draw(rng *rand.Rand) Parameters {
	mask, selected := someChannels(rng, t.where.channels, t.PPerChannel)
	return &GaussianBlurParameters{
		ApplyToChannel: Channels{Mask: mask},
		Sigmas: table(len(selected), t.where.dim, t.SynchronizeChannels, t.SynchronizeAxes,
			func() float64 { return t.BlurSigma.Draw(rng) }),
	}
}

// table draws a row per channel with a value per axis; synchronised ones are equal.
func table(channels, axes int, syncChannels, syncAxes bool, one func() float64) [][]float64 {
	rows := make([][]float64, channels)
	for c := range rows {
		if rows[c] = make([]float64, axes); c > 0 && syncChannels {
			copy(rows[c], rows[0])
			continue
		}
		for a := range rows[c] {
			if a > 0 && syncAxes {
				rows[c][a] = rows[c][0]
				continue
			}
			rows[c][a] = one()
		}
	}
	return rows
}

// GaussianBlurParameters hold a row per selected channel, a deviation (voxels) per axis.
type GaussianBlurParameters struct {
	ApplyToChannel Channels    `json:"apply_to_channel" need:"true"`
	Sigmas         [][]float64 `json:"sigmas" need:"true"`
}

// Apply smooths along one axis after the other; the image is mirrored at its border, the voxels of
// the border not repeated.
func (g *GaussianBlurParameters) Apply(p *Patch) error {
	s := p.scratch()
	channels, err := g.ApplyToChannel.of(p.Image.Shape[0], &s.channels)
	if err != nil {
		return err
	}
	if err := rowsPerChannel("sigmas", g.Sigmas, len(channels), p.Dim); err != nil {
		return err
	}
	var a [3]int
	sizes := p.axes(&a)
	for _, row := range g.Sigmas {
		for axis, sigma := range row {
			if !(sigma > 0) {
				return fmt.Errorf("sigmas: found %v, expected numbers above 0", sigma)
			}
			if n := kernelSize(sigma); n/2+1 > sizes[axis] {
				return fmt.Errorf("sigmas: found %v for axis %d, whose %d voxels are fewer than the "+
					"%d that its kernel of %d needs", sigma, axis, sizes[axis], n/2+1, n)
			}
		}
	}
	for i, c := range channels {
		v := p.channel(c)
		for axis, sigma := range g.Sigmas[i] {
			k := kernel(grown(&s.rows[0], kernelSize(sigma)/2+1), sigma)
			switch stride := stride(a, axis+3-p.Dim); stride {
			case 1:
				blurRows(v, a[2], k, s)
			default:
				blurPlanes(v, sizes[axis], stride, k, s)
			}
		}
	}
	return nil
}

// rowsPerChannel complains of a table that has not a row per channel and a value per axis.
func rowsPerChannel(key string, rows [][]float64, channels, axes int) error {
	if err := count(key, len(rows), channels); err != nil {
		return err
	}
	for _, r := range rows {
		if len(r) != axes {
			return fmt.Errorf("%s: found a row of %d values, expected %d, one per axis", key, len(r),
				axes)
		}
	}
	return nil
}

// stride returns the distance of neighbours along an axis of (z, y, x).
func stride(sizes [3]int, axis int) int {
	n := 1
	for _, s := range sizes[axis+1:] {
		n *= s
	}
	return n
}

// kernelSize returns the number of taps: 6σ + 0.5 rounded to an odd number.
func kernelSize(sigma float64) int {
	n := float64(sigma*6) + 0.5
	if n > 1<<30 {
		return 1<<30 + 1
	}
	rounded := int(math.RoundToEven(n))
	switch {
	case rounded%2 == 1:
		return rounded
	case n >= float64(rounded):
		return rounded + 1
	default:
		return rounded - 1
	}
}

// kernel fills the half of the taps from the middle on.
func kernel(half []float32, sigma float64) []float32 {
	sum := 0.0
	tap := func(i int) float64 {
		x := float64(i) / sigma
		return math.Exp(-0.5 * x * x)
	}
	for i := len(half) - 1; i >= 0; i-- {
		sum += tap(i)
		if i > 0 {
			sum += tap(i)
		}
	}
	for i := range half {
		half[i] = float32(tap(i) / sum)
	}
	return half
}

// mirrored returns the index that stands for i of n voxels.
func mirrored(i, n int) int {
	if i < 0 {
		i = -i
	}
	if i >= n {
		i = 2*(n-1) - i
	}
	return i
}

// blurPlanes smooths along an axis whose neighbours are planes of stride voxels, in place: the planes
// behind are kept as they were.
func blurPlanes(v []float32, size, stride int, k []float32, s *Scratch) {
	reach := len(k) - 1
	if reach == 0 {
		return
	}
	for ; len(v) > 0; v = v[size*stride:] {
		// lines of few voxels at a time stay in the cache
		for from := 0; from < stride; from += 256 {
			to := min(from+256, stride)
			width := to - from
			kept := grown(&s.rows[1], size*width)
			for i := range size {
				copy(kept[i*width:][:width], v[i*stride+from:i*stride+to])
			}
			line := func(i int) []float32 { return kept[mirrored(i, size)*width:][:width] }
			for i := range size {
				smooth(v[i*stride+from:i*stride+to], line, i, k)
			}
		}
	}
}

// smooth writes the weighted sum of the lines around i.
func smooth(dst []float32, line func(i int) []float32, i int, k []float32) {
	n := len(dst)
	c, l, r := line(i)[:n], line(i - 1)[:n], line(i + 1)[:n]
	k0, k1 := k[0], k[1]
	switch len(k) {
	case 2:
		for x := range dst {
			dst[x] = float32(k0*c[x]) + float32(k1*(l[x]+r[x]))
		}
		return
	case 3:
		l2, r2, k2 := line(i - 2)[:n], line(i + 2)[:n], k[2]
		for x := range dst {
			dst[x] = float32(k0*c[x]) + float32(k1*(l[x]+r[x])) + float32(k2*(l2[x]+r2[x]))
		}
		return
	}
	l2, r2, k2 := line(i - 2)[:n], line(i + 2)[:n], k[2]
	l3, r3, k3 := line(i - 3)[:n], line(i + 3)[:n], k[3]
	for x := range dst {
		dst[x] = float32(k0*c[x]) + float32(k1*(l[x]+r[x])) + float32(k2*(l2[x]+r2[x])) +
			float32(k3*(l3[x]+r3[x]))
	}
	for j := 4; j < len(k); j++ {
		l, r, w := line(i - j)[:n], line(i + j)[:n], k[j]
		for x := range dst {
			dst[x] += float32(w * (l[x] + r[x]))
		}
	}
}

// blurRows smooths along x.
func blurRows(v []float32, size int, k []float32, s *Scratch) {
	reach := len(k) - 1
	if reach == 0 {
		return
	}
	row := grown(&s.rows[1], size+2*reach)
	line := func(at int) []float32 { return row[reach+at:][:size] }
	for ; len(v) > 0; v = v[size:] {
		copy(row[reach:], v[:size])
		for j := 1; j <= reach; j++ {
			row[reach-j] = row[reach+mirrored(-j, size)]
			row[reach+size-1+j] = row[reach+mirrored(size-1+j, size)]
		}
		smooth(v[:size], line, 0, k)
	}
}
