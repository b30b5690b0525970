package preprocess

import (
	"math"

	"github.com/lntorch/lntorch/volume"
)

// blockRows is the number of rows that a goroutine computes at a time.
const blockRows = 16

// rowMaker is the workspace of one goroutine, for the outputs of one slab.
type rowMaker struct {
	v       *Inverse
	s       *volume.Slab
	a, b, c *taps
	width   int // rows of the slab across
	blend   []float32
	wide    []float64    // like blend, for Reference
	corner  [4][]float32 // the rows around an output: two of the slice before, two of the next
	best    []float32
	labels  []uint16
	heads   [][]float32 // (heads, row): where a row needs all classes at once
	sums    []float32
	made    []float32 // (heads, rows, row): probabilities of a block, or of one row
	raw     []byte    // of a block
}

func newRowMaker(v *Inverse, s *volume.Slab) *rowMaker {
	w := &rowMaker{v: v, s: s, width: v.strip[1] - v.strip[0]}
	w.a, w.b, w.c = v.tables[v.axes[0]], v.tables[v.axes[1]], v.tables[v.axes[2]]
	w.best, w.labels = make([]float32, w.c.m), make([]uint16, w.c.m)
	if v.cfg.Reference {
		w.wide = make([]float64, w.c.m)
	} else {
		w.blend = make([]float32, w.c.n)
	}
	rows := 0
	switch {
	case v.probs != nil:
		rows = blockRows
		w.raw = make([]byte, 4*rows*w.c.m)
	case v.cfg.Reference:
		rows = 1
	}
	w.made = make([]float32, v.heads*rows*w.c.m)
	w.heads = make([][]float32, v.heads)
	w.sums = make([]float32, w.c.m)
	return w
}

// block computes rows [from, to) of slice ka.
func (w *rowMaker) block(ka, from, to int) error {
	v := w.v
	for kb := from; kb < to; kb++ {
		switch {
		case v.probs != nil:
			w.all(ka, kb, kb-from, to-from)
		case v.cfg.Reference:
			w.all(ka, kb, 0, 1)
		default:
			w.running(ka, kb)
		}
		w.put(ka, kb)
	}
	if v.probs == nil {
		return nil
	}
	n := (to - from) * w.c.m
	for h := range v.heads {
		if err := v.probs.write(w.raw, w.made[h*n:][:n], h, ka, from); err != nil {
			return err
		}
	}
	return nil
}

// running computes the labels of a row in one pass over the classes.
func (w *rowMaker) running(ka, kb int) {
	v := w.v
	if v.values != nil {
		clear(w.labels)
		clear(w.best)
		for h := range v.heads {
			paintAbove(w.labels, w.row(w.best, h, ka, kb), v.values[h])
		}
		return
	}
	clear(w.labels)
	copy(w.best, w.row(w.best, 0, ka, kb))
	for h := 1; h < v.heads; h++ {
		takeLarger(w.best, w.labels, w.row(nil, h, ka, kb), uint16(h))
	}
}

// paintAbove sets the labels of voxels whose logit is above 0.
func paintAbove(labels []uint16, logits []float32, value uint16) {
	labels = labels[:len(logits)]
	for x, l := range logits {
		if l > 0 {
			labels[x] = value
		}
	}
}

// takeLarger sets the labels of voxels whose logit is above the largest so far.
func takeLarger(best []float32, labels []uint16, logits []float32, value uint16) {
	best, labels = best[:len(logits)], labels[:len(logits)]
	for x, l := range logits {
		if l > best[x] {
			best[x], labels[x] = l, value
		}
	}
}

// all computes all classes of a row, row `at` of a block of `rows`, with their probabilities and
// labels.
func (w *rowMaker) all(ka, kb, at, rows int) {
	v := w.v
	for h := range v.heads {
		w.heads[h] = w.made[(h*rows+at)*w.c.m:][:w.c.m]
		if got := w.row(w.heads[h], h, ka, kb); &got[0] != &w.heads[h][0] {
			copy(w.heads[h], got)
		}
	}
	clear(w.labels)
	if !v.cfg.Reference {
		w.label(0)
	}
	if v.values != nil {
		for _, row := range w.heads {
			sigmoid(row)
		}
	} else {
		softmax(w.heads, w.best, w.sums)
	}
	if v.cfg.Reference {
		w.label(0.5)
	}
	if !v.cfg.Shorten {
		return
	}
	for h, row := range w.heads {
		if v.values != nil {
			shortenRegion(row)
		} else {
			shorten(row, w.labels, uint16(h))
		}
	}
}

