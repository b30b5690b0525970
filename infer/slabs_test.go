package infer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// uneven returns two classes that depend on the voxel and its position in the patch; their sums
// depend on the order of additions.
func uneven(scale float64) *fake {
	return &fake{forward: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		voxels := x.Shape()
		voxels[0] = 1
		n := int64(1)
		for _, v := range voxels {
			n *= v
		}
		values := make([]float32, n)
		for i, u := range hashValues(7, int(n)) {
			values[i] = float32(scale * u)
		}
		place := torch.FromSlice(s, values, voxels...)
		return s.Cat(1, s.Add(s.MulScalar(x, 3*scale), place), s.Mul(x, place))
	}}
}

// plain is sliding-window inference as in nnU-Net: sums of the whole padded image, tile by tile in
// the given order. It returns the logits (2, z, y, x) of the image.
func plain(t *testing.T, net models.Network, patch []int, cfg Config, image []float32, shape [4]int,
	tiles []tile) []float32 {
	t.Helper()
	var out []float32
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		return torch.NoGrad(func() error {
			g := newGrid(patch, shape, cfg.TileStep)
			padded := torch.Sizes(g.padded[:])
			dtype := cfg.accumulator()
			input := s.Zeros(append([]int64{int64(shape[0])}, padded...), torch.Float32, torch.CPU)
			require.NoError(t, torch.CopyIn(narrow(s, input, g.offset, g.inside), image))
			logits := s.Zeros(append([]int64{2}, padded...), dtype, torch.CPU)
			count := s.Zeros(padded, dtype, torch.CPU)
			weights, err := weightMap(s, patch, cfg.Gaussian, dtype, torch.CPU)
			require.NoError(t, err)
			for _, tile := range tiles {
				x := narrow(s, input, tile.start, g.patch)
				if len(patch) == 2 {
					x = s.Squeeze(x, 1)
				}
				x = s.Unsqueeze(x, 0)
				var sum *torch.Tensor
				subsets := subsets(cfg.Mirror)
				for _, axes := range subsets {
					in := x
					if len(axes) > 0 {
						in = s.Flip(x, shifted(axes, 2)...)
					}
					y := net.Forward(s, in)[0]
					if len(axes) > 0 {
						y = s.Flip(y, shifted(axes, 2)...)
					}
					if sum == nil {
						sum = y
					} else {
						s.Add_(sum, y, 1)
					}
				}
				if len(subsets) > 1 {
					s.DivScalar_(sum, float64(len(subsets)))
				}
				sum = s.Mul(s.Squeeze(sum, 0), weights)
				w := weights
				if len(patch) == 2 {
					sum, w = s.Unsqueeze(sum, 1), s.Unsqueeze(w, 0)
				}
				s.Add_(narrow(s, logits, tile.start, g.patch), sum, 1)
				s.Add_(narrow(s, count, tile.start, g.patch), w, 1)
			}
			s.Div_(logits, count)
			out, err = torch.Slice[float32](s.To(s.Contiguous(narrow(s, logits, g.offset, g.inside),
				torch.Contiguous), torch.Float32, torch.CPU))
			return err
		})
	}))
	return out
}

// place copies slabs into the logits of the whole image (classes, z, y, x), and checks that each
// one continues where the previous one ended. next is the first missing slice of the current strip.
type place struct {
	shape []int
	data  []float32
	next  int
	strip [2]int
	count int // slabs
}

func newPlace(classes int, shape [4]int) *place {
	p := &place{shape: []int{classes, shape[1], shape[2], shape[3]},
		data: make([]float32, classes*shape[1]*shape[2]*shape[3])}
	for i := range p.data {
		p.data[i] = float32(math.NaN())
	}
	return p
}

func (p *place) add(t *testing.T, s volume.Slab) {
	a := s.Axes()
	n := [3]int{p.shape[1+a[0]], p.shape[1+a[1]], p.shape[1+a[2]]}
	switch {
	case p.count == 0:
		require.Equal(t, 0, s.Strip[0])
	case s.Strip != p.strip:
		require.Equal(t, n[0], p.next, "a strip is finished before the next one starts")
		require.Equal(t, p.strip[1]-1, s.Strip[0], "strips share one row")
		p.next = 0
	}
	require.Equal(t, p.next, s.First)
	require.Positive(t, s.Count)
	width := s.Strip[1] - s.Strip[0]
	require.Len(t, s.Data, p.shape[0]*s.Count*width*n[2])
	p.next, p.strip, p.count = s.First+s.Count, s.Strip, p.count+1
	stride := [3]int{p.shape[2] * p.shape[3], p.shape[3], 1}
	i := 0
	for c := range p.shape[0] {
		for k := range s.Count {
			for j := range width {
				for l := range n[2] {
					p.data[c*p.shape[1]*stride[0]+(s.First+k)*stride[a[0]]+(s.Strip[0]+j)*stride[a[1]]+l*stride[a[2]]] = s.Data[i]
					i++
				}
			}
		}
	}
}

