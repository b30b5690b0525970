package infer

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// Voxels of tiles that are left out have the mean over the other tiles; where there is none, the
// logits of air. The others keep their bits.
func TestTilesOfAirAreLeftOut(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 21, 9, 10}
	patch := []int{6, 6, 8}
	image := hashImage(shape)
	logits := []float64{0.5, -20}
	in := func(lo, hi int) func(box [3][2]int) bool { // z of air
		return func(box [3][2]int) bool { return box[0][0] >= lo && box[0][1] <= hi }
	}
	for name, is := range map[string]func(box [3][2]int) bool{
		"nowhere":    func([3][2]int) bool { return false },
		"everywhere": func([3][2]int) bool { return true },
		"before":     in(0, 13),
		"behind":     in(5, 21),
		"between":    in(2, 19),
		"one side":   func(box [3][2]int) bool { return box[1][0] > 0 },
		"at the rim": func(box [3][2]int) bool { return box[1][0] == 0 || box[1][1] == 9 },
	} {
		for _, numerics := range []Numerics{Fast, Reference} {
			for _, strips := range []bool{false, true} {
				t.Run(fmt.Sprint(name, numerics, strips), func(t *testing.T) {
					cfg := config(numerics, []int{1})
					if strips {
						need, err := Forecast(patch, 2, 1, shape, cfg)
						require.NoError(t, err)
						cfg.MaxBytes = need.Bytes * 3 / 4
					}
					pl, err := newPlan(patch, 2, 1, shape, cfg)
					require.NoError(t, err)
					var tiles []tile
					for _, at := range pl.tiles {
						var box [3][2]int
						for a := range 3 {
							box[a] = [2]int{at.start[a], at.start[a] + patch[a]}
						}
						if !is(box) {
							tiles = append(tiles, at)
						}
					}
					want := plain(t, uneven(1), patch, cfg, image, shape, tiles)
					for i, v := range want {
						if math.IsNaN(float64(v)) {
							want[i] = float32(logits[i/(len(want)/2)])
						}
					}
					net := uneven(1)
					p, err := New(net, patch, 2, cfg)
					require.NoError(t, err)
					require.NoError(t, p.SkipAir(&Air{Is: is, Logits: logits}))
					skipped, err := p.Skipped(shape)
					require.NoError(t, err)
					if !strips {
						require.Equal(t, len(pl.tiles)-len(tiles), skipped)
					}
					got := newPlace(2, shape)
					last := 0
					require.NoError(t, p.Slabs(context.Background(), image, shape,
						func(done, total int) { last = done; require.LessOrEqual(t, done, total) },
						func(s volume.Slab) error { got.add(t, s); return nil }))
					require.Equal(t, pl.tileCount()-skipped, last)
					if numerics == Reference {
						golden.Equal(t, name, got.shape, want, got.data)
					} else {
						d := golden.Compare(got.shape, want, got.data, golden.Tolerance{Abs: 1e-5})
						require.LessOrEqual(t, d.Excess, 1.0, "%v", d)
					}
					passes := 0
					for _, n := range net.batches {
						passes += int(n)
					}
					require.Equal(t, 2*last, passes)
				})
			}
		}
	}
	p, err := New(uneven(1), patch, 2, config(Fast, nil))
	require.NoError(t, err)
	require.ErrorContains(t, p.SkipAir(&Air{Logits: []float64{0}}), "1 logits for air, expected one for each of 2")
}

// Padding does not count: a box is the part of a tile inside the image.
func TestAirIsAskedForBoxesOfTheImage(t *testing.T) {
	needTorch(t)
	shape := [4]int{1, 3, 9, 5}
	p, err := New(uneven(1), []int{6, 6, 8}, 2, config(Fast, nil))
	require.NoError(t, err)
	var boxes [][3][2]int
	require.NoError(t, p.SkipAir(&Air{Logits: []float64{0, 0}, Is: func(box [3][2]int) bool {
		boxes = append(boxes, box)
		return false
	}}))
	_, err = p.Skipped(shape)
	require.NoError(t, err)
	require.Equal(t, [][3][2]int{{{0, 3}, {0, 6}, {0, 5}}, {{0, 3}, {3, 9}, {0, 5}}}, boxes)
}

// Measure runs the network as a run does, and leaves it in the mode that a run leaves it in.
func TestMeasureTimesABatch(t *testing.T) {
	needTorch(t)
	net := uneven(1)
	cfg := config(Fast, []int{0})
	cfg.After = Mode{Training: true}
	p, err := New(net, []int{6, 6, 8}, 2, cfg)
	require.NoError(t, err)
	cost, err := p.Measure(1, 1)
	require.NoError(t, err)
	require.Positive(t, cost.Pass)
	require.GreaterOrEqual(t, len(net.batches), 2)
	require.LessOrEqual(t, len(net.batches), 6)
	require.Equal(t, int64(2), net.batches[0])
	require.False(t, slices.ContainsFunc(net.modes, func(m Mode) bool { return m.Training }))
	require.Equal(t, cfg.After, net.training)

	for tiles, batch := range map[int]int64{1: 1, 2: 2, 9: 2} { // without mirrors an image's tiles fill a batch
		net := uneven(1)
		p, err := New(net, []int{6, 6, 8}, 2, config(Fast, nil))
		require.NoError(t, err)
		_, err = p.Measure(1, tiles)
		require.NoError(t, err)
		require.Equal(t, batch, net.batches[0], "%d tiles", tiles)
	}

	failing := &fake{forward: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		s.Fail(&torch.Error{Op: "conv", Msg: "out of memory"})
		return x
	}}
	p, err = New(failing, []int{6, 6, 8}, 2, cfg)
	require.NoError(t, err)
	_, err = p.Measure(1, 1)
	require.ErrorContains(t, err, "out of memory")
}
