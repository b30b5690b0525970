package codec

import (
	"errors"
	"fmt"
)

// JPEG lossless: T.81, annex H, process 14 (Huffman coding), without the hierarchical mode.

// row decodes differences. It reports whether there were so many.
func (r *huffmanReader) row(t *huffmanTable, diffs []uint16) bool {
	acc, n := r.acc, r.n
	for i := range diffs {
		if n < 32 { // a code of 16 bits and 15 or 16 more
			r.acc, r.n = acc, n
			r.fill()
			acc, n = r.acc, r.n
		}
		s := t.look[acc>>(64-lookBits)]
		if s == 0 {
			if s = t.long(acc); s == 0 {
				return false
			}
		}
		diffs[i] = s.value()
		length := s.length()
		acc <<= length & 63
		n -= length
	}
	r.acc, r.n = acc, n
	return r.past <= n
}

func checkLossless(b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err == nil {
		err = h.checkLossless(f)
	}
	return err
}

func (h *jpegHeader) checkLossless(f Frame) error {
	if err := h.check(markerSOF3, f); err != nil {
		return err
	}
	switch {
	case h.ss < 1 || h.ss > 7:
		return fmt.Errorf("the codestream has the predictor %d, expected 1 to 7", h.ss)
	case int(h.al) >= h.precision:
		return fmt.Errorf("the codestream has a point transform of %d bits for samples of %d", h.al,
			h.precision)
	case h.table > 3 || h.huffman[0][h.table] == nil:
		return fmt.Errorf("the codestream has no Huffman table %d, which its scan uses", h.table)
	case h.restart%uint32(h.columns) != 0:
		return fmt.Errorf("the codestream has a restart interval of %d pixels, expected whole "+
			"rows of %d", h.restart, h.columns)
	case int64(len(h.data))*8 < int64(f.Rows)*int64(f.Columns): // a code has a bit at least
		return errShort
	}
	return nil
}

func decodeLossless(dst, b []byte, f Frame) error {
	h, err := parseJPEG(b)
	if err != nil {
		return err
	}
	if err := h.checkLossless(f); err != nil {
		return err
	}
	table := new(huffmanTable)
	if err := table.build(h.huffman[0][h.table], false); err != nil {
		return err
	}
	var (
		w        = f.Columns
		previous = make([]uint16, w)
		current  = make([]uint16, w)
		stride   = len(dst) / f.Rows
		interval = int(h.restart) / w // rows; 0: no restarts
		first    = uint16(1) << (h.precision - int(h.al) - 1)
		r        = huffmanReader{data: h.data}
		begin    = true // no row above counts
	)
	for y := range f.Rows {
		if interval > 0 && y > 0 && y%interval == 0 {
			rest, all := r.rest()
			if all {
				rest, err = nextRestart(rest, y/interval-1)
			}
			if !all || err != nil {
				return cut("JPEG lossless", y, f)
			}
			r = huffmanReader{data: rest}
			begin = true
		}
		if !r.row(table, current) {
			return cut("JPEG lossless", y, f)
		}
		if begin {
			accumulate(current, first)
			begin = false
		} else {
			current[0] += previous[0]
			predict(int(h.ss), current, previous)
		}
		storeRow(dst[y*stride:][:stride], current, uint(h.al))
		previous, current = current, previous
	}
	rest, all := r.rest()
	if !all {
		return errors.New("the JPEG lossless codestream has more data than pixels: it is damaged")
	}
	return endOfScan(rest)
}

// accumulate adds to every difference the pixel to its left, to the first one the value given.
func accumulate(row []uint16, left uint16) {
	for i, d := range row {
		left += d
		row[i] = left
	}
}

// predict adds the prediction of T.81, table H.1, to the differences of a row; the first pixel is
// complete. Arithmetic is modulo 2^16, that of the predictions themselves exact.
func predict(predictor int, row, above []uint16) {
	if len(row) == 0 || len(above) < len(row) {
		return
	}
	above = above[:len(row)]
	ra, rc := int32(row[0]), int32(above[0])
	switch predictor {
	case 1:
		accumulate(row[1:], row[0])
	case 2:
		for i := 1; i < len(row); i++ {
			row[i] += above[i]
		}
	case 3:
		for i := 1; i < len(row); i++ {
			row[i] += above[i-1]
		}
	case 4:
		for i := 1; i < len(row); i++ {
			rb := int32(above[i])
			ra = int32(row[i] + uint16(ra+rb-rc))
			row[i], rc = uint16(ra), rb
		}
	case 5:
		for i := 1; i < len(row); i++ {
			rb := int32(above[i])
			ra = int32(row[i] + uint16(ra+(rb-rc)>>1))
			row[i], rc = uint16(ra), rb
		}
	case 6:
		for i := 1; i < len(row); i++ {
			rb := int32(above[i])
			ra = int32(row[i] + uint16(rb+(ra-rc)>>1))
			row[i], rc = uint16(ra), rb
		}
	case 7:
		for i := 1; i < len(row); i++ {
			ra = int32(row[i] + uint16((ra+int32(above[i]))>>1))
			row[i] = uint16(ra)
		}
	}
}