func TestSlabsAreTheWholeImagesLogits(t *testing.T) {
	needTorch(t)
	for _, c := range []struct {
		patch  []int
		shape  [4]int
		mirror []int
		axis   int // of the slabs with fast numerics
	}{
		{[]int{4, 6, 8}, [4]int{1, 13, 15, 18}, nil, 0},
		{[]int{8, 4, 8}, [4]int{1, 13, 15, 18}, []int{0, 2}, 1},
		{[]int{8, 8, 4}, [4]int{1, 9, 15, 18}, []int{2}, 2},
		{[]int{8, 8, 4}, [4]int{2, 5, 6, 18}, nil, 2},    // padded along x
		{[]int{8, 8, 8}, [4]int{1, 5, 21, 3}, nil, 1},    // and along z with reference numerics
		{[]int{8, 8, 8}, [4]int{1, 3, 4, 5}, nil, 0},     // padded everywhere
		{[]int{6, 8}, [4]int{1, 7, 15, 11}, []int{1}, 0}, // slice by slice
		{[]int{6, 8}, [4]int{1, 3, 4, 18}, nil, 0},
	} {
		for _, numerics := range []Numerics{Reference, Fast} {
			for _, step := range []float64{0.3, 0.5, 1} {
				for _, narrowest := range []bool{false, true} {
					name := fmt.Sprintf("patch %v image %v %v step %v narrowest %v", c.patch,
						c.shape, numerics, step, narrowest)
					cfg := config(numerics, c.mirror)
					cfg.TileStep = step
					net := uneven(1)
					if c.shape[0] == 2 {
						net = &fake{forward: func(s *torch.Scope,
							x *torch.Tensor) *torch.Tensor {
							return s.MulScalar(x, 1.7)
						}}
					}
					whole, err := Forecast(c.patch, 2, 1, c.shape, cfg)
					require.NoError(t, err)
					require.Zero(t, whole.Repeated)
					if narrowest {
						pl, err := newPlan(c.patch, 2, 1, c.shape, cfg)
						require.NoError(t, err)
						cfg.MaxBytes = pl.need(2, 1, 2+pl.inside[pl.axes[1]]/4, cfg)
					}
					need, err := Forecast(c.patch, 2, 1, c.shape, cfg)
					require.NoError(t, err, name)
					pl, err := newPlan(c.patch, 2, 1, c.shape, cfg)
					require.NoError(t, err)
					image := hashImage(c.shape)
					tiles := newGrid(c.patch, c.shape, step).tiles // nnU-Net's order
					if numerics == Fast {
						require.Equal(t, c.axis, pl.axes[0], name)
						tiles = pl.tiles
					} else {
						require.Zero(t, pl.axes[0])
						require.Equal(t, tiles, pl.tiles, name)
					}
					want := plain(t, net, c.patch, cfg, image, c.shape, tiles)
					net.batches = nil
					p, err := New(net, c.patch, 2, cfg)
					require.NoError(t, err)
					got := newPlace(2, c.shape)
					reports := 0
					require.NoError(t, p.Slabs(context.Background(), image, c.shape,
						func(done, total int) {
							reports++
							require.Equal(t, [2]int{reports, need.Tiles}, [2]int{done, total}, name)
						}, func(s volume.Slab) error {
							got.add(t, s)
							return nil
						}))
					golden.Equal(t, name, got.shape, want, got.data)
					passes := 0
					for _, n := range net.batches {
						passes += int(n)
					}
					require.Equal(t, need.Passes, passes)
					require.Equal(t, need.Tiles, reports)
					if narrowest {
						require.Greater(t, need.Strips, 1)
						require.LessOrEqual(t, need.Bytes, cfg.MaxBytes)
						require.Equal(t, len(tiles)+need.Repeated, need.Tiles)
						_, values, _ := run(t, net, c.patch, 2, cfg, image, c.shape)
						golden.Equal(t, name, got.shape, want, values)
					}
				}
			}
		}
	}
}

