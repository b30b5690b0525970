package bits

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBytesAreTheMemoryOfTheNumbers(t *testing.T) {
	s := []uint32{1, 0x01020304}
	b := Bytes(s)
	require.Len(t, b, 8)
	require.Equal(t, s[1], binary.NativeEndian.Uint32(b[4:]))
	b[0], b[1], b[2], b[3] = 7, 7, 7, 7
	require.Equal(t, uint32(0x07070707), s[0])
	require.Empty(t, Bytes([]float64(nil)))
	require.Equal(t, LittleEndian, Bytes([]int16{1})[0] == 1)
}

func TestSwapReversesEachNumber(t *testing.T) {
	for _, size := range []int{1, 2, 4, 8} {
		for n := range 10 {
			b, want := make([]byte, n*size), make([]byte, n*size)
			for i := range b {
				b[i] = byte(i*37 + 1)
				want[i/size*size+size-1-i%size] = b[i]
			}
			Swap(b, size)
			require.Equal(t, want, b, "%d numbers of %d bytes", n, size)
		}
	}
	require.Panics(t, func() { Swap(make([]byte, 6), 3) })
	require.Panics(t, func() { Swap(make([]byte, 6), 4) })
}
