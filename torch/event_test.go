package torch_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// A device tells the time between two of its events; the CPU, whose work is over when a call
// returns, has none.
func TestTimedEvents(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			first, err := device.NewTimedEvent()
			require.NoError(t, err)
			defer first.Free()
			last, err := device.NewTimedEvent()
			require.NoError(t, err)
			defer last.Free()
			if name == "cpu" {
				require.Error(t, first.Record())
				_, err = first.Elapsed(last)
				require.Error(t, err)
				return
			}
			began := time.Now()
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				require.NoError(t, first.Record())
				x := s.To(torchtest.Tensor(s, 1, 2048, 2048), torch.Float32, device)
				for range 20 {
					x = s.MatMul(x, x)
				}
				require.NoError(t, last.Record())
				require.NoError(t, last.Synchronize())
				return s.Err()
			}))
			whole := time.Since(began)
			got, err := first.Elapsed(last)
			require.NoError(t, err)
			require.Positive(t, got)
			require.LessOrEqual(t, got, whole)
		})
	}
}
