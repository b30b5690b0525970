package volume

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConvertRefusesWhatTheTypeDoesNotHold(t *testing.T) {
	for _, test := range []struct {
		from  Pixels
		to    string
		round bool
		want  Pixels
		err   string
	}{
		{Slice[int16]{-1000, 3071}, "float32", false, Slice[float32]{-1000, 3071}, ""},
		{Slice[int16]{0, 255}, "uint8", false, Slice[uint8]{0, 255}, ""},
		{Slice[int16]{0, 256}, "uint8", false, nil, "pixel 1 is 256, which uint8 does not hold"},
		{Slice[int16]{-1}, "uint64", false, nil, "pixel 0 is -1, which uint64 does not hold"},
		{Slice[uint64]{math.MaxUint64}, "int64", false, nil, "which int64 does not hold"},
		{Slice[int64]{1<<24 + 1}, "float32", false, nil, "which float32 does not hold"},
		{Slice[int64]{1<<24 + 2}, "float32", false, Slice[float32]{1<<24 + 2}, ""},
		{Slice[uint8]{200}, "int8", false, nil, "which int8 does not hold"},
		{Slice[float32]{1, 2}, "int8", false, Slice[int8]{1, 2}, ""},
		{Slice[float32]{1, 2.5, 3.5, -0.5}, "int8", false, nil,
			"pixel 1 is 2.5, which int8 does not hold"},
		{Slice[float32]{1, 2.5, 3.5, -0.5}, "int8", true, Slice[int8]{1, 2, 4, 0}, ""},
		{Slice[float32]{127.4}, "int8", true, Slice[int8]{127}, ""},
		{Slice[float32]{127.6}, "int8", true, nil, "beyond the range of int8"},
		{Slice[float64]{float64(math.NaN())}, "int16", true, nil,
			"pixel 0 is NaN, beyond the range of int16"},
		{Slice[float64]{math.Inf(-1)}, "int16", true, nil, "beyond the range"},
		{Slice[float64]{1 << 63}, "int64", true, nil, "beyond the range of int64"},
		{Slice[float64]{1 << 63}, "uint64", true, Slice[uint64]{1 << 63}, ""},
		{Slice[float64]{1e39}, "float32", false, nil, "beyond the range of float32"},
		{Slice[float64]{0.1, math.Inf(1)}, "float32", false,
			Slice[float32]{0.1, float32(math.Inf(1))}, ""},
		{Slice[int16]{1}, "int", false, nil, `pixels of type "int": expected uint8`},
	} {
		got, err := Convert(test.from, test.to, test.round)
		if test.err != "" {
			require.ErrorContains(t, err, test.err)
			require.Nil(t, got)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, test.want, got)
	}
	same := Slice[int16]{1}
	got, err := Convert(same, "int16", false)
	require.NoError(t, err)
	require.Same(t, &same[0], &got.(Slice[int16])[0])
}

func TestCastSharesMemoryOnlyWithItsType(t *testing.T) {
	p := Slice[float32]{1, 2}
	im := &Image{Shape: [4]int{1, 1, 1, 2}, Pixels: p}
	require.Same(t, &p[0], &Cast[float32](im.Pixels)[0])
	im.Pixels = Slice[int64]{1<<24 + 1, -3} // ties round to even
	require.Equal(t, []float32{1 << 24, -3}, Cast[float32](im.Pixels))
}

func TestEveryTypeHasItsName(t *testing.T) {
	for _, name := range []string{"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64",
		"int64", "float32", "float64"} {
		im := Image{Pixels: MakePixels(name, 3)}
		require.Equal(t, name, im.Pixels.Type())
		converted, err := Convert(Slice[int16]{1, 2, 3}, name, false)
		require.NoError(t, err)
		require.IsType(t, im.Pixels, converted)
		least, most := Range(converted)
		require.Equal(t, [2]float64{1, 3}, [2]float64{least, most})
		require.Equal(t, []float64{1, 2, 3}, Cast[float64](converted))
	}
	require.Nil(t, MakePixels("bool", 1))
	least, most := Range(Slice[float32]{float32(math.NaN()), 2, float32(math.NaN()), 1})
	require.Equal(t, [2]float64{1, 2}, [2]float64{least, most})
	least, most = Range(Slice[float32]{})
	require.Equal(t, [2]float64{0, -1}, [2]float64{least, most})
}
