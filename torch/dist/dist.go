// Package dist joins the ranks of a data-parallel training in a process group: PyTorch's c10d, over
// Gloo or NCCL. It is mechanism alone: what a rank computes is package train's affair, and how ranks
// are started and numbered that of the launcher.
//
//	g, err := dist.Connect(ctx, dist.Config{Rank: rank, Size: 2, Host: "127.0.0.1", Port: 29500, Serve: rank == 0,
//		Timeout: 5 * time.Minute})
//	…
//	err = g.AllReduce(s, t) // t is the sum of both ranks' t
//
// Whatever waits for other ranks ends with an error when one of them is gone, hangs or fails: the
// same error on every rank that is left, of the types in errors.go.
package dist

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lntorch/lntorch/torch"
)

// Backend carries collectives.
type Backend int

// Backends.
const (
	Gloo Backend = iota // between CPUs
	NCCL                // between NVIDIA GPUs
)

// Config says which rank this process is and where it meets the others.
type Config struct {
	Rank, Size int
	Host       string // of the store
	Port       int
	Serve      bool   // this rank serves the store: rank 0, unless torchrun's agent does
	Prefix     string // of keys in the store, as under torchrun
	Backend    Backend
	Device     torch.Device
	Interface  string        // of Gloo's connections, as "eth0" or "eth0,eth1"; empty: that towards the store
	Timeout    time.Duration // of the meeting and of every collective
}

// Group is this rank's membership in a process group. Its methods are called by one goroutine,
// except Fail, Close, Err and Done, which any may call.
type Group struct {
	config  Config
	store   *torch.Store
	pg      *torch.ProcessGroup
	members []Member
	self    Member

	hub  *hub // on rank 0
	line *line
	id   int64 // of the last exchange

	mu       sync.Mutex
	answers  map[int64]chan [][]byte
	gathered chan []Member // all ranks, when they have come
	err      error
	done     chan struct{}
	left     bool // rank 0 has said goodbye
	closed   bool
}

// Connect meets the other ranks. It waits for them until c.Timeout or until ctx ends; the error is
// *Absent if ranks did not come.
func Connect(ctx context.Context, c Config) (*Group, error) {
	if c.Size < 1 || c.Rank < 0 || c.Rank >= c.Size {
		return nil, fmt.Errorf("dist: no rank %d of %d", c.Rank, c.Size)
	}
	if c.Timeout <= 0 {
		return nil, errors.New("dist: the time limit must be above 0")
	}
	if c.Backend == NCCL && c.Device.Type != torch.DeviceCUDA {
		return nil, fmt.Errorf("dist: NCCL connects GPUs, not %v; use Gloo", c.Device)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	g := &Group{config: c, self: Member{c.Rank, host, os.Getpid()}, answers: map[int64]chan [][]byte{},
		gathered: make(chan []Member, 1), done: make(chan struct{})}
	limit, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := g.connect(limit); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if g.line != nil && g.Err() == nil {
			g.line.send(&message{Kind: "fail", Text: err.Error()})
		}
		g.Close()
		return nil, err
	}
	return g, nil
}

func (c *Config) where() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// absent is the error of a rank that does not even find rank 0, or whoever serves the store.
func (c *Config) absent() error {
	return &Absent{Missing: []int{0}, Where: c.where(), Limit: c.Timeout}
}

func (g *Group) connect(ctx context.Context) error {
	local, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	if err := g.openLine(ctx, local); err != nil {
		return err
	}
	select {
	case members := <-g.gathered:
		g.mu.Lock()
		g.members = members
		g.mu.Unlock()
	case <-g.done:
		return g.Err()
	case <-ctx.Done():
		if g.hub != nil {
			g.hub.giveUp()
		}
		select {
		case <-g.done:
			return g.Err()
		case <-time.After(patience):
			return g.config.absent()
		}
	}
	device := g.config.Interface
	if device == "" {
		device = "@" + address(g.config.Host, local)
	}
	var pg *torch.ProcessGroup
	err = inBackground(ctx, func() (err error) {
		if g.config.Backend == NCCL {
			pg, err = torch.NewNCCL(g.store, g.config.Rank, g.config.Size, g.config.Timeout)
		} else {
			pg, err = torch.NewGloo(g.store, g.config.Rank, g.config.Size, device, g.config.Timeout)
		}
		return err
	})
	if err != nil && g.config.Backend == Gloo {
		err = g.verdict(fmt.Errorf("connect the ranks: %w", err), 0)
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.pg = pg
	g.mu.Unlock()
	return g.Err()
}

// inBackground runs f, which waits in C, on another thread, and leaves it there when ctx ends.
func inBackground(ctx context.Context, f func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// address is where other ranks reach this one: local, its address towards the store. A host may
// know its own name by a loopback address, which others cannot reach: then it is the first of its
// addresses.
func address(host, local string) string {
	if loopback(host) || !loopback(local) {
		return local
	}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				return n.IP.String()
			}
		}
	}
	return local
}

