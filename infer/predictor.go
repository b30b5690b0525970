// Package infer runs sliding-window inference of one network, or of the networks of several folds,
// on preprocessed cases. Overlapping logits are averaged with Gaussian weights, over mirrored
// inputs and over folds. Slices are emitted as soon as no further tile overlaps them, so the sums
// cover only the depth of one patch. Labels are on the preprocessed grid; preprocess.Inverse
// restores the grid of the image. The package does not read or write files, resample, or load
// checkpoints.
//
// Source of behaviour: nnU-Net 2.5.1, inference/predict_from_raw_data.py and
// inference/sliding_window_prediction.py.
package infer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// Numerics selects the arithmetic of summing logits.
type Numerics int

const (
	// Reference runs nnU-Net's operations in its order: logits and weights accumulate in float16,
	// with batch size 1.
	// Compat: this rounds logits to whole numbers where only the corner of a patch contributes.
	Reference Numerics = iota
	// Fast accumulates in float32 and runs several patches per batch.
	Fast
)

// Config holds the settings of sliding-window inference. DefaultConfig returns nnU-Net's.
type Config struct {
	TileStep   float64      // largest distance of tiles in patch sizes: above 0, at most 1
	Mirror     []int        // patch axes for mirroring; stored in nnU-Net's checkpoints
	Gaussian   bool         // Gaussian weights, highest at the centre of a patch
	Numerics   Numerics     //
	BatchTiles int          // batch size, mirrored patches included; 0: 1 for Reference, 2 for Fast
	Device     torch.Device // device of the network's weights
	Threads    int          // of libtorch's operators; 0 leaves the number unchanged
	Autocast   torch.DType  // Float16 or BFloat16 for autocast; Float32 for none
	After      Mode         // mode to set on the network afterwards; its previous mode is unknown
	MaxBytes   int64        // limit on Need.Bytes; larger images are cut into strips; 0: none
	Notice     func(string) // called for each fallback when the device is out of memory; may be nil
	// OnCPU gives the networks on the CPU, as NewEnsemble's network does, and MaxBytes there, when the
	// device fails with a single tile and the sums on the CPU. It may free those on the device.
	// Without it that is an error.
	OnCPU func() (network func(fold int) (models.Network, error), maxBytes int64, err error)
}

// Mode is a mode of a network; the zero Mode is for prediction.
type Mode struct{ Training, DeepSupervision bool }

// DefaultConfig returns nnU-Net's settings: tiles half a patch apart, Gaussian weights, float16
// autocast on CUDA and none on the CPU. Mirror axes depend on the network and are set by the
// caller. Numerics is Fast, as everywhere in lntorch.
func DefaultConfig(device torch.Device) Config {
	c := Config{TileStep: 0.5, Gaussian: true, Numerics: Fast, Device: device,
		Autocast: torch.Float32}
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
		return fmt.Errorf("infer: batch of %d tiles: numerics reference has batch size 1; omit "+
			"the batch size or use numerics fast", c.BatchTiles)
	case c.Autocast != torch.Float32 && c.Autocast != torch.Float16 && c.Autocast != torch.BFloat16:
		return fmt.Errorf("infer: autocast to %s: expected float16, bfloat16 or float32 (off)",
			c.Autocast)
	}
	for i, a := range c.Mirror {
		if a < 0 || a >= len(patch) || slices.Contains(c.Mirror[:i], a) {
			return fmt.Errorf("infer: mirror axes %v: expected distinct axes of the patch %v, "+
				"counted from 0", c.Mirror, patch)
		}
	}
	return nil
}

// batch is the number of patches per forward pass.
func (c Config) batch() int {
	switch {
	case c.BatchTiles > 0:
		return c.BatchTiles
	case c.Numerics == Fast:
		return 2
	}
	return 1
}

// accumulator is the dtype of the sums of logits and weights.
func (c Config) accumulator() torch.DType {
	if c.Numerics == Fast {
		return torch.Float32
	}
	return torch.Float16
}

// sums is the number of logit sums held at a time.
func (c Config) sums(folds int) int {
	if c.Numerics == Fast {
		return 1
	}
	return folds
}

// Predictor runs sliding-window inference with one network, or one per fold. It is not safe for
// concurrent use.
type Predictor struct {
	folds   int
	network func(fold int) (models.Network, error)
	current int // the fold of net; -1 before the first
	net     models.Network
	patch   []int
	classes int
	cfg     Config
	mirrors [][]int // subsets of cfg.Mirror: the empty one, then by size
	air     *Air    // tiles left out; nil for none
}

