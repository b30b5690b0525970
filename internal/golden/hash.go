package golden

import (
	"math"
	"strings"
)

// Hash is the integer hash with which the Python oracles (scripts/golden/stack.py) and the tests
// generate the same values without a file: u in [-0.5, 0.5) for element j of tensor p.
func Hash(p, j int) float64 {
	h := uint32(j)*2654435761 + uint32(p+1)*2246822519
	h ^= h >> 15
	h *= 2246822519
	h ^= h >> 13
	h *= 3266489917
	h ^= h >> 16
	return float64(h)/4294967296 - 0.5
}

// HashInput returns tensor p of a shape as the oracles fill inputs: p = -1 is the network's input,
// -2-i the weight of head i in their loss.
func HashInput(p int, shape []int64) []float32 {
	v := make([]float32, numel(shape))
	for j := range v {
		v[j] = float32(2 * Hash(p, j))
	}
	return v
}

// HashParameter returns parameter p of a network, by name and shape, as the oracles fill weights.
func HashParameter(p int, name string, shape []int64) []float32 {
	v := make([]float32, numel(shape))
	for j := range v {
		u := Hash(p, j)
		switch {
		case strings.HasSuffix(name, "relative_position_bias_table"):
			u = 2 * u
		case len(shape) >= 2:
			u = 2 * u * math.Sqrt(3/(float64(len(v))/float64(shape[0])))
		case strings.HasSuffix(name, "weight"):
			u = 1 + 0.5*u
		default:
			u = 0.5 * u
		}
		v[j] = float32(u)
	}
	return v
}

func numel(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}
