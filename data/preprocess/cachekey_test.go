package preprocess

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/filehash"
)

// The keys are those that lntorch computed when z-score sums were not yet numpy's: CT cases written
// then are still current, z-score cases are not.
func TestZScoreCasesOfEarlierRevisionsAreStale(t *testing.T) {
	folder := t.TempDir()
	image, label := filepath.Join(folder, "image"), filepath.Join(folder, "label")
	require.NoError(t, os.WriteFile(image, []byte("image"), 0o666))
	require.NoError(t, os.WriteFile(label, []byte("label"), 0o666))
	reader, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	ct := Scheme{Name: "CTNormalization",
		Intensity: Intensity{Mean: 40, Std: 100, Low: -900, High: 300}}
	for _, c := range []struct {
		schemes []Scheme
		old     string
		current bool
	}{
		{[]Scheme{ct}, "lntorch e60afcc2cda8d5f94f816805f8ec5ef8", true},
		{[]Scheme{{Name: "ZScoreNormalization", Mask: true}},
			"lntorch d0e28625c6ad6368752cd6734ea21f90", false},
		{[]Scheme{ct, {Name: "ZScoreNormalization"}},
			"lntorch ec38e9678722e8c812ebef0907d0fb41", false},
	} {
		j := &Job{
			Reader: reader,
			Settings: &Settings{
				Transpose: [3]int{0, 1, 2}, Spacing: []float64{2, 1, 1}, Schemes: c.schemes,
				Data: Options{Order: 3}, Seg: Options{Order: 1},
				Classes: []Class{{[]int{1}, numpyInt(1)}},
			},
			hashes: filehash.Open(filepath.Join(folder, filehash.Name)),
		}
		key, err := j.cacheKey(raw.Case{ID: "LN_000", Images: []string{image}, Label: label})
		require.NoError(t, err)
		require.Equal(t, c.current, key == c.old, "%+v: %s", c.schemes, key)
	}
}