// openStore serves the store or finds it. local is this host's address towards the store.
func (g *Group) openStore(ctx context.Context) (local string, err error) {
	c := &g.config
	var listener *net.TCPListener
	if c.Serve {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(c.Port))
		if err != nil {
			return "", fmt.Errorf("serve the ranks' store: %w; choose another port", err)
		}
		defer l.Close()
		listener = l.(*net.TCPListener)
		c.Port = l.Addr().(*net.TCPAddr).Port
	}
	conn, err := dial(ctx, c.where())
	if err != nil {
		if ctx.Err() != nil {
			return "", c.absent()
		}
		return "", fmt.Errorf("find the ranks' store: %w", err)
	}
	local = conn.LocalAddr().(*net.TCPAddr).IP.String()
	conn.Close()
	err = inBackground(ctx, func() (err error) {
		g.store, err = torch.NewStore(c.Host, c.Port, listener, c.Prefix, c.Timeout)
		return err
	})
	return local, err
}

// dial connects to an address where somebody may not listen yet. A name that does not exist is an
// error at once.
func dial(ctx context.Context, address string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		var name *net.DNSError
		if err == nil || errors.As(err, &name) && name.IsNotFound {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// An invitation is what rank 0 leaves in the store for the others: where their lines go.
type invitation struct{ Host, Port, Token string }

const invitationKey = "lntorch/rank0"

func (g *Group) openLine(ctx context.Context, local string) error {
	c := &g.config
	var at invitation
	if c.Rank == 0 {
		on := ""
		if loopback(c.Host) {
			on = local
		}
		l, err := net.Listen("tcp", net.JoinHostPort(on, "0"))
		if err != nil {
			return err
		}
		at = invitation{address(c.Host, local), strconv.Itoa(l.Addr().(*net.TCPAddr).Port), rand.Text()}
		g.hub = newHub(l, c.Size, at.Token, c.where(), c.Timeout)
		text, err := json.Marshal(at)
		if err != nil {
			return err
		}
		if err := inBackground(ctx, func() error { return g.store.Set(invitationKey, text) }); err != nil {
			return err
		}
	} else {
		err := inBackground(ctx, func() error {
			text, err := g.store.Get(invitationKey, c.Timeout)
			if err != nil {
				return err
			}
			return json.Unmarshal(text, &at)
		})
		if err != nil {
			return c.absent()
		}
		if loopback(at.Host) {
			at.Host = c.Host
		}
	}
	conn, err := dial(ctx, net.JoinHostPort(at.Host, at.Port))
	if err != nil {
		return fmt.Errorf("reach rank 0: %w", err)
	}
	g.line = newLine(conn)
	go func() {
		g.line.receive(g.hear)
		g.mu.Lock()
		left := g.left
		g.mu.Unlock()
		if !left {
			g.end(&Gone{g.rank0()})
		}
	}()
	return g.line.send(&message{Kind: "hello", Token: at.Token, Member: g.self})
}

func (g *Group) rank0() Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.members) > 0 {
		return g.members[0]
	}
	return Member{}
}

// hear deals with a message of rank 0.
func (g *Group) hear(m *message) {
	switch m.Kind {
	case "members":
		select {
		case g.gathered <- m.Members:
		default:
		}
	case "all":
		g.mu.Lock()
		answer := g.answers[m.ID]
		delete(g.answers, m.ID)
		g.mu.Unlock()
		if answer != nil {
			answer <- m.All
		}
	case "ping":
		g.mu.Lock()
		var started int64
		if g.pg != nil && !g.closed {
			started, _ = g.pg.Clock()
		}
		g.mu.Unlock()
		g.line.send(&message{Kind: "pong", ID: started})
	case "trouble":
		g.end(m.Trouble.err())
	case "bye":
		g.mu.Lock()
		g.left = true
		needed := len(g.answers) > 0
		g.mu.Unlock()
		if needed {
			g.end(&Left{g.rank0()})
		}
	}
}

