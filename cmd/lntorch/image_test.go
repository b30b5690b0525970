package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// The corpus has a file that SimpleITK wrote with this geometry.
func TestImageInfoShowsGeometryAndIntensities(t *testing.T) {
	path := repo(t, "testdata/golden/nifti/sitk.nii.gz")
	cmd := command(t, "image", "info", path)
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	for _, want := range []string{"5 × 4 × 3 (xyz), int16", "0.9, 0.9, 3 mm", "-10.1, 20.2, -30.3 (LPS)", "LAS, oblique", "qform code 1, sform code 1, unit mm"} {
		require.Contains(t, r.out, want)
	}
	r = lntorch(t, "image", "info", "--json", path, repo(t, "testdata/golden/nifti/skew_01.nii.gz"))
	require.Equal(t, 0, r.code, r.errOut)
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	require.Len(t, list, 2)
	require.Equal(t, []any{5.0, 4.0, 3.0}, list[0]["size"])
	require.Equal(t, []any{float64(float32(0.9)), float64(float32(0.9)), 3.0}, list[0]["spacing"])
	require.Equal(t, "LAS", list[0]["orientation"])
	require.Nil(t, list[0]["problem"])
	require.Contains(t, list[1]["problem"], "not orthogonal")
	require.Nil(t, list[1]["spacing"])
	require.NotNil(t, list[1]["affine"])
	r = lntorch(t, "image", "info", "--json", "--header", path)
	list = nil
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	require.NotContains(t, list[0], "intensities")
}

func TestImageConvertKeepsPixelsAndGeometry(t *testing.T) {
	folder := t.TempDir()
	in := repo(t, "testdata/golden/nifti/type_i2_be.nii")
	zip, back := filepath.Join(folder, "a.nii.gz"), filepath.Join(folder, "b.nii")
	require.Equal(t, 0, lntorch(t, "image", "convert", in, zip).code)
	require.Equal(t, 0, lntorch(t, "image", "convert", zip, back).code)
	was, err := os.ReadFile(in)
	require.NoError(t, err)
	is, err := os.ReadFile(back)
	require.NoError(t, err)
	require.Equal(t, was, is)

	r := lntorch(t, "image", "convert", in, zip)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "a.nii.gz exists already: give --force")
	r = lntorch(t, "image", "convert", in, zip, "--force", "--type", "uint8")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "which uint8 does not hold")
	r = lntorch(t, "image", "convert", in, zip, "--force", "--type", "int")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "--type int: expected uint8")
	require.Equal(t, 0, lntorch(t, "image", "convert", in, zip, "--force", "--type", "float32").code)
	a, err := nifti.Read(in)
	require.NoError(t, err)
	b, err := nifti.Read(zip)
	require.NoError(t, err)
	require.Equal(t, "float32", b.Type)
	for i, v := range a.Pixels.(volume.Slice[int16]) {
		require.Equal(t, float32(v), b.Pixels.(volume.Slice[float32])[i])
	}

	// a scaling becomes part of the values
	in = repo(t, "testdata/golden/nifti/scl_both.nii.gz")
	r = lntorch(t, "image", "convert", in, zip, "--force", "--type", "int16")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "which int16 does not hold")
	require.Equal(t, 0, lntorch(t, "image", "convert", in, zip, "--force", "--type", "int16", "--round").code)
	a, err = nifti.Read(in)
	require.NoError(t, err)
	b, err = nifti.Read(zip)
	require.NoError(t, err)
	require.Equal(t, [2]float64{1, 0}, [2]float64{b.Slope, b.Inter})
	for i, v := range a.Pixels.(volume.Slice[int16]) {
		require.InDelta(t, float64(v)*a.Slope+a.Inter, float64(b.Pixels.(volume.Slice[int16])[i]), 0.501)
	}
}

