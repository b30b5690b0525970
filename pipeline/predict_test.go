package pipeline

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// absent is a GPU that no machine has.
var absent = torch.Device{Type: torch.DeviceCUDA, Index: 63}

// segmentation prepares to segment phantom-mini's first scan on the CPU.
func segmentation(t *testing.T, log *bytes.Buffer) *segmenter {
	t.Helper()
	c := settings.New[PredictConfig]()
	c.Input = []string{repo(t, "testdata/phantom-mini/raw/"+target+"/imagesTs/LN_004_0000.nii.gz")}
	c.Output, c.Model, c.NoMirror, c.DeviceName = t.TempDir(), repo(t, foundation), true, "cpu"
	model, err := c.ModelChoice.open()
	require.NoError(t, err)
	t.Cleanup(model.close)
	s := &segmenter{PredictConfig: c, out: Output{Log: log}, model: model}
	require.NoError(t, s.prepare())
	require.NoError(t, s.out.resolve(&s.Machine))
	s.setWindow()
	require.NoError(t, s.forecastCases(t.Context()))
	return s
}

// requireNnUNets checks the case of segmentation: nnU-Net finds 902 voxels.
func requireNnUNets(t *testing.T, s *segmenter) {
	t.Helper()
	require.Equal(t, PredictionOK, s.records[0].Status)
	require.Equal(t, int64(902), s.records[0].Labels["1"].Voxels)
	require.FileExists(t, filepath.Join(s.Output, "LN_004.nii.gz"))
}

// A device that has no room for the network hands over to the CPU, and says so; the segmentation is
// the one of the CPU.
func TestPredictHandsOverToTheCPU(t *testing.T) {
	torchtest.Require(t)
	var log bytes.Buffer
	s := segmentation(t, &log)
	s.window.Device, s.window.Autocast = absent, torch.Float16
	s.limit, s.window.MaxBytes = 0, 1 // as where other programs fill the GPU
	require.NoError(t, s.forecastCases(t.Context()))
	require.Nil(t, s.forecasts[0])
	require.NoError(t, s.run(context.Background()))
	require.Contains(t, log.String(), "WARNING: cuda:63 has no room for the network (")
	require.Contains(t, log.String(), "): continuing with the CPU")
	require.Contains(t, log.String(), "forecast: 1 case, ")
	require.NotNil(t, s.records[0].Forecast)
	requireNnUNets(t, s)
}

