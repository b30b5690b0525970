package mt19937

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDrawsAgreeWithNumpy compares with testdata/golden/splits.json, written by
// scripts/golden/splits.py.
func TestDrawsAgreeWithNumpy(t *testing.T) {
	data, err := os.ReadFile("../../testdata/golden/splits.json")
	require.NoError(t, err)
	var g struct {
		Random []struct {
			Seed               uint32
			Words              []uint32
			Shuffle            []int
			N, K               int
			With, Without, Int []int
			After              uint32 // the next word after all draws: no word was drawn in excess
		}
	}
	require.NoError(t, json.Unmarshal(data, &g))
	require.NotEmpty(t, g.Random)
	for _, c := range g.Random {
		s := New(c.Seed)
		for _, want := range c.Words {
			require.Equal(t, want, s.Uint32())
		}
		require.Equal(t, c.Shuffle, s.Permutation(len(c.Shuffle)))
		require.Equal(t, c.With, s.Choice(c.N, c.K))
		require.Equal(t, c.Without, s.Permutation(c.N)[:c.K])
		for i, want := range c.Int {
			require.Equal(t, want, s.IntN(1<<min(i, 32)))
		}
		require.Equal(t, c.After, s.Uint32())
	}
}

func TestDrawsInBulkAreTheSame(t *testing.T) {
	for _, n := range []int{1, 2, 3, 1000, 1024, 1025, 1 << 20, 1<<31 + 5, 1 << 32} {
		bulk, single := New(7), New(7)
		for _, k := range []int{1, 0, 5, 623, 624, 3000} {
			dst := make([]uint32, k)
			bulk.IntsN(dst, n)
			for i := range dst {
				require.Equal(t, single.IntN(n), int(dst[i]))
			}
			require.Equal(t, single.Uint32(), bulk.Uint32(),
				"n %d: %d draws took another number of words", n, k)
		}
	}
}

func TestImpossibleRangesPanic(t *testing.T) {
	require.Panics(t, func() { New(1).IntN(0) })
	require.Panics(t, func() { New(1).IntN(1<<32 + 1) })
	require.Panics(t, func() { New(1).IntsN(nil, 0) })
}

// numpy.random.RandomState(1234).choice(20, 10, replace=False)
func TestSampleIsTheStartOfAPermutation(t *testing.T) {
	require.Equal(t, []uint32{3, 13, 2, 16, 14, 5, 4, 0, 8, 18}, New(1234).Sample(20, 10))
	a, b := New(7), New(7)
	whole := a.Permutation(1000)
	for i, v := range b.Sample(1000, 1000) {
		require.EqualValues(t, whole[i], v)
	}
	require.Equal(t, a.Uint32(), b.Uint32(), "the draws after it")
}