// New returns a predictor for net, whose weights are on cfg.Device and whose logits have the given
// number of classes (segmentation heads). patch has 3 axes (z,y,x), or 2 (y,x) for a network that
// runs on the slices of axis 0.
func New(net models.Network, patch []int, classes int, cfg Config) (*Predictor, error) {
	p, err := NewEnsemble(1, func(int) (models.Network, error) { return net, nil }, patch, classes,
		cfg)
	if err != nil {
		return nil, err
	}
	return p, p.use(0)
}

// NewEnsemble returns a predictor that averages the logits of several folds. network returns the
// network of a fold, counted from 0: one of several in memory, or always the same one with the
// weights of the fold loaded. It is called when the fold changes: folds-1 times per row of tiles,
// and once more for the first row.
func NewEnsemble(folds int, network func(fold int) (models.Network, error),
	patch []int, classes int, cfg Config) (*Predictor, error) {
	if err := cfg.check(patch, classes); err != nil {
		return nil, err
	}
	if folds < 1 {
		return nil, fmt.Errorf("infer: %d folds: expected at least 1", folds)
	}
	return &Predictor{folds: folds, network: network, current: -1, patch: slices.Clone(patch),
		classes: classes,
		cfg:     cfg, mirrors: subsets(cfg.Mirror)}, nil
}

// use makes the network of a fold current.
func (p *Predictor) use(fold int) error {
	if p.current == fold {
		return nil
	}
	net, err := p.network(fold)
	if err != nil {
		return fmt.Errorf("infer: network of fold %d of %d: %w", fold+1, p.folds, err)
	}
	if err := net.CheckInput(torch.Sizes(p.patch)); err != nil {
		return fmt.Errorf("infer: patch %v does not fit the network: %w", p.patch, err)
	}
	p.net, p.current = net, fold
	return nil
}

// subsets lists the subsets of axes by size, starting with the empty one, each size in
// lexicographic order of positions.
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

// Logits returns the logits of the whole image (classes,z,y,x) on the CPU, owned by s: float16 for
// Reference, float32 for Fast. Slabs needs less memory.
func (p *Predictor) Logits(ctx context.Context, s *torch.Scope, image []float32, shape [4]int,
	progress func(done, total int)) (*torch.Tensor, error) {
	if err := checkImage(image, shape); err != nil {
		return nil, err
	}
	var out *torch.Tensor
	// Not a child scope of s: a failure on the device must not fail s.
	err := torch.With(func(c *torch.Scope) error {
		whole := c.Empty(append([]int64{int64(p.classes)}, torch.Sizes(shape[1:])...), p.cfg.accumulator(),
			torch.CPU)
		err := p.run(ctx, image, shape, progress, func(pl *plan) emitter {
			return func(h *torch.Scope, logits *torch.Tensor, first int, st strip) error {
				if h.Err() != nil {
					return h.Err()
				}
				var at, length [3]int
				for i, n := range logits.Shape()[1:] {
					length[i] = int(n)
				}
				at[pl.axes[0]], at[pl.axes[1]] = first, st.lo
				h.Copy_(narrow(h, whole, at, length), logits, false)
				return h.Err()
			}
		})
		if err == nil {
			out = whole.MoveTo(s)
		}
		return err
	})
	return out, err
}

