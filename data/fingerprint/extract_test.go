package fingerprint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// dataset writes cases c0, c1, … of 4×3×2 voxels; labels holds their segmentations.
func dataset(t *testing.T, labels ...[]uint8) *raw.Dataset {
	t.Helper()
	root := t.TempDir()
	folder := filepath.Join(root, "Dataset001_X")
	write := func(name string, shape []int, pixels volume.Pixels) {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, filepath.Dir(name)), 0o777))
		h, err := nifti.NewITK(shape, pixels.Type(), &volume.ITK{Spacing: []float64{1, 2, 3}, Origin: make([]float64, 3), Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}})
		require.NoError(t, err)
		require.NoError(t, nifti.Write(filepath.Join(folder, name), h, pixels, 1))
	}
	for i, l := range labels {
		image := make([]int16, 24)
		for v := range image {
			image[v] = int16(v*v + i)
		}
		write(fmt.Sprintf("imagesTr/c%d_0000.nii.gz", i), []int{4, 3, 2}, volume.Slice[int16](image))
		write(fmt.Sprintf("labelsTr/c%d.nii.gz", i), []int{4, len(l) / 8, 2}, volume.Slice[uint8](l))
	}
	text := fmt.Sprintf(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": %d, "file_ending": ".nii.gz"}`, len(labels))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "dataset.json"), []byte(text), 0o666))
	d, err := raw.Open(root, "Dataset001_X")
	require.NoError(t, err)
	return d
}

func label(at ...int) []uint8 {
	l := make([]uint8, 24)
	for _, i := range at {
		l[i] = 1
	}
	return l
}

func TestEveryBadCaseIsNamed(t *testing.T) {
	d := dataset(t, label(3), make([]uint8, 16), label(5), make([]uint8, 8))
	_, found, err := ExtractFolder(t.Context(), d, filepath.Join(d.Folder, "out"), false, Options{Workers: 2})
	require.False(t, found)
	require.ErrorContains(t, err, "case c1: ")
	require.ErrorContains(t, err, "found a segmentation of [1 2 2 4] voxels (channels, z, y, x), the image has [1 2 3 4]")
	require.ErrorContains(t, err, "case c3: ")
	require.NoFileExists(t, filepath.Join(d.Folder, "out", File))
}

func TestDatasetsWithoutForegroundOrCasesAreErrors(t *testing.T) {
	_, err := Extract(t.Context(), dataset(t, label(), label()), Options{})
	require.ErrorContains(t, err, "no label file has a foreground voxel within its image")
	d := dataset(t, label(1))
	d.Cases = nil
	_, err = Extract(t.Context(), d, Options{})
	require.ErrorContains(t, err, "no training case: expected files named CASE_0000.nii.gz in")
	d = dataset(t, label(1))
	d.JSON.ChannelNames = []string{"CT", "PET"}
	_, err = Extract(t.Context(), d, Options{})
	require.ErrorContains(t, err, "found 1 channels, dataset.json has 2")
}

func TestExtractStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Extract(ctx, dataset(t, label(1)), Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// The number of workers does not change a bit, although blocks of the sums span cases.
func TestResultIsIndependentOfWorkers(t *testing.T) {
	if testing.Short() {
		t.Skip("draws 200 million values")
	}
	d := dataset(t, label(3, 4, 5), label(9, 10, 20), label(23))
	one, err := Extract(t.Context(), d, Options{Workers: 1})
	require.NoError(t, err)
	three, err := Extract(t.Context(), d, Options{Workers: 3})
	require.NoError(t, err)
	require.Equal(t, one, three)
	require.Equal(t, [][]float64{{3, 2, 1}, {3, 2, 1}, {3, 2, 1}}, one.Spacings)
	require.Equal(t, 9.0, one.Channels[0].Min)
	require.Equal(t, 531.0, one.Channels[0].Max)
}

// The remainder of a fingerprint after a full disk is not used.
func TestATruncatedFingerprintIsExtractedAgain(t *testing.T) {
	d := dataset(t, label(3, 4, 5))
	folder := t.TempDir()
	path := filepath.Join(folder, File)
	whole, err := os.ReadFile("../../testdata/phantom-mini/preprocessed/Dataset101_PhantomSource/" + File)
	require.NoError(t, err)
	for _, n := range []int{0, 1, len(whole) - 1, len(whole) / 2} {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o666))
		require.True(t, cutOff(path), "%d bytes", n)
	}
	for _, want := range []bool{false, true} {
		f, found, err := ExtractFolder(t.Context(), d, folder, false, Options{Workers: 1})
		require.NoError(t, err)
		require.Equal(t, want, found)
		require.Equal(t, [][]int{{2, 3, 4}}, f.Shapes)
	}
	require.NoError(t, os.WriteFile(path, []byte(`{"spacings": 3}`), 0o666)) // complete, but another program's
	_, _, err = ExtractFolder(t.Context(), d, folder, false, Options{Workers: 1})
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "delete it to extract the fingerprint again")
	require.False(t, cutOff(filepath.Join(folder, "none")))
}
