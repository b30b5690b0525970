package loader

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/formats/npz"
)

func config(t testing.TB, set string) Config {
	t.Helper()
	d, labels := open(t, set)
	cfg := Config{Dataset: d, Keys: d.Keys(), Labels: labels, BatchSize: 3, Oversample: 0.33, Seed: 7, Stream: "train"}
	augmented(t, &cfg, "nnunet", []int{5, 8, 7}, [][]float64{{1, 1, 1}, {1, 0.5, 0.5}})
	return cfg
}

// augmented gives a configuration a patch size and a list of transforms.
func augmented(t testing.TB, cfg *Config, augmentation string, patch []int, scales [][]float64) {
	t.Helper()
	d, err := dataset.Open(cfg.Dataset.Folder()) // the one of the configuration has read nothing yet
	require.NoError(t, err)
	c, err := d.Load(d.Keys()[0])
	require.NoError(t, err)
	s := augment.Setting{PatchSize: patch, Channels: c.Data.Shape[0], Scales: scales, Augmentation: augmentation}
	s.SetClasses(cfg.Labels)
	cfg.PatchSize = patch
	cfg.Augmentation, err = augment.New(s)
	require.NoError(t, err)
}

// inFront puts transforms before those of the list.
func inFront(l augment.List, more ...augment.Transform) augment.List {
	l.Transforms = slices.Concat(more, l.Transforms)
	return l
}

func start(t testing.TB, cfg Config) *Loader {
	t.Helper()
	l, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// fingerprint is the whole content of a batch, in a comparable form.
type fingerprint struct {
	index         int
	keys          [3]string
	data, full, h uint32
}

func next(t testing.TB, l *Loader) fingerprint {
	t.Helper()
	b, err := l.Next(t.Context())
	require.NoError(t, err)
	defer b.Release()
	return fingerprint{b.Index, [3]string(b.Keys), sum(b.Data), sumTarget(b.Targets[0]), sumTarget(b.Targets[len(b.Targets)-1])}
}

func take(t testing.TB, cfg Config, n int) []fingerprint {
	l := start(t, cfg)
	out := make([]fingerprint, n)
	for i := range out {
		out[i] = next(t, l)
	}
	return out
}

func TestBatchesDoNotDependOnWorkersOrQueue(t *testing.T) {
	for _, set := range []string{"ignore", "regions_ignore"} {
		cfg := config(t, set)
		cfg.Workers, cfg.Queue = 1, 1
		want := take(t, cfg, 40)
		for i, b := range want {
			require.Equal(t, i, b.index)
			require.NotContains(t, want[:i], b)
		}
		for _, workers := range []int{1, 2, 7, 0} {
			for _, queue := range []int{0, 1, 3, 16} {
				cfg.Workers, cfg.Queue = workers, queue
				require.Equal(t, want, take(t, cfg, 40), "%d workers, queue %d", workers, queue)
			}
		}
	}
}

func TestBatchesDoNotDependOnTheCacheOrTheOrderOfKeys(t *testing.T) {
	cfg := config(t, "plain")
	want := take(t, cfg, 20)
	cfg = config(t, "plain")
	cfg.Dataset.CacheBytes = 20000
	slices.Reverse(cfg.Keys)
	cfg.Keys = append(cfg.Keys, cfg.Keys[0])
	require.Equal(t, want, take(t, cfg, 20))
}

// Cases that stay on disk give the batches that they give in memory, for any list and any number of
// workers; one that is cut short ends them with an error.
func TestBatchesDoNotDependOnWhereTheVoxelsAre(t *testing.T) {
	for _, set := range []string{"plain", "regions_ignore", "thin"} {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, set))))
		_, labels := open(t, set)
		for _, patch := range [][]int{{5, 8, 7}, {4, 14, 13}, {9, 8}} {
			for _, list := range []string{"nnunet", "none"} {
				config := func() Config {
					d, err := dataset.Open(dir)
					require.NoError(t, err)
					cfg := Config{Dataset: d, Keys: d.Keys(), Labels: labels, BatchSize: 3, Oversample: 0.33, Seed: 7, Stream: "train"}
					augmented(t, &cfg, list, patch, nil)
					return cfg
				}
				want := take(t, config(), 12)
				for _, key := range config().Keys {
					unpackCase(t, dir, key)
				}
				for _, workers := range []int{1, 7} {
					cfg := config()
					cfg.Workers, cfg.Dataset.CacheBytes = workers, 3500
					require.Equal(t, want, take(t, cfg, 12), "%s %v %s", set, patch, list)
				}
				for _, key := range config().Keys {
					require.NoError(t, os.Remove(filepath.Join(dir, key+".npy")))
					require.NoError(t, os.Remove(filepath.Join(dir, key+"_seg.npy")))
				}
			}
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, "plain"))))
	unpackCase(t, dir, "case_0")
	cfg := config(t, "plain")
	var err error
	cfg.Dataset, err = dataset.Open(dir)
	require.NoError(t, err)
	cfg.Keys, cfg.Dataset.CacheBytes = []string{"case_0"}, 6000
	l := start(t, cfg)
	next(t, l)
	require.NoError(t, os.Truncate(filepath.Join(dir, "case_0.npy"), 2000))
	for n := 0; err == nil; n++ {
		require.Less(t, n, 100)
		_, err = l.Next(t.Context())
	}
	require.ErrorContains(t, err, "loader: case case_0: dataset: npz: "+filepath.Join(dir, "case_0.npy")+": ")
	require.ErrorContains(t, err, "truncated")
}

