package pth

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpenReadsRealCheckpoints(t *testing.T) {
	for _, pattern := range []string{"phantom-mini/results/*/*/*/*.pth", "phantom-mini/trajectory/*.pth", "phantom-demo/foundation/*/*/*.pth"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, path := range files {
			f, err := Open(path)
			require.NoError(t, err)
			var tensors []*Tensor
			var dsts [][]byte
			require.NoError(t, Walk(f.Root, func(_ string, x *Tensor) error {
				tensors = append(tensors, x)
				dsts = append(dsts, make([]byte, x.Bytes()))
				return nil
			}))
			require.Greater(t, len(tensors), 50)
			require.NoError(t, ReadAll(tensors, dsts, 0))
			require.NoError(t, f.Verify(0))
			t.Log(path, len(tensors), f.Globals)
			require.NoError(t, f.Close())
			require.ErrorContains(t, tensors[0].ReadInto(dsts[0]), "closed")
		}
	}
}
