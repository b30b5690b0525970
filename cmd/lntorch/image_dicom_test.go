package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
)

// A folder of DICOM is shown and converted as its zip and, where it is one, its file.
func TestImageCommandsTakeDICOM(t *testing.T) {
	folder := t.TempDir()
	z, err := zip.OpenReader(repo(t, "testdata/golden/dicom/two-series.zip"))
	require.NoError(t, err)
	defer z.Close()
	for _, m := range z.File {
		r, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, m.Name), data, 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "README"), []byte("hello"), 0o666))

	r := lntorch(t, "image", "info", "--json", folder)
	require.Equal(t, 0, r.code, r.errOut)
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	require.Len(t, list, 2)
	require.Equal(t, []any{9.0, 6.0, 4.0}, list[1]["size"])
	r = lntorch(t, "image", "info", "--header", "--series", "2", folder)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "2, CT, 4 slices, series number 7")
	require.NotContains(t, r.out, "2 slices")

	// the only stack of three slices and more; which, is said
	out := filepath.Join(t.TempDir(), "o.nii.gz")
	r = lntorch(t, "image", "convert", folder, out)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "stack 2 is taken, of\n  1: 2 slices of 9 × 6")
	a, err := image.Read(out)
	require.NoError(t, err)
	require.Equal(t, []int{9, 6, 4}, a.Head().Size)
	require.Equal(t, "int16", a.Head().Type)
	r = lntorch(t, "image", "convert", "--force", "--series", "1", repo(t, "testdata/golden/dicom/two-series.zip"), out)
	require.Equal(t, 0, r.code, r.errOut)
	require.Empty(t, r.errOut)
	a, err = image.Read(out)
	require.NoError(t, err)
	require.Equal(t, []int{9, 6, 2}, a.Head().Size)

	// a file among them
	r = lntorch(t, "image", "convert", "--force", filepath.Join(folder, z.File[0].Name), out)
	require.Equal(t, 0, r.code, r.errOut)
}

func TestDICOMMistakesAreExplained(t *testing.T) {
	dicom := func(name string) string { return repo(t, "testdata/golden/dicom/"+name+".zip") }
	out := filepath.Join(t.TempDir(), "o.nii")
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"image", "convert", dicom("tilt"), out}, 1, "tilt.zip: the slices move sideways by 4.659 mm in all, an angle of 15°"},
		{[]string{"image", "convert", dicom("acquisitions"), out}, 1, "several image stacks, expected one: give --series"},
		{[]string{"image", "convert", dicom("duplicate-different"), out, "--fix-geometry"}, 1, "lie where another lies"},
		{[]string{"image", "convert", dicom("regular"), out, "--series", "5"}, 1, "no such stack"},
		{[]string{"image", "convert", repo(t, "testdata/golden/nifti/2d.nii.gz"), out, "--series", "5"}, 2, "--series and --fix-geometry are for DICOM"},
		{[]string{"image", "info", repo(t, "testdata/golden/nifti/2d.nii.gz"), "--series", "5"}, 2, "--series is for DICOM"},
		{[]string{"image", "info", t.TempDir()}, 1, "none of its 0 files is DICOM"},
		{[]string{"image", "info", os.DevNull}, 1, "not a regular file"},
	} {
		r := lntorch(t, test.args...)
		require.Equal(t, test.code, r.code, "%v: %s", test.args, r.errOut)
		require.Contains(t, r.errOut, test.want)
		require.NotContains(t, r.errOut, "MARKER")
		require.NoFileExists(t, out)
	}
	r := lntorch(t, "image", "convert", dicom("tilt"), out, "--fix-geometry")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "the slices were resampled to a regular grid")
}

// A series in JPEG 2000 and HTJ2K is converted by processes of the program itself.
func TestDICOMInJPEG2000IsConverted(t *testing.T) {
	if _, err := os.Stat(repo(t, "build/lib/liblntorch_openjpeg.so")); err != nil {
		golden.Missing(t, "openjpeg", "OpenJPEG is not built: "+err.Error())
	}
	var expected struct {
		Shape  []int
		SHA256 string
	}
	golden.LoadJSON(t, "dicom_jpeg2000/series.json", &expected)
	series, out := repo(t, "testdata/golden/dicom_jpeg2000/series.zip"), filepath.Join(t.TempDir(), "o.nii")
	r := lntorch(t, "image", "convert", series, out)
	require.Equal(t, 0, r.code, r.errOut)
	file, err := os.ReadFile(out)
	require.NoError(t, err)
	n := 2 * expected.Shape[0] * expected.Shape[1] * expected.Shape[2]
	require.Equal(t, expected.SHA256, fmt.Sprintf("%x", sha256.Sum256(file[len(file)-n:])))

	cmd := command(t, "image", "convert", "--force", series, out)
	cmd.Env = append(cmd.Env, "LNTORCH_OPENJPEG=/nowhere/openjp2.so")
	r = execute(t, cmd)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "series.zip")
	require.Contains(t, r.errOut, "needs OpenJPEG, which is not there: `make openjpeg` fetches")
	require.Contains(t, r.errOut, "(tried /nowhere/openjp2.so: cannot open")
}

// Random label maps on random series, written as RTSTRUCT and SEG of every kind, come back voxel for
// voxel from rt-utils, dcmrtstruct2nii, plastimatch, highdicom and dcmqi, and dciodvfy finds no error.
func TestLiveImagesOfLabelsAreReadBackByOthers(t *testing.T) {
	golden.Program(t, "dciodvfy", "dicom3tools")
	golden.Images(t)
	bin, err := build()
	require.NoError(t, err)
	golden.RunImages(t, "dicom_objects.py", bin, "--seed", golden.Seed(t))
}
