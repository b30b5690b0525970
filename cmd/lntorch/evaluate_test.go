package main

import (
	"archive/zip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/volume"
)

// An RTSTRUCT and a SEG of one series: --roi may hold commas, and no name in the files is shown.
func TestEvaluateTakesObjects(t *testing.T) {
	corpus := repo(t, "testdata/golden/dicom_labels")
	dir := t.TempDir()
	z, err := zip.OpenReader(filepath.Join(corpus, "objects.zip"))
	require.NoError(t, err)
	defer z.Close()
	for _, name := range []string{"stars-square.dcm", "binary-all-square.dcm"} {
		r, err := z.Open(name)
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	reference, prediction := filepath.Join(dir, "stars-square.dcm"), filepath.Join(dir, "binary-all-square.dcm")
	args := []string{"evaluate", reference, prediction, "--image", filepath.Join(corpus, "ct.zip"), "--roi",
		"node=.{1,20} (a|b)", "--json"}
	r := lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	var doc struct {
		Labels map[string]string
		Cases  []struct {
			Case   string
			Labels map[string]map[string]any
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, map[string]string{"1": "node"}, doc.Labels)
	require.Equal(t, "binary-all-square", doc.Cases[0].Case)
	require.Equal(t, "none", doc.Cases[0].Labels["1"]["empty"])
	require.NotContains(t, r.out+r.errOut, "ZQMARKERQZ")

	r = lntorch(t, "evaluate", reference, prediction, "--roi", "node=.* a")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "both are objects without an image: name the DICOM series")
	r = lntorch(t, "evaluate", reference, prediction, "--roi", "node=(")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "is no regular expression")
}

// The table says of how many cases nodes are, and standard error what to do about the others.
func TestEvaluatePrintsWhatWasNotMeasured(t *testing.T) {
	dir := t.TempDir()
	const n = 96
	noise, node := make([]uint8, n*n*n), make([]uint8, n*n*n)
	for i := range noise {
		if i%2 == 0 && i/n%2 == 0 && i/n/n%2 == 0 {
			noise[i] = 1
		}
	}
	copy(node[n*n+n:], []uint8{1, 1, 1})
	for name, labels := range map[string][]uint8{"r/a": node, "p/a": node, "r/noise": node, "p/noise": noise} {
		path := filepath.Join(dir, name+".nii.gz")
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, image.Write(path, []int{n, n, n}, &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0},
			Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}, volume.Slice[uint8](labels), 1))
	}
	args := []string{"evaluate", filepath.Join(dir, "r"), filepath.Join(dir, "p"), "-l", "1", "--max-ram", "0.1"}
	r := lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	fields := strings.Fields(strings.Split(r.out, "\n")[2])
	require.Equal(t, "1 2", strings.Join(fields[:2], " "))
	require.Equal(t, "1.000 (n=1) 0.000 (n=1) 1 (n=1) 1.000 (n=1) 1.000 (n=1) 1.000 (n=1)", strings.Join(fields[3:], " "))
	require.Contains(t, r.errOut, "WARNING: case noise, label 1: found 1 nodes in the reference and 110592 in the prediction")
	require.Contains(t, r.errOut, " If they are, give it more memory with --max-ram.\n")

	require.NoError(t, os.Remove(filepath.Join(dir, "p", "a.nii.gz")))
	r = lntorch(t, append(args, "--chill")...)
	require.Equal(t, 0, r.code, r.errOut)
	lines := strings.Split(r.out, "\n")
	require.Equal(t, []string{"–", "–", "–", "–", "–", "–"}, strings.Fields(lines[2])[3:])
	require.NotContains(t, r.out, " mm ") // no class has nodes
}