// unpackCase writes a case's .npy files, as nnU-Net does.
func unpackCase(t *testing.T, dir, key string) {
	t.Helper()
	f, err := npz.OpenNpz(filepath.Join(dir, key+".npz"))
	require.NoError(t, err)
	defer f.Close()
	for name, ending := range map[string]string{"data": ".npy", "seg": "_seg.npy"} {
		a, err := f.Read(name)
		require.NoError(t, err)
		if name == "data" {
			values, err := a.Float32s()
			require.NoError(t, err)
			a, err = npz.New(values, a.Shape...)
			require.NoError(t, err)
		}
		out, err := os.Create(filepath.Join(dir, key+ending))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(out, a))
		require.NoError(t, out.Close())
	}
}

func TestAnyBatchIsAStartingPoint(t *testing.T) {
	cfg := config(t, "plain")
	want := take(t, cfg, 30)
	for _, i := range []int{1, 7, 29} {
		cfg.StartIndex = i
		require.Equal(t, want[i:], take(t, cfg, 30-i))
	}
}

func TestSeedAndStreamChangeTheBatches(t *testing.T) {
	cfg := config(t, "plain")
	want := take(t, cfg, 5)
	cfg.Seed = 8
	other := take(t, cfg, 5)
	cfg.Seed, cfg.Stream = 7, "val"
	val := take(t, cfg, 5)
	for i := range want {
		require.NotEqual(t, want[i], other[i])
		require.NotEqual(t, want[i], val[i])
		require.NotEqual(t, other[i], val[i])
	}
}

// TestSeedsKeepTheirBatches pins the batches of a seed: a run repeated or resumed with a later version
// gets the same ones. The random streams are this package's own, so the sums come from it;
// TestBatchesAreThoseOfNnUNetForTheSameDraws checks what is computed from the draws.
func TestSeedsKeepTheirBatches(t *testing.T) {
	cfg := config(t, "plain")
	require.Equal(t, []fingerprint{
		{0, [3]string{"case_1", "case_3", "case_1"}, 0x277ad063, 0x342b9bb6, 0xec65f40a},
		{1, [3]string{"case_0", "case_1", "case_1"}, 0xe76d8424, 0x609d919e, 0xfd3b713a},
	}, take(t, cfg, 2))
	augmented(t, &cfg, "nnunet", []int{16, 12}, nil)
	require.Equal(t, []fingerprint{
		{0, [3]string{"case_1", "case_3", "case_1"}, 0x934a3aeb, 0xe2373b1b, 0xe2373b1b},
		{1, [3]string{"case_0", "case_1", "case_1"}, 0x9468765e, 0x8b7046cf, 0x8b7046cf},
	}, take(t, cfg, 2))
	augmented(t, &cfg, "none", []int{16, 12}, nil)
	cfg.Stream = "val"
	require.Equal(t, []fingerprint{
		{0, [3]string{"case_2", "case_4", "case_4"}, 0x6a94ca63, 0xe4376237, 0xe4376237},
		{1, [3]string{"case_0", "case_3", "case_0"}, 0x36eecbaa, 0xcbd64c47, 0xcbd64c47},
	}, take(t, cfg, 2))
}

