package train

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// --cases leaves a training the named cases, in the order in which all of them come: that order
// decides which patch is drawn when.
func TestOnlyTheNamedCasesTrain(t *testing.T) {
	folder := filepath.Join("..", "testdata", "phantom-demo", "preprocessed", "Dataset102_PhantomTarget")
	open := func(fold string, cases ...string) (*Data, error) {
		d, err := OpenData(folder, "nnUNetPlansSource", "3d_phantom", fold)
		require.NoError(t, err)
		return d, d.Only(cases, fold)
	}
	d, err := open("all", "LN_006", "LN_001")
	require.NoError(t, err)
	require.Equal(t, []string{"LN_001", "LN_006"}, d.Split.Train)
	require.Equal(t, []string{"LN_001", "LN_006"}, d.Split.Val)
	d, err = open("all")
	require.NoError(t, err)
	require.Len(t, d.Split.Train, 8)
	for _, x := range []struct {
		fold, text string
		cases      []string
	}{
		{"0", "--cases are for fold all, found fold 0", []string{"LN_001"}},
		{"all", "--cases: LN_001 is there twice", []string{"LN_001", "LN_001"}},
		{"all", "--cases: LN_01 is none of the 8 cases in ", []string{"LN_01"}},
		{"all", "; did you mean LN_001?", []string{"LN_01"}},
	} {
		_, err := open(x.fold, x.cases...)
		require.ErrorContains(t, err, x.text)
		var mistake *settings.UsageError
		require.True(t, errors.As(err, &mistake))
	}
}
