package pipeline

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/eval/labelmap"
)

// JSON's values are named as Python's, never as Go's.
func TestPostprocessingFilesNameTypesAsPythonDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postprocessing.json")
	for arguments, want := range map[string]string{
		`{"labels_or_regions": {"a": 1}}`:                      "labels_or_regions: found a dict, expected labels and regions",
		`{"labels_or_regions": [[[1]]]}`:                       "labels_or_regions: found a list in a region, expected a label",
		`{"labels_or_regions": 1, "background_label": [1, 2]}`: "background_label: found a list, expected a label",
		`[1]`: "found arguments of type list, expected a dict",
	} {
		text := `{"postprocessing_fns": ["` + largest.Name + `"], "postprocessing_kwargs": [` + arguments + `]}`
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ReadPostprocessing(path)
		require.EqualError(t, err, path+": function 1: "+want)
	}
}

func TestSmallComponentsNeedMillimetresAndArgumentsThatFit(t *testing.T) {
	m := &labelmap.Map{Shape: [3]int{1, 2, 7}, Small: []uint8{
		1, 1, 0, 2, 0, 0, 1,
		0, 0, 0, 0, 2, 0, 1}}
	rule := RemoveSmall{Labels: []int{1, 2}, Below: 2.6}
	require.ErrorContains(t, rule.apply(m), "found no spacing: removing components below a volume needs label files with millimetres")
	m.Properties = &images.Properties{SITK: &images.SITK{}, Spacing: []float64{2, 0, 1}}
	require.ErrorContains(t, rule.apply(m), "found the spacing [2 0 1] mm, expected lengths above 0")
	// Two voxels of 1.3 mm³, which is 1.29999995 in a file: a component of just the volume stays.
	m.Properties.Spacing = []float64{1, float64(float32(1.3)), 1}
	require.NoError(t, rule.apply(m))
	require.Equal(t, []uint8{1, 1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 2, 0, 1}, m.Small)
	rule.Below = 2.7
	wide := &labelmap.Map{Shape: m.Shape, Properties: m.Properties, Wide: []int32{1, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2, 2, 0, 300}}
	require.NoError(t, rule.apply(m))
	require.Equal(t, make([]uint8, 14), m.Small)
	require.NoError(t, rule.apply(wide))
	require.Equal(t, []int32{0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 2, 0, 300}, wide.Wide)

	path := filepath.Join(t.TempDir(), "postprocessing.json")
	for arguments, want := range map[string]string{
		`{"labels": [1], "below_mm3": 20}`:     "",
		`{"labels": [1, 2], "below_mm3": 2.5}`: "",
		`{"labels": [], "below_mm3": 20}`:      "function 1: labels: found [], expected a list of labels",
		`{"labels": [[1]], "below_mm3": 20}`:   "labels: found [[1]], expected a list of labels",
		`{"labels": [1]}`:                      "below_mm3: found none, expected a volume in mm³",
		`{"labels": [1], "below_mm3": "20"}`:   "below_mm3: found 20, expected a volume in mm³",
		`{"labels": [1], "below_mm3": -1}`:     "below_mm3: found -1, expected a volume in mm³",
		`{"labels": [1], "below_mm3": NaN}`:    "below_mm3: found NaN, expected a volume in mm³",
		`[20]`:                                 "found arguments of type list, expected an object",
	} {
		text := `{"postprocessing_fns": ["remove_small_components"], "postprocessing_kwargs": [` + arguments + `]}`
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ReadPostprocessing(path)
		if want == "" {
			require.NoError(t, err, arguments)
			continue
		}
		require.ErrorContains(t, err, path+": function 1: ", arguments)
		require.ErrorContains(t, err, want, arguments)
	}
}