// So does one that has room for the network, but not for a tile: the networks are built once more.
func TestPredictHandsOverDuringACase(t *testing.T) {
	torchtest.Require(t)
	var log bytes.Buffer
	s := segmentation(t, &log)
	ctx := context.Background()
	s.records = []Prediction{{Case: "LN_004"}}
	s.left = remaining{forecasts: s.forecasts}
	require.NoError(t, s.onDevice(ctx, func() error {
		w := s.window
		w.Device, w.Autocast = absent, torch.Float16
		built := 0
		w.OnCPU = func() (fold, int64, error) {
			built++
			return s.window.OnCPU()
		}
		network, _, err := s.window.OnCPU()
		require.NoError(t, err)
		s.predict, err = s.model.predictor(network, w)
		require.NoError(t, err)
		p := s.prepareCase(ctx, 0)
		require.NoError(t, s.segment(ctx, p))
		s.end(ctx, 0, s.write(ctx, p))
		require.Equal(t, 1, built)
		return nil
	}))
	for _, step := range []string{"one tile at a time instead of 2", "sums in the computer's memory",
		"the CPU, for this image and all later ones"} {
		require.Regexp(t, `WARNING: cuda:63 failed \(.*\): continuing with `+step, log.String())
	}
	requireNnUNets(t, s)
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

// An image that --reorient turns is warned of and resampled by the spacings of the axes that the network
// sees: slices of 12 mm stay the axis that is resampled apart.
func TestReorientTurnsTheSpacing(t *testing.T) {
	torchtest.Require(t)
	var log bytes.Buffer
	s := segmentation(t, &log)
	f, err := image.Read(s.cases[0].images[0])
	require.NoError(t, err)
	size, stored := f.Head().Size, volume.Cast[int16](f.Values())
	folder := t.TempDir()
	straight, turned := filepath.Join(folder, "straight.nii.gz"), filepath.Join(folder, "turned.nii.gz")
	g := &volume.ITK{Spacing: []float64{1.75, 1.75, 12}, Origin: make([]float64, 3),
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	require.NoError(t, image.Write(straight, size, g, volume.Slice[int16](stored), 1))
	zyx := make(volume.Slice[int16], len(stored)) // x and z exchanged: SPL
	for z := range size[2] {
		for y := range size[1] {
			for x := range size[0] {
				zyx[(x*size[1]+y)*size[2]+z] = stored[(z*size[1]+y)*size[0]+x]
			}
		}
	}
	g.Spacing, g.Direction = []float64{12, 1.75, 1.75}, []float64{0, 0, 1, 0, 1, 0, 1, 0, 0}
	require.NoError(t, image.Write(turned, []int{size[2], size[1], size[0]}, g, zyx, 1))

	s.orientation = "LPS"
	s.cases = []imageCase{{id: "straight", images: []string{straight}}, {id: "turned", images: []string{turned}}}
	s.records = make([]Prediction, 2)
	var cases []*preparedCase
	for i := range s.cases {
		p := &preparedCase{imageCase: s.cases[i], index: i, record: &s.records[i]}
		require.NoError(t, s.load(t.Context(), p))
		cases = append(cases, p)
	}
	require.Equal(t, "SPL", s.records[1].Orientation)
	require.Equal(t, "LPS", s.records[1].TurnedTo)
	require.Equal(t, cases[0].grid, cases[1].grid)
	require.Equal(t, cases[0].data, cases[1].data)
	require.Equal(t, []string{"the spacing along z is 12 mm, the model was trained with 2.5 to 2.5 mm"}, s.records[0].Warnings)
	require.Equal(t, s.records[0].Warnings, s.records[1].Warnings)
}

// Files are channels of one case if each has a number, whatever their order.
func TestNamedFilesAreChannelsByNumber(t *testing.T) {
	cases, err := namedImages([]string{"in/x_0001.nii.gz", "in/x_0000.nii.gz", "y.nii.gz"})
	require.NoError(t, err)
	require.Equal(t, []imageCase{{id: "x", images: []string{"in/x_0000.nii.gz", "in/x_0001.nii.gz"}},
		{id: "y", images: []string{"y.nii.gz"}}}, cases)
	for _, pair := range [][]string{{"x.nii.gz", "x_0000.nii.gz"}, {"x_0000.nii.gz", "x.nii.gz"},
		{"a/x_0000.nii.gz", "b/x_0001.nii.gz"}, {"x_0000.nii.gz", "x_0001.nii"}} {
		_, err := namedImages(pair)
		require.ErrorContains(t, err, pair[0]+" and "+pair[1]+" are both of a case named x: give them in two runs")
	}
	_, err = namedImages([]string{"x_0002.nii.gz", "x_0000.nii.gz"})
	require.ErrorContains(t, err, "channel 1 of x is missing: expected x_0001.nii.gz before x_0002.nii.gz")
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll("a/CT", 0o700))
	require.NoError(t, os.MkdirAll("b/CT", 0o700))
	require.ErrorContains(t, sameName("a/CT", "b/CT", "CT"), "give the folders above, if they hold no "+
		"other image, or them in two runs")
}

// Without a channel 0 a number is part of a name: LN_0017 is a patient, and no channel 17.
func TestNumbersWithoutAChannel0AreNames(t *testing.T) {
	folder := t.TempDir() + "/"
	cases, err := namedImages([]string{folder + "LN_0001.nii.gz", folder + "LN_0002.nii.gz", folder + "_0000.nii.gz"})
	require.NoError(t, err)
	require.Equal(t, []imageCase{{id: "LN_0001", images: []string{folder + "LN_0001.nii.gz"}},
		{id: "LN_0002", images: []string{folder + "LN_0002.nii.gz"}}, {id: "_0000", images: []string{folder + "_0000.nii.gz"}}}, cases)
	require.NoError(t, os.WriteFile(folder+"LN_0000.nii.gz", nil, 0o600))
	_, err = namedImages([]string{folder + "LN_0001.nii.gz"})
	require.ErrorContains(t, err, folder+"LN_0001.nii.gz is a further channel of "+folder+"LN_0000.nii.gz: give both")
}

// Names of files reach a terminal without its commands, and a case without a name is none.
func TestNamesOfFilesAreHarmless(t *testing.T) {
	var log bytes.Buffer
	Output{Log: &log}.Printf("case a\x1b[2Jb\tc\nd\r")
	require.Equal(t, "case a\ufffd[2Jb\tc\nd\ufffd\n", log.String())

	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "_0000.nii.gz"), nil, 0o600))
	cases, err := folderImages(folder, ".nii.gz")
	require.NoError(t, err)
	require.Equal(t, []imageCase{{id: "_0000", misnamed: filepath.Join(folder, "_0000.nii.gz")}}, cases)
}
