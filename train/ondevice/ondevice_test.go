package ondevice_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train/ondevice"
	"github.com/lntorch/lntorch/volume"
)

// apply applies steps to a copy of a patch, on a device.
func apply(d torch.Device, drawn augment.Drawn, p *augment.Patch) (out *augment.Patch, err error) {
	err = torch.With(func(s *torch.Scope) error {
		patch := ondevice.Upload(s, d, nil, p.Image, p.Seg, p.Dim)
		if s.Err() != nil {
			return s.Err()
		}
		if err := ondevice.Apply(s, drawn, patch); err != nil {
			return err
		}
		out, err = ondevice.Download(patch)
		return err
	})
	return out, err
}

// clone copies a patch, since data/augment works in place.
func clone(p *augment.Patch) *augment.Patch {
	c := &augment.Patch{Image: &volume.Volume[float32]{Data: slices.Clone(p.Image.Data), Shape: p.Image.Shape},
		Dim: p.Dim}
	if p.Seg != nil {
		c.Seg = &volume.Volume[int16]{Data: slices.Clone(p.Seg.Data), Shape: p.Seg.Shape}
	}
	return c
}

// targets are those of a patch, or its segmentation.
func targets(p *augment.Patch) []*volume.Volume[int16] {
	if p.Targets == nil && p.Seg != nil {
		return []*volume.Volume[int16]{p.Seg}
	}
	return p.Targets
}

// compareData compares as a part of the range of the input.
func compareData(t *testing.T, what, tolerance string, input, want, got *volume.Volume[float32]) {
	t.Helper()
	width := max(float64(slices.Max(input.Data)-slices.Min(input.Data)), 1e-3)
	part := func(v []float32) []float64 {
		out := make([]float64, len(v))
		for i := range v {
			out[i] = float64(v[i]) / width
		}
		return out
	}
	require.Equal(t, want.Shape, got.Shape, what)
	golden.Close(t, what, tolerance, want.Shape[:], part(want.Data), part(got.Data))
}

// tolerance names that of a transform, or of a whole list, on a device.
func tolerance(d torch.Device, chain bool) string {
	switch {
	case d.Type == torch.DeviceCPU:
		return "augment-device-cpu"
	case chain:
		return "augment-device-chain"
	}
	return "augment-device"
}

// compareLabels counts the labels that differ.
func compareLabels(t *testing.T, what string, want, got []*volume.Volume[int16]) (different, voxels int) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for k := range want {
		require.Equal(t, want[k].Shape, got[k].Shape, "%s: target %d", what, k)
		for i, v := range want[k].Data {
			if v != got[k].Data[i] {
				different++
				t.Logf("%s: target %d voxel %d: found %d, expected %d", what, k, i, got[k].Data[i], v)
			}
		}
		voxels += len(want[k].Data)
	}
	return different, voxels
}

func volumeShape(shape []int) [4]int {
	s := [4]int{shape[0], 1, 1, 1}
	copy(s[5-len(shape):], shape[1:])
	return s
}

// The cases of scripts/golden/augment_transforms.py hold what batchgeneratorsv2 makes of them.
func TestTransformsAreBatchgenerators(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		require.Greater(t, compareCases(t, d, golden.Path(t, "augment_transforms")), 150)
	})
}

func TestLiveTransformsOnADeviceAreBatchgenerators(t *testing.T) {
	golden.Python(t)
	seed := rand.Uint64() >> 33
	t.Logf("seed %d", seed)
	path := filepath.Join(t.TempDir(), "cases")
	golden.Run(t, "augment_transforms.py", path, "--seed", fmt.Sprint(seed), "--repeats", "3")
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		require.Greater(t, compareCases(t, d, path), 150)
	})
}

