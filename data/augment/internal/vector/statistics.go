package vector

import "math"

// Statistics of voxels that are added row by row. Sums are float64, of differences to the first
// voxel: one for each of 8 neighbours, so that vectors add in the same order. The zero value has no
// voxels.
type Statistics struct {
	n           int
	first       float32
	low, high   [8]float32
	sum, square [8]float64
}

// Add adds a row. All but the last have a multiple of 8 voxels.
func (s *Statistics) Add(v []float32) {
	if len(v) == 0 {
		return
	}
	if s.n == 0 {
		s.first = v[0]
		for i := range s.low {
			s.low[i], s.high[i] = s.first, s.first
		}
	}
	s.n += len(v)
	v = v[add(s, v):]
	for ; len(v) > 0; v = v[min(len(v), 8):] {
		for i, x := range v[:min(len(v), 8)] {
			if x < s.low[i] {
				s.low[i] = x
			}
			if x > s.high[i] {
				s.high[i] = x
			}
			e := float64(x - s.first)
			s.sum[i] += e
			s.square[i] += float64(e * e)
		}
	}
}

// Range returns the smallest and the largest voxel.
func (s *Statistics) Range() (low, high float32) {
	low, high = s.low[0], s.high[0]
	for i := range s.low {
		low, high = min(low, s.low[i]), max(high, s.high[i])
	}
	return low, high
}

// Moments returns the mean and the standard deviation, of all voxels, not of a sample.
func (s *Statistics) Moments() (mean, deviation float64) {
	n := float64(s.n)
	shift := eight(&s.sum) / n
	variance := eight(&s.square)/n - float64(shift*shift)
	return float64(s.first) + shift, math.Sqrt(max(variance, 0))
}

func eight(v *[8]float64) float64 {
	return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]))
}
