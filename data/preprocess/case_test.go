package preprocess

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

// A reference is one entry of cases.json.
type reference struct {
	name     string
	settings *Settings
	spacing  [3]float64
	label    bool
}

func references(t testing.TB, folder string) []reference {
	text, err := os.ReadFile(filepath.Join(folder, "cases.json"))
	require.NoError(t, err)
	doc, err := plans.DecodeJSON(text)
	require.NoError(t, err)
	var list []reference
	for _, v := range doc.([]any) {
		o := v.(*plans.Object)
		get := func(key string) any {
			v, ok := o.Get(key)
			require.True(t, ok, key)
			return v
		}
		r := reference{name: get("name").(string), label: get("label").(bool)}
		for i, s := range get("spacing").([]any) {
			r.spacing[i] = s.(float64)
		}
		p, err := plans.FromObject(get("plans").(*plans.Object), r.name)
		require.NoError(t, err)
		c, err := p.Configuration("c")
		require.NoError(t, err)
		d, err := plans.DatasetFromObject(get("dataset").(*plans.Object), r.name)
		require.NoError(t, err)
		r.settings, err = NewSettings(p, c, d)
		require.NoError(t, err)
		list = append(list, r)
	}
	return list
}

// readPickle reads the properties of a case.
func readPickle(t testing.TB, path string) *pickle.Dict {
	v, err := pickle.ReadFile(path)
	require.NoError(t, err)
	return v.(*pickle.Dict)
}

// difference returns the largest absolute difference of two slices and its index.
func difference(a, b []float32) (most float64, at int) {
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); !(d <= most) {
			most, at = d, i
		}
	}
	return most, at
}

// compareCases runs all references of a folder.
func compareCases(t *testing.T, folder string) {
	f := open(t, filepath.Join(folder, "cases.npz"))
	list := references(t, folder)
	require.Greater(t, len(list), 25)
	for _, r := range list {
		for _, threads := range []int{1, 3} {
			im := imageOf(t, array(t, f, "image_"+r.name))
			var seg *volume.Image
			if r.label {
				seg = imageOf(t, array(t, f, "label_"+r.name))
			}
			properties := &pickle.Dict{}
			spacing := &pickle.List{}
			for _, v := range r.spacing {
				spacing.Items = append(spacing.Items, v)
			}
			properties.Set("spacing", spacing)
			c, err := r.settings.Run(im, seg, r.spacing, properties, threads)
			require.NoError(t, err, r.name)

			want := array(t, f, "data_"+r.name)
			require.Equal(t, want.Shape, c.Data.Shape[:], r.name)
			values, err := want.Float32s()
			require.NoError(t, err)
			scale := 1.0
			if r.settings.Schemes[0].Name == "NoNormalization" {
				scale = 1000
			}
			most, at := difference(c.Data.Data, values)
			require.LessOrEqual(t, most, 1e-6*scale, "%s: voxel %d: %v, expected %v", r.name, at, c.Data.Data[at], values[at])

			labels := array(t, f, "seg_"+r.name)
			wantSeg, err := labels.Int16s()
			require.NoError(t, err)
			switch v := c.Seg.(type) {
			case *volume.Volume[int8]:
				require.Equal(t, "|i1", labels.DType, r.name)
				require.Equal(t, wantSeg, volume.Cast[int16](volume.Slice[int8](v.Data)), r.name)
			case *volume.Volume[int16]:
				require.Equal(t, "<i2", labels.DType, r.name)
				require.Equal(t, wantSeg, v.Data, r.name)
			}
			samePickle(t, r.name, readPickle(t, filepath.Join(folder, r.name+".pkl")), c.Properties)
		}
	}
}

// samePickle compares two pickled values with their Python types.
func samePickle(t *testing.T, where string, want, got any) {
	t.Helper()
	require.IsType(t, want, got, where)
	switch w := want.(type) {
	case *pickle.Dict:
		g := got.(*pickle.Dict)
		wk, gk := w.Keys(), g.Keys()
		require.Len(t, gk, len(wk), where)
		for i, k := range wk {
			samePickle(t, where+" key", k, gk[i])
			a, _ := w.Get(k)
			b, _ := g.Get(k)
			samePickle(t, fmt.Sprintf("%s[%v]", where, k), a, b)
		}
	case *pickle.List:
		sameItems(t, where, w.Items, got.(*pickle.List).Items)
	case pickle.Tuple:
		sameItems(t, where, w, got.(pickle.Tuple))
	case *pickle.NumpyArray:
		g := got.(*pickle.NumpyArray)
		require.Equal(t, w.DType, g.DType, where)
		require.Equal(t, w.Shape, g.Shape, where)
		require.Equal(t, w.Fortran, g.Fortran, where)
		require.Equal(t, w.Data, g.Data, where)
	default:
		require.Equal(t, want, got, where)
	}
}

func sameItems(t *testing.T, where string, want, got []any) {
	t.Helper()
	require.Len(t, got, len(want), where)
	for i := range want {
		samePickle(t, fmt.Sprintf("%s[%d]", where, i), want[i], got[i])
	}
}

func TestCasesAreNnUNets(t *testing.T) { compareCases(t, goldens) }

func TestLiveCasesAreNnUNets(t *testing.T) {
	for _, seed := range []string{"1", "2", "3"} {
		out := t.TempDir()
		golden.Run(t, "preprocess.py", out, seed)
		compareCrop(t, out)
		compareCases(t, out)
		compareRules(t, out)
		compareSums(t, out)
	}
}

func TestRunRefusesInvalidCases(t *testing.T) {
	list := references(t, goldens)
	s := list[0].settings
	im := func(c, n int) *volume.Image {
		return &volume.Image{Shape: [4]int{c, n, n, n}, Pixels: make(volume.Slice[int16], c*n*n*n)}
	}
	half := im(1, 4)
	half.Pixels = append(make(volume.Slice[float32], 63), 0.5)
	large := im(1, 4)
	large.Pixels = append(make(volume.Slice[int32], 63), 40000)
	for _, c := range []struct {
		im, seg *volume.Image
		spacing [3]float64
		message string
	}{
		{im(2, 4), im(1, 4), [3]float64{1, 1, 1}, "found 2 channels, the plans have 1"},
		{im(1, 4), im(1, 5), [3]float64{1, 1, 1}, "expected one channel of the same size"},
		{im(1, 0), im(1, 0), [3]float64{1, 1, 1}, "no voxels"},
		{im(1, 4), im(1, 4), [3]float64{1, 0, 1}, "spacing"},
		{im(1, 4), im(1, 4), [3]float64{0.01, 1, 1}, "empty image of shape [0 "},
		{im(1, 4), im(1, 4), [3]float64{1, 1e9, 1e9}, "is the image's spacing right?"},
		{im(1, 4), im(1, 4), [3]float64{1, 1, 1e308}, "is the image's spacing right?"},
		{im(1, 4), half, [3]float64{1, 1, 1}, "found the value 0.5 in the labels, expected whole numbers from 0 to 32767: export"},
		{im(1, 4), large, [3]float64{1, 1, 1}, "found labels from 0 to 40000, expected whole numbers from 0 to 32767: is it the image"},
	} {
		_, err := s.Run(c.im, c.seg, c.spacing, &pickle.Dict{}, 1)
		require.ErrorContains(t, err, c.message)
	}
}