// compareCases applies the cases of a file and compares them with the reference.
func compareCases(t *testing.T, d torch.Device, path string) int {
	text, err := os.ReadFile(path + ".json")
	require.NoError(t, err)
	var file struct {
		Cases []struct {
			Name       string
			Dim        int
			Chain      bool
			Transforms json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal(text, &file))
	f, err := npz.OpenNpz(path + ".npz")
	require.NoError(t, err)
	defer f.Close()
	labels := func(key string) *volume.Volume[int16] {
		a, err := f.Read(key)
		require.NoError(t, err)
		v, err := a.Int16s()
		require.NoError(t, err)
		return &volume.Volume[int16]{Data: v, Shape: volumeShape(a.Shape)}
	}
	image := func(key string) *volume.Volume[float32] {
		shape, data := golden.Float32s(t, f, key)
		return &volume.Volume[float32]{Data: data, Shape: volumeShape(shape)}
	}
	different, voxels := 0, 0
	for i, c := range file.Cases {
		what := fmt.Sprintf("%d %s", i, c.Name)
		spec := strings.ReplaceAll(string(c.Transforms), `"GaussianNoiseTransform",`,
			`"GaussianNoiseTransform","noise":"n.npy",`)
		drawn, err := augment.DecodeSpec([]byte(`{"transforms":` + spec + `}`))
		require.NoError(t, err, what)
		for k, s := range drawn {
			if n, ok := s.Parameters.(*augment.GaussianNoiseParameters); ok {
				n.SetNoise(golden.Float32s(t, f, fmt.Sprintf("%d/noise/%d", i, k)))
			}
		}
		p := &augment.Patch{Image: image(fmt.Sprintf("%d/image", i)), Dim: c.Dim,
			Seg: labels(fmt.Sprintf("%d/seg", i))}
		got, err := apply(d, drawn, p)
		require.NoError(t, err, what)
		compareData(t, what, tolerance(d, c.Chain), p.Image, image(fmt.Sprintf("%d/data", i)), got.Image)
		var want []*volume.Volume[int16]
		for k := 0; f.Has(fmt.Sprintf("%d/target/%d", i, k)); k++ {
			want = append(want, labels(fmt.Sprintf("%d/target/%d", i, k)))
		}
		n, of := compareLabels(t, what, want, targets(got))
		if !strings.Contains(spec, `"affine":[`) {
			require.Zero(t, n, what)
		}
		different, voxels = different+n, voxels+of
	}
	t.Logf("%d of %d labels differ", different, voxels)
	require.LessOrEqual(t, different, max(1, voxels/10000))
	return len(file.Cases)
}

// settings are those in which nnU-Net trains, at small sizes. Together they have every transform.
func settings() map[string]augment.Setting {
	ignore := 3
	scales := [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}}
	return map[string]augment.Setting{
		"3d": {PatchSize: []int{24, 32, 28}, Channels: 1, Scales: scales},
		"3d two channels": {PatchSize: []int{17, 26, 21}, Channels: 2, UseMaskForNorm: []bool{false, true},
			Scales: scales},
		"dummy 2d": {PatchSize: []int{6, 40, 36}, Channels: 2, Scales: [][]float64{{1, 1, 1}, {1, 0.5, 0.5}}},
		"2d":       {PatchSize: []int{48, 40}, Channels: 2, Scales: [][]float64{{1, 1}, {0.5, 0.5}}},
		"2d ratio": {PatchSize: []int{64, 33}, Channels: 1},
		"regions": {PatchSize: []int{20, 24, 22}, Channels: 1, Regions: [][]int{{1, 2}, {2}}, IgnoreLabel: &ignore,
			Scales: scales},
		"cascade":    {PatchSize: []int{22, 20, 24}, Channels: 1, CascadeLabels: []int{1, 2}, Scales: scales},
		"2d cascade": {PatchSize: []int{41, 52}, Channels: 1, CascadeLabels: []int{1, 2, 3}},
		"nearest":    {PatchSize: []int{24, 20, 28}, Channels: 1, Trainer: "nnUNetTrainer_DASegOrd0"},
		"fixes":      {PatchSize: []int{20, 28, 24}, Channels: 2, Fixes: true},
	}
}

