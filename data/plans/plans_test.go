package plans

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	miniPlans   = "../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json"
	miniDataset = "../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/dataset.json"
)

func parse(t *testing.T, text string) *Plans {
	t.Helper()
	p, err := FromObject(decodeObject(t, []byte(text)), "p.json")
	require.NoError(t, err)
	return p
}

func TestConfigurationsResolveAsInTheReference(t *testing.T) {
	g := readGolden(t)
	require.Greater(t, len(g.Resolved), 6)
	for _, c := range g.Resolved {
		p, err := FromObject(decodeObject(t, c.Plans), "golden")
		require.NoError(t, err)
		raw, err := p.resolve(c.Name, nil)
		require.NoError(t, err)
		if !present(raw, "architecture") {
			require.NoError(t, convertOldArchitecture(raw, "golden"))
		}
		got, err := EncodeJSON(raw, 4, false)
		require.NoError(t, err)
		require.Equal(t, c.Resolved, string(got), c.Name)
	}
}

func TestLoadReadsAPlansFileOfNnUNet(t *testing.T) {
	p, err := Load(miniPlans)
	require.NoError(t, err)
	require.Equal(t, "Dataset102_PhantomTarget", p.DatasetName)
	require.Equal(t, "nnUNetPlansSource", p.PlansName)
	require.Equal(t, "SimpleITKIO", p.ImageReaderWriter)
	require.Equal(t, "ExperimentPlanner", p.ExperimentPlanner)
	require.Equal(t, []int{0, 1, 2}, p.TransposeForward)
	require.Equal(t, []string{"2d", "3d_fullres", "3d_phantom", "3d_phantom_resenc"}, p.ConfigurationNames())
	require.Equal(t, []Intensity{{Mean: 96.31401062011719, Median: 98, Std: 22.994144439697266, Min: -57, Max: 176,
		Percentile005: 2, Percentile995: 151}}, p.ChannelIntensities)

	c, err := p.Configuration("3d_phantom")
	require.NoError(t, err)
	require.Equal(t, "nnUNetPlansSource_3d_fullres", c.DataIdentifier)
	require.Equal(t, []int{16, 48, 48}, c.PatchSize)
	require.Equal(t, []float64{2.5, 1.4700000286102295, 1.4700000286102295}, c.Spacing)
	require.Equal(t, 2, c.BatchSize)
	require.False(t, c.BatchDice)
	require.Equal(t, []string{"CTNormalization"}, c.NormalizationSchemes)
	require.Equal(t, []bool{false}, c.UseMaskForNorm)
	require.Equal(t, "resample_data_or_seg_to_shape", c.ResampleProbs.Function)
	require.Equal(t, []string{"is_seg", "order", "order_z", "force_separate_z"}, c.ResampleSeg.Kwargs.Keys())

	n, err := c.Network()
	require.NoError(t, err)
	require.Equal(t, "dynamic_network_architectures.architectures.unet.PlainConvUNet", n.Class)
	require.Equal(t, []int{8, 16, 32, 64}, n.Arguments.PerStage("features_per_stage", 4))
	require.NoError(t, n.Arguments.Err())

	c, err = p.Configuration("3d_phantom_resenc")
	require.NoError(t, err)
	n, err = c.Network()
	require.NoError(t, err)
	require.Equal(t, "ResidualEncoderUNet", LastComponent(n.Class))

	c, err = p.Configuration("2d")
	require.NoError(t, err)
	require.True(t, c.BatchDice)
}

func TestInheritanceErrorsListTheConfigurations(t *testing.T) {
	p := parse(t, `{"configurations": {"a": {"inherits_from": "b"}, "b": {"inherits_from": "c"}, "c": {"inherits_from": "a"},
		"d": {"inherits_from": "3d_fulres"}, "e": {"inherits_from": 3}, "f": {"inherits_from": "f"}}}`)
	for name, want := range map[string]string{
		"x": `plans: p.json: configuration "x" does not exist; available: a, b, c, d, e, f`,
		"a": `plans: p.json: configurations inherit in a circle: a -> b -> c -> a; available: a, b, c, d, e, f`,
		"f": `plans: p.json: configurations inherit in a circle: f -> f; available: a, b, c, d, e, f`,
		"d": `plans: p.json: configuration "3d_fulres" (inherited by "d") does not exist; available: a, b, c, d, e, f`,
		"e": `plans: p.json: configuration "e": inherits_from: expected a name, found 3; available: a, b, c, d, e, f`,
	} {
		_, err := p.Configuration(name)
		require.EqualError(t, err, want)
	}
}

