package augment

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// A window that is read where it lies gives the bits of the crop that nnU-Net's loader would make.
func TestWindowsAreTheirCrops(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	affines, crops, beyond := 0, 0, 0
	for i := range 400 {
		dim := 2 + i%2
		patch := make([]int, dim)
		for k := range patch {
			patch[k] = 3 + rng.IntN(9)
		}
		if i%7 == 1 {
			patch[0], patch[dim-1] = 2, 11 // slices are channels
		}
		s := Setting{PatchSize: patch, Channels: 1 + rng.IntN(2), UseMaskForNorm: []bool{i%5 == 0},
			Fixes: i%3 == 0, Augmentation: []string{"nnunet", "mirror", "none"}[max(0, i%12-9)],
			Scales: [][]float64{slices.Repeat([]float64{1}, dim), slices.Repeat([]float64{0.5}, dim)}}
		if i%4 == 0 {
			s.Trainer = "nnUNetTrainer_DASegOrd0"
		}
		if i%6 == 0 {
			s.Regions = [][]int{{1, 2}, {2}}
		}
		list, err := New(s)
		require.NoError(t, err)
		list.Transforms = slices.DeleteFunc(list.Transforms, func(t Transform) bool {
			return t.Name() == "GaussianBlurTransform" // needs more slices
		})
		for k, tr := range list.Transforms {
			if sp, ok := tr.(SpatialTransform); ok {
				sp.PRotation, sp.PScaling = 0.6, 0.6
				list.Transforms[k] = sp
			}
		}

		shape := [4]int{s.Channels, 1 + rng.IntN(20), 1 + rng.IntN(20), 1 + rng.IntN(20)}
		image := volume.New[float32](shape)
		shape[0] = 1
		seg := volume.New[int16](shape)
		lowest := int16(rng.IntN(3) - 1)
		for k := range image.Data {
			image.Data[k] = rng.Float32()
		}
		for k := range seg.Data {
			seg.Data[k] = lowest + int16(rng.IntN(3)*(rng.IntN(4)/3))
		}
		w := Window{Size: [3]int{1, 1, 1}, Lowest: lowest}
		copy(w.Size[3-dim:], list.InitialPatchSize)
		for axis := range 3 {
			n := shape[1+axis]
			w.Start[axis] = rng.IntN(n+w.Size[axis]) - w.Size[axis] + 1
			if dim == 2 && axis == 0 {
				w.Start[axis] = rng.IntN(n)
			}
		}
		if i%40 == 0 {
			w.Start[2] = shape[3] + 3 // wholly beyond the case
			beyond++
		}

		drawn := list.Draw(Sample{Seed: seed, Iteration: i}.Augmentation)
		for _, step := range drawn {
			if sp, ok := step.Parameters.(*SpatialParameters); ok && sp.Affine != nil {
				affines++
			} else if ok {
				crops++
			}
		}
		crop := Patch{Image: volume.New[float32]([4]int{s.Channels, w.Size[0], w.Size[1], w.Size[2]}),
			Seg: volume.New[int16]([4]int{1, w.Size[0], w.Size[1], w.Size[2]}), Dim: dim}
		image.Crop(crop.Image, w.Start, 0)
		seg.Crop(crop.Seg, w.Start, -1)
		require.NoError(t, drawn.Apply(&crop))

		wasImage, wasSeg := slices.Clone(image.Data), slices.Clone(seg.Data)
		into := [4]int{s.Channels, 1, 1, 1}
		copy(into[4-dim:], patch)
		p := Patch{Image: image, Seg: seg, Dim: dim, Window: w, ImageInto: volume.New[float32](into)}
		if s.Regions == nil {
			into[0] = 1
			p.SegInto = volume.New[int16](into)
		}
		for k := range p.ImageInto.Data {
			p.ImageInto.Data[k] = -7
		}
		given, givenSeg := p.ImageInto, p.SegInto
		require.NoError(t, drawn.Apply(&p))
		require.Equal(t, crop.Image, p.Image, "seed %d, case %d: %v %+v", seed, i, list.Augmentation, w)
		require.Equal(t, crop.Seg, p.Seg, "seed %d, case %d: %v %+v", seed, i, list.Augmentation, w)
		require.Equal(t, crop.Targets, p.Targets)
		require.Same(t, given, p.Image)
		if givenSeg != nil {
			require.Same(t, givenSeg, p.Seg)
		}
		require.Equal(t, wasImage, image.Data, "the case was changed")
		require.Equal(t, wasSeg, seg.Data, "the case was changed")
	}
	require.Greater(t, affines, 100)
	require.Greater(t, crops, 20)
	require.Equal(t, 10, beyond)
}
