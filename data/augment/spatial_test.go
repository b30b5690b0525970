package augment

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// The yardstick of SpatialParameters.Apply: every voxel by itself, in float64.

// undecided is the label of voxels halfway between two others.
const undecided = -99

// around visits the voxels of the input around an output voxel, with their weights.
func around(g *sampling, z, y, x int, visit func(at int, weight float64)) {
	var lower [3]int
	var part [3]float64
	for axis := range 3 {
		q := g.at(z, y, x, axis)
		lower[axis] = int(math.Floor(q))
		part[axis] = q - math.Floor(q)
	}
	for corner := range 8 {
		at, weight, ok := 0, 1.0, true
		for axis := range 3 {
			i, w := lower[axis], 1-part[axis]
			if corner>>axis&1 == 1 {
				i, w = i+1, part[axis]
			}
			ok = ok && i >= 0 && i < g.in[axis]
			at, weight = at*g.in[axis]+i, weight*w
		}
		if ok {
			visit(at, weight)
		}
	}
}

func plainSpatial(p *Patch, s *SpatialParameters) Patch {
	out := [3]int{1, 1, 1}
	copy(out[3-p.Dim:], s.PatchSize)
	g := s.sampling(p.Image.Spatial(), out, p.Dim)
	image := volume.New[float32]([4]int{p.Image.Shape[0], out[0], out[1], out[2]})
	seg := volume.New[int16]([4]int{p.Seg.Shape[0], out[0], out[1], out[2]})
	n := g.in[0] * g.in[1] * g.in[2]
	i := 0
	each := func(f func(z, y, x int)) {
		for z := range out[0] {
			for y := range out[1] {
				for x := range out[2] {
					f(z, y, x)
					i++
				}
			}
		}
	}
	for c := range image.Shape[0] {
		data := p.Image.Data[c*n:][:n]
		each(func(z, y, x int) {
			sum := 0.0
			around(&g, z, y, x, func(at int, w float64) { sum += w * float64(data[at]) })
			image.Data[i] = float32(sum)
		})
	}
	i = 0
	for c := range seg.Shape[0] {
		data := p.Seg.Data[c*n:][:n]
		present := map[int16]bool{}
		low, high := data[0], data[0]
		for _, v := range data {
			present[v] = true
			low, high = min(low, v), max(high, v)
		}
		each(func(z, y, x int) {
			weights := map[int16]float64{}
			around(&g, z, y, x, func(at int, w float64) { weights[data[at]] += w })
			if s.ModeSeg == "nearest" {
				at, ok := 0, true
				for axis := range 3 {
					q := g.at(z, y, x, axis)
					if frac := q - math.Floor(q); math.Abs(frac-0.5) < 1e-6 {
						seg.Data[i] = undecided
						return
					}
					k := int(math.RoundToEven(q))
					ok = ok && k >= 0 && k < g.in[axis]
					at = at*g.in[axis] + k
				}
				if ok {
					seg.Data[i] = data[at]
				}
				return
			}
			best, most, sure := low, -1.0, false
			for label := int(low); label <= int(high); label++ {
				if !present[int16(label)] {
					continue
				}
				t := float16(1000 * weights[int16(label)])
				if t > 700 {
					best, sure = int16(label), true
				} else if !sure && t > most {
					best, most = int16(label), t
				}
			}
			seg.Data[i] = best
		})
	}
	return Patch{Image: image, Seg: seg, Dim: p.Dim}
}

// float16 rounds to half precision, halves to even.
func float16(v float64) float64 {
	v = float64(float32(v))
	if v == 0 {
		return 0
	}
	_, e := math.Frexp(v)
	unit := math.Ldexp(1, max(e-11, -24))
	return math.RoundToEven(v/unit) * unit
}

func TestSpatialIsItsYardstick(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	different, voxels := 0, 0
	for i := range 120 {
		dim, wide := 2+i%2, i%15 == 7
		size := func() []int {
			out := make([]int, dim)
			for k := range out {
				out[k] = 1 + rng.IntN(14)
				if wide { // rows of more than the 256 labels that are compared at a time
					out[k] += 4 + k/(dim-1)*280
				}
			}
			return out
		}
		in := [4]int{2, 1, 1, 1}
		copy(in[4-dim:], size())
		p := Patch{Image: volume.New[float32](in), Seg: volume.New[int16](in), Dim: dim}
		for k := range p.Image.Data {
			p.Image.Data[k] = rng.Float32()
			p.Seg.Data[k] = int16(rng.IntN(5)*(rng.IntN(5)/4) - 1)
		}
		s := &SpatialParameters{PatchSize: size(), ModeSeg: segModes[i/2%2]}
		for axis := range dim {
			s.Center = append(s.Center, float64(in[4-dim+axis])/2+float64(i%3)*rng.Float64())
		}
		angles := []float64{rng.Float64() * 6, rng.Float64() * 6, rng.Float64() * 6}
		if i%5 == 0 {
			angles = []float64{0, 0, 0} // whole rows lie on one line of voxels
		}
		if i%5 == 1 {
			angles = []float64{0, math.Pi / 2, math.Pi}
		}
		scale := 0.3 + 2*rng.Float64()
		if wide {
			angles, scale = []float64{0.004, -0.003, 0.002}, 0.9
		}
		s.Affine = affine(dim, angles, []float64{scale, scale, 1.1 * scale}[:dim])
		want := plainSpatial(&p, s)
		require.NoError(t, s.Apply(&p))
		golden.Close(t, "image", "augment-transform", p.Image.Shape[:], want.Image.Data, p.Image.Data)
		for k, label := range want.Seg.Data {
			voxels++
			if label != p.Seg.Data[k] && label != undecided {
				different++
			}
		}
	}
	require.LessOrEqual(t, different, 1+voxels/100000, "seed %d: labels of %d", seed, voxels)
}

func TestRoundHalfIsFloat16(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		v := float32(math.Exp(rng.Float64()*30 - 23))
		require.Equal(t, float16(float64(v)), float64(roundHalf(v)), "%v", v)
	}
	for _, v := range []float32{0, 700.2, 700.25, 700.26, 700.75, 0x1p-25, 0x1p-14, 999.75, 1000} {
		require.Equal(t, float16(float64(v)), float64(roundHalf(v)), "%v", v)
	}
}

func TestLabelsBeyondTheCropAreBackgroundWithFixes(t *testing.T) {
	for fixed, want := range map[bool]int16{false: 3, true: 0} {
		p := Patch{Image: volume.New[float32]([4]int{1, 4, 4, 4}), Seg: volume.New[int16]([4]int{1, 4, 4, 4}), Dim: 3}
		for i := range p.Seg.Data {
			p.Seg.Data[i] = 3
		}
		list, err := New(Setting{PatchSize: []int{8, 8, 8}, Channels: 1, Fixes: fixed})
		require.NoError(t, err)
		s := list.Transforms[0].(SpatialTransform)
		s.PRotation, s.where.size = 1, []int{4, 4, 4}
		require.NoError(t, s.Draw(rand.New(rand.NewPCG(1, 2))).Apply(&p))
		require.Equal(t, want, p.Seg.Data[0])
		require.Equal(t, int16(3), p.Seg.Data[len(p.Seg.Data)/2+4*8+4])
	}
}
