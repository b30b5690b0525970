package stats

import (
	"math"
	"slices"
	"sync"

	"github.com/lntorch/lntorch/internal/mt19937"
)

// MaxPatients is the most patients that a Bootstrap draws from.
const MaxPatients = 1 << 16

// kept is the largest number of a table of draws, and of all tables together, that is kept.
const kept = 1 << 26

// A Bootstrap draws patients with replacement, as NumPy's
// RandomState(seed).randint(0, n, (resamples, n)) does: each interval begins anew with the seed.
// Several goroutines may use it at the same time.
type Bootstrap struct {
	seed      uint32
	resamples int

	mu    sync.Mutex
	draws map[int][]uint16 // by n
	size  int              // of all of them
}

// NewBootstrap returns a Bootstrap. It panics if resamples is not positive.
func NewBootstrap(seed uint32, resamples int) *Bootstrap {
	if resamples < 1 {
		panic("stats: a bootstrap without resamples")
	}
	return &Bootstrap{seed: seed, resamples: resamples, draws: map[int][]uint16{}}
}

// Mean returns the percentile interval of the mean of x, one value for each patient: the alpha/2 and
// 1-alpha/2 percentiles of the means of the resamples. NaN for fewer than two values. It panics
// above MaxPatients.
func (b *Bootstrap) Mean(x []float64, alpha float64) (low, high float64) {
	n := len(x)
	if n < 2 {
		return math.NaN(), math.NaN()
	}
	if n > MaxPatients {
		panic("stats: a bootstrap of too many patients")
	}
	means := make([]float64, b.resamples)
	if draws := b.table(n); draws != nil {
		meansOf(means, x, draws)
	} else {
		b.drawn(n, func(at int, draws []uint16) {
			meansOf(means[at:at+len(draws)/n], x, draws)
		})
	}
	// What was selected parts the smaller ones from the larger ones, where the next is found.
	last := -1
	order := func(k int) float64 {
		switch {
		case k == last:
			return means[k]
		case k == last+1:
			return slices.Min(means[k:])
		case k < last:
			return selected(means[:last], k)
		}
		selected(means[last+1:], k-last-1)
		last = k
		return means[k]
	}
	return percentile(alpha/2, len(means), order), percentile(1-alpha/2, len(means), order)
}

// table gives the draws for n patients, nil where they are too many to be kept.
func (b *Bootstrap) table(n int) []uint16 {
	total := n * b.resamples
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.draws[n]; ok {
		return t
	}
	if total/n != b.resamples || b.size+total > kept {
		return nil
	}
	t := make([]uint16, 0, total)
	b.drawn(n, func(_ int, draws []uint16) { t = append(t, draws...) })
	b.draws[n] = t
	b.size += total
	return t
}

// drawn calls each for blocks of draws: that of the resamples from at on.
func (b *Bootstrap) drawn(n int, each func(at int, draws []uint16)) {
	source := mt19937.New(b.seed)
	rows := max(1, min(b.resamples, 1<<16/n))
	words, block := make([]uint32, rows*n), make([]uint16, rows*n)
	for at := 0; at < b.resamples; at += rows {
		k := min(rows, b.resamples-at) * n
		source.IntsN(words[:k], n)
		for i, w := range words[:k] {
			block[i] = uint16(w)
		}
		each(at, block[:k])
	}
}

// short is room for the patients of most studies.
type short [256]float64

// meansOf writes the mean of x at each row of draws. Four rows at a time, since a sum waits for its
// last addition.
func meansOf(means, x []float64, draws []uint16) {
	n := len(x)
	r := 0
	if n <= len(short{}) {
		var of short // its length is a power of two, so that no place need be checked
		copy(of[:], x)
		const last = uint16(len(of) - 1)
		for ; r+4 <= len(means); r += 4 {
			d0 := draws[r*n : (r+1)*n]
			d1, d2, d3 := draws[(r+1)*n:][:len(d0)], draws[(r+2)*n:][:len(d0)], draws[(r+3)*n:][:len(d0)]
			var s0, s1, s2, s3 float64
			for i := range d0 {
				s0 += of[d0[i]&last]
				s1 += of[d1[i]&last]
				s2 += of[d2[i]&last]
				s3 += of[d3[i]&last]
			}
			means[r], means[r+1] = s0/float64(n), s1/float64(n)
			means[r+2], means[r+3] = s2/float64(n), s3/float64(n)
		}
	}
	for ; r+4 <= len(means); r += 4 {
		d0, d1 := draws[r*n:(r+1)*n], draws[(r+1)*n:(r+2)*n]
		d2, d3 := draws[(r+2)*n:(r+3)*n], draws[(r+3)*n:(r+4)*n]
		var s0, s1, s2, s3 float64
		for i := range n {
			s0 += x[d0[i]]
			s1 += x[d1[i]]
			s2 += x[d2[i]]
			s3 += x[d3[i]]
		}
		means[r], means[r+1] = s0/float64(n), s1/float64(n)
		means[r+2], means[r+3] = s2/float64(n), s3/float64(n)
	}
	for ; r < len(means); r++ {
		sum := 0.0
		for _, i := range draws[r*n : (r+1)*n] {
			sum += x[i]
		}
		means[r] = sum / float64(n)
	}
}

// selected returns the k-th smallest value, from 0, and reorders x (Hoare's quickselect).
func selected(x []float64, k int) float64 {
	low, high := 0, len(x)-1
	for low < high {
		pivot := median3(x[low], x[low+(high-low)/2], x[high])
		i, j := low, high
		for i <= j {
			for x[i] < pivot {
				i++
			}
			for x[j] > pivot {
				j--
			}
			if i <= j {
				x[i], x[j] = x[j], x[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			high = j
		case k >= i:
			low = i
		default:
			return x[k]
		}
	}
	return x[k]
}

func median3(a, b, c float64) float64 { return max(min(a, b), min(max(a, b), c)) }
