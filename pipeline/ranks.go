package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/train"
)

// World is which rank this process is, of those that a launcher started; nil: the only one.
type World = *launch.World

// Membership is a rank in its group; without one, a process alone.
type Membership struct{ train.Ranks }

// place gives the machine this rank's device and share of the cores, and what other ranks than the first
// log a prefix.
func place(w World, m *machine.Machine, o *Output) error {
	if w == nil || w.Alone() {
		return o.resolve(m)
	}
	gpus := 0
	if m.DeviceName == "auto" || m.DeviceName == "cuda" {
		if err := torch.Load(); err != nil {
			return err
		}
		gpus, _ = torch.DeviceCount(torch.DeviceCUDA) // without CUDA there are none
	}
	var err error
	if m.DeviceName, err = w.Device(m.DeviceName, gpus); err != nil {
		return err
	}
	if m.Threads == 0 {
		m.Threads = w.Threads(system.Cores())
	}
	if w.Rank > 0 {
		o.Progress = nil
		if o.Log != nil {
			o.Log = &prefixed{out: o.Log, prefix: fmt.Sprintf("[rank %d] ", w.Rank)}
		}
	}
	return o.resolve(m)
}

// Join places this rank and meets the others. Where this rank cannot take part, because of refused or of what its
// machine lacks, the others are told so: they would wait for it.
func Join(ctx context.Context, c launch.Config, w World, m *machine.Machine, o *Output, refused error) (*Membership, error) {
	j := &Membership{}
	err := refused
	if err == nil {
		err = place(w, m, o)
	}
	if w == nil {
		return j, err
	}
	j.Ranks = train.Ranks{Launcher: w.Launcher, Restart: w.Restart, RunID: w.RunID, Agent: w.Agent}
	if w.Alone() { // perhaps because torchrun has lost the others, or before they came
		return j, err
	}
	backend := ""
	if err == nil {
		backend, err = c.BackendOn(m.Device.Type != torch.DeviceCPU)
	}
	host, port := w.HostPort()
	d := dist.Config{Rank: w.Rank, Size: w.Size, Host: host, Port: port, Serve: w.Serve, Prefix: w.Prefix, Interface: w.Interface,
		Device: m.Device, Timeout: c.TimeLimit()}
	if backend == "nccl" {
		d.Backend = dist.NCCL
	}
	if err != nil {
		dist.Refuse(ctx, d, err)
		return nil, err
	}
	group, err := dist.Connect(ctx, d)
	if stopped := stoppedElsewhere(err); stopped != nil {
		return nil, stopped
	}
	if err != nil {
		return nil, err
	}
	j.Group, j.Backend = group, backend
	return j, nil
}

// stoppedAt is the error of a rank where the user stopped another, before all could stop together: a context.Canceled
// that says where.
type stoppedAt struct{ error }

// Is reports whether target is context.Canceled.
func (stoppedAt) Is(target error) bool { return target == context.Canceled }

// stoppedElsewhere is err as a stoppedAt; nil where it is something else.
func stoppedElsewhere(err error) error {
	var elsewhere *dist.Failed
	if errors.As(err, &elsewhere) && elsewhere.Message == dist.StoppedByUser {
		return stoppedAt{err}
	}
	return nil
}

// During is a context that ends with the group, too, whose error is its cause: what a rank does on its own,
// such as predicting its cases, is of no use when another is lost.
func (j *Membership) During(ctx context.Context) (context.Context, context.CancelFunc) {
	if j.Group == nil {
		return ctx, func() {}
	}
	during, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-j.Group.Done():
			cancel(j.Group.Err())
		case <-during.Done():
		}
	}()
	return during, func() { cancel(nil) }
}

// Leave tells the other ranks how this one ended, and gives the error to end with. ctx is what the rank did
// its work under.
func (j *Membership) Leave(ctx context.Context, err error) error {
	if j.Group == nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && errors.Is(err, context.Canceled) {
		err = cause
	}
	var interrupted *train.Interrupted
	stopped := stoppedElsewhere(err)
	switch {
	case err == nil, errors.As(err, &interrupted): // they end likewise
		return errors.Join(err, j.Group.Close())
	case stopped != nil:
		j.Group.Close()
		return stopped
	case errors.Is(err, context.Canceled):
		j.Group.Fail(errors.New(dist.StoppedByUser))
	default:
		j.Group.Fail(err)
	}
	return err
}

// once runs f on rank 0 alone. The others wait for it, however long it takes.
func (j *Membership) once(ctx context.Context, f func() error) error {
	if j.Group == nil {
		return f()
	}
	if j.Group.Rank() == 0 {
		if err := f(); err != nil {
			return err
		}
	}
	return j.Group.BarrierWithoutLimit(ctx)
}

// prefixed writes lines with a prefix.
type prefixed struct {
	out    io.Writer
	prefix string
	mu     sync.Mutex
	line   bytes.Buffer
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.Write(b)
	for {
		i := bytes.IndexByte(p.line.Bytes(), '\n')
		if i < 0 {
			return len(b), nil
		}
		if _, err := fmt.Fprintf(p.out, "%s%s", p.prefix, p.line.Next(i+1)); err != nil {
			return 0, err
		}
	}
}