// list is the list of a setting, in which coins fall more often than in training.
func list(t testing.TB, s augment.Setting) augment.List {
	l, err := augment.New(s)
	require.NoError(t, err)
	for i, tr := range l.Transforms {
		switch x := tr.(type) {
		case augment.RandomTransform:
			x.ApplyProbability = 0.6
			if noise, ok := x.Transform.(augment.GaussianNoiseTransform); ok && s.UseMaskForNorm != nil {
				noise.SynchronizeChannels, noise.PPerChannel = false, 0.8
				x.Transform = noise
			}
			l.Transforms[i] = x
		case augment.SpatialTransform:
			x.PRotation, x.PScaling = 0.5, 0.5
			l.Transforms[i] = x
		}
	}
	return l
}

// crop is a patch of smooth structure with noise and labelled balls, -1 at a side.
func crop(s augment.Setting, size []int, rng *rand.Rand) *augment.Patch {
	shape := volumeShape(append([]int{s.Channels}, size...))
	p := &augment.Patch{Image: volume.New[float32](shape), Dim: len(size)}
	if shape[0] = 1; s.CascadeLabels != nil {
		shape[0] = 2
	}
	p.Seg = volume.New[int16](shape)
	z, y, x := shape[1], shape[2], shape[3]
	for i := range p.Image.Data {
		p.Image.Data[i] = float32(i%x)/10 - float32(i/x%y)/15 + float32(i/x/y%z)/20 + rng.Float32()
	}
	for range 12 * shape[0] {
		channel, label, r := rng.IntN(shape[0]), int16(1+rng.IntN(3)), 2+rng.IntN(6)
		c := [3]int{rng.IntN(z), rng.IntN(y), rng.IntN(x)}
		for i := range z * y * x {
			a, b, d := i/x/y-c[0], i/x%y-c[1], i%x-c[2]
			if a*a+b*b+d*d <= r*r {
				p.Seg.Data[channel*z*y*x+i] = label
			}
		}
	}
	for i := range z * y * x {
		if i%x < 3 {
			p.Seg.Data[i] = -1
		}
	}
	return p
}

// What is drawn makes the same patch on a device as on the CPU, step by step and as a whole.
func TestPatchesAreThoseOfTheCPU(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		used := map[string]int{}
		different, voxels := 0, 0
		compare := func(what string, chain bool, drawn augment.Drawn, p *augment.Patch) *augment.Patch {
			want := clone(p)
			require.NoError(t, drawn.Apply(want), what)
			got, err := apply(d, drawn, p)
			require.NoError(t, err, what)
			require.Equal(t, want.Masks, got.Masks, what)
			require.Equal(t, want.Dim, got.Dim, what)
			compareData(t, what, tolerance(d, chain), p.Image, want.Image, got.Image)
			n, of := compareLabels(t, what, targets(want), targets(got))
			if !regexp.MustCompile("affine").MatchString(spec(t, drawn)) {
				require.Zero(t, n, what)
			}
			different, voxels = different+n, voxels+of
			return want
		}
		for name, s := range settings() {
			l := list(t, s)
			for i := range 8 {
				drawn := l.Draw(augment.Sample{Seed: seed, Stream: "train", Iteration: i}.Augmentation)
				p := crop(s, l.InitialPatchSize, rng)
				what := fmt.Sprintf("seed %d, %s, sample %d", seed, name, i)
				compare(what, true, drawn, p)
				for k := 0; k < len(drawn); k++ {
					steps := drawn[k : k+1]
					if drawn[k].Transform == "Convert3DTo2DTransform" { // with what it is undone by
						steps = drawn[k : k+3]
						k += 2
					}
					for _, step := range steps {
						if step.Parameters != nil {
							used[step.Transform]++
						}
					}
					p = compare(what+" "+steps[0].Transform, false, steps, p)
				}
			}
		}
		t.Logf("%d of %d labels differ; applied %v", different, voxels, used)
		require.LessOrEqual(t, different, max(1, voxels/10000))
		require.Len(t, used, 17, "every transform of data/augment")
	})
}

func spec(t testing.TB, drawn augment.Drawn) string {
	text, err := json.Marshal(drawn)
	require.NoError(t, err)
	return strings.ReplaceAll(string(text), `"affine":null`, "")
}

