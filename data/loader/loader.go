// Package loader provides batches of patches for training and validation. It chooses cases and
// positions as nnU-Net does, augments, and computes targets, in worker goroutines that prefetch. Of a
// case only what the parameters of a sample need is read, and results are written straight into the
// batch. A batch depends only on seed, stream and its index, not on the number of workers; each of
// its samples has random numbers of its own for case, place, augmentation and noise
// (augment.Sample), so that the ranks of a distributed training can prepare some rows each of the
// same batch (Config.Rows). It never calls torch.
package loader

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// Config configures a Loader.
type Config struct {
	Dataset   *dataset.Dataset
	Keys      []string // cases to draw from; order and duplicates have no effect
	Labels    *plans.Labels
	BatchSize int // samples of a batch, over all ranks of a distributed training
	// Rows are the samples of each batch that are prepared: the first, and the one after the last
	// (Split). Zero: all.
	Rows      [2]int
	PatchSize []int // voxels (z, y, x) or (y, x); with 2 axes patches are slices of the cases
	// Oversample is the fraction of samples forced to contain foreground, the last ones of a batch:
	// sample i is if i >= round(BatchSize·(1-Oversample)), whoever prepares it. nnU-Net: 0.33, also in
	// validation.
	Oversample float64
	// RequireForeground makes New fail if no case has foreground.
	RequireForeground bool
	Augmentation      augment.List // with what the data need at its end
	// Crops: batches have Crops, and whoever takes them applies what was drawn (train/ondevice).
	Crops      bool
	Seed       uint64
	Stream     string // such as "train" or "val"; streams of one seed are independent
	StartIndex int    // index of the first batch; to resume, the number of batches used
	Workers    int    // 0: one per available core, at most four
	Queue      int    // batches to prefetch; 0: two more than workers
	Memory     Memory // what arrays of batches lie in; nil: Go's
}

// Memory lends arrays with any values to several goroutines, such as memory from which copies to a
// device are quick. It is asked a few times for each batch of the queue, whose arrays are used again,
// and must last until Close has returned and no batch is used any more.
type Memory interface {
	Float32s(n int) ([]float32, error)
	Int16s(n int) ([]int16, error)
	Uint8s(n int) ([]uint8, error)
}

// heap is Go's memory.
type heap struct{}

func (heap) Float32s(n int) ([]float32, error) { return make([]float32, n), nil }
func (heap) Int16s(n int) ([]int16, error)     { return make([]int16, n), nil }
func (heap) Uint8s(n int) ([]uint8, error)     { return make([]uint8, n), nil }

// Split gives rank of world its part of a batch of n samples, for Config.Rows: n div world each, and
// one more for the first n mod world ranks. n must be at least world.
// Source: nnUNetTrainer._set_batch_size_and_oversample.
func Split(n, rank, world int) [2]int {
	first := func(rank int) int { return rank*(n/world) + min(rank, n%world) }
	return [2]int{first(rank), first(rank + 1)}
}

// Batch is a batch of patches, or the Config.Rows of one. All arrays are row-major.
type Batch struct {
	Index     int
	Keys      []string  // case of each sample
	Samples   []Sample  // how each came about
	Data      []float32 // (b, c, z, y, x) or (b, c, y, x)
	DataShape []int
	Targets   []Target // one per output of the network, highest resolution first
	Crops     []Crop   // with Config.Crops, instead of Data and Targets
	Times     Times    // that its worker spent on it

	free chan *Batch
}

// Sample tells how a sample came about.
type Sample struct {
	Key           string
	Start         [3]int // first voxel of the initial patch in the case (z, y, x); 2d: Start[0] is the slice
	Forced        bool   // to contain foreground
	SelectedClass []int  // label, or labels of a region, that the patch was placed at; nil: anywhere
	Transforms    augment.Drawn
}

