// Package inflate decompresses deflate (RFC 1951), and the zlib and gzip streams that wrap it, as fast
// as images are read: Reader keeps 56 bits and more in a register, decodes several literals between two
// looks at the input, and writes to one flat buffer; Stream decodes parts of a stream side by side
// where it was flushed, as that of writers with several goroutines. A stream that ends early is
// io.ErrUnexpectedEOF, a damaged one ErrCorrupt; a Reader takes a constant 220 kB.
package inflate

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
)

// ErrCorrupt says that the data is no deflate stream.
var ErrCorrupt = errors.New("inflate: damaged data")

// errPaused is Reader.err at a flush, see Reader.pause.
var errPaused = errors.New("inflate: paused")

const (
	window    = 32 << 10 // how far back a match may lie
	inSize    = 64 << 10
	outSize   = 128 << 10
	longest   = 258              // bytes of a match
	slack     = longest + 3 + 16 // one turn of the fast loop may write that much beyond its limit
	fastInput = 16               // bytes of input that one turn may load
	noPause   = math.MaxInt64
)

// Reader decompresses a stream. It may read more of its source than the stream has.
type Reader struct {
	src   io.Reader
	in    []byte
	inPos int
	inEnd int
	inAt  int64 // where the source is behind in
	eof   error // why there is no more input
	// Decoding pauses, with errPaused, behind the first flush that ends here or later.
	pause int64

	bits  uint64
	nbits uint // valid bits of bits

	out     []byte
	outPos  int // where the next byte goes
	readPos int // what was handed out

	state  state
	last   bool // the block is the last one
	stored int  // bytes left of a stored block
	err    error
	lit    litTable
	dist   distTable
	header lengths
}

type state uint8

const (
	betweenBlocks state = iota
	inStored
	inCompressed
)

// NewReader decompresses r.
func NewReader(r io.Reader) *Reader {
	return &Reader{src: r, in: make([]byte, inSize), pause: noPause}
}

// start begins decoding a stream that begins at byte at of a source of size bytes.
func (r *Reader) start(src io.ReaderAt, at, size int64) {
	r.src, r.inAt, r.inPos, r.inEnd, r.eof = io.NewSectionReader(src, at, size-at), at, 0, 0, nil
	r.bits, r.nbits, r.pause = 0, 0, noPause
	r.Restart()
}

// offset is where in the source decoding stands, at the end of a block that ends with a byte.
func (r *Reader) offset() int64 { return r.inAt - int64(r.inEnd-r.inPos) - int64(r.nbits/8) }

// Close ends the reading. It leaves the source open.
func (r *Reader) Close() error {
	if r.err == nil {
		r.err = errors.New("inflate: read after Close")
	}
	return nil
}

// Read decompresses into p.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.readPos == r.outPos {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.out[r.readPos:r.outPos])
	r.readPos += n
	return n, nil
}

// Raw fills p with the bytes of the input that stand where decoding stopped: the header in front of
// a stream, the checksum behind it. It returns io.EOF if there is none, io.ErrUnexpectedEOF if there
// are fewer.
func (r *Reader) Raw(p []byte) error {
	r.take(r.nbits % 8)
	for i := range p {
		if !r.load(8) {
			if i > 0 && r.eof == io.EOF {
				return io.ErrUnexpectedEOF
			}
			return r.eof
		}
		p[i] = byte(r.take(8))
	}
	return nil
}

// Restart begins another stream where Raw or the stream before ended.
func (r *Reader) Restart() {
	r.take(r.nbits % 8)
	r.err, r.last, r.state, r.outPos, r.readPos = nil, false, betweenBlocks, 0, 0
}

// fill decodes until the buffer is full or the stream ends.
func (r *Reader) fill() {
	if r.out == nil {
		r.out = make([]byte, outSize)
	}
	if r.outPos > window {
		copy(r.out, r.out[r.outPos-window:r.outPos])
		r.outPos = window
	}
	r.readPos = r.outPos
	r.run()
}