// Every format becomes every other, compressed or not, with the same values and geometry.
func TestImageConvertGoesBetweenFormats(t *testing.T) {
	folder := t.TempDir()
	in := repo(t, "testdata/golden/nifti/type_i2_le.nii")
	was, err := image.Read(in)
	require.NoError(t, err)
	for _, out := range []struct{ name, beside, raw string }{
		{"a.nii", "", ""}, {"a.nrrd", "", ""}, {"a.mha", "", ""}, {"b.nhdr", "b.raw.gz", "b.raw"}, {"c.mhd", "c.zraw", "c.raw"},
	} {
		path := filepath.Join(folder, out.name)
		sizes := map[bool]int64{}
		for _, raw := range []bool{false, true} {
			args := []string{"image", "convert", in, path, "--force"}
			file := out.beside
			if raw {
				args, file = append(args, "--uncompressed"), out.raw
			}
			r := lntorch(t, args...)
			require.Equal(t, 0, r.code, r.errOut)
			is, err := image.Read(path)
			require.NoError(t, err)
			require.Equal(t, was.Values(), is.Values(), path)
			require.Equal(t, was.Head().Geometry.Origin, is.Head().Geometry.Origin)
			require.InDeltaSlice(t, was.Head().Geometry.Direction, is.Head().Geometry.Direction, 1e-6)
			if file == "" {
				file = out.name
			}
			info, err := os.Stat(filepath.Join(folder, file))
			require.NoError(t, err)
			sizes[raw] = info.Size()
		}
		if out.name == "a.nii" {
			require.Equal(t, sizes[true], sizes[false])
		} else {
			require.NotEqual(t, sizes[true], sizes[false])
		}
	}
	require.NoError(t, os.Remove(filepath.Join(folder, "c.mhd")))
	for want, args := range map[string][]string{
		"c.zraw exists already: give --force": {in, filepath.Join(folder, "c.mhd")},
		"c.raw exists already: give --force":  {in, filepath.Join(folder, "c.mhd"), "--uncompressed"},
		"stands for a compressed file":        {in, filepath.Join(folder, "c.nii.gz"), "--uncompressed"},
	} {
		r := lntorch(t, append([]string{"image", "convert"}, args...)...)
		require.NotEqual(t, 0, r.code)
		require.Contains(t, r.errOut, want)
	}
}

func TestImageMistakesAreExplained(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"image", "turn"}, 2, `unknown command "turn": expected info or convert`},
		{[]string{"image", "info"}, 2, "expected PATH…"},
		{[]string{"image", "info", "absent.nii"}, 1, "absent.nii"},
		{[]string{"image", "convert", "a.nii", "b.png"}, 2, "expected a name that ends in " + strings.Join(image.Endings(), " or ")},
		{[]string{"image", "convert", "a.nii", "b.nii", "--round"}, 2, "--round is for --type"},
		{[]string{"image", "convert", "a.dcm", "b.nii", "--roi", "LN=x{1,2}"}, 2, "are for --reference"},
		{[]string{"image", "convert", "a.dcm", "b.nii", "--reference", "c", "--roi", "LN=x{1,2"}, 1, "a.dcm: no such file"},
		{[]string{"image", "convert", "a.dcm", "b.nii", "--reference", "c", "--roi", "LN=("}, 2, "is no regular expression"},
		{[]string{"image", "convert", "a.dcm", "b.nii", "--reference", "c", "--threshold", "0"}, 2, "expected a number above 0 and at most 1"},
		{[]string{"image", "convert", "absent.nii", filepath.Join(t.TempDir(), "b.nii")}, 1, "absent.nii: no such file"},
	} {
		r := lntorch(t, test.args...)
		require.Equal(t, test.code, r.code, test.args)
		require.Contains(t, r.errOut, test.want)
	}
	// one bad file does not hide the others
	bad := filepath.Join(t.TempDir(), "bad.nii")
	require.NoError(t, os.WriteFile(bad, []byte("nothing"), 0o666))
	r := lntorch(t, "image", "info", bad, repo(t, "testdata/golden/nifti/2d.nii.gz"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.out, "5 × 4 (xy), int16")
	require.Contains(t, r.errOut, "bad.nii: found 7 bytes")
}
