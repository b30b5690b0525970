package dgst

import (
	"hash/fnv"
	"math/bits"

	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// Rows defines a row of a weight, in which K entries are selected.
type Rows string

// Rows. Axis0: an index of axis 0, as released, which is an output channel of a convolution or
// linear layer and an input channel of a transposed convolution. Output: an output channel of all
// three. Kernel: the kernel between one input and one output channel; linear layers, which have no
// kernels, keep their rows of axis 0.
const (
	Axis0  Rows = "axis0"
	Output Rows = "output"
	Kernel Rows = "kernel"
)

// layout is a view of a weight as rows of equal width. In the weight of a transposed convolution
// (in, out, kernel…) an output channel is an index of axis 1; swapped means that the rows are
// those.
type layout struct {
	rows, width int64
	kernel      int64 // entries per index of axes 0 and 1
	swapped     bool
}

func rowsOf(r Rows, name string, shape []int64) layout {
	l := layout{rows: shape[0], kernel: 1}
	for _, d := range shape[2:] {
		l.kernel *= d
	}
	l.width = shape[1] * l.kernel
	switch {
	case r == Kernel && len(shape) > 2:
		l.rows, l.width = shape[0]*shape[1], l.kernel
	case r == Output && models.IsTransposed(name):
		l.rows, l.width, l.swapped = shape[1], shape[0]*l.kernel, true
	}
	return l
}

// largest returns the flat indices into g of the k entries of largest |g| in each row; ties go to
// the lowest index.
func (l layout) largest(s *torch.Scope, g *torch.Tensor, k int64) *torch.Tensor {
	if !l.swapped {
		return s.Reshape(s.TopKRows(s.Reshape(g, l.rows, l.width), k), -1)
	}
	index := s.TopKRows(s.Reshape(s.Transpose(g, 0, 1), l.rows, l.width), k)
	if s.Err() != nil {
		return nil
	}
	flat, err := torch.Slice[int64](s.To(index, torch.Int64, torch.CPU))
	if err != nil {
		s.Fail(err)
		return nil
	}
	for i, at := range flat {
		flat[i] = l.flat(at/l.width, at%l.width)
	}
	return indices(s, flat, g.Device())
}

// flat converts an index within a row to the flat index in the weight.
func (l layout) flat(row, at int64) int64 {
	if l.swapped {
		return (at/l.kernel*l.rows+row)*l.kernel + at%l.kernel
	}
	return row*l.width + at
}

// draw returns the flat indices of k distinct entries of each row, drawn uniformly. The result
// depends only on the arguments: row r uses the SplitMix64 sequence seeded with mix(mix(mix(seed,
// step), FNV-1a of name), r) and Floyd's algorithm: for j = width-k … width-1 it draws t from 0 … j
// and selects t, or j if t is already selected.
func (l layout) draw(seed uint64, step int64, name string, k int64) []int64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	start := mix(mix(seed, uint64(step)), h.Sum64())
	k = min(k, l.width)
	out := make([]int64, 0, l.rows*k)
	for r := range l.rows {
		state, chosen := mix(start, uint64(r)), out[len(out):len(out):cap(out)]
		for i := range k {
			j := l.width - k + i
			high, _ := bits.Mul64(mix(state, uint64(i)), uint64(j+1))
			at := l.flat(r, int64(high))
			for _, c := range chosen {
				if c == at {
					at = l.flat(r, j)
					break
				}
			}
			chosen = append(chosen, at)
		}
		out = out[:len(out)+int(k)]
	}
	return out
}

// mix returns element index of the SplitMix64 sequence with the given seed.
func mix(seed, index uint64) uint64 {
	z := seed + (index+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// indices copies flat to d as an int64 tensor, as masks and optimizer need it.
func indices(s *torch.Scope, flat []int64, d torch.Device) *torch.Tensor {
	return s.To(torch.FromSlice(s, flat, int64(len(flat))), torch.Int64, d)
}
