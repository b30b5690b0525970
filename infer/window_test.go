package infer

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// fake is a network with the outputs that a test sets; it records how it is used.
type fake struct {
	forward  func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	modes    []Mode // at each forward pass
	batches  []int64
	training Mode
}

func (f *fake) Module() *nn.Module               { return nn.NewModule() }
func (f *fake) SetDeepSupervision(on bool)       { f.training.DeepSupervision = on }
func (f *fake) SetTraining(on bool)              { f.training.Training = on }
func (f *fake) SetFast(bool)                     {}
func (f *fake) CheckInput(spatial []int64) error { return nil }
func (f *fake) Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	f.modes = append(f.modes, f.training)
	f.batches = append(f.batches, x.Shape()[0])
	return []*torch.Tensor{f.forward(s, x)}
}

// constant returns value for class 0 and its negative for class 1, in the input's spatial shape.
func constant(value float64) *fake {
	return &fake{forward: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		shape := x.Shape()
		shape[1] = 1
		one := s.Full(shape, value, torch.Float32, torch.CPU)
		return s.Cat(1, one, s.Neg(one))
	}}
}

// local returns x and a function of x and its position in the patch.
func local() *fake {
	return &fake{forward: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		ramp := s.Reshape(s.Arange(0, float64(x.Numel()/x.Shape()[0]), 1, torch.Float32, torch.CPU),
			append([]int64{1}, x.Shape()[1:]...)...)
		return s.Cat(1, s.MulScalar(x, 3), s.AddScaled(x, ramp, 1e-3))
	}}
}

func TestWeightsSumAboveZeroEverywhere(t *testing.T) {
	needTorch(t)
	for _, c := range []struct {
		patch []int
		shape [4]int
	}{
		{[]int{16, 48, 48}, [4]int{1, 28, 64, 64}},
		{[]int{5, 6, 4}, [4]int{1, 3, 13, 9}},
		{[]int{24, 16}, [4]int{1, 3, 40, 11}},
		{[]int{7, 9, 1}, [4]int{1, 20, 20, 4}},
	} {
		for _, step := range []float64{0.1, 0.5, 1} {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				g := newGrid(c.patch, c.shape, step)
				count := s.Zeros(torch.Sizes(g.padded[:]), torch.Float16, torch.CPU)
				w, err := weightMap(s, c.patch, true, torch.Float16, torch.CPU)
				require.NoError(t, err)
				for _, tile := range g.tiles {
					s.Add_(narrow(s, count, tile.start, g.patch), w, 1)
				}
				sums, err := torch.Slice[float32](s.To(count, torch.Float32, torch.CPU))
				require.NoError(t, err)
				for i, v := range sums {
					require.Greater(t, v, float32(0), "patch %v image %v step %v voxel %d", c.patch,
						c.shape, step, i)
				}
				return nil
			}))
		}
	}
}

func TestConstantLogitsStayConstant(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 11, 20, 17}
	for _, numerics := range []Numerics{Reference, Fast} {
		for _, patch := range [][]int{{8, 8, 8}, {16, 24, 8}, {8, 12}} {
			_, values, size := run(t, constant(3), patch, 2, config(numerics, []int{1, 0}),
				hashImage(shape), shape)
			require.Equal(t, []int64{2, 11, 20, 17}, size)
			for i, v := range values {
				want := float64(3 - 6*(i/(11*20*17)))
				require.InDelta(t, want, v,
					map[Numerics]float64{Reference: 0.02, Fast: 1e-5}[numerics],
					"patch %v voxel %d", patch, i)
			}
		}
	}
}

