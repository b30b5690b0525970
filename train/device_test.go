package train_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// trainLosses are the mean losses of the epochs of a training, and its weights must be numbers.
func trainLosses(t *testing.T, path string) []float32 {
	t.Helper()
	for name, values := range readWeights(t, path) {
		for _, v := range values {
			require.Equal(t, v, v, "%s holds NaN", name)
		}
	}
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var losses []float32
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := f.Training(s)
		if err == nil {
			losses = append(losses, tr.Logging.TrainLosses...)
		}
		return err
	}))
	return losses
}

// A training on a device loses what the reference's operators lose on the CPU, but for rounding; in half precision but for its
// bits. On CUDA losses are read late, unless the method chooses entries.
func TestEachDeviceTrainsAlike(t *testing.T) {
	amp := map[string]map[machine.AMP]float64{
		"cpu":  {machine.AMPOff: 1e-4, machine.AMPBF16: 2e-2},
		"cuda": {machine.AMPOff: 1e-3, machine.AMPBF16: 2e-2, machine.AMPFP16: 5e-2}, // of float16, the scaler may skip the first steps
	}
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			for _, method := range []string{"full", "dgst"} {
				reference := tiny{}.config(t, "plain", method, nil)
				reference.Numerics = machine.Reference
				want := trainLosses(t, run(t, reference).Checkpoint)
				require.Len(t, want, reference.Epochs)
				for precision, limit := range amp[name] {
					t.Run(fmt.Sprintf("%s/%s", method, precision), func(t *testing.T) {
						torchtest.NoLeak(t)
						c := tiny{}.config(t, "plain", method, nil)
						c.Device, c.AMP = device, precision
						got := trainLosses(t, run(t, c).Checkpoint)
						require.Len(t, got, len(want))
						for i := range want {
							require.InDelta(t, want[i], got[i], limit, "epoch %d", i)
						}
					})
				}
			}
		})
	}
}
