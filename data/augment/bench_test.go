package augment

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// benchPatch is a patch of nnU-Net's usual size with smooth structure and blobs of two labels.
func benchPatch(size [3]int) Patch {
	p := Patch{Image: volume.New[float32]([4]int{1, size[0], size[1], size[2]}),
		Seg: volume.New[int16]([4]int{1, size[0], size[1], size[2]}), Dim: 3, Scratch: &Scratch{}}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range p.Image.Data {
		x, y, z := i%size[2], i/size[2]%size[1], i/size[2]/size[1]
		p.Image.Data[i] = float32(x+2*y-z)/100 + rng.Float32()
		if a, b, c := x%60-30, y%60-30, z%60-30; a*a+b*b+c*c < 150 {
			p.Seg.Data[i] = int16(1 + x/60%2)
		}
	}
	return p
}

var benchSteps = map[string]string{
	"Spatial": `{"transform":"SpatialTransform","patch_size":[64,128,128],"center_location_in_pixels":[70,102.5,84],
		"affine":[[0.9,0.21,-0.15],[-0.18,0.93,0.2],[0.17,-0.14,0.95]]}`,
	"SpatialCut":    `{"transform":"SpatialTransform","patch_size":[64,128,128],"center_location_in_pixels":[70,102.5,84],"affine":null}`,
	"GaussianNoise": `{"transform":"GaussianNoiseTransform","apply_to_channel":[true],"sigmas":0.05,"noise_seed":"17"}`,
	"GaussianBlur":  `{"transform":"GaussianBlurTransform","apply_to_channel":[true],"sigmas":[[0.5,0.7,0.95]]}`,
	"Brightness":    `{"transform":"MultiplicativeBrightnessTransform","apply_to_channel":[0],"multipliers":[1.0000001]}`,
	"Contrast":      `{"transform":"ContrastTransform","apply_to_channel":[0],"multipliers":[1.01]}`,
	"LowResolution": `{"transform":"SimulateLowResolutionTransform","apply_to_channel":[0],"scales":[[0.7,0.7,0.7]]}`,
	"Gamma":         `{"transform":"GammaTransform","apply_to_channel":[0],"retain_stats":[true],"invert_image":[false],"gamma":[1.2]}`,
	"Mirror":        `{"transform":"MirrorTransform","axes":[0,1,2]}`,
	"Tail": `{"transform":"RemoveLabelTansform","label_value":-1,"set_to":0},
		{"transform":"DownsampleSegForDSTransform","ds_scales":[[1,1,1],[0.5,0.5,0.5],[0.25,0.25,0.25]]}`,
	"BinaryOperator": `{"transform":"ApplyRandomBinaryOperatorTransform","channel_idx":[-1],"apply_to_channels":[-1],
		"operators":["binary_closing_torch"],"strel_size":[7.3]}`,
}

func benchDrawn(t testing.TB, name string) Drawn {
	drawn, err := DecodeSpec([]byte(`{"transforms":[` + benchSteps[name] + `]}`))
	require.NoError(t, err)
	return drawn
}

// BenchmarkTransform times each transform on 64×128×128 voxels; the spatial ones cut them out of
// 140×205×168.
func BenchmarkTransform(b *testing.B) {
	crop, patch := benchPatch([3]int{140, 205, 168}), benchPatch([3]int{64, 128, 128})
	binary := benchPatch([3]int{64, 128, 128})
	for i, label := range binary.Seg.Data {
		binary.Image.Data[i] = float32(min(label, 1))
	}
	for _, name := range []string{"Spatial", "SpatialCut", "GaussianNoise", "GaussianBlur", "Brightness", "Contrast",
		"LowResolution", "Gamma", "Mirror", "Tail", "BinaryOperator"} {
		b.Run(name, func(b *testing.B) {
			drawn := benchDrawn(b, name)
			b.ReportAllocs()
			for b.Loop() {
				p := patch
				switch {
				case name[:2] == "Sp":
					p = crop
				case name == "BinaryOperator":
					p = binary
				}
				if err := drawn.Apply(&p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Draw", func(b *testing.B) {
		l, err := New(Setting{PatchSize: []int{64, 128, 128}, Channels: 1})
		require.NoError(b, err)
		for i := 0; b.Loop(); i++ {
			l.Draw(Sample{Iteration: i}.Augmentation)
		}
	})
}

// TestTransformsDoNotAllocate applies each with a Scratch that was used before.
func TestTransformsDoNotAllocate(t *testing.T) {
	for name := range benchSteps {
		drawn := benchDrawn(t, name)
		original := benchPatch([3]int{66, 130, 131})
		allocations := testing.AllocsPerRun(1, func() {
			p := original
			require.NoError(t, drawn.Apply(&p))
		})
		require.LessOrEqual(t, allocations, 2.0, name) // the patch itself
	}
}
