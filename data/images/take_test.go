package images

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
)

// A DICOM series, by others' writers, is taken as each class reads the file that it is converted
// to: pixels, geometry and properties, to the bit.
func TestASeriesIsTakenAsTheFileItIsConvertedTo(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/golden/dicom/*.zip")
	require.NoError(t, err)
	more, err := filepath.Glob("../../testdata/golden/dicom_phantom/*.zip")
	require.NoError(t, err)
	require.NotEmpty(t, more)
	compared, rounded := 0, 0
	for _, path := range append(paths, more...) {
		f, _, err := series.Open(path, "", series.Options{Fix: true})
		if err != nil {
			continue // refused, as the tests of package series say
		}
		for _, r := range []Reader{simpleITK{}, nibabel{}, nibabel{true}} {
			for _, ending := range []string{".nii.gz", ".nii", ".nrrd", ".mha"} {
				if r.Name() != "SimpleITKIO" && !slices.Contains(nifti.Endings, ending) {
					continue
				}
				file := filepath.Join(t.TempDir(), "f"+ending)
				require.NoError(t, image.Convert(file, f, nil, 1))
				want, about, err := r.Read([]string{file})
				require.NoError(t, err)
				is, itsAbout, err := r.Take(f, ending)
				require.NoError(t, err)
				require.Equal(t, want, is, "%s as %s by %s", path, ending, r.Name())
				require.Equal(t, about, itsAbout, "%s as %s by %s", path, ending, r.Name())
				compared++
				if g := f.Head().Geometry; about.SITK != nil && !slices.Equal(g.Spacing, about.SITK.Spacing) {
					rounded++
				}
			}
		}
	}
	require.Greater(t, compared, 8*40)
	require.Positive(t, rounded, "of no series does NIfTI change the spacing")
}

// A dataset of .dcm files is none of nnU-Net's.
func TestDatasetsOfDICOMAreRefused(t *testing.T) {
	for _, ending := range []string{".dcm", ".IMA"} {
		_, err := Choose(ending, "")
		require.ErrorContains(t, err, "nnU-Net reads no DICOM: lntorch import makes a dataset of it")
	}
}