func TestTwoAxesTakeSlices(t *testing.T) {
	cfg := config(t, "plain")
	augmented(t, &cfg, "nnunet", []int{16, 12}, nil)
	b, err := start(t, cfg).Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{3, 3, 16, 12}, b.DataShape)
	require.Len(t, b.Targets, 1)
	require.Equal(t, []int{3, 1, 16, 12}, b.Targets[0].Shape)
	require.Len(t, b.Data, 3*3*16*12)
	require.Len(t, b.Targets[0].Labels, 3*16*12)
}

func TestAugmentationGetsEnlargedPatchesAndFillsTheBatch(t *testing.T) {
	cfg := config(t, "plain")
	augmented(t, &cfg, "none", cfg.PatchSize, nil)
	var image []float32
	var seg []int16
	cfg.Workers, cfg.Queue = 1, 1
	cfg.Augmentation.InitialPatchSize = []int{8, 11, 10}
	cfg.Augmentation = inFront(cfg.Augmentation, change(func(p *augment.Patch) {
		require.Equal(t, 3, p.Dim)
		require.Equal(t, [4]int{3, 8, 11, 10}, p.Image.Shape)
		require.Equal(t, [4]int{1, 8, 11, 10}, p.Seg.Shape)
		cut(p, [3]int{1, 2, 3}, cfg.PatchSize)
		if len(image) < 3*3*5*8*7 {
			image, seg = append(image, p.Image.Data...), append(seg, p.Seg.Data...)
		}
	}))
	b, err := start(t, cfg).Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, image, b.Data)
	for i, label := range seg {
		require.Equal(t, max(label, 0), b.Targets[0].Labels[i])
	}
}

func TestTransformsSeeThePatchInTheOrderOfTheList(t *testing.T) {
	cfg := config(t, "plain")
	augmented(t, &cfg, "none", cfg.PatchSize, nil)
	cfg.Augmentation = inFront(cfg.Augmentation,
		change(func(p *augment.Patch) { p.Image.Data[0], p.Seg.Data[0] = 2, 1 }),
		change(func(p *augment.Patch) { p.Image.Data[0] *= 3; p.Seg.Data[0]++ }))
	b, err := start(t, cfg).Next(t.Context())
	require.NoError(t, err)
	for i := range cfg.BatchSize {
		require.EqualValues(t, 6, b.Data[i*3*5*8*7])
		require.EqualValues(t, 2, b.Targets[0].Labels[i*5*8*7])
	}
}

// scaleBy draws a factor.
type scaleBy struct{}

func (scaleBy) Name() string { return "scaleBy" }
func (scaleBy) Draw(rng *rand.Rand) augment.Parameters {
	f := rng.Float32()
	return change(func(p *augment.Patch) {
		for i := range p.Image.Data {
			p.Image.Data[i] *= f
		}
	})
}

type failing struct{}

func (failing) Name() string                         { return "FailingTransform" }
func (f failing) Draw(*rand.Rand) augment.Parameters { return f }
func (failing) Apply(*augment.Patch) error           { return errors.New("nothing to blur") }

