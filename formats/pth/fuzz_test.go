package pth

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func seeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(filepath.Join(goldenFolder, "pth", pattern))
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, path := range files {
		if b, err := os.ReadFile(path); err == nil && len(b) < 10000 {
			f.Add(b)
		}
	}
}

// checkFile reads everything in a hostile file; errors are fine, panics and huge memory are not.
func checkFile(t *testing.T, data []byte) {
	f, err := read(bytes.NewReader(data), int64(len(data)), "fuzz")
	if err != nil {
		return
	}
	_ = Walk(f.Root, func(path string, x *Tensor) error {
		require.LessOrEqual(t, x.Bytes(), int64(64*1100*len(data)+64<<20))
		_ = x.ReadInto(make([]byte, x.Bytes()))
		return nil
	})
}

func FuzzPth(f *testing.F) {
	seeds(f, "*s.pth")
	f.Fuzz(checkFile)
}

// FuzzPthPickle mutates data.pkl inside a valid container, which the checksums mostly prevent in
// FuzzPth.
func FuzzPthPickle(f *testing.F) {
	f.Add([]byte(tensorPickle(f, 4, 0, []int64{2, 2}, []int64{2, 1})))
	f.Fuzz(func(t *testing.T, pkl []byte) {
		checkFile(t, zipped(t, member{"a/data.pkl", string(pkl), 0}, member{"a/version", "3", 0},
			member{"a/data/0", "0123456789abcdef", 0}))
	})
}

func FuzzPthLegacy(f *testing.F) {
	seeds(f, "*_legacy.pth")
	f.Fuzz(checkFile)
}