// Steps that no list of nnU-Net's has in that order: what the CPU refuses is refused in its words.
func TestStepsInAnyOrderAreThoseOfTheCPU(t *testing.T) {
	var file struct {
		Cases []struct{ Transforms []json.RawMessage }
	}
	golden.LoadJSON(t, "augment_transforms.json", &file)
	var all []string
	for _, c := range file.Cases {
		for _, step := range c.Transforms {
			all = append(all, strings.ReplaceAll(string(step), `"GaussianNoiseTransform",`,
				`"GaussianNoiseTransform","noise_seed":"1",`))
		}
	}
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		applied, different, voxels := 0, 0, 0
		for i := range 800 {
			var steps []string
			for range 1 + rng.IntN(5) {
				steps = append(steps, all[rng.IntN(len(all))])
			}
			drawn := decode(t, strings.Join(steps, ","))
			size := []int{6 + rng.IntN(8), 9 + rng.IntN(5), 8 + rng.IntN(9)}[rng.IntN(2):]
			p := crop(augment.Setting{Channels: 1 + rng.IntN(2)}, size, rng)
			want := clone(p)
			wantErr := drawn.Apply(want)
			got, err := apply(d, drawn, p)
			what := fmt.Sprintf("seed %d, %d: %s", seed, i, steps)
			if wantErr != nil {
				require.EqualError(t, err, wantErr.Error(), what)
				continue
			}
			require.NoError(t, err, what)
			compareData(t, what, "augment-device-chain", p.Image, want.Image, got.Image)
			n, of := compareLabels(t, what, targets(want), targets(got))
			applied, different, voxels = applied+1, different+n, voxels+of
		}
		require.Greater(t, applied, 100)
		require.LessOrEqual(t, different, 1+voxels/10000)
	})
}

// A patch of more voxels than are sampled at a time, of a crop of nnU-Net's size.
func TestSamplingGoesBlockByBlock(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		drawn := decode(t, `{"transform":"SpatialTransform","patch_size":[40,128,128],"center_location_in_pixels":[43,102.5,84],
			"affine":[[0.9,0.21,-0.15],[-0.18,0.93,0.2],[0.17,-0.14,1.2]]}`)
		p := crop(augment.Setting{Channels: 1}, []int{86, 205, 168}, rand.New(rand.NewPCG(1, 2)))
		want := clone(p)
		require.NoError(t, drawn.Apply(want))
		got, err := apply(d, drawn, p)
		require.NoError(t, err)
		compareData(t, "block by block", tolerance(d, false), p.Image, want.Image, got.Image)
		n, of := compareLabels(t, "block by block", targets(want), targets(got))
		require.LessOrEqual(t, n, of/10000)
	})
}

// Coordinates halfway between voxels, and channels whose smallest labels differ, beyond the border.
func TestTiesAndBordersAreThoseOfTheCPU(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		for _, size := range [][]int{{7, 8, 9}, {6, 7, 8}, {8, 9}} {
			shape := volumeShape(append([]int{4}, size...))
			p := &augment.Patch{Image: volume.New[float32](shape), Seg: volume.New[int16](shape), Dim: len(size)}
			rng := rand.New(rand.NewPCG(4, 4))
			n := len(p.Seg.Data) / 4
			for i := range p.Seg.Data {
				p.Image.Data[i] = rng.Float32()
				p.Seg.Data[i] = []int16{1, 2, 0, -1}[i/n] + int16(rng.IntN(3))
			}
			for _, mode := range []string{"bilinear", "nearest"} {
				for _, outside := range []string{"null", "7"} {
					spatial := fmt.Sprintf(`{"transform":"SpatialTransform","patch_size":%s,"center_location_in_pixels":%s,
						"affine":%s,"mode_seg":%q,"seg_outside_to":%s}`, map[int]string{2: "[11,14]", 3: "[10,11,12]"}[len(size)],
						map[int]string{2: "[4,4.5]", 3: "[3.5,4,4.5]"}[len(size)],
						map[int]string{2: "[[1,0],[0,1]]", 3: "[[1,0,0],[0,1,0],[0,0,1]]"}[len(size)], mode, outside)
					drawn := decode(t, spatial)
					want := clone(p)
					require.NoError(t, drawn.Apply(want))
					got, err := apply(d, drawn, p)
					require.NoError(t, err)
					require.Equal(t, want.Seg, got.Seg, spatial)
					compareData(t, spatial, tolerance(d, false), p.Image, want.Image, got.Image)
				}
			}
		}
	})
}

