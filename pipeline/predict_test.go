package pipeline

import (
	"bytes"
	"context"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// A device that has no room for the network hands over to the CPU, and says so; the segmentation is
// the one of the CPU.
func TestPredictHandsOverToTheCPU(t *testing.T) {
	torchtest.Require(t)
	out := t.TempDir()
	c := settings.New[PredictConfig]()
	c.Input, c.Output = []string{repo(t, "testdata/phantom-mini/raw/"+target+"/imagesTs/LN_004_0000.nii.gz")}, out
	c.Model, c.NoMirror, c.DeviceName = repo(t, foundation), true, "cpu"
	model, err := c.ModelChoice.open()
	require.NoError(t, err)
	defer model.close()
	var log bytes.Buffer
	s := &segmenter{PredictConfig: c, out: Output{Log: &log}, model: model}
	require.NoError(t, s.prepare())
	require.NoError(t, s.out.resolve(&s.Machine))
	require.NoError(t, s.setWindow())
	s.window.Device, s.window.Autocast = torch.Device{Type: torch.DeviceCUDA, Index: 63}, torch.Float16
	s.forecastCases()
	require.NoError(t, s.run(context.Background()))
	require.Contains(t, log.String(), "WARNING: cuda:63 has no room for the network (")
	require.Contains(t, log.String(), "): continuing with the CPU")
	require.Equal(t, PredictionOK, s.records[0].Status)
	// nnU-Net finds 902 voxels in 37 pieces.
	require.Equal(t, int64(902), s.records[0].Labels["1"].Voxels)
	require.FileExists(t, filepath.Join(out, "LN_004.nii.gz"))
}

// The time left is the forecast of what is left, by the pace so far.
func TestTimeLeftFollowsThePace(t *testing.T) {
	r := remaining{forecasts: []*CaseForecast{{Seconds: 100}, nil, {Seconds: 300}}}
	require.Equal(t, "case 1 of 3", r.note(0, 0))
	r.started = time.Now().Add(-100 * time.Second) // half of the first case took twice its forecast
	require.Equal(t, "case 1 of 3, about 12 min left", r.note(0, 0.5))
	r.end(0)
	r.started = time.Now().Add(-40 * time.Second)
	require.Equal(t, "case 3 of 3, about 2 min left", r.note(2, 0))
	require.Equal(t, "case 3 of 3, about 1 s left", r.note(2, 1))
	for seconds, want := range map[float64]string{0.2: "1 s", 45: "45 s", 120: "2 min", 7200: "2.0 h"} {
		require.Equal(t, want, roughly(seconds))
	}
}

// A box is air only if no voxel of it, or near it, is above -900 HU; where the axes are transposed
// and the image is cropped, too.
func TestAirIsJudgedByTheImage(t *testing.T) {
	im := &volume.Image{Shape: [4]int{1, 30, 40, 50}}
	pixels := make(volume.Slice[float32], 30*40*50)
	for i := range pixels {
		pixels[i] = -1000
	}
	at := func(z, y, x int) int { return (z*40+y)*50 + x }
	pixels[at(12, 20, 30)] = -900 // not below
	pixels[at(29, 0, 0)] = float32(math.NaN())
	pixels[at(0, 39, 49)] = -900.5
	im.Pixels = pixels
	m := newAirMap(im)
	// The case has the axes (y, z, x), twice as fine; y from 4 on.
	g := &preprocess.Grid{Transpose: [3]int{1, 0, 2}, Shape: [3]int{72, 60, 100}, Whole: [3]int{40, 30, 50},
		Box: [3][2]int{{4, 40}, {0, 30}, {0, 50}}}
	require.True(t, m.in(g, [3][2]int{{60, 72}, {0, 12}, {80, 100}}), "only -900.5")
	require.False(t, m.in(g, [3][2]int{{32, 34}, {24, 26}, {60, 62}}), "the voxel at (12, 20, 30)")
	require.True(t, m.in(g, [3][2]int{{32, 34}, {24, 26}, {0, 24}}))
	require.False(t, m.in(g, [3][2]int{{0, 72}, {0, 60}, {0, 100}}))
	require.False(t, m.in(g, [3][2]int{{0, 2}, {58, 60}, {0, 2}}), "NaN is not air")
	// Resampling reaches two voxels beyond: x from 32 on in a cube that begins there.
	pixels[at(12, 20, 30)], pixels[at(12, 20, 32)] = -1000, 0
	m = newAirMap(im)
	require.True(t, m.in(g, [3][2]int{{32, 34}, {24, 26}, {40, 60}}), "up to x = 30, and two more")
	require.False(t, m.in(g, [3][2]int{{32, 34}, {24, 26}, {40, 62}}))
}
