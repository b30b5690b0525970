package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// compare takes scores.json alone, or a dataset and validations, and says which flags belong to which.
func TestCompareTakesScores(t *testing.T) {
	dir := t.TempDir()
	labels := repo(t, "testdata/phantom-demo/raw/Dataset102_PhantomTarget/labelsTr/LN_004.nii.gz")
	scores := filepath.Join(dir, "a", "summary.json")
	r := lntorch(t, "evaluate", labels, labels, "-l", "1", "-o", scores)
	require.Equal(t, 0, r.code, r.errOut)
	one, two := "one="+filepath.Join(dir, "a"), "two="+filepath.Join(dir, "a", "scores.json")

	r = lntorch(t, "compare", one, two, "-o", filepath.Join(dir, "c.csv"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `1 +Dice +1 +1\.000 +two +1\.000 +\+0\.000`, r.out)
	require.Contains(t, r.out, filepath.Join(dir, "c.nodes.csv"))
	require.FileExists(t, filepath.Join(dir, "c.nodes.csv"))

	r = lntorch(t, "compare", one, two, "--json")
	require.Equal(t, 0, r.code, r.errOut)
	var doc struct{ Models []string }
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, []string{"one", "two"}, doc.Models)

	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{one, two, "--cases", "2"}, "--cases is for validations of a dataset"},
		{[]string{"102", "3d_fullres", one, "--json"}, "--json is for scores.json"},
		{[]string{one}, "expected at least two to compare"},
		{[]string{"102", one}, "expected two NAME=SCORES or more, or DATASET CONFIGURATION"},
		{nil, "expected two NAME=SCORES or more"},
	} {
		r := lntorch(t, append([]string{"compare"}, c.args...)...)
		require.Equal(t, 2, r.code, c.says)
		require.Contains(t, r.errOut, c.says)
	}
}
