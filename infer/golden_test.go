package infer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

func TestStepsAreTheReferences(t *testing.T) {
	var file struct {
		Steps []struct {
			Image, Tile []int
			StepSize    float64 `json:"step_size"`
			Steps       [][]int
		}
	}
	golden.LoadJSON(t, "sliding_window/maps.json", &file)
	require.NotEmpty(t, file.Steps)
	for _, c := range file.Steps {
		for i := range c.Image {
			require.Equal(t, c.Steps[i], steps(c.Image[i], c.Tile[i], c.StepSize),
				"image %v tile %v step %v axis %d", c.Image, c.Tile, c.StepSize, i)
		}
	}
	require.Equal(t, []int{0, 23, 46}, steps(110, 64, 0.5))
	require.Equal(t, []int{0, 1}, steps(129, 128, 0.5))
	require.Equal(t, []int{0, 47, 94, 141, 188}, steps(300, 112, 0.5))
	require.Equal(t, []int{0, 32, 65}, steps(145, 80, 0.5))
}

// The weight map is rounded to float16, so it is bit-equal to the reference's on every machine.
func TestWeightMapsAreTheReferences(t *testing.T) {
	needTorch(t)
	var file struct {
		Maps []struct {
			Tile   []int
			SHA256 string
		}
	}
	golden.LoadJSON(t, "sliding_window/maps.json", &file)
	require.NotEmpty(t, file.Maps)
	for _, m := range file.Maps {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			w, err := weightMap(s, m.Tile, true, torch.Float16, torch.CPU)
			require.NoError(t, err)
			raw := make([]byte, 2*w.Numel())
			require.NoError(t, w.CopyBytesOut(raw))
			require.Equal(t, m.SHA256, hash(raw), "tile %v", m.Tile)
			widened, err := weightMap(s, m.Tile, true, torch.Float32, torch.CPU)
			require.NoError(t, err)
			same, err := torch.Equal(s.To(w, torch.Float32, torch.CPU), widened)
			require.True(t, same, "float32 map of tile %v", m.Tile)
			return err
		}))
	}
}

func hash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// The bits agree on the CPU that wrote the golden files. Elsewhere kernels round differently, and
// the float16 sums round logits at the corners of the image to whole numbers.
func TestLogitsAreTheReferences(t *testing.T) {
	needTorch(t)
	var file struct {
		Input string
		Cases []struct {
			Name           string
			Crop           []int
			Source         json.RawMessage
			Padded         []int `json:"padded_shape"`
			Patch          []int `json:"patch_size"`
			Tiles          int
			Mirror         []int `json:"mirror_axes"`
			Accumulate     string
			SHA256         string
			Middle, Corner [][2]int
			Labels         []int
		}
	}
	golden.LoadJSON(t, "sliding_window/predictions.json", &file)
	require.NotEmpty(t, file.Cases)
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			if testing.Short() && c.Crop == nil {
				t.Skip("the whole case takes a while")
			}
			s := scope(t)
			var net models.Network
			classes := 2
			if string(c.Source) == `"foundation"` {
				var patch []int
				net, patch, _ = foundationNetwork(t, s)
				require.Equal(t, c.Patch, patch)
			} else {
				var source struct{ Spec json.RawMessage }
				require.NoError(t, json.Unmarshal(c.Source, &source))
				net, _, classes = specNetwork(t, s, source.Spec)
			}
			image, shape := phantomCase(t, file.Input, c.Crop)
			numerics := Reference
			if c.Accumulate == "float32" {
				numerics = Fast
			}
			cfg := config(numerics, c.Mirror)
			g := newGrid(c.Patch, shape, cfg.TileStep)
			require.Len(t, g.tiles, c.Tiles)
			require.Equal(t, c.Padded[1:], g.padded[:])

			raw, values, size := run(t, net, c.Patch, classes, cfg, image, shape)
			require.Equal(t, []int64{int64(classes), int64(shape[1]), int64(shape[2]),
				int64(shape[3])}, size)
			t.Logf("same bits as the golden file: %v", hash(raw) == c.SHA256)
			f := golden.Load(t, "sliding_window/"+c.Name+".npz")
			for name, part := range map[string]struct {
				box [][2]int
				tol golden.Tolerance
			}{
				"middle": {c.Middle, golden.Tolerance{Abs: 1e-4, Rel: 1. / 512}}, // two steps of float16
				"corner": {c.Corner, golden.Tolerance{Abs: 1}},                   // rounding at the corners
			} {
				if numerics == Fast {
					part.tol = golden.Tolerance{Abs: 1e-4}
				}
				want, wantValues := golden.Float32s(t, f, name)
				var start, end [3]int
				for i, b := range part.box {
					start[i], end[i] = b[0], min(b[1], shape[i+1]) // slices end as in Python
				}
				got := cut(values, [4]int{classes, shape[1], shape[2], shape[3]}, start, end)
				d := golden.Compare(want, wantValues, got, part.tol)
				require.LessOrEqual(t, d.Excess, 1.0, "%s: %v", name, d)
			}
			different := 0
			for class, n := range argmaxCounts(values, classes) {
				different += max(n-c.Labels[class], c.Labels[class]-n)
			}
			require.LessOrEqual(t, different, len(image)/1000, "labels: want %v, got %v", c.Labels,
				argmaxCounts(values, classes))
		})
	}
}

