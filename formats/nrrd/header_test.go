package nrrd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzHeader(f *testing.F) {
	names, err := filepath.Glob("../../testdata/golden/nrrd/*.n*r*")
	require.NoError(f, err)
	require.Greater(f, len(names), 300)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parse(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(h.Size), 4)
		require.LessOrEqual(t, h.bytes, len(b))
		if g, err := h.ITK(); err == nil {
			require.Len(t, g.Direction, len(h.Size)*len(h.Size))
			require.NotZero(t, g.Determinant())
		}
	})
}