// Labels computed slab by slab equal those of the whole image.
func TestSlabLabelsAreTheWholeImages(t *testing.T) {
	needTorch(t)
	labels := &plans.Labels{AllLabels: []int{0, 1}, ForegroundLabels: []int{1}}
	regions := &plans.Labels{HasRegions: true, Regions: make([]plans.Label, 2),
		RegionsClassOrder: []int{2, 7}}
	for _, patch := range [][]int{{4, 8, 8}, {8, 4, 8}, {8, 8, 4}, {8, 8}} {
		for _, l := range []*plans.Labels{labels, regions} {
			shape := [4]int{1, 11, 15, 18}
			image := hashImage(shape)
			cfg := config(Fast, nil)
			pl, err := newPlan(patch, 2, 1, shape, cfg)
			require.NoError(t, err)
			cfg.MaxBytes = pl.need(2, 1, 6, cfg)
			p, err := New(uneven(1), patch, 2, cfg)
			require.NoError(t, err)
			var want []uint8
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				logits, err := p.Logits(context.Background(), s, image, shape, nil)
				require.NoError(t, err)
				want, err = Labels(logits, l)
				return err
			}))
			got := make([]uint8, len(want))
			require.NoError(t, p.Slabs(context.Background(), image, shape, nil,
				func(s volume.Slab) error {
					return SlabLabels(got, [3]int(shape[1:]), s, l)
				}))
			require.Equal(t, want, got)
			if l.HasRegions {
				require.Contains(t, want, uint8(7))
			}
			require.Contains(t, want, uint8(0))
		}
	}
	err := SlabLabels(make([]uint8, 8), [3]int{2, 2, 2},
		volume.Slab{First: 1, Count: 2, Strip: [2]int{0, 2}, Data: make([]float32, 16)}, labels)
	require.EqualError(t, err, "infer: a slab of slices 1 to 3 of axis 0 with 16 values does not "+
		"fit an image of shape [2 2 2]")
}

// Large slabs are emitted in pieces.
func TestLargeSlabsComeInPieces(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 21, 300, 512}
	cfg := config(Fast, nil)
	cfg.TileStep = 1
	patch := []int{16, 300, 512}
	image := hashImage(shape)
	want := plain(t, uneven(1), patch, cfg, image, shape, newGrid(patch, shape, 1).tiles)
	p, err := New(uneven(1), patch, 2, cfg)
	require.NoError(t, err)
	got := newPlace(2, shape)
	require.NoError(t, p.Slabs(context.Background(), image, shape, nil, func(s volume.Slab) error {
		require.LessOrEqual(t, 4*len(s.Data), slabBytes)
		got.add(t, s)
		return nil
	}))
	require.Equal(t, 3, got.count) // slices 0 to 4 are final first, then 13 and 3
	golden.Equal(t, "logits", got.shape, want, got.data)
}

// A slab is emitted before the first tile that does not overlap it, so that at most the patch's
// depth is in memory.
func TestSlabsAreEmittedAsSoonAsNoTileOverlapsThem(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 20, 6, 6}
	cfg := config(Reference, nil)
	p, err := New(uneven(1), []int{8, 4, 4}, 2, cfg)
	require.NoError(t, err)
	done := 0
	var seen [][3]int
	require.NoError(t, p.Slabs(context.Background(), hashImage(shape), shape,
		func(d, _ int) { done = d }, func(s volume.Slab) error {
			seen = append(seen, [3]int{done, s.First, s.Count})
			return nil
		}))
	// Tiles begin at slices 0, 4, 8 and 12, four of them each.
	require.Equal(t, [][3]int{{4, 0, 4}, {8, 4, 4}, {12, 8, 4}, {16, 12, 8}}, seen)
}