func argmaxCounts(logits []float32, classes int) []int {
	counts := make([]int, classes)
	n := len(logits) / classes
	for i := range n {
		best := 0
		for c := range classes {
			if logits[c*n+i] > logits[best*n+i] {
				best = c
			}
		}
		counts[best]++
	}
	return counts
}

func TestLiveLogitsAreBitEqualToNNUNet(t *testing.T) {
	needTorch(t)
	python := golden.Python(t)
	require.NotEmpty(t, python)
	input := "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.npz"
	type live struct {
		name       string
		spec       string // of testdata/golden/network; empty: the foundation network
		shape      [4]int // of a generated image; zero: the case above
		patch      []int
		crop       []int
		mirror     []int // nil: none
		noGaussian bool
		step       float64
		float32    bool
		folds      int // 0: one
	}
	list := []live{
		{name: "whole case", step: 0.5},
		{name: "mirrored", crop: []int{24, 60, 64}, mirror: []int{0, 1, 2}, step: 0.5},
		{name: "smaller than the patch", crop: []int{11, 60, 47}, mirror: []int{0, 1, 2},
			step: 0.5},
		{name: "smaller on every axis", crop: []int{15, 31, 47}, step: 0.5},
		{name: "no weights, other step", crop: []int{20, 60, 60}, noGaussian: true, step: 0.37},
		{name: "2d", spec: "resenc-2d", patch: []int{24, 16}, crop: []int{3, 40, 30},
			mirror: []int{0, 1}, step: 0.5},
		{name: "2d padded, one axis mirrored", spec: "plain-2d", patch: []int{32, 32},
			crop: []int{2, 20, 50}, mirror: []int{1}, step: 0.5},
		{name: "several channels", spec: "plain-channels", shape: [4]int{0, 20, 24, 28},
			patch: []int{16, 16, 16}, mirror: []int{0, 2}, step: 0.5},
		{name: "five folds", spec: "plain-channels", shape: [4]int{0, 20, 24, 28},
			patch: []int{16, 16, 16}, mirror: []int{1}, step: 0.5, folds: 5},
		{name: "five folds in 2d, other step", spec: "resenc-2d", patch: []int{24, 16},
			crop: []int{3, 40, 30}, step: 1, folds: 5},
		{name: "float32 sums", crop: []int{24, 60, 64}, mirror: []int{0, 1, 2}, step: 0.5,
			float32: true},
		{name: "float32 sums, odd number of passes", crop: []int{32, 48, 82}, step: 0.5,
			float32: true},
	}
	var runs [][]string
	var checks []func(t *testing.T)
	for _, c := range list {
		args, check := liveCase(t, input, c.spec, c.shape, c.patch, c.crop, c.mirror, c.noGaussian,
			c.step, c.float32, max(c.folds, 1))
		runs, checks = append(runs, args), append(checks, check)
	}
	golden.RunAll(t, "sliding_window.py", runs...)
	for i, c := range list {
		t.Run(c.name, checks[i])
	}
}

