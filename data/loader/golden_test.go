package loader

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/mt19937"
	"github.com/lntorch/lntorch/volume"
)

const (
	goldenDir = "../../testdata/golden/loader"
	sourceSet = "../../testdata/phantom-mini/preprocessed/Dataset101_PhantomSource"
	targetSet = "../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget"
)

// goldenCase is a run of nnU-Net's loader, written by scripts/golden/loader.py.
type goldenCase struct {
	Set         string
	Keys        []string
	Size, Final []int
	Batch       int
	Oversample  float64
	Seed        uint32
	Scales      [][]float64
	Batches     []struct {
		Keys         []string
		Starts       [][]int
		Data         uint32
		DataShape    []int `json:"data_shape"`
		Targets      []uint32
		TargetShapes [][]int `json:"target_shapes"`
		TargetType   string  `json:"target_type"`
	}
	After uint32
}

func open(t testing.TB, set string) (*dataset.Dataset, *plans.Labels) {
	t.Helper()
	return openIn(t, goldenDir, set)
}

// openIn opens a dataset of dir, as the script wrote it, or of phantom-mini.
func openIn(t testing.TB, dir, set string) (*dataset.Dataset, *plans.Labels) {
	t.Helper()
	folder, description := filepath.Join(dir, set), filepath.Join(dir, set, "dataset.json")
	switch set {
	case "source":
		folder, description = sourceSet+"/nnUNetPlans_3d_fullres", sourceSet+"/dataset.json"
	case "target":
		folder, description = targetSet+"/nnUNetPlansSource_3d_fullres", targetSet+"/dataset.json"
	}
	d, err := dataset.Open(folder)
	require.NoError(t, err)
	j, err := plans.LoadDataset(description)
	require.NoError(t, err)
	return d, j.Labels
}

func sum[T any](values []T) uint32 {
	h := crc32.NewIEEE()
	if err := binary.Write(h, binary.LittleEndian, values); err != nil {
		panic(err)
	}
	return h.Sum32()
}

func sumTarget(t Target) uint32 {
	if t.Masks != nil {
		return sum(t.Masks)
	}
	return sum(t.Labels)
}

// change is an augmentation without parameters.
type change func(p *augment.Patch)

func (change) Name() string                         { return "change" }
func (c change) Draw(*rand.Rand) augment.Parameters { return c }
func (c change) Apply(p *augment.Patch) error       { c(p); return nil }

// cut crops p to the given size, from start on.
func cut(p *augment.Patch, start [3]int, size []int) {
	image := volume.New[float32](volume.ShapeOf(p.Image.Shape[0], size))
	seg := volume.New[int16](volume.ShapeOf(1, size))
	p.Image.Crop(image, start, 0)
	p.Seg.Crop(seg, start, -1)
	p.Image, p.Seg = image, seg
}

// TestBatchesAreThoseOfNnUNetForTheSameDraws replays the reference's random numbers.
func TestBatchesAreThoseOfNnUNetForTheSameDraws(t *testing.T) {
	replay(t, goldenDir)
}

// TestLiveBatchesAreThoseOfNnUNet replays cases and draws of another seed.
func TestLiveBatchesAreThoseOfNnUNet(t *testing.T) {
	golden.Python(t)
	dir, seed := t.TempDir(), 10000+rand.IntN(1_000_000)
	t.Logf("seed %d", seed)
	golden.Run(t, "loader.py", dir, strconv.Itoa(seed))
	replay(t, dir)
}

func replay(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "loader.json"))
	require.NoError(t, err)
	var g struct{ Cases []goldenCase }
	require.NoError(t, json.Unmarshal(data, &g))
	require.Greater(t, len(g.Cases), 150)
	for i, c := range g.Cases {
		d, labels := openIn(t, dir, c.Set)
		cfg := Config{Dataset: d, Keys: c.Keys, Labels: labels, BatchSize: c.Batch, Oversample: c.Oversample, Workers: 1}
		augmented(t, &cfg, "none", c.Final, c.Scales)
		var image []float32
		var seg []int16
		enlarged := !slices.Equal(c.Size, c.Final) // the reference's loader ran without transforms
		if enlarged {
			cfg.Augmentation.InitialPatchSize = c.Size
			cfg.Augmentation = inFront(cfg.Augmentation, change(func(p *augment.Patch) {
				image, seg = append(image, p.Image.Data...), append(seg, p.Seg.Data...)
				cut(p, [3]int{}, c.Final)
			}))
		}
		l, err := New(cfg)
		require.NoError(t, err)
		l.Close()
		image, seg = nil, nil
		rng := mt19937.New(c.Seed)
		for _, want := range c.Batches {
			picks, err := l.sampler.draw(func(int, string) source { return rng })
			require.NoError(t, err)
			for k, p := range picks {
				require.Equal(t, want.Keys[k], p.c.Key, "case %d", i)
				require.Equal(t, want.Starts[k], p.start[3-len(c.Size):], "case %d %+v", i, c)
			}
			w := &worker{Loader: l, channels: picks[0].c.Data.Shape[0]}
			b, err := l.newBatch(w.channels)
			require.NoError(t, err)
			require.NoError(t, w.fill(b, picks))
			if enlarged {
				require.Equal(t, want.Data, sum(image), "case %d", i)
				require.Equal(t, want.Targets, []uint32{sum(seg)}, "case %d", i)
				image, seg = nil, nil
				continue
			}
			require.Equal(t, want.DataShape, b.DataShape)
			require.Equal(t, want.Data, sum(b.Data), "case %d", i)
			require.Len(t, b.Targets, len(want.Targets))
			for level, got := range b.Targets {
				require.Equal(t, want.TargetShapes[level], got.Shape)
				require.Equal(t, want.Targets[level], sumTarget(got), "case %d level %d", i, level)
				require.Equal(t, want.TargetType == "bool", got.Masks != nil)
			}
		}
		require.Equal(t, c.After, rng.Uint32(), "case %d drew a different number of times", i)
	}
}

