package preprocess

import (
	"math/rand/v2"
	"testing"

	"github.com/lntorch/lntorch/volume"
)

func benchmarkResample(b *testing.B, from, to [3]int) {
	r := rand.New(rand.NewPCG(1, 2))
	v := volume.New[int16]([4]int{1, from[0], from[1], from[2]})
	for i := range v.Data {
		v.Data[i] = int16(r.IntN(400))
	}
	table := make([]float32, 65536)
	for i := range table {
		table[i] = float32(int16(i)) / 100
	}
	t := (*[65536]float32)(table)
	s := source{from, func(dst []float32, z, y, x int) {
		row := v.Data[(z*from[1]+y)*from[2]+x:][:len(dst)]
		for i, p := range row {
			dst[i] = t[uint16(p)]
		}
	}, 0, 4}
	out := make([]float32, to[0]*to[1]*to[2])
	b.ResetTimer()
	for b.Loop() {
		resample(out, s, to, -1, Options{Order: 3}, 1)
	}
}

func BenchmarkResample(b *testing.B) {
	from, to := [3]int{40, 512, 512}, [3]int{50, 460, 460}
	benchmarkResample(b, from, to)
}
