// Package loader provides batches of patches for training and validation. It chooses cases and
// positions as nnU-Net does, crops, augments, and computes targets, in worker goroutines that
// prefetch. A batch depends only on seed, stream and its index, not on the number of workers. It
// never calls torch.
package loader

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// Config configures a Loader.
type Config struct {
	Dataset   *dataset.Dataset
	Keys      []string // cases to draw from; order and duplicates have no effect
	Labels    *plans.Labels
	BatchSize int
	PatchSize []int // voxels (z, y, x) or (y, x); with 2 axes patches are slices of the cases
	// Oversample is the fraction of samples forced to contain foreground, the last ones of a batch:
	// sample i is if i >= round(BatchSize·(1-Oversample)). nnU-Net: 0.33, also in validation.
	Oversample float64
	// RequireForeground makes New fail if no case has foreground.
	RequireForeground bool
	Augmentation      augment.List
	Scales            [][]float64 // of the targets, see augment.NewTargets; nil: full resolution
	Seed              uint64
	Stream            string // such as "train" or "val"; streams of one seed are independent
	StartIndex        int    // index of the first batch; to resume, the number of batches used
	Workers           int    // 0: one per available core, at most four
	Queue             int    // batches to prefetch; 0: two more than workers
}

// Batch is a batch of patches. All arrays are row-major.
type Batch struct {
	Index     int
	Keys      []string  // case of each sample
	Data      []float32 // (b, c, z, y, x) or (b, c, y, x)
	DataShape []int
	Targets   []Target // one per output of the network, highest resolution first

	free chan *Batch
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

// ErrClosed is the error of Next after Close.
var ErrClosed = errors.New("loader: closed")

// Loader yields the batches of a Config in order. Next and Close may be called concurrently.
type Loader struct {
	cfg     Config
	sampler *sampler
	targets *augment.Targets
	free    chan *Batch // released batches

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
	cfg.Keys = slices.Compact(slices.Sorted(slices.Values(cfg.Keys)))
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
			size:       size,
			oversample: cfg.Oversample,
			labels:     cfg.Labels,
			load:       cfg.Dataset.Load,
		},
		targets: augment.NewTargets(cfg.PatchSize, cfg.Labels, cfg.Scales),
		next:    cfg.StartIndex,
		free:    make(chan *Batch, cfg.Queue+cfg.Workers),
		jobs:    make(chan int, cfg.Queue),
		results: make([]chan result, cfg.Queue),
		done:    make(chan struct{}),
	}
	for axis := range size {
		l.sampler.needToPad = append(l.sampler.needToPad, size[axis]-cfg.PatchSize[axis])
	}
	first, err := cfg.Dataset.Load(cfg.Keys[0])
	if err != nil {
		return nil, err
	}
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
	case len(cfg.PatchSize) != 2 && len(cfg.PatchSize) != 3 || slices.Min(cfg.PatchSize) < 1:
		return fmt.Errorf("patch size %v, expected 2 or 3 positive sizes", cfg.PatchSize)
	case cfg.Augmentation.InitialPatchSize != nil &&
		!covers(cfg.Augmentation.InitialPatchSize, cfg.PatchSize):
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
	for _, scale := range cfg.Scales {
		if len(scale) != len(cfg.PatchSize) {
			return fmt.Errorf("target scale %v, expected %d axes as in the patch size %v",
				scale, len(cfg.PatchSize), cfg.PatchSize)
		}
	}
	return nil
}

// covers reports whether size has as many axes as patch and is not smaller along any.
func covers(size, patch []int) bool {
	if len(size) != len(patch) {
		return false
	}
	for axis := range size {
		if size[axis] < patch[axis] {
			return false
		}
	}
	return true
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
		return r.batch, nil
	}
}

// Close stops the workers and waits for them. Batches already returned stay valid.
func (l *Loader) Close() {
	l.closing.Do(func() { close(l.done) })
	l.workers.Wait()
}

// scratch is a worker's buffer for one sample.
type scratch struct {
	seg     *volume.Volume[int16] // in the final size; the image is written to the batch
	initial *augment.Patch        // as cropped from the case; nil if that is the final size
}

func (l *Loader) newScratch(channels int) *scratch {
	s := &scratch{seg: volume.New[int16](spatial(1, l.cfg.PatchSize))}
	if size := l.cfg.Augmentation.InitialPatchSize; size != nil {
		s.initial = &augment.Patch{Dim: len(size),
			Image: volume.New[float32](spatial(channels, size)),
			Seg:   volume.New[int16](spatial(1, size))}
	}
	return s
}

