// Package infer runs a segmentation network, or the networks of several folds, over whole images: a
// window slides over a preprocessed case, and overlapping logits are averaged with Gaussian
// weights, over mirrored inputs and over folds. As soon as no further tile reaches a slice its
// logits leave, so that no more than a patch's depth of them is held. Labels on the preprocessed
// grid are made here; the way back to the image is preprocess.Inverse's. The package does not read
// or write files, resample, or know of checkpoints.
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
	After      Mode         // the network's mode afterwards: a network cannot be asked for the one it was in
	MaxBytes   int64        // limit on Need.Bytes, above which the image is cut into strips; 0: none
	Notice     func(string) // hears of each step that is taken where the device is out of memory; may be nil
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

// sums is the number of sums of logits that are held at a time.
func (c Config) sums(folds int) int {
	if c.Numerics == Fast {
		return 1
	}
	return folds
}

// Predictor slides the window of a network, or of several folds', over images. It is used by one
// goroutine at a time.
type Predictor struct {
	folds   int
	network func(fold int) (models.Network, error)
	current int // the fold whose network is net; -1 before the first
	net     models.Network
	patch   []int
	classes int
	cfg     Config
	mirrors [][]int // subsets of cfg.Mirror: the empty one, then by size
}

// New makes a predictor of net, whose weights lie on cfg.Device and whose logits have the given number of classes
// (segmentation heads). patch has 3 axes (z,y,x), or 2 (y,x) for a network that sees slice after slice of axis 0.
func New(net models.Network, patch []int, classes int, cfg Config) (*Predictor, error) {
	p, err := NewEnsemble(1, func(int) (models.Network, error) { return net, nil }, patch, classes, cfg)
	if err != nil {
		return nil, err
	}
	return p, p.use(0)
}

// NewEnsemble makes a predictor that averages the logits of several folds. network gives the
// network of a fold, counted from 0: one of several that are held, or one and the same after
// loading the weights of the fold. It is called when another fold's turn comes: (folds-1) times for
// each row of tiles, one more for the first.
func NewEnsemble(folds int, network func(fold int) (models.Network, error),
	patch []int, classes int, cfg Config) (*Predictor, error) {
	if err := cfg.check(patch, classes); err != nil {
		return nil, err
	}
	if folds < 1 {
		return nil, fmt.Errorf("infer: %d folds: expected at least 1", folds)
	}
	return &Predictor{folds: folds, network: network, current: -1, patch: slices.Clone(patch), classes: classes,
		cfg: cfg, mirrors: subsets(cfg.Mirror)}, nil
}

