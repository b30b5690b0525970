package augment

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// A text of another kind, gigabytes of it, is told from a SPEC before anything is made of it.
func TestHugeTextsAreRefused(t *testing.T) {
	text := `{"transforms":[` + strings.Repeat(" ", largestText) + `]}`
	_, err := DecodeSpec([]byte(text))
	require.ErrorContains(t, err, "found 16777233 bytes, expected 16777216 at most")
	_, _, err = Read([]byte(text), Setting{PatchSize: []int{8, 8}, Channels: 1})
	require.ErrorContains(t, err, "expected 16777216 at most")
}

func TestBadSpecsAreExplained(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{``, "line 1, column 1: not JSON: the text ends here"},
		{"{\n \"a\": 1,}", `line 2, column 9: not JSON`},
		{`{"transforms":[]`, "line 1, column 17: not JSON: the text ends here"},
		{"{\"transforms\":[]}\n{\"transforms\":[]}", "line 2, column 1: found more behind the JSON object"},
		{`[]`, "found array, expected a JSON object"},
		{`null`, "found null, expected a JSON object"},
		{`{"Transforms":[]}`, `key "transforms" is missing`},
		{`{"transforms":{}}`, "expected a list of objects"},
		{`{"transforms":null}`, "expected a list of objects"},
		{`{"transforms":[null]}`, "expected a list of objects"},
		{`{"transforms":[{}]}`, `transform 0: key "transform" is missing`},
		{`{"transforms":[{"transform":1}]}`, "transform 0: transform: found 1, expected the name of a class"},
		{`{"transforms":[{"transform":"GammaTransfrom"}]}`, `unknown transform "GammaTransfrom"; did you mean "GammaTransform"?`},
		{`{"transforms":[{"transform":"MirrorTransform"},{"transform":"MirrorTransform","axes":[0]}]}`,
			`transform 0, MirrorTransform: key "axes" is missing, expected a list of integers`},
		{`{"transforms":[{"transform":"MirrorTransform","axes":[0],"axis":1}]}`, `MirrorTransform: unknown key "axis"; did you mean "axes"?`},
		{`{"transforms":[{"transform":"MirrorTransform","axes":[0.5]}]}`, "axes: found [0.5], expected a list of integers"},
		{`{"transforms":[{"transform":"MirrorTransform","axes":[null]}]}`, "axes: found [null], expected a list of integers"},
		{`{"transforms":[{"transform":"MirrorTransform","axes":null}]}`, "axes: found null, expected a list of integers"},
		{`{"transforms":[{"transform":"MirrorTransform","apply_transform":"no","axes":[]}]}`, `apply_transform: found "no", expected true or false`},
		{`{"transforms":[{"transform":"MirrorTransform","apply_transform":false,"axs":[]}]}`, `unknown key "axs"; did you mean "axes"?`},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4]}]}`,
			`key "affine" is missing, expected a list of lists of numbers`},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":[[1,0],[0]]}]}`,
			"affine: found [2 1], expected 2 rows of 2 numbers"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":[[1,0],[0,1e30]]}]}`,
			"affine: found 1e+30, which moves voxels 2^27 voxels away"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4],"affine":null}]}`,
			"patch_size: found 1 axes, expected 2 or 3"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[100000,100000],"affine":null}]}`,
			"patch_size: found [100000 100000], expected sizes from 1 on, 2^27 voxels at most"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1],"patch_size":[4,4],"affine":null}]}`,
			"center_location_in_pixels: found 1 values, expected 2"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":null,"elastic_offsets":[[1]]}]}`,
			"elastic_offsets: found [[1]], expected null"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":null,"elastic_offsets":{}}]}`,
			"elastic_offsets: found offsets, expected null: elastic deformation is not built"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":null,"bg_style_seg_sampling":true}]}`,
			"bg_style_seg_sampling: found true, expected false"},
		{`{"transforms":[{"transform":"SpatialTransform","center_location_in_pixels":[1,1],"patch_size":[4,4],"affine":null,"mode_seg":"nearst"}]}`,
			`mode_seg: found "nearst", expected bilinear or nearest; did you mean "nearest"?`},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":1}]}`,
			"GaussianNoiseTransform: found neither noise nor noise_seed, expected one of them"},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":1,"noise":"a","noise_seed":"1"}]}`,
			"found noise and noise_seed"},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":1,"noise_seed":1}]}`, "noise_seed: found 1, expected a text"},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":1,"noise_seed":"-1"}]}`,
			`noise_seed: found "-1", expected an integer from 0 to 2^64-1 as text`},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[1.5],"sigmas":1,"noise_seed":"1"}]}`,
			"apply_to_channel: found [1.5], expected a list of true and false, or of indices of channels"},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":"x","noise_seed":"1"}]}`,
			`sigmas: found "x", expected a number or a list of numbers`},
		{`{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":-1,"noise_seed":"1"}]}`, "sigmas: found -1, expected none below 0"},
		{`{"transforms":[{"transform":"ContrastTransform","apply_to_channel":[0],"multipliers":[1e400]}]}`, "multipliers: found [1e400], expected a list of numbers"},
	} {
		_, err := DecodeSpec([]byte(c.spec))
		require.ErrorContains(t, err, c.want, "%s", c.spec)
		require.NotContains(t, err.Error(), "json:", "%s", c.spec)
		require.NotContains(t, err.Error(), "augment.", "%s", c.spec)
	}
}

