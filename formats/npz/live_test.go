package npz_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/stretchr/testify/require"
)

const corpus = "../../testdata/golden/npz"

// numpy reads what the writer writes.
func TestLiveNumpyReadsOurArchives(t *testing.T) {
	python := golden.Python(t)
	for _, o := range []npz.Options{{}, {Deflate: true}, {Deflate: true, Threads: 1, Comment: "x"},
		{Deflate: true, Threads: 3}} {
		path := filepath.Join(t.TempDir(), "a.npz")
		w, err := npz.CreateWith(path, o)
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(corpus, "[^r]*.npy")) // without refused_*.npy
		require.NoError(t, err)
		require.Greater(t, len(files), 30)
		for _, file := range files {
			a, err := npz.OpenNpy(file)
			require.NoError(t, err)
			require.NoError(t, w.Add(strings.TrimSuffix(filepath.Base(file), ".npy"), a))
		}
		require.NoError(t, w.Close())
		out, err := exec.Command(python, "-c", `
import sys, numpy as np
z = np.load(sys.argv[1])
for n in z.files:
    a, b = z[n], np.load(sys.argv[2] + "/" + n + ".npy")
    assert a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides and a.tobytes() == b.tobytes(), n
assert z.zip.testzip() is None
print(len(z.files))
`, path, corpus).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, strconv.Itoa(len(files)), strings.TrimSpace(string(out)))
	}
}
