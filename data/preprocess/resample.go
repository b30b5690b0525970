package preprocess

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/lntorch/lntorch/volume"
)

// Options are the keyword arguments of nnU-Net's resample_data_or_seg_to_shape, as in the plans.
type Options struct {
	Order          int   // 0, 1 or 3
	OrderZ         int   // along a separately resampled axis
	ForceSeparateZ *bool // nil: depends on the spacing
}

// anisotropy is nnU-Net's ANISO_THRESHOLD.
const anisotropy = 3

// NewShape returns the shape of an image after resampling from spacing old to spacing new.
// Source: nnU-Net 2.5.1, default_resampling.py, compute_new_shape.
func NewShape(shape [3]int, old, new [3]float64) [3]int {
	for i := range shape {
		shape[i] = int(math.RoundToEven(float64(old[i]/new[i]) * float64(shape[i])))
	}
	return shape
}

// SeparateAxis returns the axis that is resampled separately from the two others, or -1.
// Source: nnU-Net 2.5.1, default_resampling.py, determine_do_sep_z_and_axis.
func SeparateAxis(force *bool, current, new [3]float64) int {
	coarse := func(s [3]float64) int {
		// Two or three axes with the coarsest spacing: none is separate.
		top, axis := max(s[0], s[1], s[2]), -1
		for i, v := range s {
			if top/v == 1 {
				if axis >= 0 {
					return -1
				}
				axis = i
			}
		}
		return axis
	}
	separate := func(s [3]float64) bool {
		return max(s[0], s[1], s[2])/min(s[0], s[1], s[2]) > anisotropy
	}
	switch {
	case force != nil && !*force:
		return -1
	case force != nil || separate(current):
		return coarse(current)
	case separate(new):
		return coarse(new)
	}
	return -1
}

// check returns an error for options that are not supported.
func (o Options) check(labels bool) error {
	if o.Order != 0 && o.Order != 1 && (o.Order != 3 || labels) {
		return fmt.Errorf("preprocess: resampling of order %d: orders 0, 1 and (images) 3 are "+
			"supported; change order in the plans' resampling_fn kwargs", o.Order)
	}
	if o.OrderZ != 0 && o.OrderZ != 1 && o.OrderZ != 3 || labels && o.OrderZ != 0 {
		return fmt.Errorf("preprocess: resampling with order_z %d: 0 and (images) 1 and 3 are "+
			"supported; change order_z in the plans' resampling_fn kwargs", o.OrderZ)
	}
	return nil
}

// A source provides the voxels of one channel: load fills dst with those of row (z, y) from x on.
type source struct {
	shape  [3]int
	load   func(dst []float32, z, y, x int)
	lo, hi float32 // range of the channel
}

// Resample resamples every channel of an image to the given shape as nnU-Net does images and
// logits: cubic or linear interpolation, clipped to the range of the channel (of the slice, if an
// axis is separate). current and new are the spacings, which decide whether an axis is separate. If
// the shape is unchanged, v itself is returned.
// Source: nnU-Net 2.5.1, default_resampling.py, resample_data_or_seg_to_shape.
func Resample(v *volume.Volume[float32], shape [3]int, current, new [3]float64, o Options,
	threads int) (*volume.Volume[float32], error) {
	if v.Spatial() == shape {
		return v, nil
	}
	if err := o.check(false); err != nil {
		return nil, err
	}
	out := volume.New[float32]([4]int{v.Shape[0], shape[0], shape[1], shape[2]})
	n := v.Spatial()
	voxels, made := n[0]*n[1]*n[2], shape[0]*shape[1]*shape[2]
	for c := range v.Shape[0] {
		data := v.Data[c*voxels:][:voxels]
		lo, hi := extremes(data)
		load := func(dst []float32, z, y, x int) { copy(dst, data[(z*n[1]+y)*n[2]+x:]) }
		separate := SeparateAxis(o.ForceSeparateZ, current, new)
		resample(out.Data[c*made:][:made], source{n, load, lo, hi}, shape, separate, o, threads)
	}
	return out, nil
}

// extremes returns the range of the values, NaN ignored.
func extremes(v []float32) (lo, hi float32) {
	lo, hi = float32(math.Inf(1)), float32(math.Inf(-1))
	for _, x := range v {
		if x < lo {
			lo = x
		}
		if x > hi {
			hi = x
		}
	}
	return lo, hi
}

