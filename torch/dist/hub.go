package dist

import (
	"crypto/subtle"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// patience is how long a rank that answers at all may take to answer.
const (
	patience     = 2 * time.Second
	longPatience = 5 * patience     // where nothing has failed yet
	helloLimit   = 10 * time.Second // for a stranger to say who it is
)

// A hub is rank 0's end of all lines.
type hub struct {
	listener net.Listener
	token    string
	where    string // of the store, for messages
	limit    time.Duration

	mu      sync.Mutex
	links   []*link // by rank; nil: has not come
	rounds  map[int64]*round
	trouble *trouble // the first, which everybody is told
	closed  bool
	pings   int64 // number of the latest round of pings
	judged  bool  // a collective has failed, and judge finds out why
	asking  bool  // a round of pings is under way that only asks who answers
}

// A link is the hub's end of one rank's line.
type link struct {
	*line
	member  Member
	backend string
	left    bool  // has said goodbye
	pong    int64 // last round of pings that it answered
	started int64 // collectives that it had started then
}

// A round is an exchange that not all ranks have come to.
type round struct {
	call []string // by rank, empty until it has come
	data [][]byte
	came int
}

func newHub(listener net.Listener, size int, token, where string, limit time.Duration) *hub {
	h := &hub{listener: listener, token: token, where: where, limit: limit,
		links: make([]*link, size), rounds: map[int64]*round{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go h.welcome(conn)
		}
	}()
	return h
}

// welcome hears a caller who knows the token as long as it talks.
func (h *hub) welcome(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(min(h.limit, helloLimit)))
	m, err := readMessage(conn, maxHello)
	known := err == nil && m.Kind == "hello" &&
		subtle.ConstantTimeCompare([]byte(m.Token), []byte(h.token)) == 1
	if !known || m.Member.Rank < 0 || m.Member.Rank >= len(h.links) {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	k := &link{line: newLine(conn), member: m.Member, backend: m.Call}
	h.mu.Lock()
	if first := h.links[m.Member.Rank]; first != nil {
		h.mu.Unlock()
		k.send(&message{Kind: "trouble", Trouble: &trouble{Kind: "failed",
			Members: []Member{first.member}, Text: "is this rank already"}})
		k.close(patience)
		return
	}
	h.links[m.Member.Rank] = k
	if h.trouble != nil {
		k.send(&message{Kind: "trouble", Trouble: h.trouble})
	} else if !slices.Contains(h.links, nil) {
		h.gathered()
	}
	h.mu.Unlock()

	k.receive(func(m *message) { h.hear(k, m) })
	h.mu.Lock()
	defer h.mu.Unlock()
	if !k.left {
		h.end(&trouble{Kind: "gone", Members: []Member{k.member}})
	}
}

// gathered tells the ranks, all of which have come, who is there. Over different backends they would
// wait for each other in vain. The lock is held.
func (h *hub) gathered() {
	said := make([]string, len(h.links))
	for rank, k := range h.links {
		said[rank] = "backend " + k.backend
	}
	if slices.ContainsFunc(said, func(s string) bool { return s != said[0] }) {
		h.end(&trouble{Kind: "disagree", Said: said})
		return
	}
	h.all(&message{Kind: "members", Members: h.members()})
}

// complete reports whether every rank has come.
func (h *hub) complete() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !slices.Contains(h.links, nil)
}

func (h *hub) members() []Member {
	var ms []Member
	for _, k := range h.links {
		if k != nil {
			ms = append(ms, k.member)
		}
	}
	return ms
}

// all sends m to every rank that is there. The lock is held, as in end.
func (h *hub) all(m *message) {
	for _, k := range h.links {
		if k != nil && !k.left {
			k.send(m)
		}
	}
}

// end tells every rank what has happened, once. Rank 0 hears it last, as its process, and the hub
// with it, may end at once.
func (h *hub) end(t *trouble) {
	if h.trouble != nil || h.closed {
		return
	}
	h.trouble = t
	m := &message{Kind: "trouble", Trouble: t}
	var others []*link
	for _, k := range h.links[1:] {
		if k != nil && !k.left {
			k.send(m)
			others = append(others, k)
		}
	}
	if first := h.links[0]; first != nil {
		go func() {
			for deadline := time.Now().Add(patience); time.Now().Before(deadline) &&
				slices.ContainsFunc(others, func(k *link) bool { return k.busy() }); {
				time.Sleep(time.Millisecond)
			}
			first.send(m)
		}()
	}
}

