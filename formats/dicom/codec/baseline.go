package codec

import (
	"errors"
	"fmt"
)

// Baseline JPEG: T.81, process 1, of one component with 8 bits. The standard leaves the inverse
// transform's rounding free. It is done here as libjpeg, which SimpleITK and GDCM use, does by
// default, so that pixels are the same: the algorithm of Loeffler, Ligtenberg and Moschytz (ICASSP
// 1989), with constants of 13 bits and 2 more bits kept between its passes. The standard library's
// image/jpeg rounds otherwise in 1 % of the pixels.

// zigzag is the place of a block's k-th coefficient: T.81, figure A.6.
var zigzag = [64]uint8{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
	12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
	58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

func checkBaseline(b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err == nil {
		err = h.checkBaseline(f)
	}
	return err
}

func (h *jpegHeader) checkBaseline(f Frame) error {
	if err := h.check(markerSOF0, f); err != nil {
		return err
	}
	switch {
	case h.precision != 8:
		return fmt.Errorf("the baseline JPEG has samples of %d bits, expected 8", h.precision)
	case h.ss != 0 || h.se != 63 || h.ah != 0 || h.al != 0:
		return fmt.Errorf("the baseline JPEG has a scan of coefficients %d to %d, expected 0 to 63",
			h.ss, h.se)
	case h.table > 1 || h.huffman[0][h.table] == nil,
		h.tableAC > 1 || h.huffman[1][h.tableAC] == nil:
		return errors.New("the baseline JPEG has no Huffman table for its scan")
	case h.quantiser > 3 || h.quantisers[h.quantiser] == nil:
		return fmt.Errorf("the baseline JPEG has no quantisation table %d, which it uses",
			h.quantiser)
	case int64(len(h.data))*4 < int64(blocks(f.Rows))*int64(blocks(f.Columns)): // 2 codes a block
		return errShort
	}
	return nil
}

// blocks is the number of blocks of 8 pixels that cover a side.
func blocks(pixels int) int { return (pixels + 7) / 8 }

func decodeBaseline(dst, b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err != nil {
		return err
	}
	if err := h.checkBaseline(f); err != nil {
		return err
	}
	d := &baselineDecoder{quantiser: h.quantisers[h.quantiser]}
	d.data = h.data
	if err := d.dc.build(h.huffman[0][h.table], false); err != nil {
		return err
	}
	if err := d.ac.build(h.huffman[1][h.tableAC], true); err != nil {
		return err
	}
	stride, cell := len(dst)/f.Rows, f.BitsAllocated/8
	if cell > 1 {
		clear(dst) // the upper bytes
	}
	across, done := blocks(f.Columns), 0
	for y := 0; y < f.Rows; y += 8 {
		for x := range across {
			if h.restart > 0 && done > 0 && done%int(h.restart) == 0 {
				rest, all := d.rest()
				if all {
					rest, err = nextRestart(rest, done/int(h.restart)-1)
				}
				if !all || err != nil {
					return cut("baseline JPEG", y, f)
				}
				d.huffmanReader = huffmanReader{data: rest}
				d.last = 0
			}
			if !d.block() {
				return cut("baseline JPEG", y, f)
			}
			done++
			for i := range min(8, f.Rows-y) {
				row := dst[(y+i)*stride+x*8*cell:]
				for j, v := range d.pixels[8*i:][:min(8, f.Columns-8*x)] {
					row[j*cell] = v
				}
			}
		}
	}
	rest, all := d.rest()
	if !all {
		return errors.New("the baseline JPEG has more data than pixels: it is damaged")
	}
	return endOfScan(rest)
}

type baselineDecoder struct {
	huffmanReader
	dc, ac    huffmanTable
	quantiser *[64]int32
	last      int32     // the DC coefficient of the block before
	values    [64]int32 // its coefficients, dequantised
	pixels    [64]uint8
}

// block decodes the next 8 x 8 pixels and reports whether they were there.
func (d *baselineDecoder) block() bool {
	clear(d.values[:])
	s := d.next(&d.dc)
	if s == 0 {
		return false
	}
	d.last += int32(int16(s.value()))
	d.values[0] = d.last * d.quantiser[0]
	highest := 0
	for k := 1; k < 64; k++ {
		s := d.next(&d.ac)
		if s == 0 {
			return false
		}
		k += s.zeros()
		v := int32(int16(s.value()))
		if v == 0 {
			if s.zeros() != 15 {
				break // the rest of the block is zero
			}
			continue
		}
		if k > 63 {
			return false
		}
		d.values[zigzag[k]] = v * d.quantiser[k]
		highest = k
	}
	if highest == 0 {
		v := brightness((d.values[0]<<2 + 1<<4) >> 5)
		for i := range d.pixels {
			d.pixels[i] = v
		}
	} else {
		d.transform()
	}
	return d.past <= d.n
}

// next decodes a code and its additional bits; 0 if there is none.
func (d *baselineDecoder) next(t *huffmanTable) symbol {
	if d.n < 32 {
		d.fill()
	}
	s := t.look[d.acc>>(64-lookBits)]
	if s == 0 {
		s = t.long(d.acc)
	}
	d.acc <<= s.length() & 63
	d.n -= s.length()
	return s
}

// transform is the inverse cosine transform, of columns and then of rows.
func (d *baselineDecoder) transform() {
	b := &d.values
	for x := range 8 {
		if b[8+x]|b[16+x]|b[24+x]|b[32+x]|b[40+x]|b[48+x]|b[56+x] == 0 {
			v := b[x] << 2
			for y := range 8 {
				b[8*y+x] = v
			}
			continue
		}
		column := butterfly([8]int32{b[x], b[8+x], b[16+x], b[24+x], b[32+x], b[40+x],
			b[48+x], b[56+x]})
		for y, v := range column {
			b[8*y+x] = (v + 1<<10) >> 11
		}
	}
	for y := range 8 {
		for x, v := range butterfly([8]int32(b[8*y:])) {
			d.pixels[8*y+x] = brightness((v + 1<<17) >> 18)
		}
	}
}

// butterfly is the transform of 8 coefficients, times sqrt(8) and 2^13.
func butterfly(c [8]int32) [8]int32 {
	// The even part: c[0], c[4] and a rotation of c[2] and c[6].
	z := (c[2] + c[6]) * 4433 // 0.541196100
	e2 := z - c[6]*15137      // 1.847759065
	e3 := z + c[2]*6270       // 0.765366865
	e0, e1 := (c[0]+c[4])<<13, (c[0]-c[4])<<13
	e0, e1, e2, e3 = e0+e3, e1+e2, e1-e2, e0-e3

	// The odd part: figure 8 of the paper.
	z1, z2, z3, z4 := c[7]+c[1], c[5]+c[3], c[7]+c[3], c[5]+c[1]
	z5 := (z3 + z4) * 9633     // 1.175875602
	z1 *= -7373                // 0.899976223
	z2 *= -20995               // 2.562915447
	z3 = z5 - z3*16069         // 1.961570560
	z4 = z5 - z4*3196          // 0.390180644
	o0 := c[1]*12299 + z1 + z4 // 1.501321110
	o1 := c[3]*25172 + z2 + z3 // 3.072711026
	o2 := c[5]*16819 + z2 + z4 // 2.053119869
	o3 := c[7]*2446 + z1 + z3  // 0.298631336
	return [8]int32{e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0}
}

// brightness undoes the level shift.
func brightness(v int32) uint8 { return uint8(min(max(v+128, 0), 255)) }