// TestTrajectoryBatchesAreFoundAgain searches the positions of the patches in the batches that
// nnU-Net's loader drew for testdata/phantom-mini/trajectory, and compares every array.
func TestTrajectoryBatchesAreFoundAgain(t *testing.T) {
	dir := "../../testdata/phantom-mini/trajectory"
	text, err := os.ReadFile(filepath.Join(dir, "batches.json"))
	require.NoError(t, err)
	var batches []struct{ Keys []string }
	require.NoError(t, json.Unmarshal(text, &batches))
	require.Len(t, batches, 4)

	d, labels := open(t, "target")
	p, err := plans.Load(targetSet + "/nnUNetPlansSource.json")
	require.NoError(t, err)
	c, err := p.Configuration("3d_phantom")
	require.NoError(t, err)
	fold, err := dataset.Fold(targetSet+"/splits_final.json", d.Keys(), "0")
	require.NoError(t, err)
	cfg := Config{Dataset: d, Keys: fold.Train, Labels: labels, BatchSize: c.BatchSize, Oversample: 0.33, Workers: 1}
	augmented(t, &cfg, "none", c.PatchSize, plans.DeepSupervisionScales([][]int{{1, 1, 1}, {1, 2, 2}, {2, 2, 2}, {2, 2, 2}}))
	l, err := New(cfg)
	require.NoError(t, err)
	l.Close()

	read := func(name string) *npz.Array {
		array, err := npz.OpenNpy(filepath.Join(dir, name))
		require.NoError(t, err)
		return array
	}
	for n, want := range batches {
		prefix := "batch_0" + string(rune('0'+n))
		data := read(prefix + "_data.npy")
		values, err := data.Float32s()
		require.NoError(t, err)
		picks := make([]pick, len(want.Keys))
		size := len(values) / len(want.Keys)
		for i, key := range want.Keys {
			require.Contains(t, fold.Train, key)
			cs, err := d.Load(key)
			require.NoError(t, err)
			start, found := locate(l, cs, values[i*size:][:size])
			require.True(t, found, "%s sample %d", prefix, i)
			picks[i] = pick{c: cs, start: start}
			if l.sampler.forced(i) {
				eligible := l.sampler.eligible(cs)
				require.True(t, slices.ContainsFunc(eligible[0].Voxels, func(v [3]int32) bool {
					shape := cs.Data.Spatial()
					return [3]int(l.sampler.around(v[:], shape[:])) == start
				}), "%s sample %d is not placed at a foreground voxel", prefix, i)
			}
		}
		b, err := l.newBatch(1)
		require.NoError(t, err)
		require.NoError(t, (&worker{Loader: l, channels: 1}).fill(b, picks))
		require.Equal(t, data.Shape, b.DataShape)
		require.Equal(t, values, b.Data)
		for level, got := range b.Targets {
			array := read(prefix + "_target_" + string(rune('0'+level)) + ".npy")
			labels, err := array.Int16s()
			require.NoError(t, err)
			require.Equal(t, array.Shape, got.Shape)
			require.Equal(t, labels, got.Labels)
		}
	}
}

func locate(l *Loader, c *dataset.Case, want []float32) ([3]int, bool) {
	patch := volume.New[float32](volume.ShapeOf(c.Data.Shape[0], l.cfg.PatchSize))
	shape := c.Data.Spatial()
	var lower [3]int
	for axis := range lower {
		lower[axis], _ = l.sampler.bounds(axis, shape[axis])
	}
	for z := lower[0]; z < shape[0]; z++ {
		for y := lower[1]; y < shape[1]; y++ {
			for x := lower[2]; x < shape[2]; x++ {
				middle := volume.New[float32]([4]int{c.Data.Shape[0], 1, 1, 4}) // compare four voxels first, which is cheap
				c.Data.Crop(middle, [3]int{z + 8, y + 24, x + 24}, 0)
				at := (8*48+24)*48 + 24
				if !slices.Equal(middle.Data, want[at:at+4]) {
					continue
				}
				c.Data.Crop(patch, [3]int{z, y, x}, 0)
				if slices.Equal(patch.Data, want) {
					return [3]int{z, y, x}, true
				}
			}
		}
	}
	return [3]int{}, false
}

func TestForcedSamplesFollowTheReference(t *testing.T) {
	// nnU-Net's table: forced samples for batch sizes 1 to 12 at 0.33
	for i, want := range []int{0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4} {
		s := &sampler{batchSize: i + 1, oversample: 0.33}
		forced := 0
		for k := range s.batchSize {
			if s.forced(k) {
				forced++
			}
		}
		require.Equal(t, want, forced, "batch size %d", i+1)
	}
}

func TestPositionsStayWithinBounds(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 5000 {
		n, final, pad := 1+rng.IntN(20), 1+rng.IntN(20), rng.IntN(9)
		s := &sampler{size: []int{final + pad}, needToPad: []int{pad}}
		lower, upper := s.bounds(0, n)
		require.LessOrEqual(t, lower, upper, "seed %d", seed)
		require.LessOrEqual(t, lower, 0)
		at := s.anywhere(rng, []int{n})[0]
		require.True(t, at >= lower && at <= upper)
		voxel := rng.IntN(n)
		at = s.around([]int32{int32(voxel)}, []int{n})[0]
		require.True(t, at >= lower && at <= voxel && voxel < at+s.size[0], "the voxel is in the patch; seed %d", seed)
		require.LessOrEqual(t, math.Abs(float64(lower+upper-(n-s.size[0]))), 1.0, "bounds are symmetric")
	}
}
