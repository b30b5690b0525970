package infer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// slabBytes limits the size of an emitted slab, as float32; the minimum is one slice.
const slabBytes = 16 << 20

// plan is the order of an image's tiles: strip by strip, and within a strip along one axis.
type plan struct {
	grid
	axes     [3]int  // of a slab: the axis it moves along, the axis cut into strips, the third one
	strips   []strip // one, unless memory is limited
	repeated int     // tiles computed again, counted each time
	skipped  int     // tiles left out
	bytes    int64   // of the sums, the weights, one batch and the slab being emitted
}

// strip is a part of the image that is finished before the next one starts.
type strip struct {
	lo, hi int    // range of axis axes[1] of the image
	tiles  []tile // that overlap it, in order
}

// newPlan chooses the axis, and cuts the image into strips if the sums exceed cfg.MaxBytes.
func newPlan(patch []int, classes, folds int, shape [4]int, cfg Config) (*plan, error) {
	if n := tileEstimate(patch, shape, cfg.TileStep); n > maxTiles {
		return nil, fmt.Errorf("infer: image (c,z,y,x) %v, patch %v, tile step %v: %.2g tiles, at "+
			"most %d are supported; raise the tile step", shape, patch, cfg.TileStep, n, maxTiles)
	}
	p := &plan{grid: newGrid(patch, shape, cfg.TileStep)}
	axis := 0
	if cfg.Numerics == Fast && len(patch) == 3 {
		// The smallest slab is the depth of the patch times the other two axes.
		slab := func(a int) float64 { return float64(p.patch[a]) / float64(p.padded[a]) }
		for a := 1; a < 3; a++ {
			if slab(a) < slab(axis) {
				axis = a
			}
		}
	}
	p.axes = (&volume.Slab{Axis: axis}).Axes()
	slices.SortStableFunc(p.tiles, func(a, b tile) int {
		return cmp.Compare(a.start[axis], b.start[axis])
	})

	n := p.inside[p.axes[1]]
	for count := 1; ; count++ {
		width := (n + count - 1) / count
		if count > 1 {
			width++ // strips share a row, so that interpolation has both neighbours
		}
		p.bytes = p.need(classes, folds, width, cfg)
		if cfg.MaxBytes <= 0 || p.bytes <= cfg.MaxBytes {
			p.cut(count)
			return p, nil
		}
		if count == n {
			return nil, fmt.Errorf("infer: image (c,z,y,x) %v, patch %v, %d classes: "+
				"a slab takes at least %d MiB, the limit is %d MiB; raise the limit or close other "+
				"programs",
				shape, patch, classes, p.bytes>>20+1, cfg.MaxBytes>>20)
		}
	}
}

// cut divides the image into count strips of equal width.
func (p *plan) cut(count int) {
	n, b := p.inside[p.axes[1]], p.axes[1]
	computed := 0
	for i := range count {
		s := strip{lo: n * i / count, hi: n * (i + 1) / count}
		if i > 0 {
			s.lo--
		}
		for _, t := range p.tiles {
			lo := t.start[b] - p.offset[b]
			if lo < s.hi && lo+p.patch[b] > s.lo {
				s.tiles = append(s.tiles, t)
			}
		}
		computed += len(s.tiles)
		p.strips = append(p.strips, s)
	}
	p.repeated = computed - len(p.tiles)
}

// tileCount is the number of tiles computed, including repeated ones.
func (p *plan) tileCount() int { return len(p.tiles) + p.repeated - p.skipped }

// rows is the number of different starts along the slabs' axis, of all strips.
func (p *plan) rows() int {
	n := 0
	for _, st := range p.strips {
		for i, t := range st.tiles {
			if i == 0 || t.start[p.axes[0]] != st.tiles[i-1].start[p.axes[0]] {
				n++
			}
		}
	}
	return n
}

// need is the memory of a strip of the given width in bytes.
func (p *plan) need(classes, folds, width int, cfg Config) int64 {
	plane := int64(width) * int64(p.inside[p.axes[2]])
	patch := int64(p.patch[0] * p.patch[1] * p.patch[2])
	value := int64(cfg.accumulator().Size())
	sums := int64(cfg.sums(folds)*classes + 1)
	// As a tensor and as emitted.
	emitted := int64(p.slabDepth(classes, plane)*classes) * plane * 4 * 2
	batch := int64(min(cfg.batch(), p.tileCount()<<len(cfg.Mirror)))
	sums *= int64(p.patch[p.axes[0]]) * plane * value
	return sums + patch*value + emitted + batch*patch*4*int64(p.channels+classes)
}

// slabDepth is the number of slices emitted at a time.
func (p *plan) slabDepth(classes int, plane int64) int {
	return int(min(max(slabBytes/(int64(classes)*plane*4), 1), int64(p.patch[p.axes[0]])))
}

// window is the part of a strip whose sums are in memory: as many slices along the slab axis as the
// patch is deep. It moves along that axis; slices behind it are finished.
type window struct {
	p       *Predictor
	plan    *plan
	strip   strip
	region  region          // of the padded image currently covered by the sums
	weights *torch.Tensor   // of the patch
	logits  []*torch.Tensor // (classes, region): weighted sums, one in total or one per fold
	count   *torch.Tensor   // (region): sums of weights
	counted int             // the fold whose tiles add to count
	done    int             // slices of the padded image before this one are emitted
	emit    emitter
}

