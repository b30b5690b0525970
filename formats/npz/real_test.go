package npz

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func realFiles(t testing.TB, patterns ...string) []string {
	var out []string
	for _, p := range patterns {
		files, err := filepath.Glob(filepath.Join("..", "..", "testdata", p))
		require.NoError(t, err)
		out = append(out, files...)
	}
	require.NotEmpty(t, out)
	return out
}

func TestNumpyFilesAreReadAndWrittenByteForByte(t *testing.T) {
	for _, path := range realFiles(t, "phantom-mini/trajectory/*.npy",
		"phantom-mini/preprocessed/*/*/*.npy") {
		a, err := OpenNpy(path)
		require.NoError(t, err)
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		var got bytes.Buffer
		require.NoError(t, WriteNpy(&got, a))
		require.Equal(t, want, got.Bytes(), path)
	}
}

func TestPreprocessedCasesAreRead(t *testing.T) {
	for _, path := range realFiles(t, "phantom-*/preprocessed/*/*/*.npz") {
		f, err := OpenNpz(path)
		require.NoError(t, err)
		require.Equal(t, []string{"data", "seg"}, f.Names())
		data, err := f.Read("data")
		require.NoError(t, err)
		seg, err := f.Read("seg")
		require.NoError(t, err)
		require.Equal(t, "<f4", data.DType)
		require.Equal(t, data.Shape[1:], seg.Shape[1:])
		labels, err := seg.Int16s()
		require.NoError(t, err)
		for _, v := range labels {
			require.True(t, v >= -1 && v <= 1)
		}
		require.NoError(t, f.Close())
	}
}
