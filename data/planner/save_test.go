package planner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
}

func TestSplitsMustAgreeWithThoseOfTheRawDataset(t *testing.T) {
	const both = `[{"train": ["a", "b"], "val": ["c"]}, {"val": ["b"], "train": ["c", "a"]}]`
	for _, c := range []struct{ raw, existing, want string }{
		{"", "", ""},
		{both, "", ""},
		{both, both, ""},
		{both, `[{"train": ["b", "a", "b"], "val": ["c"]}, {"train": ["a", "c"], "val": ["b"]}, {"train": [], "val": []}]`, ""}, // sets, and more folds
		{both, `[{"train": ["a", "b"], "val": ["c"]}]`, "has 1 folds, the raw dataset's has 2"},
		{both, `[{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["b"]}]`, "fold 1, train: found c, expected a c as in the raw dataset"},
		{both, `[{"train": ["a", "b"], "val": ["d"]}, {"train": ["c", "a"], "val": ["b"]}]`, "fold 0, val: found d, expected c"},
		{`{}`, "", "expected a list of folds"},
		{`[{"train": []}]`, both, `fold 0: expected a list of cases in "val"`},
		{`[{"train": [1], "val": []}]`, both, "expected case names, found 1"},
	} {
		rawFolder, folder := t.TempDir(), t.TempDir()
		if c.raw != "" {
			write(t, rawFolder+"/splits_final.json", c.raw)
		}
		if c.existing != "" {
			write(t, folder+"/splits_final.json", c.existing)
		}
		err := planner.CopySplits(rawFolder, folder)
		if c.want != "" {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		after, err := os.ReadFile(folder + "/splits_final.json")
		switch {
		case c.existing != "":
			require.Equal(t, c.existing, string(after))
		case c.raw != "":
			require.Equal(t, c.raw, string(after))
		default:
			require.ErrorIs(t, err, os.ErrNotExist)
		}
	}
}

func TestUnreadablePlansAreNotReplaced(t *testing.T) {
	folder := t.TempDir()
	path := folder + "/nnUNetPlans.json"
	write(t, path, `{"configurations": {"mine": `)
	r := &planner.Result{Name: "nnUNetPlans", Plans: plans.NewObject("configurations", plans.NewObject("2d", nil))}
	_, err := r.Save(folder)
	require.ErrorContains(t, err, "may hold your own configurations")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, `{"configurations": {"mine": `, string(after))
	write(t, path, "") // nothing to lose
	_, err = r.Save(folder)
	require.NoError(t, err)
	after, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(after), "configurations")
}

func TestPlanErrorsNameTheNextStep(t *testing.T) {
	in := target(t)
	for _, c := range []struct {
		change func(in *planner.Input, o *planner.Options)
		want   string
	}{
		{func(_ *planner.Input, o *planner.Options) { o.MemoryGB = -1 }, "memory target of -1 GB: expected a positive number"},
		{func(_ *planner.Input, o *planner.Options) { o.TargetSpacing = []float64{1, 0, 1} }, "target spacing [1 0 1]: expected three positive numbers"},
		{func(_ *planner.Input, o *planner.Options) { o.TargetSpacing = []float64{500, 1, 1} }, "the target spacing is too coarse"},
		{func(_ *planner.Input, o *planner.Options) { o.MemoryGB = 1e-9 }, "give another -overwrite_target_spacing or -gpu_memory_target"},
	} {
		in, o := in, planner.Options{}
		c.change(&in, &o)
		p, err := planner.ForName("ExperimentPlanner")
		require.NoError(t, err)
		_, err = p.Plan(in, o)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, "planner: Dataset102_PhantomTarget: ExperimentPlanner: ")
	}
}

func TestBrokenFingerprintsAreErrors(t *testing.T) {
	const good = `"median_relative_size_after_cropping": 1, "foreground_intensity_properties_per_channel": {}`
	for text, want := range map[string]string{
		`[]`: "expected a JSON object",
		`{"shapes_after_crop": [], "spacings": []}`: "expected one of each per case, and at least one case",
		`{"spacings": 3}`: "spacings: expected a list with three numbers per case, found 3",
		`{"spacings": [[1, 2]], "shapes_after_crop": [[1, 2, 3]]}`:                                              "spacings: case 0: expected three numbers",
		`{"spacings": [[1, 2, "3"]], "shapes_after_crop": [[1, 2, 3]]}`:                                         "spacings: case 0: expected three numbers",
		`{"spacings": [[1, 2, -3]], "shapes_after_crop": [[1, 2, 3]]}`:                                          "spacings: case 0: expected positive numbers, found [1 2 -3]",
		`{"spacings": [[1, 2, 3]], "shapes_after_crop": [[1, 2.5, 3]]}`:                                         "shapes_after_crop: case 0: expected positive integers",
		`{"spacings": [[1, 2, 3]], "shapes_after_crop": [[1, 1e300, 3]]}`:                                       "shapes_after_crop: case 0: expected positive integers",
		`{"spacings": [[1, 2, 3]], "shapes_after_crop": [[1, 2, 3]]}`:                                           "median_relative_size_after_cropping: expected a number, found <nil>",
		`{"spacings": [[1, 2, 3]], "shapes_after_crop": [[1, 2, 3]], "median_relative_size_after_cropping": 1}`: "foreground_intensity_properties_per_channel: expected an object",
		`{"spacings": [[1, 2, 3]], "shapes_after_crop": [[1, 2, 3], [1, 2, 3]], ` + good + `}`:                  "found 1 spacings and 2 shapes_after_crop",
	} {
		v, err := plans.DecodeJSON([]byte(text))
		require.NoError(t, err)
		_, err = fingerprint.FromJSON(v)
		require.ErrorContains(t, err, want, text)
	}
}