// end gives up everything that waits for other ranks, with err.
func (g *Group) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil || g.closed {
		return
	}
	g.err = err
	close(g.done)
	if g.pg != nil {
		g.pg.Abort(err.Error())
	}
}

// verdict is the error of a collective that failed with cause: what rank 0 finds out about it. id is
// the exchange's, 0 for c10d's collectives.
func (g *Group) verdict(cause error, id int64) error {
	if err := g.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	left := g.left
	g.mu.Unlock()
	if left {
		g.end(&Left{g.rank0()})
		return g.Err()
	}
	g.line.send(&message{Kind: "suspect", ID: id, Text: cause.Error()})
	select {
	case <-g.done:
	case <-time.After(3 * patience):
		if g.config.Rank == 0 {
			g.end(cause)
		} else {
			g.end(&TimedOut{[]Member{g.rank0()}, g.config.Timeout})
		}
	}
	return g.Err()
}

// Explain returns why something that waits for other ranks inside libtorch, such as a backward pass,
// failed with err: what has happened to another rank, or err itself, which all ranks then get.
func (g *Group) Explain(err error) error {
	if err == nil {
		return nil
	}
	return g.verdict(err, 0)
}

// Rank is this rank's number, from 0.
func (g *Group) Rank() int { return g.config.Rank }

// Size is the number of ranks.
func (g *Group) Size() int { return g.config.Size }

// Members are all ranks.
func (g *Group) Members() []Member { return g.members }

// Err is what has ended the group; nil as long as it works.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Done is closed when the group has ended with an error.
func (g *Group) Done() <-chan struct{} { return g.done }

// Fail tells the other ranks why this one cannot go on: whatever they wait for, or will wait for,
// ends with *Failed and err's text. It returns when the message is on its way.
func (g *Group) Fail(err error) {
	if g.Err() == nil && g.line != nil {
		g.line.send(&message{Kind: "fail", Text: err.Error()})
		select { // rank 0 tells everybody, this rank too
		case <-g.done:
		case <-time.After(patience):
		}
	}
	g.end(&Failed{g.self, err.Error()})
	g.Close()
}

// Close leaves the group. After an error c10d's connections are left to the end of the process, as
// closing them would wait for collectives under way.
func (g *Group) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	failed := g.err != nil
	g.mu.Unlock()
	if g.line != nil {
		g.line.send(&message{Kind: "bye"})
		g.line.close(patience)
	}
	if g.hub != nil {
		g.hub.close()
	}
	if !failed {
		if g.pg != nil {
			g.pg.Free()
		}
		if g.store != nil {
			g.store.Free()
		}
	}
	return nil
}

// Exchange gives every rank each rank's data, of any length, in the order of ranks. All ranks call it.
// It ends with ctx's error when ctx ends; the others then wait for this rank until it fails or
// closes.
func (g *Group) Exchange(ctx context.Context, data []byte) ([][]byte, error) {
	return g.exchange(ctx, "an exchange", data, g.config.Timeout)
}

// Barrier returns when all ranks have called it.
func (g *Group) Barrier(ctx context.Context) error {
	_, err := g.exchange(ctx, "a barrier", nil, g.config.Timeout)
	return err
}

// BarrierWithoutLimit is Barrier for what may take longer than the time limit, such as rank 0
// preparing data: it ends when all have come, a rank is gone or fails, or ctx ends.
func (g *Group) BarrierWithoutLimit(ctx context.Context) error {
	_, err := g.exchange(ctx, "a barrier", nil, 0)
	return err
}

