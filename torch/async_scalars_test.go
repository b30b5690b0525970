package torch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// Scalars are returned in the order of Put, with their values at that time.
func TestAsyncScalarsGiveNumbersInTheirOrder(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			scalars, err := torch.NewAsyncScalars(device)
			require.NoError(t, err)
			defer scalars.Close()
			_, err = scalars.Take()
			require.EqualError(t, err, "torch: AsyncScalars.Take: the queue is empty")
			put := func(v float64) {
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					x, y := s.Full(nil, v, torch.Float32, device),
						s.Full([]int64{1, 1}, -v, torch.Float64, device)
					require.NoError(t, x.SetRequiresGrad(true))
					z := s.MulScalar(x, 2)
					require.NoError(t, scalars.Put(z, y))
					s.Fill_(y, 99)
					return s.Err()
				}))
			}
			next := 0.0
			for v := range 6 {
				put(float64(v))
				if v == 0 {
					continue
				}
				require.Equal(t, 2, scalars.Queued())
				got, err := scalars.Take()
				require.NoError(t, err)
				require.Equal(t, []float64{2 * next, -next}, got)
				next++
			}
			put(7) // left over when it closes
		})
	}
}
