package openjpeg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lntorch/lntorch/formats/dicom/codec"
)

// A pool keeps decoders that wait, and lets no more run than it has room for.
type pool struct {
	room    chan struct{}
	limits  func(c codec.JPEG2000, f codec.Frame) allowance
	command func(library string) *exec.Cmd
	start   time.Duration // until a decoder has opened its library
	idle    time.Duration // after which a decoder that waits ends

	mu      sync.Mutex
	waiting []*decoder
}

func newPool(n int, limits func(codec.JPEG2000, codec.Frame) allowance,
	command func(library string) *exec.Cmd) *pool {
	return &pool{room: make(chan struct{}, n), limits: limits, command: command,
		start: 20 * time.Second, idle: 10 * time.Second}
}

// An allowance is what decoding a frame may take.
type allowance struct {
	memory    uint64        // of the address space, in bytes
	processor uint64        // time, in seconds
	wall      time.Duration // until the answer is there
}

// limits allows a multiple of what CTs and radiographs take: 8 bytes and 140 ns a pixel.
func limits(c codec.JPEG2000, f codec.Frame) allowance {
	pixels := uint64(f.Rows) * uint64(f.Columns)
	return allowance{
		memory:    256<<20 + 16*pixels + 4*uint64(len(c.Codestream)),
		processor: 3 + pixels/500_000,
		wall:      9*time.Second + time.Duration(pixels)*20*time.Microsecond,
	}
}

// command starts this program as a decoder. What it inherits is what finding libraries needs.
func command(library string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: []string{decoderName, library}, Dir: "/",
		// one thread decodes: one arena, whose address space the limit counts
		Env: append(searchPath(), "GOMAXPROCS=1", "MALLOC_ARENA_MAX=1"),
		// a terminal's interrupt is for the program, with which its decoders end
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
}

// A decoder is a process that decodes a frame at a time.
type decoder struct {
	library Library
	cmd     *exec.Cmd
	to      *os.File // requests
	from    *os.File // responses
	end     *time.Timer
}

// decode decodes a frame with a decoder that waits, or a new one. One that waited may have died
// meanwhile, or of what it decoded before: then a new one tries again.
func (p *pool) decode(library Library, dst []byte, c codec.JPEG2000, f codec.Frame) error {
	p.room <- struct{}{}
	defer func() { <-p.room }()
	allowed := p.limits(c, f)
	if d := p.take(); d != nil {
		if err := p.decodeWith(d, dst, c, f, allowed); !errors.Is(err, errDied) {
			return err
		}
	}
	d, err := p.open(library.Path)
	if err != nil {
		return fmt.Errorf("OpenJPEG does not start: %w", err)
	}
	return p.decodeWith(d, dst, c, f, allowed)
}

func (p *pool) decodeWith(d *decoder, dst []byte, c codec.JPEG2000, f codec.Frame,
	a allowance) error {
	err := d.decode(dst, c, f, a)
	var refused *refusal
	if err == nil || errors.As(err, &refused) {
		p.give(d)
		return err
	}
	return d.stop(err)
}

// take returns a decoder that waits, or nil.
func (p *pool) take() *decoder {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.waiting); n > 0; n = len(p.waiting) {
		d := p.waiting[n-1]
		p.waiting = p.waiting[:n-1]
		if d.end.Stop() { // otherwise it is being ended
			return d
		}
	}
	return nil
}

// give lets a decoder wait, not for ever.
func (p *pool) give(d *decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.end = time.AfterFunc(p.idle, func() {
		p.mu.Lock()
		for i, w := range p.waiting {
			if w == d {
				p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
				break
			}
		}
		p.mu.Unlock()
		_ = d.stop(nil)
	})
	p.waiting = append(p.waiting, d)
}

// close ends the decoders that wait.
func (p *pool) close() {
	for d := p.take(); d != nil; d = p.take() {
		_ = d.stop(nil)
	}
}

// open starts a decoder and waits until it has opened the library.
func (p *pool) open(path string) (*decoder, error) {
	d := &decoder{library: Library{Path: path}, cmd: p.command(path)}
	stdin, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	from, stdout, err := os.Pipe()
	if err != nil {
		_, _ = stdin.Close(), to.Close()
		return nil, err
	}
	d.to, d.from = to, from
	d.cmd.Stdin, d.cmd.Stdout = stdin, stdout
	err = d.cmd.Start()
	_, _ = stdin.Close(), stdout.Close()
	if err != nil {
		_, _ = to.Close(), from.Close()
		return nil, err
	}
	_ = from.SetReadDeadline(time.Now().Add(p.start))
	text, err := d.answer(nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it said nothing for %v", p.start)
	}
	var refused *refusal
	if errors.As(err, &refused) {
		err = errors.New(refused.text)
	}
	version, is := strings.CutPrefix(text, hello)
	if err == nil && !is {
		err = errGarbage
	}
	if err != nil {
		return nil, d.stop(err)
	}
	d.library.Version = version
	return d, nil
}

// A refusal is what the decoder says of a codestream. It goes on afterwards.
type refusal struct{ text string }

func (r *refusal) Error() string {
	return "OpenJPEG does not decode the JPEG 2000 codestream: " + r.text
}

var (
	errGarbage = errors.New("the decoder of JPEG 2000 answers with garbage")
	errDied    = errors.New("the decoder of JPEG 2000 ended before it answered")
)

func (d *decoder) decode(dst []byte, c codec.JPEG2000, f codec.Frame, a allowance) error {
	deadline := time.Now().Add(a.wall)
	_, _ = d.to.SetWriteDeadline(deadline), d.from.SetReadDeadline(deadline)
	err := newRequest(c, f, a).write(d.to, c.Codestream)
	if err == nil {
		_, err = d.answer(dst)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the decoder of JPEG 2000 was stopped: it took more than %v", a.wall)
	}
	return err
}

// answer reads a response: to frame, or the text of the greeting if there is no frame.
func (d *decoder) answer(frame []byte) (text string, err error) {
	var r response
	if err := binary.Read(d.from, binary.LittleEndian, &r); err != nil {
		return "", err
	}
	if frame != nil && r.Kind == decoded && int64(r.Length) == int64(len(frame)) {
		_, err := io.ReadFull(d.from, frame)
		return "", err
	}
	if r.Length > maxText || r.Kind != refused && (frame != nil || r.Kind != greeting) {
		return "", errGarbage
	}
	content := make([]byte, r.Length)
	if _, err := io.ReadFull(d.from, content); err != nil {
		return "", err
	}
	if r.Kind == refused {
		return "", &refusal{plain(content)}
	}
	return plain(content), nil
}

// stop ends the decoder at once. It returns err, or what the process died of if err is that the
// pipes end.
func (d *decoder) stop(err error) error {
	_ = d.cmd.Process.Kill()
	_, _ = d.to.Close(), d.from.Close()
	_ = d.cmd.Wait()
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) &&
		!errors.Is(err, syscall.EPIPE) {
		return err
	}
	status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGXCPU:
		return fmt.Errorf("%w: it took too much processor time", errDied)
	case ok && status.Signaled():
		return fmt.Errorf("%w: %v", errDied, status.Signal())
	}
	return fmt.Errorf("%w: %v", errDied, d.cmd.ProcessState)
}
