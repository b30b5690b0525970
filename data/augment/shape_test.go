package augment

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// The first steps that only cut out read the final patch of a window, and no more; what is left makes
// the rest of the sample.
func TestFirstStepsOnlyCutOut(t *testing.T) {
	for name, s := range map[string]Setting{
		"3d":    {PatchSize: []int{7, 9, 11}, Channels: 2},
		"dummy": {PatchSize: []int{4, 14, 13}, Channels: 1},
		"2d":    {PatchSize: []int{12, 13}, Channels: 1},
	} {
		l, err := New(s)
		require.NoError(t, err)
		size := [4]int{s.Channels, 1, 1, 1}
		copy(size[4-len(s.PatchSize):], l.InitialPatchSize)
		of := Patch{Image: volume.New[float32]([4]int{s.Channels, size[1] + 2, size[2] + 3, size[3]}),
			Seg: volume.New[int16]([4]int{1, size[1] + 2, size[2] + 3, size[3]}), Dim: len(s.PatchSize),
			Window: Window{Start: [3]int{1, 2, -1}, Size: [3]int(size[1:]), Lowest: -1}}
		fillField(of.Image.Data, 1, 0)
		cut := 0
		for i := range 20 {
			drawn := l.Draw(Sample{Iteration: i}.Augmentation)
			n := drawn.CutsOut()
			affine := drawn[0].Parameters
			if name == "dummy" {
				affine = drawn[1].Parameters
			}
			require.Equal(t, affine.(*SpatialParameters).Affine == nil, n > 0, name)
			if n == 0 {
				continue
			}
			cut++
			parts, whole := of, of
			require.NoError(t, drawn[:n].Apply(&parts))
			require.Equal(t, volume.Numel([4]int{s.Channels, 1, 1, volumeOf(s.PatchSize)}), len(parts.Image.Data))
			require.Equal(t, len(s.PatchSize), parts.Dim)
			require.NoError(t, drawn[n:].Apply(&parts))
			require.NoError(t, drawn.Apply(&whole))
			require.Equal(t, whole.Image, parts.Image, name)
		}
		require.Greater(t, cut, 5)
	}
	for _, steps := range []string{``, `{"transform":"MirrorTransform","axes":[]}`, `{"transform":"Convert3DTo2DTransform"}`,
		`{"transform":"Convert3DTo2DTransform"},{"transform":"SpatialTransform","patch_size":[4,4],"center_location_in_pixels":[2,2],"affine":null}`,
		`{"transform":"Convert3DTo2DTransform"},{"transform":"SpatialTransform","patch_size":[4,4],"center_location_in_pixels":[2,2],"affine":null},
			{"transform":"MirrorTransform","axes":[]}`} {
		drawn, err := DecodeSpec([]byte(`{"transforms":[` + steps + `]}`))
		require.NoError(t, err)
		require.Zero(t, drawn.CutsOut(), steps)
	}
}
