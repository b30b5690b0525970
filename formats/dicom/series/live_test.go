package series_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/openjpeg"
	"github.com/lntorch/lntorch/internal/golden"
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
	if _, err := openjpeg.Find(); err != nil {
		golden.Missing(t, "openjpeg", err.Error())
	}
	folder := t.TempDir()
	golden.RunImages(t, "dicom_syntaxes.py", folder, "--seed", golden.Seed(t))
	require.Greater(t, len(expectationsOf(t, folder)), 130)
	requireStacks(t, folder)
}
