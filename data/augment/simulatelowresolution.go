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
// (batchgeneratorsv2 0.2.1 indexes with None; 0.3.6 does not). The fixes keep them.
// Source: batchgeneratorsv2 0.2.1, SimulateLowResolutionTransform.
type SimulateLowResolutionTransform struct {
	Scale               Range   `json:"scale"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	SynchronizeAxes     bool    `json:"synchronize_axes"`
	IgnoreAxes          []int   `json:"ignore_axes" null:"true"`
	AllowedChannels     []int   `json:"allowed_channels" null:"true"`
	PPerChannel         float64 `json:"p_per_channel"`

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
			if !t.acts(axis) {
				row[axis] = 1
			}
		}
	}
	return &SimulateLowResolutionParameters{Channels{Index: selected}, scales}
}

// acts reports whether an axis is sampled to fewer voxels.
func (t SimulateLowResolutionTransform) acts(axis int) bool {
	none := t.IgnoreAxes == nil && !t.where.fixes
	return !none && !slices.Contains(t.IgnoreAxes, axis)
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

// fits complains of axes of which small scales leave nothing. A half is rounded to 0, but a range
// that begins there draws it once in 2^24 times.
func (t SimulateLowResolutionTransform) fits() error {
	for axis, size := range t.where.size {
		left := float64(size) * float32Of(t.Scale.Low)
		none := left < 0.5 || left == 0.5 && t.Scale.Low == t.Scale.High
		if none && t.PPerChannel > 0 && t.acts(axis) {
			return fmt.Errorf("scale: found down to %v, which leaves 0 of the %d voxels of axis %d of the "+
				"patch, expected one at least", t.Scale.Low, size, axis)
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
	shape, in := p.shape(), p.Image.Spatial()
	for i, c := range channels {
		size, err := l.coarse(i, shape)
		if err != nil {
			return err
		}
		if size != in {
			for axis := range 3 {
				s.axes[axis].set(in[axis], size[axis])
			}
			lowResolution(p.channel(c), in, s)
		}
	}
	return nil
}

// coarse returns the coarse sizes (z, y, x) of the i-th selected channel.
func (l *SimulateLowResolutionParameters) coarse(i int, s Shape) (size [3]int, err error) {
	size = [3]int(s.Image[1:])
	for k, in := range s.axes() {
		exact := math.RoundToEven(float64(in) * float32Of(l.Scales[i][k]))
		if !(exact >= 1) || exact > float64(in)*64 {
			return size, fmt.Errorf("scales: found %v, which makes %v of the %d voxels of axis %d, "+
				"expected 1 to %d", l.Scales[i][k], exact, in, k, in*64)
		}
		size[3-s.Dim+k] = int(exact)
	}
	if n := size[0] * size[1] * size[2]; n > maxVoxels && size != [3]int(s.Image[1:]) {
		return size, fmt.Errorf("scales: found %v, which makes %d voxels, expected %d at most", l.Scales[i],
			n, maxVoxels)
	}
	return size, nil
}

// CoarseAxis says how an axis becomes coarse and fine again.
type CoarseAxis struct {
	From        []int64   // per coarse voxel: the fine one that it is; nil: the axis stays as it is
	Left, Right []int64   // per fine voxel: the coarse ones it lies between
	Part        []float32 // of Right
}

// Axes returns the channels that Apply changes, and for each of them an entry per axis.
func (l *SimulateLowResolutionParameters) Axes(s Shape) (channels []int, rows [][]CoarseAxis, err error) {
	if channels, err = l.ApplyToChannel.of(s.Image[0], new([]int)); err != nil {
		return nil, nil, err
	}
	if err := rowsPerChannel("scales", l.Scales, len(channels), s.Dim); err != nil {
		return nil, nil, err
	}
	for i := range channels {
		size, err := l.coarse(i, s)
		if err != nil {
			return nil, nil, err
		}
		row := make([]CoarseAxis, s.Dim)
		for k, in := range s.axes() {
			if coarse := size[3-s.Dim+k]; coarse != in {
				var a lowResolutionAxis
				a.set(in, coarse)
				row[k] = CoarseAxis{wide(a.from), wide(a.left), wide(a.right), a.part}
			}
		}
		rows = append(rows, row)
	}
	return channels, rows, nil
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
