package segment

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/volume"
)

// many is a network of some classes, each a multiple of the image plus a constant.
type many struct {
	classes int
	passes  int
}

func (n *many) Module() *nn.Module       { return nn.NewModule() }
func (n *many) SetDeepSupervision(bool)  {}
func (n *many) SetTraining(bool)         {}
func (n *many) SetFast(bool)             {}
func (n *many) CheckInput([]int64) error { return nil }
func (n *many) Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	n.passes++
	var heads []*torch.Tensor
	for h := range n.classes {
		heads = append(heads, s.AddScalar(s.MulScalar(x, golden.Hash(1, h)), golden.Hash(2, h)/4))
	}
	return []*torch.Tensor{s.Cat(1, heads...)}
}

const manyClasses = 60

// manySlabs is a case whose slabs of all classes take more than infer hands on at a time, so that
// several follow each other without a pass of the network between them.
func manySlabs(t *testing.T) (*many, *infer.Predictor, *volume.Volume[float32]) {
	t.Helper()
	torchtest.Require(t)
	data := volume.New[float32]([4]int{1, 58, 64, 64})
	copy(data.Data, golden.HashInput(-1, []int64{58, 64, 64}))
	net := &many{classes: manyClasses}
	cfg := infer.DefaultConfig(torch.CPU)
	cfg.TileStep, cfg.Threads = 1, 2
	p, err := infer.New(net, []int{32, 32, 32}, manyClasses, cfg)
	require.NoError(t, err)
	return net, p, data
}

// newInverse leads from the case to an image of the given size.
func newInverse(t *testing.T, shape, whole [3]int) *preprocess.Inverse {
	t.Helper()
	labels := &plans.Labels{}
	for l := range manyClasses {
		labels.AllLabels = append(labels.AllLabels, l)
	}
	labels.ForegroundLabels = labels.AllLabels[1:]
	g := preprocess.Grid{Shape: shape, Whole: whole, Current: [3]float64{1, 1, 1},
		Original: [3]float64{1, 1, 1}, Transpose: [3]int{0, 1, 2},
		Resample: preprocess.Options{Order: 1}}
	for i, n := range whole {
		g.Box[i] = [2]int{0, n}
	}
	v, err := preprocess.NewInverse(g, preprocess.InverseConfig{Labels: labels, Threads: 2})
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	return v
}

// Each inverse gets every slab as the network left it, though the network goes on meanwhile and
// uses the slab's memory again.
func TestRunHandsOnWholeSlabs(t *testing.T) {
	_, p, data := manySlabs(t)
	sizes := [][3]int{{58, 64, 64}, {50, 70, 61}}
	shape := data.Spatial()
	var want, got []*preprocess.Inverse
	for _, whole := range sizes {
		want = append(want, newInverse(t, shape, whole))
		got = append(got, newInverse(t, shape, whole))
	}
	slabs := 0
	require.NoError(t, p.Slabs(context.Background(), data.Data, data.Shape, nil,
		func(s volume.Slab) error {
			slabs++
			s.Data = slices.Clone(s.Data)
			for _, v := range want {
				require.NoError(t, v.Add(s))
			}
			return nil
		}))
	require.Equal(t, 4, slabs, "two each time that the window moves or ends")
	_, err := Run(context.Background(), p, data, got, nil)
	require.NoError(t, err)
	for i := range sizes {
		a, err := want[i].Finish()
		require.NoError(t, err)
		b, err := got[i].Finish()
		require.NoError(t, err)
		x, y := volume.Cast[uint8](a.Pixels), volume.Cast[uint8](b.Pixels)
		different := 0
		for j := range x {
			if x[j] != y[j] {
				different++
			}
		}
		require.Zero(t, different, "labels of image %v", sizes[i])
		require.Greater(t, int(slices.Max(x)), 5)
	}
}

// An inverse that fails, or a user who interrupts, ends the run before the network is through.
func TestRunEndsEarly(t *testing.T) {
	net, p, data := manySlabs(t)
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Run(ctx, p, data, []*preprocess.Inverse{newInverse(t, [3]int{58, 64, 63}, data.Spatial())},
		nil)
	require.ErrorContains(t, err, "do not fill them")
	require.LessOrEqual(t, net.passes, 3, "batches of two tiles")
	net.passes = 0
	_, err = Run(ctx, p, data, []*preprocess.Inverse{newInverse(t, data.Spatial(), data.Spatial())},
		func(done, _ int) {
			if done == 2 {
				cancel()
			}
		})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, net.passes)
}
