package augment

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// Noise out of files is that of the seeds, wherever in the list it is added.
func TestNoiseFilesStandForSeeds(t *testing.T) {
	noise := GaussianNoiseTransform{NoiseVariance: Range{Low: 0.1, High: 0.5}, PPerChannel: 0.7}
	apart := noise
	apart.SynchronizeChannels = true
	for name, s := range map[string]Setting{
		"3d":    {PatchSize: []int{7, 9, 11}, Channels: 2},
		"dummy": {PatchSize: []int{4, 14, 13}, Channels: 2},
		"2d":    {PatchSize: []int{12, 13}, Channels: 3},
	} {
		l, err := New(s)
		require.NoError(t, err)
		before := slices.IndexFunc(l.Transforms, func(t Transform) bool { return t.Name() == "SpatialTransform" })
		l.Transforms = slices.Insert(l.Transforms, before+1, Transform(noise), Transform(apart))
		l.Transforms = slices.Insert(l.Transforms, before, Transform(apart), Transform(noise))
		require.NoError(t, s.bind(&l))
		shape := [4]int{s.Channels, 1, 1, 1}
		copy(shape[4-len(s.PatchSize):], l.InitialPatchSize)
		input := make([]float32, volume.Numel(shape))
		fillField(input, 3, 0)
		names := 0
		for i := range 6 {
			drawn := l.Draw(Sample{Seed: 9, Iteration: i}.Augmentation)
			named, files, err := drawn.NoiseFiles(l.InitialPatchSize, func(n int) string { return fmt.Sprint(n) })
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(files), 4)
			for _, step := range named {
				if g, ok := step.Parameters.(*GaussianNoiseParameters); ok {
					require.Empty(t, g.NoiseSeed)
					k := slices.IndexFunc(files, func(f NoiseFile) bool { return f.Name == g.Noise })
					g.SetNoise(files[k].Shape, files[k].Values)
					names++
				}
			}
			held, err := drawn.WithNoise(l.InitialPatchSize)
			require.NoError(t, err)
			var results [3][]float32
			for k, d := range []Drawn{drawn, named, held} {
				p := Patch{Image: &volume.Volume[float32]{Data: slices.Clone(input), Shape: shape}, Dim: len(s.PatchSize),
					Seg: volume.New[int16]([4]int{1, shape[1], shape[2], shape[3]})}
				require.NoError(t, d.Apply(&p), name)
				results[k] = p.Image.Data
			}
			require.Equal(t, results[0], results[1], name)
			require.Equal(t, results[0], results[2], name)
			for _, step := range drawn {
				if g, ok := step.Parameters.(*GaussianNoiseParameters); ok {
					require.NotEmpty(t, g.NoiseSeed, "the parameters stay as they are")
				}
			}
		}
		require.GreaterOrEqual(t, names, 24)
	}
}
