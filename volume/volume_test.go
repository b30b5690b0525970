package volume

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func numbered(shape [4]int) *Volume[int] {
	v := New[int](shape)
	for i := range v.Data {
		v.Data[i] = i + 1
	}
	return v
}

func (v *Volume[T]) at(c, z, y, x int) T {
	return v.Data[((c*v.Shape[1]+z)*v.Shape[2]+y)*v.Shape[3]+x]
}

func TestCropPadsWhereTheBoxLeavesTheVolume(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		v := numbered([4]int{1 + rng.IntN(2), 1 + rng.IntN(4), 1 + rng.IntN(4), 1 + rng.IntN(4)})
		dst := New[int]([4]int{v.Shape[0], 1 + rng.IntN(6), 1 + rng.IntN(6), 1 + rng.IntN(6)})
		start := [3]int{rng.IntN(14) - 7, rng.IntN(14) - 7, rng.IntN(14) - 7}
		v.Crop(dst, start, -1)
		for c := range dst.Shape[0] {
			for z := range dst.Shape[1] {
				for y := range dst.Shape[2] {
					for x := range dst.Shape[3] {
						p := [3]int{z + start[0], y + start[1], x + start[2]}
						want := -1
						if p[0] >= 0 && p[0] < v.Shape[1] && p[1] >= 0 && p[1] < v.Shape[2] && p[2] >= 0 && p[2] < v.Shape[3] {
							want = v.at(c, p[0], p[1], p[2])
						}
						require.Equal(t, want, dst.at(c, z, y, x), "shape %v start %v", v.Shape,
							start)
					}
				}
			}
		}
	}
}

func TestResizeUsesTheMemoryAgain(t *testing.T) {
	v := New[int](ShapeOf(2, []int{3, 4, 5}))
	require.Equal(t, [4]int{2, 3, 4, 5}, v.Shape)
	first := &v.Data[0]
	v.Resize(ShapeOf(1, []int{4, 5}))
	require.Equal(t, [4]int{1, 1, 4, 5}, v.Shape)
	require.Len(t, v.Data, 20)
	v.Resize([4]int{2, 3, 4, 5})
	require.Same(t, first, &v.Data[0])
	v.Resize([4]int{2, 3, 4, 6})
	require.Len(t, v.Data, 144)
}

func TestMismatchedShapesPanic(t *testing.T) {
	v := numbered([4]int{1, 2, 2, 2})
	require.PanicsWithValue(t, "volume: crop of 1 channels into 2",
		func() { v.Crop(New[int]([4]int{2, 1, 1, 1}), [3]int{}, 0) })
}
