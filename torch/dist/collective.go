package dist

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/torch"
)

// Exchange gives every rank each rank's data, of any length, in the order of ranks. All ranks call
// it. It ends with ctx's error when ctx ends; the others then wait for this rank until it fails or
// closes.
func (g *Group) Exchange(ctx context.Context, data []byte) ([][]byte, error) {
	return g.exchange(ctx, "an exchange", data, limited)
}

// ExchangeWithoutLimit is Exchange for what may take longer than the time limit, such as ranks that
// each have much to do on their own: it ends when all have come, a rank is gone, fails or hangs, or
// ctx ends.
func (g *Group) ExchangeWithoutLimit(ctx context.Context, data []byte) ([][]byte, error) {
	return g.exchange(ctx, "an exchange", data, unlimited)
}

// Barrier returns when all ranks have called it.
func (g *Group) Barrier(ctx context.Context) error {
	_, err := g.exchange(ctx, "a barrier", nil, limited)
	return err
}

// BarrierWithoutLimit is Barrier for what may take longer than the time limit, such as rank 0
// preparing data: it ends as ExchangeWithoutLimit does.
func (g *Group) BarrierWithoutLimit(ctx context.Context) error {
	_, err := g.exchange(ctx, "a barrier", nil, unlimited)
	return err
}

// limits is whether an exchange ends when the time limit has passed.
type limits bool

const (
	limited   limits = true
	unlimited limits = false // then rank 0 finds out, again and again, whether all ranks still answer
)

// exchange is Exchange, of ranks that all say the same about it in call.
func (g *Group) exchange(ctx context.Context, call string, data []byte,
	ends limits) ([][]byte, error) {
	if err := g.Err(); err != nil {
		return nil, err
	}
	if g.isClosed() {
		return nil, errors.New("dist: the group is closed")
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
	late := time.NewTicker(g.config.Timeout)
	defer late.Stop()
	var asked time.Time // whether all answer; rank 0 did not since
	for {
		select {
		case all := <-answer:
			return all, nil
		case <-g.done:
			return nil, g.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late.C:
			if ends || g.silentSince(asked) > longPatience {
				return nil, g.verdict(fmt.Errorf("%s timed out after %v", call, g.config.Timeout), id)
			}
			if g.silentSince(asked) == 0 {
				asked = time.Now()
			}
			if err := g.line.send(&message{Kind: "alive"}); err != nil {
				return nil, g.verdict(err, id)
			}
		}
	}
}

// silentSince is how long ago asked was, if rank 0 has said nothing since; else 0.
func (g *Group) silentSince(asked time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if asked.IsZero() || g.heard.After(asked) {
		return 0
	}
	return time.Since(asked)
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
	all := t.Numel() * t.DType().Size() * int64(g.Size())
	return t.Device().Type == torch.DeviceCPU && all <= 16<<10
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
	parts, err := g.exchange(context.Background(), describe(call, t), data, limited)
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
			err := g.inPlace(s, t, func(t *torch.Tensor) error {
				return g.wait(g.pg.Broadcast(t, root))
			})
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
	_, err := g.exchange(context.Background(), said, nil, limited)
	return err
}