func decode(t testing.TB, steps string) augment.Drawn {
	drawn, err := augment.DecodeSpec([]byte(`{"transforms":[` + steps + `]}`))
	require.NoError(t, err)
	return drawn
}

// Labels that int8 holds may be uploaded as such.
func TestLabelsMayBeInt8(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		s := settings()["3d two channels"]
		l := list(t, s)
		for i := range 6 {
			drawn := l.Draw(augment.Sample{Seed: 5, Iteration: i}.Augmentation)
			p := crop(s, l.InitialPatchSize, rand.New(rand.NewPCG(3, uint64(i))))
			want, err := apply(d, drawn, p)
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				patch := ondevice.Upload(s, d, nil, p.Image, p.Seg, p.Dim)
				patch.Seg = s.To(patch.Seg, torch.Int8, d)
				if err := ondevice.Apply(s, drawn, patch); err != nil {
					return err
				}
				got, err := ondevice.Download(patch)
				require.Equal(t, want, got)
				return err
			}))
		}
	})
}

// Parameters that do not fit are refused in the words of the CPU's path, and leave nothing behind.
func TestErrorsAreThoseOfTheCPU(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		for _, step := range []string{
			`"MirrorTransform","axes":[3]`,
			`"MirrorTransform","axes":[1,1]`,
			`"Convert2DTo3DTransform"`,
			`"SpatialTransform","patch_size":[4,5],"center_location_in_pixels":[2,2],"affine":null`,
			`"SpatialTransform","patch_size":[8192,8192,2],"center_location_in_pixels":[2,2,2],"affine":null`,
			`"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":1,"noise_seed":"1"`,
			`"GaussianNoiseTransform","apply_to_channel":[0,1],"sigmas":[1],"noise_seed":"1"`,
			`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,0,1]]`,
			`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1]]`,
			`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[9,1,1]]`,
			`"MultiplicativeBrightnessTransform","apply_to_channel":[2],"multipliers":[1]`,
			`"MultiplicativeBrightnessTransform","apply_to_channel":[1],"multipliers":[]`,
			`"ContrastTransform","apply_to_channel":[1],"multipliers":[1,2]`,
			`"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[0.01,1,1]]`,
			`"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[1,1]]`,
			`"GammaTransform","apply_to_channel":[0],"retain_stats":[],"invert_image":[true],"gamma":[]`,
			`"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[true],"gamma":[0]`,
			`"MaskImageTransform","channel_idx_in_seg":1`,
			`"MoveSegAsOneHotToDataTransform","source_channel_idx":1,"all_labels":[1]`,
			`"ConvertSegmentationToRegionsTransform","regions":[]`,
			`"ConvertSegmentationToRegionsTransform","regions":[1],"channel_in_seg":-2`,
			`"DownsampleSegForDSTransform","ds_scales":[[0.5,0.5]]`,
			`"DownsampleSegForDSTransform","ds_scales":[0.01]`,
			`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":["binary_dilation"],"strel_size":[1]`,
			`"ApplyRandomBinaryOperatorTransform","channel_idx":[-3],"apply_to_channels":[-1],"operators":["binary_dilation_torch"],"strel_size":[1]`,
			`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[5],"operators":["binary_dilation_torch"],"strel_size":[1]`,
			`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":["binary_dilation_torch"],"strel_size":[1e9]`,
			`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":[],"strel_size":[1]`,
			`"RemoveRandomConnectedComponentFromOneHotEncodingTransform","channel_idx":[-1],"apply_to_channels":[-1],"random_component":[1]`,
		} {
			drawn := decode(t, `{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0},{"transform":`+step+`}`)
			p := &augment.Patch{Image: volume.New[float32]([4]int{2, 4, 5, 6}), Seg: volume.New[int16]([4]int{1, 4, 5, 6}), Dim: 3}
			_, err := apply(d, drawn, p)
			want := drawn.Apply(p)
			require.Error(t, want, step)
			require.EqualError(t, err, want.Error(), step)
		}
		flat := &augment.Patch{Image: volume.New[float32]([4]int{2, 1, 5, 6}), Dim: 2}
		_, err := apply(d, decode(t, `{"transform":"Convert3DTo2DTransform"}`), flat)
		require.ErrorContains(t, err, "found a patch of 2 axes, expected 3")
		_, err = apply(d, decode(t, `{"transform":"MaskImageTransform"}`), flat)
		require.ErrorContains(t, err, "needs a segmentation, which is not given")
		// without a segmentation the rest acts on the image alone, as on the CPU
		l := list(t, settings()["regions"])
		p := crop(settings()["regions"], l.InitialPatchSize, rand.New(rand.NewPCG(3, 3)))
		p.Seg = nil
		got, err := apply(d, l.Draw(augment.Sample{}.Augmentation), p)
		require.NoError(t, err)
		require.Nil(t, got.Seg)
	})
}

