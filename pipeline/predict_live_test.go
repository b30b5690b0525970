package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/volume"
)

// livePrediction is a case of scripts/golden/prediction.py.
type livePrediction struct {
	Name, Model, Images, Previous string
	Folds                         []string
	StepSize                      float64 `json:"step_size"`
	Mirroring                     bool
	Probabilities                 bool
	Trained, Regions              bool
	Reader, Ending                string
}

// config predicts the case into a folder, with the two threads of the script.
func (c *livePrediction) config(out string, numerics machine.Numerics) PredictConfig {
	p := settings.New[PredictConfig]()
	p.Input, p.Output, p.Model, p.Folds = []string{c.Images}, out, c.Model, c.Folds
	p.StepSize, p.NoMirror, p.Probabilities = c.StepSize, !c.Mirroring, c.Probabilities
	p.Previous, p.DeviceName, p.Threads, p.Numerics = c.Previous, "cpu", 2, numerics
	return p
}

// A segmented is what a prediction says of one image.
type segmented struct {
	shape         []int // (heads, z, y, x)
	labels        []int32
	probabilities []float32 // nil if they were not written
}

// readTruth reads the .npz of scripts/golden/prediction.py, which has labels and probabilities.
func readTruth(t *testing.T, path string) (s segmented) {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("labels")
	require.NoError(t, err)
	s.labels, err = a.Int32s()
	require.NoError(t, err)
	s.shape, s.probabilities = golden.Float32s(t, f, "probabilities")
	return s
}