// into decodes into to[at:] and returns where it ended: within slack bytes of the end of to, or where
// err says why. to[:at] is all that was decoded before, or the last window of it; nothing that was
// decoded may be unread.
func (r *Reader) into(to []byte, at int) int {
	own := r.out
	r.out, r.outPos = to, at
	r.run()
	end := r.outPos
	r.out, r.outPos, r.readPos = own, 0, 0
	return end
}

// follow has decoding go on behind the bytes that end with before, which were decoded elsewhere.
func (r *Reader) follow(before []byte) {
	if r.out == nil {
		r.out = make([]byte, outSize)
	}
	r.outPos = copy(r.out, before[max(0, len(before)-window):])
	r.readPos = r.outPos
}

// unread is how many bytes were decoded that Read did not hand out.
func (r *Reader) unread() int { return r.outPos - r.readPos }

// run decodes until the buffer is full but for slack bytes, or err says why not.
func (r *Reader) run() {
	for r.err == nil && r.outPos < len(r.out)-slack {
		switch r.state {
		case inStored:
			r.copyStored()
		case inCompressed:
			r.decode()
		default:
			r.begin()
		}
	}
}

// load makes at least n bits valid, n <= 56, if the input has them.
func (r *Reader) load(n uint) bool {
	for r.nbits < n {
		if r.inPos == r.inEnd && !r.refill() {
			return false
		}
		r.bits |= uint64(r.in[r.inPos]) << r.nbits
		r.inPos++
		r.nbits += 8
	}
	return true
}

// refill reads input once all before is used.
func (r *Reader) refill() bool {
	for tries := 0; r.eof == nil && tries < 100; tries++ {
		n, err := r.src.Read(r.in)
		r.inPos, r.inEnd, r.eof = 0, n, err
		r.inAt += int64(n)
		if n > 0 {
			return true
		}
	}
	if r.eof == nil {
		r.eof = io.ErrNoProgress
	}
	return false
}

// ended is the error where input is missing.
func (r *Reader) ended() {
	r.err = r.eof
	if r.eof == io.EOF {
		r.err = io.ErrUnexpectedEOF
	}
}

// take gives n bits, n <= 16, which load made valid.
func (r *Reader) take(n uint) int {
	v := int(r.bits & (1<<n - 1))
	r.bits >>= n
	r.nbits -= n
	return v
}

// begin reads the header of a block.
func (r *Reader) begin() {
	if r.last {
		r.err = io.EOF
		return
	}
	if !r.load(3) {
		r.ended()
		return
	}
	r.last = r.take(1) == 1
	switch r.take(2) {
	case 0:
		r.take(r.nbits % 8)
		if !r.load(32) {
			r.ended()
			return
		}
		n := r.take(16)
		if n != ^r.take(16)&0xffff {
			r.err = ErrCorrupt
			return
		}
		r.stored, r.state = n, inStored
		if n == 0 && !r.last {
			r.state = betweenBlocks
			if r.offset() >= r.pause {
				r.err = errPaused
			}
		}
	case 1:
		r.fixed()
	case 2:
		r.dynamic()
	default:
		r.err = ErrCorrupt
	}
}

func (r *Reader) copyStored() {
	for r.stored > 0 && r.outPos < len(r.out)-slack {
		if r.nbits > 0 {
			r.out[r.outPos] = byte(r.take(8))
			r.outPos++
			r.stored--
			continue
		}
		if r.inPos == r.inEnd && !r.refill() {
			r.ended()
			return
		}
		n := min(r.stored, r.inEnd-r.inPos, len(r.out)-slack-r.outPos)
		copy(r.out[r.outPos:], r.in[r.inPos:r.inPos+n])
		r.inPos, r.outPos, r.stored = r.inPos+n, r.outPos+n, r.stored-n
	}
	if r.stored == 0 {
		r.state = betweenBlocks
	}
}

// decode decodes the block until it ends or the buffer is full. With enough input it runs the fast
// loop; the end of the input goes symbol by symbol.
func (r *Reader) decode() {
	for r.err == nil && r.state == inCompressed && r.outPos < len(r.out)-slack {
		if r.inEnd-r.inPos >= fastInput {
			r.fast()
			continue
		}
		// All bits that a symbol with its distance may take, 48, or what is left of the input.
		if !r.load(48) && r.eof != io.EOF {
			r.ended()
			return
		}
		r.symbol()
	}
}

