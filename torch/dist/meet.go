package dist

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lntorch/lntorch/torch"
)

// StoppedByUser is what other ranks are told, in *Failed, of one whose context was cancelled: where
// the user stopped it.
const StoppedByUser = "stopped by the user"

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
	return connect(ctx, c)
}

func connect(ctx context.Context, c Config) (*Group, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	g := newGroup(c, host)
	limit, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err = g.meet(limit); err == nil {
		connecting, cancel := context.WithTimeout(ctx, c.Timeout) // the last rank may have come late
		defer cancel()
		err = g.connect(connecting)
	}
	if err != nil {
		var absent *Absent
		var elsewhere *Failed
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
			g.tell(StoppedByUser)
		case errors.As(err, &absent), errors.As(err, &elsewhere) && elsewhere.Message == StoppedByUser:
			g.tell(err.Error())
		default:
			g.tell(err.Error())
			g.tellLate(limit)
		}
		g.end(err)
		g.Close()
		return nil, err
	}
	return g, nil
}

func newGroup(c Config, host string) *Group {
	return &Group{config: c, self: Member{c.Rank, host, os.Getpid()}, done: make(chan struct{}),
		answers: map[int64]chan [][]byte{}, gathered: make(chan []Member, 1)}
}

// late is how long rank 0, where it cannot take part, stays for ranks that are still to come.
const late = 20 * time.Second

// tellLate waits, as rank 0, until every rank has come and been told what has happened, some time at
// most: without rank 0 those that come later would look for it until their time limit.
func (g *Group) tellLate(ctx context.Context) {
	if g.hub == nil {
		return
	}
	limit := time.After(late)
	for !g.hub.complete() {
		select {
		case <-ctx.Done():
			return
		case <-limit:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Refuse meets the other ranks only to tell them why this one does not take part: their Connect ends
// with *Failed and err's text. Where they cannot be met within 20 s they are not told.
func Refuse(ctx context.Context, c Config, err error) {
	host, e := os.Hostname()
	if e != nil {
		return
	}
	c.Timeout = min(c.Timeout, late)
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	g := newGroup(c, host)
	local, e := g.openStore(ctx)
	if e == nil {
		e = g.openLine(ctx, local)
	}
	if e == nil {
		g.tell(err.Error())
		g.tellLate(ctx)
	}
	g.end(err)
	g.Close()
}

func (c *Config) where() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// absent is the error of a rank that does not even find rank 0, or whoever serves the store.
func (c *Config) absent() error {
	return &Absent{Missing: []int{0}, Where: c.where(), Limit: c.Timeout}
}

// meet waits until every rank has come.
func (g *Group) meet(ctx context.Context) error {
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
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
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
	g.local = local
	return g.Err()
}

// connect makes c10d's connections of ranks that have met.
func (g *Group) connect(ctx context.Context) error {
	device := g.config.Interface
	over := ""
	if device == "" {
		device = "@" + address(g.config.Host, g.local)
	} else if g.config.Backend == Gloo {
		if err := hasInterfaces(device); err != nil {
			return err
		}
		over = " over GLOO_SOCKET_IFNAME=" + device
	}
	connecting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // another rank's failure to connect ends this one's attempt
		select {
		case <-g.done:
			cancel()
		case <-connecting.Done():
		}
	}()
	err := inBackground(connecting, func() error {
		if g.config.Backend == NCCL {
			return g.connectNCCL()
		}
		pg, err := torch.NewGloo(g.store, g.config.Rank, g.config.Size, device, g.config.Timeout)
		if err != nil {
			return err
		}
		return g.use(pg)
	})
	var own lacking
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.As(err, &own):
		return own.error
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("timed out after %v", g.config.Timeout)
	}
	if err != nil {
		return g.verdict(fmt.Errorf("connect the ranks%s: %w", over, err), 0)
	}
	return g.Err()
}

// use makes pg the group's, unless the group has ended meanwhile.
func (g *Group) use(pg *torch.ProcessGroup) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.pg = pg
	}
	return g.err
}

