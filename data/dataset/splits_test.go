package dataset

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

type splitCase struct {
	Keys   []string
	File   string
	Beyond map[string]Split
}

func goldenSplits(t *testing.T, path string) []splitCase {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var g struct{ Splits []splitCase }
	require.NoError(t, json.Unmarshal(data, &g))
	require.Greater(t, len(g.Splits), 20)
	return g.Splits
}

// TestLiveGoldenIsWhatPythonWrites runs the script again.
func TestLiveGoldenIsWhatPythonWrites(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "splits.json")
	golden.Run(t, "splits.py", path)
	require.Equal(t, goldenSplits(t, golden.Path(t, "splits.json")), goldenSplits(t, path))
}

func touch(t *testing.T, keys []string) string {
	t.Helper()
	dir := t.TempDir()
	for _, k := range keys {
		require.NoError(t, os.WriteFile(filepath.Join(dir, k+".npz"), nil, 0o600))
	}
	return dir
}

func TestSplitsAreThoseOfNnUNet(t *testing.T) {
	for _, c := range goldenSplits(t, golden.Path(t, "splits.json")) {
		d, err := Open(touch(t, c.Keys))
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "splits_final.json")
		first, err := Fold(path, d.Keys(), "0")
		require.NoError(t, err)
		written, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, c.File, string(written))
		splits, err := ReadSplits(path)
		require.NoError(t, err)
		splits[0].File = path
		require.Equal(t, splits[0], first)
		for fold, want := range c.Beyond {
			got, err := Fold(path, d.Keys(), fold)
			require.NoError(t, err)
			require.Equal(t, want.Train, got.Train, "n=%d fold %s", len(c.Keys), fold)
			require.Equal(t, want.Val, got.Val, "n=%d fold %s", len(c.Keys), fold)
			require.True(t, got.Random)
			require.Equal(t, path, got.File)
			require.Contains(t, got.Warning, "WARNING: You requested fold "+fold+" for training but splits contain only 5 folds. "+
				"I am now creating a random (but seeded) 80:20 split!") // nnUNetTrainer.do_split, INFO there
			require.Contains(t, got.Warning, fmt.Sprintf("%d training and %d validation cases", len(want.Train), len(want.Val)))
			require.Contains(t, got.Warning, path)
		}
		names, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".splits*"))
		require.NoError(t, err)
		require.Empty(t, names, "temporary files are left")
	}
}

func TestAnExistingSplitFileIsUsedAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "splits_final.json")
	require.NoError(t, os.WriteFile(path, []byte(`[{"val": ["b"], "train": ["c", "a"]}, {"train": ["a"], "val": []}]`), 0o600))
	s, err := Fold(path, []string{"a", "b", "c"}, "0")
	require.NoError(t, err)
	require.Equal(t, Split{Train: []string{"c", "a"}, Val: []string{"b"}, File: path}, s)
	require.Empty(t, s.Overlap())
	s, err = Fold(path, []string{"a", "b", "c"}, "all")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, s.Overlap())
	require.Equal(t, Split{Train: s.Train, Val: s.Val}, s)
	_, err = Fold(path, []string{"a", "b", "x"}, "0")
	require.EqualError(t, err, "dataset: "+path+": fold 0 names case c, which is not among the 3 preprocessed cases (a, b, x); correct the file or preprocess the case")
	for _, fold := range []string{"-1", "five", "", "1.0"} {
		_, err = Fold(path, []string{"a"}, fold)
		require.EqualError(t, err, "dataset: fold "+strconv.Quote(fold)+": expected all or a number from 0")
	}
	_, err = Fold(path, []string{"a"}, "2")
	require.ErrorContains(t, err, "fold 2 has no training case")
}

func TestFewCasesAreOfferedAWayOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "splits_final.json")
	_, err := Fold(path, []string{"a", "b"}, "0")
	require.EqualError(t, err, "dataset: 2 cases (a, b), expected at least 5 to make 5 folds; use fold all (train and validate on every case), or write your own "+path+`, for example with one fold per case:
[
    {
        "train": [
            "b"
        ],
        "val": [
            "a"
        ]
    },
    {
        "train": [
            "a"
        ],
        "val": [
            "b"
        ]
    }
]`)
	require.NoFileExists(t, path)
	var few *FewCasesError
	require.ErrorAs(t, err, &few)
	require.NoError(t, WriteSplits(path, few.Proposal()))
	s, err := Fold(path, []string{"a", "b"}, "1")
	require.NoError(t, err)
	require.Equal(t, Split{Train: []string{"a"}, Val: []string{"b"}, File: path}, s)
	require.Equal(t, []Split{{Train: []string{"a"}, Val: []string{"a"}}}, (&FewCasesError{Keys: []string{"a"}}).Proposal())
	require.ErrorContains(t, &FewCasesError{}, "0 cases")
}

func TestBrokenSplitFilesAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "splits_final.json")
	for text, want := range map[string]string{
		`[{"train": ["a"]}]`:             ": fold 0: val: expected a list of folds",
		`[{"train": ["a"], "val": [1]}]`: ": fold 0: val: expected a list of folds",
		`[]`:                             ": expected a list of folds",
		`{}`:                             ": expected a list of folds",
		`[3]`:                            ": expected a list of folds",
		`[{"train": ["a"`:                ": JSON line 1 column 16",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := Fold(path, []string{"a"}, "0")
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, WriteSplits(filepath.Join(t.TempDir(), "no", "s.json"), nil), "no such file")
}