func (g *Group) exchange(ctx context.Context, call string, data []byte, limit time.Duration) ([][]byte, error) {
	if err := g.Err(); err != nil {
		return nil, err
	}
	answer := make(chan [][]byte, 1)
	g.mu.Lock()
	g.id++
	id := g.id
	g.answers[id] = answer
	g.mu.Unlock()
	if err := g.line.send(&message{Kind: "part", ID: id, Call: call, Data: data}); err != nil {
		return nil, g.verdict(err, id)
	}
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case all := <-answer:
		return all, nil
	case <-g.done:
		return nil, g.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-late:
		return nil, g.verdict(fmt.Errorf("%s timed out after %v", call, limit), id)
	}
}

// AllReduce replaces t by the sum of all ranks' t, which have one shape and dtype.
func (g *Group) AllReduce(s *torch.Scope, t *torch.Tensor) error {
	return g.inPlace(s, t, func(t *torch.Tensor) error {
		if g.small(t) {
			return s.With(func(s *torch.Scope) error {
				all, err := g.gather(s, "all-reduce", t)
				if err != nil {
					return err
				}
				return torch.NoGrad(func() error {
					t := s.Detach(t)
					s.Copy_(t, s.Select(all, 0, 0), false)
					for r := 1; r < g.Size(); r++ {
						s.Add_(t, s.Select(all, 0, int64(r)), 1)
					}
					return s.Err()
				})
			})
		}
		if err := g.same(describe("all-reduce", t)); err != nil {
			return err
		}
		return g.wait(g.pg.AllReduce(t, torch.OpSum))
	})
}

// small reports whether t goes over the lines: one exchange, which is quicker than c10d's threads
// and makes sure that the ranks agree, too.
func (g *Group) small(t *torch.Tensor) bool {
	return t.Device().Type == torch.DeviceCPU && t.Numel()*t.DType().Size()*int64(g.Size()) <= 16<<10
}

// gather returns every rank's t, which is contiguous: (world size, t's shape).
func (g *Group) gather(s *torch.Scope, call string, t *torch.Tensor) (*torch.Tensor, error) {
	all := s.Empty(append([]int64{int64(g.Size())}, t.Shape()...), t.DType(), t.Device())
	if s.Err() != nil {
		return nil, s.Err()
	}
	if !g.small(t) {
		if err := g.same(describe(call, t)); err != nil {
			return nil, err
		}
		return all, g.wait(g.pg.AllGather(t, all))
	}
	data, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	parts, err := g.exchange(context.Background(), describe(call, t), data, g.config.Timeout)
	if err != nil {
		return nil, err
	}
	return all, all.CopyBytesIn(slices.Concat(parts...))
}

// Broadcast overwrites the tensors ts, the same list on every rank, by root's.
func (g *Group) Broadcast(ts []*torch.Tensor, root int) error {
	if err := g.same(describe("broadcast", ts...)); err != nil {
		return err
	}
	return torch.With(func(s *torch.Scope) error {
		for _, t := range ts {
			err := g.inPlace(s, t, func(t *torch.Tensor) error { return g.wait(g.pg.Broadcast(t, root)) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// inPlace gives f the elements of t in order.
func (g *Group) inPlace(s *torch.Scope, t *torch.Tensor, f func(t *torch.Tensor) error) error {
	if t.IsContiguous() {
		return f(t)
	}
	return torch.NoGrad(func() error {
		return s.With(func(s *torch.Scope) error {
			c := s.Contiguous(s.Detach(t), torch.Contiguous)
			if s.Err() != nil {
				return s.Err()
			}
			if err := f(c); err != nil {
				return err
			}
			s.Copy_(s.Detach(t), c, false)
			return s.Err()
		})
	})
}

// wait waits for a collective, in short calls of C.
func (g *Group) wait(w *torch.Work, err error) error {
	if err != nil {
		return g.verdict(err, 0)
	}
	defer w.Free()
	for {
		done, err := w.Wait(100 * time.Millisecond)
		if err != nil {
			return g.verdict(err, 0)
		}
		if done {
			return nil
		}
	}
}

func describe(call string, ts ...*torch.Tensor) string {
	var b strings.Builder
	b.WriteString(call)
	for _, t := range ts {
		fmt.Fprintf(&b, " %v %v", t.Shape(), t.DType())
	}
	return b.String()
}

// same makes sure that every rank says the same, before a collective in which Gloo would end the
// process otherwise: else the group ends with *Disagree.
func (g *Group) same(said string) error {
	_, err := g.exchange(context.Background(), said, nil, g.config.Timeout)
	return err
}
