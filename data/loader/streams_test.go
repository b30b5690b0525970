package loader

import (
	"context"
	"errors"
	"math"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/volume"
)

// A sample is what its drawn parameters make of the crop that nnU-Net's loader would cut at its place.
func TestSamplesAreWhatTheirParametersMakeOfTheirCrops(t *testing.T) {
	for _, set := range []string{"plain", "ignore", "regions_ignore", "thin"} {
		for _, patch := range [][]int{{5, 8, 7}, {2, 3, 3}, {2, 9, 8}, {9, 8}} {
			cfg := config(t, set)
			augmented(t, &cfg, "nnunet", patch, nil)
			for i, tr := range cfg.Augmentation.Transforms {
				if r, ok := tr.(augment.RandomTransform); ok && tr.Name() == "GaussianBlurTransform" && patch[0] == 2 {
					r.ApplyProbability = 0 // slices of two voxels are too few for it
					cfg.Augmentation.Transforms[i] = r
				}
				if s, ok := tr.(augment.SpatialTransform); ok { // corners are empty
					s.PRotation, s.PScaling, s.Scaling = 0.9, 0.9, augment.Range{Low: 1.2, High: 1.9}
					cfg.Augmentation.Transforms[i] = s
				}
			}
			l := start(t, cfg)
			for range 12 {
				b, err := l.Next(t.Context())
				require.NoError(t, err)
				for i, s := range b.Samples {
					c, err := cfg.Dataset.Load(s.Key)
					require.NoError(t, err)
					crop := augment.Patch{Dim: len(patch),
						Image: volume.New[float32](volume.ShapeOf(c.Data.Shape[0], cfg.Augmentation.InitialPatchSize)),
						Seg:   volume.New[int16](volume.ShapeOf(1, cfg.Augmentation.InitialPatchSize))}
					c.Data.Crop(crop.Image, s.Start, 0)
					c.Seg.Crop(crop.Seg, s.Start, -1)
					drawn := cfg.Augmentation.Draw(l.sample(b.Index, i).Augmentation)
					require.Equal(t, drawn, s.Transforms)
					require.NoError(t, drawn.Apply(&crop))
					n := len(crop.Image.Data)
					require.Equal(t, crop.Image.Data, b.Data[i*n:][:n])
					n = len(crop.Seg.Data)
					for k, v := range crop.Seg.Data {
						if b.Targets[0].Masks != nil {
							require.EqualValues(t, v, b.Targets[0].Masks[i*n+k])
						} else {
							require.Equal(t, v, b.Targets[0].Labels[i*n+k])
						}
					}
				}
				b.Release()
			}
		}
	}
}

// Crops and what is left to be done give the batch.
func TestCropsBecomeTheBatch(t *testing.T) {
	for _, patch := range [][]int{{5, 8, 7}, {2, 9, 8}, {9, 8}} {
		cfg := config(t, "plain")
		augmented(t, &cfg, "nnunet", patch, nil)
		for i, tr := range cfg.Augmentation.Transforms {
			if r, ok := tr.(augment.RandomTransform); ok {
				if r.ApplyProbability = 0.5; tr.Name() == "GaussianBlurTransform" && patch[0] == 2 {
					r.ApplyProbability = 0
				}
				cfg.Augmentation.Transforms[i] = r
			}
		}
		whole := start(t, cfg)
		cfg.Crops, cfg.Queue = true, 1
		parts := start(t, cfg)
		small := 0
		for range 12 {
			want, err := whole.Next(t.Context())
			require.NoError(t, err)
			got, err := parts.Next(t.Context())
			require.NoError(t, err)
			require.Nil(t, got.Data)
			require.Equal(t, want.Samples, got.Samples)
			var data []float32
			var labels []int16
			for _, c := range got.Crops {
				p := augment.Patch{Image: c.Image, Seg: c.Seg, Dim: len(patch)}
				if c.Image.Shape == volume.ShapeOf(3, patch) {
					small++
				}
				require.NoError(t, c.Drawn.Apply(&p))
				data, labels = append(data, p.Image.Data...), append(labels, p.Seg.Data...)
			}
			require.Equal(t, want.Data, data)
			require.Equal(t, want.Targets[0].Labels, labels)
			want.Release()
			got.Release()
		}
		require.Greater(t, small, 10)
		require.Less(t, small, 36)
	}
}