func (h *hub) hear(k *link, m *message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch m.Kind {
	case "part":
		h.part(k, m)
	case "fail":
		h.end(&trouble{Kind: "failed", Members: []Member{k.member}, Text: m.Text})
	case "suspect":
		if !h.judged && h.trouble == nil {
			h.judged = true
			h.ping()
			time.AfterFunc(patience, func() { h.judge(k, m) })
		}
	case "alive":
		switch {
		case h.judged || h.trouble != nil:
		case h.asking:
			k.send(&message{Kind: "ping", ID: h.pings}) // rank 0 answers, too
		default:
			h.asking = true
			h.ping()
			time.AfterFunc(longPatience, h.bury)
		}
	case "pong":
		k.pong, k.started = h.pings, m.ID
	case "bye":
		k.left = true
		for _, r := range h.rounds {
			if r.call[k.member.Rank] == "" {
				h.end(&trouble{Kind: "left", Members: []Member{k.member}})
			}
		}
	}
}

// ping asks every rank whether it answers.
func (h *hub) ping() {
	h.pings++
	h.all(&message{Kind: "ping", ID: h.pings})
}

// silent are the ranks that did not answer the latest pings.
func (h *hub) silent() []Member {
	var list []Member
	for _, k := range h.links {
		if k != nil && !k.left && k.pong < h.pings {
			list = append(list, k.member)
		}
	}
	return list
}

// bury ends the group where ranks have stopped to answer while others wait for them without a limit.
func (h *hub) bury() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking = false
	if silent := h.silent(); len(silent) > 0 && !h.judged {
		h.end(&trouble{Kind: "timeout", Members: silent, Limit: h.limit})
	}
}

func (h *hub) part(k *link, m *message) {
	r := h.rounds[m.ID]
	if r == nil {
		r = &round{call: make([]string, len(h.links)), data: make([][]byte, len(h.links))}
		h.rounds[m.ID] = r
	}
	r.call[k.member.Rank], r.data[k.member.Rank] = m.Call, m.Data
	r.came++
	for _, other := range h.links {
		if other != nil && other.left && r.call[other.member.Rank] == "" {
			h.end(&trouble{Kind: "left", Members: []Member{other.member}})
		}
	}
	if r.came < len(h.links) {
		return
	}
	delete(h.rounds, m.ID)
	if slices.ContainsFunc(r.call, func(c string) bool { return c != m.Call }) {
		h.end(&trouble{Kind: "disagree", Said: r.call})
		return
	}
	h.all(&message{Kind: "all", ID: m.ID, All: r.data})
}

// judge finds out why a collective of k failed: first whoever does not answer, then whoever has not
// come to it, and else what c10d says.
func (h *hub) judge(k *link, m *message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Whoever has started fewer collectives is behind, which is no fault before the time is over
	// (Gloo: "Timed out waiting", "Application timeout caused pair closure").
	text := strings.ToLower(m.Text)
	timeout := m.ID == 0 && (strings.Contains(text, "timed out") || strings.Contains(text, "timeout"))
	var behind []Member
	for _, other := range h.links {
		if other.left {
			continue
		}
		r := h.rounds[m.ID]
		if r != nil && r.call[other.member.Rank] == "" || timeout && other.started < k.started {
			behind = append(behind, other.member)
		}
	}
	silent := h.silent()
	switch {
	case len(silent) > 0:
		h.end(&trouble{Kind: "timeout", Members: silent, Limit: h.limit})
	case len(behind) > 0:
		h.end(&trouble{Kind: "timeout", Members: behind, Limit: h.limit})
	default:
		h.end(&trouble{Kind: "failed", Members: []Member{k.member}, Text: m.Text})
	}
}

// giveUp tells those who came who did not.
func (h *hub) giveUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &trouble{Kind: "absent", Members: h.members(), Text: h.where, Limit: h.limit}
	for r, k := range h.links {
		if k == nil {
			t.Missing = append(t.Missing, r)
		}
	}
	if len(t.Missing) > 0 {
		h.end(t)
	}
}

// close says goodbye.
func (h *hub) close() {
	h.listener.Close()
	h.mu.Lock()
	h.all(&message{Kind: "bye"})
	h.closed = true
	links := slices.Clone(h.links)
	h.mu.Unlock()
	var wait sync.WaitGroup
	for _, k := range links {
		if k != nil {
			wait.Go(func() { k.close(patience) })
		}
	}
	wait.Wait()
}
