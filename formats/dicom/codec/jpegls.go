package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
)

// JPEG-LS: T.87, one component without interleaving. Names are those of the standard.

// runLengths is J of T.87, A.2.1: the logarithms of run lengths.
var runLengths = [32]uint8{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
	4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// A lsContext holds the statistics of a context: sums of errors' sizes and of errors, the number of
// pixels, the bias of the prediction, and what follows from a and n: the order of the next error's
// Golomb code.
type lsContext struct {
	a, b, n int32
	c, k    int16
}

// A runContext is the one of a pixel that ends a run; nn counts negative errors.
type runContext struct{ a, n, nn int32 }

// parameters are what the header of a scan settles.
type parameters struct {
	maxVal, near, t1, t2, t3, reset int32
	scale                           int32 // 2 NEAR + 1
	rng, qbpp, limit                int32 // RANGE, bits of an escaped error, LIMIT
}

// An lsDecoder decodes scans, one after the other.
type lsDecoder struct {
	parameters
	bits     lsReader
	runIndex int
	run      [2]runContext
	contexts [512]lsContext // 365 of them; a power of 2 spares the check of the index

	gradients [1 << 17]int8 // a difference of pixels + 1<<16, quantised to -4 to 4
	built     [5]int32      // maxVal, near, t1, t2, t3 of gradients
}

var lsDecoders = sync.Pool{New: func() any { return new(lsDecoder) }}

// lsReader reads entropy-coded data up to a marker: after FF comes a byte of 7 bits.
type lsReader struct {
	data []byte
	at   int
	acc  uint64 // the next bits, from the top
	n    uint   // how many of them count
	past uint   // how many of those lie beyond the data; they are 0
}

// fill makes n at least 49.
func (r *lsReader) fill() {
	if len(r.data)-r.at >= 8 {
		if v := binary.BigEndian.Uint64(r.data[r.at:]); !hasFF(v) {
			r.acc |= v >> r.n
			r.at += int(63-r.n) >> 3
			r.n |= 56
			return
		}
	}
	for r.n <= 48 {
		if r.at >= len(r.data) {
			r.past, r.n = r.past+8, r.n+8
		} else if b := r.data[r.at]; b != 0xFF {
			r.acc |= uint64(b) << (56 - r.n)
			r.at, r.n = r.at+1, r.n+8
		} else if r.at+1 < len(r.data) && r.data[r.at+1] < 0x80 {
			r.acc |= (0xFF<<7 | uint64(r.data[r.at+1])) << (49 - r.n)
			r.at, r.n = r.at+2, r.n+15
		} else {
			r.past, r.n = r.past+8, r.n+8
		}
	}
}

// rest returns the data from the marker on; fewer than 8 bits may stand before it.
func (r *lsReader) rest() ([]byte, bool) {
	if r.n-r.past < 8 {
		r.fill()
	}
	return r.data[min(r.at, len(r.data)):], r.n-r.past < 8
}

// take reads up to 32 bits.
func (r *lsReader) take(count uint) uint32 {
	if count == 0 {
		return 0
	}
	if r.n < count {
		r.fill()
	}
	v := r.acc >> (64 - count)
	r.acc <<= count
	r.n -= count
	return uint32(v)
}

// order is the least k with n<<k >= a, that of a context's Golomb code.
func order(a, n int32) uint {
	k := uint(max(0, bits.Len32(uint32(a))-bits.Len32(uint32(n))))
	return k + uint(uint32(n<<(k&31)-a)>>31)
}

// golomb reads a number by the limited Golomb code of order k (T.87, A.5.3). A code that is longer
// than limit allows reads as one that no valid stream holds.
func (r *lsReader) golomb(k uint, limit, qbpp int32) int32 {
	zeros := int32(0)
	for {
		if r.n < 32 {
			r.fill()
		}
		lead := min(int32(bits.LeadingZeros64(r.acc)), int32(r.n))
		if zeros+lead > limit-qbpp-1 {
			return invalid
		}
		zeros += lead
		if lead < int32(r.n) {
			r.acc <<= uint(lead) + 1
			r.n -= uint(lead) + 1
			break
		}
		r.acc, r.n = 0, 0
	}
	if zeros == limit-qbpp-1 {
		return int32(r.take(uint(qbpp))) + 1
	}
	if k > 16 {
		return invalid
	}
	return zeros<<k | int32(r.take(k))
}

const invalid = 1 << 24 // beyond every error of a valid stream

func checkJPEGLS(b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err == nil {
		_, err = h.checkJPEGLS(f)
	}
	return err
}

func (h *jpegHeader) checkJPEGLS(f Frame) (p parameters, err error) {
	if err := h.check(markerSOFLS, f); err != nil {
		return p, err
	}
	switch {
	case h.se != 0:
		return p, fmt.Errorf("the JPEG-LS codestream has interleave mode %d, expected 0", h.se)
	case h.mapping != 0:
		return p, fmt.Errorf("the JPEG-LS codestream has mapping table %d, expected none", h.mapping)
	case h.ah != 0 || h.al != 0:
		return p, fmt.Errorf("the JPEG-LS codestream has a point transform of %d, expected 0",
			h.ah<<4|h.al)
	case len(h.data)*8 < f.Rows: // a row of one run has a bit at least
		return p, errShort
	}
	return presets(h.precision, int(h.ss), h.parameters)
}

// presets completes the parameters of a scan: T.87, C.2.4.1.1 and A.2.1.
func presets(precision, near int, given [5]int) (p parameters, err error) {
	maxVal := given[0]
	if maxVal == 0 {
		maxVal = 1<<precision - 1
	}
	if maxVal >= 1<<precision {
		return p, fmt.Errorf("the JPEG-LS codestream has a MAXVAL of %d with %d bits", maxVal,
			precision)
	}
	if near > maxVal/2 {
		return p, fmt.Errorf("the JPEG-LS codestream has a NEAR of %d, expected up to half of "+
			"MAXVAL, %d", near, maxVal)
	}
	clamp := func(i, low int) int {
		if i > maxVal || i < low {
			return low
		}
		return i
	}
	t := given[1:4:4]
	var defaults [3]int
	if maxVal >= 128 {
		factor := (min(maxVal, 4095) + 128) / 256
		defaults[0] = clamp(factor*(3-2)+2+3*near, near+1)
		defaults[1] = clamp(factor*(7-3)+3+5*near, defaults[0])
		defaults[2] = clamp(factor*(21-4)+4+7*near, defaults[1])
	} else {
		factor := 256 / (maxVal + 1)
		defaults[0] = clamp(max(2, 3/factor+3*near), near+1)
		defaults[1] = clamp(max(3, 7/factor+5*near), defaults[0])
		defaults[2] = clamp(max(4, 21/factor+7*near), defaults[1])
	}
	for i := range t {
		if t[i] == 0 {
			t[i] = defaults[i]
		}
	}
	reset := given[4]
	if reset == 0 {
		reset = 64
	}
	ascending := near < t[0] && t[0] <= t[1] && t[1] <= t[2] && t[2] <= maxVal
	if !ascending || reset < 3 || reset > max(255, maxVal) {
		return p, fmt.Errorf("the JPEG-LS codestream has the thresholds %v and RESET %d, which do "+
			"not fit MAXVAL %d and NEAR %d", t, reset, maxVal, near)
	}
	scale := 2*near + 1
	rng := (maxVal+2*near)/scale + 1
	bpp := max(2, bits.Len(uint(maxVal)))
	return parameters{
		maxVal: int32(maxVal), near: int32(near), reset: int32(reset),
		t1: int32(t[0]), t2: int32(t[1]), t3: int32(t[2]),
		scale: int32(scale), rng: int32(rng),
		qbpp: int32(bits.Len(uint(rng - 1))), limit: int32(2 * (bpp + max(8, bpp))),
	}, nil
}

func decodeJPEGLS(dst, b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err != nil {
		return err
	}
	p, err := h.checkJPEGLS(f)
	if err != nil {
		return err
	}
	d := lsDecoders.Get().(*lsDecoder)
	defer lsDecoders.Put(d)
	d.begin(p, h.data)
	defer func() { d.bits.data = nil }() // not kept alive by the pool
	var (
		w        = f.Columns
		previous = make([]uint16, w+2) // with a pixel at either end
		current  = make([]uint16, w+2)
		stride   = len(dst) / f.Rows
	)
	for y := range f.Rows {
		if h.restart > 0 && y > 0 && y%int(h.restart) == 0 {
			rest, all := d.bits.rest()
			if all {
				rest, err = nextRestart(rest, y/int(h.restart)-1)
			}
			if !all || err != nil {
				return cut("JPEG-LS", y, f)
			}
			d.begin(p, rest)
			clear(previous)
			clear(current)
		}
		previous[w+1] = previous[w]
		current[0] = previous[1]
		if !d.row(current, previous) {
			return cut("JPEG-LS", y, f)
		}
		storeRow(dst[y*stride:][:stride], current[1:w+1], 0)
		previous, current = current, previous
	}
	rest, all := d.bits.rest()
	if !all {
		return errors.New("the JPEG-LS codestream has more data than pixels: it is damaged")
	}
	return endOfScan(rest)
}

// begin resets the decoder for a scan or restart interval.
func (d *lsDecoder) begin(p parameters, data []byte) {
	d.parameters = p
	d.bits = lsReader{data: data}
	d.runIndex = 0
	a := max(2, (p.rng+32)/64)
	d.run = [2]runContext{{a: a, n: 1}, {a: a, n: 1}}
	for i := range d.contexts {
		d.contexts[i] = lsContext{a: a, n: 1, k: int16(order(a, 1))}
	}
	key := [5]int32{p.maxVal, p.near, p.t1, p.t2, p.t3}
	if d.built == key {
		return
	}
	d.built = key
	for i := -p.maxVal; i <= p.maxVal; i++ {
		size, q := max(i, -i), int8(4)
		switch {
		case size <= p.near:
			q = 0
		case size < p.t1:
			q = 1
		case size < p.t2:
			q = 2
		case size < p.t3:
			q = 3
		}
		if i < 0 {
			q = -q
		}
		d.gradients[i+1<<16] = q
	}
}

// row decodes a row; pixels begin at index 1. It reports whether the row was there.
func (d *lsDecoder) row(row, above []uint16) bool {
	width := len(row) - 2
	above = above[:len(row)]
	const middle = 1 << 16
	acc, n := d.bits.acc, d.bits.n
	maxVal, near, scale, modulus, reset := d.maxVal, d.near, d.scale, d.rng*d.scale, d.reset
	escape := uint(d.limit - d.qbpp - 1)
	ra, rc, rb := int32(row[0]), int32(above[0]), int32(above[1])
	q2 := int32(d.gradients[(rb-rc+middle)&(2*middle-1)])
	for x := 1; x <= width; {
		rd := int32(above[x+1])
		q1 := int32(d.gradients[(rd-rb+middle)&(2*middle-1)])
		q := (9*q1+q2)*9 + int32(d.gradients[(rc-ra+middle)&(2*middle-1)])
		if q == 0 {
			d.bits.acc, d.bits.n = acc, n
			next, ok := d.runMode(row, above, x)
			if !ok {
				return false
			}
			acc, n = d.bits.acc, d.bits.n
			x = next
			if x <= width {
				ra, rc, rb = int32(row[x-1]), int32(above[x-1]), int32(above[x])
				q2 = int32(d.gradients[(rb-rc+middle)&(2*middle-1)])
			}
			continue
		}
		sign := q >> 31
		ctx := &d.contexts[((q^sign)-sign)&511]

		if n < 40 {
			d.bits.acc, d.bits.n = acc, n
			d.bits.fill()
			acc, n = d.bits.acc, d.bits.n
		}
		var m int32
		k := uint(ctx.k)
		zeros := uint(bits.LeadingZeros64(acc))
		if length := zeros + 1 + k; zeros < escape && length <= n {
			// The bit that ends the zeros is in what is shifted.
			m = int32(acc>>((64-length)&63)) + (int32(zeros)-1)<<(k&31)
			acc <<= length & 63
			n -= length
		} else {
			d.bits.acc, d.bits.n = acc, n
			m = d.bits.golomb(k, d.limit, d.qbpp)
			acc, n = d.bits.acc, d.bits.n
		}
		a, b, count := ctx.a, ctx.b, ctx.n
		e := m>>1 ^ -(m & 1)
		if k == 0 && near == 0 && 2*b <= -count {
			e = ^e
		}
		if e > 1<<16 || e < -1<<16 {
			return false
		}

		// The prediction is the median of ra, rb and ra + rb - rc, written without branches, which
		// would often be guessed wrongly.
		px := ra - rb
		low := rb + px&(px>>31)
		high := ra + rb - low
		px = ra + rb - rc - low
		px = low + px&^(px>>31) - high
		px = high + px&(px>>31)
		px = min(max(px+((int32(ctx.c)^sign)-sign), 0), maxVal)

		// statistics
		a += max(e, -e)
		b += e * scale
		if count == reset {
			a, b, count = a>>1, b>>1, count>>1
		}
		count++
		less, more := (b+count-1)>>31, -b>>31 // -1 if b <= -count, if b > 0
		ctx.b = min(max(b+count&less-count&more, 1-count), 0)
		ctx.c = int16(min(max(int32(ctx.c)+less-more, -128), 127))
		ctx.a, ctx.n, ctx.k = a, count, int16(order(a, count))

		v := px + ((e^sign)-sign)*scale
		if v < -near {
			v += modulus
		} else if v > maxVal+near {
			v -= modulus
		}
		v = min(max(v, 0), maxVal)
		row[x] = uint16(v)
		ra, rc, rb, q2 = v, rb, rd, q1
		x++
	}
	d.bits.acc, d.bits.n = acc, n
	return d.bits.past <= n
}

// runMode decodes a run from pixel x on and the pixel that ends it (T.87, A.7). It returns where
// the row goes on.
func (d *lsDecoder) runMode(row, above []uint16, x int) (next int, ok bool) {
	width := len(row) - 2
	ra := row[x-1]
	r := &d.bits
	begin := x
	for {
		length := 1 << runLengths[d.runIndex]
		if r.take(1) == 0 {
			x += int(r.take(uint(runLengths[d.runIndex])))
			break
		}
		x += length
		if x <= width+1 && d.runIndex < len(runLengths)-1 {
			d.runIndex++
		}
		if x > width {
			x = width + 1
			for i := begin; i < x; i++ {
				row[i] = ra
			}
			return x, true
		}
	}
	if x > width || r.past > r.n {
		return 0, false
	}
	for i := begin; i < x; i++ {
		row[i] = ra
	}

	rb := int32(above[x])
	a := int32(ra)
	kind := int32(0) // RItype
	if max(a-rb, rb-a) <= d.near {
		kind = 1
	}
	ctx := &d.run[kind]
	sum := ctx.a
	if kind == 1 {
		sum += ctx.n >> 1
	}
	k := order(sum, ctx.n)
	m := r.golomb(k, d.limit-int32(runLengths[d.runIndex])-1, d.qbpp)
	if m >= invalid {
		return 0, false
	}
	odd := (m + kind) & 1
	e := (m + kind + odd) / 2
	if e > 1<<16 {
		return 0, false
	}
	if (k != 0 || 2*ctx.nn >= ctx.n) == (odd == 1) {
		e = -e
	}
	if e < 0 {
		ctx.nn++
	}
	ctx.a += (m + 1 - kind) >> 1
	if ctx.n == d.reset {
		ctx.a, ctx.n, ctx.nn = ctx.a>>1, ctx.n>>1, ctx.nn>>1
	}
	ctx.n++
	if d.runIndex > 0 {
		d.runIndex--
	}

	v := a
	if kind == 0 {
		v = rb
		if rb < a {
			e = -e
		}
	}
	v += e * d.scale
	if v < -d.near {
		v += d.rng * d.scale
	} else if v > d.maxVal+d.near {
		v -= d.rng * d.scale
	}
	row[x] = uint16(min(max(v, 0), d.maxVal))
	return x + 1, true
}
