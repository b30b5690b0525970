package pth

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpenReadsRealCheckpoints(t *testing.T) {
	for _, path := range realCheckpoints(t) {
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
		require.NoError(t, f.Close())
		require.ErrorContains(t, tensors[0].ReadInto(dsts[0]), "closed")
	}
}
