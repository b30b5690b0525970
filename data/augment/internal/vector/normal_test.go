package vector

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFillTakesTheNumberOfEachCountersHash(t *testing.T) {
	decided, others := 0, 0
	each(t, func(t *testing.T, n int, r *rows, what string) {
		var l Layers
		for i := range l {
			l[i].Bound, l[i].Width = r.rng.Uint32N(1<<24+1), r.rng.Float32()
			if i%5 == 0 {
				l[i].Bound = []uint32{0, 1 << 24}[r.rng.IntN(2)]
			}
		}
		counter := r.rng.Uint64()
		var want []float32
		open := []int32{}
		for i := range n {
			hash := Mix(counter + uint64(i+1)*CounterStep)
			layer := l[hash%256]
			v := float32(hash>>40) * layer.Width
			if hash>>8%2 == 1 {
				v = -v
			}
			want = append(want, v)
			if uint32(hash>>40) >= layer.Bound {
				open = append(open, int32(i))
			}
		}
		dst, got := r.row(n), make([]int32, n)
		found := l.Fill(dst, counter, got)
		sameBits(t, want, dst, what)
		require.Equal(t, open, got[:found], what)
		decided, others = decided+n-found, others+found
	})
	require.Greater(t, min(decided, others), 1000)
}
