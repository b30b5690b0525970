package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Huffman coding of T.81: annexes C and F.

// A symbol holds a value modulo 2^16 in its upper 16 bits, the number of zeros before it in the
// next 8 (of AC coefficients), and the length of code and additional bits in the lowest 8.
type symbol uint32

func (s symbol) value() uint16 { return uint16(s >> 16) }
func (s symbol) zeros() int    { return int(s >> 8 & 0xFF) }
func (s symbol) length() uint  { return uint(s & 0xFF) }

const (
	lookBits = 12 // codes with their additional bits up to this length are decoded by one look-up
	maxCode  = 16
)

// A huffmanTable decodes codes with the additional bits that follow them.
type huffmanTable struct {
	// by the next lookBits bits; 0 when code and additional bits are longer
	look [1 << lookBits]symbol
	// the first code of no more than this many bits, aligned to 16 bits
	limit  [maxCode + 2]uint32
	offset [maxCode + 1]int32 // index of a code's value, less the code
	values []byte
	ac     bool
}

// build fills the table from a DHT segment. ac says that the codes' values are those of AC
// coefficients: 4 bits for the zeros before them, 4 for the number of additional bits.
func (t *huffmanTable) build(segment []byte, ac bool) error {
	counts := segment[:maxCode]
	t.values, t.ac = segment[maxCode:], ac
	clear(t.look[:])
	code, index := uint32(0), 0
	for length := uint(1); length <= maxCode; length++ {
		n := int(counts[length-1])
		t.offset[length] = int32(index) - int32(code)
		for range n {
			if code >= 1<<length {
				return errors.New("a Huffman table of the JPEG codestream has more codes than " +
					"there are")
			}
			if !ac && t.values[index] > 16 {
				return fmt.Errorf("a Huffman table of the JPEG codestream has the category %d, "+
					"expected up to 16", t.values[index])
			}
			t.enter(code, length, t.values[index])
			code++
			index++
		}
		t.limit[length] = code << (maxCode - length)
		code <<= 1
	}
	t.limit[maxCode+1] = 1 << maxCode // no code is longer
	return nil
}

// enter fills the look-ups that begin with a code.
func (t *huffmanTable) enter(code uint32, length uint, value byte) {
	extra := t.additional(value)
	if length+extra > lookBits {
		return
	}
	free := lookBits - length - extra
	at := code << (lookBits - length)
	for v := range uint32(1) << extra {
		row := t.look[at+v<<free:][:1<<free]
		s := t.symbol(value, length, v)
		for i := range row {
			row[i] = s
		}
	}
}

// symbol is a code's value with its additional bits v.
func (t *huffmanTable) symbol(value byte, length uint, v uint32) symbol {
	length += t.additional(value)
	if t.ac {
		return symbol(difference(value&15, v))<<16 | symbol(value>>4)<<8 | symbol(length)
	}
	return symbol(difference(value, v))<<16 | symbol(length)
}

// long decodes a code that the look-up lacks; 0 if there is none.
func (t *huffmanTable) long(acc uint64) symbol {
	code := uint32(acc >> (64 - maxCode))
	length := uint(1)
	for code >= t.limit[length] {
		length++
	}
	if length > maxCode {
		return 0
	}
	value := t.values[int32(code>>(maxCode-length))+t.offset[length]]
	return t.symbol(value, length, uint32(acc<<length>>(64-t.additional(value))))
}

// additional is the number of bits that follow a code: none for category 16, whose only difference
// is 32768.
func (t *huffmanTable) additional(value byte) uint {
	switch {
	case t.ac:
		return uint(value & 15)
	case value == 16:
		return 0
	}
	return uint(value)
}

// difference extends the additional bits to a difference modulo 2^16 (T.81, F.12).
func difference(category byte, v uint32) uint16 {
	switch {
	case category == 0:
		return 0
	case category == 16:
		return 1 << 15
	case v < 1<<(category-1):
		v += 1 - 1<<category
	}
	return uint16(v)
}

// A huffmanReader reads entropy-coded data up to a marker: in FF 00 the 00 is stuffed.
type huffmanReader struct {
	data []byte
	at   int
	acc  uint64 // the next bits, from the top
	n    uint   // how many of them count
	past uint   // how many of those lie beyond the data; they are 0
}

// hasFF reports whether one of the bytes of v is FF.
func hasFF(v uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	return (^v-ones)&v&tops != 0
}

// fill makes n at least 48.
func (r *huffmanReader) fill() {
	if len(r.data)-r.at >= 8 {
		if v := binary.BigEndian.Uint64(r.data[r.at:]); !hasFF(v) {
			r.acc |= v >> r.n
			r.at += int(63-r.n) >> 3
			r.n |= 56
			return
		}
	}
	for r.n <= 56 {
		if r.at >= len(r.data) {
			r.past += 8
		} else if b := r.data[r.at]; b != 0xFF {
			r.acc |= uint64(b) << (56 - r.n)
			r.at++
		} else if r.at+1 < len(r.data) && r.data[r.at+1] == 0 {
			r.acc |= 0xFF << (56 - r.n)
			r.at += 2
		} else {
			r.past += 8
		}
		r.n += 8
	}
}

// rest returns the data from the marker on; fewer than 8 bits may stand before it.
func (r *huffmanReader) rest() ([]byte, bool) {
	if r.n-r.past < 8 {
		r.fill()
	}
	return r.data[min(r.at, len(r.data)):], r.n-r.past < 8
}