// newNCCL is torch.NewNCCL; tests have no GPUs.
var newNCCL = torch.NewNCCL

// lacking is the error of a rank without what NCCL needs, which no other has caused.
type lacking struct{ error }

// connectNCCL makes the process group and its connections: NCCL makes them in the first collective,
// where a rank waits in C for all others, those too that failed.
func (g *Group) connectNCCL() error {
	c := &g.config
	pg, err := newNCCL(g.store, c.Rank, c.Size, c.Timeout)
	if err != nil {
		return lacking{err}
	}
	if err := g.use(pg); err != nil {
		return err
	}
	return torch.With(func(s *torch.Scope) error {
		one := s.Full([]int64{1}, 1, torch.Float32, c.Device)
		if s.Err() != nil {
			return s.Err()
		}
		w, err := pg.AllReduce(one, torch.OpSum)
		if err != nil {
			return err
		}
		defer w.Free()
		for done := false; !done; {
			if done, err = w.Wait(100 * time.Millisecond); err != nil {
				return err
			}
		}
		sum, err := one.Item() // waits for the device
		if err == nil && sum != float64(c.Size) {
			err = fmt.Errorf("%d ranks add up to %v", c.Size, sum)
		}
		return err
	})
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

// hasInterfaces is an error unless this host has all of the interfaces "eth0,eth1", each with an address.
func hasInterfaces(names string) error {
	for name := range strings.SplitSeq(strings.TrimSuffix(names, ","), ",") {
		if strings.Contains(name, ":") { // an alias of an address, which only Gloo knows
			continue
		}
		i, err := net.InterfaceByName(name)
		if err != nil {
			all, e := net.Interfaces()
			if e != nil {
				return fmt.Errorf("GLOO_SOCKET_IFNAME: interface %q: %w", name, e)
			}
			var here []string
			for _, i := range all {
				here = append(here, i.Name)
			}
			return fmt.Errorf("GLOO_SOCKET_IFNAME: found %q, expected interfaces of this host, which has %s", name, strings.Join(here, ", "))
		}
		addresses, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("GLOO_SOCKET_IFNAME: interface %q: %w", name, err)
		}
		if len(addresses) == 0 {
			return fmt.Errorf("GLOO_SOCKET_IFNAME: interface %q has no address", name)
		}
	}
	return nil
}

// openStore serves the store or finds it. local is this host's address towards the store.
func (g *Group) openStore(ctx context.Context) (local string, err error) {
	c := &g.config
	var listener *net.TCPListener
	if c.Serve {
		on := "" // every network: whoever reaches the store may read and write it
		if loopback(c.Host) {
			on = c.Host
		}
		l, err := net.Listen("tcp", net.JoinHostPort(on, strconv.Itoa(c.Port)))
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
	host := c.Host
	if loopback(host) { // localhost has several addresses, of which the store may have one
		host = conn.RemoteAddr().(*net.TCPAddr).IP.String()
	}
	conn.Close()
	err = inBackground(ctx, func() (err error) {
		g.store, err = torch.NewStore(host, c.Port, listener, c.Prefix, c.Timeout)
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
		port := l.Addr().(*net.TCPAddr).Port
		at = invitation{address(c.Host, local), strconv.Itoa(port), rand.Text()}
		g.hub = newHub(l, c.Size, at.Token, c.where(), c.Timeout)
		text, err := json.Marshal(at)
		if err != nil {
			return err
		}
		err = inBackground(ctx, func() error { return g.store.Set(invitationKey, text) })
		if err != nil {
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
	return g.line.send(&message{Kind: "hello", Token: at.Token, Member: g.self, Call: c.Backend.String()})
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
	g.mu.Lock()
	g.heard = time.Now()
	g.mu.Unlock()
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