// Mirroring over every axis makes the network symmetric; without Gaussian weights the tiles here
// are symmetric too.
func TestMirroredImageGivesMirroredLogits(t *testing.T) {
	needTorch(t)
	net, channels, classes := specNetwork(t, scope(t), readSpec(t, "plain-3d"))
	shape := [4]int{channels, 12, 16, 20}
	image := hashImage(shape)
	cfg := config(Fast, []int{0, 1, 2})
	cfg.Gaussian = false
	patch := []int{8, 16, 12}
	_, values, size := run(t, net, patch, classes, cfg, image, shape)
	whole := [4]int{classes, 12, 16, 20}
	_, mirrored, _ := run(t, net, patch, classes, cfg, flip(image, shape, 0, 2), shape)
	d := golden.Compare(ints(size), flip(values, whole, 0, 2), mirrored,
		golden.Tolerance{Abs: 1e-4})
	require.LessOrEqual(t, d.Excess, 1.0, "%v", d)

	cfg.Mirror = nil
	_, values, _ = run(t, net, patch, classes, cfg, image, shape)
	_, mirrored, _ = run(t, net, patch, classes, cfg, flip(image, shape, 0, 2), shape)
	d = golden.Compare(ints(size), flip(values, whole, 0, 2), mirrored, golden.Tolerance{Abs: 1e-4})
	require.Greater(t, d.Excess, 100.0, "without mirroring the network should not be symmetric")
}

func TestLogitsDoNotDependOnTheBatch(t *testing.T) {
	needTorch(t)
	net, channels, classes := specNetwork(t, scope(t), readSpec(t, "plain-3d"))
	shape := [4]int{channels, 10, 16, 21}
	image := hashImage(shape)
	var first []float32
	for _, mirror := range [][]int{nil, {0}, {2, 0, 1}} {
		for _, batch := range []int{1, 2, 3, 7, 100} {
			cfg := config(Fast, mirror)
			cfg.BatchTiles = batch
			_, values, size := run(t, net, []int{8, 8, 8}, classes, cfg, image, shape)
			if batch == 1 {
				first = values
				continue
			}
			d := golden.Compare(ints(size), first, values, golden.Tolerance{Abs: 1e-4})
			require.LessOrEqual(t, d.Excess, 1.0, "mirror %v batch %d: %v", mirror, batch, d)
		}
	}
}

// For an elementwise network whose logits depend on the position in the patch, every order of
// computation has one correct result.
func TestBatchesHoldTheirTilesAndNoMore(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 6, 9, 10}
	cfg := config(Fast, []int{0, 2})
	cfg.BatchTiles = 3
	net := local()
	p, err := New(net, []int{4, 6, 5}, 2, cfg)
	require.NoError(t, err)
	need, err := Forecast([]int{4, 6, 5}, 2, 1, shape, cfg)
	require.NoError(t, err)
	var reports [][2]int
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		_, err := p.Logits(context.Background(), s, hashImage(shape), shape,
			func(done, total int) { reports = append(reports, [2]int{done, total}) })
		return err
	}))
	require.Len(t, reports, need.Tiles)
	for i, r := range reports {
		require.Equal(t, [2]int{i + 1, need.Tiles}, r)
	}
	passes := 0
	for i, n := range net.batches {
		passes += int(n)
		if i < len(net.batches)-1 {
			require.Equal(t, int64(3), n)
		}
	}
	require.Equal(t, need.Passes, passes)
	require.Equal(t, 4*need.Tiles, passes)
}

func TestSubsetsComeBySizeThenOrder(t *testing.T) {
	require.Equal(t, [][]int{{}, {0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}},
		subsets([]int{0, 1, 2}))
	require.Equal(t, [][]int{{}, {2}, {0}, {2, 0}}, subsets([]int{2, 0}))
	require.Equal(t, [][]int{{}}, subsets(nil))
}

func TestNetworkRunsInEvaluationAndReturnsToItsMode(t *testing.T) {
	needTorch(t)
	net := constant(1)
	net.training = Mode{true, true}
	cfg := config(Fast, nil)
	cfg.After = Mode{Training: true, DeepSupervision: true}
	shape := [4]int{1, 4, 4, 4}
	run(t, net, []int{4, 4, 4}, 2, cfg, hashImage(shape), shape)
	require.Equal(t, []Mode{{}}, net.modes)
	require.Equal(t, cfg.After, net.training)
	net.forward = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		s.Fail(errors.New("broken"))
		return nil
	}
	p, err := New(net, []int{4, 4, 4}, 2, cfg)
	require.NoError(t, err)
	err = torch.With(func(s *torch.Scope) error {
		_, err := p.Logits(context.Background(), s, hashImage(shape), shape, nil)
		require.NoError(t, s.Err(), "the caller's scope stays usable")
		return err
	})
	require.ErrorContains(t, err, "broken")
	require.Equal(t, cfg.After, net.training)
}