// spatial returns the shape (c, z, y, x) of a patch of 2 or 3 axes.
func spatial(channels int, size []int) [4]int {
	shape := [4]int{channels, 1, 1, 1}
	copy(shape[4-len(size):], size)
	return shape
}

func (l *Loader) work(channels int) {
	s := l.newScratch(channels)
	for {
		select {
		case <-l.done:
			return
		case index := <-l.jobs:
			batch, err := l.make(index, channels, s)
			l.results[index%len(l.results)] <- result{batch, err}
		}
	}
}

// random returns the generator of a batch.
func (l *Loader) random(index int) *rand.Rand {
	h := sha256.New()
	h.Write([]byte(l.cfg.Stream))
	seed := binary.LittleEndian.AppendUint64(nil, l.cfg.Seed)
	h.Write(binary.LittleEndian.AppendUint64(seed, uint64(index)))
	sum := h.Sum(nil)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum),
		binary.LittleEndian.Uint64(sum[8:])))
}

func (l *Loader) newBatch(channels int) *Batch {
	b := &Batch{free: l.free, Keys: make([]string, l.cfg.BatchSize)}
	b.DataShape = slices.Concat([]int{l.cfg.BatchSize, channels}, l.cfg.PatchSize)
	b.Data = make([]float32, product(b.DataShape))
	b.Targets = make([]Target, l.targets.Levels())
	for level := range b.Targets {
		t := &b.Targets[level]
		t.Shape = slices.Concat([]int{l.cfg.BatchSize}, l.targets.Shape(level))
		if l.targets.Regions() {
			t.Masks = make([]uint8, product(t.Shape))
		} else {
			t.Labels = make([]int16, product(t.Shape))
		}
	}
	return b
}

func product(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

// make prepares batch index.
func (l *Loader) make(index, channels int, s *scratch) (*Batch, error) {
	rng := l.random(index)
	picks, err := l.sampler.draw(rng)
	if err != nil {
		return nil, err
	}
	var b *Batch
	select {
	case b = <-l.free:
	default:
		b = l.newBatch(channels)
	}
	b.Index = index
	if err := l.fill(b, picks, s, rng); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// fill crops the picks from their cases, augments them, and computes their targets.
func (l *Loader) fill(b *Batch, picks []pick, s *scratch, rng *rand.Rand) error {
	image := volume.Volume[float32]{Shape: spatial(b.DataShape[1], l.cfg.PatchSize)}
	n := volume.Numel(image.Shape)
	for i, p := range picks {
		if got, want := p.c.Data.Shape[0], b.DataShape[1]; got != want {
			return fmt.Errorf("loader: %s: found %d channels, expected %d as in the other cases; "+
				"preprocess all cases with the same channels", p.c.Source, got, want)
		}
		b.Keys[i] = p.c.Key
		image.Data = b.Data[i*n:][:n]
		drawn := l.cfg.Augmentation.Draw(func(string) *rand.Rand { return rng })
		patch := augment.Patch{Image: &image, Seg: s.seg, Dim: len(l.cfg.PatchSize)}
		if s.initial != nil {
			patch = *s.initial
		}
		p.c.Data.Crop(patch.Image, p.start, 0)
		p.c.Seg.Crop(patch.Seg, p.start, -1)
		if err := drawn.Apply(&patch); err != nil {
			return fmt.Errorf("loader: case %s: %w", p.c.Key, err)
		}
		if patch.Image.Shape != image.Shape || patch.Seg.Shape != s.seg.Shape {
			return fmt.Errorf("loader: case %s: the augmentation produced an image of %v and a "+
				"segmentation of %v, expected %v and %v",
				p.c.Key, patch.Image.Shape, patch.Seg.Shape, image.Shape, s.seg.Shape)
		}
		if patch.Image != &image {
			copy(image.Data, patch.Image.Data)
		}
		for level, t := range b.Targets {
			if size := product(t.Shape) / len(picks); t.Masks != nil {
				l.targets.Masks(t.Masks[i*size:][:size], patch.Seg, level)
			} else {
				l.targets.Labels(t.Labels[i*size:][:size], patch.Seg, level)
			}
		}
	}
	return nil
}
