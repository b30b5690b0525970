package pth

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/stretchr/testify/require"
)

const goldenFolder = "../../testdata/golden"

// corpora are the folders written by scripts/golden/pth_corpus.py, one per torch version.
var corpora = []string{"pth", "pth215"}

// eachCorpusFile calls check with each file and Python's description of it.
func eachCorpusFile(t *testing.T, check func(t *testing.T, path, want string)) {
	for _, folder := range corpora {
		index := map[string]string{}
		b, err := os.ReadFile(filepath.Join(goldenFolder, folder, "index.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &index))
		for name, description := range index {
			t.Run(folder+"/"+name, func(t *testing.T) {
				want, err := os.ReadFile(filepath.Join(goldenFolder, folder, description))
				require.NoError(t, err)
				check(t, filepath.Join(goldenFolder, folder, name), string(want))
			})
		}
	}
}

func openAny(t *testing.T, path string) any {
	if strings.HasSuffix(path, ".pkl") {
		v, err := pickle.ReadFile(path)
		require.NoError(t, err)
		return v
	}
	f, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f.Root
}

func TestCorpusIsReadAsPythonReadsIt(t *testing.T) {
	eachCorpusFile(t, func(t *testing.T, path, want string) {
		require.JSONEq(t, want, describe(t, openAny(t, path)))
	})
}

func TestWrittenCorpusIsReadBack(t *testing.T) {
	eachCorpusFile(t, func(t *testing.T, path, want string) {
		if strings.HasSuffix(path, "values_5.pkl") ||
			strings.HasSuffix(path, "values_legacy_5.pth") {
			// Only protocol 5 preserves a big-endian array; Python's protocol 2 makes it
			// little-endian, as ours does.
			b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "values.json"))
			require.NoError(t, err)
			want = string(b)
		}
		out := filepath.Join(t.TempDir(), "copy.pth")
		require.NoError(t, Save(out, openAny(t, path)))
		require.JSONEq(t, want, describe(t, openAny(t, out)))
	})
}