func TestCancelStopsBetweenPasses(t *testing.T) {
	needTorch(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	net := constant(1)
	p, err := New(net, []int{4, 4, 4}, 2, config(Reference, nil))
	require.NoError(t, err)
	shape := [4]int{1, 8, 8, 8}
	err = torch.With(func(s *torch.Scope) error {
		_, err := p.Logits(ctx, s, hashImage(shape), shape, func(done, total int) {
			if done == 5 {
				cancel()
			}
		})
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "stopped after 5 of 27 tiles")
	require.Len(t, net.batches, 5)
}

func TestErrorsSayWhatAndWhere(t *testing.T) {
	needTorch(t)
	s := scope(t)
	net, channels, classes := specNetwork(t, s, readSpec(t, "plain-3d"))
	good := config(Reference, nil)
	with := func(f func(*Config)) Config {
		c := good
		f(&c)
		return c
	}
	for _, c := range []struct {
		patch   []int
		classes int
		cfg     Config
		want    string
	}{
		{[]int{8, 9, 8}, 2, good, "infer: patch [8 9 8] does not fit the network: models: input " +
			"size [8 9 8] is not divisible by [4 4 4]"},
		{[]int{8}, 2, good, "infer: patch [8]: expected 2 or 3 axes"},
		{[]int{8, 0, 8}, 2, good, "infer: patch [8 0 8]: sizes must be above 0"},
		{[]int{8, 8, 8}, 0, good, "infer: 0 classes: expected at least 1"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.TileStep = 0 }),
			"infer: tile step 0: expected above 0 and at most 1"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.TileStep = math.NaN() }),
			"infer: tile step NaN"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.Mirror = []int{0, 3} }),
			"infer: mirror axes [0 3]: expected distinct axes of the patch [8 8 8]"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.Mirror = []int{1, 1} }),
			"infer: mirror axes [1 1]"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.BatchTiles = 4 }),
			"infer: batch of 4 tiles: numerics reference has batch size 1"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.BatchTiles = -1 }),
			"infer: batch of -1 tiles"},
		{[]int{8, 8, 8}, 2, with(func(c *Config) { c.Autocast = torch.Uint8 }),
			"infer: autocast to uint8: expected float16, bfloat16 or float32 (off)"},
	} {
		_, err := New(net, c.patch, c.classes, c.cfg)
		require.ErrorContains(t, err, c.want)
	}
	logits := func(classes int, image []float32, shape [4]int) error {
		p, err := New(net, []int{8, 8, 8}, classes, good)
		require.NoError(t, err)
		return torch.With(func(s *torch.Scope) error {
			_, err := p.Logits(context.Background(), s, image, shape, nil)
			return err
		})
	}
	require.EqualError(t, logits(classes, nil, [4]int{1, 8, 0, 8}),
		"infer: image of shape (c,z,y,x) [1 8 0 8] is empty")
	require.EqualError(t, logits(classes, make([]float32, 9), [4]int{1, 8, 8, 8}),
		"infer: image of shape (c,z,y,x) [1 8 8 8] has 512 values, given 9")
	more := [4]int{channels + 1, 8, 8, 8}
	err := logits(classes, hashImage(more), more)
	require.ErrorContains(t, err, "infer: image (c,z,y,x) [2 8 8 8]")
	require.ErrorContains(t, err, "to have 1 channels, but got 2 channels instead")
	right := [4]int{channels, 8, 8, 8}
	require.ErrorContains(t, logits(classes+1, hashImage(right), right),
		"the network's logits have shape [1 2 8 8 8], expected [1 3 8 8 8]: 3 classes over a "+
			"patch [8 8 8]")
	image := hashImage(right)
	image[100] = float32(math.NaN())
	require.ErrorContains(t, logits(classes, image, right),
		"class 0 has logits that are infinite or NaN")
}

