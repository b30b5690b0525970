package train

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lntorch/lntorch/torch/dist"
)

// Ranks is a process's place among those that train together. The zero Ranks is a training of one
// process.
type Ranks struct {
	Group    *dist.Group // nil: alone
	Backend  string      // of the group, for the log and run.json: gloo or nccl
	Launcher string      // what started them, for run.json
	Restart  int         // how often it has restarted them
	RunID    string      // the launcher's name of the job, the same after a restart; "none" or empty without one
	Agent    string      // of the launcher on this host: the same after a restart, and of no other job; may be empty
}

// Compression is the type that gradients have on their way between ranks.
type Compression string

// Compressions: none, or the type named.
const (
	CompressOff  Compression = "off"
	CompressFP16 Compression = "fp16"
	CompressBF16 Compression = "bf16"
)

func (c Compression) of() dist.Compress {
	return map[Compression]dist.Compress{CompressFP16: dist.FP16, CompressBF16: dist.BF16}[c] // else none
}

// peers are the other ranks: what they are told, and what they tell. All ranks call the methods in
// the same order. nil: there are none; every method then does what one rank does alone.
type peers struct {
	group  *dist.Group
	waited time.Duration   // for other ranks, since the beginning
	until  context.Context // if not nil, others are waited for until it ends, without a time limit, as long as they answer
}

// newPeers is nil without a group. A group of one, whose only rank does all that ranks do, is for measurements.
func newPeers(g *dist.Group) *peers {
	if g == nil {
		return nil
	}
	return &peers{group: g}
}

func (p *peers) rank() int {
	if p == nil {
		return 0
	}
	return p.group.Rank()
}

func (p *peers) size() int {
	if p == nil {
		return 1
	}
	return p.group.Size()
}

// first reports whether this is the rank that writes files and the log.
func (p *peers) first() bool { return p.rank() == 0 }

// wait is how long this rank has waited for others.
func (p *peers) wait() time.Duration {
	if p == nil {
		return 0
	}
	return p.waited
}

// beyondLimit makes this rank wait for others however long they take: each now works for itself. So it does not wait
// for them to stop together either: it ends with ctx.
func (p *peers) beyondLimit(ctx context.Context) {
	if p != nil {
		p.until = ctx
	}
}

// timed counts the time since start as waiting for other ranks.
func (p *peers) timed(start time.Time) { p.waited += time.Since(start) }

// exchange gives every rank's data. Before beyondLimit it waits for a rank even where the user has asked to stop: all
// ranks stop together.
func (p *peers) exchange(data []byte) ([][]byte, error) {
	defer p.timed(time.Now())
	if p.until != nil {
		return p.group.ExchangeWithoutLimit(p.until, data)
	}
	return p.group.Exchange(context.Background(), data)
}

// meet waits for all ranks.
func (p *peers) meet() error {
	if p == nil {
		return nil
	}
	_, err := p.exchange(nil)
	return err
}

// goOn tells whether every rank goes on: none was asked to stop.
func (p *peers) goOn(ctx context.Context) (bool, error) {
	if p == nil {
		return ctx.Err() == nil, nil
	}
	status := []byte("go")
	if ctx.Err() != nil {
		status = []byte("stop")
	}
	all, err := p.exchange(status)
	if err != nil {
		return false, err
	}
	on := true
	for rank, s := range all {
		switch string(s) {
		case "go":
		case "stop":
			on = false
		default:
			return false, fmt.Errorf("rank %d is not at the same point: start ranks of the same lntorch, with the same data", rank)
		}
	}
	return on, nil
}

// gather gives the value of every rank, in their order.
func gather[T any](p *peers, v T) ([]T, error) {
	if p == nil {
		return []T{v}, nil
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(&v); err != nil {
		return nil, err
	}
	parts, err := p.exchange(b.Bytes())
	if err != nil {
		return nil, err
	}
	all := make([]T, len(parts))
	for i, part := range parts {
		if err := gob.NewDecoder(bytes.NewReader(part)).Decode(&all[i]); err != nil {
			return nil, fmt.Errorf("rank %d: its message cannot be read (%w): start ranks of the same lntorch", i, err)
		}
	}
	return all, nil
}

// seen is a file as a rank sees it. Size is -1 where it does not.
type seen struct{ Size, Time int64 }

func look(path string) (seen, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return seen{-1, 0}, nil
	}
	if err != nil {
		return seen{}, err
	}
	return seen{info.Size(), info.ModTime().UnixNano()}, nil
}

// sight tells which ranks see what rank 0 sees under a path: the same file or folder, by size and time.
func (p *peers) sight(path string) ([]bool, error) {
	own, err := look(path)
	if err != nil {
		return nil, err
	}
	all, err := gather(p, own)
	if err != nil {
		return nil, err
	}
	same := make([]bool, len(all))
	for i, s := range all {
		same[i] = s == all[0]
	}
	return same, nil
}

// piece is what is sent of a file at a time.
const piece = 8 << 20

// spread gives every rank a file that rank 0 has: the path itself where the rank sees the same file, else that
// of a copy in a temporary folder, which remove removes.
func (p *peers) spread(path string) (local string, remove func(), err error) {
	remove = func() {}
	if p == nil {
		return path, remove, nil
	}
	same, err := p.sight(path)
	if err != nil || !slices.Contains(same, false) {
		return path, remove, err
	}
	return p.copies(path, same)
}

// copies is spread where it is known which ranks see the file.
func (p *peers) copies(path string, same []bool) (local string, remove func(), err error) {
	remove = func() {}
	local = path
	var f *os.File // nil: this rank sees the file, and only takes part in the exchange
	switch {
	case p.first():
		f, err = os.Open(path)
	case !same[p.rank()]:
		var folder string
		if folder, err = os.MkdirTemp("", "lntorch-*"); err != nil {
			break
		}
		remove = func() { os.RemoveAll(folder) }
		local = filepath.Join(folder, filepath.Base(path))
		f, err = os.Create(local)
	}
	if err != nil {
		return "", remove, err
	}
	err = p.send(f)
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	return local, remove, err
}

// send sends rank 0's file, to the ranks that have one to write.
func (p *peers) send(f *os.File) error {
	buffer := make([]byte, piece)
	for {
		var part []byte
		if p.first() {
			n, err := io.ReadFull(f, buffer)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			part = buffer[:n]
		}
		all, err := p.exchange(part)
		if err != nil {
			return err
		}
		if len(all[0]) == 0 {
			return nil
		}
		if f != nil && !p.first() {
			if _, err := f.Write(all[0]); err != nil {
				return err
			}
		}
	}
}
