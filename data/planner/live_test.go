package planner_test

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/golden"
)

// TestLiveDatasetsAreMeasuredAndPlannedAsByNnUNet compares all files byte for byte.
func TestLiveDatasetsAreMeasuredAndPlannedAsByNnUNet(t *testing.T) {
	golden.Python(t)
	root := os.Getenv("LNTORCH_RAW_DATASETS")
	if root == "" {
		root = t.TempDir()
		golden.Run(t, "raw_datasets.py", root)
	}
	want := func(parts ...string) string {
		b, err := os.ReadFile(filepath.Join(append([]string{root, "preprocessed"}, parts...)...))
		require.NoError(t, err)
		return string(b)
	}
	out := t.TempDir()
	folders, err := os.ReadDir(filepath.Join(root, "raw"))
	require.NoError(t, err)
	require.Len(t, folders, 8)
	datasets := map[string]*raw.Dataset{}
	transposes, readers := map[string]bool{}, map[string]bool{}
	for _, f := range folders {
		name := f.Name()
		d, err := raw.Open(filepath.Join(root, "raw"), name)
		require.NoError(t, err)
		datasets[name] = d
		report, err := raw.Verify(t.Context(), filepath.Join(root, "raw", name), 2, nil)
		require.NoError(t, err)
		require.Empty(t, report.Problems, name)
		folder := filepath.Join(out, name)
		_, found, err := fingerprint.ExtractFolder(t.Context(), d, folder, false, fingerprint.Options{Workers: 2})
		require.NoError(t, err)
		require.False(t, found)
		got := func(file string) string {
			b, err := os.ReadFile(filepath.Join(folder, file))
			require.NoError(t, err)
			return string(b)
		}
		require.Equal(t, want(name, fingerprint.File), got(fingerprint.File), name)
		_, found, err = fingerprint.ExtractFolder(t.Context(), d, folder, false, fingerprint.Options{})
		require.NoError(t, err)
		require.True(t, found)
		for _, class := range planner.Names() {
			p, err := planner.ForName(class)
			require.NoError(t, err)
			r, path, err := p.PlanFolder(d, folder, planner.Options{})
			require.NoError(t, err)
			require.Equal(t, want(name, filepath.Base(path)), got(filepath.Base(path)), "%s: %s", name, class)
			forward, _ := r.Plans.Get("transpose_forward")
			transposes[text(t, forward)] = true
			reader, _ := r.Plans.Get("image_reader_writer")
			readers[reader.(string)] = true
		}
		require.Equal(t, want(name, "dataset.json"), got("dataset.json"))
		if name == "Dataset907_Regions" {
			require.Equal(t, want(name, "splits_final.json"), got("splits_final.json"))
		}
	}
	require.Len(t, transposes, 3)
	require.Len(t, readers, 2)

	for _, m := range []struct{ from, to, name, newName, path string }{
		{"Dataset908_Large", "Dataset907_Regions", "nnUNetPlans", "movedPlans", "movedPlans.json"},
		{"Dataset907_Regions", "Dataset905_Coronal", "nnUNetResEncUNetMPlans", "movedM", "movedM.json"},
		{"Dataset903_Above", "Dataset904_Sagittal", "nnUNetPlans", "", "moved_nnUNetPlans.json"},
	} {
		target := t.TempDir()
		path, err := planner.Move(filepath.Join(root, "preprocessed", m.from), m.name, datasets[m.to], target, m.newName)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(target, cmp.Or(m.newName, m.name)+".json"), path)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want(m.to, m.path), string(b), "%+v", m)
	}
}