func TestParametersThatDoNotFitThePatchAreExplained(t *testing.T) {
	for _, c := range []struct{ step, want string }{
		{`"MirrorTransform","axes":[3]`, "axis 3, expected one of the 3 axes"},
		{`"ContrastTransform","apply_to_channel":[2],"multipliers":[1]`, "apply_to_channel: found channel 2, expected -2 to 1"},
		{`"ContrastTransform","apply_to_channel":[true],"multipliers":[1]`, "apply_to_channel: found a mask of 1 channels, expected 2 as in the image"},
		{`"ContrastTransform","apply_to_channel":[0,-1],"multipliers":[1]`, "multipliers: found 1 values, expected 2, one per selected channel"},
		{`"MultiplicativeBrightnessTransform","apply_to_channel":[0],"multipliers":[]`, "multipliers: found 0 values, expected 1"},
		{`"GammaTransform","apply_to_channel":[0],"retain_stats":[],"invert_image":[true],"gamma":[1]`, "retain_stats: found 0 values, expected 1"},
		{`"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[true],"gamma":[0]`, "gamma: found 0, expected numbers above 0"},
		{`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1]]`, "sigmas: found a row of 2 values, expected 3, one per axis"},
		{`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1,0]]`, "sigmas: found 0, expected numbers above 0"},
		{`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1,1e300]]`, "sigmas: found 1e+300 for axis 2, whose 6 voxels are fewer than"},
		{`"GaussianBlurTransform","apply_to_channel":[0],"sigmas":[[1,1,2]]`, "sigmas: found 2 for axis 2, whose 6 voxels are fewer than the 7 that its kernel of 13 needs"},
		{`"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[0.1,1,1]]`, "scales: found 0.1, which makes 0 of the 4 voxels of axis 0"},
		{`"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[1e9,1,1]]`, "scales: found 1e+09, which makes 4e+09 of the 4 voxels"},
		{`"SpatialTransform","patch_size":[4,4],"center_location_in_pixels":[1,1],"affine":null`, "patch_size: found [4 4], expected 3 axes as in the patch"},
		{`"GaussianNoiseTransform","apply_to_channel":[0,1],"sigmas":[1],"noise_seed":"1"`, "sigmas: found 1 values, expected 2"},
		{`"GaussianNoiseTransform","apply_to_channel":[0,1],"sigmas":1,"noise":"n.npy"`, "noise: n.npy: found shape [], expected 1 channels of [4 5 6]"},
		{`"MaskImageTransform","channel_idx_in_seg":1`, "channel_idx_in_seg: found channel 1, expected -1 to 0"},
		{`"MoveSegAsOneHotToDataTransform","source_channel_idx":1,"all_labels":[1]`, "source_channel_idx: found channel 1"},
		{`"ConvertSegmentationToRegionsTransform","regions":[]`, "regions: found none"},
		{`"DownsampleSegForDSTransform","ds_scales":[[1,1]]`, "ds_scales: found a row of 2 numbers, expected 3"},
		{`"DownsampleSegForDSTransform","ds_scales":[0.01]`, "ds_scales: found 0.01, which makes 0 of the 4 voxels"},
		{`"Convert2DTo3DTransform"`, "found no Convert3DTo2DTransform before it"},
		{`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":["binary_dilation"],"strel_size":[1]`,
			`operators: found "binary_dilation", expected`},
		{`"ApplyRandomBinaryOperatorTransform","channel_idx":[-3],"apply_to_channels":[-1],"operators":["binary_dilation_torch"],"strel_size":[1]`,
			"channel_idx: found channel -3, expected -2 to 1"},
		{`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":["binary_dilation_torch"],"strel_size":[1e9]`,
			"strel_size: found 1e+09, expected numbers above 0, up to 1000"},
		{`"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],"operators":[],"strel_size":[1]`, "operators and strel_size: found 0 and 1 values, expected 1"},
		{`"RemoveRandomConnectedComponentFromOneHotEncodingTransform","channel_idx":[-1],"apply_to_channels":[-1],"random_component":[1]`,
			"random_component: found 1, expected numbers from 0, below 1"},
	} {
		drawn, err := DecodeSpec([]byte(`{"transforms":[{"transform":` + c.step + `}]}`))
		require.NoError(t, err, c.step)
		p := Patch{Image: volume.New[float32]([4]int{2, 4, 5, 6}), Seg: volume.New[int16]([4]int{1, 4, 5, 6}), Dim: 3}
		require.ErrorContains(t, drawn.Apply(&p), c.want, c.step)
	}
	p := Patch{Image: volume.New[float32]([4]int{1, 4, 5, 6}), Dim: 3}
	require.ErrorContains(t, (&MaskImageTransform{}).Apply(&p), "needs a segmentation, which is not given")
	// a line of lntorch augment sample acts on an image alone, too
	list, err := New(Setting{PatchSize: []int{4, 5, 6}, Channels: 1, Regions: [][]int{{1}}, Scales: [][]float64{{1, 1, 1}}})
	require.NoError(t, err)
	require.NoError(t, list.Draw(Sample{}.Augmentation).Apply(&p))
	require.Nil(t, p.Seg)
}