// 8000·10 overflows float16, in nnU-Net too, but not float32.
func TestInfiniteSumsAreRefused(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 8, 8, 8}
	p, err := New(constant(8000), []int{8, 8, 8}, 2, config(Reference, nil))
	require.NoError(t, err)
	err = torch.With(func(s *torch.Scope) error {
		_, err := p.Logits(context.Background(), s, hashImage(shape), shape, nil)
		return err
	})
	require.ErrorContains(t, err, "class 0 has logits that are infinite or NaN")
	_, values, _ := run(t, constant(8000), []int{8, 8, 8}, 2, config(Fast, nil), hashImage(shape),
		shape)
	require.InDelta(t, 8000, values[0], 0.01)
}

func TestForecastCountsTilesAndBytes(t *testing.T) {
	cfg := config(Reference, []int{0, 1, 2})
	shape := [4]int{1, 40, 72, 82}
	need, err := Forecast([]int{16, 48, 48}, 2, 1, shape, cfg)
	require.NoError(t, err)
	plane, patch := int64(72*82), int64(16*48*48)
	// Sums of two classes and of weights in float16, 16 slices deep; an emitted slab of 16 slices,
	// twice; one tile in and out.
	require.Equal(t, Need{Tiles: 24, Strips: 1, Passes: 192, Batch: 1, Switches: 1, Bytes: 16*plane*(2*2+2) +
		2*16*plane*2*4 + patch*(2+4*(1+2))}, need)
	need, err = Forecast([]int{16, 48, 48}, 2, 5, shape, cfg)
	require.NoError(t, err)
	require.Equal(t, Need{Tiles: 24, Strips: 1, Passes: 5 * 192, Batch: 1, Switches: 17, Bytes: 16*plane*(5*2*2+2) +
		2*16*plane*2*4 + patch*(2+4*(1+2))}, need)
	cfg.Numerics = Fast
	need, err = Forecast([]int{16, 48, 48}, 2, 5, shape, cfg)
	require.NoError(t, err)
	require.Equal(t, Need{Tiles: 24, Strips: 1, Passes: 5 * 192, Batch: 2, Switches: 17, Bytes: 16*plane*(2+1)*4 +
		2*16*plane*2*4 + patch*(4+2*4*(1+2))}, need)

	need, err = Forecast([]int{48, 48}, 3, 1, [4]int{2, 10, 40, 60}, cfg2d(cfg))
	require.NoError(t, err)
	plane, patch = 40*60, 48*48
	require.Equal(t, Need{Tiles: 20, Strips: 1, Passes: 20, Batch: 2, Switches: 1, Bytes: plane*(3+1)*4 + 2*plane*3*4 +
		patch*(4+2*4*(2+3))}, need)
	_, err = Forecast([]int{48, 48}, 3, 1, [4]int{2, 10, 0, 60}, cfg2d(cfg))
	require.EqualError(t, err, "infer: image of shape (c,z,y,x) [2 10 0 60] is empty")
}

// The memory of a slab does not depend on the length of the image.
func TestForecastDoesNotGrowWithLength(t *testing.T) {
	cfg := config(Fast, nil)
	short, err := Forecast([]int{16, 48, 48}, 20, 1, [4]int{1, 100, 72, 82}, cfg)
	require.NoError(t, err)
	long, err := Forecast([]int{16, 48, 48}, 20, 1, [4]int{1, 900, 72, 82}, cfg)
	require.NoError(t, err)
	require.Equal(t, short.Bytes, long.Bytes)
	require.Greater(t, long.Tiles, 8*short.Tiles)
}

func cfg2d(c Config) Config {
	c.Mirror = nil
	return c
}
