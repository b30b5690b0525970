package fingerprint

import (
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/mt19937"
)

const (
	// Foreground values drawn in total. Source: num_foreground_voxels_for_intensitystats, 10e7.
	samplesOfDataset = 100_000_000
	// Seed of the generator, the same for each case. Source: collect_foreground_intensities.
	sampleSeed = 1234
)

// sample is one case's contribution to the statistics of one channel: n values, drawn with
// replacement from its foreground.
type sample struct {
	n      int
	values []float32      // of all foreground voxels, or the draws, whichever are fewer
	drawn  bool           // values are the draws, in order
	source mt19937.Source // before the draws
	counts []counted      // the distinct values drawn, ascending
}

// counted is a value and the number of times it was drawn.
type counted struct {
	value float32
	n     uint32
}

// draw draws n times from the foreground values of a channel and counts them. The state of the
// generator carries over to the next channel.
func draw(foreground []float32, n int, source *mt19937.Source) *sample {
	s := &sample{n: n, values: foreground, source: *source}
	if len(foreground) == 0 {
		s.n = 0
		return s
	}
	if s.drawn = n < len(foreground); s.drawn {
		s.values = make([]float32, 0, n)
	}
	hits := make([]uint32, len(foreground))
	index := make([]uint32, min(buffered, n))
	for left := n; left > 0; left -= len(index) {
		index = index[:min(len(index), left)]
		source.IntsN(index, len(foreground))
		for _, i := range index {
			hits[i]++
		}
		if s.drawn {
			for _, i := range index {
				s.values = append(s.values, foreground[i])
			}
		}
	}
	s.counts = count(foreground, hits)
	return s
}

// count sorts the values that were drawn and merges equal ones.
func count(values []float32, hits []uint32) []counted {
	keys := make([]uint64, 0, len(values))
	for i, v := range values {
		if hits[i] > 0 {
			keys = append(keys, uint64(orderOf(v))<<32|uint64(hits[i]))
		}
	}
	slices.Sort(keys)
	distinct := 0
	for i, k := range keys {
		if i == 0 || k>>32 != keys[i-1]>>32 {
			distinct++
		}
	}
	out := make([]counted, 0, distinct)
	for i, k := range keys {
		if i == 0 || k>>32 != keys[i-1]>>32 {
			out = append(out, counted{value: valueOf(uint32(k >> 32))})
		}
		out[len(out)-1].n += uint32(k)
	}
	return out
}

// orderOf maps floats to integers in the same order, valueOf back. -0 becomes 0, which is equal.
func orderOf(v float32) uint32 {
	b := math.Float32bits(v + 0)
	if v == 0 {
		b = 0
	}
	if b>>31 != 0 {
		return ^b
	}
	return b | 1<<31
}

func valueOf(o uint32) float32 {
	if o>>31 != 0 {
		return math.Float32frombits(o &^ (1 << 31))
	}
	return math.Float32frombits(^o)
}

// float is the type that the statistics are computed in.
type float interface{ float32 | float64 }

// reader yields the drawn values again, in order.
type reader[F float] struct {
	s      *sample
	source mt19937.Source
	left   int       // not yet drawn
	change func([]F) // applied to the values when they are drawn
	index  []uint32
	buffer []F
	ready  []F // the part of buffer that was not yet returned
}

func newReader[F float](s *sample, change func([]F)) *reader[F] {
	return &reader[F]{
		s: s, source: s.source, left: s.n, change: change,
		index: make([]uint32, buffered), buffer: make([]F, 2*buffered),
	}
}

