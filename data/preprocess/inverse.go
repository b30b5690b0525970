package preprocess

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/volume"
)

// Grid is the position of a preprocessed case in its image. The axes are the transposed ones, as in
// the properties of a case.
type Grid struct {
	Shape     [3]int     // of the preprocessed case
	Box       [3][2]int  // crop box in the image, half-open ranges
	Whole     [3]int     // size of the image
	Current   [3]float64 // spacing of the preprocessed case, mm
	Original  [3]float64 // spacing of the image, mm
	Transpose [3]int     // axis i is axis Transpose[i] of the image as read
	Resample  Options    // of the logits
}

// NewGrid returns the grid of a case of the given shape (z, y, x) from its properties and the
// plans.
// Source: nnU-Net 2.5.1, export_prediction.py,
// convert_predicted_logits_to_segmentation_with_correct_shape.
func NewGrid(p *plans.Plans, c *plans.Configuration, properties *pickle.Dict,
	shape [3]int) (Grid, error) {
	g := Grid{Shape: shape}
	fail := func(format string, args ...any) (Grid, error) {
		return Grid{}, fmt.Errorf("preprocess: %w", fmt.Errorf(format, args...))
	}
	if len(p.TransposeForward) != 3 || len(p.TransposeBackward) != 3 {
		return fail("transpose_forward %v and transpose_backward %v: expected 3 axes",
			p.TransposeForward, p.TransposeBackward)
	}
	copy(g.Transpose[:], p.TransposeForward)
	for i, axis := range g.Transpose {
		if axis < 0 || axis > 2 || p.TransposeBackward[axis] != i {
			return fail("transpose_backward %v is not the inverse of transpose_forward %v",
				p.TransposeBackward, p.TransposeForward)
		}
	}
	var spacing, whole, cropped [3]float64
	for _, e := range []struct {
		key string
		to  *[3]float64
	}{
		{"spacing", &spacing}, {"shape_before_cropping", &whole},
		{"shape_after_cropping_and_before_resampling", &cropped},
	} {
		v, _ := properties.Get(e.key)
		if err := numbers(e.to[:], v); err != nil {
			return fail("properties: %s: %w", e.key, err)
		}
	}
	v, _ := properties.Get("bbox_used_for_cropping")
	ranges := items(v)
	if len(ranges) != 3 {
		return fail("properties: bbox_used_for_cropping: expected three ranges, found %v", v)
	}
	for i := range 3 {
		var r [2]float64
		if err := numbers(r[:], ranges[i]); err != nil {
			return fail("properties: bbox_used_for_cropping: %w", err)
		}
		g.Box[i] = [2]int{int(r[0]), int(r[1])}
		g.Whole[i] = int(whole[i])
		if g.Box[i][1]-g.Box[i][0] != int(cropped[i]) {
			return fail("properties: bbox_used_for_cropping %v does not match "+
				"shape_after_cropping_and_before_resampling %v", g.Box[:i+1], cropped)
		}
		g.Original[i] = spacing[g.Transpose[i]]
	}
	if len(c.Spacing) != 2 && len(c.Spacing) != 3 {
		return fail("configuration %s: spacing %v: expected 2 or 3 axes", c.Name, c.Spacing)
	}
	g.Current = g.Original
	copy(g.Current[3-len(c.Spacing):], c.Spacing)
	var err error
	if g.Resample, err = options(c.ResampleProbs, false); err != nil {
		return fail("configuration %s: resampling_fn_probabilities: %w", c.Name, err)
	}
	return g, g.check()
}

// Resampled returns the grid of a configuration that the same case was preprocessed for to the given
// shape, in transposed axes: nothing is cropped.
// Compat: both spacings are this configuration's, so they alone decide on a separate axis.
// Source: nnU-Net 2.5.1, export_prediction.py, resample_and_save.
func (g Grid) Resampled(shape [3]int) Grid {
	g.Whole, g.Original, g.Transpose = shape, g.Current, [3]int{0, 1, 2}
	for i, n := range shape {
		g.Box[i] = [2]int{0, n}
	}
	return g
}

// items are the elements of a Python list or tuple.
func items(v any) []any {
	switch v := v.(type) {
	case *pickle.List:
		return v.Items
	case pickle.Tuple:
		return v
	}
	return nil
}

