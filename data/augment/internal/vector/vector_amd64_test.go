package vector

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/cpu"
)

func TestVectorsAreUsedWhereTheProcessorHasThem(t *testing.T) {
	if !cpu.X86.HasAVX2 {
		t.Skip("needs a processor with AVX2")
	}
	v, p := make([]float32, 21), &Powers{}
	p.Set(1)
	require.Equal(t, 16, axpy(v, v, 1))
	require.Equal(t, 16, raise(v, p, 0, 1, 1))
	Plain(func() {
		require.Zero(t, axpy(v, v, 1))
		require.Zero(t, raise(v, p, 0, 1, 1))
	})
	require.Equal(t, 16, axpy(v, v, 1))
}

// An index that a mistake put beyond src is not followed in vectors; the plain form panics.
func TestResampleReadsNothingBeyondItsSource(t *testing.T) {
	if !cpu.X86.HasAVX2 {
		t.Skip("needs a processor with AVX2")
	}
	memory := []float32{100, 1, 2, 3, 100}
	index := []int32{0, 1, 2, 3, -1, math.MaxInt32, math.MinInt32, 4}
	dst := make([]float32, 8)
	Resample(dst, memory[1:4], index, index, make([]float32, 8))
	require.Equal(t, []float32{1, 2, 3, 3, 3, 3, 3, 3}, dst)
}
