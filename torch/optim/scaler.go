package optim

import (
	"errors"
	"fmt"

	"github.com/lntorch/lntorch/torch"
)

// GradScalerState is the state of a GradScaler, as stored in checkpoints. Its names in PyTorch's
// state_dict are scale, growth_factor, backoff_factor, growth_interval and _growth_tracker.
type GradScalerState struct {
	Scale          float64
	GrowthFactor   float64
	BackoffFactor  float64
	GrowthInterval int64
	GrowthTracker  int64 // steps since the last change of the scale
}

// DefaultGradScaler returns the initial state of torch.amp.GradScaler.
func DefaultGradScaler() GradScalerState {
	return GradScalerState{Scale: 65536, GrowthFactor: 2, BackoffFactor: 0.5, GrowthInterval: 2000}
}

// GradScaler multiplies the loss so that half-precision gradients do not underflow, and skips steps
// whose gradients overflowed (torch.amp.GradScaler, for one optimizer). The order within an
// iteration:
//
//	g.Scale(s, loss).Backward()
//	g.Unscale(s, params)
//	optim.ClipGradNorm(s, params, 12)
//	stepped := g.Step(s, func() { sgd.Step(s, masks) })
//	g.Update(s)
//
// Scale, counter and the overflow flag are scalars on the device; only Step reads one back, which
// synchronises with the device; StepUnless does not.
type GradScaler struct {
	state    GradScalerState // Scale and GrowthTracker are stale: they are on the device
	scope    *torch.Scope
	scale    *torch.Tensor // float32
	tracker  *torch.Tensor // int32
	found    *torch.Tensor // float32: 1 after an overflow
	unscaled bool
	stepped  bool
}

// NewGradScaler returns a scaler for gradients on device. Close frees it.
func NewGradScaler(device torch.Device, state GradScalerState) (*GradScaler, error) {
	if err := checkScaler(state); err != nil {
		return nil, err
	}
	scope, err := torch.NewScope()
	if err != nil {
		return nil, err
	}
	g := &GradScaler{state: state, scope: scope}
	g.scale = scope.Full(nil, state.Scale, torch.Float32, device)
	g.tracker = scope.Full(nil, float64(state.GrowthTracker), torch.Int32, device)
	g.found = scope.Full(nil, 0, torch.Float32, device)
	if err := scope.Err(); err != nil {
		scope.Close()
		return nil, err
	}
	return g, nil
}

func checkScaler(st GradScalerState) error {
	switch {
	case st.GrowthFactor <= 1:
		return fmt.Errorf("torch/optim: grad scaler: growth factor is %v, expected above 1",
			st.GrowthFactor)
	case st.BackoffFactor <= 0 || st.BackoffFactor >= 1:
		return fmt.Errorf("torch/optim: grad scaler: backoff factor is %v, expected between 0 and 1",
			st.BackoffFactor)
	case st.GrowthInterval < 1:
		return fmt.Errorf("torch/optim: grad scaler: growth interval is %v, expected at least 1",
			st.GrowthInterval)
	case !(st.Scale > 0):
		return fmt.Errorf("torch/optim: grad scaler: scale is %v, expected above 0", st.Scale)
	}
	return nil
}

// Scale returns loss times the scale, for the backward pass.
func (g *GradScaler) Scale(s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
	return s.Mul(loss, g.scale)
}

// Unscale divides the gradients of params by the scale and records whether any is not finite. It
// must be called once per Update.
func (g *GradScaler) Unscale(s *torch.Scope, params []*torch.Tensor) {
	if g.unscaled || g.stepped {
		s.Fail(errors.New("torch/optim: grad scaler: Unscale was already called since the last " +
			"Update"))
		return
	}
	s.With(func(c *torch.Scope) error {
		return torch.NoGrad(func() error {
			// In float64 and back, as in torch.
			inverse := c.To(c.Reciprocal(c.To(g.scale, torch.Float64, g.scale.Device())),
				torch.Float32, g.scale.Device())
			c.AmpUnscale(params, inverse, g.found)
			return nil
		})
	})
	g.unscaled = true
}

// Step runs step unless Unscale found a non-finite gradient, and reports whether step ran and
// succeeded. It synchronises with the device.
func (g *GradScaler) Step(s *torch.Scope, step func()) bool {
	if s.Err() != nil {
		return false
	}
	if !g.unscaled || g.stepped {
		s.Fail(errors.New("torch/optim: grad scaler: Step must be called once, after Unscale and " +
			"before Update"))
		return false
	}
	g.stepped = true
	found, err := g.found.Item()
	if err != nil {
		s.Fail(err)
		return false
	}
	if found != 0 {
		return false
	}
	step()
	return s.Err() == nil
}

// StepUnless is Step with the decision on the device: it passes step a scalar that is not 0 if a
// gradient is not finite (SGD.StepUnless).
func (g *GradScaler) StepUnless(s *torch.Scope, step func(skip *torch.Tensor)) {
	if s.Err() != nil {
		return
	}
	if !g.unscaled || g.stepped {
		s.Fail(errors.New("torch/optim: grad scaler: Step must be called once, after Unscale and " +
			"before Update"))
		return
	}
	g.stepped = true
	step(g.found)
}

// Update decreases the scale after an overflow, or increases it after GrowthInterval steps without
// one, and ends the iteration.
func (g *GradScaler) Update(s *torch.Scope) {
	if s.Err() == nil && !g.unscaled {
		s.Fail(errors.New("torch/optim: grad scaler: Update must be called after Unscale"))
		return
	}
	s.AmpUpdateScale(g.scale, g.tracker, g.found, g.state.GrowthFactor, g.state.BackoffFactor,
		g.state.GrowthInterval)
	s.Fill_(g.found, 0)
	g.unscaled, g.stepped = false, false
}

// State reads the state back from the device.
func (g *GradScaler) State() (GradScalerState, error) {
	st := g.state
	scale, err := g.scale.Item()
	if err != nil {
		return st, err
	}
	tracker, err := g.tracker.Item()
	if err != nil {
		return st, err
	}
	st.Scale, st.GrowthTracker = scale, int64(tracker)
	return st, nil
}

// Load replaces the state.
func (g *GradScaler) Load(state GradScalerState) error {
	if err := checkScaler(state); err != nil {
		return err
	}
	return torch.With(func(s *torch.Scope) error {
		s.Fill_(g.scale, state.Scale)
		s.Fill_(g.tracker, float64(state.GrowthTracker))
		s.Fill_(g.found, 0)
		g.state, g.unscaled, g.stepped = state, false, false
		return nil
	})
}

// Close frees the scalars.
func (g *GradScaler) Close() { g.scope.Close() }

// NotFinite returns the skip argument of SGD.StepUnless without a scaler: a float32 scalar, 1 if
// one of the scalars is NaN or infinite, else 0.
func NotFinite(s *torch.Scope, scalars ...*torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		var all []*torch.Tensor
		for _, x := range scalars {
			all = append(all, s.Reshape(s.To(s.Detach(x), torch.Float32, x.Device()), 1))
		}
		return s.To(s.Any(s.LogicalNot(s.IsFinite(s.Cat(0, all...)))), torch.Float32,
			scalars[0].Device())
	})
}
