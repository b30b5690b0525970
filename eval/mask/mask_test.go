package mask_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/mask"
)

// in reports whether a voxel of the volume is in a mask.
func in(m *mask.Mask, z, y, x int) bool {
	at := [3]int{z - m.Origin[0], y - m.Origin[1], x - m.Origin[2]}
	for a := range 3 {
		if at[a] < 0 || at[a] >= m.Shape[a] {
			return false
		}
	}
	return m.Row(at[0], at[1])[at[2]/64]>>(at[2]%64)&1 == 1
}

func TestPairsHoldWhatIsScored(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	for range 300 {
		shape := [3]int{1 + rng.IntN(5), 1 + rng.IntN(5), 1 + rng.IntN(200)}
		n := shape[0] * shape[1] * shape[2]
		draw := func() []int16 {
			v := make([]int16, n)
			share := rng.Float64()
			for i := range v {
				if rng.Float64() < share {
					v[i] = int16(rng.IntN(5))
				} else if i > 0 {
					v[i] = v[i-1]
				}
			}
			return v
		}
		r, p := draw(), draw()
		labels := [][]int{{1}, {2, 3}, {1, 40000, 3}, {9}, {0}, {2, 0}}[rng.IntN(6)]
		var ignore *int
		if rng.IntN(2) == 0 {
			ignore = new(int)
			*ignore = 4
		}
		pairs, err := mask.NewPairs(r, p, shape, ignore, labels)
		require.NoError(t, err)
		a, b := pairs.Of(labels)
		var voxels [2]int64
		shared := int64(0)
		for i := range n {
			z, y, x := i/shape[2]/shape[1], i/shape[2]%shape[1], i%shape[2]
			known := ignore == nil || int(r[i]) != *ignore
			want := [2]bool{known && slices.Contains(labels, int(r[i])),
				known && slices.Contains(labels, int(p[i]))}
			require.Equal(t, want, [2]bool{in(a, z, y, x), in(b, z, y, x)})
			for k := range want {
				if want[k] {
					voxels[k]++
				}
			}
			if want[0] && want[1] {
				shared++
			}
		}
		require.Equal(t, voxels, [2]int64{a.Voxels(), b.Voxels()})
		require.Equal(t, shared, mask.Shared(a, b))

		// Runs are the row again, and as long as can be.
		for z := range a.Shape[0] {
			for y := range a.Shape[1] {
				again := mask.New([3]int{}, [3]int{1, 1, a.Shape[2]})
				last := -1
				mask.Runs(a.Row(z, y), func(from, to int) {
					require.Less(t, last, from)
					require.Less(t, from, to)
					again.Set(0, 0, from, to)
					last = to
				})
				require.Equal(t, a.Row(z, y), again.Row(0, 0))
			}
		}
	}
}

// Labels that nobody asks for take no memory, however many there are.
func TestPairsHoldOnlyWhatIsAskedFor(t *testing.T) {
	shape := [3]int{2, 300, 500}
	ramp := make([]int32, 300_000)
	for i := range ramp {
		ramp[i] = int32(i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	pairs, err := mask.NewPairs(ramp, ramp, shape, nil, []int{7, 1 << 30})
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
	a, b := pairs.Of([]int{7})
	require.Equal(t, [3]int{0, 0, 7}, a.Origin)
	require.Equal(t, [2]int64{1, 1}, [2]int64{a.Voxels(), b.Voxels()})
	a, _ = pairs.Of([]int{1 << 30})
	require.Zero(t, a.Voxels())
	require.PanicsWithValue(t, "mask: label 8 is none of those of NewPairs", func() { pairs.Of([]int{7, 8}) })
}

func TestPairsRefuseMapsThatDoNotFillTheShape(t *testing.T) {
	for _, shape := range [][3]int{{1, 2, 3}, {0, 2, 3}, {-1, -1, 6}, {1, 1, 5}} {
		_, err := mask.NewPairs(make([]uint8, 5), make([]uint8, 6), shape, nil, nil)
		require.Error(t, err, shape)
	}
}
