package raw

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
)

func TestCasesAreThoseThatNnUNetFinds(t *testing.T) {
	var list []struct {
		Names []string
		Doc   json.RawMessage
		Cases []struct {
			ID     string
			Images []string
			Label  string
		}
	}
	golden.LoadJSON(t, "raw_cases.json", &list)
	require.Greater(t, len(list), 15)
	found, without := 0, 0
	for _, g := range list {
		root := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(root, "imagesTr"), 0o777))
		for _, n := range g.Names {
			path := filepath.Join(root, "imagesTr", n)
			if strings.HasSuffix(n, "/") {
				require.NoError(t, os.Mkdir(path, 0o777))
			} else {
				require.NoError(t, os.WriteFile(path, nil, 0o666))
			}
		}
		doc, err := plans.DecodeJSON(g.Doc)
		require.NoError(t, err)
		got, err := cases(root, doc.(*plans.Object))
		require.NoError(t, err)
		require.Len(t, got, len(g.Cases), "%v", g.Names)
		for i, w := range g.Cases {
			want := Case{ID: w.ID, Label: filepath.Join(root, w.Label)}
			for _, im := range w.Images {
				want.Images = append(want.Images, filepath.Join(root, im))
			}
			found++
			if len(w.Images) == 0 {
				without++
			}
			require.Equal(t, want, got[i], "%v", g.Names)
		}
	}
	require.Greater(t, found, 50)
	require.Positive(t, without)
}

func TestLiveGoldenIsWhatPythonWrites(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "cases.json")
	golden.Run(t, "raw_cases.py", path)
	want, err := os.ReadFile(golden.Path(t, "raw_cases.json"))
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestBrokenListsOfCasesAreErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"dataset": []}`:                                     `dataset.json: dataset: expected an object such as`,
		`{"dataset": {"a": {"images": ["x"]}}}`:               `dataset.json: dataset: a: expected {"images": [files], "label": file}`,
		`{"dataset": {"../a": {"images": [], "label": "l"}}}`: `dataset.json: dataset: "../a": expected a case name that is valid in a file name`,
		`{"dataset": {"..": {"images": [], "label": "l"}}}`:   `expected a case name`,
		`{"dataset": {"a": 3}}`:                               `dataset.json: dataset: a: expected {"images": [files], "label": file}`,
		`{"dataset": {"a": {"images": [1], "label": "l"}}}`:   `dataset: a: images: expected file names, found 1`,
		`{}`:                      `file_ending: expected the ending of the image files, such as ".nii.gz", found <nil>`,
		`{"file_ending": ".nii"}`: `imagesTr: no such file or directory`,
	} {
		doc, err := plans.DecodeJSON([]byte(text))
		require.NoError(t, err)
		_, err = cases(t.TempDir(), doc.(*plans.Object))
		require.ErrorContains(t, err, want, text)
	}
}

func TestDatasetsAreFoundByNumber(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, path := range []string{a + "/Dataset005_X", b + "/Dataset005_X", a + "/Dataset100_Y", a + "/Dataset1001_Z", a + "/Dataset007_A", b + "/Dataset007_B"} {
		require.NoError(t, os.Mkdir(path, 0o777))
	}
	require.NoError(t, os.WriteFile(a+"/Dataset009_file", nil, 0o666))
	for arg, want := range map[string]string{"5": "Dataset005_X", "005": "Dataset005_X", "100": "Dataset100_Y", "1001": "Dataset1001_Z", "DatasetAny": "DatasetAny"} {
		got, err := FindName(arg, a, "", b, filepath.Join(a, "none"))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for arg, want := range map[string]string{
		"7": "dataset 7: found Dataset007_A, Dataset007_B; give the full name",
		"8": "dataset 8: no folder Dataset008_… in " + a + ", " + b, "9": "no folder Dataset009_…",
		"x": `dataset "x": expected a number or a name starting with Dataset`, "-5": `dataset "-5"`, "5x": `dataset "5x"`,
	} {
		_, err := FindName(arg, a, b)
		require.ErrorContains(t, err, want)
	}
}