func TestResolvingDoesNotModifyTheDocument(t *testing.T) {
	for _, c := range readGolden(t).Resolved {
		p, err := FromObject(decodeObject(t, c.Plans), "golden")
		require.NoError(t, err)
		before, err := EncodeJSON(p.Raw(), -1, false)
		require.NoError(t, err)
		_, _ = p.Configuration(c.Name)
		after, err := EncodeJSON(p.Raw(), -1, false)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	}
}

const configuration = `{"configurations": {"c": {"data_identifier": "d", "batch_size": 2, "patch_size": [8, 8, 8], "spacing": [1, 1, 1.5]%s}}}`

func TestConfigurationErrorsNameFieldFoundAndExpected(t *testing.T) {
	for text, want := range map[string]string{
		`{"configurations": {"c": {"data_identifier": "d"}}}`:                       `plans: p.json: configuration c: key "batch_size" is missing, expected an integer; keys present: data_identifier`,
		fmt.Sprintf(configuration, `, "patch_size": [8, 8.5]`):                      `plans: p.json: configuration c: patch_size: expected a list of integers, found [8, 8.5]`,
		fmt.Sprintf(configuration, `, "patch_size": [8]`):                           `plans: p.json: configuration c: patch_size: expected 2 or 3 axes, found [8]`,
		fmt.Sprintf(configuration, `, "patch_size": [8, 0]`):                        `plans: p.json: configuration c: patch_size: expected positive sizes, found [8, 0]`,
		fmt.Sprintf(configuration, `, "patch_size": [8, 8]`):                        `plans: p.json: configuration c: spacing: expected 2 axes as in patch_size, found [1, 1, 1.5]`,
		fmt.Sprintf(configuration, `, "patch_size": [4611686018427387904, 48, 48]`): `configuration c: patch_size: expected sizes of at most 65536 voxels, found [4611686018427387904, 48, 48]`,
		fmt.Sprintf(configuration, `, "batch_size": 0`):                             `plans: p.json: configuration c: batch_size: expected at least 1, found 0`,
		fmt.Sprintf(configuration, `, "spacing": null`):                             `plans: p.json: configuration c: spacing: expected a list of numbers, found null`,
		fmt.Sprintf(configuration, `, "UNet_class_name": "X"`):                      `plans: p.json: configuration c: key "UNet_base_num_features" is missing`,
	} {
		_, err := parse(t, text).Configuration("c")
		require.ErrorContains(t, err, want)
	}
	c, err := parse(t, fmt.Sprintf(configuration, `, "next_stage": "n", "previous_stage": "p", "batch_dice": true`)).Configuration("c")
	require.NoError(t, err)
	require.Equal(t, []string{"n"}, c.NextStages)
	require.Equal(t, "p", c.PreviousStage)
	require.Equal(t, []float64{1, 1, 1.5}, c.Spacing)
	require.True(t, c.BatchDice)
	_, err = c.Network()
	require.ErrorContains(t, err, `plans: p.json: configuration c: key "architecture" is missing`)
}

func TestDeepSupervisionScalesAndWeights(t *testing.T) {
	cases := readGolden(t).Supervision
	require.NotEmpty(t, cases)
	for _, c := range cases {
		require.Equal(t, c.Scales, DeepSupervisionScales(c.Strides))
		require.Equal(t, c.Weights, DeepSupervisionWeights(len(c.Scales)))
	}
	require.Equal(t, []float64{1}, DeepSupervisionWeights(1))
}

// Those of nnU-Net's trainer in a distributed training, to the bit.
func TestDistributedWeights(t *testing.T) {
	data, err := os.ReadFile("../../testdata/golden/ranks/weights.json")
	require.NoError(t, err)
	var want map[int][]float64
	require.NoError(t, json.Unmarshal(data, &want))
	require.Len(t, want, 7)
	for n, w := range want {
		require.Equal(t, w, DistributedWeights(n))
	}
}

