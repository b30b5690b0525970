package bench

import "math"

// What the model of scaling assumes. Source of the bucket: c10d's limit, torch/dist.DefaultBucket.
const (
	hiding     = 0.6      // part of a step beside which gradients are exchanged: most of the backward pass
	lastBucket = 25 << 20 // bytes; the last bucket is full when the backward pass is over
)

// scaling works out, for ranks whose all-reduce moves bandwidth bytes a second, how long they exchange the
// gradients of a step, and how much of their time they compute. seconds are those of steps of one rank: their
// median and their spread.
//
//	exchange(b) = 2(W-1)/W · b / bandwidth                      a ring
//	exposed     = exchange(last bucket) + max(0, exchange(gradients) - 0.6 step)
//	efficiency  = step / (step + exposed + sqrt(2 ln W) · σ)     the slowest of W ranks
func scaling(ranks int, bandwidth float64, seconds []float64, gradients int64) (exchange, efficiency float64) {
	n := len(seconds)
	step := (seconds[(n-1)/2] + seconds[n/2]) / 2 // they are sorted
	mean, spread := 0.0, 0.0
	for _, s := range seconds {
		mean += s / float64(n)
	}
	for _, s := range seconds {
		spread += (s - mean) * (s - mean) / float64(n)
	}
	w := float64(ranks)
	ring := func(bytes float64) float64 { return 2 * (w - 1) / w * bytes / bandwidth }
	exchange = ring(float64(gradients))
	exposed := ring(math.Min(float64(gradients), lastBucket)) + math.Max(0, exchange-hiding*step)
	return exchange, step / (step + exposed + math.Sqrt(2*math.Log(w)*spread))
}