// symbol decodes a literal, a match or the end of the block from the valid bits.
func (r *Reader) symbol() {
	b, left := r.bits, r.nbits
	use := func(n uint) bool {
		if n > left {
			r.ended()
			return false
		}
		b >>= n
		left -= n
		return true
	}
	e := r.lit.entries[b&litMask]
	if e&pointer != 0 {
		e = r.lit.entries[uint64(e>>16&0x1fff)+b>>litBits&(1<<(e>>8&0xf)-1)]
	}
	if e&0xff == 0 {
		// No such code; unless the bits that would tell are missing.
		if r.err = ErrCorrupt; left < 15 {
			r.ended()
		}
		return
	}
	if !use(uint(e >> 8 & 0xf)) {
		return
	}
	switch {
	case e&literal != 0:
		r.out[r.outPos] = byte(e >> 16)
		r.outPos++
	case e&endOfBlock != 0:
		r.state = betweenBlocks
	default:
		extra := uint(e&0xff - e>>8&0xf)
		length := int(e>>16&0x1ff) + int(b&(1<<extra-1))
		if !use(extra) {
			return
		}
		e := r.dist.entries[b&distMask]
		if e&pointer != 0 {
			e = r.dist.entries[uint64(e>>16&0x1fff)+b>>distBits&(1<<(e>>8&0xf)-1)]
		}
		if e&0xff == 0 {
			if r.err = ErrCorrupt; left < 15 {
				r.ended()
			}
			return
		}
		if !use(uint(e >> 8 & 0xf)) {
			return
		}
		extra = uint(e&0xff - e>>8&0xf)
		dist := int(e>>16&0x7fff) + int(b&(1<<extra-1))
		if !use(extra) {
			return
		}
		if dist > r.outPos {
			r.err = ErrCorrupt
			return
		}
		for range length {
			r.out[r.outPos] = r.out[r.outPos-dist]
			r.outPos++
		}
	}
	r.bits, r.nbits = b, left
}

// fast decodes while there are fastInput bytes of input and room in the buffer.
func (r *Reader) fast() {
	in, inPos := r.in[:r.inEnd], r.inPos
	out, outPos := r.out, r.outPos
	b, left := r.bits, r.nbits
	lit, dist := &r.lit.entries, &r.dist.entries
	inLimit, outLimit := len(in)-fastInput, len(out)-slack
loop:
	for inPos <= inLimit && outPos < outLimit {
		// At least 56 bits: bits that are loaded twice are the same.
		b |= binary.LittleEndian.Uint64(in[inPos:]) << (left & 63)
		inPos += int(63-left) >> 3
		left |= 56

		e := lit[b&litMask]
		if e&literal != 0 {
			b >>= e & 63
			left -= uint(e & 63)
			out[outPos] = byte(e >> 16)
			outPos++
			e = lit[b&litMask]
			if e&literal != 0 {
				b >>= e & 63
				left -= uint(e & 63)
				out[outPos] = byte(e >> 16)
				outPos++
				e = lit[b&litMask]
				if e&literal != 0 {
					b >>= e & 63
					left -= uint(e & 63)
					out[outPos] = byte(e >> 16)
					outPos++
					e = lit[b&litMask]
					if e&literal != 0 {
						b >>= e & 63
						left -= uint(e & 63)
						out[outPos] = byte(e >> 16)
						outPos++
						continue
					}
				}
			}
		}
		// Of 56 bits, three literals of the table took at most 33: the rest holds any code and the
		// 5 extra bits of a length.
		if e&pointer != 0 {
			e = lit[uint64(e>>16&0x1fff)+b>>litBits&(1<<(e>>8&0xf)-1)]
			if e&literal != 0 {
				b >>= e & 63
				left -= uint(e & 63)
				out[outPos] = byte(e >> 16)
				outPos++
				continue
			}
		}
		// The code and its extra bits are taken at once.
		length := int(e>>16&0x1ff) + int(b&(1<<(e&63)-1)>>(e>>8&0xf))
		b >>= e & 63
		left -= uint(e & 63)
		if length == 0 {
			if r.state = betweenBlocks; e&endOfBlock == 0 {
				r.err = ErrCorrupt
			}
			break loop
		}
		if left < 15+13 {
			b |= binary.LittleEndian.Uint64(in[inPos:]) << (left & 63)
			inPos += int(63-left) >> 3
			left |= 56
		}
		e = dist[b&distMask]
		if e&pointer != 0 {
			e = dist[uint64(e>>16&0x1fff)+b>>distBits&(1<<(e>>8&0xf)-1)]
		}
		d := int(e>>16&0x7fff) + int(b&(1<<(e&63)-1)>>(e>>8&0xf))
		b >>= e & 63
		left -= uint(e & 63)
		if uint(d-1) >= uint(outPos) { // 0: no such code
			r.err = ErrCorrupt
			break loop
		}
		end := outPos + length
		if d < 8 {
			// A short period repeats at the next multiple of it from 8 on, too.
			period := (8 + d - 1) / d * d
			for i := outPos; i < outPos+period-d; i++ {
				out[i] = out[i-d]
			}
			outPos += period - d
			d = period
		}
		for ; outPos < end; outPos += 8 {
			binary.LittleEndian.PutUint64(out[outPos:], binary.LittleEndian.Uint64(out[outPos-d:]))
		}
		outPos = end
	}
	r.bits, r.nbits = b&(1<<left-1), left
	r.inPos, r.outPos = inPos, outPos
}