// numbers reads a list of len(to) numbers.
func numbers(to []float64, v any) error {
	list := items(v)
	if len(list) != len(to) {
		return fmt.Errorf("expected %d numbers, found %v", len(to), v)
	}
	for i, item := range list {
		if scalar, ok := item.(*pickle.NumpyScalar); ok {
			item = scalar.Value()
		}
		switch n := item.(type) {
		case float64:
			to[i] = n
		case int64:
			to[i] = float64(n)
		default:
			return fmt.Errorf("expected %d numbers, found %v", len(to), v)
		}
	}
	return nil
}

// check returns an error for a grid that is not valid.
func (g *Grid) check() error {
	voxels := 1.0
	for i := range 3 {
		lo, hi := g.Box[i][0], g.Box[i][1]
		if g.Shape[i] < 1 || lo < 0 || lo >= hi || hi > g.Whole[i] {
			return fmt.Errorf("preprocess: a case of shape %v with box %v does not fit an image "+
				"of shape %v",
				g.Shape, g.Box, g.Whole)
		}
		if !(g.Current[i] > 0 && g.Original[i] > 0) || math.IsInf(g.Current[i]+g.Original[i], 0) {
			return fmt.Errorf("preprocess: spacing %v and %v mm: expected positive numbers",
				g.Current, g.Original)
		}
		voxels *= float64(g.Whole[i])
	}
	if voxels > MaxVoxels {
		return fmt.Errorf("preprocess: an image of shape %v has %.2g voxels, at most %.2g are "+
			"supported",
			g.Whole, voxels, float64(MaxVoxels))
	}
	if sorted := slices.Sorted(slices.Values(g.Transpose[:])); !slices.Equal(sorted,
		[]int{0, 1, 2}) {
		return fmt.Errorf("preprocess: transposed by %v, expected a permutation of 0, 1, 2",
			g.Transpose)
	}
	if o := g.Resample; o.Order != 0 && o.Order != 1 || o.OrderZ != 0 && o.OrderZ != 1 {
		return fmt.Errorf("preprocess: logits resampled with order %d, order_z %d: 0 and 1 are "+
			"supported; change order and order_z in the plans' resampling_fn_probabilities_kwargs",
			o.Order, o.OrderZ)
	}
	return nil
}

// taps holds the two samples around each output of an axis, and their weights.
type taps struct {
	n, m     int
	identity bool
	lo, hi   []int32
	w0, w1   []float64
	f0, f1   []float32 // the weights in float32
}

// newTaps interpolates an axis from n samples to m. Order 0 takes the nearest sample, on a separate
// axis (apart) by nnU-Net's own rule.
func newTaps(n, m, order int, apart bool) *taps {
	t := &taps{n: n, m: m, identity: n == m}
	var list []side
	if apart && order == 0 {
		for _, i := range nearest(n, m) {
			list = append(list, side{[2]int{i, i}, [2]float64{1, 0}})
		}
	} else {
		list = sides(n, m, order)
	}
	for k, s := range list {
		if t.identity {
			s = side{[2]int{k, k}, [2]float64{1, 0}}
		}
		if s.w[1] == 0 { // exactly on a sample: the next one is not needed
			s.at[1] = s.at[0]
		}
		t.lo, t.hi = append(t.lo, int32(s.at[0])), append(t.hi, int32(s.at[1]))
		t.w0, t.w1 = append(t.w0, s.w[0]), append(t.w1, s.w[1])
		t.f0, t.f1 = append(t.f0, float32(s.w[0])), append(t.f1, float32(s.w[1]))
	}
	return t
}

// before is the number of outputs, from the first on, that need no sample at or after end.
func (t *taps) before(end int) int {
	k, _ := slices.BinarySearch(t.hi, int32(end))
	return k
}

// InverseConfig configures an Inverse.
type InverseConfig struct {
	Labels *plans.Labels
	// Reference is nnU-Net's rounding: float64 interpolation, float16 logits, labels by probability.
	Reference bool
	Threads   int // goroutines
	// Probabilities is the folder for a temporary file; if set, the Inverse computes probabilities
	// too. The file takes 4 bytes per class and voxel of the cropped image.
	Probabilities string
	// Shorten drops low bits of the probabilities, which are noise of float32 and a third of a
	// compressed file: less than 2^-14 of each, less than 2^-11 of its value. The label keeps the
	// largest.
	Shorten bool
}

