package preprocess

import (
	"fmt"
	"io"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

// benchmarkInverse exports an image of the given size from logits in slabs of eight slices; computing
// the logits is not timed.
func benchmarkInverse(b *testing.B, from, to [3]int, classes int, cfg InverseConfig) {
	cfg.Labels = &plans.Labels{AllLabels: make([]int, classes)}
	g := Grid{Shape: from, Whole: to, Current: [3]float64{1.5, 1, 1}, Original: [3]float64{1.25, 0.9, 0.9}, Transpose: [3]int{0, 1, 2},
		Resample: Options{Order: 1}}
	for i, n := range to {
		g.Box[i] = [2]int{0, n}
	}
	const count = 8
	plane := from[1] * from[2]
	data := make([]float32, classes*count*plane)
	for i := range data {
		// Smooth blobs with a little noise.
		x, y := i%from[2]/16, i/from[2]%from[1]/16
		data[i] = float32((x+y+i/(count*plane))%3-1)*3 + float32(i%7)/10
	}
	b.ReportAllocs()
	for b.Loop() {
		v, err := NewInverse(g, cfg)
		require.NoError(b, err)
		for first := 0; first < from[0]; first += count {
			n := min(count, from[0]-first)
			require.NoError(b, v.Add(volume.Slab{First: first, Count: n, Strip: [2]int{0, from[1]}, Data: data[:classes*n*plane]}))
		}
		_, err = v.Finish()
		require.NoError(b, err)
		if p := v.Probabilities(); p != nil {
			_, err := p.WriteTo(io.Discard)
			require.NoError(b, err)
		}
		require.NoError(b, v.Close())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(to[0]*to[1]*to[2]*classes), "ns/voxel/class")
}

func BenchmarkInverse(b *testing.B) {
	for _, classes := range []int{2, 20} {
		for _, c := range []struct {
			name string
			cfg  InverseConfig
		}{
			{"fast", InverseConfig{}},
			{"fast-probabilities", InverseConfig{Probabilities: b.TempDir()}},
			{"reference", InverseConfig{Reference: true}},
		} {
			if classes > 2 && c.name != "fast" {
				continue
			}
			for _, threads := range []int{1, 2} {
				c.cfg.Threads = threads
				b.Run(fmt.Sprintf("%s/classes=%d/threads=%d", c.name, classes, threads), func(b *testing.B) {
					benchmarkInverse(b, [3]int{107, 230, 230}, [3]int{128, 256, 256}, classes, c.cfg)
				})
			}
		}
	}
}