// shorten drops low bits of a class's probabilities: an error below 2^-14, and below 2^-11 of the
// value. The probability of the label is rounded up, any other down, so that the label keeps the
// largest.
func shorten(row []float32, labels []uint16, class uint16) {
	labels = labels[:len(row)]
	for x, p := range row {
		row[x] = shortened(p, labels[x] == class)
	}
}

// shortenRegion does the same with a region's probabilities: those above 0.5 are rounded up.
func shortenRegion(row []float32) {
	for x, p := range row {
		row[x] = shortened(p, p > 0.5)
	}
}

// shortened returns p, from 0 to 1, with 13 bits of fraction from 0.5 on, 12 from 0.25 on, else 11.
func shortened(p float32, up bool) float32 {
	bits := math.Float32bits(p)
	unit := uint32(1) << min(max(10+126-bits>>23, 10), 12)
	if bits&(unit-1) == 0 {
		return p
	}
	bits &^= unit - 1
	if up {
		bits += unit
	}
	return math.Float32frombits(bits)
}

// label computes the labels from all classes of a row; a region's value must exceed threshold.
func (w *rowMaker) label(threshold float32) {
	if w.v.values != nil {
		for h, row := range w.heads {
			for x, p := range row {
				if p > threshold {
					w.labels[x] = w.v.values[h]
				}
			}
		}
		return
	}
	copy(w.best, w.heads[0])
	for h := 1; h < len(w.heads); h++ {
		takeLarger(w.best, w.labels, w.heads[h], uint16(h))
	}
}

// input returns row kb of slice ka of a class, as received.
func (w *rowMaker) input(h, ka, kb int) []float32 {
	n := w.c.n
	j := kb - w.s.Strip[0]
	if i := ka - w.s.First; i >= 0 {
		return w.s.Data[((h*w.s.Count+i)*w.width+j)*n:][:n]
	}
	return w.v.carry[(h*w.width+j)*n:][:n]
}

// row interpolates a row of a class, into dst unless that is nil; the returned row is valid until
// the next call.
func (w *rowMaker) row(dst []float32, h, ka, kb int) []float32 {
	a0, a1, b0, b1 := int(w.a.lo[ka]), int(w.a.hi[ka]), int(w.b.lo[kb]), int(w.b.hi[kb])
	if w.v.cfg.Reference {
		w.corner[0], w.corner[1] = w.input(h, a0, b0), w.input(h, a0, b1)
		w.corner[2], w.corner[3] = w.input(h, a1, b0), w.input(h, a1, b1)
		w.exact(dst, ka, kb)
		return dst
	}
	src := w.input(h, a0, b0)
	if a0 != a1 || b0 != b1 {
		fa0, fa1, fb0, fb1 := w.a.f0[ka], w.a.f1[ka], w.b.f0[kb], w.b.f1[kb]
		switch {
		case a0 == a1:
			blend2(w.blend, src, w.input(h, a0, b1), fb0, fb1)
		case b0 == b1:
			blend2(w.blend, src, w.input(h, a1, b0), fa0, fa1)
		default:
			blend4(w.blend, src, w.input(h, a0, b1), w.input(h, a1, b0), w.input(h, a1, b1),
				fa0*fb0, fa0*fb1, fa1*fb0, fa1*fb1)
		}
		src = w.blend
	}
	if w.c.identity {
		return src
	}
	if dst == nil {
		dst = w.sums // not in use before softmax
	}
	stretch(dst, src, w.c)
	return dst
}

// blend2 sets dst to the weighted sum of two rows.
func blend2(dst, r0, r1 []float32, w0, w1 float32) {
	r0, r1 = r0[:len(dst)], r1[:len(dst)]
	for i := range dst {
		dst[i] = w0*r0[i] + w1*r1[i]
	}
}

// blend4 sets dst to the weighted sum of four rows.
func blend4(dst, r0, r1, r2, r3 []float32, w0, w1, w2, w3 float32) {
	r0, r1, r2, r3 = r0[:len(dst)], r1[:len(dst)], r2[:len(dst)], r3[:len(dst)]
	for i := range dst {
		dst[i] = w0*r0[i] + w1*r1[i] + (w2*r2[i] + w3*r3[i])
	}
}

// stretch interpolates within a row.
func stretch(dst, src []float32, t *taps) {
	n := len(dst)
	lo, hi, f0, f1 := t.lo[:n], t.hi[:n], t.f0[:n], t.f1[:n]
	for x := range dst {
		dst[x] = f0[x]*src[lo[x]] + f1[x]*src[hi[x]]
	}
}