// Inverse converts logits on the grid of a preprocessed case to labels on the grid of its image: it
// resamples, takes the argmax or assigns regions, and reverts cropping and transposing. Logits
// arrive slab by slab; only the last slice of a slab is kept. The labels of the whole image are
// held in memory, one byte per voxel, two if a label is above 255.
//
// The label is the index of the largest logit, the lowest index at ties. With regions it is 0,
// overwritten in order by the value of each region whose logit is above 0. With Reference, labels
// are computed from the probabilities, as in nnU-Net; that may differ where two probabilities are
// equal in float32. Probabilities are the softmax, or sigmoid for regions, of the resampled logits
// in float32. Outside the box labels are 0 and so are probabilities, except the background's, which
// is 1 unless there are regions.
// Source: nnU-Net 2.5.1, export_prediction.py; label_handling.py; default_resampling.py.
type Inverse struct {
	grid    Grid
	cfg     InverseConfig
	heads   int
	values  []uint16 // of each region
	tables  [3]*taps // of the transposed axes
	labels8 []uint8
	labels  []uint16 // if a label does not fit 8 bits
	shape   [3]int   // of the image as read
	stride  [3]int   // in labels, of the transposed axes
	first   int      // in labels, of the first voxel of the box
	probs   *Probabilities

	axes   [3]int // of the slabs
	began  bool
	strip  [2]int
	have   int       // slices of the strip received so far
	madeA  int       // outputs computed along the slabs' axis, in this strip
	madeB  int       // outputs across, computed by earlier strips
	endB   int       // outputs across, up to the end of this strip
	carry  []float32 // (heads, strip, rest): slice have-1
	failed error
}