// Another list of the same initial patch size, with a transform more, leaves cases, forced
// foreground, classes and places as they were.
func TestAnotherListMovesNoCaseAndNoPlace(t *testing.T) {
	for _, set := range []string{"plain", "ignore"} {
		cfg := config(t, set)
		samples := func() (all []Sample) {
			l := start(t, cfg)
			for range 20 {
				b, err := l.Next(t.Context())
				require.NoError(t, err)
				for _, s := range b.Samples {
					s.Transforms = nil
					all = append(all, s)
				}
				b.Release()
			}
			return all
		}
		want := samples()
		for _, s := range want {
			if s.Forced && s.Key == "case_0" { // has all classes
				require.NotNil(t, s.SelectedClass)
			}
			if !s.Forced && set == "plain" {
				require.Nil(t, s.SelectedClass)
			}
		}
		cfg.Augmentation = inFront(cfg.Augmentation, scaleBy{})
		require.Equal(t, want, samples())
		augmented(t, &cfg, "none", cfg.PatchSize, nil)
		other := samples()
		for i := range want { // another size of the crop moves its corner only
			want[i].Start, other[i].Start = [3]int{}, [3]int{}
		}
		require.Equal(t, want, other)
	}
}

func TestStatsTellWhatTheWorkersDid(t *testing.T) {
	cfg := config(t, "plain")
	cfg.Workers, cfg.Queue = 2, 3
	l := start(t, cfg)
	for range 10 {
		next(t, l)
	}
	s := l.Stats()
	require.Equal(t, 2, s.Workers)
	require.GreaterOrEqual(t, s.Patches, 10*cfg.BatchSize)
	require.LessOrEqual(t, s.Patches, (10+3+2)*cfg.BatchSize)
	for _, d := range []int64{int64(s.Read), int64(s.Augment), int64(s.Targets), int64(s.Elapsed)} {
		require.Positive(t, d)
	}
	require.Greater(t, s.Busy(), 0.0)
	require.LessOrEqual(t, s.Busy(), 1.0)
	// how often each acted
	require.GreaterOrEqual(t, s.Transforms["SpatialTransform"].Count, s.Patches)
	require.Less(t, s.Transforms["GaussianNoiseTransform"].Count, s.Patches/2)
	require.LessOrEqual(t, s.QueueMin, s.QueueMedian)
	require.LessOrEqual(t, s.QueueMedian, 3)
}

func TestTimesOfBatchesAreThoseOfTheWorkers(t *testing.T) {
	cfg := config(t, "plain")
	cfg.Workers, cfg.Queue = 1, 1
	l := start(t, cfg)
	var sum Times
	var before Stats
	for i := range 8 {
		b, err := l.Next(context.Background())
		require.NoError(t, err)
		require.Positive(t, b.Times.Augment)
		require.Positive(t, b.Times.Targets)
		sum = sum.Plus(b.Times)
		if i == 3 {
			before = l.Stats()
		}
	}
	l.Close() // what was ready and not taken is in the sum of the workers alone
	s := l.Stats()
	time.Sleep(time.Millisecond)
	require.Equal(t, s, l.Stats(), "the time after Close is not the workers'")
	l.Close()
	require.Equal(t, s, l.Stats())
	require.Zero(t, l.ready())
	require.GreaterOrEqual(t, s.Augment, sum.Augment)
	require.GreaterOrEqual(t, s.Read, sum.Read)

	since := s.Since(before)
	require.Equal(t, s.Patches-before.Patches, since.Patches)
	require.Equal(t, s.Targets-before.Targets, since.Targets)
	require.Equal(t, s.Elapsed-before.Elapsed, since.Elapsed)
	require.Equal(t, s.Transforms["MirrorTransform"].Count-before.Transforms["MirrorTransform"].Count,
		since.Transforms["MirrorTransform"].Count)
	require.Equal(t, s, s.Since(Stats{}), "since the start")
	taken := 0
	for _, n := range since.queue {
		require.GreaterOrEqual(t, n, 0)
		taken += n
	}
	require.Equal(t, 4, taken)
}

