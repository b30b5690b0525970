// Package dist joins the ranks of a data-parallel training in a process group: PyTorch's c10d, over
// Gloo or NCCL. It is mechanism alone: what a rank computes is package train's affair, and how
// ranks are started and numbered that of the launcher.
//
//	g, err := dist.Connect(ctx, dist.Config{Rank: rank, Size: 2, Host: "127.0.0.1", Port: 29500,
//		Serve: rank == 0, Timeout: 5 * time.Minute})
//	…
//	err = g.AllReduce(s, t) // t is the sum of both ranks' t
//
// Whatever waits for other ranks ends with an error when one of them is gone, hangs or fails: the
// same error on every rank that is left, of the types in errors.go.
package dist

import (
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

// String is the name that users know.
func (b Backend) String() string {
	if b == NCCL {
		return "nccl"
	}
	return "gloo"
}

// Config says which rank this process is and where it meets the others.
type Config struct {
	Rank, Size int
	Host       string // of the store
	Port       int
	Serve      bool   // this rank serves the store: rank 0, unless torchrun's agent does
	Prefix     string // of keys in the store, as under torchrun
	Backend    Backend
	Device     torch.Device  // of the tensors, for NCCL
	Interface  string        // of Gloo, as "eth0" or "eth0,eth1"; empty: the one towards the store
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
	local   string // this host's address towards the store

	hub  *hub // on rank 0
	line *line
	id   int64 // of the last exchange

	mu       sync.Mutex
	answers  map[int64]chan [][]byte
	gathered chan []Member // all ranks, when they have come
	err      error
	done     chan struct{}
	heard    time.Time // when rank 0 last said something
	left     bool      // rank 0 has said goodbye
	closed   bool
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
	if pg := g.pg; pg != nil { // Close leaves it alone after an error
		go pg.Abort(err.Error()) // NCCL may take its time, and nobody need wait
	}
}

// verdict is the error of a collective that failed with cause: what rank 0 finds out about it. id
// is the exchange's, 0 for c10d's collectives.
func (g *Group) verdict(cause error, id int64) error {
	if err := g.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	left, closed := g.left, g.closed
	g.mu.Unlock()
	if closed {
		return cause
	}
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
	if err := g.Err(); err != nil {
		return err
	}
	return cause // the group was closed meanwhile
}

// Explain returns why something that waits for other ranks inside libtorch, such as a backward
// pass, failed with err: what has happened to another rank, or err itself, which all ranks then
// get.
func (g *Group) Explain(err error) error {
	if err == nil {
		return nil
	}
	return g.verdict(err, 0)
}

// Check is an error where a collective of c10d's has failed without one of its own: over NCCL it ends
// on the device then, with any values. It is called when values that come from collectives have been
// read, and before anything is made of them.
func (g *Group) Check() error {
	if err := g.Err(); err != nil {
		return err
	}
	return g.Explain(g.pg.Check())
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

func (g *Group) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// Done is closed when the group has ended with an error.
func (g *Group) Done() <-chan struct{} { return g.done }

// Fail tells the other ranks why this one cannot go on: whatever they wait for, or will wait for,
// ends with *Failed and err's text. It returns when the message is on its way.
func (g *Group) Fail(err error) {
	g.tell(err.Error())
	g.end(&Failed{g.self, err.Error()})
	g.Close()
}

// tell tells the other ranks what has happened here, unless they know of something already.
func (g *Group) tell(text string) {
	if g.Err() != nil || g.line == nil {
		return
	}
	g.line.send(&message{Kind: "fail", Text: text})
	select { // rank 0 tells everybody, this rank too
	case <-g.done:
	case <-time.After(patience):
	}
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