// nnU-Net adds the float16 logits of the folds and divides the sum by their number.
func TestFoldsAreAveraged(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 13, 9, 10}
	patch := []int{4, 6, 8}
	image := hashImage(shape)
	for _, numerics := range []Numerics{Reference, Fast} {
		cfg := config(numerics, []int{1})
		nets := []*fake{uneven(1), uneven(-2.3), uneven(0.7)}
		var each [][]float32
		for _, net := range nets {
			_, values, _ := run(t, net, patch, 2, cfg, image, shape)
			each = append(each, values)
		}
		var want []float32
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			var sum *torch.Tensor
			for _, v := range each {
				x := s.To(torch.FromSlice(s, v, int64(len(v))), cfg.accumulator(), torch.CPU)
				if sum == nil {
					sum = s.Clone(x)
				} else {
					s.Add_(sum, x, 1)
				}
			}
			s.DivScalar_(sum, 3)
			var err error
			want, err = torch.Slice[float32](s.To(sum, torch.Float32, torch.CPU))
			return err
		}))
		for _, net := range nets {
			net.batches = nil
		}
		var asked []int
		p, err := NewEnsemble(3, func(i int) (models.Network,
			error) {
			asked = append(asked, i)
			return nets[i], nil
		}, patch, 2, cfg)
		require.NoError(t, err)
		got := newPlace(2, shape)
		last := 0
		require.NoError(t, p.Slabs(context.Background(), image, shape,
			func(done, total int) { last = done; require.LessOrEqual(t, done, total) },
			func(s volume.Slab) error { got.add(t, s); return nil }))
		if numerics == Reference {
			golden.Equal(t, "mean of folds", got.shape, want, got.data)
		} else {
			d := golden.Compare(got.shape, want, got.data, golden.Tolerance{Abs: 1e-5})
			require.LessOrEqual(t, d.Excess, 1.0, "%v", d)
		}
		need, err := Forecast(patch, 2, 3, shape, cfg)
		require.NoError(t, err)
		require.Equal(t, 3*need.Tiles, last)
		rows := len(steps(13, 4, 0.5))
		require.Equal(t, need.Switches, 2*rows+1)
		require.Len(t, asked, 2*rows+1,
			"each row of tiles starts with the last network of the previous row")
		for i := range asked[1:] {
			require.NotEqual(t, asked[i], asked[i+1])
		}
		passes := 0
		for _, net := range nets {
			require.Equal(t, Mode{}, net.modes[len(net.modes)-1])
			for _, n := range net.batches {
				passes += int(n)
			}
		}
		require.Equal(t, need.Passes, passes)
	}
	broken := errors.New("fold_1: no such file")
	p, err := NewEnsemble(2, func(i int) (models.Network, error) {
		if i == 1 {
			return nil, broken
		}
		return uneven(1), nil
	}, patch, 2, config(Fast, nil))
	require.NoError(t, err)
	err = p.Slabs(context.Background(), image, shape, nil, func(volume.Slab) error { return nil })
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "network of fold 2 of 2")
	_, err = NewEnsemble(0, nil, patch, 2, config(Fast, nil))
	require.EqualError(t, err, "infer: 0 folds: expected at least 1")
}

// When memory runs out during a run, emitted slabs remain valid and the rest follows.
func TestRunResumesAfterOutOfMemory(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 21, 9, 10}
	patch := []int{6, 6, 8}
	image := hashImage(shape)
	for _, failing := range []int{0, 3, 9, 14} {
		for _, strips := range []bool{false, true} {
			cfg := config(Fast, []int{0})
			cfg.BatchTiles = 1
			_, want, _ := run(t, uneven(1), patch, 2, cfg, image, shape)
			cfg.BatchTiles = 3
			if strips {
				need, err := Forecast(patch, 2, 1, shape, cfg)
				require.NoError(t, err)
				cfg.MaxBytes = need.Bytes * 3 / 4
			}
			var notices []string
			cfg.Notice = func(s string) { notices = append(notices, s) }
			net := uneven(1)
			forward := net.forward
			net.forward = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				if len(net.batches) >= failing && x.Shape()[0] > 1 {
					s.Fail(&torch.Error{Op: "conv",
						Msg: "DefaultCPUAllocator: can't allocate memory"})
					return x
				}
				return forward(s, x)
			}
			p, err := New(net, patch, 2, cfg)
			require.NoError(t, err)
			got := newPlace(2, shape)
			require.NoError(t, p.Slabs(context.Background(), image, shape, nil,
				func(s volume.Slab) error { got.add(t, s); return nil }))
			d := golden.Compare(got.shape, want, got.data, golden.Tolerance{Abs: 1e-5})
			require.LessOrEqual(t, d.Excess, 1.0, "%v", d)
			require.Len(t, notices, 1)
			require.Contains(t, notices[0], "continuing with one tile at a time instead of 3")
			require.Equal(t, int64(1), net.batches[len(net.batches)-1])
		}
	}
	// Other errors on the CPU are not retried.
	net := uneven(1)
	net.forward = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		s.Fail(&torch.Error{Op: "conv", Msg: "expected 4 channels"})
		return x
	}
	p, err := New(net, patch, 2, config(Fast, nil))
	require.NoError(t, err)
	require.ErrorContains(t, p.Slabs(context.Background(), image, shape, nil,
		func(volume.Slab) error { return nil }), "expected 4 channels")
	require.Len(t, net.batches, 1)
}

