package series

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Four cells at a time become what one cell after the other becomes, and where a value is beyond
// int16 they stay as they are.
func TestFourCellsAtATimeAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(14, 1))
	outcomes := map[bool]int{}
	for range 10000 {
		bits := 1 + random.IntN(16)
		shift := random.IntN(17 - bits)
		f := &File{Bits: bits, shift: shift, Signed: random.IntN(2) == 1}
		s := &Slice{File: f, slope: 1, intercept: float64(random.IntN(5)-2) * 1024}
		switch random.IntN(4) {
		case 0:
			s.intercept = float64(random.IntN(1<<18) - 1<<17)
		case 1: // the values' ends are those of int16, or one beyond
			s.intercept = float64([]int{-32768, 32767, -32767, 32768}[random.IntN(4)] -
				random.IntN(1<<bits))
		}
		most := 1 << (1 + random.IntN(16))
		cells := make([]int16, 1+random.IntN(9))
		for i := range cells {
			cells[i] = int16(random.IntN(most) << random.IntN(2))
			if random.IntN(20) == 0 {
				cells[i] = int16([]int{-32768, 32767, -1, 0}[random.IntN(4)])
			}
		}
		c := s.scale()
		want, got := slices.Clone(cells), slices.Clone(cells)
		fits := typeOf(want, &c) == fitsInt16
		if fits {
			convert(want, want, &c)
		}
		require.Equal(t, fits, c.toInt16(got), "%+v %v", c, cells)
		require.Equal(t, want, got, "%+v %v", c, cells)
		outcomes[fits]++
	}
	require.Greater(t, min(outcomes[false], outcomes[true]), 1500)
	for _, c := range []scale{{slope: 2}, {slope: 1, intercept: 0.5}} {
		require.False(t, c.toInt16([]int16{1, 2, 3, 4}))
	}
}
