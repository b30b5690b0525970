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
