package augment

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
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

// fits complains of axes that are shorter than the widest kernel.
func (t GaussianBlurTransform) fits() error {
	n := kernelSize(t.BlurSigma.High)
	for axis, size := range t.where.size {
		if t.PPerChannel > 0 && n/2+1 > size {
			return fmt.Errorf("blur_sigma: found up to %v, whose kernel of %d needs %d voxels, but axis %d "+
				"of the patch has %d", t.BlurSigma.High, n, n/2+1, axis, size)
		}
	}
	return nil
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
	channels, err := g.selected(p.shape(), &s.channels)
	if err != nil {
		return err
	}
	for i, c := range channels {
		var kernels [3][]float32
		for axis := range 3 {
			half := &s.rows[axis]
			if k := axis - (3 - p.Dim); k >= 0 {
				sigma := g.Sigmas[i][k]
				kernels[axis] = kernel(grown(half, kernelSize(sigma)/2+1), sigma)
			} else {
				kernels[axis] = grown(half, 1)
				kernels[axis][0] = 1
			}
		}
		blur(p.channel(c), p.Image.Spatial(), kernels, s)
	}
	return nil
}

func (g *GaussianBlurParameters) selected(s Shape, into *[]int) ([]int, error) {
	channels, err := g.ApplyToChannel.of(s.Image[0], into)
	if err != nil {
		return nil, err
	}
	if err := rowsPerChannel("sigmas", g.Sigmas, len(channels), s.Dim); err != nil {
		return nil, err
	}
	sizes := s.axes()
	for _, row := range g.Sigmas {
		for axis, sigma := range row {
			if !(sigma > 0) {
				return nil, fmt.Errorf("sigmas: found %v, expected numbers above 0", sigma)
			}
			if n := kernelSize(sigma); n/2+1 > sizes[axis] {
				return nil, fmt.Errorf("sigmas: found %v for axis %d, whose %d voxels are fewer than the "+
					"%d that its kernel of %d needs", sigma, axis, sizes[axis], n/2+1, n)
			}
		}
	}
	return channels, nil
}

// Taps returns the channels that Apply smooths, and for each of them and each axis the taps of the
// kernel from the middle on.
func (g *GaussianBlurParameters) Taps(s Shape) (channels []int, taps [][][]float32, err error) {
	if channels, err = g.selected(s, new([]int)); err != nil {
		return nil, nil, err
	}
	for _, row := range g.Sigmas {
		var axes [][]float32
		for _, sigma := range row {
			axes = append(axes, kernel(make([]float32, kernelSize(sigma)/2+1), sigma))
		}
		taps = append(taps, axes)
	}
	return channels, taps, nil
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

// blur smooths along z, y and x, in place. A plane of the result needs few planes of the image, and
// those are kept as they were.
func blur(v []float32, size [3]int, k [3][]float32, s *Scratch) {
	height, width := size[1], size[2]
	plane := height * width
	reach, margin := len(k[0])-1, len(k[2])-1
	ring := min(2*reach+1, size[0]) // planes that are kept
	kept := grown(&s.field, ring*plane)
	memory := grown(&s.rows[3], plane+width+2*margin)
	smooth, row := memory[:plane], memory[plane:]

	offsets := grown(&s.offsets, 2*(len(k[0])+len(k[1])+len(k[2]))-3)
	alongZ, offsets := offsets[:2*len(k[0])-1], offsets[2*len(k[0])-1:]
	alongY, alongX := offsets[:2*len(k[1])-1], offsets[2*len(k[1])-1:]
	neighbours(alongX, margin, len(row), 1)
	read := 0
	for z := range size[0] {
		for ; read < min(z+reach+1, size[0]); read++ {
			copy(kept[read%ring*plane:][:plane], v[read*plane:])
		}
		neighbours(alongZ, z, size[0], 1)
		for i, at := range alongZ {
			alongZ[i] = at % ring * plane
		}
		vector.Filter(smooth, kept, alongZ, k[0])
		for y := range height {
			neighbours(alongY, y, height, width)
			vector.Filter(row[margin:][:width], smooth, alongY, k[1])
			for j := 1; j <= margin; j++ {
				row[margin-j] = row[margin+j]
				row[margin+width-1+j] = row[margin+width-1-j]
			}
			vector.Filter(v[z*plane+y*width:][:width], row, alongX, k[2])
		}
	}
}

// neighbours sets offsets to those of line i of n and of the pairs of lines around it.
func neighbours(offsets []int, i, n, step int) {
	offsets[0] = i * step
	for j := 1; 2*j < len(offsets); j++ {
		offsets[2*j-1], offsets[2*j] = mirrored(i-j, n)*step, mirrored(i+j, n)*step
	}
}
