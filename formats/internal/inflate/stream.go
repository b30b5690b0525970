package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"
	"runtime"
)

// Stream decompresses a zlib stream, or gzip members one after another; zeros between and behind
// members are padding. It compares their checksums.
type Stream struct {
	z        *Reader
	in       *io.SectionReader // what z reads; nil: it cannot be read out of turn
	limits   limits
	joined   int // parts that were decoded ahead
	gzip     bool
	sum      hash.Hash32
	at       int64 // bytes decompressed in all
	member   int64 // those before the current member
	ended    bool
	checking chan []byte
	checked  chan struct{}
}

// Errors of streams.
var (
	ErrChecksum = errors.New("the checksum is wrong")
	ErrHeader   = errors.New("the compressed data do not begin as zlib's or gzip's")
)

// step is how much Fill decompresses before it is handed to the checksum.
const step = 1 << 20

// NewStream reads the header of the stream in in.
func NewStream(in *io.SectionReader) (*Stream, error) { return newStream(in, in) }

func newStream(r io.Reader, in *io.SectionReader) (*Stream, error) {
	s := &Stream{z: NewReader(r), in: in, limits: limits{partInput, partMemory,
		runtime.GOMAXPROCS(0)}}
	first := make([]byte, 2)
	if err := s.z.Raw(first); err != nil {
		return nil, ErrHeader
	}
	if first[0] == 0x1f && first[1] == 0x8b {
		s.gzip, s.sum = true, crc32.NewIEEE()
		if err := s.header(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrHeader, err)
		}
	} else {
		s.sum = adler32.New()
		// RFC 1950: deflate, a window of at most 32 KiB, no dictionary.
		if first[0]&0x0f != 8 || first[0]>>4 > 7 || first[1]&0x20 != 0 ||
			binary.BigEndian.Uint16(first)%31 != 0 {
			return nil, ErrHeader
		}
	}
	s.z.Restart()
	return s, nil
}

// header passes over the rest of a gzip header. Source: RFC 1952, 2.3.
func (s *Stream) header() error {
	b := make([]byte, 8)
	if err := s.z.Raw(b); err != nil {
		return noEOF(err)
	}
	flags := b[1]
	if b[0] != 8 || flags&0xe0 != 0 {
		return errors.New("an unknown method or flag")
	}
	skip := func(n int) error {
		for range n {
			if err := s.z.Raw(b[:1]); err != nil {
				return noEOF(err)
			}
		}
		return nil
	}
	if flags&4 != 0 { // extra
		if err := s.z.Raw(b[:2]); err != nil {
			return noEOF(err)
		}
		if err := skip(int(binary.LittleEndian.Uint16(b))); err != nil {
			return err
		}
	}
	for _, text := range []byte{8, 16} { // name, comment
		for b[0] = 1; flags&text != 0 && b[0] != 0; {
			if err := skip(1); err != nil {
				return err
			}
		}
	}
	if flags&2 != 0 { // checksum of the header
		return skip(2)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read decompresses into p. Where a stream ends it compares the checksum and begins the next one;
// io.EOF means that there is none.
func (s *Stream) Read(p []byte) (int, error) {
	for !s.ended && len(p) > 0 {
		n, err := s.z.Read(p)
		if n > 0 {
			s.add(p[:n])
			return n, nil
		}
		if err != io.EOF {
			return 0, err
		}
		if err := s.end(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	return 0, io.EOF
}

// add counts bytes towards the checksum.
func (s *Stream) add(b []byte) {
	s.at += int64(len(b))
	if s.checking != nil {
		s.checking <- b
		return
	}
	s.sum.Write(b)
}

// inParallel has checksums computed by a goroutine until the returned function is called; bytes that
// add got may not change before.
func (s *Stream) inParallel() (stop func()) {
	s.checking, s.checked = make(chan []byte, 32), make(chan struct{})
	go func() {
		for b := range s.checking {
			if b == nil {
				s.checked <- struct{}{}
				continue
			}
			s.sum.Write(b)
		}
		close(s.checked)
	}()
	return func() {
		close(s.checking)
		<-s.checked
		s.checking = nil
	}
}

// end compares the checksum of a stream and finds the next one.
func (s *Stream) end() error {
	if s.checking != nil {
		s.checking <- nil
		<-s.checked
	}
	b := make([]byte, 8)
	if !s.gzip {
		b = b[:4]
	}
	if err := s.z.Raw(b); err != nil {
		return noEOF(err)
	}
	switch {
	case !s.gzip && binary.BigEndian.Uint32(b) != s.sum.Sum32(),
		s.gzip && binary.LittleEndian.Uint32(b) != s.sum.Sum32(),
		s.gzip && binary.LittleEndian.Uint32(b[4:]) != uint32(s.at-s.member):
		return ErrChecksum
	case !s.gzip:
		s.ended = true
		return nil
	}
	b = b[:1]
	for b[0] = 0; b[0] == 0; {
		if err := s.z.Raw(b); err != nil {
			s.ended = err == io.EOF
			if s.ended {
				return nil
			}
			return err
		}
	}
	// What is no member ends the data, as in zlib's gzread.
	first := b[0]
	if err := s.z.Raw(b); first != 0x1f || err != nil || b[0] != 0x8b || s.header() != nil {
		s.ended = true
		return nil
	}
	s.z.Restart()
	s.sum.Reset()
	s.member = s.at
	return nil
}

// Fill decompresses len(raw) bytes, with as many goroutines as there are processors where the stream
// allows it, and compares the checksum of streams that end with them. It returns how many bytes there
// are and whether the stream has more; nothing may be read afterwards. Where n is len(raw) and the error
// io.ErrUnexpectedEOF, the stream ends before its checksum.
func (s *Stream) Fill(raw []byte) (n int, more bool, err error) {
	defer s.inParallel()()
	a := s.ahead()
	defer a.stop()
	from := s.at
	for n < len(raw) {
		first := max(0, int(s.member-from)) // of the member in raw
		switch {
		case s.z.err == errPaused && s.z.unread() == 0:
			var k int
			k, more = a.join(raw[n:])
			n += k
			s.z.follow(raw[first:n])
		// Matches reach back to where raw has it all: the whole member, or a window.
		case s.z.err == nil && s.z.unread() == 0 && (s.member >= from || n >= window) &&
			len(raw)-n > slack:
			end := first + s.z.into(raw[first:min(n+step, len(raw))], n-first)
			s.add(raw[n:end])
			n = end
			s.z.follow(raw[first:n])
		default:
			k, err := s.Read(raw[n:min(n+window, len(raw))])
			if n += k; err != nil && err != errPaused {
				return n, false, err
			}
		}
	}
	if a.stop(); more {
		return n, true, nil
	}
	k, err := s.Read(make([]byte, 1))
	if err != nil && err != io.EOF {
		return n, false, err
	}
	return n, k > 0, nil
}
