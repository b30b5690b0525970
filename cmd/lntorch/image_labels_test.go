package main

import (
	"archive/zip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The corpus has an RTSTRUCT of four ROIs, ZQMARKERQZ a to d, on the second of two series.
func TestImageConvertDrawsAnRTSTRUCT(t *testing.T) {
	corpus := repo(t, "testdata/golden/dicom_labels")
	z, err := zip.OpenReader(filepath.Join(corpus, "objects.zip"))
	require.NoError(t, err)
	defer z.Close()
	r, err := z.Open("stars-rotated.dcm")
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	in, out := filepath.Join(t.TempDir(), "r"), filepath.Join(t.TempDir(), "labels.nii.gz")
	require.NoError(t, os.WriteFile(in, data, 0o666))
	// a comma belongs to the pattern
	args := []string{"image", "convert", in, out, "--reference", filepath.Join(corpus, "ct.zip"), "--roi", "LN=zq.{1,20} (b|c)",
		"--roi", ".* a"}
	run := lntorch(t, args...)
	require.Equal(t, 0, run.code, run.errOut)
	require.Contains(t, run.out, "labels.nii.gz")
	require.Contains(t, run.out, "  1  LN  ")
	require.Contains(t, run.out, "  2  .* a  ")
	require.Contains(t, run.errOut, "voxels belong to several labels")
	require.NotContains(t, run.out+run.errOut, "ZQMARKERQZ")

	run = lntorch(t, append(args, "--force", "--json")...)
	require.Equal(t, 0, run.code, run.errOut)
	var done struct {
		File, Type string
		Bytes      int64
		Labels     map[string]struct {
			Name   string
			ROIs   []string
			Voxels int
		}
		Warnings []string
	}
	require.NoError(t, json.Unmarshal([]byte(run.out), &done))
	require.Equal(t, out, done.File)
	require.Equal(t, "uint8", done.Type)
	require.Equal(t, []string{"ZQMARKERQZ b", "ZQMARKERQZ c"}, done.Labels["1"].ROIs)
	require.Equal(t, ".* a", done.Labels["2"].Name)
	require.NotEmpty(t, done.Warnings)
	info, err := os.Stat(out)
	require.NoError(t, err)
	require.Equal(t, info.Size(), done.Bytes)

	// of an image, too
	other := filepath.Join(t.TempDir(), "again.nii")
	run = lntorch(t, "image", "convert", "--json", out, other)
	require.Equal(t, 0, run.code, run.errOut)
	require.JSONEq(t, `{"file": "`+other+`", "bytes": 4006, "type": "uint8", "warnings": []}`, run.out)

	run = lntorch(t, "image", "convert", in, out, "--force", "--reference", filepath.Join(corpus, "ct.zip"), "--reference-series", "1")
	require.Equal(t, 1, run.code)
	require.Contains(t, run.errOut, "refers to another series and another frame of reference than stack 1")
}
