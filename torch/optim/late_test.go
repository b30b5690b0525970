package optim_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// A step that the device decides about is Step, or nothing at all.
func TestStepUnlessIsStepOrNothing(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			inf := float32(math.Inf(1))
			gradients := [][]float32{{inf, 1, 1}, {1, -2, 3}, {float32(math.NaN()), 0, 0},
				{0.5, 0.25, -1}}
			run := func(decide bool) (all []float32) {
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					p := s.To(torch.FromSlice(s, []float32{1, 2, 3}, 3), torch.Float32, device)
					require.NoError(t, p.SetRequiresGrad(true))
					sgd, err := optim.NewSGD([]*torch.Tensor{p},
						torch.SGD{LR: 0.1, Momentum: 0.9, WeightDecay: 0.01, Nesterov: true,
							Impl: torch.Fused})
					require.NoError(t, err)
					defer sgd.Close()
					for _, g := range gradients {
						x := s.To(torch.FromSlice(s, g, 3), torch.Float32, device)
						require.NoError(t, p.SetGrad(x))
						sum := s.Sum(x)
						finite := !math.IsInf(float64(g[0]), 0) && !math.IsNaN(float64(g[0]))
						switch {
						case decide:
							sgd.StepUnless(s,
								optim.NotFinite(s, s.Full(nil, 1, torch.Float32, device), sum))
						case finite:
							sgd.Step(s, nil)
						}
						require.NoError(t, s.Err())
						all = append(all,
							torchtest.Float32s(t, s.To(s.Detach(p), torch.Float32, torch.CPU))...)
					}
					all = append(all,
						torchtest.Float32s(t, s.To(sgd.State()[0], torch.Float32, torch.CPU))...)
					return s.Err()
				}))
				return all
			}
			require.Equal(t, run(false), run(true))
		})
	}
}

// The scaler's decision, left to the device, is the one that Step makes.
func TestScalerStepUnlessIsStep(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			run := func(decide bool) (weights []float32, state optim.GradScalerState) {
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					p := s.To(torch.FromSlice(s, []float32{1, 2, 3}, 3), torch.Float32, device)
					require.NoError(t, p.SetRequiresGrad(true))
					params := []*torch.Tensor{p}
					sgd, err := optim.NewSGD(params,
						torch.SGD{LR: 0.1, Momentum: 0.9, Impl: torch.Fused})
					require.NoError(t, err)
					defer sgd.Close()
					scaler, err := optim.NewGradScaler(device, optim.DefaultGradScaler())
					require.NoError(t, err)
					defer scaler.Close()
					for _, factor := range []float64{math.Inf(1), 1, 3, math.Inf(1), 2} {
						require.NoError(t, torch.ClearGrads(params))
						require.NoError(t,
							scaler.Scale(s, s.MulScalar(s.Sum(p), factor)).Backward())
						scaler.Unscale(s, params)
						if decide {
							scaler.StepUnless(s,
								func(skip *torch.Tensor) { sgd.StepUnless(s, skip) })
						} else {
							scaler.Step(s, func() { sgd.Step(s, nil) })
						}
						scaler.Update(s)
						require.NoError(t, s.Err())
					}
					weights = torchtest.Float32s(t, s.To(s.Detach(p), torch.Float32, torch.CPU))
					state, err = scaler.State()
					return err
				}))
				return weights, state
			}
			want, wantState := run(false)
			got, gotState := run(true)
			require.Equal(t, want, got)
			require.Equal(t, wantState, gotState)
			require.Equal(t, 16384.0, gotState.Scale)
			for _, v := range got {
				require.False(t, math.IsNaN(float64(v)) || math.IsInf(float64(v), 0))
			}
		})
	}
}