// Batches that are released are filled again: in steady state a patch costs no memory of its size, in a
// worker or beside it, and what a worker keeps is less than three patches.
func TestPatchesTakeNoMemoryInSteadyState(t *testing.T) {
	for _, crops := range []bool{false, true} {
		cfg := config(t, "regions_ignore")
		patch := []int{12, 48, 40}
		augmented(t, &cfg, "nnunet", patch, [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}})
		for i, tr := range cfg.Augmentation.Transforms {
			switch x := tr.(type) {
			case augment.RandomTransform:
				if x.ApplyProbability = 0.6; crops && x.Name() == "GaussianNoiseTransform" {
					x.ApplyProbability = 0 // a crop has its noise with it
				}
				cfg.Augmentation.Transforms[i] = x
			case augment.SpatialTransform:
				x.PRotation = 0.6
				cfg.Augmentation.Transforms[i] = x
			}
		}
		cfg.Workers, cfg.Queue, cfg.Crops = 1, 1, crops
		l := start(t, cfg)
		l.Close() // the worker is this test's
		w := &worker{Loader: l, channels: 2}
		work := func(first, n int) {
			for i := range n {
				b, err := w.make(first + i)
				require.NoError(t, err)
				b.Release()
			}
		}
		work(0, 20)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const n = 40
		work(20, n)
		runtime.ReadMemStats(&after)
		size := w.channels * product(patch) * 4
		perPatch := int(after.TotalAlloc-before.TotalAlloc) / (n * cfg.BatchSize)
		kept := bytesOf(reflect.ValueOf(w.scratch))
		t.Logf("crops %v: %d bytes allocated for a patch of %d; the worker keeps %d", crops, perPatch, size, kept)
		require.Less(t, perPatch, size/20)
		require.Less(t, kept, 3*size)
	}
}

// bytesOf is the memory that slices in a value hold.
func bytesOf(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			n += bytesOf(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			n += bytesOf(v.Index(i))
		}
	case reflect.Slice:
		n = v.Cap() * int(v.Type().Elem().Size())
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Struct {
				n += bytesOf(v.Index(i))
			}
		}
	}
	return n
}

// lender counts what it lends, and may refuse.
type lender struct {
	mu    sync.Mutex
	lent  map[*float32]bool
	fails bool
	heap
}

func (m *lender) Float32s(n int) ([]float32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails {
		return nil, errors.New("no page left to pin")
	}
	a := make([]float32, n)
	for i := range a {
		a[i] = float32(math.NaN()) // memory has any values
	}
	m.lent[&a[0]] = true
	return a, nil
}

// Batches and crops lie in memory that was lent, whatever it holds, and no more of it is asked for than
// the queue, the workers and the consumer need; without any the error says so.
func TestBatchesLieInTheMemoryThatIsLent(t *testing.T) {
	for _, crops := range []bool{false, true} {
		cfg := config(t, "plain")
		cfg.Workers, cfg.Queue, cfg.Crops = 2, 3, crops
		want := start(t, cfg)
		m := &lender{lent: map[*float32]bool{}}
		cfg.Memory = m
		l := start(t, cfg)
		for range 30 {
			b, err := l.Next(t.Context())
			require.NoError(t, err)
			w, err := want.Next(t.Context())
			require.NoError(t, err)
			sums := [2]string{}
			for i, batch := range []*Batch{b, w} {
				sums[i], err = batch.SHA256()
				require.NoError(t, err)
			}
			require.Equal(t, sums[1], sums[0])
			m.mu.Lock()
			if crops {
				for _, c := range b.Crops {
					require.True(t, m.lent[&c.Image.Data[0]])
				}
			} else {
				require.True(t, m.lent[&b.Data[0]])
			}
			m.mu.Unlock()
			b.Release()
			w.Release()
		}
		l.Close()
		arrays := 1
		if crops {
			arrays = cfg.BatchSize
		}
		require.LessOrEqual(t, len(m.lent), (cfg.Workers+cfg.Queue+1)*arrays)
		m.fails = true
		_, err := start(t, cfg).Next(t.Context())
		require.EqualError(t, err, "loader: memory for a batch: no page left to pin")
	}
}

// Sums of crops tell crops and parameters apart.
func TestSumsAreOfCropsAndTheirParameters(t *testing.T) {
	cfg := config(t, "plain")
	cfg.Crops = true
	b, err := start(t, cfg).Next(t.Context())
	require.NoError(t, err)
	sum := func() string {
		s, err := b.SHA256()
		require.NoError(t, err)
		return s
	}
	want := sum()
	require.Len(t, want, 64)
	require.Equal(t, want, sum())
	for _, change := range []func(){
		func() { b.Crops[1].Image.Data[5]++ },
		func() { b.Crops[0].Seg.Data[0] ^= 1 },
		func() { b.Samples[2].Transforms = b.Samples[1].Transforms },
	} {
		before := sum()
		change()
		require.NotEqual(t, before, sum())
	}
	b.Samples[0].Transforms = augment.Drawn{{Transform: "x", Parameters: failing{}}, {Transform: "y", Parameters: unwritable{}}}
	_, err = b.SHA256()
	require.ErrorContains(t, err, "loader: parameters of sample 0 of batch 0: ")
}

// unwritable has no JSON.
type unwritable struct{ C chan int }

func (unwritable) Apply(*augment.Patch) error { return nil }
