package torch_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

func TestScopeFreesOnEveryWayOut(t *testing.T) {
	torchtest.NoLeak(t)
	start := torch.Live()
	make3 := func(s *torch.Scope) {
		for range 3 {
			torchtest.Tensor(s, 1, 2, 2)
		}
		require.EqualValues(t, 3, torch.Live()-start)
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error { make3(s); return nil }))
	require.Equal(t, start, torch.Live())
	stop := errors.New("stop")
	require.Equal(t, stop, torch.With(func(s *torch.Scope) error { make3(s); return stop }))
	require.Equal(t, start, torch.Live())
	require.PanicsWithValue(t, "boom", func() {
		torch.With(func(s *torch.Scope) error {
			return s.With(func(c *torch.Scope) error { make3(c); panic("boom") })
		})
	})
	require.Equal(t, start, torch.Live())
	require.Panics(t, func() {
		torch.With(func(s *torch.Scope) error {
			s.Block(func(c *torch.Scope) *torch.Tensor { make3(c); panic("boom") })
			return nil
		})
	})
	require.Equal(t, start, torch.Live())
	// After an error earlier tensors are freed.
	require.Error(t, torch.With(func(s *torch.Scope) error {
		make3(s)
		s.Add(nil,
			nil)
		return nil
	}))
	require.Equal(t, start, torch.Live())
}

func TestBlockKeepsItsResultAlone(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 1, 4)
		before := torch.Live()
		var inner *torch.Tensor
		y := s.Block(func(c *torch.Scope) *torch.Tensor {
			inner = c.MulScalar(x, 2)
			return c.AddScalar(c.Relu(inner), 1)
		})
		require.Equal(t, before+1, torch.Live())
		require.Nil(t, inner.Shape())
		require.Equal(t, []int64{4}, y.Shape())
		// A block may return an operand, or nil.
		require.Same(t, x, s.Block(func(*torch.Scope) *torch.Tensor { return x }))
		require.Nil(t, s.Block(func(c *torch.Scope) *torch.Tensor { c.Relu(x); return nil }))
		require.Equal(t, before+1, torch.Live())
		require.Equal(t, []int64{4}, x.Shape())
		return nil
	}))
}

func TestKeepMoveToFreeAndRetain(t *testing.T) {
	torchtest.NoLeak(t)
	start := torch.Live()
	live := func(n int64) { t.Helper(); require.EqualValues(t, n, torch.Live()-start) }
	other, err := torch.NewScope()
	require.NoError(t, err)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		var kept, moved *torch.Tensor
		require.NoError(t, s.With(func(c *torch.Scope) error {
			ts := []*torch.Tensor{}
			for i := range 5 {
				ts = append(ts, torchtest.Tensor(c, uint64(i), 2))
			}
			// Out of order, so that each removal moves another tensor's place in the list.
			ts[1].Free()
			kept = c.Keep(ts[0])
			moved = ts[4].MoveTo(other)
			require.Same(t, moved, moved.MoveTo(other))
			ts[1].Free()
			require.Equal(t, torchtest.Fill(2, 2), torchtest.Float32s(t, ts[2]))
			live(4)
			return nil
		}))
		live(2)
		require.Equal(t, torchtest.Fill(0, 2), torchtest.Float32s(t, kept))
		require.Same(t, kept, s.Keep(kept), "a scope without parent keeps its tensor")
		// Two handles, one tensor: it lives until the second is freed.
		again := other.Retain(kept)
		live(3)
		require.True(t, again.SharesStorage(kept))
		s.Fill_(again, 3)
		require.Equal(t, []float32{3, 3}, torchtest.Float32s(t, kept))
		kept.Free()
		require.Equal(t, []float32{3, 3}, torchtest.Float32s(t, again))
		require.Equal(t, torchtest.Fill(4, 2), torchtest.Float32s(t, moved))
		return nil
	}))
	live(2)
	other.Close()
	live(0)
	var none *torch.Tensor
	none.Free()
	require.Nil(t, none.MoveTo(other))
	require.Nil(t, none.Shape())
}

func TestGradientsLiveWithTheirTensorNotWithTheHandle(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := param(s, 1, 3)
		before := torch.Live()
		require.False(t, x.HasGrad())
		require.Nil(t, s.Grad(x))
		require.NoError(t, s.With(func(c *torch.Scope) error {
			return c.Sum(c.Mul(x,
				x)).Backward()
		}))
		require.Equal(t, before, torch.Live())
		require.True(t, x.HasGrad())
		require.Equal(t, before, torch.Live())
		g := s.Grad(x)
		want := torchtest.Fill(1, 3)
		for i := range want {
			want[i] *= 2
		}
		require.Equal(t, want, torchtest.Float32s(t, g))
		require.NoError(t, torch.ClearGrads([]*torch.Tensor{x}))
		require.False(t, x.HasGrad())
		require.Equal(t, want, torchtest.Float32s(t, g))
		require.NoError(t, x.SetGrad(g))
		require.True(t, s.Grad(x).SharesStorage(g))
		require.NoError(t, x.SetGrad(nil))
		require.False(t, x.HasGrad())
		return nil
	}))
}

func TestAutogradAddsUpAndDetaches(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{1, -2, 3}, 3)
		require.NoError(t, x.SetRequiresGrad(true))
		y := s.Mul(x, s.Detach(x)) // the second factor is a constant
		require.False(t, s.Detach(y).RequiresGrad())
		require.True(t, s.Detach(y).SharesStorage(y))
		require.NoError(t, s.Sum(y).BackwardFrom(nil, true))
		require.NoError(t, y.BackwardFrom(torch.FromSlice(s, []float32{10, 0, 1}, 3), false))
		require.Equal(t, []float32{11, -2, 6}, torchtest.Float32s(t, s.Grad(x)))
		return nil
	}))
}
