package series_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/openjpeg"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// The tests decode JPEG 2000 as the program does, in child processes.
func TestMain(m *testing.M) {
	if openjpeg.Start() {
		return
	}
	os.Exit(m.Run())
}

// The cases of the corpus with other sizes, places, angles and pixels: geometry, order and values are
// the generator's, and SimpleITK's and dcm2niix's of regular series; a field that is linear in space
// is in its place on the fixed grid.
func TestLiveImagesOfSeriesAreWhatTheFilesWereMadeOf(t *testing.T) {
	golden.Program(t, "dcm2niix", "dcm2niix")
	folder := t.TempDir()
	golden.RunImages(t, "dicom_series.py", folder, "--seed", golden.Seed(t))
	requireStacks(t, folder)
	require.Equal(t, 25, requireReadings(t, folder))
	require.Greater(t, requireFields(t, folder), 7)
}

// DCMTK, GDCM, pydicom and OpenJPH store series in every transfer syntax, with and without offset
// tables, in one fragment and in several, in sequences of known and of undefined length.
func TestLiveImagesOfEveryTransferSyntax(t *testing.T) {
	golden.Program(t, "dcmcjpeg", "dcmtk")
	needOpenJPEG(t)
	folder := t.TempDir()
	golden.RunImages(t, "dicom_syntaxes.py", folder, "--seed", golden.Seed(t))
	require.Greater(t, len(expectationsOf(t, folder)), 130)
	requireStacks(t, folder)
}

func needOpenJPEG(t *testing.T) {
	t.Helper()
	if _, err := openjpeg.Find(); err != nil {
		golden.Missing(t, "openjpeg", err.Error())
	}
}

// The sample files of pydicom and of the DICOM module have the values that pydicom finds, or are
// refused for what they are.
func TestLiveImagesOfSampleFilesAreReadAsByPydicom(t *testing.T) {
	needOpenJPEG(t)
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/suyashkumar/dicom").Output()
	require.NoError(t, err)
	folder := t.TempDir()
	golden.RunImages(t, "dicom_samples.py", folder, filepath.Join(strings.TrimSpace(string(module)), "testdata"))
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	var all map[string]struct {
		Error, SHA256   string
		Frames, Samples int
	}
	require.NoError(t, json.Unmarshal(text, &all))
	other := map[string]string{
		"SC_rgb_jpeg.dcm": "its transfer syntax is not what it says", "JPGExtended.dcm": "JPEG Extended (Process 2 and 4)",
		"examples_palette.dcm": "PhotometricInterpretation (0028,0004)",
	}
	read, refused := 0, 0
	for name, w := range all {
		path := filepath.Join(folder, name)
		im, _, err := series.Open(path, "", series.Options{})
		want := other[strings.TrimPrefix(name, "placed-")]
		switch {
		case want != "":
		case w.Error != "":
			want = path
		case w.Samples == 3:
			want = "a colour image is not supported"
		case strings.HasPrefix(name, "rtdose"):
			want = "no image: it holds 1 DICOM files of other kinds"
		case all["placed-"+name].SHA256 != "":
			want = " is missing"
		}
		if want != "" {
			refused++
			require.ErrorContains(t, err, want, name)
			continue
		}
		read++
		require.NoError(t, err)
		require.Equal(t, w.Frames, im.Head().Size[2], name)
		values := make([]float64, im.Values().Len())
		im.Values().Float64s(values, 0)
		narrow := make(volume.Slice[float32], len(values))
		for i, v := range values {
			narrow[i] = float32(v)
		}
		require.Equal(t, w.SHA256, digest(narrow.Bytes()), name)
	}
	require.Greater(t, read, 60)
	require.Greater(t, refused, 100)
}