// Entries of the tables: bits 0-7 are the length of the code with its extra bits, 0 if there is none;
// bits 8-11 that of the code alone; from bit 16 on the literal, or the least length or distance. A
// pointer leads to the table of codes that are longer: from bit 16 on where it begins, bits 8-11 its
// index bits. In the tables of symbols bits 0-7 are 0, and bits 8-11 how many extra bits there are.
const (
	litBits  = 11
	distBits = 9
	litMask  = 1<<litBits - 1
	distMask = 1<<distBits - 1

	literal    = 1 << 31
	endOfBlock = 1 << 30
	pointer    = 1 << 12
	maxBits    = 15
)

// A prefix of a code that is longer has at most 2^4 (2^6) entries; there are at most 144 (15) such.
type litTable struct{ entries [1<<litBits + 144<<4]uint32 }
type distTable struct{ entries [1<<distBits + 15<<6]uint32 }

// lengths is room for the code lengths of a block.
type lengths struct {
	codes [320]uint8
	table [128 + 64]uint32
}

// build fills a table with 2^primary entries, and those of longer codes behind, from the lengths of
// the codes. An incomplete code is an error unless it has at most one symbol, as zlib has it.
func build(table []uint32, primary uint, codes []uint8, symbols []uint32) bool {
	var count [maxBits + 1]int
	for _, n := range codes {
		count[n]++
	}
	count[0] = 0
	var next [maxBits + 1]int
	code, most := 0, uint(0)
	for n := 1; n <= maxBits; n++ {
		code <<= 1
		next[n] = code
		code += count[n]
		if count[n] > 0 {
			most = uint(n)
		}
		if code > 1<<n {
			return false
		}
	}
	if code != 1<<maxBits && !(most <= 1 && count[1] <= 1) {
		return false
	}
	clear(table[:1<<primary])
	// Longest code behind each prefix.
	var deepest [1 << litBits]uint8
	if most > primary {
		at := next
		for _, n := range codes {
			if uint(n) > primary {
				c := bits.Reverse16(uint16(at[n])) >> (16 - n)
				p := c & (1<<primary - 1)
				deepest[p] = max(deepest[p], n)
			}
			at[n]++
		}
	}
	end := uint32(1) << primary
	for s, n := range codes {
		if n == 0 {
			continue
		}
		c := uint32(bits.Reverse16(uint16(next[n])) >> (16 - n))
		next[n]++
		e := symbols[s]
		if e != 0 {
			e = e&^0xf00 | uint32(n)<<8 | (uint32(n) + e>>8&0xf)
		}
		if uint(n) <= primary {
			for i := c; i < 1<<primary; i += 1 << n {
				table[i] = e
			}
			continue
		}
		prefix := c & (1<<primary - 1)
		if table[prefix] == 0 {
			size := uint32(deepest[prefix]) - uint32(primary)
			if int(end)+1<<size > len(table) {
				return false
			}
			table[prefix] = end<<16 | size<<8 | pointer | 1
			clear(table[end : end+1<<size])
			end += 1 << size
		}
		start, size := table[prefix]>>16, table[prefix]>>8&0xf
		for i := c >> primary; i < 1<<size; i += 1 << (uint(n) - primary) {
			table[start+i] = e
		}
	}
	return true
}