// Slabs runs inference on image, a preprocessed case of shape (c,z,y,x), row-major, and calls emit
// with finished logits: mean over mirror images, weighted mean over tiles, mean over folds, on the
// grid of the image. Slabs are emitted in order along one axis: z with Reference numerics and for
// 2d networks, otherwise the axis that needs the least memory. If a slab exceeds Config.MaxBytes
// they are emitted strip by strip, and each strip starts with the last row of the previous one. A
// slab's Data is valid only during the call; an error of emit ends the run. With Reference numerics
// the values are rounded to float16. An image smaller than the patch is zero-padded. progress,
// which may be nil, is called after each tile of every fold, repeated tiles included.
//
// Forecast states the memory needed. ctx is checked between forward passes; when it is done its
// error is returned. Infinite or NaN logits are an error (Differs: nnU-Net refuses only
// infinities). If a device fails, most likely because it is out of memory, the run resumes after
// the last slab with one tile at a time, then with the sums on the CPU, then, with Config.OnCPU,
// on the CPU altogether, where the predictor stays. emit is called on the network's OS thread, so
// slow work belongs on another goroutine. During the call the network is in
// evaluation mode without deep supervision; afterwards in mode Config.After.
func (p *Predictor) Slabs(ctx context.Context, image []float32, shape [4]int,
	progress func(done, total int), emit func(slab volume.Slab) error) error {
	if err := checkImage(image, shape); err != nil {
		return err
	}
	var data []float32 // reused for each slab
	return p.run(ctx, image, shape, progress, func(pl *plan) emitter {
		return func(s *torch.Scope, logits *torch.Tensor, first int, st strip) error {
			if s.Err() != nil {
				return s.Err()
			}
			n := int(logits.Numel())
			if cap(data) < n {
				data = make([]float32, n)
			}
			data = data[:n]
			order := []int64{0}
			for _, a := range pl.axes {
				order = append(order, int64(a+1))
			}
			x := s.Contiguous(s.Permute(s.To(logits, torch.Float32, torch.CPU), order...),
				torch.Contiguous)
			if s.Err() != nil {
				return s.Err()
			}
			if err := torch.CopyOut(x, data); err != nil {
				return err
			}
			count := int(logits.Shape()[1+pl.axes[0]])
			slab := volume.Slab{Axis: pl.axes[0], First: first, Count: count,
				Strip: [2]int{st.lo, st.hi}, Data: data}
			if err := emit(slab); err != nil {
				return receiverError{err}
			}
			return nil
		}
	})
}

// receiverError is an error of the caller's emit function, after which there is no retry.
type receiverError struct{ error }

// Unwrap returns the caller's error.
func (r receiverError) Unwrap() error { return r.error }

// emitter receives finished logits, a view in the axis order of the image that starts at slice
// first of the slab axis.
type emitter = func(s *torch.Scope, logits *torch.Tensor, first int, st strip) error

// run runs all tiles of an image.
func (p *Predictor) run(ctx context.Context, image []float32, shape [4]int,
	progress func(done, total int), emit func(*plan) emitter) error {
	pl, err := newPlan(p.patch, p.classes, p.folds, shape, p.cfg)
	if err != nil {
		return err
	}
	pl.leaveOut(p.air)
	r := &pass{p: p, ctx: ctx, plan: pl, image: image, emit: emit(pl), progress: progress,
		batch: p.cfg.batch(), results: p.cfg.Device, total: pl.tileCount() * p.folds}
	defer r.restore()
	err = torch.OnThread(p.cfg.Threads, func() error {
		return torch.NoGrad(r.strips)
	})
	if own := (receiverError{}); errors.As(err, &own) {
		return own.error
	}
	if err != nil {
		return fmt.Errorf("infer: image (c,z,y,x) %v, patch %v: %w", shape, p.patch, err)
	}
	return nil
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
		return fmt.Errorf("infer: image of shape (c,z,y,x) %v has %d values, given %d", shape, n,
			len(image))
	}
	return nil
}

// pass is the state of a run over one image.
type pass struct {
	p        *Predictor
	ctx      context.Context
	plan     *plan
	image    []float32
	emit     emitter
	progress func(done, total int)
	batch    int              // current batch size
	results  torch.Device     // current device of the sums
	used     []models.Network // networks switched to evaluation mode
	input    []float32        // one tile of the image
	finished int              // tiles done, in finished strips and the current one
	total    int
}

// restore sets the networks to the mode Config.After.
func (r *pass) restore() {
	for _, net := range r.used {
		net.SetTraining(r.p.cfg.After.Training)
		net.SetDeepSupervision(r.p.cfg.After.DeepSupervision)
	}
}

// use makes the network of a fold current and sets it to evaluation mode.
func (r *pass) use(fold int) error {
	if err := r.p.use(fold); err != nil {
		return err
	}
	if !slices.Contains(r.used, r.p.net) {
		r.used = append(r.used, r.p.net)
		r.p.net.SetTraining(false)
		r.p.net.SetDeepSupervision(false)
	}
	return nil
}

