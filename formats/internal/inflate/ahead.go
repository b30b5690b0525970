package inflate

import (
	"bytes"
	"io"
	"sync"
)

const (
	partInput = 512 << 10
	// What all parts may take, and one of them at most.
	aheadMemory = 256 << 20
	partMemory  = 32 << 20
	// Decoding ahead ends after so many parts in a row for nothing.
	maxMisses = 8
)

// limits are those of decoding ahead.
type limits struct {
	input   int64 // bytes of it for one part
	memory  int   // bytes of a part at most
	workers int   // goroutines; 1: nothing is decoded ahead
}

// flush is how an empty stored block ends. A compressor writes one that is told to flush, as is one
// whose goroutines compress blocks apart.
var flush = []byte{0, 0, 0xff, 0xff}

// ahead decodes parts of a stream before their turn comes, each from the first flush in a piece of the
// input. Other bytes may look like a flush, and matches may reach back over one: a part counts only if
// the one before ends at the very byte where it begins, and if no match in it reaches further back than
// that. So what a stream holds does not depend on what is decoded ahead.
type ahead struct {
	s      *Stream
	next   *part // the one whose turn comes; nil if there are no more
	queue  chan *part
	free   chan *part
	quit   chan struct{}
	group  sync.WaitGroup
	misses int // parts in a row
}

// A part begins behind the first flush that ends at low or later, and before high. It ends behind
// the first flush that ends at high or later, where its memory ends, or with the stream.
type part struct {
	low, high int64
	start     int64 // in the input; -1 if there is none, or it cannot be decoded
	z         *Reader
	out       []byte
	n         int // bytes of out
	done      chan struct{}
}

// ahead begins to decode ahead of s, if there is enough for it.
func (s *Stream) ahead() *ahead {
	a := &ahead{s: s, quit: make(chan struct{})}
	if s.limits.workers == 1 || s.in == nil {
		return a
	}
	input, size := s.limits.input, s.in.Size()
	first := s.z.offset() + input
	if size-first < input {
		return a
	}
	parts := s.limits.workers + 1
	a.queue, a.free = make(chan *part, parts), make(chan *part, parts)
	for range parts {
		a.free <- &part{z: NewReader(nil)}
	}
	most := min(s.limits.memory, aheadMemory/parts)
	a.group.Go(func() {
		defer close(a.queue)
		for low := first; low < size; low += input {
			select {
			case <-a.quit:
				return
			case p := <-a.free:
				p.low, p.high, p.done = low, min(low+input, size), make(chan struct{})
				a.queue <- p
				a.group.Go(func() { p.decode(s.in, size, most, a.quit) })
			}
		}
	})
	a.take()
	return a
}

// take goes on to the next part.
func (a *ahead) take() {
	if a.next != nil {
		<-a.next.done
		a.free <- a.next
	}
	if a.next = <-a.queue; a.next != nil {
		a.s.z.pause = a.next.low
	}
}

// stop ends decoding ahead.
func (a *ahead) stop() {
	select {
	case <-a.quit:
		return
	default:
	}
	close(a.quit)
	a.next = nil
	a.group.Wait()
	a.s.z.resume()
}

// join copies the part that begins where decoding has paused, if it was decoded, to raw, and goes on
// behind it. It returns how many bytes that are, and whether they are not all of the part.
func (a *ahead) join(raw []byte) (n int, more bool) {
	at := a.s.z.offset()
	for a.next != nil && a.next.high <= at {
		a.take()
	}
	p := a.next
	if p == nil {
		a.s.z.resume()
		return 0, false
	}
	if <-p.done; p.start == at {
		n = copy(raw, p.out[:p.n])
		a.s.add(raw[:n])
		p.z, a.s.z = a.s.z, p.z
		more, a.misses = n < p.n, 0
		a.s.joined++
		a.take()
		return n, more
	}
	a.s.z.err = nil
	a.take()
	if a.misses++; a.misses == maxMisses {
		a.stop()
	}
	return 0, false
}

// decode decodes a part into at most most bytes.
func (p *part) decode(in io.ReaderAt, size int64, most int, quit chan struct{}) {
	defer close(p.done)
	p.n = 0
	if p.start = p.find(in); p.start < 0 {
		return
	}
	p.z.start(in, p.start, size)
	p.z.pause = p.high
	for p.z.err == nil {
		if len(p.out)-p.n <= slack {
			if len(p.out) >= most {
				break
			}
			p.out = append(p.out, make([]byte, min(max(len(p.out), step), most-len(p.out)))...)
		}
		p.n = p.z.into(p.out[:min(p.n+step, len(p.out))], p.n)
		select {
		case <-quit:
			return
		default:
		}
	}
	if err := p.z.err; err != nil && err != errPaused && err != io.EOF {
		p.start = -1 // decoding in turn finds the error where it is
	}
}

// find returns where the first flush of the part ends, -1 if there is none.
func (p *part) find(in io.ReaderAt) int64 {
	for at := p.low; at < p.high; at += int64(len(p.z.in) - len(flush) + 1) {
		b := p.z.in[:min(int64(len(p.z.in)), p.high-1-at+int64(len(flush)))]
		n, err := in.ReadAt(b, at-int64(len(flush)))
		if i := bytes.Index(b[:n], flush); i >= 0 {
			return at + int64(i)
		}
		if err != nil {
			return -1
		}
	}
	return -1
}

// resume lets decoding go on to the end.
func (r *Reader) resume() {
	r.pause = noPause
	if r.err == errPaused {
		r.err = nil
	}
}
