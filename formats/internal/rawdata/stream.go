package rawdata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"

	"github.com/lntorch/lntorch/formats/internal/inflate"
)

// stream decompresses a zlib stream, or gzip members one after another; zeros between and behind
// members are padding. It compares their checksums on a goroutine of its own.
type stream struct {
	z        *inflate.Reader
	gzip     bool
	sum      hash.Hash32
	length   uint32 // of the member so far
	at       int64  // bytes decompressed in all
	ended    bool
	checking chan []byte
	checked  chan struct{}
}

var (
	errChecksum = errors.New("the checksum is wrong")
	errNoSum    = errors.New("the compressed data are cut off behind the pixels")
	errHeader   = errors.New("the compressed data do not begin as zlib's or gzip's")
)

func newStream(r io.Reader) (*stream, error) {
	s := &stream{z: inflate.NewReader(r)}
	first := make([]byte, 2)
	if err := s.z.Raw(first); err != nil {
		return nil, errHeader
	}
	if first[0] == 0x1f && first[1] == 0x8b {
		s.gzip, s.sum = true, crc32.NewIEEE()
		if err := s.header(); err != nil {
			return nil, fmt.Errorf("%w: %w", errHeader, err)
		}
	} else {
		s.sum = adler32.New()
		// RFC 1950: deflate, a window of at most 32 KiB, no dictionary.
		if first[0]&0x0f != 8 || first[0]>>4 > 7 || first[1]&0x20 != 0 ||
			binary.BigEndian.Uint16(first)%31 != 0 {
			return nil, errHeader
		}
	}
	s.z.Restart()
	return s, nil
}

// header passes over the rest of a gzip header. Source: RFC 1952, 2.3.
func (s *stream) header() error {
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

// read decompresses into p as io.Reader does. Where a stream ends it compares the checksum and begins
// the next one; io.EOF means that there is none.
func (s *stream) read(p []byte) (int, error) {
	for !s.ended {
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
	return 0, io.EOF
}

// add counts bytes towards the checksum.
func (s *stream) add(b []byte) {
	s.at += int64(len(b))
	s.length += uint32(len(b))
	if s.checking != nil {
		s.checking <- b
		return
	}
	s.sum.Write(b)
}

// inParallel has checksums computed by a goroutine until the returned function is called; bytes that
// read returned may not change before.
func (s *stream) inParallel() (stop func()) {
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
func (s *stream) end() error {
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
		s.gzip && binary.LittleEndian.Uint32(b[4:]) != s.length:
		return errChecksum
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
	s.length = 0
	return nil
}

// fill decompresses len(raw) bytes and compares the checksum of streams that end with them. more says
// that the data hold more.
func (s *stream) fill(raw []byte) (more bool, err error) {
	defer s.inParallel()()
	expected := s.at + int64(len(raw))
	for len(raw) > 0 {
		n, err := s.read(raw)
		if err != nil {
			return false, damaged(s.at, expected, err)
		}
		raw = raw[n:]
	}
	n, err := s.read(make([]byte, 1))
	if err == io.ErrUnexpectedEOF {
		return false, errNoSum
	}
	if err != nil && err != io.EOF {
		return false, damaged(s.at, expected, err)
	}
	return n > 0, nil
}

// pass decompresses n bytes and drops them.
func (s *stream) pass(n int64) error {
	b := make([]byte, 1<<16)
	for n > 0 {
		k, err := s.read(b[:min(n, int64(len(b)))])
		if err != nil {
			return damaged(s.at, s.at+n, err)
		}
		n -= int64(k)
	}
	return nil
}

// count decompresses all that is left and returns the number of bytes.
func (s *stream) count() (int64, error) {
	b := make([]byte, 1<<16)
	for {
		if _, err := s.read(b); err == io.EOF {
			return s.at, nil
		} else if err != nil {
			return 0, damaged(s.at, s.at, err)
		}
	}
}