// exact interpolates a row from its four corner rows as scipy does, operation by operation in axis
// order z, y, x, and rounds it to float16 as nnU-Net does. Slabs are along z here.
// Source: scipy, ni_interpolation.c, NI_ZoomShift.
func (w *rowMaker) exact(dst []float32, ka, kb int) {
	clear(w.wide)
	for i, row := range w.corner {
		wa, wb := w.a.w0[ka], w.b.w0[kb]
		if i >= 2 {
			wa = w.a.w1[ka]
		}
		if i&1 != 0 {
			wb = w.b.w1[kb]
		}
		if wa == 0 || wb == 0 {
			continue
		}
		for x := range w.wide {
			w.wide[x] += float64(float64(float64(row[w.c.lo[x]])*wa)*wb) * w.c.w0[x]
			w.wide[x] += float64(float64(float64(row[w.c.hi[x]])*wa)*wb) * w.c.w1[x]
		}
	}
	for x, v := range w.wide {
		dst[x] = float32(roundToHalf(v))
	}
}

// roundToHalf rounds v to float16, ties to even, and returns it as float64.
func roundToHalf(v float64) float64 {
	exponent := int(math.Float64bits(v)>>52&0x7ff) - 1023
	if exponent > 15 {
		return math.Inf(int(math.Copysign(1, v)))
	}
	// Adding 1.5·2^52 steps removes everything below one step, which is 2^-10 of the power of two
	// below v.
	shift := math.Float64frombits(uint64(max(exponent, -14)-10+52+1023)<<52 | 1<<51)
	r := (v + shift) - shift
	if math.Abs(r) > 65504 {
		return math.Inf(int(math.Copysign(1, v)))
	}
	return r
}

// put writes the labels of a row to the image.
func (w *rowMaker) put(ka, kb int) {
	v := w.v
	at := v.first + ka*v.stride[v.axes[0]] + kb*v.stride[v.axes[1]]
	stride := v.stride[v.axes[2]]
	if v.labels8 != nil {
		place(v.labels8[at:], w.labels, stride)
	} else {
		place(v.labels[at:], w.labels, stride)
	}
}

func place[T uint8 | uint16](dst []T, labels []uint16, stride int) {
	if stride == 1 {
		dst = dst[:len(labels)]
		for x, l := range labels {
			dst[x] = T(l)
		}
		return
	}
	for x, l := range labels {
		dst[x*stride] = T(l)
	}
}

// softmax replaces the logits of a row, (classes, row), by their softmax over the classes. most and
// sums are workspace of one row each. The operations are libtorch's, in float32.
func softmax(rows [][]float32, most, sums []float32) {
	copy(most, rows[0])
	for _, row := range rows[1:] {
		for x, v := range row {
			if v > most[x] {
				most[x] = v
			}
		}
	}
	clear(sums)
	for _, row := range rows {
		for x, v := range row {
			e := exp32(v - most[x])
			row[x] = e
			sums[x] += e
		}
	}
	for _, row := range rows {
		for x := range row {
			row[x] /= sums[x]
		}
	}
}

// sigmoid replaces logits by their sigmoid, in float32.
func sigmoid(row []float32) {
	for x, v := range row {
		row[x] = 1 / (1 + exp32(-v))
	}
}

// exp32 is the float32 exponential of SLEEF's xexpf, which libtorch uses: within 1 ulp. For the
// last few elements of an array libtorch calls the C library's; those may differ by 1 ulp.
// Source: SLEEF, sleefsimdsp.c, xexpf.
func exp32(x float32) float32 {
	if x < -104 {
		return 0
	}
	if x > 100 {
		return float32(math.Inf(1))
	}
	const (
		log2e = 1.442695040888963407359924681001892137426645954152985934135449406931
		high  = 0.693145751953125 // of ln 2, and the remainder
		low   = 1.428606765330187045e-06
	)
	q := math.RoundToEven(float64(x * float32(log2e)))
	s := fma32(q, -high, float64(x))
	s = fma32(q, -float64(float32(low)), s)
	u := float64(float32(0.000198527617612853646278381))
	u = fma32(u, s, float64(float32(0.00139304355252534151077271)))
	u = fma32(u, s, float64(float32(0.00833336077630519866943359)))
	u = fma32(u, s, float64(float32(0.0416664853692054748535156)))
	u = fma32(u, s, float64(float32(0.166666671633720397949219)))
	u = fma32(u, s, 0.5)
	u = float64(float32(1 + fma32(float64(float32(s*s)), u, s)))
	// Two to the power of q is below float32's range for q < -126, but not below float64's.
	return float32(u * math.Float64frombits(uint64(int64(q)+1023)<<52))
}

// fma32 is a·b+c of float32 values, rounded once: the product is exact in float64.
func fma32(a, b, c float64) float64 { return float64(float32(a*b + c)) }
