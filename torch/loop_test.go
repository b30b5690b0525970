package torch_test

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// train runs steps of a small convolutional network with SGD on the given number of threads, calls
// after, if not nil, after each step, and returns the losses and final weights.
func train(t testing.TB, threads, steps int, after func(step int)) (losses, weights []float32) {
	t.Helper()
	one, two := []int64{1, 1, 1}, []int64{2, 2, 2}
	err := torch.OnThread(threads, func() error {
		return torch.With(func(model *torch.Scope) error {
			scaled := func(seed uint64, shape ...int64) *torch.Tensor {
				p := torchtest.Tensor(model, seed, shape...)
				model.MulScalar_(p, 0.2)
				if err := p.SetRequiresGrad(true); err != nil {
					model.Fail(err)
				}
				return p
			}
			params := []*torch.Tensor{scaled(1, 4, 1, 3, 3, 3), scaled(2, 4), scaled(3, 4),
				scaled(4, 8, 4, 3, 3, 3), scaled(5, 8, 4, 2, 2, 2), scaled(6, 3, 4, 1, 1, 1)}
			buffers := make([]*torch.Tensor, len(params))
			for step := range steps {
				err := model.With(func(s *torch.Scope) error {
					if err := torch.ClearGrads(params); err != nil {
						return err
					}
					x := torchtest.Tensor(s, uint64(1000+step), 2, 1, 8, 8, 8)
					target := s.To(s.CompareScalar(s.Select(x, 1, 0), torch.Gt, 0), torch.Int64,
						torch.CPU)
					y := s.Block(func(c *torch.Scope) *torch.Tensor {
						return c.LeakyRelu_(c.InstanceNorm(c.Conv(x, params[0], params[1], one, one,
							one, 1), params[2], nil, 1e-5), 0.01)
					})
					z := s.Block(func(c *torch.Scope) *torch.Tensor {
						down := c.LeakyRelu(c.Conv(y, params[3], nil, two, one, one, 1), 0.01)
						return c.Add(c.ConvTranspose(down, params[4], nil, two), y)
					})
					loss := s.CrossEntropy(s.Conv(z, params[5], nil, one, []int64{0, 0, 0}, one, 1),
						target, torch.IgnoreNothing, torch.ReduceMean)
					if s.Err() != nil {
						return nil
					}
					if err := loss.Backward(); err != nil {
						return err
					}
					s.ClipGradNorm(params, 12)
					s.SGDStep(torch.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-3, Nesterov: true},
						params, buffers, nil, nil, nil)
					for _, b := range buffers {
						b.MoveTo(model)
					}
					v, err := loss.Item()
					losses = append(losses, float32(v))
					return err
				})
				if err != nil {
					return err
				}
				if after != nil {
					after(step)
				}
			}
			for _, p := range params {
				weights = append(weights, torchtest.Float32s(t, p)...)
			}
			return nil
		})
	})
	require.NoError(t, err)
	return losses, weights
}

// resident is the process's resident memory in bytes.
func resident(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

func TestTrainingKeepsMemoryFlat(t *testing.T) {
	torchtest.NoLeak(t)
	var live, memory int64
	losses, _ := train(t, 1, 250, func(step int) {
		switch {
		case step == 49:
			live, memory = torch.Live(), resident(t)
		case step > 49:
			require.Equal(t, live, torch.Live(), "tensors alive after step %d", step)
		}
	})
	require.Less(t, losses[249], losses[0])
	grown := resident(t) - memory
	t.Logf("resident memory grew by %d KiB in 200 steps, loss %v to %v", grown>>10, losses[0],
		losses[249])
	require.Less(t, grown, int64(16<<20))
}

func TestTrainingIsUndisturbedByTheGarbageCollector(t *testing.T) {
	torchtest.NoLeak(t)
	const steps = 20
	losses, weights := train(t, 2, steps, nil)

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // allocates as a loader would: patches, and pointers to them
		defer close(stopped)
		var patches [][]float32
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			patches = append(patches, torchtest.Fill(uint64(i), 4096))
			if len(patches) > 50 {
				patches = nil
			}
		}
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	losses2, weights2 := train(t, 2, steps, nil)
	close(stop)
	<-stopped
	require.Equal(t, torchtest.Bits(losses), torchtest.Bits(losses2))
	require.Equal(t, torchtest.Bits(weights), torchtest.Bits(weights2))
}
