package models_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
)

// The decoders' feature maps of the golden cases as the classes measure them, with deep supervision.
// Source: dynamic_network_architectures 0.3.1, UNetDecoder and UNetResDecoder.compute_conv_feature_map_size.
func TestTopologyGivesTheReferencesMeasure(t *testing.T) {
	for name, want := range map[string]int{"plain-aniso": 13440, "resenc-basic": 7136, "resenc-2d": 6048,
		"resunet-basic": 14080, "resunet-bottleneck": 16064, "resunet-2d": 13728, "resunet-dropout-nobias": 10880} {
		sp := networkCases(t, golden.Path(t, "network"))[golden.Path(t, "network/"+name+".npz")]
		u := sp.architecture(t).(models.Measured).Topology()
		voxels, maps := make([]int, len(u.Strides)), 0
		for s, stride := range u.Strides {
			voxels[s] = 1
			for axis := range stride {
				size := int(sp.InputShape[2+axis])
				for _, above := range u.Strides[:s+1] {
					size /= above[axis]
				}
				voxels[s] *= size
			}
		}
		for i, convs := range u.DecoderConvs { // each stage's, the transposed convolution's and the head's
			s := len(u.Strides) - 2 - i
			maps += ((convs+1)*u.Features[s] + sp.NumClasses) * voxels[s]
		}
		require.Equal(t, want, maps, name)
	}
}

// The decoder tells the weights of the two classes with residual encoders apart: by half of them
// neither is recognised.
func TestResidualUNetIsNotResidualEncoderUNet(t *testing.T) {
	for name, class := range map[string]string{"resenc-basic": "ResidualEncoderUNet", "resenc-bottleneck": "ResidualEncoderUNet",
		"resunet-basic": "ResidualUNet", "resunet-bottleneck": "ResidualUNet", "resunet-2d": "ResidualUNet"} {
		var doc struct {
			StateDict [][4]any `json:"state_dict"`
		}
		golden.LoadJSON(t, "network/"+name+".json", &doc)
		shapes := map[string][]int64{}
		for _, row := range doc.StateDict {
			var shape []int64
			for _, n := range row[1].([]any) {
				shape = append(shape, int64(n.(float64)))
			}
			shapes[row[0].(string)] = shape
		}
		known := models.Recognise(shapes)
		require.NotNil(t, known, name)
		require.Equal(t, class, known.Architecture.Class(), name)
		sp := networkCases(t, golden.Path(t, "network"))[golden.Path(t, "network/"+name+".npz")]
		require.Empty(t, models.Differences(sp.architecture(t), known.Architecture), name)
		for tensor := range shapes {
			for _, layers := range []string{"decoder.stages.0.convs.", "decoder.stages.0.blocks."} {
				if strings.HasPrefix(tensor, layers) {
					delete(shapes, tensor)
				}
			}
		}
		require.Nil(t, models.Recognise(shapes), name)
	}
}

// As TestActivationsOfUNetsAreCounted, with a decoder of one block: three convolutions.
func TestActivationsOfResidualUNetAreCounted(t *testing.T) {
	a, err := parsed(t, "ResidualUNet", `"n_stages": 2, "features_per_stage": [2, 4], "conv_op": "Conv3d", "kernel_sizes": 3,
		"strides": [1, 2], "n_conv_per_stage_decoder": 1, "n_blocks_per_stage": 1`)
	require.NoError(t, err)
	step := models.Step{Batch: 1, Patch: []int{4, 4, 4}}
	require.EqualValues(t, 3*(256+64)+(3*2+3)*2*64, a.Activations(step))
	step.Fused = true
	require.EqualValues(t, 3*(128+32)+(3+2)*2*64, a.Activations(step))
}
