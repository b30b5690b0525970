package system

import (
	"context"
	"sync"
)

// Share is memory that works at the same time share.
type Share struct {
	mu          sync.Mutex
	cond        sync.Cond
	left, whole int64
}

// NewShare returns a share of so many bytes; 0 is no bound.
func NewShare(bytes int64) *Share {
	s := &Share{left: bytes, whole: bytes}
	s.cond.L = &s.mu
	return s
}

// Take waits until n bytes are free, and takes them. What needs more than there is in all waits
// until nothing else is at work. It returns the context's error when that is done; nothing is taken
// then.
func (s *Share) Take(ctx context.Context, n int64) error {
	if s.whole <= 0 {
		return ctx.Err()
	}
	defer context.AfterFunc(ctx, s.wake)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.left < min(n, s.whole) {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.cond.Wait()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.left -= min(n, s.whole)
	return nil
}

// Give returns the n bytes that were taken.
func (s *Share) Give(n int64) {
	if s.whole <= 0 {
		return
	}
	s.mu.Lock()
	s.left += min(n, s.whole)
	s.mu.Unlock()
	s.cond.Broadcast()
}

func (s *Share) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}
