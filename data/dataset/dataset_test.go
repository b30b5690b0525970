package dataset

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
)

const (
	goldenDir = "../../testdata/golden/loader"
	miniDir   = "../../testdata/phantom-mini/preprocessed/Dataset101_PhantomSource/nnUNetPlans_3d_fullres"
)

// folder copies the cases of a dataset written by nnU-Net's classes to a new folder.
func folder(t *testing.T, set string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, set))))
	return dir
}

func writeNpy(t *testing.T, path string, a *npz.Array) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, npz.WriteNpy(&b, a))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
}

func zeros[T float32 | int8 | int16](t *testing.T, shape ...int) *npz.Array {
	t.Helper()
	n := 1
	for _, s := range shape {
		n *= s
	}
	a, err := npz.New(make([]T, n), shape...)
	require.NoError(t, err)
	return a
}

func TestCasesAreFoundAndSorted(t *testing.T) {
	dir := touch(t, []string{"b", "a", "B", "a_segFromPrevStage", "10", "9"})
	for _, other := range []string{"c.npy", "d.pkl", "e.npz.bak"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, other), nil, 0o600))
	}
	d, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"10", "9", "B", "a", "b"}, d.Keys())
	require.Equal(t, dir, d.Folder())

	_, err = Open(filepath.Join(dir, "absent"))
	require.EqualError(t, err, "dataset: "+filepath.Join(dir, "absent")+": no such folder, expected preprocessed cases; preprocess the dataset first")
	empty := t.TempDir()
	_, err = Open(empty)
	require.EqualError(t, err, "dataset: "+empty+": found 0 files but no *.npz, expected preprocessed cases; preprocess the dataset first")
	for _, name := range []string{"a.b2nd", "a_seg.b2nd", "a.pkl"} {
		require.NoError(t, os.WriteFile(filepath.Join(empty, name), nil, 0o600))
	}
	_, err = Open(empty)
	require.EqualError(t, err, "dataset: "+empty+": found cases preprocessed by nnU-Net 2.6 or newer (.b2nd), "+
		"expected .npz as written by lntorch and nnU-Net up to 2.5; keep the folder for that nnU-Net, "+
		"and plan and preprocess for lntorch under another name (plan -overwrite_plans_name)")
}

func TestLoadReadsACaseOfNnUNet(t *testing.T) {
	d, err := Open(miniDir)
	require.NoError(t, err)
	require.Equal(t, []string{"LN_000", "LN_001", "LN_002", "LN_003", "LN_004"}, d.Keys())
	for _, key := range d.Keys() {
		c, err := d.Load(key)
		require.NoError(t, err)
		require.Equal(t, key, c.Key)
		require.Equal(t, [4]int{1, c.Data.Shape[1], c.Data.Shape[2], c.Data.Shape[3]}, c.Seg.Shape)
		require.Subset(t, []int16{-1, 0, 1}, c.SegValues)
		require.Len(t, c.Locations, 1)
		require.Equal(t, []int{1}, c.Locations[0].Labels)
		require.NotEmpty(t, c.Locations[0].Voxels)
		for _, v := range c.Locations[0].Voxels {
			s := c.Seg.Shape
			require.Equal(t, int16(1), c.Seg.Data[(int(v[0])*s[2]+int(v[1]))*s[3]+int(v[2])])
		}
	}
}

func TestUnpackedCopiesArePreferred(t *testing.T) {
	d, err := Open(miniDir)
	require.NoError(t, err)
	unpacked, err := d.Load("LN_000")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(miniDir, "LN_000.npy"), unpacked.Source)

	dir := t.TempDir()
	for _, ending := range []string{".npz", ".pkl"} {
		data, err := os.ReadFile(filepath.Join(miniDir, "LN_000"+ending))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "LN_000"+ending), data, 0o600))
	}
	d, err = Open(dir)
	require.NoError(t, err)
	packed, err := d.Load("LN_000")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "LN_000.npz"), packed.Source)
	require.Equal(t, packed.Data, unpacked.Data)
	require.Equal(t, packed.Seg, unpacked.Seg)
}

func TestClassLocationsKeepOrderAndKind(t *testing.T) {
	d, err := Open(filepath.Join(goldenDir, "regions_ignore"))
	require.NoError(t, err)
	c, err := d.Load("case_0")
	require.NoError(t, err)
	require.Equal(t, [4]int{2, 7, 9, 11}, c.Data.Shape)
	var labels [][]int
	for _, l := range c.Locations {
		labels = append(labels, l.Labels)
	}
	require.Equal(t, [][]int{{1, 2}, {2}, {0, 1, 2}}, labels)
	c, err = d.Load("case_4") // nothing annotated: empty lists
	require.NoError(t, err)
	require.Len(t, c.Locations, 3)
	require.Empty(t, c.Locations[2].Voxels)
	require.Equal(t, []int16{3}, c.SegValues)
}