// newWindow allocates the sums of a strip in s on the device results. Slices before done are not
// emitted.
func (p *Predictor) newWindow(s *torch.Scope, pl *plan, st strip, done int,
	results torch.Device) (*window, error) {
	w := &window{p: p, plan: pl, strip: st, done: done}
	a, b, c := pl.axes[0], pl.axes[1], pl.axes[2]
	w.region[a] = [2]int{0, pl.patch[a]}
	w.region[b] = [2]int{pl.offset[b] + st.lo, pl.offset[b] + st.hi}
	w.region[c] = [2]int{pl.offset[c], pl.offset[c] + pl.inside[c]}
	r := w.region
	shape := torch.Sizes([]int{p.classes, r.size(0), r.size(1), r.size(2)})
	for range p.cfg.sums(p.folds) {
		w.logits = append(w.logits, s.Zeros(shape, p.cfg.accumulator(), results))
	}
	w.count = s.Zeros(shape[1:], p.cfg.accumulator(), results)
	var err error
	w.weights, err = weightMap(s, p.patch, p.cfg.Gaussian, p.cfg.accumulator(), results)
	return w, err
}

// add adds one tile's logits (classes, patch), which it scales in place, to the sums of a fold. The
// window must be at the tile's start.
func (w *window) add(s *torch.Scope, t tile, fold int, logits *torch.Tensor) {
	logits = s.To(logits, logits.DType(), w.count.Device())
	s.Mul_(logits, w.weights)
	weights := w.weights
	if len(w.p.patch) == 2 {
		logits, weights = s.Unsqueeze(logits, 1), s.Unsqueeze(weights, 0)
	}
	from, length, ok := w.region.part(&w.plan.grid, t)
	if !ok {
		return
	}
	var at [3]int
	for i := range at {
		at[i] = t.start[i] + from[i] - w.region[i][0]
	}
	sum := w.logits[min(fold, len(w.logits)-1)]
	s.Add_(narrow(s, sum, at, length), narrow(s, logits, from, length), 1)
	if fold == w.counted {
		s.Add_(narrow(s, w.count, at, length), narrow(s, weights, from, length), 1)
	}
}

// narrow returns a box of the last three axes of x, as a view.
func narrow(s *torch.Scope, x *torch.Tensor, from, length [3]int) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	shape := x.Shape()
	for i := range 3 {
		if axis := len(shape) - 3 + i; int64(length[i]) != shape[axis] {
			x = s.Narrow(x, int64(axis), int64(from[i]), int64(length[i]))
		}
	}
	return x
}

// along returns slices [from, from+count) of x along the slab axis, as a view.
func (w *window) along(s *torch.Scope, x *torch.Tensor, from, count int) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	return s.Narrow(x, int64(x.Dim()-3+w.plan.axes[0]), int64(from), int64(count))
}

// moveTo emits the slices before start, which no further tile overlaps, and moves the sums to
// start.
func (w *window) moveTo(s *torch.Scope, start int) error {
	r := &w.region[w.plan.axes[0]]
	for start > r[1] { // over slices without tiles
		if err := w.moveTo(s, r[1]); err != nil {
			return err
		}
	}
	step := start - r[0]
	if step == 0 {
		return s.Err()
	}
	if err := w.finish(s, min(step, r[1]-r[0])); err != nil {
		return err
	}
	err := s.With(func(c *torch.Scope) error {
		for _, x := range append(slices.Clone(w.logits), w.count) {
			// Copied in pieces of step slices, so that source and destination do not overlap.
			left := r[1] - r[0] - step
			for from := 0; from < left; from += step {
				n := min(step, left-from)
				c.Copy_(w.along(c, x, from, n), w.along(c, x, from+step, n), false)
			}
			c.Fill_(w.along(c, x, max(left, 0), r[1]-r[0]-max(left, 0)), 0)
		}
		return c.Err()
	})
	r[0], r[1] = start, start+r[1]-r[0]
	return err
}

// finish emits the first n slices covered by the sums, except those in the padding.
func (w *window) finish(s *torch.Scope, n int) error {
	g, axis := &w.plan.grid, w.plan.axes[0]
	start := w.region[axis][0]
	lo := max(start, g.offset[axis], w.done)
	hi := min(start+n, g.offset[axis]+g.inside[axis])
	plane := int64(w.region.size(w.plan.axes[1])) * int64(w.region.size(w.plan.axes[2]))
	step := w.plan.slabDepth(w.p.classes, plane)
	for ; lo < hi; lo += step {
		err := s.With(func(c *torch.Scope) error {
			n := min(step, hi-lo)
			count := w.along(c, w.count, lo-start, n)
			var mean *torch.Tensor
			for i, sum := range w.logits {
				x := w.along(c, sum, lo-start, n)
				c.Div_(x, count)
				if i == 0 {
					mean = x
				} else {
					c.Add_(mean, x, 1)
				}
			}
			if w.p.folds > 1 {
				c.DivScalar_(mean, float64(w.p.folds))
			}
			w.p.air.fill(c, mean, count)
			if err := checkFinite(c, mean); err != nil {
				return err
			}
			if err := w.emit(c, mean, lo-g.offset[axis], w.strip); err != nil {
				return err
			}
			w.done = lo + n
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
