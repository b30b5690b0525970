package surface

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/mask"
)

// ball adds a ball of radius mm around a centre in voxels.
func ball(v []uint8, shape [3]int, spacing, centre [3]float64, mm float64) {
	for z := range shape[0] {
		for y := range shape[1] {
			for x := range shape[2] {
				d := 0.0
				for a, i := range [3]int{z, y, x} {
					e := (float64(i) - centre[a]) * spacing[a]
					d += e * e
				}
				if d < mm*mm {
					v[(z*shape[1]+y)*shape[2]+x] = 1
				}
			}
		}
	}
}

// BenchmarkScan measures masks, surfaces and distances of label maps of 200×512×512: forty nodes,
// and one mask of the size of a body.
func BenchmarkScan(b *testing.B) {
	shape, spacing := [3]int{200, 512, 512}, [3]float64{2.5, 0.9, 0.9}
	n := shape[0] * shape[1] * shape[2]
	r, p := make([]uint8, n), make([]uint8, n)
	rng := rand.New(rand.NewPCG(1, 2))
	small := [3]int{20, 60, 60}
	for range 40 {
		at := [3]int{rng.IntN(180), rng.IntN(450), rng.IntN(450)}
		mm := 2 + 8*rng.Float64()
		for k, v := range [][]uint8{r, p} {
			cube := make([]uint8, small[0]*small[1]*small[2])
			ball(cube, small, spacing, [3]float64{10, 30, float64(30 + k)}, mm)
			for z := range small[0] {
				for y := range small[1] {
					for x := range small[2] {
						if cube[(z*small[1]+y)*small[2]+x] == 1 {
							v[((at[0]+z)*shape[1]+at[1]+y)*shape[2]+at[2]+x] = 1
						}
					}
				}
			}
		}
	}
	body := [2][]uint8{make([]uint8, n), make([]uint8, n)}
	for k := range body {
		ball(body[k], shape, spacing, [3]float64{100, 256, 256}, 220+3*float64(k))
	}
	for _, c := range []struct {
		name string
		r, p []uint8
	}{{"nodes", r, p}, {"body", body[0], body[1]}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				pairs, err := mask.NewPairs(c.r, c.p, shape, nil, []int{1})
				require.NoError(b, err)
				x, y := pairs.Of([]int{1})
				s, q := Of(x, spacing, math.MaxInt), Of(y, spacing, math.MaxInt)
				there, back := Between(s, q)
				b.ReportMetric(float64(len(there.MM)+len(back.MM)), "elements")
			}
		})
	}
}