// A batch is its samples, one behind the other; the loader's memory is left alone.
func TestBatchesAreTheirSamples(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		for _, name := range []string{"3d two channels", "regions", "2d ratio"} {
			s := settings()[name]
			l := list(t, s)
			var samples []ondevice.Sample
			var want []*augment.Patch
			for i := range 3 {
				drawn := l.Draw(augment.Sample{Seed: 11, Iteration: 4, Index: i}.Augmentation)
				p := crop(s, l.InitialPatchSize, rand.New(rand.NewPCG(3, uint64(i))))
				one, err := apply(d, drawn, p)
				require.NoError(t, err)
				want = append(want, one)
				sample := ondevice.Sample{Image: p.Image, Seg: p.Seg, Dim: p.Dim, Drawn: drawn}
				if i > 0 { // as workers do
					sample.Drawn, err = drawn.WithNoise(l.InitialPatchSize)
					require.NoError(t, err)
				}
				samples = append(samples, sample)
			}
			before := slices.Clone(samples[0].Image.Data)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				image, labels, err := ondevice.Batch(s, d, nil, samples)
				require.NoError(t, err, name)
				require.False(t, image.RequiresGrad())
				require.Len(t, labels, len(targets(want[0])))
				for i, w := range want {
					got, err := torch.Slice[float32](s.Contiguous(s.Select(image, 0, int64(i)), torch.Contiguous))
					require.NoError(t, err)
					require.Equal(t, w.Image.Data, got, name)
					for k, target := range targets(w) {
						require.Equal(t, w.Masks, labels[k].DType() == torch.Uint8)
						got, err := torch.Slice[int16](s.To(s.Select(labels[k], 0, int64(i)), torch.Int16, d))
						require.NoError(t, err)
						require.Equal(t, target.Data, got, name)
					}
				}
				return nil
			}))
			require.Equal(t, before, samples[0].Image.Data)
		}
	})
}