// Crop is a sample before its transforms, but for the cut of one that is neither turned nor scaled.
type Crop struct {
	Image *volume.Volume[float32]
	Seg   *volume.Volume[int16]
	Drawn augment.Drawn // still to be applied; noise is filled in
}

// Target is the target of one output of the network: either Labels or Masks is set.
type Target struct {
	Labels []int16 // (b, 1, …) class of each voxel; the ignore label is kept
	Masks  []uint8 // (b, regions, …) 0 or 1; with an ignore label the last channel is its mask
	Shape  []int
}

// Release returns the memory of the batch for reuse by later batches. The batch must not be used
// afterwards. A batch that is not released is garbage collected.
func (b *Batch) Release() {
	select {
	case b.free <- b:
	default: // enough batches are waiting
	}
}

// SHA256 is the sum, in hexadecimal digits, over the bytes of data, then of the targets in order; of
// crops over image, segmentation and all parameters (as JSON) of each in turn.
func (b *Batch) SHA256() (string, error) {
	h := sha256.New()
	for i, c := range b.Crops {
		h.Write(bits.Bytes(c.Image.Data))
		h.Write(bits.Bytes(c.Seg.Data))
		drawn, err := json.Marshal(b.Samples[i].Transforms)
		if err != nil {
			return "", fmt.Errorf("loader: parameters of sample %d of batch %d: %w", i, b.Index, err)
		}
		h.Write(drawn)
	}
	h.Write(bits.Bytes(b.Data))
	for _, t := range b.Targets {
		h.Write(bits.Bytes(t.Labels))
		h.Write(t.Masks)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ErrClosed is the error of Next after Close.
var ErrClosed = errors.New("loader: closed")

// Loader yields the batches of a Config in order. Next and Close may be called concurrently.
type Loader struct {
	cfg     Config
	sampler *sampler
	shapes  [][]int     // of the targets of a sample
	masks   bool        // targets are regions
	free    chan *Batch // released batches
	clock   clock

	mu      sync.Mutex // held by Next
	next    int
	err     error
	jobs    chan int      // indices of batches to prepare
	results []chan result // batch i goes to results[i % len]
	done    chan struct{}
	closing sync.Once
	workers sync.WaitGroup
}

type result struct {
	batch *Batch
	err   error
}

// New checks the configuration, reads the first case, and starts the workers.
func New(cfg Config) (*Loader, error) {
	if cfg.Workers == 0 {
		cfg.Workers = min(system.Cores(), 4)
	}
	if cfg.Queue == 0 {
		cfg.Queue = cfg.Workers + 2
	}
	if cfg.Memory == nil {
		cfg.Memory = heap{}
	}
	cfg.Keys = slices.Compact(slices.Sorted(slices.Values(cfg.Keys)))
	if cfg.Rows == [2]int{} {
		cfg.Rows[1] = cfg.BatchSize
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("loader: %w", err)
	}
	if cfg.RequireForeground {
		if err := cfg.Dataset.CheckForeground(cfg.Keys); err != nil {
			return nil, err
		}
	}
	size := cfg.Augmentation.InitialPatchSize
	if size == nil {
		size = cfg.PatchSize
	}
	l := &Loader{
		cfg: cfg,
		sampler: &sampler{
			keys:       cfg.Keys,
			batchSize:  cfg.BatchSize,
			rows:       cfg.Rows,
			size:       size,
			oversample: cfg.Oversample,
			labels:     cfg.Labels,
			load:       cfg.Dataset.LoadForPatches,
		},
		next:    cfg.StartIndex,
		free:    make(chan *Batch, cfg.Queue+cfg.Workers),
		jobs:    make(chan int, cfg.Queue),
		results: make([]chan result, cfg.Queue),
		done:    make(chan struct{}),
	}
	l.shapes, l.masks = cfg.Augmentation.TargetShapes(cfg.PatchSize)
	for axis := range size {
		l.sampler.needToPad = append(l.sampler.needToPad, size[axis]-cfg.PatchSize[axis])
	}
	first, err := cfg.Dataset.LoadForPatches(cfg.Keys[0])
	if err != nil {
		return nil, err
	}
	l.clock.start(cfg.Workers)
	channels := first.Data.Shape[0]
	for i := range l.results {
		l.results[i] = make(chan result, 1)
		l.jobs <- cfg.StartIndex + i
	}
	for range cfg.Workers {
		l.workers.Go(func() { l.work(channels) })
	}
	return l, nil
}

func (cfg *Config) check() error {
	switch {
	case len(cfg.Keys) == 0:
		return fmt.Errorf("no cases to draw from in %s, expected at least one",
			cfg.Dataset.Folder())
	case cfg.BatchSize < 1:
		return fmt.Errorf("batch size %d, expected at least 1", cfg.BatchSize)
	case cfg.Rows[0] < 0 || cfg.Rows[0] >= cfg.Rows[1] || cfg.Rows[1] > cfg.BatchSize:
		return fmt.Errorf("rows %d to before %d of a batch of %d, expected at least one of its rows",
			cfg.Rows[0], cfg.Rows[1], cfg.BatchSize)
	case len(cfg.PatchSize) != 2 && len(cfg.PatchSize) != 3 || slices.Min(cfg.PatchSize) < 1:
		return fmt.Errorf("patch size %v, expected 2 or 3 positive sizes", cfg.PatchSize)
	case cfg.Augmentation.InitialPatchSize != nil &&
		!augment.Covers(cfg.Augmentation.InitialPatchSize, cfg.PatchSize):
		return fmt.Errorf("initial patch size %v, expected %d sizes, none smaller than in the "+
			"patch size %v",
			cfg.Augmentation.InitialPatchSize, len(cfg.PatchSize), cfg.PatchSize)
	case cfg.Oversample < 0 || cfg.Oversample > 1:
		return fmt.Errorf("foreground oversampling %v, expected a fraction from 0 to 1",
			cfg.Oversample)
	case cfg.StartIndex < 0 || cfg.Workers < 1 || cfg.Queue < 1:
		return fmt.Errorf("start index %d, %d workers, queue of %d: expected no negative values",
			cfg.StartIndex, cfg.Workers, cfg.Queue)
	}
	return nil
}

// Next returns the next batch. Concurrent calls are serialised. Data errors are final: every later
// call returns the same one. If ctx is cancelled first, its error is returned and the batch is
// returned by the next call.
func (l *Loader) Next(ctx context.Context) (*Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-l.done: // the select below chooses at random if several are ready
		return nil, ErrClosed
	default:
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.done:
		return nil, ErrClosed
	case r := <-l.results[l.next%len(l.results)]:
		if r.err != nil {
			l.err = r.err
			return nil, r.err
		}
		l.jobs <- l.next + len(l.results) // has room: one job per result slot
		l.next++
		l.clock.taken(l.ready())
		return r.batch, nil
	}
}

// ready counts the batches that wait to be taken.
func (l *Loader) ready() int {
	n := 0
	for _, r := range l.results {
		n += len(r)
	}
	return n
}

// Close stops the workers, waits for them, and lets go of the batches that nobody took. Batches
// already returned stay valid, and Stats tells of the time until then.
func (l *Loader) Close() {
	l.closing.Do(func() { close(l.done) })
	l.workers.Wait()
	l.clock.stop()
	for _, waiting := range l.results {
		select {
		case <-waiting:
		default:
		}
	}
}

func (l *Loader) work(channels int) {
	w := &worker{Loader: l, channels: channels, lap: time.Now()}
	for {
		select {
		case <-l.done:
			return
		case index := <-l.jobs:
			w.lap = time.Now()
			batch, err := w.make(index)
			if err == nil {
				batch.Times = w.spent.times
			}
			l.clock.add(&w.spent)
			l.results[index%len(l.results)] <- result{batch, err}
		}
	}
}

// rows is how many samples of a batch are prepared.
func (l *Loader) rows() int { return l.cfg.Rows[1] - l.cfg.Rows[0] }

// sample names row i of a batch, for its random numbers.
func (l *Loader) sample(batch, i int) augment.Sample {
	return augment.Sample{Seed: l.cfg.Seed, Stream: l.cfg.Stream, Iteration: batch, Index: i}
}

func (l *Loader) newBatch(channels int) (*Batch, error) {
	b := &Batch{free: l.free, Keys: make([]string, l.rows()),
		Samples: make([]Sample, l.rows())}
	b.DataShape = slices.Concat([]int{l.rows(), channels}, l.cfg.PatchSize)
	var err error
	if l.cfg.Crops {
		b.Crops = make([]Crop, l.rows())
		voxels := product(l.sampler.size) // of the largest that there can be
		for i := range b.Crops {
			b.Crops[i] = Crop{Image: &volume.Volume[float32]{}, Seg: &volume.Volume[int16]{}}
			if b.Crops[i].Image.Data, err = l.cfg.Memory.Float32s(channels * voxels); err != nil {
				return nil, err
			}
			if b.Crops[i].Seg.Data, err = l.cfg.Memory.Int16s(voxels); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	if b.Data, err = l.cfg.Memory.Float32s(product(b.DataShape)); err != nil {
		return nil, err
	}
	b.Targets = make([]Target, len(l.shapes))
	for level := range b.Targets {
		t := &b.Targets[level]
		t.Shape = slices.Concat([]int{l.rows()}, l.shapes[level])
		if l.masks {
			t.Masks, err = l.cfg.Memory.Uint8s(product(t.Shape))
		} else {
			t.Labels, err = l.cfg.Memory.Int16s(product(t.Shape))
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

func product(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

// worker prepares batches, one at a time.
type worker struct {
	*Loader
	channels int
	scratch  augment.Scratch
	part     dataset.Part // of a case on disk
	spent    spent
	lap      time.Time // until then the worker's time is told
}

// make prepares batch index.
func (w *worker) make(index int) (*Batch, error) {
	picks, err := w.sampler.draw(func(i int, purpose string) source {
		return w.sample(index, i).Rand(purpose)
	})
	if err != nil {
		return nil, err
	}
	w.lapse(&w.spent.times.Read)
	var b *Batch
	select {
	case b = <-w.free:
	default:
		if b, err = w.newBatch(w.channels); err != nil {
			return nil, fmt.Errorf("loader: memory for a batch: %w", err)
		}
	}
	b.Index = index
	if err := w.fill(b, picks); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// lapse adds the time since the last lap to a part of the worker's.
func (w *worker) lapse(part *time.Duration) {
	now := time.Now()
	*part += now.Sub(w.lap)
	w.lap = now
}

// fill makes the patches of a batch and their targets.
func (w *worker) fill(b *Batch, picks []pick) error {
	for i, p := range picks {
		if got, want := p.c.Data.Shape[0], w.channels; got != want {
			return fmt.Errorf("loader: %s: found %d channels, expected %d as in the other cases; "+
				"preprocess all cases with the same channels", p.c.Source, got, want)
		}
		b.Keys[i] = p.c.Key
		b.Samples[i] = Sample{Key: p.c.Key, Start: p.start, Forced: p.forced, SelectedClass: p.class,
			Transforms: w.cfg.Augmentation.Draw(w.sample(b.Index, w.cfg.Rows[0]+i).Augmentation)}
		fill := w.patch
		if w.cfg.Crops {
			fill = w.crop
		}
		if err := fill(b, i, p.c); err != nil {
			return fmt.Errorf("loader: case %s: %w", p.c.Key, err)
		}
		w.spent.patches++
	}
	return nil
}

// window is the initial patch of a sample: a window of the case, or of what is read of it from disk.
func (w *worker) window(c *dataset.Case, start [3]int) (p augment.Patch, err error) {
	shape := volume.ShapeOf(1, w.sampler.size)
	size := [3]int(shape[1:])
	image, seg, first, err := c.Box(start, size, &w.part)
	if err != nil {
		return p, err
	}
	for axis := range start {
		start[axis] -= first[axis]
	}
	w.lapse(&w.spent.times.Read)
	return augment.Patch{
		Image: image, Seg: seg, Dim: len(w.cfg.PatchSize), Scratch: &w.scratch, Done: w.done,
		Window: augment.Window{Start: start, Size: size, Lowest: c.SegValues[0]},
	}, nil
}

// crop cuts out sample i of a batch.
func (w *worker) crop(b *Batch, i int, c *dataset.Case) error {
	drawn, crop, size := b.Samples[i].Transforms, &b.Crops[i], w.sampler.size
	first := drawn.CutsOut()
	if first > 0 {
		size = w.cfg.PatchSize
	}
	patch, err := w.window(c, b.Samples[i].Start)
	if err != nil {
		return err
	}
	crop.Image.Resize(volume.ShapeOf(w.channels, size))
	crop.Seg.Resize(volume.ShapeOf(1, size))
	patch.ImageInto, patch.SegInto = crop.Image, crop.Seg
	if err := drawn[:first].Apply(&patch); err != nil {
		return err
	}
	if patch.Image != crop.Image || patch.Seg != crop.Seg { // it lies elsewhere, in memory of the worker's
		return fmt.Errorf("the augmentation cut out an image of %v and a segmentation of %v, expected %v",
			patch.Image.Shape, patch.Seg.Shape, size)
	}
	crop.Drawn, err = drawn[first:].WithNoise(size)
	w.lapse(&w.spent.times.Augment)
	return err
}

// patch makes sample i of a batch.
func (w *worker) patch(b *Batch, i int, c *dataset.Case) error {
	image := volume.Volume[float32]{Shape: volume.ShapeOf(w.channels, w.cfg.PatchSize)}
	n := volume.Numel(image.Shape)
	image.Data = b.Data[i*n:][:n]
	patch, err := w.window(c, b.Samples[i].Start)
	if err != nil {
		return err
	}
	patch.ImageInto = &image
	first := &b.Targets[0]
	voxels := product(first.Shape) / len(b.Samples)
	if !w.masks {
		patch.SegInto = &volume.Volume[int16]{Data: first.Labels[i*voxels:][:voxels],
			Shape: volume.ShapeOf(1, w.cfg.PatchSize)}
	}
	if err := b.Samples[i].Transforms.Apply(&patch); err != nil {
		return err
	}
	if patch.Image.Shape != image.Shape || patch.Seg.Spatial() != image.Spatial() {
		return fmt.Errorf("the augmentation produced an image of %v and a segmentation of %v, "+
			"expected %v in %d channels", patch.Image.Shape, patch.Seg.Shape, image.Spatial(),
			w.channels)
	}
	if patch.Image != &image {
		copy(image.Data, patch.Image.Data)
	}
	targets := patch.Targets
	if targets == nil {
		targets = []*volume.Volume[int16]{patch.Seg}
	}
	for level, from := range targets {
		t := &b.Targets[level]
		n := product(t.Shape) / len(b.Samples)
		switch {
		case len(from.Data) != n:
			return fmt.Errorf("the augmentation produced a target of shape %v, expected %v", from.Shape,
				w.shapes[level])
		case w.masks:
			for k, v := range from.Data {
				t.Masks[i*n+k] = uint8(v)
			}
		case from != patch.SegInto:
			copy(t.Labels[i*n:], from.Data)
		}
	}
	w.lapse(&w.spent.times.Targets)
	return nil
}

// done books the time of a transform.
func (w *worker) done(transform string) {
	part := &w.spent.times.Augment
	if augment.ForTargets(transform) {
		part = &w.spent.times.Targets
	}
	before := *part
	w.lapse(part)
	w.spent.transform(transform, *part-before)
}
