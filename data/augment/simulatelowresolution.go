package augment

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// SimulateLowResolutionTransform samples channels to fewer voxels and back.
//
// Compat: without ignored axes all scales become 1 when they are drawn, and nothing happens
// (batchgeneratorsv2 0.2.1 indexes with None; 0.3.6 does not). Fixed keeps them.
// Source: batchgeneratorsv2 0.2.1, SimulateLowResolutionTransform.
type SimulateLowResolutionTransform struct {
	Scale               Range   `json:"scale"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	SynchronizeAxes     bool    `json:"synchronize_axes"`
	IgnoreAxes          []int   `json:"ignore_axes" null:"true"`
	AllowedChannels     []int   `json:"allowed_channels" null:"true"`
	PPerChannel         float64 `json:"p_per_channel"`

	Fixed bool `json:"-"`
	where input
}

// Name returns SimulateLowResolutionTransform.
func (SimulateLowResolutionTransform) Name() string { return "SimulateLowResolutionTransform" }

// Draw draws a coin per channel, and a scale for each selected channel and axis.
func (t SimulateLowResolutionTransform) Draw(rng *rand.Rand) Parameters {
	selected := []int{}
	for c := range t.where.channels {
		if t.AllowedChannels != nil && !slices.Contains(t.AllowedChannels, c) {
			continue
		}
		if rng.Float64() < t.PPerChannel {
			selected = append(selected, c)
		}
	}
	scales := table(len(selected), t.where.dim, t.SynchronizeChannels, t.SynchronizeAxes,
		func() float64 { return float32Of(t.Scale.Draw(rng)) })
	for _, row := range scales {
		for axis := range row {
			all := t.IgnoreAxes == nil && !t.Fixed
			if all || slices.Contains(t.IgnoreAxes, axis) {
				row[axis] = 1
			}
		}
	}
	return &SimulateLowResolutionParameters{Channels{Index: selected}, scales}
}

// check complains of axes and channels that the patch does not have.
func (t SimulateLowResolutionTransform) check(in input) error {
	for _, a := range t.IgnoreAxes {
		if a < 0 || a >= in.dim {
			return fmt.Errorf("ignore_axes: found axis %d, expected 0 to %d", a, in.dim-1)
		}
	}
	for _, c := range t.AllowedChannels {
		if c < 0 || c >= in.channels {
			return fmt.Errorf("allowed_channels: found channel %d, expected 0 to %d", c,
				in.channels-1)
		}
	}
	return nil
}

// SimulateLowResolutionParameters hold a row per selected channel, a scale per axis.
type SimulateLowResolutionParameters struct {
	ApplyToChannel Channels    `json:"apply_to_channel" need:"true"`
	Scales         [][]float64 `json:"scales" need:"true"`
}

// lowResolutionAxis says, for each voxel of an axis, which two of the coarse voxels it lies between.
type lowResolutionAxis struct {
	size  int     // coarse voxels
	from  []int32 // per coarse voxel: the voxel that it is
	left  []int32
	right []int32
	part  []float32 // of right
}

// Apply takes the nearest voxels ("nearest-exact") and interpolates linearly between their centres;
// beyond the outermost centres their values stay.
func (l *SimulateLowResolutionParameters) Apply(p *Patch) error {
	s := p.scratch()
	channels, err := l.ApplyToChannel.of(p.Image.Shape[0], &s.channels)
	if err != nil {
		return err
	}
	if err := rowsPerChannel("scales", l.Scales, len(channels), p.Dim); err != nil {
		return err
	}
	in := p.Image.Spatial()
	for i, c := range channels {
		same := true
		for axis := range 3 {
			size := in[axis]
			if k := axis - (3 - p.Dim); k >= 0 {
				exact := math.RoundToEven(float64(size) * float32Of(l.Scales[i][k]))
				if !(exact >= 1) || exact > float64(size)*64 {
					return fmt.Errorf("scales: found %v, which makes %v of the %d voxels of axis %d, "+
						"expected 1 to %d", l.Scales[i][k], exact, size, k, size*64)
				}
				size = int(exact)
			}
			same = same && size == in[axis]
			s.axes[axis].set(in[axis], size)
		}
		if !same {
			if n := s.axes[0].size * s.axes[1].size * s.axes[2].size; n > maxVoxels {
				return fmt.Errorf("scales: found %v, which makes %d voxels, expected %d at most",
					l.Scales[i], n, maxVoxels)
			}
			lowResolution(p.channel(c), in, s)
		}
	}
	return nil
}

func (a *lowResolutionAxis) set(in, size int) {
	a.size = size
	nearestExact(grown(&a.from, size), in)
	left, right, part := grown(&a.left, in), grown(&a.right, in), grown(&a.part, in)
	scale := float32(size) / float32(in)
	for i := range left {
		at := max(float32(scale*(float32(i)+0.5))-0.5, 0)
		l := min(int(at), size-1)
		left[i], right[i], part[i] = int32(l), int32(min(l+1, size-1)), at-float32(l)
	}
}

// lowResolution rewrites one channel.
func lowResolution(v []float32, in [3]int, s *Scratch) {
	z, y, x := &s.axes[0], &s.axes[1], &s.axes[2]
	// the voxels of the image that the coarse ones on both sides are
	left, right := grown(&s.nearest[0], in[2]), grown(&s.nearest[1], in[2])
	for i := range left {
		left[i], right[i] = x.from[x.left[i]], x.from[x.right[i]]
	}
	// coarse planes, already as wide as the image and as high: (z.size, in[1], in[2])
	planes := grown(&s.field, z.size*in[1]*in[2])
	rows := grown(&s.rows[0], y.size*in[2])
	for k := range z.size {
		for j := range y.size {
			src := v[(int(z.from[k])*in[1]+int(y.from[j]))*in[2]:][:in[2]]
			vector.Resample(rows[j*in[2]:][:in[2]], src, left, right, x.part)
		}
		for j := range in[1] {
			vector.Between(planes[(k*in[1]+j)*in[2]:][:in[2]], rows[int(y.left[j])*in[2]:],
				rows[int(y.right[j])*in[2]:], y.part[j])
		}
	}
	plane := in[1] * in[2]
	for k := range in[0] {
		vector.Between(v[k*plane:][:plane], planes[int(z.left[k])*plane:],
			planes[int(z.right[k])*plane:], z.part[k])
	}
}