// readSegmented reads a segmentation and the probabilities beside it, if there are any.
func readSegmented(t *testing.T, c *livePrediction, folder, name string) (s segmented,
	im *volume.Image, geometry *images.Properties) {
	t.Helper()
	reader, err := images.ForName(c.Reader)
	require.NoError(t, err)
	im, geometry, err = reader.ReadSeg(filepath.Join(folder, name))
	require.NoError(t, err)
	s.labels = volume.Cast[int32](im.Pixels)
	if !c.Probabilities {
		return s, im, geometry
	}
	f, err := npz.OpenNpz(filepath.Join(folder, strings.TrimSuffix(name, c.Ending)+".npz"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []string{"probabilities"}, f.Names())
	s.shape, s.probabilities = golden.Float32s(t, f, "probabilities")
	return s, im, geometry
}

// different counts the voxels that have another label.
func different(a, b []int32) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// margin is how far a voxel's probabilities are from a decision for the given label: what the
// label's falls short of the best one, or for regions the least distance of one from 0.5.
func (s *segmented) margin(voxel int, label int32, regions bool) float64 {
	n := len(s.labels)
	if !regions {
		best := float32(0)
		for h := range s.shape[0] {
			best = max(best, s.probabilities[h*n+voxel])
		}
		return float64(best - s.probabilities[int(label)*n+voxel])
	}
	least := math.Inf(1)
	for h := range s.shape[0] {
		least = min(least, math.Abs(float64(s.probabilities[h*n+voxel])-0.5))
	}
	return least
}

// decided says that a voxel's probabilities are 1 for the first head, if they are not of regions,
// and else 0, as they are outside the crop.
func (s *segmented) decided(voxel int, regions bool) bool {
	n := len(s.labels)
	for h := range s.shape[0] {
		want := float32(0)
		if h == 0 && !regions {
			want = 1
		}
		if s.probabilities[h*n+voxel] != want {
			return false
		}
	}
	return true
}

// Predictions of whole images are nnU-Net's: with numerics fast those of nnU-Net's own code with
// float32 for its two float16 accumulators (truth), with numerics reference its own. Labels of the
// former may differ only where truth itself is all but undecided.
func TestLivePredictionsAreNnUNets(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	golden.Run(t, "prediction.py", "--out", root)
	text, err := os.ReadFile(filepath.Join(root, "cases.json"))
	require.NoError(t, err)
	var list []livePrediction
	require.NoError(t, json.Unmarshal(text, &list))
	require.Greater(t, len(list), 15)
	var bits share
	var seen coverage
	strips := map[string]float64{"five": 0.25, "regions": 0.25, "folds": 0.5, "slabs": 32} // MB
	for _, c := range list {
		for _, numerics := range []machine.Numerics{machine.Fast, machine.Reference} {
			t.Run(fmt.Sprintf("%s, %s", c.Name, numerics), func(t *testing.T) {
				out := filepath.Join(root, c.Name, string(numerics))
				require.NoError(t, Predict(context.Background(), c.config(out, numerics), Output{},
					nil))
				comparePrediction(t, &c, filepath.Join(root, c.Name), numerics, &bits, &seen)
				if mb := strips[c.Name]; mb > 0 {
					requireSame(t, &c, numerics, out, mb)
				}
			})
		}
	}
	t.Logf("%d of %d probabilities are not nnU-Net's bits", bits.other, bits.values)
	require.LessOrEqual(t, bits.other, bits.values/1000)
	require.Greater(t, seen.outside, 10000)
	require.Greater(t, seen.rounded, 1000, "truth is not what stock nnU-Net makes")
	if !t.Failed() {
		golden.Run(t, "prediction.py", "--read", root)
	}
}

// share counts the probabilities whose bits are not nnU-Net's.
type share struct{ other, values int }

// coverage counts what the cases hold: voxels outside the crop, and voxels to which stock nnU-Net's
// float16 accumulators give another label.
type coverage struct{ outside, rounded int }

// comparePrediction compares the folder of a case with nnU-Net's.
func comparePrediction(t *testing.T, c *livePrediction, folder string, numerics machine.Numerics,
	bits *share, seen *coverage) {
	stock, ours := filepath.Join(folder, "stock"), filepath.Join(folder, string(numerics))
	require.ElementsMatch(t, append(names(t, stock), "run.json"), names(t, ours))
	for _, name := range []string{"dataset.json", "plans.json"} {
		want, err := os.ReadFile(filepath.Join(stock, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(ours, name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), name)
	}
	count := 0
	for _, name := range names(t, stock) {
		if !strings.HasSuffix(name, c.Ending) {
			continue
		}
		count++
		truth := readTruth(t, filepath.Join(folder, "truth",
			strings.TrimSuffix(name, c.Ending)+".npz"))
		want, wantImage, geometry := readSegmented(t, c, stock, name)
		got, image, own := readSegmented(t, c, ours, name)
		require.Equal(t, geometry, own, "geometry of %s", name)
		require.Equal(t, wantImage.Shape, image.Shape)
		require.Equal(t, wantImage.Pixels.Type(), image.Pixels.Type())
		require.Equal(t, truth.shape[1:], image.Shape[1:])
		if numerics == machine.Fast {
			compareTruth(t, c, name, &truth, &want, &got, seen)
		} else {
			compareStock(t, c, name, &want, &got, bits)
		}
	}
	require.Positive(t, count)
}

func names(t *testing.T, folder string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func compareTruth(t *testing.T, c *livePrediction, name string, truth, stock, got *segmented,
	seen *coverage) {
	tol := golden.Tolerances["prediction"]
	if c.Probabilities {
		require.Equal(t, truth.shape, got.shape)
		d := golden.Compare(truth.shape, truth.probabilities, got.probabilities, tol)
		t.Logf("%s: probabilities against truth: %v", name, d)
		require.LessOrEqual(t, d.Excess, 1.0, "%s: %v", name, d)
	}
	undecided := 0.0
	seen.rounded += different(stock.labels, truth.labels)
	for i, label := range got.labels {
		if !c.Trained && c.Probabilities && truth.decided(i, c.Regions) {
			seen.outside++
			require.True(t, got.decided(i, c.Regions), "%s: voxel %d, outside the crop", name, i)
		}
		if label != truth.labels[i] {
			undecided = max(undecided, truth.margin(i, label, c.Regions))
		}
	}
	t.Logf("%s: of %d labels %d differ from truth's, at most %.3g from a decision; stock nnU-Net's "+
		"%d from truth's, ours %d from stock's", name, len(got.labels),
		different(got.labels, truth.labels), undecided, different(stock.labels, truth.labels),
		different(got.labels, stock.labels))
	require.LessOrEqual(t, undecided, 4*tol.Abs, "%s: a label differs where truth is decided", name)
	if c.Trained {
		require.LessOrEqual(t, different(got.labels, stock.labels), len(got.labels)/10000, name)
	}
}

// libtorch's softmax takes its last voxels, fewer than a vector has, for each thread one by one, with
// another exponential: in a small image they are more than one value in a thousand.
const softmaxTails = 2 * 15

func compareStock(t *testing.T, c *livePrediction, name string, want, got *segmented, bits *share) {
	if c.Probabilities {
		require.Equal(t, want.shape, got.shape)
		d := golden.Compare(want.shape, want.probabilities, got.probabilities,
			golden.Tolerances["prediction-reference"])
		t.Logf("%s: probabilities against nnU-Net's, %d in all: %v", name, len(want.probabilities), d)
		require.LessOrEqual(t, d.Count, len(want.probabilities)/1000+softmaxTails*want.shape[0],
			"%s: %v", name, d)
		bits.other += d.Count
		bits.values += len(want.probabilities)
		require.LessOrEqual(t, d.Excess, 1.0, "%s: %v", name, d)
	}
	n := different(want.labels, got.labels)
	t.Logf("%s: %d of %d labels differ from nnU-Net's", name, n, len(want.labels))
	require.Zero(t, n, name)
}