func TestLabelsAgreeWithTheReference(t *testing.T) {
	cases := readGolden(t).Labels
	require.Greater(t, len(cases), 10)
	for _, c := range cases {
		raw := NewObject("channel_names", NewObject("0", "CT"), "labels", decodeObject(t, c.Labels))
		if c.RegionsClassOrder != nil {
			order := make([]any, len(c.RegionsClassOrder))
			for i, v := range c.RegionsClassOrder {
				order[i] = int64(v)
			}
			raw.Set("regions_class_order", order)
		}
		d, err := DatasetFromObject(raw, "dataset.json")
		if c.Rejected {
			require.Error(t, err, string(c.Labels))
			require.ErrorContains(t, err, "plans: dataset.json: ")
			continue
		}
		require.NoError(t, err, string(c.Labels))
		require.Equal(t, c.AllLabels, d.Labels.AllLabels)
		require.Equal(t, c.ForegroundLabels, d.Labels.ForegroundLabels)
		require.Equal(t, c.HasRegions, d.Labels.HasRegions)
		require.Equal(t, c.Ignore, d.Labels.IgnoreLabel)
		require.Equal(t, c.Heads, d.Labels.NumSegmentationHeads())
		require.Equal(t, c.RegionsClassOrder, d.Labels.RegionsClassOrder)
		require.Len(t, d.Labels.Regions, len(c.Regions))
		for i, want := range c.Regions {
			var got any = d.Labels.Regions[i].Values
			if !d.Labels.Regions[i].Region {
				got = d.Labels.Regions[i].Values[0]
			}
			text, err := EncodeJSON(got, -1, false)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(text))
		}
	}
}

func TestLabelErrorsSayWhatIsExpected(t *testing.T) {
	for text, want := range map[string]string{
		`{"labels": {}}`: `plans: d.json: key "channel_names" is missing, expected an object such as {"0": "CT"}; keys present: labels`,
		`{"channel_names": {}, "labels": {"background": 0}}`:                                      `channel_names: expected at least one channel`,
		`{"channel_names": {"0": "CT"}, "labels": {"node": 1}}`:                                   `labels: key "background" is missing, expected the value 0; keys present: node`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "ignore": 5}}`:        `labels: ignore: expected 2, one above the largest other label, found 5`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "ignore": []}}`:       `labels: ignore: expected a single integer, not a fraction, string or list, found []`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": "x"}}`:                   `labels: a: expected an integer, a string of one, or a list of them, found "x"`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": -5}}`:                    `labels: a: expected labels from 0 to 65535, found -5`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": [1, 65536]}}`:            `labels: a: expected labels from 0 to 65535, found [1, 65536]`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": "/../x.nii"}`: `file_ending: expected an ending of file names such as ".nii.gz", found "/../x.nii"`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": null}}`:                  `labels: a: expected an integer, a string of one, or a list of them, found null`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": [1, 2]}}`:                `key "regions_class_order" is missing, expected one value per region`,
		`{"channel_names": {"0": 1}, "labels": {"background": 0}}`:                                `channel_names: 0: expected a string, found 1`,
		`{"channel_names": {"0": "CT"}, "labels": {"background": 3, "a": 1}, "file_ending": ""}`:  `labels: background: expected the value 0, found 3`,
	} {
		_, err := DatasetFromObject(decodeObject(t, []byte(text)), "d.json")
		require.ErrorContains(t, err, want)
	}
}

func TestDatasetOfNnUNet(t *testing.T) {
	d, err := LoadDataset(miniDataset)
	require.NoError(t, err)
	require.Equal(t, []string{"CT"}, d.ChannelNames)
	require.Equal(t, ".nii.gz", d.FileEnding)
	n, err := d.NumTraining()
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.Equal(t, 2, d.Labels.NumSegmentationHeads())
	require.Nil(t, d.Labels.IgnoreLabel)
}

func TestInputChannelsFollowFileOrderAndCascade(t *testing.T) {
	cases := readGolden(t).InputChannels
	require.NotEmpty(t, cases)
	for _, c := range cases {
		d, err := DatasetFromObject(decodeObject(t, c.Dataset), "d.json")
		require.NoError(t, err)
		require.Equal(t, c.Channels, d.NumInputChannels(&Configuration{PreviousStage: c.Configuration.PreviousStage}))
		if len(d.ChannelNames) > 1 {
			require.Equal(t, []string{"PET", "CT"}, d.ChannelNames)
		}
	}
}

func TestLoadErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "absent.json"))
	require.ErrorContains(t, err, "absent.json: no such file")
	path := filepath.Join(dir, "p.json")
	data, err := os.ReadFile(miniPlans)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data[:len(data)/2], 0o600))
	_, err = Load(path)
	require.ErrorContains(t, err, "plans: "+path+": JSON line ")
	require.NoError(t, os.WriteFile(path, []byte("[]"), 0o600))
	_, err = Load(path)
	require.EqualError(t, err, "plans: "+path+": expected a JSON object, found []")
	require.NoError(t, os.WriteFile(path, []byte(`{"plans_name": "x"}`), 0o600))
	_, err = Load(path)
	require.ErrorContains(t, err, `key "configurations" is missing`)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(data), `"mean": 96`, `"mean": "x", "m": 96`, 1)), 0o600))
	_, err = Load(path)
	require.ErrorContains(t, err, `foreground_intensity_properties_per_channel.0: mean: expected a number, found "x"`)
}

func TestWholeNumbersMayHaveAPoint(t *testing.T) {
	p := parse(t, `{"configurations": {"c": {"data_identifier": "d", "batch_size": 2.0, "patch_size": [16.0, 32], "spacing": [1, 2.5],
		"use_mask_for_norm": [1, false, 0.0], "batch_dice": 1}}, "transpose_forward": [0.0, 1, 2]}`)
	c, err := p.Configuration("c")
	require.NoError(t, err)
	require.Equal(t, []any{2, []int{16, 32}, []float64{1, 2.5}, []bool{true, false, false}, true, []int{0, 1, 2}},
		[]any{c.BatchSize, c.PatchSize, c.Spacing, c.UseMaskForNorm, c.BatchDice, p.TransposeForward})
	for _, text := range []string{`2.5`, `"2"`, `1e300`, `NaN`, `true`} {
		p := parse(t, `{"configurations": {"c": {"data_identifier": "d", "batch_size": `+text+`, "patch_size": [16, 32], "spacing": [1, 2]}}}`)
		_, err := p.Configuration("c")
		require.ErrorContains(t, err, "batch_size: expected an integer, found ", text)
	}
}

func TestNumTrainingIsAnErrorOnlyWhereItIsNeeded(t *testing.T) {
	for value, want := range map[string]string{
		`5`: "", `5.0`: "", `"5"`: `d.json: numTraining: expected an integer, found "5"`, `5.5`: "numTraining: expected an integer, found 5.5",
		`null`: "numTraining: expected the number of training cases, found null",
	} {
		d, err := DatasetFromObject(decodeObject(t, []byte(`{"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": `+value+`}`)), "d.json")
		require.NoError(t, err, value)
		n, err := d.NumTraining()
		if want != "" {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err, value)
		require.Equal(t, 5, n)
	}
}

// A chain of a hundred thousand configurations is an error, found quickly.
func TestEndlessInheritanceIsAnError(t *testing.T) {
	configurations := &Object{}
	for i := range 100000 {
		configurations.Set(fmt.Sprint(i), NewObject("inherits_from", fmt.Sprint(i+1)))
	}
	p, err := FromObject(NewObject("configurations", configurations), "p.json")
	require.NoError(t, err)
	_, err = p.Configuration("0")
	require.ErrorContains(t, err, `configuration "0" inherits over more than 500 steps`)
	_, err = p.Configuration("none")
	require.ErrorContains(t, err, "29 and 99970 more")
}

func TestLabelsWithAGapArePredictedByNoNetwork(t *testing.T) {
	for labels, want := range map[string]string{
		`{"background": 0, "a": 1, "b": 2}`:        "",
		`{"background": 0, "a": 1, "ignore": 2}`:   "",
		`{"background": 0, "a": [1, 7], "b": [7]}`: "", // regions are painted by regions_class_order
		`{"background": 0, "a": 7}`:                "labels: found the values [0 7], expected 0 to 1 without a gap",
		`{"background": 0, "a": 1, "b": 3}`:        "labels: found the values [0 1 3], expected 0 to 2 without a gap",
	} {
		d, err := DatasetFromObject(decodeObject(t, []byte(`{"channel_names": {"0": "CT"}, "regions_class_order": [1, 7], "labels": `+labels+`}`)), "d.json")
		require.NoError(t, err)
		if err = d.Labels.CheckConsecutive(); want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}
