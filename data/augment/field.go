package augment

import "math"

// A noise field is white, standard normal, and a function of its seed and the index of the voxel
// alone, so that any part of it can be made by itself. Each value is a ziggurat of 256 layers
// (Marsaglia and Tsang 2000) over a hash of (seed, index, attempt).

// fieldMix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func fieldMix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const (
	fieldStep = 0x9e3779b97f4a7c15 // of SplitMix64's counter
	fieldTail = 3.6541528853610088 // where the lowest layer of 256 begins its tail
	fieldArea = 0.00492867323399   // of each layer
)

// fieldTables holds the layers: a value is j·width, at once where j is below the bound.
type fieldTables struct {
	bound [256]uint32 // of j, 24 bits
	width [256]float32
	edge  [256]float64 // height of the density at the layer's edge
}

var fieldLayers = newFieldTables()

func newFieldTables() *fieldTables {
	density := func(x float64) float64 { return math.Exp(-0.5 * x * x) }
	const scale = 1 << 24
	t := &fieldTables{}
	x := fieldTail
	q := fieldArea / density(x)
	t.bound[0], t.width[0], t.edge[0] = uint32(x/q*scale), float32(q/scale), 1
	t.width[255], t.edge[255] = float32(x/scale), density(x)
	for i := 254; i >= 1; i-- {
		next := math.Sqrt(-2 * math.Log(fieldArea/x+density(x)))
		t.bound[i+1], x = uint32(next/x*scale), next
		t.width[i], t.edge[i] = float32(x/scale), density(x)
	}
	return t
}

// fillField writes the values of the field of a seed from index on.
func fillField(dst []float32, seed uint64, index int) {
	key := fieldMix(seed + fieldStep)
	layers := fieldLayers
	counter := key + uint64(index)*fieldStep
	for i := range dst {
		counter += fieldStep
		h := fieldMix(counter)
		layer, j := h&255, uint32(h>>40)
		v := float32(j) * layers.width[layer]
		if j >= layers.bound[layer] {
			v = layers.rest(counter, layer, v)
		}
		// the sign is bit 8 of the hash
		dst[i] = math.Float32frombits(math.Float32bits(v) | uint32(h>>8&1)<<31)
	}
}

// rest decides about a value beyond the layer's bound, and draws others until one is taken.
func (t *fieldTables) rest(counter, layer uint64, v float32) float32 {
	uniform := func(attempt *uint64) float64 { // (0, 1)
		*attempt++
		return (float64(fieldMix(counter^fieldMix(*attempt))>>11) + 0.5) / (1 << 53)
	}
	attempt := uint64(0)
	for {
		if layer == 0 {
			for {
				x := -math.Log(uniform(&attempt)) / fieldTail
				if y := -math.Log(uniform(&attempt)); y+y >= x*x {
					return float32(fieldTail + x)
				}
			}
		}
		above, x := t.edge[layer], float64(v)
		if above+float64(uniform(&attempt)*(t.edge[layer-1]-above)) < math.Exp(-0.5*x*x) {
			return v
		}
		attempt++
		h := fieldMix(counter ^ fieldMix(attempt))
		j := uint32(h >> 40)
		layer = h & 255
		v = float32(j) * t.width[layer]
		if j < t.bound[layer] {
			return v
		}
	}
}
