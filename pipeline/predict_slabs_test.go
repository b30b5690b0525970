package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
)

// Whole predictions with little memory, so that planes are cut into strips, with one thread and
// without probabilities are those made without such limits.
func TestPredictionsDoNotDependOnMemoryOrThreads(t *testing.T) {
	torchtest.Require(t)
	c := livePrediction{Model: repo(t, foundation), Folds: []string{"0"}, StepSize: 0.5,
		Probabilities: true, Trained: true, Reader: "SimpleITKIO", Ending: ".nii.gz",
		Images: filepath.Join(t.TempDir(), "images")}
	require.NoError(t, os.Mkdir(c.Images, 0o777))
	name := "LN_004_0000.nii.gz"
	require.NoError(t, os.Symlink(repo(t, "testdata/phantom-mini/raw/"+target+"/imagesTs/"+name),
		filepath.Join(c.Images, name)))
	for _, numerics := range []machine.Numerics{machine.Fast, machine.Reference} {
		out := filepath.Join(t.TempDir(), "out")
		require.NoError(t, Predict(context.Background(), c.config(out, numerics), Output{}, nil))
		requireSame(t, &c, numerics, out, 2)
	}
}

// requireSame predicts a case with maxRAM MB, which cuts planes into strips, then with one thread,
// then without probabilities, and compares with the prediction in the folder want.
//
// Slabs and strips do not change a bit with numerics reference. Numerics fast runs two tiles at a
// time, and other strips have other pairs: libtorch's convolutions round a pair otherwise than a
// single tile. For one and two threads they round differently, too.
func requireSame(t *testing.T, c *livePrediction, numerics machine.Numerics, want string,
	maxRAM float64) {
	t.Helper()
	var whole, strips int
	count := func(tiles *int) func(Prediction) error {
		return func(p Prediction) error { *tiles += p.Tiles; return nil }
	}
	predict := func(p PredictConfig, done func(Prediction) error) string {
		p.Output = filepath.Join(t.TempDir(), "out")
		require.NoError(t, Predict(context.Background(), p, Output{}, done))
		return p.Output
	}
	narrow := c.config("", numerics)
	narrow.MaxRAM = maxRAM / 1024
	single := c.config("", numerics)
	single.Threads = 1
	cut, one := predict(narrow, count(&strips)), predict(single, count(&whole))
	require.Greater(t, strips, whole, "tiles at the borders of strips are computed twice")
	plain := c.config("", numerics)
	plain.Probabilities = false
	labels := predict(plain, nil)

	compared := 0
	without := *c
	without.Probabilities = false
	for _, name := range names(t, want) {
		if !strings.HasSuffix(name, c.Ending) {
			continue
		}
		compared++
		first, _, _ := readSegmented(t, c, want, name)
		for _, folder := range []string{cut, one} {
			other, _, _ := readSegmented(t, c, folder, name)
			require.Zero(t, different(first.labels, other.labels), name)
			if !c.Probabilities {
				continue
			}
			tol := golden.Tolerances["prediction"]
			switch {
			case numerics == machine.Reference && folder == cut:
				tol = golden.Tolerance{}
			case numerics == machine.Reference:
				tol = golden.Tolerances["prediction-threads"]
			}
			d := golden.Compare(first.shape, first.probabilities, other.probabilities, tol)
			t.Logf("%s, %s, strips %v: %v", name, numerics, folder == cut, d)
			require.LessOrEqual(t, d.Excess, 1.0, "%s: %v", name, d)
		}
		other, _, _ := readSegmented(t, &without, labels, name)
		require.Zero(t, different(first.labels, other.labels), "%s without probabilities", name)
	}
	require.Positive(t, compared)
}
