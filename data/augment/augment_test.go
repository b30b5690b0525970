package augment

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// oracle is testdata/golden/augment.json, written by scripts/golden/augment.py.
type oracle struct {
	Sampling []struct {
		N     int
		Scale float64
		Kept  []int16
	}
	Mirroring []struct{ Patch, Axes []int }
	Regions   []struct {
		Labels            json.RawMessage
		RegionsClassOrder []int `json:"regions_class_order"`
		Scales            [][]float64
		Seg               []int16
		Shapes            [][]int
		Masks             [][]uint
	}
}

func readGolden(t *testing.T, path string) *oracle {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	g := &oracle{}
	require.NoError(t, json.Unmarshal(data, g))
	return g
}

// TestLiveGoldenIsWhatPythonWrites runs the script again.
func TestLiveGoldenIsWhatPythonWrites(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "augment.json")
	golden.Run(t, "augment.py", path)
	require.Equal(t, readGolden(t, golden.Path(t, "augment.json")), readGolden(t, path))
}

func labels(t *testing.T, raw json.RawMessage, order []int) *plans.Labels {
	t.Helper()
	text, err := json.Marshal(map[string]any{"channel_names": map[string]string{"0": "CT"}, "regions_class_order": order})
	require.NoError(t, err)
	v, err := plans.DecodeJSON(text)
	require.NoError(t, err)
	l, err := plans.DecodeJSON(raw)
	require.NoError(t, err)
	v.(*plans.Object).Set("labels", l)
	d, err := plans.DatasetFromObject(v.(*plans.Object), "test")
	require.NoError(t, err)
	return d.Labels
}

func TestLevelsKeepTheVoxelsThatTheReferenceKeeps(t *testing.T) {
	cases := readGolden(t, golden.Path(t, "augment.json")).Sampling
	require.Greater(t, len(cases), 80)
	for _, c := range cases {
		seg := volume.New[int16]([4]int{1, 1, 1, c.N})
		for i := range seg.Data {
			seg.Data[i] = int16(i)
		}
		targets := NewTargets([]int{1, c.N}, &plans.Labels{}, [][]float64{{1, c.Scale}})
		require.Equal(t, []int{1, 1, len(c.Kept)}, targets.Shape(0), "n %d scale %v", c.N, c.Scale)
		got := make([]int16, len(c.Kept))
		targets.Labels(got, seg, 0)
		require.Equal(t, c.Kept, got, "n %d scale %v", c.N, c.Scale)
	}
}

func TestRegionsBecomeChannels(t *testing.T) {
	cases := readGolden(t, golden.Path(t, "augment.json")).Regions
	require.NotEmpty(t, cases)
	for _, c := range cases {
		targets := NewTargets([]int{4, 6, 5}, labels(t, c.Labels, c.RegionsClassOrder), c.Scales)
		require.True(t, targets.Regions())
		require.Equal(t, len(c.Shapes), targets.Levels())
		seg := &volume.Volume[int16]{Data: c.Seg, Shape: [4]int{1, 4, 6, 5}}
		for level, want := range c.Masks {
			require.Equal(t, c.Shapes[level], targets.Shape(level))
			got := make([]uint8, len(want))
			targets.Masks(got, seg, level)
			for i := range want {
				require.Equal(t, uint8(want[i]), got[i], "level %d voxel %d", level, i)
			}
		}
	}
}

func TestMirroringIsAlongTheAxesOfTheReference(t *testing.T) {
	cases := readGolden(t, golden.Path(t, "augment.json")).Mirroring
	require.Len(t, cases, 4)
	for _, c := range cases {
		require.Equal(t, c.Axes, MirrorAll(len(c.Patch)).Axes, "%v", c.Patch)
	}
}

func random(shape [4]int, rng *rand.Rand) Patch {
	p := Patch{Image: volume.New[float32](shape), Seg: volume.New[int16]([4]int{1, shape[1], shape[2], shape[3]})}
	for i := range p.Image.Data {
		p.Image.Data[i] = rng.Float32()
	}
	for i := range p.Seg.Data {
		p.Seg.Data[i] = int16(rng.IntN(4) - 1)
	}
	return p
}

func TestMirroringTwiceIsIdentityAndKeepsImageAndLabelsTogether(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 200 {
		shape := [4]int{1, 1 + rng.IntN(4), 1 + rng.IntN(5), 1 + rng.IntN(6)}
		m := MirrorAll(3)
		if i%2 == 0 {
			shape[1], m = 1, MirrorAll(2)
		}
		p := random(shape, rng)
		for k := range p.Image.Data { // each voxel's intensity names its label
			p.Image.Data[k] = float32(p.Seg.Data[k]) + p.Image.Data[k]/2
		}
		once, twice := random(shape, rng), random(shape, rng)
		m.Apply(once, p, rand.New(rand.NewPCG(seed, uint64(i))))
		m.Apply(twice, once, rand.New(rand.NewPCG(seed, uint64(i))))
		require.Equal(t, p, twice, "seed %d", seed)
		for k, v := range once.Image.Data {
			require.Equal(t, once.Seg.Data[k], int16(math.Floor(float64(v))), "seed %d", seed)
		}
		require.ElementsMatch(t, p.Image.Data, once.Image.Data)
	}
}

func TestEachAxisIsMirroredHalfOfTheTime(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for dim, shape := range map[int][4]int{2: {1, 1, 2, 2}, 3: {1, 2, 2, 2}} {
		n := shape[1] * shape[2] * shape[3]
		p, out := random(shape, rng), random(shape, rng)
		for k := range p.Image.Data {
			p.Image.Data[k] = float32(k)
		}
		count := make([]int, n)
		const trials = 8000
		for range trials {
			MirrorAll(dim).Apply(out, p, rng)
			count[int(out.Image.Data[0])]++ // which corner came to the origin
		}
		for corner, c := range count {
			require.InDelta(t, trials/float64(n), float64(c), 150, "dim %d corner %d", dim, corner)
		}
	}
	p, out := random([4]int{2, 3, 4, 5}, rng), random([4]int{2, 3, 4, 5}, rng)
	Mirror{Dim: 3}.Apply(out, p, rng)
	require.Equal(t, p, out, "no axis, no change")
	Identity{}.Apply(out, p, nil)
	require.Equal(t, p, out)
	require.Equal(t, []int{4, 5}, Identity{}.InputSize([]int{4, 5}))
}