// strips runs the strips one after another.
func (r *pass) strips() error {
	r.input = make([]float32, r.plan.channels*r.plan.patch[0]*r.plan.patch[1]*r.plan.patch[2])
	before := 0
	for _, st := range r.plan.strips {
		done := 0
		for {
			r.finished = before
			err := r.p.autocast(func() error {
				return torch.With(func(s *torch.Scope) error {
					w, err := r.p.newWindow(s, r.plan, st, done, r.results)
					if err != nil {
						return err
					}
					w.emit = r.emit
					err = r.slide(s, w)
					done = w.done
					return err
				})
			})
			if err == nil {
				break
			}
			if err := r.fallBack(err); err != nil {
				return err
			}
		}
		before += len(st.tiles) * r.p.folds
	}
	return nil
}

// autocast runs f in the mixed precision of the configuration.
func (p *Predictor) autocast(f func() error) error {
	if p.cfg.Autocast == torch.Float32 {
		return f()
	}
	return torch.Autocast(p.cfg.Device.Type, p.cfg.Autocast, f)
}

// fallBack reduces memory use after a device failure, most likely out of memory, and returns err if
// nothing is left to reduce. Sums on the CPU are nnU-Net's fallback; tiles still run on the device.
func (r *pass) fallBack(err error) error {
	device := r.p.cfg.Device
	var native *torch.Error
	if errors.As(err, new(receiverError)) || !errors.As(err, &native) ||
		device.Type == torch.DeviceCPU && !strings.Contains(native.Msg, "allocate memory") {
		return err
	}
	var step string
	var take func() error
	switch {
	case r.batch > 1:
		step = fmt.Sprintf("one tile at a time instead of %d", r.batch)
		take = func() error { r.batch = 1; return nil }
	case r.results != torch.CPU:
		step = "sums in the computer's memory"
		take = func() error { r.results = torch.CPU; return nil }
	case device != torch.CPU && r.p.cfg.OnCPU != nil:
		step = "the CPU, for this image and all later ones"
		take = r.toCPU
	default:
		return err
	}
	if r.p.cfg.Notice != nil {
		why, _, _ := strings.Cut(native.Error(), "\n")
		r.p.cfg.Notice(fmt.Sprintf("%s failed (%s): continuing with %s", device, why, step))
	}
	if err := take(); err != nil || r.p.cfg.Device.Type == torch.DeviceCPU {
		return err // a device that is left may be out of order altogether
	}
	return device.EmptyCache()
}

// toCPU takes the networks that Config.OnCPU gives. The CPU has no use for float16.
func (r *pass) toCPU() error {
	p := r.p
	network, limit, err := p.cfg.OnCPU()
	if err != nil {
		return fmt.Errorf("network on the CPU: %w", err)
	}
	p.network, p.net, p.current = network, nil, -1
	p.cfg.Device, p.cfg.Autocast, p.cfg.MaxBytes = torch.CPU, torch.Float32, limit
	r.used = nil
	return nil
}

// slide runs the tiles of a strip, except those whose slices are already emitted.
func (r *pass) slide(s *torch.Scope, w *window) error {
	axis := r.plan.axes[0]
	tiles := w.strip.tiles
	for len(tiles) > 0 && tiles[0].start[axis]+r.plan.patch[axis] <= w.done {
		tiles = tiles[1:]
		r.finished += r.p.folds
	}
	depth := r.plan.patch[axis]
	last := r.plan.padded[axis] - depth // where the last tiles start
	first := min(w.done, last)
	if len(tiles) > 0 { // earlier slices are done
		first = min(first, tiles[0].start[axis])
	}
	w.region[axis] = [2]int{first, first + depth}
	for len(tiles) > 0 {
		// A single network runs all tiles. Several alternate row by row; the last one of a row is
		// the first one of the next, which saves a switch.
		n := len(tiles)
		if r.p.folds > 1 {
			n = 1
			for n < len(tiles) && tiles[n].start[axis] == tiles[0].start[axis] {
				n++
			}
		}
		if err := w.moveTo(s, tiles[0].start[axis]); err != nil {
			return err
		}
		order := make([]int, r.p.folds)
		for i := range order {
			order[i] = i
		}
		if r.p.current == r.p.folds-1 {
			slices.Reverse(order)
		}
		w.counted = order[0]
		for _, fold := range order {
			if err := r.use(fold); err != nil {
				return err
			}
			if err := r.passes(s, w, tiles[:n], fold); err != nil {
				return err
			}
		}
		tiles = tiles[n:]
	}
	if err := w.moveTo(s, last); err != nil { // where tiles are left out
		return err
	}
	return w.finish(s, depth)
}

