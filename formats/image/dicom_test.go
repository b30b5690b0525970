package image

import (
	"archive/zip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// One DICOM file with one image is read as files of other formats are. It has 4 frames of 6 rows and
// 9 columns.
func TestADICOMFileIsAnImageFile(t *testing.T) {
	z, err := zip.OpenReader("../../testdata/golden/dicom/enhanced.zip")
	require.NoError(t, err)
	defer z.Close()
	r, err := z.File[0].Open()
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "e")
	require.NoError(t, os.WriteFile(path, data, 0o666))

	h, err := Header(path)
	require.NoError(t, err)
	f, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, "DICOM", f.Head().Format)
	require.Equal(t, []int{9, 6, 4}, h.Size)
	require.Equal(t, h.Size, f.Head().Size)
	im, g, err := f.Image()
	require.NoError(t, err)
	require.Equal(t, g, h.Geometry)
	require.Equal(t, [4]int{1, 4, 6, 9}, im.Shape)
	require.Equal(t, [3]float64{2.5, 0.75, 0.5}, im.Spacing)

	// and written as another format has them
	out := filepath.Join(t.TempDir(), "o.mha")
	require.NoError(t, Convert(out, f, nil, 2))
	back, err := Read(out)
	require.NoError(t, err)
	require.Equal(t, g, back.Head().Geometry)
	require.Equal(t, f.Values().(volume.Slice[int16]), back.Values().(volume.Slice[int16]))

	require.Nil(t, ForName("e.dcm"))
	other := filepath.Join(t.TempDir(), "o")
	require.NoError(t, os.WriteFile(other, []byte("text"), 0o666))
	_, err = Read(other)
	require.ErrorContains(t, err, "MetaImage (.mha, .mhd), DICOM")
}