// use makes a fold's network the current one.
func (p *Predictor) use(fold int) error {
	if p.current == fold {
		return nil
	}
	net, err := p.network(fold)
	if err != nil {
		return fmt.Errorf("infer: network of fold %d of %d: %w", fold+1, p.folds, err)
	}
	if err := net.CheckInput(wide(p.patch)); err != nil {
		return fmt.Errorf("infer: patch %v does not fit the network: %w", p.patch, err)
	}
	p.net, p.current = net, fold
	return nil
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

// Logits runs the window over image and returns the logits of all of it (classes,z,y,x) on the CPU,
// owned by s: float16 for Reference, float32 for Fast. See Slabs, which holds less.
func (p *Predictor) Logits(ctx context.Context, s *torch.Scope, image []float32, shape [4]int, progress func(done, total int)) (*torch.Tensor, error) {
	if err := checkImage(image, shape); err != nil {
		return nil, err
	}
	var out *torch.Tensor
	err := torch.With(func(c *torch.Scope) error { // no child of s, which a failure on the device shall not reach
		whole := c.Empty(append([]int64{int64(p.classes)}, wide(shape[1:])...), p.cfg.accumulator(), torch.CPU)
		err := p.run(ctx, image, shape, progress, func(pl *plan) handOn {
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

// Slabs runs the window over image, a preprocessed case of shape (c,z,y,x), row-major, and calls
// hand with finished logits: mean over mirror images, weighted mean over tiles, mean over folds, on
// the grid of the image. Slabs come in order along one axis: z with Reference numerics and for 2d
// networks, whichever holds least otherwise. Where one does not fit Config.MaxBytes they come strip
// by strip, and a strip begins with the last row of the one before. Data of a slab is valid during
// the call; an error of hand ends the run. With Reference numerics the values are float16's. An
// image smaller than the patch is surrounded by zeros. progress, which may be nil, hears of each
// finished tile, of every fold and the repeated ones too.
//
// Memory is that of Forecast. Between forward passes ctx is looked at; its error is returned when
// it is done. Logits that are infinite or NaN are an error (Differs: nnU-Net refuses infinities
// alone). Where a device fails, most likely for lack of memory, the run goes on from the last slab
// with one tile at a time, then with its sums on the CPU. hand is called on the network's own OS
// thread: what takes long belongs on another goroutine. During the call the network is in
// evaluation mode without deep supervision; afterwards in the mode Config.After.
func (p *Predictor) Slabs(ctx context.Context, image []float32, shape [4]int,
	progress func(done, total int), hand func(slab volume.Slab) error) error {
	if err := checkImage(image, shape); err != nil {
		return err
	}
	var data []float32 // used again for each slab
	return p.run(ctx, image, shape, progress, func(pl *plan) handOn {
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
			x := s.Contiguous(s.Permute(s.To(logits, torch.Float32, torch.CPU), order...), torch.Contiguous)
			if s.Err() != nil {
				return s.Err()
			}
			if err := torch.CopyOut(x, data); err != nil {
				return err
			}
			count := int(logits.Shape()[1+pl.axes[0]])
			slab := volume.Slab{Axis: pl.axes[0], First: first, Count: count, Strip: [2]int{st.lo, st.hi}, Data: data}
			if err := hand(slab); err != nil {
				return refused{err}
			}
			return nil
		}
	})
}

// refused is an error of the caller's own, after which nothing is tried again.
type refused struct{ error }

// Unwrap gives the caller's error.
func (r refused) Unwrap() error { return r.error }

// handOn takes finished logits, a view in the order of the image's axes, from slice first of the
// slab's axis on.
type handOn = func(s *torch.Scope, logits *torch.Tensor, first int, st strip) error

// run does all tiles of an image.
func (p *Predictor) run(ctx context.Context, image []float32, shape [4]int,
	progress func(done, total int), hand func(*plan) handOn) error {
	pl, err := newPlan(p.patch, p.classes, p.folds, shape, p.cfg)
	if err != nil {
		return err
	}
	r := &pass{p: p, ctx: ctx, plan: pl, image: image, hand: hand(pl), progress: progress,
		batch: p.cfg.batch(), results: p.cfg.Device, total: pl.tileCount() * p.folds}
	defer r.restore()
	err = torch.OnThread(p.cfg.Threads, func() error {
		return torch.NoGrad(func() error {
			if p.cfg.Autocast == torch.Float32 {
				return r.strips()
			}
			return torch.Autocast(p.cfg.Device.Type, p.cfg.Autocast, r.strips)
		})
	})
	if own := (refused{}); errors.As(err, &own) {
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
		return fmt.Errorf("infer: image of shape (c,z,y,x) %v has %d values, given %d", shape, n, len(image))
	}
	return nil
}

// pass is the run over one image.
type pass struct {
	p        *Predictor
	ctx      context.Context
	plan     *plan
	image    []float32
	hand     handOn
	progress func(done, total int)
	batch    int              // patches in one forward pass, now
	results  torch.Device     // where the sums lie, now
	used     []models.Network // that were switched to evaluation
	input    []float32        // one tile of the image
	finished int              // tiles, those of finished strips and of the current one
	total    int
}

// restore switches the networks to the mode they are to be in afterwards.
func (r *pass) restore() {
	for _, net := range r.used {
		net.SetTraining(r.p.cfg.After.Training)
		net.SetDeepSupervision(r.p.cfg.After.DeepSupervision)
	}
}

// use makes a fold's network the current one, in evaluation mode.
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

// strips does one strip after the other.
func (r *pass) strips() error {
	r.input = make([]float32, r.plan.channels*r.plan.patch[0]*r.plan.patch[1]*r.plan.patch[2])
	before := 0
	for _, st := range r.plan.strips {
		done := 0
		for {
			r.finished = before
			err := torch.With(func(s *torch.Scope) error {
				w, err := r.p.newWindow(s, r.plan, st, done, r.results)
				if err != nil {
					return err
				}
				w.hand = r.hand
				err = r.slide(s, w)
				done = w.done
				return err
			})
			if err == nil {
				break
			}
			if err := r.retreat(err); err != nil {
				return err
			}
		}
		before += len(st.tiles) * r.p.folds
	}
	return nil
}

// retreat takes the next step where the device has failed, most likely for lack of memory, and
// returns the error where there is none. Sums on the CPU are nnU-Net's step; tiles still run on the
// device.
func (r *pass) retreat(err error) error {
	device := r.p.cfg.Device
	var native *torch.Error
	if errors.As(err, new(refused)) || !errors.As(err, &native) ||
		device.Type == torch.DeviceCPU && !strings.Contains(native.Msg, "allocate memory") {
		return err
	}
	step := ""
	switch {
	case r.batch > 1:
		step = fmt.Sprintf("one tile at a time instead of %d", r.batch)
		r.batch = 1
	case r.results != torch.CPU:
		step = "sums in the computer's memory"
		r.results = torch.CPU
	default:
		return err
	}
	if r.p.cfg.Notice != nil {
		r.p.cfg.Notice(fmt.Sprintf("%s failed (%v): going on with %s", device, native, step))
	}
	if device.Type == torch.DeviceCPU {
		return nil
	}
	return device.EmptyCache()
}

// slide does the tiles of a strip, without those whose slices are handed on already.
func (r *pass) slide(s *torch.Scope, w *window) error {
	axis := r.plan.axes[0]
	tiles := w.strip.tiles
	for len(tiles) > 0 && tiles[0].start[axis]+r.plan.patch[axis] <= w.done {
		tiles = tiles[1:]
		r.finished += r.p.folds
	}
	if len(tiles) > 0 { // to the first of them; the slices before it are done
		d := r.plan.patch[axis]
		w.region[axis] = [2]int{tiles[0].start[axis], tiles[0].start[axis] + d}
	}
	for len(tiles) > 0 {
		// One network takes all tiles; several take turns at each row, the last one beginning the
		// next.
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
	return w.finish(s, r.plan.patch[axis])
}

// passes runs a fold's network over tiles and their mirror images, batch by batch. Tiles follow
// each other, and the mirror images of a tile too, so that a tile is finished before the next one
// begins.
func (r *pass) passes(s *torch.Scope, w *window, tiles []tile, fold int) error {
	n := len(r.p.mirrors)
	total := len(tiles) * n
	var sum *torch.Tensor // of the current tile's logits over its mirror images so far
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
func (r *pass) forward(s *torch.Scope, tiles []tile, from, to int) (*torch.Tensor, error) {
	p := r.p
	n := len(p.mirrors)
	return s.Block(func(c *torch.Scope) *torch.Tensor {
		parts := make([]*torch.Tensor, 0, to-from)
		var x *torch.Tensor // the tile as it is
		for k := from; k < to; k++ {
			if k == from || k%n == 0 {
				r.plan.load(r.input, r.image, tiles[k/n])
				x = torch.FromSlice(c, r.input, append([]int64{1, int64(r.plan.channels)}, wide(p.patch)...)...)
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