// resample computes out, of the given shape, from s. separate is the separate axis, or -1.
func resample(out []float32, s source, shape [3]int, separate int, o Options, threads int) {
	if separate <= 0 {
		newZoom(s, shape, separate == 0, o).run(out, threads)
		return
	}
	// Move the coarse axis first, and back at the end.
	perm := coarseFirst(separate)
	n := s.shape
	whole := make([]float32, n[0]*n[1]*n[2])
	for z := range n[0] {
		for y := range n[1] {
			s.load(whole[(z*n[1]+y)*n[2]:][:n[2]], z, y, 0)
		}
	}
	turned := (&volume.Volume[float32]{Data: whole, Shape: [4]int{1, n[0], n[1],
		n[2]}}).Transpose(perm).Data
	to := [3]int{shape[perm[0]], shape[perm[1]], shape[perm[2]]}
	from := [3]int{n[perm[0]], n[perm[1]], n[perm[2]]}
	made := volume.New[float32]([4]int{1, to[0], to[1], to[2]})
	t := source{from,
		func(dst []float32, z, y, x int) { copy(dst, turned[(z*from[1]+y)*from[2]+x:]) }, s.lo,
		s.hi}
	resample(made.Data, t, to, 0, o, threads)
	copy(out, made.Transpose(inverse(perm)).Data)
}

// coarseFirst is the permutation that moves the given axis to the front.
func coarseFirst(axis int) [3]int {
	p := [3]int{axis, 0, 1}
	if axis == 1 {
		p[2] = 2
	}
	return p
}

// inverse returns the inverse of permutation p.
func inverse(p [3]int) (q [3]int) {
	for i, v := range p {
		q[v] = i
	}
	return q
}

// zoom resamples one channel in one pass per axis. Interpolation is linear, so the order of passes
// is free: the first axis comes first if it shrinks and last if it grows. Each pass works on rows
// that are contiguous and short enough for the cache.
type zoom struct {
	s       source
	shape   [3]int
	apart   bool // the first axis is separate: the others are resampled slice by slice
	orderZ  int
	z, y, x *spline
}

// spline is an axis with the gain of the prefilter multiplied into its weights.
type spline struct {
	*axis
	w [][4]float64
}

func newSpline(n, m, order int) *spline {
	a := newAxis(n, m, order)
	s := &spline{a, make([][4]float64, m)}
	g := 1.0
	if order == 3 {
		g = gain
	}
	for k, w := range a.w {
		for i := range w {
			s.w[k][i] = w[i] * g
		}
	}
	return s
}

func newZoom(s source, shape [3]int, apart bool, o Options) *zoom {
	z := &zoom{s: s, shape: shape, apart: apart, orderZ: o.OrderZ}
	orderZ := o.Order
	if apart {
		orderZ = o.OrderZ
	}
	z.z = newSpline(s.shape[0], shape[0], orderZ)
	z.y = newSpline(s.shape[1], shape[1], o.Order)
	z.x = newSpline(s.shape[2], shape[2], o.Order)
	return z
}

// margin is the number of samples kept beyond either end of an axis.
const margin = 2

// stripe is the row length that a pass works on at a time, for an axis of n samples: about 256 KiB
// in total.
func stripe(n int) int {
	return min(max(32<<10/(n+2*margin)/32*32, 32), 1024)
}

