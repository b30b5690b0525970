package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../testdata/golden/nifti"

// other is a format recognised by the magic "OTHER"; all its files hold the same image.
type other struct{}

func (other) Head() *volume.Header {
	return &volume.Header{Format: "Other 1.0", Size: []int{2, 1, 3}, Type: "int16",
		Geometry: &volume.ITK{Spacing: []float64{1, 2, 3}, Origin: []float64{4, 5, 6},
			Direction: []float64{0, 1, 0, 1, 0, 0, 0, 0, 1}}}
}
func (other) Stored() volume.Pixels {
	return volume.Slice[int16]{1, 2, 3, 4, 5, 6}
}
func (other) Values() volume.Pixels {
	return volume.Slice[float32]{2, 4, 6, 8, 10, 12}
}
func (other) Image() (*volume.Image, *volume.ITK, error) {
	return nil, nil, errors.New("none")
}
func readOther(string) (volume.File, error) { return other{}, nil }
func headOther(string) (*volume.Header, error) {
	return other{}.Head(), nil
}
func rewriteNot(string, volume.File, volume.Pixels, int) (bool, error) { return false, nil }

func withOther(t *testing.T) {
	before := Formats
	t.Cleanup(func() { Formats = before })
	Formats = append(Formats[:1:1], &volume.Format{Name: "Other", Endings: []string{".other"},
		Match:  func(first []byte) bool { return bytes.HasPrefix(first, []byte("OTHER")) },
		Header: headOther, Read: readOther, Rewrite: rewriteNot})
}

func TestContentCountsBeforeTheEnding(t *testing.T) {
	withOther(t)
	folder := t.TempDir()
	for name, want := range map[string]string{"type_i2_le.nii": "NIfTI-1",
		"v2_le.nii.gz": "NIfTI-2", "type_f8_be.nii": "NIfTI-1"} {
		content, err := os.ReadFile(filepath.Join(corpus, name))
		require.NoError(t, err)
		path := filepath.Join(folder, name+".other")
		require.NoError(t, os.WriteFile(path, content, 0o666))
		head, err := Header(path)
		require.NoError(t, err)
		require.Equal(t, want, head.Format)
		f, err := Read(path)
		require.NoError(t, err)
		require.Equal(t, head, f.Head())
		same, err := nifti.Read(path)
		require.NoError(t, err)
		require.Equal(t, same.Pixels, f.Stored())
		require.Equal(t, name == "type_f8_be.nii", head.BigEndian)
	}
	path := filepath.Join(folder, "a.nii")
	require.NoError(t, os.WriteFile(path, []byte("OTHER"), 0o666))
	f, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, "Other 1.0", f.Head().Format)
	// Without a magic the ending decides, and the error is the format's own.
	require.NoError(t, os.WriteFile(path, []byte("PNG and more bytes"), 0o666))
	_, err = Read(path)
	require.ErrorContains(t, err, path+": found 18 bytes, expected a header of 348")
	path = filepath.Join(folder, "a.png")
	require.NoError(t, os.WriteFile(path, []byte("PNG and more bytes"), 0o666))
	_, err = Header(path)
	require.EqualError(t, err,
		path+": the file begins with 50 4e 47 20, expected an image file: NIfTI (.nii, .nii.gz), Other (.other)")
	_, err = Read(filepath.Join(folder, "missing.png"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "missing.png")
}

func TestConvertKeepsTheHeaderWithinAFormat(t *testing.T) {
	withOther(t)
	folder := t.TempDir()
	f, err := Read(filepath.Join(corpus, "nibabel.nii.gz"))
	require.NoError(t, err)
	out := filepath.Join(folder, "a.NII")
	require.NoError(t, Convert(out, f, nil, 1))
	got, err := nifti.Read(out)
	require.NoError(t, err)
	want := f.(*nifti.File)
	want.Offset = got.Offset
	require.Equal(t, want, got)
	// Another format gets the scaled values and ITK's geometry.
	out = filepath.Join(folder, "b.nii.gz")
	require.NoError(t, Convert(out, other{}, nil, 1))
	back, err := Read(out)
	require.NoError(t, err)
	require.Equal(t, other{}.Values(), back.Values())
	require.Equal(t, other{}.Head().Geometry, back.Head().Geometry)
	require.Equal(t, []int{2, 1, 3}, back.Head().Size)
	err = Convert(filepath.Join(folder, "c.png"), f, nil, 1)
	require.ErrorContains(t, err, "c.png: expected a name that ends in "+strings.Join(Endings(), " or "))
	require.NoFileExists(t, filepath.Join(folder, "c.png"))
}
