package train

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// BenchmarkFeed times batches of two on their way to the device beside steps: feed/ms is the feed
// alone, step/ms steps of convolutions on a batch that is there, both/ms steps that take their batches
// from the feed. hidden/% is the part of the shorter one that is hidden behind the other: 100 means
// that the feed costs the step nothing. extra-MiB is what the feed adds to the steps' peak memory, of
// which batch-MiB are the two batches.
func BenchmarkFeed(b *testing.B) {
	for _, name := range []string{"cpu", "cuda"} {
		b.Run(name, func(b *testing.B) {
			d := torchtest.Device(b, name)
			size, convolutions := []int{64, 128, 128}, 12
			if d.Type == torch.DeviceCPU {
				size, convolutions = []int{16, 32, 32}, 2
			}
			for _, on := range []AugmentOn{AugmentOnCPU, AugmentOnDevice} {
				b.Run(fmt.Sprintf("%dx%dx%d/%s", size[0], size[1], size[2], on), func(b *testing.B) {
					benchmarkFeed(b, d, on, size, convolutions)
				})
			}
		})
	}
}

func benchmarkFeed(b *testing.B, d torch.Device, on AugmentOn, size []int, convolutions int) {
	cfg := feedConfig(b, golden.Path(b, "loader/plain"), on == AugmentOnDevice)
	s := augment.Setting{PatchSize: size, Channels: 3, Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}}}
	s.SetClasses(cfg.Labels)
	list, err := augment.New(s)
	require.NoError(b, err)
	cfg.PatchSize, cfg.Augmentation, cfg.Workers = size, list, 0
	const n = 24
	feeding(b, d, on, cfg, func(f *feed, l *loader.Loader) {
		require.NoError(b, torch.With(func(scope *torch.Scope) error {
			w := scope.Full([]int64{32, 3, 3, 3, 3}, 0.01, torch.Float32, d)
			v := scope.Full([]int64{32, 32, 3, 3, 3}, 0.01, torch.Float32, d)
			x := scope.Full(append([]int64{2, 3}, torch.Sizes(size)...), 0.5, torch.Float32, d)
			var ends [2]*torch.Event // the host is one step ahead at the most, as in training
			for i := range ends {
				if ends[i], err = d.NewEvent(); err != nil {
					return err
				}
				defer ends[i].Free()
				if err := ends[i].Record(); err != nil {
					return err
				}
			}
			step := func(i int, upload Upload) error {
				if err := ends[i%2].Synchronize(); err != nil {
					return err
				}
				err := torch.With(func(s *torch.Scope) error {
					batch := Batch{Image: x}
					if upload != nil {
						var err error
						if batch, err = upload(s); err != nil {
							return err
						}
					}
					one := []int64{1, 1, 1}
					y := s.Conv(batch.Image, w, nil, one, one, one, 1)
					for range convolutions {
						before := y
						y = s.Conv(before, v, nil, one, one, one, 1)
						before.Free()
					}
					return s.Err()
				})
				if err != nil {
					return err
				}
				return ends[i%2].Record()
			}
			timed := func(what func(i int) error) (time.Duration, int64) {
				require.NoError(b, what(0)) // the first one chooses kernels and takes memory
				require.NoError(b, d.Synchronize())
				_, err := d.Peak(true)
				require.NoError(b, err)
				began := time.Now()
				for i := range n {
					require.NoError(b, what(i+1))
				}
				require.NoError(b, d.Synchronize())
				took := time.Since(began) / n
				peak, err := d.Peak(false)
				require.NoError(b, err)
				return took, peak
			}
			var alone, steps, both time.Duration
			var without, with int64
			for b.Loop() {
				f.begin(l, n+1, 0)
				alone, _ = timed(func(int) error {
					fed, err := f.next(b.Context())
					if err != nil {
						return err
					}
					defer fed.release()
					return torch.With(func(s *torch.Scope) error { _, err := fed.upload(s); return err })
				})
				steps, without = timed(func(i int) error { return step(i, nil) })
				f.begin(l, n+1, 0)
				both, with = timed(func(i int) error {
					fed, err := f.next(b.Context())
					if err != nil {
						return err
					}
					defer fed.release()
					return step(i, fed.upload)
				})
			}
			b.ReportMetric(milliseconds(alone), "feed/ms")
			b.ReportMetric(milliseconds(steps), "step/ms")
			b.ReportMetric(milliseconds(both), "both/ms")
			b.ReportMetric(100*float64(alone+steps-both)/float64(min(alone, steps)), "hidden/%")
			b.ReportMetric(float64(with-without)/(1<<20), "extra-MiB") // 0: this libtorch does not say
			b.ReportMetric(float64(2*4*x.Numel())/(1<<20), "batch-MiB")
			return scope.Err()
		}))
	})
}
