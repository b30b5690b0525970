// Package infer runs a segmentation network over whole images: a window slides over a preprocessed case, overlapping
// logits are averaged with Gaussian weights and over mirrored inputs, and logits become labels on the preprocessed grid.
// It does not read or write files, resample, or know of folds and checkpoints.
//
// Source of behaviour: nnU-Net 2.5.1, inference/predict_from_raw_data.py and inference/sliding_window_prediction.py.
package infer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// Numerics says how logits are added up.
type Numerics int

const (
	// Reference does nnU-Net's operations in its order: logits and weights accumulate in float16 and each patch runs alone.
	// Compat: where only the corner of a patch reaches, the logits are thereby rounded to whole numbers.
	Reference Numerics = iota
	// Fast accumulates in float32 and runs several patches at a time.
	Fast
)

// Config is how a window slides. DefaultConfig gives nnU-Net's settings.
type Config struct {
	TileStep   float64      // largest distance of tiles in patch sizes, above 0 and at most 1
	Mirror     []int        // axes of the patch over whose mirror images logits are averaged; nnU-Net keeps them in the checkpoint
	Gaussian   bool         // weigh the middle of a patch more than its rim
	Numerics   Numerics     //
	BatchTiles int          // patches in one forward pass, mirrored ones counted; 0 chooses: 1 for Reference, 2 for Fast
	Device     torch.Device // where the network's weights lie
	Threads    int          // of libtorch's operators; 0 leaves them as they are
	Autocast   torch.DType  // Float16 or BFloat16: the network runs under autocast to it; Float32: it does not
	After      Mode         // the network's mode once Logits returns: a network cannot be asked for the one it was in
}

// Mode is what a network can be switched to; the zero Mode is for prediction.
type Mode struct{ Training, DeepSupervision bool }

// DefaultConfig is nnU-Net's: tiles half a patch apart, Gaussian weights, float16 autocast on CUDA and none on the CPU.
// Mirror axes belong to the network and are added by the caller. Numerics is Fast, as everywhere in lntorch.
func DefaultConfig(device torch.Device) Config {
	c := Config{TileStep: 0.5, Gaussian: true, Numerics: Fast, Device: device, Autocast: torch.Float32}
	if device.Type == torch.DeviceCUDA {
		c.Autocast = torch.Float16
	}
	return c
}

func (c Config) check(patch []int, classes int) error {
	switch {
	case len(patch) != 2 && len(patch) != 3:
		return fmt.Errorf("infer: patch %v: expected 2 or 3 axes", patch)
	case slices.Min(patch) < 1:
		return fmt.Errorf("infer: patch %v: sizes must be above 0", patch)
	case classes < 1:
		return fmt.Errorf("infer: %d classes: expected at least 1", classes)
	case !(c.TileStep > 0 && c.TileStep <= 1):
		return fmt.Errorf("infer: tile step %v: expected above 0 and at most 1", c.TileStep)
	case c.BatchTiles < 0:
		return fmt.Errorf("infer: batch of %d tiles: expected 0 (choose) or more", c.BatchTiles)
	case c.Numerics == Reference && c.BatchTiles > 1:
		return fmt.Errorf("infer: batch of %d tiles: numerics reference runs each tile alone; leave the batch out or choose numerics fast", c.BatchTiles)
	case c.Autocast != torch.Float32 && c.Autocast != torch.Float16 && c.Autocast != torch.BFloat16:
		return fmt.Errorf("infer: autocast to %s: expected float16, bfloat16 or float32 (off)", c.Autocast)
	}
	for i, a := range c.Mirror {
		if a < 0 || a >= len(patch) || slices.Contains(c.Mirror[:i], a) {
			return fmt.Errorf("infer: mirror axes %v: expected different axes of the patch %v, counted from 0", c.Mirror, patch)
		}
	}
	return nil
}

// batch is the number of patches in one forward pass.
func (c Config) batch() int {
	switch {
	case c.BatchTiles > 0:
		return c.BatchTiles
	case c.Numerics == Fast:
		return 2
	}
	return 1
}

// accumulator is the type of the sums of logits and weights.
func (c Config) accumulator() torch.DType {
	if c.Numerics == Fast {
		return torch.Float32
	}
	return torch.Float16
}

// Predictor slides one network's window over images. It is used by one goroutine at a time.
type Predictor struct {
	net     models.Network
	patch   []int
	classes int
	cfg     Config
	mirrors [][]int // subsets of cfg.Mirror: the empty one, then by size
}

