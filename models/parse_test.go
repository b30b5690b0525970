package models_test

import (
	"fmt"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
	"github.com/stretchr/testify/require"
)

// The architectures of nnU-Net's plans of the phantom.
func TestParseReadsPlansOfNnUNet(t *testing.T) {
	p, err := plans.Load("../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json")
	require.NoError(t, err)
	of := func(name string) models.Architecture {
		c, err := p.Configuration(name)
		require.NoError(t, err)
		a, err := models.Parse(c)
		require.NoError(t, err)
		return a
	}
	plain := of("3d_phantom")
	require.Equal(t, &models.PlainConvUNet{UNet: models.UNet{
		Axes: 3, FeaturesPerStage: []int{8, 16, 32, 64},
		KernelSizes:  [][]int{{1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}},
		Strides:      [][]int{{1, 1, 1}, {1, 2, 2}, {2, 2, 2}, {2, 2, 2}},
		DecoderConvs: []int{2, 2, 2}, ConvBias: true,
		Norm:   &models.Norm{Op: "InstanceNorm3d", Eps: 1e-5, Momentum: 0.1, Affine: true},
		Nonlin: &models.Nonlin{Op: "LeakyReLU", NegativeSlope: 0.01},
	}, ConvsPerStage: []int{2, 2, 2, 2}}, plain)
	require.Equal(t, []int{4, 8, 8}, plain.Divisor())
	require.Equal(t, [][]float64{{1, 1, 1}, {1, 0.5, 0.5}, {0.5, 0.25, 0.25}},
		plain.DeepSupervisionScales())

	resenc := of("3d_phantom_resenc").(*models.ResidualEncoderUNet)
	require.Equal(t, []int{1, 2, 2, 2}, resenc.BlocksPerStage)
	require.Equal(t, "BasicBlockD", resenc.Block)
	require.Equal(t, 8, resenc.StemChannels)
	require.Equal(t, 2, of("2d").Dim())
}

const configuration = `{"configurations": {"c": {"data_identifier": "d", "batch_size": 2, "patch_size": [8, 8, 8], "spacing": [1, 1, 1.5],
	"architecture": {"network_class_name": "some.where.%s", "arch_kwargs": {%s}}}}}`

func parsed(t *testing.T, class, kwargs string) (models.Architecture, error) {
	t.Helper()
	v, err := plans.DecodeJSON(fmt.Appendf(nil, configuration, class, kwargs))
	require.NoError(t, err)
	p, err := plans.FromObject(v.(*plans.Object), "p.json")
	require.NoError(t, err)
	c, err := p.Configuration("c")
	require.NoError(t, err)
	return models.Parse(c)
}

const minimal = `"n_stages": 3, "features_per_stage": 16, "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": 3, "strides": [1, [1, 2, 2], 2], "n_conv_per_stage_decoder": 1`

func TestArchitectureBroadcastsScalars(t *testing.T) {
	a, err := parsed(t, "PlainConvUNet", minimal+`, "n_conv_per_stage": 2, "deep_supervision": true, "nonlin_first": true,
		"norm_op": "torch.nn.BatchNorm3d", "dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.25, "inplace": true}, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"negative_slope": 0.2}`)
	require.NoError(t, err)
	require.Equal(t, &models.PlainConvUNet{UNet: models.UNet{
		Axes: 3, FeaturesPerStage: []int{16, 16, 16},
		KernelSizes:  [][]int{{3, 3, 3}, {3, 3, 3}, {3, 3, 3}},
		Strides:      [][]int{{1, 1, 1}, {1, 2, 2}, {2, 2, 2}},
		DecoderConvs: []int{1, 1}, NonlinFirst: true,
		Norm: &models.Norm{Op: "BatchNorm3d", Eps: 1e-5, Momentum: 0.1, Affine: true,
			TrackRunningStats: true},
		Dropout: &models.Dropout{Op: "Dropout3d", P: 0.25},
		Nonlin:  &models.Nonlin{Op: "LeakyReLU", NegativeSlope: 0.2},
	}, ConvsPerStage: []int{2, 2, 2}}, a)

	a, err = parsed(t, "ResidualEncoderUNet",
		minimal+`, "n_blocks_per_stage": [1, 2, 3], "block": "x.BottleneckD", "bottleneck_channels": 4, "stem_channels": 6`)
	require.NoError(t, err)
	r := a.(*models.ResidualEncoderUNet)
	require.Equal(t, []int{4, 4, 4}, r.BottleneckChannels)
	require.Equal(t, 6, r.StemChannels)
	require.Nil(t, r.Norm)
	require.Nil(t, r.Dropout)
	require.Nil(t, r.Nonlin)
}

func TestArchitectureErrorsNameTheArgument(t *testing.T) {
	for _, c := range []struct{ class, kwargs, want string }{
		{"SegFormer", minimal, `network_class_name: expected PlainConvUNet or ResidualEncoderUNet or ResidualUNet, found "some.where.SegFormer"`},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "wurst": 1, "block": 2`,
			"PlainConvUNet has no argument wurst, block; expected n_conv_per_stage"},
		{"PlainConvUNet", minimal, `key "n_conv_per_stage" is missing`},
		{"PlainConvUNet", `"n_stages": 3`, `key "features_per_stage" is missing`},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": [2, 2]`,
			"n_conv_per_stage: expected a positive integer or a list of 3 of them, found [2, 2]"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "strides": [1, 2]`,
			"strides: expected a positive integer or, for each of 3 stages, an integer or a list " +
				"of 3, found [1, 2]"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "conv_op": "torch.nn.Conv2d"`,
			"conv_op: expected a convolution for the 3 axes of patch_size"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "norm_op": "torch.nn.GroupNorm"`,
			"norm_op: expected InstanceNorm3d or BatchNorm3d, found \"GroupNorm\""},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "norm_op": "InstanceNorm3d", "norm_op_kwargs": {"epsilon": 1}`, "norm_op_kwargs: InstanceNorm3d has no argument epsilon"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "dropout_op": "Dropout3d", "dropout_op_kwargs": {"p": 2}`, "dropout_op_kwargs: p: expected a probability, found 2.0"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "n_stages": 1`,
			"n_stages: expected between 2 and 32 stages, found 1"},
		{"PlainConvUNet", minimal + `, "n_conv_per_stage": 2, "n_stages": 2`,
			"strides: expected a positive integer or, for each of 2 stages"},
		{"ResidualEncoderUNet", minimal + `, "n_blocks_per_stage": 2, "block": "x.Foo"`,
			"block: expected BasicBlockD or BottleneckD, found \"Foo\""},
		{"ResidualEncoderUNet", minimal + `, "n_blocks_per_stage": 2, "block": "x.BottleneckD"`,
			`key "bottleneck_channels" is missing`},
		{"ResidualEncoderUNet", minimal + `, "n_blocks_per_stage": 2, "stem_channels": 0`,
			"stem_channels: expected a positive number, found 0"},
	} {
		_, err := parsed(t, c.class, c.kwargs)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, "plans: p.json: configuration c: architecture")
	}
}
