package augment

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// Kernels of one tap and of more than four, scales up and down, powers with table and without.
func TestTransformsGiveTheSameBitsWithoutVectors(t *testing.T) {
	steps := map[string]string{
		"blur": `{"transform":"GaussianBlurTransform","apply_to_channel":[true,true],
			"sigmas":[[0.05,2.7,0.95],[1.6,0.1,2.3]]}`,
		"coarse": `{"transform":"SimulateLowResolutionTransform","apply_to_channel":[0,1],
			"scales":[[1.7,2,0.2],[0.1,0.1,0.1]]}`,
		"noise of each": `{"transform":"GaussianNoiseTransform","apply_to_channel":[true,true],
			"sigmas":[0.05,0.3],"noise_seed":"17"}`,
		"contrast": `{"transform":"ContrastTransform","apply_to_channel":[0,1],"multipliers":[1.3,0.7],
			"preserve_range":true}`,
		"gamma": `{"transform":"GammaTransform","apply_to_channel":[0,1],"retain_stats":[true,false],
			"invert_image":[true,true],"gamma":[0.8,1.4]}`,
		"gamma without table": `{"transform":"GammaTransform","apply_to_channel":[0],
			"retain_stats":[true],"invert_image":[false],"gamma":[3]}`,
	}
	channels := map[string]int{}
	for name, step := range benchSteps {
		steps[name], channels[name] = step, 1
	}
	for name, step := range steps {
		drawn, err := DecodeSpec([]byte(`{"transforms":[` + step + `]}`))
		require.NoError(t, err)
		before := random([4]int{max(2-channels[name], 1), 37, 45, 53}, rand.New(rand.NewPCG(1, 2)))
		for i := range before.Image.Data {
			before.Image.Data[i] -= 0.3
			if i%13 < 3 {
				before.Image.Data[i] = -0.3 // the smallest
			}
		}
		if name == "BinaryOperator" {
			for i, label := range before.Seg.Data {
				before.Image.Data[i] = float32(min(max(label, 0), 1))
			}
		}
		vectors, plain := clone(before), clone(before)
		require.NoError(t, drawn.Apply(&vectors), name)
		vector.Plain(func() { require.NoError(t, drawn.Apply(&plain), name) })
		require.Equal(t, plain.Image, vectors.Image, name)
		require.Equal(t, plain.Seg, vectors.Seg, name)
		require.Equal(t, plain.Targets, vectors.Targets, name)
		if name != "Mirror" && name != "Tail" && name != "SpatialCut" {
			require.NotEqual(t, before.Image, vectors.Image, name)
		}
	}
}