// New makes a predictor of net, whose weights lie on cfg.Device and whose logits have the given number of classes
// (segmentation heads). patch has 3 axes (z,y,x), or 2 (y,x) for a network that sees slice after slice of axis 0.
func New(net models.Network, patch []int, classes int, cfg Config) (*Predictor, error) {
	if err := cfg.check(patch, classes); err != nil {
		return nil, err
	}
	if err := net.CheckInput(wide(patch)); err != nil {
		return nil, fmt.Errorf("infer: patch %v does not fit the network: %w", patch, err)
	}
	return &Predictor{net, slices.Clone(patch), classes, cfg, subsets(cfg.Mirror)}, nil
}

// subsets lists the subsets of axes: the empty one, then by size, equal sizes in lexicographic order of positions.
func subsets(axes []int) [][]int {
	all := [][]int{{}}
	for from, size := 0, 1; size <= len(axes); size++ {
		to := len(all)
		for _, s := range all[from:to] {
			next := 0
			if len(s) > 0 {
				next = slices.Index(axes, s[len(s)-1]) + 1
			}
			for _, a := range axes[next:] {
				all = append(all, append(slices.Clone(s), a))
			}
		}
		from = to
	}
	return all
}

// Logits runs the window over image, a preprocessed case of shape (c,z,y,x), row-major, and returns logits (classes,z,y,x)
// on the CPU, owned by s: float16 for Reference, float32 for Fast. The result may be a view. An image smaller than the
// patch is surrounded by zeros. progress, which may be nil, hears of each finished tile.
//
// Memory is that of Forecast. Between forward passes ctx is looked at; its error is returned when it is done. Logits
// that are infinite or NaN are an error (Differs: nnU-Net refuses infinities alone).
// During the call the network is in evaluation mode without deep supervision; afterwards in the mode Config.After.
func (p *Predictor) Logits(ctx context.Context, s *torch.Scope, image []float32, shape [4]int, progress func(done, total int)) (*torch.Tensor, error) {
	if err := checkImage(image, shape); err != nil {
		return nil, err
	}
	g := newGrid(p.patch, shape, p.cfg.TileStep)
	p.net.SetTraining(false)
	p.net.SetDeepSupervision(false)
	defer func() {
		p.net.SetTraining(p.cfg.After.Training)
		p.net.SetDeepSupervision(p.cfg.After.DeepSupervision)
	}()
	var out *torch.Tensor
	attempt := func(results torch.Device) error {
		return torch.With(func(c *torch.Scope) error { // no child of s, which a failure on the device shall not reach
			logits, err := p.slide(ctx, c, g, image, results, progress)
			if err == nil {
				out = logits.MoveTo(s)
			}
			return err
		})
	}
	run := func() error {
		err := attempt(p.cfg.Device)
		var native *torch.Error
		if p.cfg.Device.Type != torch.DeviceCPU && errors.As(err, &native) {
			// As nnU-Net: most likely the image and its sums do not fit the device; tiles still run there.
			if err := p.cfg.Device.EmptyCache(); err != nil {
				return err
			}
			err = attempt(torch.CPU)
		}
		return err
	}
	err := torch.OnThread(p.cfg.Threads, func() error {
		return torch.NoGrad(func() error {
			if p.cfg.Autocast == torch.Float32 {
				return run()
			}
			return torch.Autocast(p.cfg.Device.Type, p.cfg.Autocast, run)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("infer: image (c,z,y,x) %v, patch %v: %w", shape, p.patch, err)
	}
	return out, nil
}

func checkShape(shape [4]int) error {
	if slices.Min(shape[:]) < 1 {
		return fmt.Errorf("infer: image of shape (c,z,y,x) %v is empty", shape)
	}
	return nil
}

func checkImage(image []float32, shape [4]int) error {
	if err := checkShape(shape); err != nil {
		return err
	}
	if n := shape[0] * shape[1] * shape[2] * shape[3]; n != len(image) {
		return fmt.Errorf("infer: image of shape (c,z,y,x) %v has %d values, given %d", shape, n, len(image))
	}
	return nil
}

// sums are the image, the patch's weights and what is added up over the image, all on one device.
type sums struct {
	image, weights, logits, count *torch.Tensor
}

// slide does all tiles, with image and sums on the device results.
func (p *Predictor) slide(ctx context.Context, s *torch.Scope, g grid, image []float32, results torch.Device, progress func(done, total int)) (*torch.Tensor, error) {
	dtype := p.cfg.accumulator()
	space := wide(g.padded[:])
	a := sums{
		image:  s.Zeros(append([]int64{int64(g.channels)}, space...), torch.Float32, results),
		logits: s.Zeros(append([]int64{int64(p.classes)}, space...), dtype, results),
		count:  s.Zeros(space, dtype, results),
	}
	var err error
	if a.weights, err = weightMap(s, p.patch, p.cfg.Gaussian, dtype, results); err != nil {
		return nil, err
	}
	if err := torch.CopyIn(g.inner(s, a.image), image); err != nil {
		return nil, err
	}
	if err := p.passes(ctx, s, g, a, progress); err != nil {
		return nil, err
	}
	s.Div_(a.logits, a.count)
	if err := checkFinite(s, a.logits); err != nil {
		return nil, err
	}
	return s.To(g.inner(s, a.logits), dtype, torch.CPU), s.Err()
}

// passes runs the network over every tile and its mirror images, batch by batch. Tiles follow each other, and the mirror
// images of a tile too, so that a tile is finished before the next one begins.
func (p *Predictor) passes(ctx context.Context, s *torch.Scope, g grid, a sums, progress func(done, total int)) error {
	n := len(p.mirrors)
	total := len(g.tiles) * n
	var sum *torch.Tensor // of the current tile's logits over its mirror images so far
	for from := 0; from < total; from += p.cfg.batch() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d of %d tiles: %w", from/n, len(g.tiles), err)
		}
		to := min(from+p.cfg.batch(), total)
		err := s.With(func(b *torch.Scope) error {
			y, err := p.forward(b, g, a.image, from, to)
			if err != nil {
				return err
			}
			for k := from; k < to; k++ {
				logits := b.Select(y, 0, int64(k-from))
				if p.cfg.Numerics == Fast {
					logits = b.To(logits, torch.Float32, p.cfg.Device)
				}
				if k%n == 0 {
					sum = logits
				} else {
					b.Add_(sum, b.Flip(logits, shifted(p.mirrors[k%n], 1)...), 1)
				}
				if k%n < n-1 {
					continue
				}
				if n > 1 {
					b.DivScalar_(sum, float64(n))
				}
				p.add(b, g.tiles[k/n], a, sum)
				sum.Free()
				sum = nil
				if b.Err() == nil && progress != nil {
					progress(k/n+1, len(g.tiles))
				}
			}
			b.Keep(sum) // of the tile, if any, with which the next batch goes on
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// forward runs the network over passes from to to-1 as one batch: pass k is mirror image k mod n of tile k/n.
// The result is (to-from, classes, patch…).
func (p *Predictor) forward(s *torch.Scope, g grid, image *torch.Tensor, from, to int) (*torch.Tensor, error) {
	n := len(p.mirrors)
	return s.Block(func(c *torch.Scope) *torch.Tensor {
		parts := make([]*torch.Tensor, 0, to-from)
		for k := from; k < to; k++ {
			x := c.Unsqueeze(g.tiles[k/n].of(c, image, p.patch), 0)
			x = c.To(x, torch.Float32, p.cfg.Device)
			if axes := p.mirrors[k%n]; len(axes) > 0 {
				x = c.Flip(x, shifted(axes, 2)...)
			}
			parts = append(parts, x)
		}
		x := parts[0]
		if len(parts) > 1 {
			x = c.Cat(0, parts...)
		}
		heads := p.net.Forward(c, x)
		if c.Err() != nil {
			return nil
		}
		want := append([]int64{int64(to - from), int64(p.classes)}, wide(p.patch)...)
		if got := heads[0].Shape(); !slices.Equal(got, want) {
			c.Fail(fmt.Errorf("the network's logits have shape %v, expected %v: %d classes over a patch %v", got, want, p.classes, p.patch))
			return nil
		}
		return heads[0]
	}), s.Err()
}

// add puts one tile's logits (classes, patch…), which it scales in place, into the sums.
func (p *Predictor) add(s *torch.Scope, t tile, a sums, logits *torch.Tensor) {
	logits = s.To(logits, logits.DType(), a.logits.Device())
	s.Mul_(logits, a.weights)
	s.Add_(t.of(s, a.logits, p.patch), logits, 1)
	s.Add_(t.of(s, a.count, p.patch), a.weights, 1)
}

// checkFinite looks at one class after the other, which bounds what it needs beside the logits.
func checkFinite(s *torch.Scope, logits *torch.Tensor) error {
	if s.Err() != nil {
		return s.Err()
	}
	for class := range logits.Shape()[0] {
		err := s.With(func(c *torch.Scope) error {
			finite, err := c.All(c.IsFinite(c.Select(logits, 0, class))).Item()
			if err == nil && finite == 0 {
				return fmt.Errorf("class %d has logits that are infinite or NaN: look for such values in the image and the weights; "+
					"if both are finite, logits beyond float16's 65504 need numerics fast without autocast", class)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shifted counts spatial axes from axis by of a tensor.
func shifted(axes []int, by int) []int64 {
	out := make([]int64, len(axes))
	for i, a := range axes {
		out[i] = int64(a + by)
	}
	return out
}