// liveCase returns the arguments of sliding_window.py for a case, and the comparison with what it
// then writes.
func liveCase(t *testing.T, input, spec string, shape [4]int, patch, crop, mirror []int,
	noGaussian bool, step float64, wide32 bool, folds int) (args []string, check func(*testing.T)) {
	s := scope(t)
	out := t.TempDir() + "/out.npz"
	args = []string{"--out", out, "--step-size", number(step)}
	nets := make([]models.Network, folds)
	classes := 2
	if spec == "" {
		nets[0], patch, _ = foundationNetwork(t, s)
		args = append(args, "--model-folder", foundation)
	} else {
		var channels int
		for fold := range nets {
			nets[fold], channels, classes = specNetwork(t, s, readSpec(t, spec))
			require.NoError(t, torch.NoGrad(func() error {
				for _, p := range nets[fold].Module().Parameters() {
					s.MulScalar_(p.T, 1-float64(fold)/8)
				}
				return s.Err()
			}))
		}
		args = append(args, "--folds", strconv.Itoa(folds))
		if shape != [4]int{} {
			shape[0] = channels
		}
		args = append(args, "--spec", golden.Path(t, "network/"+spec+".json"), "--patch-size")
		args = append(args, numbers(patch)...)
		if mirror != nil {
			args = append(append(args, "--mirror-axes"), numbers(mirror)...)
		}
	}
	var image []float32
	if shape != [4]int{} {
		image = hashImage(shape)
		input = t.TempDir() + "/image.npy"
		writeNpy(t, input, image, shape)
	} else {
		image, shape = phantomCase(t, input, crop)
		if crop != nil {
			args = append(append(args, "--crop"), numbers(crop)...)
		}
	}
	args = append(args, "--input", input)
	if mirror == nil {
		args = append(args, "--no-mirroring")
	}
	if noGaussian {
		args = append(args, "--no-gaussian")
	}
	if wide32 {
		args = append(args, "--accumulate", "float32")
	}
	return args, func(t *testing.T) {
		compareLive(t, out, nets, patch, classes, mirror, noGaussian, step, wide32, image, shape)
	}
}

func compareLive(t *testing.T, out string, nets []models.Network, patch []int, classes int,
	mirror []int, noGaussian bool, step float64, wide32 bool, image []float32, shape [4]int) {
	net := nets[0]
	var described struct {
		Tiles  int
		SHA256 string
		Padded []int `json:"padded_shape"`
	}
	readJSON(t, strings.TrimSuffix(out, ".npz")+".json", &described)
	want := readFloats(t, out, "logits")

	cfg := config(Reference, mirror)
	cfg.TileStep, cfg.Gaussian = step, !noGaussian
	g := newGrid(patch, shape, step)
	require.Len(t, g.tiles, described.Tiles)
	require.Equal(t, described.Padded[1:], g.padded[:])
	if len(nets) > 1 {
		p, err := NewEnsemble(len(nets), func(i int) (models.Network, error) { return nets[i], nil },
			patch, classes, cfg)
		require.NoError(t, err)
		got := newPlace(classes, shape)
		require.NoError(t, p.Slabs(context.Background(), image, shape, nil,
			func(s volume.Slab) error { got.add(t, s); return nil }))
		golden.Equal(t, "logits", got.shape, want, got.data)
		return
	}
	if !wide32 {
		raw, values, size := run(t, net, patch, classes, cfg, image, shape)
		golden.Equal(t, "logits", ints(size), want, values)
		require.Equal(t, described.SHA256, hash(raw))
		return
	}
	cfg.Numerics = Fast
	for _, batch := range []int{1, 2, 3, 5} {
		cfg.BatchTiles = batch
		_, values, size := run(t, net, patch, classes, cfg, image, shape)
		d := golden.Compare(ints(size), want, values, golden.Tolerance{Abs: 1e-4})
		t.Logf("batch %d: %v", batch, d)
		require.LessOrEqual(t, d.Excess, 1.0, "batch %d: %v", batch, d)
	}
}
