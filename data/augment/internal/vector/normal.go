package vector

import "math"

// Mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func Mix(x uint64) uint64 {
	x = (x ^ x>>30) * mixFirst
	x = (x ^ x>>27) * mixSecond
	return x ^ x>>31
}

const (
	mixFirst  = 0xbf58476d1ce4e5b9
	mixSecond = 0x94d049bb133111eb
)

// CounterStep is that of SplitMix64's counter.
const CounterStep = 0x9e3779b97f4a7c15

// Layers are those of a ziggurat (Marsaglia and Tsang 2000). Of a hash, bits 0 to 7 choose the layer,
// bit 8 is the sign, and the upper 24 bits are a number: below the layer's bound it is the result,
// times the layer's width.
type Layers [256]struct {
	Bound uint32
	Width float32
}

// Fill sets voxel i to the number of the hash of counter + (i+1)·CounterStep. The indices of those
// whose number is not below the bound, so that it is not decided yet, are written to open, and how
// many they are is returned. open is as long as dst.
func (l *Layers) Fill(dst []float32, counter uint64, open []int32) int {
	open = open[:len(dst)]
	n, found := fill(dst, l, counter, open)
	counter += uint64(n) * CounterStep
	for i := n; i < len(dst); i++ {
		counter += CounterStep
		v, below := l.Take(Mix(counter))
		dst[i] = v
		if !below {
			open[found] = int32(i)
			found++
		}
	}
	return found
}

// Take returns the number of a hash, and whether it is below the bound.
func (l *Layers) Take(hash uint64) (v float32, below bool) {
	j, layer := uint32(hash>>40), &l[hash&255]
	v = float32(j) * layer.Width // not negative
	sign := uint32(hash>>8&1) << 31
	return math.Float32frombits(math.Float32bits(v) | sign), j < layer.Bound
}