// What a loader reads of a case, with the first steps done where they only cut out, makes the patch
// that it would make by itself.
func TestLoadersMayCutOutThemselves(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		cut := map[bool]int{}
		for name, s := range settings() {
			l := list(t, s)
			rng := rand.New(rand.NewPCG(9, 9))
			size := volumeShape(append([]int{1}, l.InitialPatchSize...))
			inner := slices.Clone(l.InitialPatchSize)
			for i := range inner {
				inner[i] = inner[i]*9/10 + 1 // the window reaches beyond the case
			}
			of := crop(s, inner, rng)
			for i := range 8 {
				drawn := l.Draw(augment.Sample{Seed: 2, Iteration: i}.Augmentation)
				window := augment.Window{Start: [3]int{0, -1, 2}, Size: [3]int(size[1:]), Lowest: -1}
				want := &augment.Patch{Image: of.Image, Seg: of.Seg, Dim: of.Dim, Window: window}
				require.NoError(t, drawn.Apply(want))
				ours := &augment.Patch{Image: of.Image, Seg: of.Seg, Dim: of.Dim, Window: window}
				first := drawn.CutsOut()
				cut[first > 0]++
				require.NoError(t, drawn[:first].Apply(ours))
				if first > 0 {
					require.Equal(t, volumeShape(append([]int{s.Channels}, s.PatchSize...)), ours.Image.Shape, name)
				}
				require.NoError(t, torch.With(func(scope *torch.Scope) error {
					image, labels, err := ondevice.Batch(scope, d, nil, []ondevice.Sample{{Image: ours.Image,
						Seg: ours.Seg, Dim: ours.Dim, Drawn: drawn[first:]}})
					require.NoError(t, err, name)
					got := &volume.Volume[float32]{Data: torchtest.Float32s(t, image), Shape: want.Image.Shape}
					compareData(t, name, tolerance(d, true), of.Image, want.Image, got)
					label, err := torch.Slice[int16](scope.To(labels[0], torch.Int16, d))
					require.Equal(t, targets(want)[0].Data, label, name)
					return err
				}))
			}
		}
		require.Greater(t, cut[true], 8)
		require.Greater(t, cut[false], 8)
	})
}

func TestBatchesThatDoNotFitAreRefused(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		p := crop(augment.Setting{Channels: 1}, []int{6, 7, 8}, rand.New(rand.NewPCG(8, 8)))
		other := crop(augment.Setting{Channels: 1}, []int{6, 7, 9}, rand.New(rand.NewPCG(8, 8)))
		one := ondevice.Sample{Image: p.Image, Seg: p.Seg, Dim: 3}
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			_, _, err := ondevice.Batch(s, d, nil, []ondevice.Sample{one, {Image: other.Image, Seg: other.Seg, Dim: 3}})
			require.EqualError(t, err, "sample 1 of the batch: found [1 6 7 9] and 1 targets, expected the "+
				"shapes of the first sample")
			_, _, err = ondevice.Batch(s, d, nil, []ondevice.Sample{one, {Image: p.Image, Dim: 3}})
			require.ErrorContains(t, err, "sample 1 of the batch: found [1 6 7 8] and 0 targets")
			return nil
		}))
	})
}

// A patch of nnU-Net's size needs no more memory than four crops beside the crop itself; without an
// affine, when the crop is gone, no more than the crop had.
func TestMemoryIsBounded(t *testing.T) {
	torchtest.Require(t)
	size := []int{140, 205, 168}
	p := crop(augment.Setting{Channels: 1}, size, rand.New(rand.NewPCG(1, 1)))
	for step, crops := range map[string]float64{
		`{"transform":"SpatialTransform","patch_size":[64,128,128],"center_location_in_pixels":[70,102.5,84],
			"affine":[[0.9,0.21,-0.15],[-0.18,0.93,0.2],[0.17,-0.14,0.95]]}`: 4,
		`{"transform":"SpatialTransform","patch_size":[64,128,128],"center_location_in_pixels":[70,102.5,84],"affine":null},
			{"transform":"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1,1]]},
			{"transform":"ContrastTransform","apply_to_channel":[0],"multipliers":[1.2]},
			{"transform":"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[0.6,0.6,0.6]]},
			{"transform":"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[true],"gamma":[1.3]},
			{"transform":"MirrorTransform","axes":[0,1]},{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0},
			{"transform":"DownsampleSegForDSTransform","ds_scales":[1,0.5]}`: 0.5,
	} {
		drawn := decode(t, step)
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			patch := ondevice.Upload(s, torch.CPU, nil, p.Image, p.Seg, p.Dim)
			require.NoError(t, torch.CPU.EmptyCache())
			inUse, _, _, err := torch.CPUMemory()
			require.NoError(t, err)
			require.NoError(t, ondevice.Apply(s, drawn, patch))
			_, peak, _, err := torch.CPUMemory()
			one := int64(4 * len(p.Image.Data))
			require.LessOrEqual(t, float64(peak-inUse)/float64(one), crops, "crops")
			return err
		}))
	}
}