// each runs work(0…n-1) on several goroutines; each goroutine creates its own with worker.
func each(n, threads int, worker func() func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(max(threads, 1), n) {
		wg.Go(func() {
			work := worker()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	wg.Wait()
}

func (z *zoom) run(out []float32, threads int) {
	lo, hi := float64(z.s.lo), float64(z.s.hi)
	load := func(dst []float64, zi, y, x int, buf []float32) {
		buf = buf[:len(dst)]
		z.s.load(buf, zi, y, x)
		for i, v := range buf {
			dst[i] = float64(v)
		}
	}
	n, m := z.s.shape, z.shape
	plane := m[1] * m[2]
	switch {
	case z.apart && z.orderZ == 0:
		// Only slices that are nearest to an output are computed.
		index := nearest(n[0], m[0])
		var first []int
		for k, i := range index {
			if k == 0 || index[k-1] != i {
				first = append(first, k)
			}
		}
		each(len(first), threads, func() func(int) {
			w := z.newPlane()
			return func(i int) {
				k := first[i]
				dst := out[k*plane:][:plane]
				get := func(dst []float64, y, x int) { load(dst, index[k], y, x, w.buf) }
				l, h := w.run(get, nil)
				clip(dst, w.out, l, h)
				for k++; k < m[0] && index[k] == index[k-1]; k++ {
					copy(out[k*plane:][:plane], dst)
				}
			}
		})
	case z.z.identity():
		each(n[0], threads, func() func(int) {
			w := z.newPlane()
			return func(k int) {
				l, h := w.run(func(dst []float64, y, x int) { load(dst, k, y, x, w.buf) }, nil)
				if !z.apart {
					l, h = lo, hi
				}
				clip(out[k*plane:][:plane], w.out, l, h)
			}
		})
	case m[0] < n[0] && !z.apart:
		mid := make([]float64, m[0]*n[1]*n[2])
		each(n[1], threads, func() func(int) {
			w := z.newColumns()
			return func(y int) {
				for x := 0; x < n[2]; x += w.width {
					width := min(w.width, n[2]-x)
					w.run(width, func(row []float64, zi int) []float64 {
						load(row, zi, y, x, w.buf)
						return row
					}, func(k int) []float64 {
						return mid[(k*n[1]+y)*n[2]+x:][:width]
					}, nil)
				}
			}
		})
		each(m[0], threads, func() func(int) {
			w := z.newPlane()
			return func(k int) {
				w.run(func(dst []float64, y, x int) { copy(dst, mid[(k*n[1]+y)*n[2]+x:]) }, nil)
				clip(out[k*plane:][:plane], w.out, lo, hi)
			}
		})
	default:
		mid := make([]float64, n[0]*plane)
		each(n[0], threads, func() func(int) {
			w := z.newPlane()
			return func(k int) {
				dst := mid[k*plane:][:plane]
				l, h := w.run(func(dst []float64, y, x int) { load(dst, k, y, x, w.buf) }, dst)
				if z.apart {
					for i, v := range dst {
						dst[i] = min(max(v, l), h)
					}
				}
			}
		})
		l, h := lo, hi
		if z.apart { // map_coordinates does not clip
			l, h = math.Inf(-1), math.Inf(1)
		}
		width := stripe(n[0])
		each((plane+width-1)/width, threads, func() func(int) {
			w := z.newColumns()
			return func(i int) {
				x := i * width
				width := min(width, plane-x)
				w.run(width, func(_ []float64, zi int) []float64 {
					return mid[zi*plane+x:][:width]
				}, nil, func(row []float64, k int) {
					clip(out[k*plane+x:][:width], row, l, h)
				})
			}
		})
	}
}

// columns is the workspace of a pass along the first axis.
type columns struct {
	z     *zoom
	width int
	rows  rows
	line  []float64
	buf   []float32
}

func (z *zoom) newColumns() *columns {
	width := stripe(z.s.shape[0])
	return &columns{
		z, width, newRows(z.s.shape[0], width), make([]float64, width), make([]float32, width),
	}
}

// run interpolates width columns. get returns a row of samples, in the buffer it is given or in its
// own; each output row is written to the row that to returns, or passed to done.
func (w *columns) run(width int, get func(row []float64, z int) []float64,
	to func(k int) []float64, done func(row []float64, k int)) {
	a := w.z.z
	w.rows.width = width
	w.rows.filter(a.axis, get)
	for k := range a.m {
		row := w.line[:width]
		if to != nil {
			row = to(k)
		}
		w.rows.tap(row, a, k)
		if done != nil {
			done(row, k)
		}
	}
}

// rows are the samples of an axis with margins: row i+margin holds sample i of width lines.
type rows struct {
	width int
	data  []float64
	last  []float64
}

func newRows(n, width int) rows {
	return rows{width, make([]float64, (n+2*margin)*width), make([]float64, width)}
}

func (r *rows) at(i int) []float64 {
	return r.data[(i+margin)*r.width:][:r.width:r.width]
}

// filter loads the samples and converts them to spline coefficients (without gain); for linear
// interpolation it only loads them. Beyond both ends the axis is extended infinitely by its
// outermost sample. scipy pads with twelve such samples and then reflects, which is equivalent: the
// filter's memory of what lies beyond is 1e-14.
func (r *rows) filter(a *axis, get func(row []float64, i int) []float64) {
	if a.order != 3 {
		for i := range a.n {
			row := r.at(i)
			if got := get(row, i); &got[0] != &row[0] {
				copy(row, got)
			}
		}
		copy(r.at(-1), r.at(0))
		copy(r.at(a.n), r.at(a.n-1))
		return
	}
	z := pole
	head := 1 / (1 - pole)
	n := a.n
	for i := range n {
		row := r.at(i)
		v := get(row, i)
		if i == n-1 {
			copy(r.last[:r.width], v)
		}
		if i == 0 {
			for j := range row {
				row[j] = v[j] * head
			}
			copy(r.at(-1), row)
			copy(r.at(-2), row)
			continue
		}
		recur(row, v, r.at(i-1), z)
	}
	// With S the filter's response to the last sample repeated infinitely and d the remaining
	// transient, the sum over all that follows is S/(1-z) + d/(1-z²).
	end, more, most := r.at(n-1), r.at(n), r.at(n+1)
	far := 1 / (1 - pole*pole)
	for j, v := range r.last[:r.width] {
		s := v * head
		d := (end[j] - s) * far
		s *= head
		end[j], more[j], most[j] = s+d, s+z*d, s+z*z*d
	}
	for i := n - 2; i >= -margin; i-- {
		recur(r.at(i), r.at(i), r.at(i+1), z)
	}
}

// tap computes output k into dst.
func (r *rows) tap(dst []float64, a *spline, k int) {
	base := a.base[k]
	switch a.order {
	case 0:
		copy(dst, r.at(base))
	case 1:
		taps2(dst, r.at(base), r.at(base+1), &a.w[k])
	default:
		taps4(dst, r.at(base), r.at(base+1), r.at(base+2), r.at(base+3), &a.w[k])
	}
}

// plane is the workspace for one slice.
type plane struct {
	z     *zoom
	lines int       // rows y per step of the pass along x
	xrows rows      // [x][y]
	group []float64 // eight rows: of the image as input, of the pass along x as output
	yrows rows      // [y][x']
	out   []float64 // [y'][x']
	buf   []float32
}

func (z *zoom) newPlane() *plane {
	n, m := z.s.shape, z.shape
	lines := min(stripe(n[2]), (n[1]+7)/8*8)
	return &plane{
		z: z, lines: lines, xrows: newRows(n[2], lines), group: make([]float64, 8*max(n[2], lines)),
		yrows: newRows(n[1], m[2]), out: make([]float64, m[1]*m[2]), buf: make([]float32, n[2]),
	}
}

// run resamples a slice into out, or w.out if that is nil, and returns its range.
func (w *plane) run(load func(dst []float64, y, x int), out []float64) (lo, hi float64) {
	if out == nil {
		out = w.out
	}
	x, y := w.z.x, w.z.y
	lo, hi = math.Inf(1), math.Inf(-1)
	watch := w.z.apart
	scan := func(row []float64) {
		if !watch {
			return
		}
		for _, v := range row {
			if v < lo {
				lo = v
			}
			if v > hi {
				hi = v
			}
		}
	}
	if x.identity() {
		for i := range y.n {
			row := w.yrows.at(i)
			load(row, i, 0)
			scan(row)
		}
	} else {
		for y0 := 0; y0 < y.n; y0 += w.lines {
			lines := min(w.lines, y.n-y0)
			wide := (lines + 7) / 8 * 8
			w.xrows.width = wide
			for g := 0; g < lines; g += 8 {
				for i := range 8 {
					row := w.group[i*x.n:][:x.n]
					load(row, min(y0+g+i, y.n-1), 0) // the last row is repeated beyond the end
					scan(row)
				}
				flip(w.xrows.data[margin*wide+g:], w.group, wide, x.n, x.n)
			}
			w.xrows.filter(x.axis, func(row []float64, _ int) []float64 { return row })
			for k0 := 0; k0 < x.m; k0 += 8 {
				many := min(8, x.m-k0)
				for i := range many {
					w.xrows.tap(w.group[i*wide:][:wide], x, k0+i)
				}
				if many == 8 && lines == wide {
					flip(w.yrows.data[(y0+margin)*x.m+k0:], w.group, x.m, wide, wide)
					continue
				}
				for i := range many {
					for j := range lines {
						w.yrows.data[(y0+j+margin)*x.m+k0+i] = w.group[i*wide+j]
					}
				}
			}
		}
	}
	if y.identity() {
		copy(out, w.yrows.data[margin*x.m:][:y.n*x.m])
		return lo, hi
	}
	w.yrows.filter(y.axis, func(row []float64, _ int) []float64 { return row })
	for k := range y.m {
		w.yrows.tap(out[k*x.m:][:x.m], y, k)
	}
	return lo, hi
}
