package models_test

import (
	"testing"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/stretchr/testify/require"
)

// The names of nnU-Net's state dicts: every alias maps to the first name of the same storage.
func TestCanonicalFindsTheFirstName(t *testing.T) {
	for _, path := range []string{"network/plain-nonlinfirst", "network/plain-dropout",
		"network/resenc-bottleneck", "network/plain-3d"} {
		var doc struct {
			StateDict [][4]any `json:"state_dict"`
		}
		golden.LoadJSON(t, path+".json", &doc)
		require.NotEmpty(t, doc.StateDict)
		first := map[any]string{}
		for _, row := range doc.StateDict {
			name := row[0].(string)
			if first[row[3]] == "" {
				first[row[3]] = name
			}
			require.Equal(t, first[row[3]], models.Canonical(name))
		}
	}
	for _, name := range []string{"out.conv.conv.weight",
		"swinViT.layers1.0.blocks.0.attn.qkv.weight", "x.all_modules.0",
		"decoder.stages.0.convs.0.conv.weight"} {
		require.Equal(t, name, models.Canonical(name))
	}
}

// sized is the architecture of a registered size.
func sized(t *testing.T, e models.Entry, s models.Size) models.Architecture {
	t.Helper()
	if s.Block == "" {
		return e.Released(len(s.Patch))
	}
	return architecture(t, s.Block)
}

// The name and shape rules of the registry hold for the networks: each size of every entry.
func TestEntriesSayWhatTheirNetworksAre(t *testing.T) {
	const channels, classes = 3, 7
	for _, e := range models.Entries() {
		require.NotEmpty(t, e.Summary, e.Class)
		require.NotEmpty(t, e.Sizes, e.Class)
		require.Equal(t, e.Parse == nil, e.Released != nil, e.Class)
		for _, size := range e.Sizes {
			t.Run(size.Name, func(t *testing.T) {
				owner, found, ok := models.Sized(size.Name)
				require.True(t, ok)
				require.Equal(t, []string{e.Class, size.Block}, []string{owner.Class, found.Block})
				onTorch(t, func(s *torch.Scope) {
					a := sized(t, e, size)
					require.Equal(t, e.Name(), a.Class())
					require.Equal(t, e.Parse != nil, models.Planned(a.Class()))
					n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU},
						models.Spec{Architecture: a, InputChannels: channels, NumClasses: classes})
					require.NoError(t, err)

					first, heads := map[*nn.Param]string{}, 0
					for _, p := range n.Module().Parameters() {
						first[p.Param] = p.Name
					}
					shapes := map[string][]int64{}
					for _, p := range n.Module().StateDict() {
						shapes[p.Name] = p.Shape
						if p.Buffer {
							continue
						}
						require.Equal(t, first[p.Param], models.Canonical(p.Name))
						require.Equal(t, len(p.Shape) > 0 && p.Shape[0] == classes,
							models.IsHead(p.Name), p.Name)
						require.Equal(t, e.IsHead(p.Name), models.IsHead(p.Name), p.Name)
						if len(p.Shape) > 1 { // not asked of biases
							require.Equal(t, p.Use == nn.ConvTransposeWeight,
								models.IsTransposed(p.Name), p.Name)
						}
						if e.IsHead(p.Name) {
							heads++
						}
					}
					require.Equal(t, 2*len(a.DeepSupervisionScales()), heads,
						"a weight and a bias for each output")

					known := models.Recognise(shapes)
					require.NotNil(t, known)
					require.Equal(t, [2]int{channels, classes},
						[2]int{known.InputChannels, known.NumClasses})
					require.Equal(t, a.Describe(), known.Architecture.Describe())
					require.Equal(t, a.Arguments(), known.Architecture.Arguments())
					require.Empty(t, models.Differences(a, known.Architecture))

					fits, other := make([]int64, a.Dim()), make([]int64, a.Dim())
					for i, d := range a.Divisor() {
						fits[i], other[i] = int64(2*d), int64(2*d)
					}
					require.NoError(t, n.CheckInput(fits))
					other[0]++
					require.Error(t, n.CheckInput(other))

					step := models.Step{Batch: 1, Patch: size.Patch}
					one := a.Activations(step)
					step.Batch = 2
					require.Equal(t, 2*one, a.Activations(step))
				})
			})
		}
	}
}

// Of 2 stages with 2 and 4 channels, a patch of 64 voxels and one of 8, counted by hand: one
// convolution per stage keeps 2·2·64 + 2·4·8, the decoder stage (2+3)·2·64; fused, each keeps one
// value instead of two, and two instead of three.
func TestActivationsOfUNetsAreCounted(t *testing.T) {
	const small = `"n_stages": 2, "features_per_stage": [2, 4], "conv_op": "Conv3d", "kernel_sizes": 3, "strides": [1, 2], "n_conv_per_stage_decoder": 1, `
	plain, err := parsed(t, "PlainConvUNet", small+`"n_conv_per_stage": 1`)
	require.NoError(t, err)
	residual, err := parsed(t, "ResidualEncoderUNet", small+`"n_blocks_per_stage": 1`)
	require.NoError(t, err)
	step := models.Step{Batch: 1, Patch: []int{4, 4, 4}}
	require.EqualValues(t, 256+64+640, plain.Activations(step))
	require.EqualValues(t, 3*(256+64)+640, residual.Activations(step))
	step.Fused = true
	require.EqualValues(t, 128+32+384, plain.Activations(step))
	require.EqualValues(t, 3*(128+32)+384, residual.Activations(step))
}

// Plans and weights of different classes, and of different arguments.
func TestDifferencesNameTheArguments(t *testing.T) {
	plain, err := parsed(t, "PlainConvUNet", minimal+`, "n_conv_per_stage": 2`)
	require.NoError(t, err)
	wider, err := parsed(t, "PlainConvUNet",
		minimal+`, "n_conv_per_stage": [2, 3, 2], "features_per_stage": 8, "conv_bias": true`)
	require.NoError(t, err)
	residual, err := parsed(t, "ResidualEncoderUNet", minimal+`, "n_blocks_per_stage": 1`)
	require.NoError(t, err)
	require.Empty(t, models.Differences(plain, plain))
	require.Equal(t, []string{"features_per_stage: plans [16 16 16], weights [8 8 8]",
		"n_conv_per_stage: plans [2 2 2], weights [2 3 2]",
		"conv_bias: plans false, weights true"}, models.Differences(plain, wider))
	require.Equal(t, []string{"network: plans PlainConvUNet, weights ResidualEncoderUNet",
		"n_conv_per_stage: plans [2 2 2], weights []",
		"n_blocks_per_stage: plans [], weights [1 1 1]", "block: plans , weights BasicBlockD",
		"stem_channels: plans 0, weights 16"},
		models.Differences(plain, residual))
}
