package fingerprint

import (
	"math/rand/v2"
	"testing"

	"github.com/lntorch/lntorch/internal/mt19937"
)

// BenchmarkSampling samples one channel of a dataset of four cases: 100 million draws, on one core.
func BenchmarkSampling(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var cases [][]float32
	for range 4 {
		v := make([]float32, 60_000)
		for i := range v {
			v[i] = float32(int(rng.NormFloat64()*40 + 60))
		}
		cases = append(cases, v)
	}
	for b.Loop() {
		var samples []*sample
		for _, v := range cases {
			samples = append(samples, draw(v, samplesOfDataset/len(cases), mt19937.New(sampleSeed)))
		}
		statistics(samples, func(n int, f func(int)) {
			for i := range n {
				f(i)
			}
		})
	}
}
