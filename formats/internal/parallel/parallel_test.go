package parallel

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachDoesAllOrReturnsTheFirstError(t *testing.T) {
	for _, workers := range []int{0, 1, 3, 50} {
		var sum, made atomic.Int64
		own := func() *int { made.Add(1); return new(int) }
		err := EachWith(20, workers, own, func(mine *int, i int) error {
			*mine += i // nobody else's: the race detector would see it
			sum.Add(int64(i))
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, int64(190), sum.Load())
		require.LessOrEqual(t, made.Load(), int64(20))
		err = Each(1000, workers, func(i int) error {
			sum.Add(1)
			if i >= 7 {
				return fmt.Errorf("%d", i)
			}
			return nil
		})
		require.EqualError(t, err, "7")
		require.NoError(t, Each(0, workers, func(int) error { return fmt.Errorf("none") }))
	}
}