func TestLoadErrorsNameFileFoundAndExpected(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(t *testing.T, dir string, d *Dataset)
		want    string
	}{
		"missing pkl": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.Remove(filepath.Join(dir, "case_0.pkl")))
		}, "DIR/case_0.pkl: no such file, expected the properties of case case_0 beside its npz; preprocess the case again"},
		"missing npz": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.Remove(filepath.Join(dir, "case_0.npz")))
		}, "DIR/case_0.npz: no such file, expected case case_0; preprocess the case again"},
		"truncated npz": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "case_0.npz"), 1000))
		}, "DIR/case_0.npz: damaged or truncated .npz"},
		"truncated pkl": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "case_0.pkl"), 1000))
		}, "DIR/case_0.pkl: "},
		"truncated npy": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0.npy"), zeros[float32](t, 3, 7, 9, 11))
			require.NoError(t, os.Truncate(filepath.Join(dir, "case_0.npy"), 500))
		}, "delete the file if case_0.npz is intact"},
		"channels": {func(_ *testing.T, _ string, d *Dataset) { d.Channels = 2 },
			"DIR/case_0.npz: found 3 channels, expected 2, the network's input channels; check channel_names of dataset.json and preprocess again"},
		"seg shape": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0_seg.npy"), zeros[int8](t, 1, 7, 9, 10))
		}, "DIR/case_0_seg.npy: found a segmentation of shape [1 7 9 10], expected [1 7 9 11], since the data of DIR/case_0.npz have shape [3 7 9 11]; delete it and preprocess the case again"},
		"axes": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0.npy"), zeros[float32](t, 7, 9, 11))
		}, "DIR/case_0.npy: found an array of shape [7 9 11], expected four axes (c, z, y, x); delete it and preprocess the case again"},
		"empty axis": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0.npy"), zeros[float32](t, 1, 7, 0, 11))
		}, "found an array of shape [1 7 0 11], expected four axes"},
		"float seg": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0_seg.npy"), zeros[float32](t, 1, 7, 9, 11))
		}, "DIR/case_0_seg.npy: "},
		"pkl of another case": {func(t *testing.T, dir string, _ *Dataset) {
			writeNpy(t, filepath.Join(dir, "case_0.npy"), zeros[float32](t, 3, 2, 2, 2))
			writeNpy(t, filepath.Join(dir, "case_0_seg.npy"), zeros[int16](t, 1, 2, 2, 2))
		}, "expected one inside shape [2 2 2] of DIR/case_0.npy; delete it and preprocess the case again"},
		"pkl of no dict": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "case_0.pkl"), []byte("\x80\x04]."), 0o600))
		}, "DIR/case_0.pkl: found a pickled list, expected a dict of properties"},
		"pkl without locations": {func(t *testing.T, dir string, _ *Dataset) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "case_0.pkl"), []byte("\x80\x04}."), 0o600))
		}, "DIR/case_0.pkl: found no dict class_locations, expected one"},
		"key text":     {locations("Vnode\n]"), "class_locations: found key node, expected a label or a tuple of labels"},
		"no array":     {locations("I1\nI5\n"), "class_locations: [1]: found int, expected an array of voxels or an empty list"},
		"list of rows": {locations("I1\n(lI1\na"), "class_locations: [1]: found list, expected an array of voxels or an empty list"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, "plain")
			d, err := Open(dir)
			require.NoError(t, err)
			c.breakIt(t, dir, d)
			_, err = d.Load("case_0")
			require.Error(t, err)
			require.Contains(t, string(bytes.ReplaceAll([]byte(err.Error()), []byte(dir), []byte("DIR"))), c.want)
			require.ErrorContains(t, err, "dataset: ")
			_, err = d.Load("case_1")
			require.True(t, err == nil || name == "channels", "other cases are not affected")
		})
	}
}

// locations writes a properties file whose class_locations has one entry, given as text opcodes.
func locations(entry string) func(t *testing.T, dir string, _ *Dataset) {
	return func(t *testing.T, dir string, _ *Dataset) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "case_0.pkl"), []byte("(dVclass_locations\n(d"+entry+"ss."), 0o600))
	}
}

func TestUnknownCasesAreNamed(t *testing.T) {
	d, err := Open(filepath.Join(goldenDir, "plain"))
	require.NoError(t, err)
	_, err = d.Load("../plain/case_0")
	require.ErrorContains(t, err, "expected a case of "+d.Folder()+", which has case_0, case_1, case_2, case_3, case_4")
}

func TestARepairedCaseLoads(t *testing.T) {
	dir := folder(t, "plain")
	d, err := Open(dir)
	require.NoError(t, err)
	path := filepath.Join(dir, "case_0.pkl")
	saved, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	_, err = d.Load("case_0")
	require.Error(t, err)
	require.NoError(t, os.WriteFile(path, saved, 0o600))
	_, err = d.Load("case_0")
	require.NoError(t, err)
}

