package dist

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Beside c10d's connections every rank has a line to rank 0, over which it exchanges what is small
// and learns what happens to others. c10d itself tells only a rank's neighbours that it has ended,
// with an address instead of a rank, and cannot be asked at all about one that hangs.

// A message is one frame of a line: its length in 4 bytes, then JSON.
type message struct {
	// To rank 0: hello, part, pong, suspect, alive, fail, bye. From there: members, all, ping, trouble, bye.
	Kind    string
	Token   string   `json:",omitempty"` // hello
	Member  Member   // hello
	ID      int64    `json:",omitempty"` // part, all: which exchange; pong: collectives started
	Call    string   `json:",omitempty"` // part: what is exchanged; hello: over which backend
	Data    []byte   `json:",omitempty"` // part
	All     [][]byte `json:",omitempty"` // all: each rank's data
	Members []Member `json:",omitempty"` // members: who is there
	Text    string   `json:",omitempty"` // suspect, fail
	Trouble *trouble `json:",omitempty"` // trouble
}

const (
	maxHello = 4 << 10   // bytes read from a stranger
	maxFrame = 256 << 20 // and from a rank
)

func readMessage(r io.Reader, limit int) (*message, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n > limit {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	m := &message{}
	return m, json.Unmarshal(body, m)
}

func frame(m *message) ([]byte, error) {
	body, err := json.Marshal(m)
	if err == nil && len(body) > maxFrame {
		err = fmt.Errorf("%d bytes are too much for an exchange", len(m.Data))
	}
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

// A line sends messages one after the other without making its callers wait.
type line struct {
	conn net.Conn

	mu      sync.Mutex
	waiting [][]byte
	sending bool
	broken  bool
	idle    *sync.Cond // no frame is on its way
}

func newLine(conn net.Conn) *line {
	l := &line{conn: conn}
	l.idle = sync.NewCond(&l.mu)
	return l
}

func (l *line) send(m *message) error {
	f, err := frame(m)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return net.ErrClosed
	}
	l.waiting = append(l.waiting, f)
	if !l.sending {
		l.sending = true
		go l.write()
	}
	return nil
}

func (l *line) write() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && !l.broken {
		f := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		_, err := l.conn.Write(f)
		l.mu.Lock()
		if err != nil {
			l.broken = true
		}
	}
	l.sending = false
	l.idle.Broadcast()
}

// busy reports whether frames are on their way.
func (l *line) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sending
}

// close sends what is waiting, for at most limit, and closes the connection.
func (l *line) close(limit time.Duration) {
	l.conn.SetWriteDeadline(time.Now().Add(limit))
	l.mu.Lock()
	for l.sending {
		l.idle.Wait()
	}
	l.broken = true
	l.mu.Unlock()
	l.conn.Close()
}

// receive calls f for every message until the connection ends.
func (l *line) receive(f func(m *message)) error {
	for {
		m, err := readMessage(l.conn, maxFrame)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return io.EOF
			}
			return err
		}
		f(m)
	}
}
