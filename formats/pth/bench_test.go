package pth

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/stretchr/testify/require"
)

// benchmarkTree is a state dict of 120 tensors, 238 MiB, the size of a full-size nnU-Net with its
// momentum buffers.
func benchmarkTree(b *testing.B) (root *pickle.OrderedDict, size int64) {
	root = &pickle.OrderedDict{}
	for i := range 120 {
		n := int64(238<<20) / 120 / 4
		s, err := NewStorage(Float32, make([]byte, 4*n))
		require.NoError(b, err)
		x, err := NewTensor(s, 0, []int64{n}, nil)
		require.NoError(b, err)
		root.Set(fmt.Sprintf("layer.%d.weight", i), x)
		size += x.Bytes()
	}
	return root, size
}

// BenchmarkOpenAndRead opens a checkpoint and reads every tensor into preallocated memory.
func BenchmarkOpenAndRead(b *testing.B) {
	root, size := benchmarkTree(b)
	path := filepath.Join(b.TempDir(), "big.pth")
	require.NoError(b, Save(path, root))
	var dsts [][]byte
	for _, x := range root.All() {
		dsts = append(dsts, make([]byte, x.(*Tensor).Bytes()))
	}
	b.SetBytes(size)
	for b.Loop() {
		f, err := Open(path)
		require.NoError(b, err)
		var tensors []*Tensor
		require.NoError(b,
			Walk(f.Root,
				func(_ string, x *Tensor) error { tensors = append(tensors, x); return nil }))
		require.NoError(b, ReadAll(tensors, dsts, 0))
		require.NoError(b, f.Close())
	}
}

// BenchmarkOpen reads the structure only.
func BenchmarkOpen(b *testing.B) {
	path := realCheckpoints(b)[0]
	for b.Loop() {
		f, err := Open(path)
		require.NoError(b, err)
		require.NoError(b, f.Close())
	}
}

func BenchmarkSave(b *testing.B) {
	root, size := benchmarkTree(b)
	path := filepath.Join(b.TempDir(), "big.pth")
	b.SetBytes(size)
	for b.Loop() {
		require.NoError(b, Save(path, root))
	}
}