func TestCacheStaysWithinItsBound(t *testing.T) {
	d, err := Open(filepath.Join(goldenDir, "plain"))
	require.NoError(t, err)
	first, err := d.Load("case_0")
	require.NoError(t, err)
	again, err := d.Load("case_0")
	require.NoError(t, err)
	require.Same(t, first, again)

	var sizes []int64
	for _, key := range d.Keys() {
		c, err := d.Load(key)
		require.NoError(t, err)
		sizes = append(sizes, c.size())
	}
	require.Equal(t, sizes[0]+sizes[1]+sizes[2]+sizes[3]+sizes[4], d.held)

	for range 20 { // maps are visited in random order
		d, err = Open(d.Folder())
		require.NoError(t, err)
		d.CacheBytes = sizes[0] + sizes[1]
		a, err := d.Load("case_0")
		require.NoError(t, err)
		_, err = d.Load("case_1")
		require.NoError(t, err)
		b, err := d.Load("case_0") // used again, so case_1 is older
		require.NoError(t, err)
		require.Same(t, a, b)
		_, err = d.Load("case_2")
		require.NoError(t, err)
		require.LessOrEqual(t, d.held, d.CacheBytes)
		require.Contains(t, d.cache, "case_0")
		require.NotContains(t, d.cache, "case_1")
	}

	d.CacheBytes = 0
	c, err := d.Load("case_3")
	require.NoError(t, err)
	require.NotContains(t, d.cache, "case_3")
	e, err := d.Load("case_3")
	require.NoError(t, err)
	require.NotSame(t, c, e)
	require.Equal(t, c, e)
}

func TestCasesAreLoadedFromManyGoroutinesOnce(t *testing.T) {
	d, err := Open(filepath.Join(goldenDir, "plain"))
	require.NoError(t, err)
	cases := make([]*Case, 32)
	var wg sync.WaitGroup
	for i := range cases {
		wg.Go(func() { cases[i], _ = d.Load("case_0") })
	}
	wg.Wait()
	for _, c := range cases {
		require.NotNil(t, c)
		require.Same(t, cases[0], c)
	}
}

func TestForegroundIsLookedFor(t *testing.T) {
	d, err := Open(filepath.Join(goldenDir, "ignore"))
	require.NoError(t, err)
	require.NoError(t, d.CheckForeground(d.Keys()))
	err = d.CheckForeground([]string{"case_2", "case_4"}) // background only, nothing annotated
	require.EqualError(t, err, "dataset: "+d.Folder()+": no foreground in any of 2 cases (case_2, case_4), expected voxels of label [1 2] in at least one; "+
		"check the labels of the raw dataset and preprocess again")
	require.ErrorContains(t, d.CheckForeground([]string{"none"}), "none.pkl: no such file")
}

// A number that is none is found when the case is read, wherever it is, packed or not.
func TestNumbersThatAreNoneAreFound(t *testing.T) {
	dir := folder(t, "plain")
	d, err := Open(dir)
	require.NoError(t, err)
	c, err := d.Load("case_0") // 3 channels of 7, 9, 11
	require.NoError(t, err)
	n := len(c.Data.Data)
	for i, want := range map[int]string{
		0:                   "channel 0 at voxel [0 0 0]",
		7*9*11 + 2*99 + 13:  "channel 1 at voxel [2 1 2]",
		n - 1:               "channel 2 at voxel [6 8 10]",
		n - 2:               "channel 2 at voxel [6 8 9]",
		2*7*9*11 + 5*99 + 3: "channel 2 at voxel [5 0 3]",
	} {
		for name, v := range map[string]float64{"NaN": math.NaN(), "+Inf": math.Inf(1), "-Inf": math.Inf(-1)} {
			values := slices.Clone(c.Data.Data)
			values[i] = float32(v)
			values[n-1] = float32(v) // the first one is told
			a, err := npz.New(values, c.Data.Shape[:]...)
			require.NoError(t, err)
			writeNpy(t, filepath.Join(dir, "case_0.npy"), a)
			d, err := Open(dir)
			require.NoError(t, err)
			_, err = d.Load("case_0")
			require.EqualError(t, err, "dataset: "+filepath.Join(dir, "case_0.npy")+": found "+name+" in "+want+
				", expected finite intensities: the loss of a training would not be; look at the image of case "+
				"case_0, and preprocess it again")
		}
	}
	// the largest numbers are numbers
	values := slices.Clone(c.Data.Data)
	values[0], values[1], values[2], values[3] = math.MaxFloat32, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32
	require.Equal(t, -1, firstNotFinite(values))
	require.Equal(t, -1, firstNotFinite(nil))
}