// passes runs a fold's network on tiles and their mirror images, batch by batch. Tiles are in order
// and the mirror images of a tile are consecutive, so each tile is finished before the next one
// starts.
func (r *pass) passes(s *torch.Scope, w *window, tiles []tile, fold int) error {
	n := len(r.p.mirrors)
	total := len(tiles) * n
	var sum *torch.Tensor // of the current tile's logits over the mirror images so far
	for from := 0; from < total; from += r.batch {
		if err := r.ctx.Err(); err != nil {
			return fmt.Errorf("stopped after %d of %d tiles: %w", r.finished, r.total, err)
		}
		to := min(from+r.batch, total)
		err := s.With(func(b *torch.Scope) error {
			y, err := r.forward(b, tiles, from, to)
			if err != nil {
				return err
			}
			for k := from; k < to; k++ {
				logits := b.Select(y, 0, int64(k-from))
				if r.p.cfg.Numerics == Fast {
					logits = b.To(logits, torch.Float32, r.p.cfg.Device)
				}
				if k%n == 0 {
					sum = logits
				} else {
					b.Add_(sum, b.Flip(logits, shifted(r.p.mirrors[k%n], 1)...), 1)
				}
				if k%n < n-1 {
					continue
				}
				if n > 1 {
					b.DivScalar_(sum, float64(n))
				}
				t := tiles[k/n]
				if err := w.moveTo(b, t.start[r.plan.axes[0]]); err != nil {
					return err
				}
				w.add(b, t, fold, sum)
				sum.Free()
				sum = nil
				if b.Err() == nil {
					r.finished++
					if r.progress != nil {
						r.progress(r.finished, r.total)
					}
				}
			}
			b.Keep(sum) // of the tile, if any, that continues in the next batch
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// forward runs the network on passes from … to-1 as one batch: pass k is mirror image k mod n of
// tile k/n. The result is (to-from, classes, patch…).
func (r *pass) forward(s *torch.Scope, tiles []tile, from, to int) (*torch.Tensor, error) {
	p := r.p
	n := len(p.mirrors)
	return s.Block(func(c *torch.Scope) *torch.Tensor {
		parts := make([]*torch.Tensor, 0, to-from)
		var x *torch.Tensor // the tile, not mirrored
		for k := from; k < to; k++ {
			if k == from || k%n == 0 {
				r.plan.load(r.input, r.image, tiles[k/n])
				x = torch.FromSlice(c, r.input, append([]int64{1, int64(r.plan.channels)},
					torch.Sizes(p.patch)...)...)
				x = c.To(x, torch.Float32, p.cfg.Device)
			}
			if axes := p.mirrors[k%n]; len(axes) > 0 {
				parts = append(parts, c.Flip(x, shifted(axes, 2)...))
			} else {
				parts = append(parts, x)
			}
		}
		x = parts[0]
		if len(parts) > 1 {
			x = c.Cat(0, parts...)
		}
		if c.Err() != nil {
			return nil
		}
		heads := p.net.Forward(c, x)
		if c.Err() != nil {
			return nil
		}
		want := append([]int64{int64(to - from), int64(p.classes)}, torch.Sizes(p.patch)...)
		if got := heads[0].Shape(); !slices.Equal(got, want) {
			c.Fail(fmt.Errorf("the network's logits have shape %v, expected %v: %d classes over "+
				"a patch %v", got, want, p.classes, p.patch))
			return nil
		}
		return heads[0]
	}), s.Err()
}

// checkFinite checks one class at a time, which limits its extra memory.
func checkFinite(s *torch.Scope, logits *torch.Tensor) error {
	if s.Err() != nil {
		return s.Err()
	}
	for class := range logits.Shape()[0] {
		err := s.With(func(c *torch.Scope) error {
			finite, err := c.All(c.IsFinite(c.Select(logits, 0, class))).Item()
			if err == nil && finite == 0 {
				return fmt.Errorf("class %d has logits that are infinite or NaN: check the image "+
					"and the weights for such values; "+
					"if both are finite, logits above float16's 65504 need numerics fast without "+
					"autocast", class)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shifted converts spatial axes to axes of a tensor whose first spatial axis is by.
func shifted(axes []int, by int) []int64 {
	out := make([]int64, len(axes))
	for i, a := range axes {
		out[i] = int64(a + by)
	}
	return out
}