func TestFailingAugmentationNamesCaseAndTransform(t *testing.T) {
	cfg := config(t, "plain")
	augmented(t, &cfg, "mirror", cfg.PatchSize, nil)
	cfg.Augmentation.Transforms = slices.Insert(cfg.Augmentation.Transforms, 1, augment.Transform(failing{}))
	_, err := start(t, cfg).Next(t.Context())
	require.EqualError(t, err, "loader: case case_1: augment: transform 1, FailingTransform: nothing to blur")

	cfg.Augmentation.Transforms = []augment.Transform{change(func(p *augment.Patch) { cut(p, [3]int{}, []int{2, 2, 2}) })}
	_, err = start(t, cfg).Next(t.Context())
	require.EqualError(t, err, "loader: case case_1: the augmentation produced an image of [3 2 2 2] and a segmentation of [1 2 2 2], expected [5 8 7] in 3 channels")

	for _, size := range [][]int{{8, 8}, {8, 7, 9}} {
		cfg.Augmentation.InitialPatchSize = size
		_, err = New(cfg)
		require.EqualError(t, err, fmt.Sprintf("loader: initial patch size %v, expected 3 sizes, none smaller than in the patch size [5 8 7]", size))
	}
}

func TestCancelledContextLosesNoBatch(t *testing.T) {
	cfg := config(t, "plain")
	want := take(t, cfg, 3)
	l := start(t, cfg)
	require.Equal(t, want[0], next(t, l))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		_, err := l.Next(ctx)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, want[1], next(t, l))
	require.Equal(t, want[2], next(t, l))
}

// blocking lets the test decide when a batch becomes ready.
func blocking(gate chan struct{}) augment.List {
	return augment.List{Transforms: []augment.Transform{change(func(*augment.Patch) { <-gate })}}
}

func TestCancelWhileWaitingReturns(t *testing.T) {
	cfg := config(t, "plain")
	gate := make(chan struct{})
	cfg.Augmentation = blocking(gate)
	l := start(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := l.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(gate)
	require.Equal(t, 0, next(t, l).index)
}

func TestWorkersDoNotRunFartherAheadThanTheQueue(t *testing.T) {
	cfg := config(t, "plain")
	cfg.Workers, cfg.Queue = 3, 4
	started := make(chan struct{}, 10000)
	cfg.Augmentation = inFront(cfg.Augmentation, change(func(*augment.Patch) { started <- struct{}{} }))
	l := start(t, cfg)
	for range 3 {
		next(t, l)
	}
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, (3+4)*cfg.BatchSize, len(started))
}

func TestCloseLeavesNoGoroutineAndIsRepeatable(t *testing.T) {
	before := runtime.NumGoroutine()
	cfg := config(t, "plain")
	cfg.Workers = 5
	for i := range 10 {
		l, err := New(cfg)
		require.NoError(t, err)
		for range i {
			next(t, l)
		}
		l.Close()
		l.Close()
		_, err = l.Next(t.Context())
		require.ErrorIs(t, err, ErrClosed)
	}
	// A goroutine that has signalled its end is counted until it has exited.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

func TestCloseWakesNext(t *testing.T) {
	cfg := config(t, "plain")
	gate := make(chan struct{})
	cfg.Augmentation = blocking(gate)
	l := start(t, cfg)
	result := make(chan error)
	go func() {
		_, err := l.Next(context.Background())
		result <- err
	}()
	time.Sleep(10 * time.Millisecond)
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	require.ErrorIs(t, <-result, ErrClosed)
	close(gate)
	<-closed
}

func TestReleasedBatchesAreUsedAgain(t *testing.T) {
	cfg := config(t, "plain")
	augmented(t, &cfg, "nnunet", []int{32, 64, 64}, nil)
	cfg.Workers = 1
	l := start(t, cfg)
	use := func(n int) {
		for range n {
			b, err := l.Next(t.Context())
			require.NoError(t, err)
			b.Release()
		}
	}
	use(l.cfg.Queue + 5)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	use(20)
	runtime.ReadMemStats(&after)
	batch := uint64(3 * (4*3 + 2) * 32 * 64 * 64)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, 2*batch, "memory allocated for 20 batches")
}

func TestErrorsOfCasesArriveAndStay(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, "plain"))))
	require.NoError(t, os.Truncate(filepath.Join(dir, "case_3.npz"), 300))
	cfg := config(t, "plain")
	var err error
	cfg.Dataset, err = dataset.Open(dir)
	require.NoError(t, err)
	var failed [2]error
	for i, workers := range []int{1, 7} {
		cfg.Workers = workers
		l := start(t, cfg)
		n := 0
		for ; failed[i] == nil; n++ {
			require.Less(t, n, 100)
			_, failed[i] = l.Next(t.Context())
		}
		require.ErrorContains(t, failed[i], filepath.Join(dir, "case_3.npz")+": damaged or truncated")
		_, err := l.Next(t.Context())
		require.Equal(t, failed[i], err)
	}
	require.Equal(t, failed[0], failed[1])
}

