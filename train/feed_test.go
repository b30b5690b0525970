package train

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// feedConfig is a loader's, of the cases in a folder.
func feedConfig(t testing.TB, folder string, crops bool) loader.Config {
	t.Helper()
	d, err := dataset.Open(folder)
	require.NoError(t, err)
	about, err := plans.LoadDataset(filepath.Join(folder, "dataset.json"))
	require.NoError(t, err)
	s := augment.Setting{PatchSize: []int{5, 8, 7}, Channels: 3, Scales: [][]float64{{1, 1, 1}, {1, 0.5, 0.5}}}
	s.SetClasses(about.Labels)
	list, err := augment.New(s)
	require.NoError(t, err)
	return loader.Config{Dataset: d, Keys: d.Keys(), Labels: about.Labels, BatchSize: 2, PatchSize: s.PatchSize,
		Oversample: 0.33, Augmentation: list, Crops: crops, Seed: 7, Stream: "train", Workers: 2}
}

// fedBatch is what a step sees.
type fedBatch struct {
	index int
	sum   string
	cases string
	bytes []string // sums of the tensors' bytes, after their shapes
}

func (b *fed) read(t *testing.T) fedBatch {
	t.Helper()
	out := fedBatch{index: b.index, sum: b.sum}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		got, err := b.upload(s)
		require.NoError(t, err)
		out.cases = strings.Join(got.Cases, " ")
		for _, x := range append([]*torch.Tensor{got.Image}, got.Targets...) {
			bytes := make([]byte, x.Numel()*x.DType().Size())
			require.NoError(t, x.CopyBytesOut(bytes))
			out.bytes = append(out.bytes, fmt.Sprintf("%v %x", x.Shape(), sha256.Sum256(bytes)))
		}
		return nil
	}))
	b.release()
	return out
}

// feeding runs f with a feed and a loader over its memory, and ends both.
func feeding(t testing.TB, device torch.Device, on AugmentOn, cfg loader.Config, f func(*feed, *loader.Loader)) {
	t.Helper()
	fd, err := newFeed(&machine.Machine{Device: device, Threads: 1}, on)
	require.NoError(t, err)
	defer fd.close()
	cfg.Memory = fd.memory()
	l, err := loader.New(cfg)
	require.NoError(t, err)
	defer l.Close()
	defer fd.halt()
	f(fd, l)
}

// The batches that go ahead are the loader's, in order and over phases, for any number of workers and
// of batches in memory that is used again.
func TestFeedGivesTheBatchesInOrder(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, device torch.Device) {
		for _, crops := range []bool{true, false} {
			torchtest.NoLeak(t)
			on := AugmentOnCPU
			if crops {
				on = AugmentOnDevice
			}
			cfg := feedConfig(t, golden.Path(t, "loader/plain"), crops)
			var want []fedBatch
			l, err := loader.New(cfg)
			require.NoError(t, err)
			for range 12 {
				want = append(want, alone(t, l, device))
			}
			l.Close()
			for _, workers := range []int{1, 2, 7} {
				cfg.Workers, cfg.Queue = workers, workers
				feeding(t, device, on, cfg, func(f *feed, l *loader.Loader) {
					require.Equal(t, crops || device.Type != torch.DeviceCPU, f.ahead)
					n := 0
					for _, phase := range []int{5, 1, 6} {
						f.begin(l, phase, 2)
						for range phase {
							b, err := f.next(t.Context())
							require.NoError(t, err)
							got := b.read(t)
							require.Equal(t, n < 2, got.sum != "")
							got.sum = want[n].sum
							require.Equal(t, want[n], got, "batch %d, %d workers", n, workers)
							n++
						}
					}
				})
			}
		}
	})
}

// alone is a loader's next batch, brought to the device on the thread's own stream.
func alone(t *testing.T, l *loader.Loader, device torch.Device) fedBatch {
	t.Helper()
	b, err := l.Next(t.Context())
	require.NoError(t, err)
	f := &feed{device: device}
	sum, err := b.SHA256()
	require.NoError(t, err)
	return (&fed{feed: f, batch: b, cases: slices.Clone(b.Keys), index: b.Index, sum: sum}).read(t)
}

// Sums are those of the loader's batches.
func TestFeedTellsTheSums(t *testing.T) {
	torchtest.Require(t)
	for _, on := range []AugmentOn{AugmentOnCPU, AugmentOnDevice} {
		cfg := feedConfig(t, golden.Path(t, "loader/plain"), on == AugmentOnDevice)
		l, err := loader.New(cfg)
		require.NoError(t, err)
		want := alone(t, l, torch.CPU).sum
		l.Close()
		feeding(t, torch.CPU, on, cfg, func(f *feed, l *loader.Loader) {
			f.begin(l, 2, 1)
			b, err := f.next(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, b.read(t).sum)
			b, err = f.next(t.Context())
			require.NoError(t, err)
			require.Empty(t, b.read(t).sum)
		})
	}
}

// counting counts what is drawn.
type counting struct{ drawn *atomic.Int64 }

func (counting) Name() string { return "counting" }
func (c counting) Draw(*rand.Rand) augment.Parameters {
	c.drawn.Add(1)
	return nil
}