func TestErrorOfTheReceiverEndsTheRun(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 21, 9, 10}
	net := uneven(1)
	cfg := config(Fast, nil)
	cfg.After = Mode{Training: true}
	p, err := New(net, []int{6, 6, 8}, 2, cfg)
	require.NoError(t, err)
	full := &torch.Error{Op: "x", Msg: "can't allocate memory"}
	calls := 0
	err = p.Slabs(context.Background(), hashImage(shape), shape, nil, func(volume.Slab) error {
		calls++
		return full
	})
	require.Equal(t, error(full), err)
	require.Equal(t, 1, calls)
	require.Equal(t, cfg.After, net.training)
}

func TestTooLittleMemoryIsRefused(t *testing.T) {
	cfg := config(Fast, nil)
	cfg.MaxBytes = 4 << 20
	_, err := Forecast([]int{64, 64, 64}, 60, 1, [4]int{1, 400, 100, 100}, cfg)
	require.ErrorContains(t, err, "infer: image (c,z,y,x) [1 400 100 100], patch [64 64 64], 60 "+
		"classes: a slab takes at least ")
	require.ErrorContains(t, err, "the limit is 4 MiB")
}

// absent is a GPU that no machine has.
var absent = torch.Device{Type: torch.DeviceCUDA, Index: 63}

// A device that fails with one tile, too, and without the sums, hands over to the CPU, step by
// step; the predictor stays there.
func TestADeviceThatFailsHandsOverToTheCPU(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 21, 9, 10}
	patch := []int{6, 6, 8}
	image := hashImage(shape)
	cfg := config(Fast, []int{0})
	cfg.BatchTiles = 1
	_, want, _ := run(t, uneven(1), patch, 2, cfg, image, shape)

	cfg.BatchTiles, cfg.Device, cfg.Autocast = 3, absent, torch.Float16
	var notices []string
	cfg.Notice = func(s string) { notices = append(notices, s) }
	moved := 0
	cfg.OnCPU = func() (func(int) (models.Network, error), int64, error) {
		moved++
		net := uneven(1)
		forward := net.forward
		net.forward = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			for _, device := range []torch.DeviceType{torch.DeviceCPU, torch.DeviceCUDA} {
				require.False(t, torch.InAutocast(device), "the CPU computes in float32")
			}
			return forward(s, x)
		}
		return func(int) (models.Network, error) { return net, nil }, 1 << 40, nil
	}
	p, err := New(uneven(1), patch, 2, cfg)
	require.NoError(t, err)
	for range 2 {
		got := newPlace(2, shape)
		require.NoError(t, p.Slabs(context.Background(), image, shape, nil,
			func(s volume.Slab) error { got.add(t, s); return nil }))
		d := golden.Compare(got.shape, want, got.data, golden.Tolerance{Abs: 1e-5})
		require.LessOrEqual(t, d.Excess, 1.0, "%v", d)
	}
	require.Equal(t, 1, moved)
	require.Equal(t, int64(1<<40), p.cfg.MaxBytes, "the limit is the CPU's")
	require.Len(t, notices, 3)
	for i, step := range []string{"one tile at a time instead of 3", "sums in the computer's memory",
		"the CPU, for this image and all later ones"} {
		require.Contains(t, notices[i], "cuda:63 failed (")
		require.Contains(t, notices[i], ": continuing with "+step)
	}

	cfg.OnCPU = func() (func(int) (models.Network, error), int64, error) {
		return nil, 0, errors.New("checkpoint is gone")
	}
	p, err = New(uneven(1), patch, 2, cfg)
	require.NoError(t, err)
	ignore := func(volume.Slab) error { return nil }
	require.ErrorContains(t, p.Slabs(context.Background(), image, shape, nil, ignore),
		"network on the CPU: checkpoint is gone")
	cfg.OnCPU = nil
	p, err = New(uneven(1), patch, 2, cfg)
	require.NoError(t, err)
	var native *torch.Error
	require.ErrorAs(t, p.Slabs(context.Background(), image, shape, nil, ignore), &native)
}
