package dataset

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/volume"
)

// unpack writes what nnU-Net unpacks of a case: <key>.npy and <key>_seg.npy, the segmentation as wide or
// as it is.
func unpack(t testing.TB, dir, key string, wide bool) {
	t.Helper()
	f, err := npz.OpenNpz(filepath.Join(dir, key+".npz"))
	require.NoError(t, err)
	defer f.Close()
	for name, ending := range map[string]string{"data": ".npy", "seg": "_seg.npy"} {
		a, err := f.Read(name)
		require.NoError(t, err)
		switch values, err := a.Int16s(); {
		case name == "data": // also those that lie column by column
			values, err := a.Float32s()
			require.NoError(t, err)
			a, err = npz.New(values, a.Shape...)
			require.NoError(t, err)
		case wide:
			require.NoError(t, err)
			a, err = npz.New(values, a.Shape...)
			require.NoError(t, err)
		}
		out, err := os.Create(filepath.Join(dir, key+ending))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(out, a))
		require.NoError(t, out.Close())
	}
}

// small leaves room for what is beside the voxels of a case of a set, not for them.
var small = map[string]int64{"plain": 6000, "thin": 3500}

func TestBoxesOfCasesOnDiskAreTheirs(t *testing.T) {
	for _, set := range []string{"plain", "thin"} {
		for _, wide := range []bool{false, true} {
			dir := folder(t, set)
			d, err := Open(dir)
			require.NoError(t, err)
			for _, key := range d.Keys() {
				unpack(t, dir, key, wide)
			}
			d.CacheBytes = small[set]
			var part Part
			rng := rand.New(rand.NewPCG(5, 6))
			onDisk := 0
			for _, key := range d.Keys() {
				c, err := d.LoadForPatches(key)
				require.NoError(t, err)
				again, err := d.LoadForPatches(key)
				require.NoError(t, err)
				require.Same(t, c, again, "it is read once")
				whole, err := d.Load(key)
				require.NoError(t, err)
				require.NotEmpty(t, whole.Data.Data)
				require.Equal(t, whole.SegValues, c.SegValues)
				require.Equal(t, whole.Locations, c.Locations)
				require.Equal(t, whole.Data.Shape, c.Data.Shape)
				if c.Data.Data == nil {
					onDisk++
				}
				for range 200 {
					var start, size [3]int
					for axis, n := range c.Data.Spatial() {
						size[axis] = 1 + rng.IntN(n+4)
						start[axis] = rng.IntN(2*n+8) - n - 4
					}
					image, seg, first, err := c.Box(start, size, &part)
					require.NoError(t, err)
					for axis := range start {
						start[axis] -= first[axis]
					}
					require.Equal(t, cropped(whole.Data, add(start, first), size, 0), cropped(image, start, size, 0))
					require.Equal(t, cropped(whole.Seg, add(start, first), size, -1), cropped(seg, start, size, -1))
					if c.Data.Data == nil { // no more than the box is read
						require.LessOrEqual(t, len(seg.Data), size[0]*size[1]*size[2])
					}
				}
			}
			require.Positive(t, onDisk, set)
		}
	}
}

func add(a, b [3]int) [3]int { return [3]int{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }

func cropped[T float32 | int16](v *volume.Volume[T], start, size [3]int, fill T) []T {
	out := volume.New[T]([4]int{v.Shape[0], size[0], size[1], size[2]})
	v.Crop(out, start, fill)
	return out.Data
}

// What happens to the files of a case in use is an error that names the file, and nothing worse.
func TestFilesThatChangeInUseAreErrors(t *testing.T) {
	for ending, change := range map[string]func(t *testing.T, path string) string{
		".npy": func(t *testing.T, path string) string {
			require.NoError(t, os.Truncate(path, 1000))
			return "(truncated?)"
		},
		"_seg.npy": func(t *testing.T, path string) string {
			writeNpy(t, path, zeros[int16](t, 1, 7, 9, 11))
			return "found an array of shape [1 7 9 11] and type <i2, expected [1 7 9 11] and |i1 as before: it was changed while it was in use"
		},
		".npy ": func(t *testing.T, path string) string {
			require.NoError(t, os.Remove(path))
			return "no such file"
		},
		"_seg.npy ": func(t *testing.T, path string) string {
			writeNpy(t, path, zeros[int8](t, 1, 7, 9, 12))
			return "found an array of shape [1 7 9 12] and type |i1"
		},
	} {
		dir := folder(t, "plain")
		unpack(t, dir, "case_0", false)
		d, err := Open(dir)
		require.NoError(t, err)
		d.CacheBytes = small["plain"]
		c, err := d.LoadForPatches("case_0")
		require.NoError(t, err)
		require.Nil(t, c.Data.Data)
		var part Part
		_, _, _, err = c.Box([3]int{1, 2, 3}, [3]int{4, 4, 4}, &part)
		require.NoError(t, err)
		path := filepath.Join(dir, "case_0"+strings.TrimSpace(ending))
		want := change(t, path)
		_, _, _, err = c.Box([3]int{1, 2, 3}, [3]int{4, 4, 4}, &part)
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, want)
	}
}

