package augment

import (
	"math"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// A noise field is white, standard normal, and a function of its seed and the index of the voxel
// alone, so that any part of it can be made by itself. Each value is a ziggurat of 256 layers
// (Marsaglia and Tsang 2000) over a hash of (seed, index, attempt).

const (
	fieldTail = 3.6541528853610088 // where the lowest layer of 256 begins its tail
	fieldArea = 0.00492867323399   // of each layer
)

// fieldTables holds the layers.
type fieldTables struct {
	layers vector.Layers
	edge   [256]float64 // height of the density at the layer's edge
}

var fieldLayers = newFieldTables()

func newFieldTables() *fieldTables {
	density := func(x float64) float64 { return math.Exp(-0.5 * x * x) }
	const scale = 1 << 24
	t := &fieldTables{}
	x := fieldTail
	q := fieldArea / density(x)
	layer := &t.layers
	layer[0].Bound, layer[0].Width, t.edge[0] = uint32(x/q*scale), float32(q/scale), 1
	layer[255].Width, t.edge[255] = float32(x/scale), density(x)
	for i := 254; i >= 1; i-- {
		next := math.Sqrt(-2 * math.Log(fieldArea/x+density(x)))
		layer[i+1].Bound, x = uint32(next/x*scale), next
		layer[i].Width, t.edge[i] = float32(x/scale), density(x)
	}
	return t
}

// fillField writes the values of the field of a seed from index on.
func fillField(dst []float32, seed uint64, index int) {
	counter := vector.Mix(seed+vector.CounterStep) + uint64(index)*vector.CounterStep
	var open [256]int32
	for len(dst) > 0 {
		part := dst[:min(len(dst), len(open))]
		for _, i := range open[:fieldLayers.layers.Fill(part, counter, open[:len(part)])] {
			part[i] = fieldLayers.decide(counter + uint64(i+1)*vector.CounterStep)
		}
		counter += uint64(len(part)) * vector.CounterStep
		dst = dst[len(part):]
	}
}

// decide returns the value of a counter whose first number is beyond the layer's bound: that number
// or one of others that are drawn. The sign is that of the first one's hash.
func (t *fieldTables) decide(counter uint64) float32 {
	h := vector.Mix(counter)
	v, _ := t.layers.Take(h)
	v = t.rest(counter, h&255, max(v, -v))
	if h&0x100 != 0 {
		v = -v
	}
	return v
}

// rest decides about a value beyond the layer's bound, and draws others until one is taken.
func (t *fieldTables) rest(counter, layer uint64, v float32) float32 {
	uniform := func(attempt *uint64) float64 { // (0, 1)
		*attempt++
		return (float64(vector.Mix(counter^vector.Mix(*attempt))>>11) + 0.5) / (1 << 53)
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
		h := vector.Mix(counter ^ vector.Mix(attempt))
		layer = h & 255
		next, below := t.layers.Take(h &^ 0x100)
		if v = next; below {
			return v
		}
	}
}
