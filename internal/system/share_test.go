package system

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestShareLetsWorkWait(t *testing.T) {
	s := NewShare(10)
	require.NoError(t, s.Take(t.Context(), 6))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Take(ctx, 5), context.DeadlineExceeded)
	s.Give(6)
	require.NoError(t, s.Take(t.Context(), 25)) // alone
	require.Zero(t, s.left)
	s.Give(25)
	require.EqualValues(t, 10, s.left)

	unbounded := NewShare(0)
	require.NoError(t, unbounded.Take(t.Context(), 1<<60))
	require.NoError(t, unbounded.Take(t.Context(), 1<<60))
}
