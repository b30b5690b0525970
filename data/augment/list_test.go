package augment

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

func names(l List) string {
	var out []string
	for _, t := range l.Transforms {
		name := strings.TrimSuffix(strings.TrimSuffix(t.Name(), "Transform"), "Tansform")
		if _, ok := t.(RandomTransform); ok {
			name += "?"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

const intensities = "GaussianNoise? GaussianBlur? MultiplicativeBrightness? Contrast? SimulateLowResolution? Gamma? Gamma?"

func TestTrainersChooseListsAndAxes(t *testing.T) {
	for _, c := range []struct {
		trainer, augmentation string
		patch                 []int
		axes, initial         []int
		mode, names           string
	}{
		{"nnUNetTrainer", "", []int{64, 128, 128}, []int{0, 1, 2}, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_DGST", "", []int{64, 128, 128}, []int{0, 1, 2}, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_250epochs", "", []int{512, 512}, []int{0, 1}, []int{602, 602}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer", "", []int{28, 256, 256}, []int{0, 1, 2}, []int{28, 301, 301}, "", "Convert3DTo2D Spatial Convert2DTo3D " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainerNoDA", "", []int{64, 128, 128}, nil, []int{64, 128, 128}, "", "RemoveLabel"},
		{"nnUNetTrainerNoDA", "nnunet", []int{64, 128, 128}, []int{0, 1, 2}, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainerNoMirroring", "", []int{64, 128, 128}, nil, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " RemoveLabel"},
		{"nnUNetTrainer_2000epochs_NoMirroring", "", []int{64, 128, 128}, nil, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " RemoveLabel"},
		{"nnUNetTrainer_onlyMirror01", "", []int{64, 128, 128}, []int{0, 1}, []int{140, 205, 168}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_onlyMirror01", "", []int{512, 256}, []int{0}, []int{659, 301}, "bilinear", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_DASegOrd0", "", []int{64, 128, 128}, []int{0, 1, 2}, []int{140, 205, 168}, "nearest", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_onlyMirror01_DASegOrd0", "", []int{64, 128, 128}, []int{0, 1}, []int{140, 205, 168}, "nearest", "Spatial " + intensities + " Mirror RemoveLabel"},
		{"nnUNetTrainer_DASegOrd0_NoMirroring", "", []int{64, 128, 128}, nil, []int{140, 205, 168}, "nearest", "Spatial " + intensities + " RemoveLabel"},
		{"nnUNetTrainer", "mirror", []int{64, 128, 128}, []int{0, 1, 2}, []int{64, 128, 128}, "", "Mirror RemoveLabel"},
		{"nnUNetTrainer", "none", []int{64, 128, 128}, nil, []int{64, 128, 128}, "", "RemoveLabel"},
	} {
		l, err := New(Setting{PatchSize: c.patch, Channels: 1, Trainer: c.trainer, Augmentation: c.augmentation})
		require.NoError(t, err)
		require.Equal(t, c.axes, l.MirrorAxes, "%v", c)
		require.Equal(t, c.initial, l.InitialPatchSize, "%v", c)
		require.Equal(t, c.names, names(l), "%v", c)
		if s, ok := l.Transforms[0].(SpatialTransform); ok {
			require.Equal(t, c.mode, s.ModeSeg, "%v", c)
		}
	}
	for _, trainer := range []string{"nnUNetTrainerDA5", "nnUNetTrainerDA5ord0", "nnUNetTrainerDA5_10epochs"} {
		_, err := New(Setting{PatchSize: []int{8, 8, 8}, Channels: 1, Trainer: trainer})
		require.ErrorContains(t, err, "trainer "+trainer+" uses another library's transforms")
	}
}

func ignoring() *int { v := 3; return &v }

func TestListsEndWithWhatTheDataNeed(t *testing.T) {
	s := Setting{PatchSize: []int{8, 8, 8}, Channels: 2, UseMaskForNorm: []bool{false, true}, CascadeLabels: []int{1, 2},
		Regions: [][]int{{1, 2}, {2}}, IgnoreLabel: ignoring(), Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}}, Augmentation: "mirror"}
	l, err := New(s)
	require.NoError(t, err)
	const operator = "ApplyRandomBinaryOperator? RemoveRandomConnectedComponentFromOneHotEncoding?"
	require.Equal(t, "Mirror MaskImage RemoveLabel MoveSegAsOneHotToData "+operator+" ConvertSegmentationToRegions DownsampleSegForDS", names(l))
	require.Equal(t, []Region{{1, 2}, {2}, {3}}, l.Transforms[6].(ConvertSegmentationToRegionsTransform).Regions)
	require.Equal(t, []int{-2, -1}, l.Transforms[4].(RandomTransform).Transform.(ApplyRandomBinaryOperatorTransform).ChannelIdx)
	s.Augmentation = "none"
	l, err = New(s)
	require.NoError(t, err)
	require.Equal(t, "RemoveLabel MoveSegAsOneHotToData ConvertSegmentationToRegions DownsampleSegForDS", names(l))
}

func TestFixesLetLowResolutionAct(t *testing.T) {
	for _, fixes := range []bool{false, true} {
		l, err := New(Setting{PatchSize: []int{16, 16, 16}, Channels: 1, Fixes: fixes})
		require.NoError(t, err)
		acted := 0
		for i := range 200 {
			for _, s := range l.Draw(Sample{Iteration: i}.Augmentation) {
				if p, ok := s.Parameters.(*SimulateLowResolutionParameters); ok && len(p.Scales) > 0 && p.Scales[0][0] != 1 {
					acted++
				}
			}
		}
		require.Equal(t, fixes, acted > 0)
	}
}

func printed(t *testing.T, s Setting) string {
	t.Helper()
	l, err := New(s)
	require.NoError(t, err)
	text, err := json.Marshal(l)
	require.NoError(t, err)
	return string(text)
}

func TestAPrintedListIsReadAsItself(t *testing.T) {
	for _, s := range []Setting{
		{PatchSize: []int{8, 8, 8}, Channels: 2, UseMaskForNorm: []bool{false, true}, CascadeLabels: []int{1, 2},
			Regions: [][]int{{1, 2}, {2}}, IgnoreLabel: ignoring(), Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}}},
		{PatchSize: []int{4, 14, 13}, Channels: 1, Fixes: true},
		{PatchSize: []int{20, 11}, Channels: 3, Trainer: "nnUNetTrainer_DASegOrd0_NoMirroring"},
		{PatchSize: []int{8, 8, 8}, Channels: 1, Augmentation: "mirror"},
	} {
		want, err := New(s)
		require.NoError(t, err)
		got, warning, err := Read([]byte(printed(t, s)), s)
		require.NoError(t, err)
		require.Empty(t, warning)
		got.Augmentation = want.Augmentation
		require.Equal(t, want, got)
	}
}

func TestFilesMayChangeWhatIsRandom(t *testing.T) {
	s := Setting{PatchSize: []int{8, 10, 9}, Channels: 2, Scales: [][]float64{{1, 1, 1}}}
	l, _, err := Read([]byte(`{"transforms":[
		{"transform":"MirrorTransform","allowed_axes":[2]},
		{"transform":"GaussianNoiseTransform","noise_variance":0.3,"p_per_channel":0.5,"synchronize_channels":false},
		{"transform":"GaussianNoiseTransform","apply_probability":0.5,"noise_variance":[0,1],"p_per_channel":1,"synchronize_channels":true}]}`), s)
	require.NoError(t, err)
	require.Equal(t, "Mirror GaussianNoise GaussianNoise? RemoveLabel DownsampleSegForDS", names(l))
	require.Equal(t, []int{8, 10, 9}, l.InitialPatchSize)
	require.Equal(t, []int{2}, l.MirrorAxes)
	require.Equal(t, 2, l.Transforms[1].(GaussianNoiseTransform).where.channels)

	larger := strings.Replace(printed(t, s), `"initial_patch_size":[14,15,13]`, `"initial_patch_size":[20,20,20]`, 1)
	l, warning, err := Read([]byte(larger), s)
	require.NoError(t, err)
	require.Empty(t, warning)
	require.Equal(t, []int{20, 20, 20}, l.InitialPatchSize)
	require.Equal(t, []int{20, 20, 20}, l.Transforms[0].(SpatialTransform).where.size)
	_, warning, err = Read([]byte(strings.Replace(larger, "[20,20,20]", "[10,20,20]", 1)), s)
	require.NoError(t, err)
	require.Contains(t, warning, "corners of rotated patches will be empty")

	axes := []int{1}
	s.MirrorAxes = &axes
	l, _, err = Read([]byte(larger), s)
	require.NoError(t, err)
	require.Equal(t, axes, l.MirrorAxes)
	axes = []int{}
	l, _, err = Read([]byte(larger), s)
	require.NoError(t, err)
	require.Nil(t, l.MirrorAxes)
	require.NotContains(t, names(l), "Mirror")
}

func TestFilesThatAskForWhatThereIsNotAreRefused(t *testing.T) {
	s := Setting{PatchSize: []int{8, 10, 9}, Channels: 2, Scales: [][]float64{{1, 1, 1}}}
	whole := printed(t, s)
	spatial := whole[strings.Index(whole, `{"transform":"SpatialTransform"`):strings.Index(whole, `,{"transform":"GaussianNoise`)]
	for _, c := range []struct{ from, to, want string }{
		{`"p_elastic_deform":0`, `"p_elastic_deform":0.2`, "transform 0, SpatialTransform: p_elastic_deform: found 0.2, expected 0: elastic deformation is not built"},
		{`"random_crop":false`, `"random_crop":true`, "random_crop: found true, expected false"},
		{`"bg_style_seg_sampling":false`, `"bg_style_seg_sampling":true`, "bg_style_seg_sampling: found true"},
		{`"p_rotation":0.2`, `"p_rotation":1.5`, "p_rotation: found 1.5, expected a number from 0 to 1"},
		{`"apply_probability":0.1`, `"apply_probability":-1`, "apply_probability: found -1, expected a number from 0 to 1"},
		{`"apply_probability":0.1`, `"apply_probabilty":0.1`, `unknown key "apply_probabilty"; did you mean "apply_probability"?`},
		{`"noise_variance":[0,0.1]`, `"noise_variance":[0.1,0]`, "noise_variance: found [0.1,0], expected a number, [a,b] with a not above b, or"},
		{`"noise_variance":[0,0.1]`, `"noise_variance":{"lambda":1}`, `noise_variance: found {"lambda":1}`},
		{`"noise_variance":[0,0.1]`, `"noise_variance":[-1,0.1]`, "noise_variance: found -1 to 0.1, expected numbers from 0"},
		{`"noise_variance":[0,0.1],`, ``, `GaussianNoiseTransform: key "noise_variance" is missing`},
		{`"multiplier_range":{"BGContrast":[0.75,1.25]}`, `"multiplier_range":1e39`, "multiplier_range: found 1e+39 to 1e+39, expected numbers from -1e+06 to 1e+06"},
		{`"contrast_range":{"BGContrast":[0.75,1.25]}`, `"contrast_range":[-1e300,1]`, "contrast_range: found -1e+300 to 1"},
		{`"blur_sigma":[0.5,1]`, `"blur_sigma":[0,1]`, "blur_sigma: found 0 to 1, expected numbers from 0.01"},
		{spatial, spatial + "," + spatial, "transform 1, SpatialTransform: found a second one, expected one at most"},
		{`{"transform":"SpatialTransform","patch_size":[8,10,9]`, `{"transform":"SpatialTransform","patch_size":[8,10,8]`,
			"patch_size: found [8 10 8], expected [8 10 9], the patch size of the run"},
		{`{"augmentation":"nnunet","patch_size":[8,10,9]`, `{"augmentation":"nnunet","patch_size":[8,10]`, "patch_size: found [8 10], expected [8 10 9], the patch size of the run"},
		{`"initial_patch_size":[14,15,13]`, `"initial_patch_size":[14,15,8]`, "initial_patch_size: found [14 15 8], expected 3 sizes, none smaller than in [8 10 9]"},
		{`"mirror_axes":[0,1,2]`, `"mirror_axes":[0,1]`, "mirror_axes: found [0 1], expected [0 1 2] as in its MirrorTransform"},
		{`"allowed_axes":[0,1,2]`, `"allowed_axes":[0,1,2,3]`, "mirror_axes: found [0 1 2], expected [0 1 2 3]"},
		{`"ds_scales":[[1,1,1]]`, `"ds_scales":[[0.5,1,1]]`, "DownsampleSegForDSTransform: found other values than the data need"},
		{`{"transform":"MirrorTransform","allowed_axes":[0,1,2]},{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0}`,
			`{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0},{"transform":"MirrorTransform","allowed_axes":[0,1,2]}`,
			"MirrorTransform: found behind what the data need, expected before RemoveLabelTansform"},
		{`{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0}`, `{"transform":"MaskImageTransform","apply_to_channels":[0],"channel_idx_in_seg":0,"set_outside_to":0}`,
			"MaskImageTransform: the data of this run need none; leave it out"},
		{`{"transform":"RemoveLabelTansform"`, `{"transform":"Convert3DTo2DTransform"},{"transform":"RemoveLabelTansform"`, "Convert3DTo2DTransform without a Convert2DTo3DTransform behind it"},
		{`{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0}`,
			`{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0},{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0}`,
			"RemoveLabelTansform: found out of its place, or twice; expected RemoveLabelTansform, DownsampleSegForDSTransform"},
		{spatial + ",", "", "initial_patch_size: found [14 15 13], expected the patch size [8 10 9], as no SpatialTransform"},
		{`"transforms":`, `"transform":`, `unknown key "transform"; did you mean "transforms"?`},
	} {
		require.Contains(t, whole, c.from)
		_, _, err := Read([]byte(strings.Replace(whole, c.from, c.to, 1)), s)
		require.ErrorContains(t, err, c.want)
	}
}

func TestSettingsThatDoNotFitAreRefused(t *testing.T) {
	axes := func(a ...int) *[]int { return &a }
	for _, c := range []struct {
		s    Setting
		want string
	}{
		{Setting{PatchSize: []int{8}, Channels: 1}, "patch size [8], expected 2 or 3 positive sizes"},
		{Setting{PatchSize: []int{8, 8}}, "found 0 channels, expected at least one"},
		{Setting{PatchSize: []int{8, 8}, Channels: 1, MirrorAxes: axes(2)}, "mirror axes [2], expected each of 0 to 1 once at most, or none"},
		{Setting{PatchSize: []int{8, 8}, Channels: 1, MirrorAxes: axes(0, 0)}, "mirror axes [0 0]"},
		{Setting{PatchSize: []int{8, 8}, Channels: 1, Augmentation: "none", MirrorAxes: axes(0)}, "mirror axes [0], but augmentation none does not mirror"},
		{Setting{PatchSize: []int{8, 8}, Channels: 1, Trainer: "nnUNetTrainerNoDA", MirrorAxes: axes(0)}, "for mirroring alone choose mirror"},
		{Setting{PatchSize: []int{8, 8}, Channels: 1, Augmentation: "nnUNet"}, `augmentation "nnUNet", expected nnunet, mirror, none or a file; did you mean "nnunet"?`},
	} {
		_, err := New(c.s)
		require.ErrorContains(t, err, c.want)
	}
	_, err := New(Setting{PatchSize: []int{8, 8}, Channels: 1, Augmentation: "none", MirrorAxes: axes()})
	require.NoError(t, err)
}

func TestRestoredListsAreBounded(t *testing.T) {
	s := Setting{PatchSize: []int{8, 8, 8}, Channels: 2}
	text := strings.Replace(printed(t, s), `"augmentation":"nnunet"`, `"augmentation":"list.json"`, 1)
	l, err := Restore([]byte(text), s)
	require.NoError(t, err)
	require.Equal(t, "list.json", l.Augmentation)
	_, err = Restore([]byte(strings.Replace(text, "[12,12,12]", "[4000,4000,4000]", 1)), s)
	require.ErrorContains(t, err, "patches of [4000 4000 4000] with 2 channels would be cut out")
}

// A list that CheckPatch passes never fails on a patch, one that it refuses does at some draw.
func TestListsThatMayFailOnAPatchAreRefused(t *testing.T) {
	for _, c := range []struct {
		setting Setting
		want    string // "": passes
	}{
		{Setting{PatchSize: []int{3, 9, 8}, Channels: 1}, "augmentation nnunet: transform 2, GaussianBlurTransform: blur_sigma: " +
			"found up to 1, whose kernel of 7 needs 4 voxels, but axis 0 of the patch has 3; leave it out of a FILE for " +
			"--augmentation (lntorch augment pipeline prints the list), or take a larger patch"},
		{Setting{PatchSize: []int{4, 9, 8}, Channels: 1}, ""},
		{Setting{PatchSize: []int{2, 16, 16}, Channels: 2}, "transform 4, GaussianBlurTransform: blur_sigma: found up to 1, whose " +
			"kernel of 7 needs 4 voxels, but axis 0 of the patch has 2"}, // dummy-2D
		{Setting{PatchSize: []int{9, 3}, Channels: 2}, "axis 1 of the patch has 3"},
		{Setting{PatchSize: []int{4, 5}, Channels: 2}, ""},
		{Setting{PatchSize: []int{3, 9, 8}, Channels: 1, Augmentation: "mirror"}, ""},
		{Setting{PatchSize: []int{4, 1, 8}, Channels: 1, Fixes: true}, "axis 1 of the patch has 1"},
	} {
		l, err := New(c.setting)
		require.NoError(t, err)
		checkLikeDraws(t, l, c.want)
	}
	s := Setting{PatchSize: []int{1, 9, 8}, Channels: 1, Fixes: true}
	for text, want := range map[string]string{
		`{"transforms":[{"transform":"SimulateLowResolutionTransform","scale":[0.4,1],"synchronize_channels":false,"synchronize_axes":true,"ignore_axes":null,"allowed_channels":null,"p_per_channel":1}]}`: "augmentation FILE: transform 0, SimulateLowResolutionTransform: scale: found down to 0.4, which leaves 0 of the 1 voxels of axis 0 of the patch, expected one at least; leave it out of a FILE",
		`{"transforms":[{"transform":"SimulateLowResolutionTransform","scale":[0.5,1],"synchronize_channels":false,"synchronize_axes":true,"ignore_axes":[0],"allowed_channels":null,"p_per_channel":1}]}`:  "",
		`{"transforms":[{"transform":"SimulateLowResolutionTransform","scale":[0.5,1],"synchronize_channels":false,"synchronize_axes":true,"ignore_axes":null,"allowed_channels":null,"p_per_channel":1}]}`: "",
		`{"transforms":[{"transform":"SimulateLowResolutionTransform","scale":0.5,"synchronize_channels":false,"synchronize_axes":true,"ignore_axes":null,"allowed_channels":null,"p_per_channel":1}]}`:     "leaves 0 of the 1 voxels of axis 0",
		`{"transforms":[{"transform":"GaussianBlurTransform","apply_probability":0,"blur_sigma":[0.5,1],"synchronize_channels":false,"synchronize_axes":false,"p_per_channel":0.5}]}`:                       "",
		`{"transforms":[{"transform":"GaussianBlurTransform","blur_sigma":[0.5,1],"synchronize_channels":false,"synchronize_axes":false,"p_per_channel":0}]}`:                                               "",
		`{"transforms":[{"transform":"GaussianBlurTransform","blur_sigma":0.02,"synchronize_channels":false,"synchronize_axes":false,"p_per_channel":1}]}`:                                                  "",
		`{"transforms":[{"transform":"GaussianBlurTransform","blur_sigma":[0.1,2],"synchronize_channels":false,"synchronize_axes":false,"p_per_channel":1}]}`:                                               "needs 7 voxels, but axis 0 of the patch has 1",
	} {
		l, _, err := Read([]byte(text), s)
		require.NoError(t, err)
		l.Augmentation = "FILE"
		checkLikeDraws(t, l, want)
	}
}

// checkLikeDraws compares what CheckPatch says with what becomes of many draws.
func checkLikeDraws(t *testing.T, l List, want string) {
	t.Helper()
	failed := 0
	for i := range 400 {
		p := randomPatch(t, l, i)
		if l.Draw(Sample{Seed: 3, Stream: "train", Iteration: i}.Augmentation).Apply(p) != nil {
			failed++
		}
	}
	err := l.CheckPatch()
	if want == "" {
		require.NoError(t, err)
		require.Zero(t, failed)
		return
	}
	require.ErrorContains(t, err, want)
	require.NotZero(t, failed, "%v", err)
}

// randomPatch is a patch that the list begins with.
func randomPatch(t *testing.T, l List, seed int) *Patch {
	t.Helper()
	channels := 1
	for _, tr := range l.Transforms {
		if r, ok := tr.(RandomTransform); ok {
			tr = r.Transform
		}
		if s, ok := tr.(GammaTransform); ok {
			channels = s.where.channels
		}
	}
	p := &Patch{Dim: len(l.PatchSize), Image: volume.New[float32](volume.ShapeOf(channels, l.InitialPatchSize)),
		Seg: volume.New[int16](volume.ShapeOf(1, l.InitialPatchSize))}
	for i := range p.Image.Data {
		p.Image.Data[i] = float32((i*7+seed)%13) / 13
	}
	return p
}

func TestAFileThatMirrorsOverMoreThanItsTrainerIsWarnedOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.json")
	s := Setting{PatchSize: []int{8, 8, 8}, Channels: 1}
	text := printed(t, s)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	for _, c := range []struct {
		trainer, axes, want string
		mirrors             []int
	}{
		{"nnUNetTrainerNoMirroring", "", "its MirrorTransform mirrors over axes [0 1 2], trainer nnUNetTrainerNoMirroring over none: its axes are taken, in prediction too; --mirror-axes chooses others", []int{0, 1, 2}},
		{"nnUNetTrainer_onlyMirror01", "", "over axes [0 1 2], trainer nnUNetTrainer_onlyMirror01 over [0 1]:", []int{0, 1, 2}},
		{"nnUNetTrainerNoMirroring", "0,2", "", []int{0, 2}},
		{"nnUNetTrainerNoMirroring", "none", "", nil},
		{"nnUNetTrainer", "", "", []int{0, 1, 2}},
		{"nnUNetTrainerNoDA", "", "", []int{0, 1, 2}},
	} {
		s.Trainer = c.trainer
		l, warning, err := Choice{Augmentation: path, MirrorAxes: c.axes}.List(s)
		require.NoError(t, err)
		require.Equal(t, c.mirrors, l.MirrorAxes)
		if c.want == "" {
			require.Empty(t, warning)
		} else {
			require.Contains(t, warning, path+": ")
			require.Contains(t, warning, c.want)
		}
		// named by the file's name and its bytes
		sum := sha256.Sum256([]byte(text))
		require.Equal(t, "list.json (sha256 "+hex.EncodeToString(sum[:])[:16]+")", l.Augmentation)
	}
}