func TestTheRightSpellingIsReadToo(t *testing.T) {
	drawn, err := DecodeSpec([]byte(`{"transforms":[{"transform":"RemoveLabelTransform","label_value":-1,"set_to":0}],"key":"LN_1"}`))
	require.NoError(t, err)
	require.Equal(t, Drawn{{Transform: "RemoveLabelTansform", Parameters: &RemoveLabelTansform{-1, 0}}}, drawn)
}

// FuzzSpec: whatever a SPEC says, it is applied or refused, and what was read is written as it was.
func FuzzSpec(f *testing.F) {
	for _, step := range benchSteps {
		f.Add([]byte(`{"transforms":[` + step + `]}`))
	}
	var file struct{ Cases []transformCase }
	golden.LoadJSON(f, "augment_transforms.json", &file)
	for i := 0; i < len(file.Cases); i += 7 {
		f.Add([]byte(`{"transforms":` + string(file.Cases[i].Transforms) + `}`))
	}
	f.Add([]byte(`{"transforms":[{"transform":"GammaTransform","apply_transform":false}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		drawn, err := DecodeSpec(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(map[string]Drawn{"transforms": drawn})
		require.NoError(t, err)
		second, err := DecodeSpec(again)
		require.NoError(t, err)
		require.Len(t, second, len(drawn))
		for _, s := range drawn {
			if sp, ok := s.Parameters.(*SpatialParameters); ok && volumeOf(sp.PatchSize) > 1<<16 || len(drawn) > 20 {
				return // takes long
			}
			if b, ok := s.Parameters.(*ApplyRandomBinaryOperatorParameters); ok && strings.Count(string(text), ",") > 0 {
				for _, r := range b.StrelSize {
					if r > 30 {
						return
					}
				}
			}
		}
		p := Patch{Image: volume.New[float32]([4]int{2, 3, 5, 7}), Seg: volume.New[int16]([4]int{2, 3, 5, 7}), Dim: 3}
		for i := range p.Image.Data {
			p.Image.Data[i], p.Seg.Data[i] = float32(i%11), int16(i%4-1)
		}
		_ = drawn.Apply(&p)
	})
}

// FuzzList: a FILE is refused, or is a list that draws, and that is read as itself when it is printed.
func FuzzList(f *testing.F) {
	settings := []Setting{
		{PatchSize: []int{8, 8, 8}, Channels: 2, UseMaskForNorm: []bool{false, true}, CascadeLabels: []int{1, 2},
			Regions: [][]int{{1, 2}, {2}}, Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}}},
		{PatchSize: []int{4, 14, 13}, Channels: 1},
		{PatchSize: []int{20, 11}, Channels: 3},
	}
	for _, s := range settings {
		l, err := New(s)
		require.NoError(f, err)
		text, err := json.Marshal(l)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, s := range settings {
			l, _, err := Read(text, s)
			if err != nil {
				continue
			}
			l.Draw(Sample{}.Augmentation)
			printed, err := json.Marshal(l)
			require.NoError(t, err)
			again, _, err := Read(printed, s)
			require.NoError(t, err)
			second, err := json.Marshal(again)
			require.NoError(t, err)
			require.Equal(t, string(printed), string(second))
		}
	})
}

func volumeOf(size []int) int {
	n := 1
	for _, s := range size {
		n *= s
	}
	return n
}
