package vector

import (
	"math"

	"golang.org/x/sys/cpu"
)

// Each of these computes the blocks of 8 at the beginning and returns how many voxels those are: 0
// without AVX2.

var enabled = cpu.X86.HasAVX2

// Plain runs f without vectors, for tests that compare both. Nothing else may run meanwhile.
func Plain(f func()) {
	was := enabled
	enabled = false
	defer func() { enabled = was }()
	f()
}

// blocks returns how many of n voxels are computed in vectors.
func blocks(n int) int {
	if !enabled {
		return 0
	}
	return n &^ 7
}

func axpy(y, x []float32, a float32) int {
	n := blocks(len(y))
	if n > 0 {
		axpyAVX2(y[:n], x[:n], a)
	}
	return n
}

func scale(v []float32, a float32) int {
	n := blocks(len(v))
	if n > 0 {
		scaleAVX2(v[:n], a)
	}
	return n
}

func affine(v []float32, shift, factor, offset, low, high float32) int {
	n := blocks(len(v))
	if n > 0 {
		affineAVX2(v[:n], shift, factor, offset, low, high)
	}
	return n
}

func between(dst, a, b []float32, part float32) int {
	n := blocks(len(dst))
	if n > 0 {
		betweenAVX2(dst[:n], a[:n], b[:n], part)
	}
	return n
}

func resample(dst, src []float32, left, right []int32, part []float32) int {
	n := blocks(len(dst))
	if n > 0 && len(src) > 0 && len(src) <= 1<<31-1 {
		resampleAVX2(dst[:n], src, left[:n], right[:n], part[:n])
		return n
	}
	return 0
}

func filter(dst, src []float32, offsets []int, taps []float32) int {
	n := blocks(len(dst))
	if n > 0 {
		filterAVX2(dst[:n], src, offsets, taps)
	}
	return n
}

func replace(v []int16, from, to int16) int {
	n := blocks(len(v)) &^ 15 // 16 labels fill a vector
	if n > 0 {
		replaceAVX2(v[:n], from, to)
	}
	return n
}

func exchangeReversed[T float32 | int16](a, b []T) int {
	n := blocks(len(a))
	switch a := any(a).(type) {
	case []float32:
		if n > 0 {
			exchangeReversed32(a[:n], any(b).([]float32)[len(b)-n:])
		}
	case []int16:
		if n &^= 15; n > 0 {
			exchangeReversed16(a[:n], any(b).([]int16)[len(b)-n:])
		}
	}
	return n
}

func add(s *Statistics, v []float32) int {
	n := blocks(len(v))
	if n > 0 {
		addAVX2(s, v[:n])
	}
	return n
}

// raise stops before a block in which a number is neither 0 nor in the table.
func raise(v []float32, p *Powers, low, divisor, width float32) int {
	if n := blocks(len(v)); n > 0 {
		return raiseAVX2(v[:n], p, low, divisor, width)
	}
	return 0
}

// cells are those of a block of 8 voxels, as the assembly wants them.
type cells struct {
	even, odd    [3][4]int64 // coordinates of voxels 0, 1, 4, 5 and 2, 3, 6, 7
	step         [3]int64    // from block to block
	width, plane int64
}

func trilinear(out, data []float32, l *Line) int {
	n := blocks(len(out))
	// the assembly follows indices of 32 bits unchecked
	if n == 0 || !l.inside(n, len(data)) || l.last() > math.MaxInt32 {
		return 0
	}
	c := cells{width: int64(l.Width), plane: int64(l.Plane)}
	for axis, step := range l.Step {
		o := l.Origin[axis]
		c.even[axis] = [4]int64{o, o + step, o + 4*step, o + 5*step}
		c.odd[axis] = [4]int64{o + 2*step, o + 3*step, o + 6*step, o + 7*step}
		c.step[axis] = 8 * step
	}
	trilinearAVX2(out[:n], data, &c)
	return n
}

// uniform needs no vectors, but pairs of labels in one register.
func uniform(out, data []int16, l *Line, mixed []int32) (done, found int) {
	if !enabled || len(out) == 0 || !l.inside(len(out), len(data)) {
		return 0, 0
	}
	return len(out), uniformPairs(out, data, l, mixed)
}

func fill(dst []float32, l *Layers, counter uint64, open []int32) (done, found int) {
	n := blocks(len(dst))
	if n == 0 {
		return 0, 0
	}
	var counters [8]uint64 // of voxels 0, 1, 4, 5, 2, 3, 6, 7
	for i, voxel := range [8]uint64{0, 1, 4, 5, 2, 3, 6, 7} {
		counters[i] = counter + (voxel+1)*CounterStep
	}
	return n, fillAVX2(dst[:n], l, &counters, open)
}

// The assembly: slices have the length of the first one, a multiple of 8 above 0, or are longer.

//go:noescape
func axpyAVX2(y, x []float32, a float32)

//go:noescape
func scaleAVX2(v []float32, a float32)

//go:noescape
func affineAVX2(v []float32, shift, factor, offset, low, high float32)

//go:noescape
func betweenAVX2(dst, a, b []float32, part float32)

//go:noescape
func resampleAVX2(dst, src []float32, left, right []int32, part []float32)

//go:noescape
func filterAVX2(dst, src []float32, offsets []int, taps []float32)

//go:noescape
func replaceAVX2(v []int16, from, to int16)

//go:noescape
func exchangeReversed32(a, b []float32)

//go:noescape
func exchangeReversed16(a, b []int16)

//go:noescape
func addAVX2(s *Statistics, v []float32)

//go:noescape
func raiseAVX2(v []float32, p *Powers, low, divisor, width float32) (done int)

//go:noescape
func trilinearAVX2(out, data []float32, c *cells)

//go:noescape
func uniformPairs(out, data []int16, l *Line, mixed []int32) (found int)

//go:noescape
func fillAVX2(dst []float32, l *Layers, counters *[8]uint64, open []int32) (found int)