// next returns the next n values, at most buffered of them. They are valid until the next call.
func (r *reader[F]) next(n int) []F {
	if len(r.ready) < n {
		rest := copy(r.buffer, r.ready)
		k := min(buffered, r.left)
		fresh := r.buffer[rest : rest+k]
		if s := r.s; s.drawn {
			for i, v := range s.values[s.n-r.left:][:k] {
				fresh[i] = F(v)
			}
		} else {
			index := r.index[:k]
			r.source.IntsN(index, len(s.values))
			for i, at := range index {
				fresh[i] = F(s.values[at])
			}
		}
		r.change(fresh)
		r.left -= k
		r.ready = r.buffer[:rest+k]
	}
	v := r.ready[:n]
	r.ready = r.ready[n:]
	return v
}

// statistics computes nnU-Net's statistics of a channel, bit for bit: numpy's mean, std and
// percentiles of the concatenation of all draws. run calls its argument for 0…n-1, possibly in
// parallel.
func statistics(samples []*sample, run func(n int, f func(int))) plans.Intensity {
	// Compat: a case without foreground is an empty list, whose float64 makes numpy compute in
	// float64.
	some := slices.DeleteFunc(slices.Clone(samples), func(s *sample) bool { return s.n == 0 })
	if len(some) < len(samples) {
		return statisticsIn[float64](some, run)
	}
	return statisticsIn[float32](some, run)
}

func statisticsIn[F float](samples []*sample, run func(n int, f func(int))) plans.Intensity {
	total := 0
	for _, s := range samples {
		total += s.n
	}
	p := percentiles[F](samples, total, 0.5, 50, 99.5)
	out := plans.Intensity{
		Percentile005: p[0], Median: p[1], Percentile995: p[2],
		Min: math.Inf(1), Max: math.Inf(-1),
	}
	for _, s := range samples {
		out.Min = min(out.Min, float64(s.counts[0].value))
		out.Max = max(out.Max, float64(s.counts[len(s.counts)-1].value))
	}
	all := sum(samples, total, run, func([]F) {})
	out.Mean = float64(F(float64(all) / float64(total)))
	mean := all / F(total) // np.std divides in the array's type, np.mean does not
	squares := sum(samples, total, run, func(v []F) {
		for i := range v {
			d := v[i] - mean
			v[i] = d * d
		}
	})
	out.Std = float64(F(math.Sqrt(float64(F(float64(squares) / float64(total))))))
	return out
}

// percentiles are numpy's of all draws, with linear interpolation: the difference of neighbours is
// in F, the rest in float64.
func percentiles[F float](samples []*sample, total int, q ...float64) []float64 {
	table := unite(samples)
	out := make([]float64, len(q))
	for i, q := range q {
		at := float64(total-1) * (q / 100)
		low := int(at)
		t := at - float64(low)
		a := valueAt(table, low)
		b := valueAt(table, min(low+1, total-1))
		if d := float64(F(b) - F(a)); t < 0.5 {
			out[i] = float64(a) + float64(d*t)
		} else {
			out[i] = float64(b) - float64(d*(1-t))
		}
	}
	return out
}

// unite merges the sorted counts of the cases.
func unite(samples []*sample) []counted {
	tables := make([][]counted, len(samples))
	for i, s := range samples {
		tables[i] = s.counts
	}
	for len(tables) > 1 {
		var merged [][]counted
		for pair := range slices.Chunk(tables, 2) {
			if len(pair) == 1 {
				merged = append(merged, pair[0])
				continue
			}
			merged = append(merged, merge(pair[0], pair[1]))
		}
		tables = merged
	}
	return tables[0]
}

func merge(a, b []counted) []counted {
	out := make([]counted, 0, max(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].value < b[0].value:
			out, a = append(out, a[0]), a[1:]
		case a[0].value > b[0].value:
			out, b = append(out, b[0]), b[1:]
		default: // the sum is at most samplesOfDataset
			out, a, b = append(out, counted{a[0].value, a[0].n + b[0].n}), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// valueAt returns element i of the sorted draws.
func valueAt(table []counted, i int) float32 {
	for _, c := range table {
		if i -= int(c.n); i < 0 {
			return c.value
		}
	}
	return table[len(table)-1].value
}
