package vector

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// randomLine is a line of n voxels whose cells lie in a small volume, some in its last cells.
func randomLine(rng *rand.Rand, n int) *Line {
	const one = 1 << 32
	l := &Line{}
	defer func() { // the box may be a part of a volume
		l.Width = l.Size[2] + rng.IntN(3)
		l.Plane = l.Width * (l.Size[1] + rng.IntN(3))
	}()
	for axis := range 3 {
		l.Size[axis] = 2 + rng.IntN(12)
		end := int64(l.Size[axis]-1) * one // of the cells
		first, last := rng.Int64N(end), rng.Int64N(end)
		switch rng.IntN(4) {
		case 0:
			first, last = 0, end-1
		case 1:
			first &^= one - 1 // no fraction
			last = first
		}
		l.Origin[axis] = first
		if n > 1 {
			l.Step[axis] = (last - first) / int64(n-1)
		}
	}
	return l
}

// cell returns the index of a voxel's lower corner and its fractions along z, y and x.
func (l *Line) cell(i int) (at int, part [3]float32) {
	for axis := range 3 {
		q := l.Origin[axis] + int64(i)*l.Step[axis]
		lower := q >> 32
		at += int(lower) * [3]int{l.Plane, l.Width, 1}[axis]
		part[axis] = float32(float64(q-lower<<32) / (1 << 32)) // exact before it is rounded
	}
	return at, part
}

func TestTrilinearIsItsFormula(t *testing.T) {
	each(t, func(t *testing.T, n int, r *rows, what string) {
		l := randomLine(r.rng, n)
		width, plane := l.Width, l.Plane
		out, data := r.row(n), r.row(l.last()+1)
		var want []float32
		move := func(a, b, part float32) float32 { return a + float32((b-a)*part) }
		for i := range out {
			at, part := l.cell(i)
			row := func(at int) float32 { return move(data[at], data[at+1], part[2]) }
			want = append(want, move(move(row(at), row(at+width), part[1]),
				move(row(at+plane), row(at+plane+width), part[1]), part[0]))
		}
		Trilinear(out, data, l)
		sameBits(t, want, out, what)
	})
}

func TestUniformLeavesTheCellsOfSeveralLabels(t *testing.T) {
	kinds := [2]int{}
	each(t, func(t *testing.T, n int, r *rows, what string) {
		l := randomLine(r.rng, n)
		width, plane := l.Width, l.Plane
		data := make([]int16, l.last()+1)
		for i := range data { // one corner in twenty is another
			data[i] = []int16{-1, 255, 256}[max(r.rng.IntN(40)-37, 0)]
		}
		from := r.rng.IntN(5)
		whole := slices.Repeat([]int16{77}, from+n+5)
		want, others := slices.Clone(whole), []int32{}
		for i := range n {
			at, _ := l.cell(i)
			same := true
			for _, corner := range []int{1, width, width + 1, plane, plane + 1, plane + width,
				plane + width + 1} {
				same = same && data[at+corner] == data[at]
			}
			if same {
				want[from+i] = data[at]
				kinds[0]++
			} else {
				others = append(others, int32(i))
				kinds[1]++
			}
		}
		mixed := make([]int32, n)
		found := Uniform(whole[from:from+n], data, l, mixed)
		require.Equal(t, others, mixed[:found], what)
		require.Equal(t, want, whole, what)
	})
	require.Greater(t, min(kinds[0], kinds[1]), 1000)
}

// A line that leaves the volume is a mistake of the caller: it must not read other memory.
func TestLinesThatLeaveTheVolumePanic(t *testing.T) {
	const one = 1 << 32
	for name, change := range map[string]func(l *Line){
		"before":         func(l *Line) { l.Origin[1] = -1 },
		"behind":         func(l *Line) { l.Origin[0] = 3 * one },
		"in the end":     func(l *Line) { l.Step[0] = one / 8 },
		"far":            func(l *Line) { l.Origin[0] = math.MaxInt64 / 2 },
		"larger than it": func(l *Line) { l.Size[0], l.Origin[0] = 5, 7*one/2 },
	} {
		data, labels := make([]float32, 4*4*40), make([]int16, 4*4*40)
		l := &Line{Size: [3]int{4, 4, 40}, Width: 40, Plane: 160, Origin: [3]int64{one, one, 0},
			Step: [3]int64{0, 0, one}}
		out, uniform, mixed := make([]float32, 32), make([]int16, 32), make([]int32, 32)
		require.NotPanics(t, func() { Trilinear(out, data, l) })
		require.NotPanics(t, func() { Uniform(uniform, labels, l, mixed) })
		change(l)
		require.False(t, l.inside(len(out), len(data)), name)
		if name == "before" { // the row before is in memory
			continue
		}
		require.Panics(t, func() { Trilinear(out, data, l) }, name)
		require.Panics(t, func() { Uniform(uniform, labels, l, mixed) }, name)
	}
}
