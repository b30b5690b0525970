package augment

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

func mirroring(dim int) List {
	return List{Transforms: []Transform{MirrorTransform{AllowedAxes: MirrorAxesOf("nnUNetTrainer", dim)}}}
}

func TestMirrorTransformDoesWhatTheReferenceDoesWithTheSameParameters(t *testing.T) {
	cases := readGolden(t, golden.Path(t, "augment.json")).Mirroring
	require.Len(t, cases, 4)
	for _, c := range cases {
		require.Equal(t, c.AllowedAxes, MirrorAxesOf("nnUNetTrainer", len(c.Patch)), "%v", c.Patch)
		require.Len(t, c.Applied, 1<<len(c.Patch))
		for _, a := range c.Applied {
			var m MirrorParameters
			require.NoError(t, json.Unmarshal(a.Parameters, &m))
			text, err := json.Marshal(m)
			require.NoError(t, err)
			require.JSONEq(t, string(a.Parameters), string(text))

			shape := [4]int{c.Shape[0], 1, 1, 1}
			copy(shape[4-len(c.Patch):], c.Shape[1:])
			p := Patch{Image: volume.New[float32](shape), Seg: volume.New[int16]([4]int{1, shape[1], shape[2], shape[3]}), Dim: len(c.Patch)}
			for i := range p.Image.Data {
				p.Image.Data[i] = float32(i)
			}
			for i := range p.Seg.Data {
				p.Seg.Data[i] = int16(i)
			}
			require.NoError(t, m.Apply(&p))
			require.Equal(t, a.Image, p.Image.Data, "%s", a.Parameters)
			require.Equal(t, a.Seg, p.Seg.Data, "%s", a.Parameters)
		}
	}
}

func TestReverseMovesEachVoxelAndIsItsOwnInverse(t *testing.T) {
	for _, shape := range [][4]int{{2, 2, 3, 4}, {1, 3, 2, 5}, {1, 1, 1, 3}, {1, 3, 4, 33},
		{2, 2, 2, 150}, {1, 1, 3, 600}} {
		for bits := range 8 {
			axes := [3]bool{bits&4 != 0, bits&2 != 0, bits&1 != 0}
			testReverse[float32](t, shape, axes)
			testReverse[int16](t, shape, axes)
		}
	}
}

func testReverse[T float32 | int16](t *testing.T, shape [4]int, axes [3]bool) {
	v := volume.New[T](shape)
	for i := range v.Data {
		v.Data[i] = T(i)
	}
	reversed := &volume.Volume[T]{Data: slices.Clone(v.Data), Shape: shape}
	reverse(reversed, axes)
	from := func(i, axis int) int {
		if axes[axis] {
			return shape[axis+1] - 1 - i
		}
		return i
	}
	i := 0
	for c := range shape[0] {
		for z := range shape[1] {
			for y := range shape[2] {
				for x := range shape[3] {
					at := ((c*shape[1]+from(z, 0))*shape[2]+from(y, 1))*shape[3] + from(x, 2)
					require.Equal(t, T(at), reversed.Data[i], "%v axes %v voxel %d", shape, axes, i)
					i++
				}
			}
		}
	}
	reverse(reversed, axes)
	require.Equal(t, v.Data, reversed.Data)
}

func TestMirrorParametersRefuseAxesThatThePatchLacks(t *testing.T) {
	p := random([4]int{1, 1, 2, 2}, rand.New(rand.NewPCG(1, 2)))
	p.Dim = 2
	for _, axis := range []int{-1, 2} {
		require.ErrorContains(t, MirrorParameters{Axes: []int{axis}}.Apply(&p), "expected one of the 2 axes of the patch, counted from 0")
	}
	require.EqualError(t, MirrorParameters{Axes: []int{1, 1}}.Apply(&p), "axis 1 is listed twice, expected each axis once")
}

func TestMirroringTwiceIsIdentityAndKeepsImageAndLabelsTogether(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 200 {
		shape, dim := [4]int{1, 1 + rng.IntN(4), 1 + rng.IntN(5), 1 + rng.IntN(6)}, 3
		if i%2 == 0 {
			shape[1], dim = 1, 2
		}
		before := random(shape, rng)
		before.Dim = dim
		for k := range before.Image.Data { // each voxel's intensity names its label
			before.Image.Data[k] = float32(before.Seg.Data[k]) + before.Image.Data[k]/2
		}
		p := clone(before)
		drawn := mirroring(dim).Draw(shared(rng))
		require.NoError(t, drawn.Apply(&p))
		for k, v := range p.Image.Data {
			require.Equal(t, p.Seg.Data[k], int16(math.Floor(float64(v))), "seed %d", seed)
		}
		require.ElementsMatch(t, before.Image.Data, p.Image.Data)
		require.NoError(t, drawn.Apply(&p))
		require.Equal(t, before, p, "seed %d", seed)
	}
}

func TestEachAxisIsMirroredHalfOfTheTime(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for dim, shape := range map[int][4]int{2: {1, 1, 2, 2}, 3: {1, 2, 2, 2}} {
		n := shape[1] * shape[2] * shape[3]
		list := mirroring(dim)
		before := random(shape, rng)
		before.Dim = dim
		for k := range before.Image.Data {
			before.Image.Data[k] = float32(k)
		}
		count := make([]int, n)
		const trials = 8000
		for range trials {
			p := clone(before)
			require.NoError(t, list.Draw(shared(rng)).Apply(&p))
			count[int(p.Image.Data[0])]++ // the corner that is now at the origin
		}
		for corner, c := range count {
			require.InDelta(t, trials/float64(n), float64(c), 150, "dim %d corner %d", dim, corner)
		}
	}
}
