package torch_test

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// A handle, as held by another binding, converts back to the same tensor.
func TestHandlesShareATensor(t *testing.T) {
	torchtest.Require(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 5, 2, 3)
		h, err := x.Handle()
		require.NoError(t, err)
		require.NotNil(t, h)
		y := s.FromHandle(h)
		require.True(t, y.SharesStorage(x))
		s.Fill_(x, 4)
		require.Equal(t, []float32{4, 4, 4, 4, 4, 4}, torchtest.Float32s(t, y))
		return s.Err()
	}))
	_, err := (*torch.Tensor)(nil).Handle()
	require.Error(t, err)
	require.ErrorContains(t, torch.With(func(s *torch.Scope) error {
		s.FromHandle(unsafe.Pointer(nil))
		return nil
	}), "null")
}

func TestAFreedTensorHasNoHandle(t *testing.T) {
	torchtest.NoLeak(t)
	var freed *torch.Tensor
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		freed = torchtest.Tensor(s, 1,
			2)
		return nil
	}))
	_, err := freed.Handle()
	require.Error(t, err)
}