// NewInverse starts a conversion. The caller closes the Inverse.
func NewInverse(g Grid, cfg InverseConfig) (*Inverse, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	v := &Inverse{grid: g, cfg: cfg, heads: cfg.Labels.NumSegmentationHeads()}
	if v.heads < 1 {
		return nil, fmt.Errorf("preprocess: the labels have no classes")
	}
	if err := cfg.Labels.CheckConsecutive(); err != nil {
		return nil, fmt.Errorf("preprocess: %w", err)
	}
	most := v.heads - 1
	if cfg.Labels.HasRegions {
		if len(cfg.Labels.RegionsClassOrder) != v.heads {
			return nil, fmt.Errorf("preprocess: regions_class_order %v: expected a value for each "+
				"of %d regions",
				cfg.Labels.RegionsClassOrder, v.heads)
		}
		most = slices.Max(cfg.Labels.RegionsClassOrder)
		for _, value := range cfg.Labels.RegionsClassOrder {
			if value < 0 {
				most = math.MaxInt
			}
			v.values = append(v.values, uint16(value))
		}
	}
	if most > math.MaxUint16 {
		return nil, fmt.Errorf("preprocess: labels from 0 to %d are supported; dataset.json has "+
			"others",
			math.MaxUint16)
	}
	separate := SeparateAxis(g.Resample.ForceSeparateZ, g.Current, g.Original)
	for i := range 3 {
		order := g.Resample.Order
		if i == separate {
			order = g.Resample.OrderZ
		}
		v.tables[i] = newTaps(g.Shape[i], g.Box[i][1]-g.Box[i][0], order, i == separate)
		v.shape[g.Transpose[i]] = g.Whole[i]
	}
	stride := [3]int{v.shape[1] * v.shape[2], v.shape[2], 1}
	for i, axis := range g.Transpose {
		v.stride[i] = stride[axis]
		v.first += g.Box[i][0] * stride[axis]
	}
	voxels := v.shape[0] * v.shape[1] * v.shape[2]
	if most > math.MaxUint8 {
		v.labels = make([]uint16, voxels)
	} else {
		v.labels8 = make([]uint8, voxels)
	}
	if cfg.Probabilities != "" {
		var err error
		if v.probs, err = newProbabilities(cfg.Probabilities, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Close removes the temporary file, if there is one.
func (v *Inverse) Close() error {
	if v.probs == nil {
		return nil
	}
	return v.probs.close()
}

// Add processes the next slab of logits, one channel per segmentation head. Slabs follow each other
// without a gap along one axis of the preprocessed case (of the transposed axes). Strips must each
// include the last row of the strip before. The slab's memory is not kept.
func (v *Inverse) Add(s volume.Slab) error {
	if v.failed == nil {
		v.failed = v.add(&s)
	}
	return v.failed
}

func (v *Inverse) add(s *volume.Slab) error {
	misfit := func(why string) error {
		return fmt.Errorf("preprocess: logits of slices %d to %d along axis %d, rows %d to %d, of "+
			"a case of shape %v: %s",
			s.First, s.First+s.Count, s.Axis, s.Strip[0], s.Strip[1], v.grid.Shape, why)
	}
	if s.Axis < 0 || s.Axis > 2 || v.began && s.Axis != v.axes[0] {
		return misfit("the axis differs from the slabs before, or does not exist")
	}
	if v.cfg.Reference && s.Axis != 0 {
		return misfit("reference numerics need slabs along axis 0")
	}
	axes := s.Axes()
	a, b, c := v.tables[axes[0]], v.tables[axes[1]], v.tables[axes[2]]
	width := s.Strip[1] - s.Strip[0]
	if s.First < 0 || s.Count < 1 || s.First > a.n-s.Count ||
		s.Strip[0] < 0 || width < 1 || s.Strip[1] > b.n ||
		len(s.Data) != v.heads*s.Count*width*c.n {
		return misfit(fmt.Sprintf("%d values of %d classes do not fill them, or they lie outside",
			len(s.Data), v.heads))
	}
	if !v.began || s.Strip != v.strip {
		if v.began && v.have != a.n {
			return misfit(fmt.Sprintf("the strip before ended with slice %d of %d", v.have, a.n))
		}
		if !v.began && s.Strip[0] != 0 ||
			v.began && (s.Strip[0] >= v.strip[1] || s.Strip[1] <= v.strip[1]) {
			return misfit(fmt.Sprintf("expected a strip that continues the last one, rows %v", v.strip))
		}
		v.madeB = v.endB
		v.began, v.axes, v.strip, v.have, v.madeA = true, axes, s.Strip, 0, 0
		v.endB = b.before(s.Strip[1])
		v.carry = slices.Grow(v.carry[:0], v.heads*width*c.n)[:v.heads*width*c.n]
	}
	if s.First != v.have {
		return misfit(fmt.Sprintf("expected slice %d next", v.have))
	}
	end := a.before(s.First + s.Count)
	blocks := (v.endB - v.madeB + blockRows - 1) / blockRows
	var mu sync.Mutex
	var failed error
	each((end-v.madeA)*blocks, v.cfg.Threads, func() func(int) {
		w := newRowMaker(v, s)
		return func(i int) {
			kb := v.madeB + i%blocks*blockRows
			if err := w.block(v.madeA+i/blocks, kb, min(kb+blockRows, v.endB)); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		}
	})
	if failed != nil {
		return failed
	}
	slice := width * c.n
	for h := range v.heads {
		copy(v.carry[h*slice:][:slice], s.Data[(h*s.Count+s.Count-1)*slice:])
	}
	v.have += s.Count
	v.madeA = end
	return nil
}

// Finish returns the labels of the whole image (1, z, y, x) in the image's own axis order, uint8 or
// uint16, without geometry. Missing slabs are an error.
func (v *Inverse) Finish() (*volume.Image, error) {
	if v.failed != nil {
		return nil, v.failed
	}
	if !v.began || v.have != v.tables[v.axes[0]].n || v.strip[1] != v.tables[v.axes[1]].n {
		return nil, fmt.Errorf("preprocess: the logits of a case of shape %v are incomplete: "+
			"they end at slice %d along axis %d, rows %v",
			v.grid.Shape, v.have, v.axes[0], v.strip)
	}
	im := &volume.Image{Shape: [4]int{1, v.shape[0], v.shape[1], v.shape[2]}}
	if v.labels8 != nil {
		im.Pixels = volume.Slice[uint8](v.labels8)
	} else {
		im.Pixels = volume.Slice[uint16](v.labels)
	}
	return im, nil
}

// Probabilities returns the probabilities of the whole image after Finish, nil unless configured.
// They are valid until Close.
func (v *Inverse) Probabilities() *Probabilities { return v.probs }
