package labels_test

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/seg"
	"github.com/lntorch/lntorch/volume"
)

// seeds adds the objects of the corpus whose names begin so.
func seeds(f *testing.F, prefixes ...string) {
	z, err := zip.OpenReader(filepath.Join(corpus, "objects.zip"))
	require.NoError(f, err)
	defer z.Close()
	n := 0
	for _, m := range z.File {
		for _, p := range prefixes {
			if !strings.HasPrefix(m.Name, p) {
				continue
			}
			r, err := m.Open()
			require.NoError(f, err)
			data, err := io.ReadAll(r)
			require.NoError(f, err)
			f.Add(data)
			n++
		}
	}
	require.NotZero(f, n)
}

// fuzzed draws an object on a grid around it.
func fuzzed(t *testing.T, data []byte) {
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(path, data, 0o666))
	s, err := dicom.FileSource(path)
	require.NoError(t, err)
	grid, err := labels.NewGrid([]int{29, 21, 6}, &volume.ITK{Spacing: []float64{0.7, 0.9, 3}, Origin: []float64{12, -40, 88},
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}})
	require.NoError(t, err)
	m, err := draw(s, grid, 0.5, 2)
	if err != nil {
		require.True(t, strings.HasPrefix(err.Error(), path), "%v", err)
		// draw tells the names that there are only where a pattern matches none
		require.False(t, bytes.Contains([]byte(err.Error()), []byte(roiName)), "%v", err)
	} else {
		require.Equal(t, grid.Voxels(), m.Pixels.Len())
	}
	if object, err := seg.Read(s); err == nil {
		all, err := object.Choose(nil)
		if err == nil {
			_, _ = object.Draw(grid, all, seg.Options{Threshold: 0.5, Resample: true})
		}
	}
}

// No RTSTRUCT crashes or hangs; an error names the file and no text.
func FuzzRTSTRUCT(f *testing.F) {
	seeds(f, "rtutils-pin", "stars-xor", "keyholes")
	f.Fuzz(fuzzed)
}

// No SEG crashes or hangs; an error names the file and no text.
func FuzzSEG(f *testing.F) {
	seeds(f, "binary-square", "binary-deflated", "fractional", "labelmap", "turned-coronal", "dcmqi")
	f.Fuzz(fuzzed)
}