// While a step has a batch, the next one is made and no other.
func TestOneBatchIsAhead(t *testing.T) {
	torchtest.NoLeak(t)
	cfg := feedConfig(t, golden.Path(t, "loader/plain"), true)
	cfg.Workers, cfg.Queue = 1, 1
	c := counting{&atomic.Int64{}}
	cfg.Augmentation.Transforms = append(cfg.Augmentation.Transforms, c)
	feeding(t, torch.CPU, AugmentOnDevice, cfg, func(f *feed, l *loader.Loader) {
		f.begin(l, 10, 0)
		for n := range int64(3) {
			b, err := f.next(t.Context())
			require.NoError(t, err)
			// this one, the one that is ahead, and the one that the worker has ready
			waitFor(t, func() bool { return c.drawn.Load() == 2*(n+3) })
			time.Sleep(30 * time.Millisecond)
			require.Equal(t, 2*(n+3), c.drawn.Load())
			b.read(t)
		}
	})
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !what(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "it did not happen")
	}
}

// A case that cannot be read ends the feed with the loader's error, behind the batches before it.
func TestFeedHandsErrorsOn(t *testing.T) {
	torchtest.NoLeak(t)
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(golden.Path(t, "loader/plain"))))
	require.NoError(t, os.Truncate(filepath.Join(folder, "case_3.npz"), 300))
	for _, on := range []AugmentOn{AugmentOnCPU, AugmentOnDevice} {
		feeding(t, torch.CPU, on, feedConfig(t, folder, on == AugmentOnDevice), func(f *feed, l *loader.Loader) {
			f.begin(l, 100, 0)
			n := 0
			for {
				b, err := f.next(t.Context())
				if err != nil {
					require.ErrorContains(t, err, "case_3.npz: damaged or truncated")
					break
				}
				require.Equal(t, n, b.read(t).index)
				n++
			}
			require.Less(t, n, 100)
			_, err := f.next(t.Context())
			require.ErrorContains(t, err, "case_3.npz: damaged or truncated")
		})
	}
}

// What a device refuses is told by the batch that it is of.
func TestFeedTellsWhatTheDeviceRefuses(t *testing.T) {
	torchtest.NoLeak(t)
	cfg := feedConfig(t, golden.Path(t, "loader/plain"), true)
	cfg.Augmentation.Transforms = append(cfg.Augmentation.Transforms, augment.RandomTransform{Transform: unknown{}, ApplyProbability: 0.1})
	feeding(t, torch.CPU, AugmentOnDevice, cfg, func(f *feed, l *loader.Loader) {
		f.begin(l, 50, 0)
		var err error
		for range 50 {
			var b *fed
			if b, err = f.next(t.Context()); err != nil {
				break
			}
			b.read(t)
		}
		require.ErrorContains(t, err, "unknown: is not built for a device; leave out --augment-on device")
	})
}

// unknown is a transform that data/augment does not have.
type unknown struct{}

func (unknown) Name() string                         { return "unknown" }
func (u unknown) Draw(*rand.Rand) augment.Parameters { return u }
func (unknown) Apply(*augment.Patch) error           { return nil }

// The feed ends at once, wherever it is: before a phase, waiting for a worker, with a batch that nobody
// takes, with one in use.
func TestFeedEndsAnywhere(t *testing.T) {
	torchtest.NoLeak(t)
	goroutines := runtime.NumGoroutine()
	for taken := range 4 {
		cfg := feedConfig(t, golden.Path(t, "loader/plain"), true)
		gate := make(chan struct{})
		if taken == 3 {
			cfg.Augmentation.Transforms = append([]augment.Transform{stuck{gate}}, cfg.Augmentation.Transforms...)
		}
		feeding(t, torch.CPU, AugmentOnDevice, cfg, func(f *feed, l *loader.Loader) {
			if taken > 0 {
				f.begin(l, 10, 4)
			}
			if taken == 2 {
				b, err := f.next(t.Context())
				require.NoError(t, err)
				defer b.release()
			}
			time.Sleep(20 * time.Millisecond)
			began := time.Now()
			f.halt()
			f.halt()
			require.Less(t, time.Since(began), 5*time.Second)
			_, err := f.next(t.Context())
			require.ErrorContains(t, err, "no batches come any more")
			close(gate)
		})
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// stuck waits when it is drawn.
type stuck struct{ gate chan struct{} }

func (stuck) Name() string { return "stuck" }
func (s stuck) Draw(*rand.Rand) augment.Parameters {
	<-s.gate
	return nil
}

// No batch is ahead of a CPU that has its batches from workers: a copy there is all there is to do.
func TestTheCPUCopiesBatchesInTheStep(t *testing.T) {
	torchtest.NoLeak(t)
	feeding(t, torch.CPU, AugmentOnCPU, feedConfig(t, golden.Path(t, "loader/plain"), false), func(f *feed, l *loader.Loader) {
		require.False(t, f.ahead)
		require.Nil(t, f.memory())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f.begin(l, 2, 0)
		_, err := f.next(ctx)
		require.ErrorIs(t, err, context.Canceled)
		stacks := make([]byte, 1<<20)
		require.Zero(t, strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "train.(*feed).work"))
	})
}