// What symbols mean; 0 for those that may not occur.
var litSymbols, distSymbols, lengthSymbols = symbols()

func symbols() (lit [288]uint32, dist [32]uint32, length [19]uint32) {
	for i := range 256 {
		lit[i] = literal | uint32(i)<<16
	}
	lit[256] = endOfBlock
	base := uint32(3)
	for i := uint32(257); i < 285; i++ {
		extra := uint32(0)
		if i >= 265 {
			extra = (i - 261) / 4
		}
		lit[i] = base<<16 | extra<<8
		base += 1 << extra
	}
	lit[285] = longest << 16
	base = 1
	for i := range uint32(30) {
		extra := uint32(0)
		if i >= 4 {
			extra = i/2 - 1
		}
		dist[i] = base<<16 | extra<<8
		base += 1 << extra
	}
	for i := range length {
		length[i] = literal | uint32(i)<<16
	}
	return lit, dist, length
}

// fixed sets the codes of a block that brings none.
func (r *Reader) fixed() {
	codes := r.header.codes[:288]
	for i := range codes {
		switch {
		case i < 144:
			codes[i] = 8
		case i < 256:
			codes[i] = 9
		case i < 280:
			codes[i] = 7
		default:
			codes[i] = 8
		}
	}
	build(r.lit.entries[:], litBits, codes, litSymbols[:])
	for i := range 32 {
		codes[i] = 5
	}
	build(r.dist.entries[:], distBits, codes[:32], distSymbols[:])
	r.state = inCompressed
}

// lengthOrder is in which order the lengths of the codes for code lengths stand.
var lengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the codes of a block.
func (r *Reader) dynamic() {
	if !r.load(14) {
		r.ended()
		return
	}
	nlit, ndist, n := 257+r.take(5), 1+r.take(5), 4+r.take(4)
	if nlit > 286 || ndist > 30 {
		r.err = ErrCorrupt
		return
	}
	codes := r.header.codes[:]
	clear(codes)
	for _, i := range lengthOrder[:n] {
		if !r.load(3) {
			r.ended()
			return
		}
		codes[i] = uint8(r.take(3))
	}
	const primary = 7
	table := r.header.table[:]
	if !build(table, primary, codes[:19], lengthSymbols[:]) {
		r.err = ErrCorrupt
		return
	}
	clear(codes)
	for i := 0; i < nlit+ndist; {
		ok := r.load(primary + 7)
		e := table[r.bits&(1<<primary-1)]
		length := uint(e & 0xff)
		if length == 0 && ok {
			r.err = ErrCorrupt
			return
		}
		value, repeat, extra := uint8(e>>16), 1, uint(0)
		switch value {
		case 16:
			repeat, extra = 3, 2
		case 17:
			repeat, extra = 3, 3
		case 18:
			repeat, extra = 11, 7
		}
		if length == 0 || length+extra > r.nbits {
			r.ended()
			return
		}
		r.take(length)
		repeat += r.take(extra)
		if extra == 0 {
			codes[i] = value
			i++
			continue
		}
		if repeat > nlit+ndist-i || value == 16 && i == 0 {
			r.err = ErrCorrupt
			return
		}
		if value == 16 {
			for k := range repeat {
				codes[i+k] = codes[i-1]
			}
		}
		i += repeat
	}
	if codes[256] == 0 || !build(r.lit.entries[:], litBits, codes[:nlit], litSymbols[:]) ||
		!build(r.dist.entries[:], distBits, codes[nlit:nlit+ndist], distSymbols[:]) {
		r.err = ErrCorrupt
		return
	}
	r.state = inCompressed
}
