package augment

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	Mirroring []struct {
		Patch       []int
		AllowedAxes []int `json:"allowed_axes"`
		Shape       []int
		Applied     []struct {
			Parameters json.RawMessage
			Image      []float32
			Seg        []int16
		}
	}
	Regions []struct {
		Labels            json.RawMessage
		RegionsClassOrder []int `json:"regions_class_order"`
		Scales            [][]float64
		Seg               []int16
		Shapes            [][]int
		Masks             [][]uint
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, into))
}

func readGolden(t *testing.T, path string) *oracle {
	t.Helper()
	g := &oracle{}
	readJSON(t, path, g)
	return g
}

// shared lets all transforms draw from one generator.
func shared(rng *rand.Rand) Streams { return func(string) *rand.Rand { return rng } }

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
		list := List{Transforms: []Transform{DownsampleSegForDSTransform{DSScales: []Scale{{1, c.Scale}}}}}
		shapes, _ := list.TargetShapes([]int{1, c.N})
		require.Equal(t, [][]int{{1, 1, len(c.Kept)}}, shapes, "n %d scale %v", c.N, c.Scale)
		p := Patch{Image: volume.New[float32](seg.Shape), Seg: seg, Dim: 2}
		require.NoError(t, list.Draw(shared(nil)).Apply(&p))
		require.Equal(t, c.Kept, p.Targets[0].Data, "n %d scale %v", c.N, c.Scale)
	}
}

func TestRegionsBecomeChannels(t *testing.T) {
	cases := readGolden(t, golden.Path(t, "augment.json")).Regions
	require.NotEmpty(t, cases)
	for _, c := range cases {
		setting := Setting{PatchSize: []int{4, 6, 5}, Channels: 1, Scales: c.Scales, Augmentation: "none"}
		setting.SetClasses(labels(t, c.Labels, c.RegionsClassOrder))
		list, err := New(setting)
		require.NoError(t, err)
		shapes, masks := list.TargetShapes(setting.PatchSize)
		require.True(t, masks)
		p := Patch{Image: volume.New[float32]([4]int{1, 4, 6, 5}), Dim: 3,
			Seg: &volume.Volume[int16]{Data: slices.Clone(c.Seg), Shape: [4]int{1, 4, 6, 5}}}
		require.NoError(t, list.Draw(shared(nil)).Apply(&p))
		targets := p.Targets
		if targets == nil {
			targets = []*volume.Volume[int16]{p.Seg}
		}
		require.Equal(t, len(c.Shapes), len(targets))
		for level, want := range c.Masks {
			require.Equal(t, c.Shapes[level], shapes[level])
			require.Len(t, targets[level].Data, len(want))
			for i := range want {
				require.Equal(t, int16(want[i]), targets[level].Data[i], "level %d voxel %d", level, i)
			}
		}
	}
}

func random(shape [4]int, rng *rand.Rand) Patch {
	p := Patch{Image: volume.New[float32](shape), Seg: volume.New[int16]([4]int{1, shape[1], shape[2], shape[3]}), Dim: 3}
	for i := range p.Image.Data {
		p.Image.Data[i] = rng.Float32()
	}
	for i := range p.Seg.Data {
		p.Seg.Data[i] = int16(rng.IntN(4) - 1)
	}
	return p
}

func clone(p Patch) Patch {
	return Patch{Image: &volume.Volume[float32]{Data: slices.Clone(p.Image.Data), Shape: p.Image.Shape},
		Seg: &volume.Volume[int16]{Data: slices.Clone(p.Seg.Data), Shape: p.Seg.Shape}, Dim: p.Dim}
}

func TestTheEmptyListDrawsAndChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	before := random([4]int{2, 3, 4, 5}, rng)
	p := clone(before)
	require.NoError(t, List{}.Draw(nil).Apply(&p))
	require.Equal(t, before, p)
}

// scale multiplies by a random factor.
type scale struct{}

type factor float32

func (scale) Name() string                   { return "scale" }
func (scale) Draw(rng *rand.Rand) Parameters { return factor(rng.IntN(1000)) }
func (f factor) Apply(p *Patch) error {
	if f == 0 {
		return errors.New("nothing is left")
	}
	p.Image.Data[0] *= float32(f)
	return nil
}

func TestListsDrawInOrderAndApplyWhatWasDrawn(t *testing.T) {
	list := List{Transforms: []Transform{scale{}, scale{}}}
	rng, again := rand.New(rand.NewPCG(3, 4)), rand.New(rand.NewPCG(3, 4))
	drawn := list.Draw(shared(rng))
	first, second := factor(again.IntN(1000)), factor(again.IntN(1000))
	require.NotEqual(t, first, second)
	require.Equal(t, Drawn{{Transform: "scale", Parameters: first}, {Transform: "scale", Parameters: second}}, drawn)
	for range 2 { // applying draws nothing
		p := random([4]int{1, 1, 1, 1}, again)
		p.Image.Data[0] = 1
		require.NoError(t, drawn.Apply(&p))
		require.Equal(t, float32(first)*float32(second), p.Image.Data[0])
	}
	require.EqualError(t, Drawn{{Transform: "scale", Parameters: factor(0)}}.Apply(&Patch{}), "augment: transform 0, scale: nothing is left")
}

// A Scratch must not be written to where the patch still lies in it.
func TestStepsShareAScratchWithoutHarm(t *testing.T) {
	const steps = `{"transforms":[
		{"transform":"SpatialTransform","patch_size":[7,8,9],"center_location_in_pixels":[5,5.5,6],"affine":[[1,0.1,0],[0,0.9,0],[0,0.2,1]]},
		{"transform":"SpatialTransform","patch_size":[6,8,8],"center_location_in_pixels":[3.5,4,4.5],"affine":[[1,0,0.1],[0,1.1,0],[0,0,1]]},
		{"transform":"SpatialTransform","patch_size":[6,7,7],"center_location_in_pixels":[3,4,4],"affine":null},
		{"transform":"MoveSegAsOneHotToDataTransform","source_channel_idx":1,"all_labels":[1,2]},
		{"transform":"MoveSegAsOneHotToDataTransform","source_channel_idx":1,"all_labels":[1,2,0]},
		{"transform":"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[0.5,0.5,0.7]]},
		{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":0.1,"noise_seed":"3"},
		{"transform":"ConvertSegmentationToRegionsTransform","regions":[[1,2],0]},
		{"transform":"ConvertSegmentationToRegionsTransform","regions":[1,0,0]},
		{"transform":"DownsampleSegForDSTransform","ds_scales":[1,0.5]}]}`
	drawn, err := DecodeSpec([]byte(steps))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(5, 6))
	input := Patch{Image: random([4]int{2, 10, 11, 12}, rng).Image, Seg: volume.New[int16]([4]int{3, 10, 11, 12}), Dim: 3}
	for i := range input.Seg.Data {
		input.Seg.Data[i] = int16(rng.IntN(3))
	}
	apart := clone(input)
	for _, s := range drawn {
		apart.Scratch = &Scratch{}
		require.NoError(t, s.Parameters.Apply(&apart))
	}
	scratch := &Scratch{}
	for range 2 {
		p := clone(input)
		p.Scratch = scratch
		require.NoError(t, drawn.Apply(&p))
		require.Equal(t, apart.Image, p.Image)
		require.Equal(t, apart.Targets, p.Targets)
	}
}
