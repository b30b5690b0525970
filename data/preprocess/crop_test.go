package preprocess

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

// goldens is the folder that scripts/golden/preprocess.py wrote.
const goldens = "../../testdata/golden/preprocess"

// array reads one array of an archive.
func array(t testing.TB, f *npz.File, name string) *npz.Array {
	a, err := f.Read(name)
	require.NoError(t, err)
	return a
}

// imageOf converts an array (c, z, y, x) of any type to an image.
func imageOf(t testing.TB, a *npz.Array) *volume.Image {
	kind := map[byte]string{'u': "uint", 'i': "int", 'f': "float"}[a.DType[1]]
	im := &volume.Image{Shape: [4]int(a.Shape), Pixels: volume.MakePixels(fmt.Sprintf("%s%d", kind, 8*int(a.DType[2]-'0')), a.Numel())}
	data, err := a.RowMajor()
	copy(im.Pixels.Bytes(), data)
	require.NoError(t, err)
	return im
}

func open(t testing.TB, path string) *npz.File {
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func compareCrop(t *testing.T, folder string) {
	f := open(t, filepath.Join(folder, "crop.npz"))
	n := len(f.Names()) / 3
	require.Greater(t, n, 20)
	masked := 0
	for i := range n {
		im := imageOf(t, array(t, f, fmt.Sprintf("image_%d", i)))
		want, err := array(t, f, fmt.Sprintf("box_%d", i)).Int64s()
		require.NoError(t, err)
		box := NonZeroBox(im)
		for axis := range 3 {
			require.EqualValues(t, [2]int{int(want[2*axis]), int(want[2*axis+1])}, box[axis], "case %d axis %d", i, axis)
		}
		seg, err := array(t, f, fmt.Sprintf("seg_%d", i)).Int8s()
		require.NoError(t, err)
		m := Outside(im, box)
		if m != nil {
			masked++
			require.Positive(t, m.Len())
		}
		for j, v := range seg {
			require.Equal(t, v == -1, m != nil && m.Has(j), "case %d (%s %v) voxel %d", i, im.Pixels.Type(), im.Shape, j)
		}
	}
	require.Greater(t, masked, 10)
	require.Less(t, masked, n)
}

func TestCropIsNnUNets(t *testing.T) { compareCrop(t, goldens) }
