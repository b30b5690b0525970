package torch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// Freed large blocks are cached for new tensors, counted, and released on demand.
func TestLargeBlocksAreUsedAgain(t *testing.T) {
	torchtest.Require(t)
	torchtest.NoLeak(t)
	require.NoError(t, torch.CPU.EmptyCache())
	before, _, kept, err := torch.CPUMemory()
	require.NoError(t, err)
	require.Zero(t, kept)
	const size = 8 << 20
	for i := range 20 {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			x := s.Full([]int64{size / 4}, float64(i), torch.Float32, torch.CPU)
			use, peak, _, err := torch.CPUMemory()
			require.NoError(t, err)
			require.GreaterOrEqual(t, use, before+size)
			require.GreaterOrEqual(t, peak, use)
			sum, err := s.Mean(x).Item()
			require.NoError(t, err)
			require.EqualValues(t, i, sum)
			return nil
		}))
		use, peak, kept, err := torch.CPUMemory()
		require.NoError(t, err)
		require.Equal(t, before, use)
		require.Less(t, peak, before+2*size, "one block at a time")
		require.GreaterOrEqual(t, kept, int64(size))
		require.Less(t, kept, int64(2*size), "the same block again and again")
	}
	require.NoError(t, torch.CPU.EmptyCache())
	_, _, kept, err = torch.CPUMemory()
	require.NoError(t, err)
	require.Zero(t, kept)
}

// Cached memory never exceeds the peak in use by much, whatever the sizes.
func TestKeptMemoryIsBounded(t *testing.T) {
	torchtest.Require(t)
	require.NoError(t, torch.CPU.EmptyCache())
	for n := int64(1); n < 200; n++ {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			s.Empty([]int64{n << 18}, torch.Uint8, torch.CPU)
			s.Empty([]int64{(200 - n) << 20}, torch.Uint8, torch.CPU)
			return s.Err()
		}))
		use, peak, kept, err := torch.CPUMemory()
		require.NoError(t, err)
		require.LessOrEqual(t, use+kept, peak+(64<<20))
	}
	require.NoError(t, torch.CPU.EmptyCache())
}

// Blocks just below and above the minimum size for caching, freed in another order than allocated.
func TestBlocksOfAllSizesSurviveEachOther(t *testing.T) {
	torchtest.Require(t)
	torchtest.NoLeak(t)
	rng := torchtest.Rand(11)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		live := map[*torch.Tensor]float64{}
		for i := range 500 {
			n := int64(1) << (8 + rng.IntN(11))
			x := s.Full([]int64{n + int64(rng.IntN(7))}, float64(i), torch.Float32, torch.CPU)
			live[x] = float64(i)
			for y, v := range live {
				if rng.IntN(3) > 0 {
					continue
				}
				first, err := s.Select(y, 0, 0).Item()
				require.NoError(t, err)
				last, err := s.Select(y, 0, -1).Item()
				require.NoError(t, err)
				require.Equal(t, []float64{v, v}, []float64{first, last})
				y.Free()
				delete(live, y)
			}
		}
		return s.Err()
	}))
}