func TestUnknownLabelsAreNamed(t *testing.T) {
	cfg := config(t, "plain")
	_, cfg.Labels = open(t, "source")
	_, err := start(t, cfg).Next(t.Context())
	require.ErrorContains(t, err, ".npz: the segmentation has value 2, expected labels of dataset.json [0 1] (or -1 outside the image); correct labels in dataset.json or preprocess again")
}

func TestCasesPreprocessedWithoutTheIgnoreLabelAreNamed(t *testing.T) {
	cfg := config(t, "plain")
	_, cfg.Labels = open(t, "ignore")
	_, err := start(t, cfg).Next(t.Context())
	require.ErrorContains(t, err, "class_locations has no entry for all labels [0 1 2] together, expected one since dataset.json has an ignore label")
}

func TestCasesOfOtherChannelCountsAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, from := range []struct{ set, key, as string }{{"plain", "case_0", "a"}, {"regions", "case_0", "b"}} {
		for _, ending := range []string{".npz", ".pkl"} {
			data, err := os.ReadFile(filepath.Join(goldenDir, from.set, from.key+ending))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, from.as+ending), data, 0o600))
		}
	}
	cfg := config(t, "plain")
	var err error
	cfg.Dataset, err = dataset.Open(dir)
	require.NoError(t, err)
	cfg.Keys = []string{"a", "b"}
	l := start(t, cfg)
	for err == nil {
		_, err = l.Next(t.Context())
	}
	require.EqualError(t, err, "loader: "+filepath.Join(dir, "b.npz")+": found 1 channels, expected 3 as in the other cases; preprocess all cases with the same channels")
}

func TestNoForegroundAnywhereIsAnError(t *testing.T) {
	cfg := config(t, "plain")
	cfg.Keys, cfg.RequireForeground = []string{"case_2"}, true
	_, err := New(cfg)
	require.ErrorContains(t, err, "no foreground in any of 1 cases (case_2), expected voxels of label [1 2 3]")
	cfg.Keys = []string{"case_1", "case_2"}
	start(t, cfg)
}

func TestImpossibleConfigurationsAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no cases to draw from":                        func(c *Config) { c.Keys = nil },
		"batch size 0, expected at least 1":            func(c *Config) { c.BatchSize = 0 },
		"patch size [4], expected 2 or 3":              func(c *Config) { c.PatchSize = []int{4} },
		"patch size [4 0 4], expected":                 func(c *Config) { c.PatchSize = []int{4, 0, 4} },
		"foreground oversampling 33, expected a fract": func(c *Config) { c.Oversample = 33 },
		"start index -1":                               func(c *Config) { c.StartIndex = -1 },
		"nobody.npz: expected a case of ":              func(c *Config) { c.Keys = []string{"nobody"} },
		"found 3 channels, expected 1, the network's":  func(c *Config) { c.Dataset.Channels = 1 },
	} {
		cfg := config(t, "plain")
		change(&cfg)
		_, err := New(cfg)
		require.ErrorContains(t, err, want)
	}
}

func BenchmarkNext(b *testing.B) {
	for name, patch := range map[string][]int{"32x96x96": {32, 96, 96}, "64x128x128": {64, 128, 128}} {
		b.Run(name, func(b *testing.B) {
			cfg := config(b, "source")
			cfg.BatchSize = 2
			augmented(b, &cfg, "nnunet", patch, [][]float64{{1, 1, 1}, {1, 0.5, 0.5}, {0.5, 0.25, 0.25}, {0.25, 0.125, 0.125}})
			l := start(b, cfg)
			b.ReportAllocs()
			for b.Loop() {
				batch, err := l.Next(b.Context())
				require.NoError(b, err)
				batch.Release()
			}
		})
	}
}