// Cases stay in memory while there is room, and what is not unpacked, or otherwise than nnU-Net's, is
// read whole as before.
func TestOnlyUnpackedCasesStayOnDisk(t *testing.T) {
	dir := folder(t, "plain")
	d, err := Open(dir)
	require.NoError(t, err)
	unpack(t, dir, "case_0", false)
	c, err := d.LoadForPatches("case_0")
	require.NoError(t, err)
	require.NotNil(t, c.Data.Data, "there is room")
	d, err = Open(dir)
	require.NoError(t, err)
	d.CacheBytes = small["plain"]
	unpack(t, dir, "case_1", false)
	writeNpy(t, filepath.Join(dir, "case_1.npy"), float64s(t, dir, "case_1"))
	for key, onDisk := range map[string]bool{"case_0": true, "case_1": false, "case_2": false} {
		c, err := d.LoadForPatches(key)
		require.NoError(t, err)
		require.Equal(t, onDisk, c.Data.Data == nil, key)
		image, _, _, err := c.Box([3]int{}, [3]int{2, 2, 2}, &Part{})
		require.NoError(t, err)
		require.NotEmpty(t, image.Data)
	}
}

func float64s(t *testing.T, dir, key string) *npz.Array {
	t.Helper()
	f, err := npz.OpenNpz(filepath.Join(dir, key+".npz"))
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("data")
	require.NoError(t, err)
	values, err := a.Float64s()
	require.NoError(t, err)
	out, err := npz.New(values, a.Shape...)
	require.NoError(t, err)
	return out
}

// BenchmarkCasesWithoutRoom times what a patch costs of a case of 128×256×256 that is not in memory: read
// whole, and the boxes that a patch of 64×128×128 is cut or sampled from.
func BenchmarkCasesWithoutRoom(b *testing.B) {
	dir := b.TempDir()
	shape := []int{1, 128, 256, 256}
	data, seg := make([]float32, 128*256*256), make([]int8, 128*256*256)
	for i := range data {
		data[i], seg[i] = float32(i%977)/977, int8(i%100/99)
	}
	a, err := npz.New(data, shape...)
	require.NoError(b, err)
	s, err := npz.New(seg, shape...)
	require.NoError(b, err)
	for name, x := range map[string]*npz.Array{"k.npy": a, "k_seg.npy": s} {
		out, err := os.Create(filepath.Join(dir, name))
		require.NoError(b, err)
		require.NoError(b, npz.WriteNpy(out, x))
		require.NoError(b, out.Close())
	}
	require.NoError(b, os.WriteFile(filepath.Join(dir, "k.npz"), nil, 0o600)) // the .npy come first
	require.NoError(b, os.WriteFile(filepath.Join(dir, "k.pkl"), []byte("(dVclass_locations\n(dI1\n(lss."), 0o600))
	d, err := Open(dir)
	require.NoError(b, err)
	d.CacheBytes = 1
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			_, err := d.Load("k")
			require.NoError(b, err)
		}
	})
	c, err := d.LoadForPatches("k")
	require.NoError(b, err)
	for name, size := range map[string][3]int{"140x205x168": {140, 205, 168}, "64x128x128": {64, 128, 128}} {
		b.Run(name, func(b *testing.B) {
			var part Part
			for b.Loop() {
				_, _, _, err := c.Box([3]int{-6, 20, 30}, size, &part)
				require.NoError(b, err)
			}
		})
	}
}
