package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
)

const mini = "testdata/phantom-mini"

// copyFiles copies the .json files of a folder.
func copyFiles(t *testing.T, from, to string, names ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o777))
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(from, n))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, n), b, 0o666))
	}
}

func sameFile(t *testing.T, want, got string) {
	t.Helper()
	w, err := os.ReadFile(want)
	require.NoError(t, err)
	g, err := os.ReadFile(got)
	require.NoError(t, err)
	require.Equal(t, string(w), string(g), got)
}

// The files of phantom-mini were written by nnU-Net, but for two configurations added by hand, which stay.
func TestFingerprintAndPlanWriteTheFilesOfNnUNet(t *testing.T) {
	dir := t.TempDir()
	source, target := "Dataset101_PhantomSource", "Dataset102_PhantomTarget"
	where := []string{"--raw", repo(t, mini+"/raw"), "--preprocessed", dir}
	for _, d := range []string{source, target} {
		copyFiles(t, repo(t, mini+"/preprocessed/"+d), filepath.Join(dir, d), "nnUNetPlans.json")
	}
	r := lntorch(t, append([]string{"fingerprint", "-d", "101", target, "--verify_dataset_integrity", "-np", "2"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "Dataset101_PhantomSource: 5 cases, 0 problems, 0 warnings")
	require.Contains(t, r.out, "96.314")
	r = lntorch(t, append([]string{"plan", "-d", "101", "102", "-pl", "ExperimentPlanner"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "note: configuration 3d_phantom of the existing plans is kept")
	r = lntorch(t, append([]string{"move-plans", "-s", "101", "-t", "102", "-sp", "nnUNetPlans", "-tp", "nnUNetPlansSource"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	for _, path := range []string{source + "/dataset_fingerprint.json", source + "/nnUNetPlans.json", source + "/dataset.json",
		target + "/dataset_fingerprint.json", target + "/nnUNetPlans.json", target + "/dataset.json", target + "/nnUNetPlansSource.json"} {
		sameFile(t, repo(t, mini+"/preprocessed/"+path), filepath.Join(dir, path))
	}

	r = lntorch(t, append([]string{"fingerprint", "102", "--json"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	var summaries []struct {
		Found bool
		Cases int
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &summaries))
	require.Len(t, summaries, 1)
	require.True(t, summaries[0].Found)
	require.Equal(t, 4, summaries[0].Cases)

	r = lntorch(t, append([]string{"plan", "-overwrite_target_spacing", "3", "1", "1.5", "-d", "102", "-overwrite_plans_name", "other", "--json"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	p, err := plans.Load(filepath.Join(dir, target, "other.json"))
	require.NoError(t, err)
	c, err := p.Configuration("3d_fullres")
	require.NoError(t, err)
	require.Equal(t, []float64{3, 1, 1.5}, c.Spacing)
	require.Contains(t, r.out, `"configurations"`)
}

func TestPlanningMistakesAreNamed(t *testing.T) {
	dir := t.TempDir()
	where := []string{"--raw", repo(t, mini+"/raw"), "--preprocessed", dir}
	model := repo(t, foundation)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"plan", "-d", "102"}, 1, "dataset_fingerprint.json is missing: run `lntorch fingerprint -d Dataset102_PhantomTarget` first"},
		{[]string{"plan", "-d", "102", "-pl", "nnUNetPlannerResEncS"}, 2, "expected ExperimentPlanner, ResEncUNetPlanner"},
		{[]string{"plan"}, 2, "no dataset is given"},
		{[]string{"plan", "-d", "102", "-overwrite_target_spacing", "1", "2"}, 2, "found 2 numbers, expected 3"},
		{[]string{"fingerprint", "-d", "99"}, 1, "no folder Dataset099_…"},
		{[]string{"fingerprint", "-d", "102", "-fpe", "Mine"}, 2, `--fpe: found "Mine", expected DatasetFingerprintExtractor`},
		{[]string{"move-plans", "-s", "101", "-t", "102"}, 2, "-s, -t and -sp must be given"},
		{[]string{"move-plans", "-s", "101", "-t", "102", "-sp", "none"}, 1, "none.json: no such file"},
		{[]string{"adopt", model}, 2, "no dataset is given"},
		{[]string{"adopt", filepath.Join(dir, "absent.pth"), "-d", "102"}, 1, "absent.pth: no such file"},
		{[]string{"adopt", dir, "-d", "102"}, 1, "neither the checkpoint holds plans, nor is there a plans.json"},
		{[]string{"adopt", model, "-d", "102", "--recipe"}, 1, "run `lntorch plan -d 102` with the planner of the model's network first"},
		{[]string{"adopt", model, "-d", "102", "--recipe", "--keep-spacing"}, 2, "--keep-spacing is not for --recipe"},
		{[]string{"adopt", model, "-d", "102", "--inherit", "2d"}, 2, "--inherit is for --recipe"},
		{[]string{"adopt", model, "-d", "102", "--model-configuration", "5d"}, 1, `configuration "5d" does not exist; available: `},
	} {
		r := lntorch(t, append(c.args, where...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want, "%v", c.args)
	}
}

func TestIntegrityProblemsEndTheFingerprint(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw", "Dataset005_X")
	require.NoError(t, os.MkdirAll(filepath.Join(raw, "imagesTr"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(raw, "dataset.json"), []byte(`{"labels": {}}`), 0o666))
	r := lntorch(t, "fingerprint", "-d", "5", "--verify_dataset_integrity", "--raw", filepath.Join(dir, "raw"), "--preprocessed", filepath.Join(dir, "out"))
	require.Equal(t, 1, r.code)
	for _, want := range []string{"labelsTr: found none, expected a folder", "expected the key channel_names", "expected the key numTraining", "expected the key file_ending", "found 4 problems"} {
		require.Contains(t, r.errOut, want)
	}
	require.NoDirExists(t, filepath.Join(dir, "out"))
}

// adoptTarget adopts phantom-mini's model for its target dataset; the fingerprint is nnU-Net's.
func adoptTarget(t *testing.T, more ...string) (dir string, r result) {
	t.Helper()
	dir = t.TempDir()
	target := "Dataset102_PhantomTarget"
	copyFiles(t, repo(t, mini+"/preprocessed/"+target), filepath.Join(dir, target), "dataset_fingerprint.json", "nnUNetPlans.json")
	r = lntorch(t, append([]string{"adopt", repo(t, sourceModel), "-d", "102", "--raw", repo(t, mini+"/raw"), "--preprocessed", dir, "--memory", "8"}, more...)...)
	return dir, r
}

func TestAdoptRefusesToReplace(t *testing.T) {
	dir, r := adoptTarget(t, "--recipe", "--name", "3d_ln")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "differs: spacing in mm: model 2.5 × 1.47 × 1.47, dataset 3 × 1.755 × 1.755")
	p, err := plans.Load(filepath.Join(dir, "Dataset102_PhantomTarget", "nnUNetPlans.json"))
	require.NoError(t, err)
	c, err := p.Configuration("3d_ln")
	require.NoError(t, err)
	require.Equal(t, []int{16, 48, 48}, c.PatchSize)
	again := []string{"adopt", repo(t, sourceModel), "-d", "102", "--raw", repo(t, mini+"/raw"), "--preprocessed", dir}
	r = lntorch(t, append(again, "--recipe", "--name", "3d_ln")...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "has a configuration 3d_ln already: give another --name, or --force to replace it")
	r = lntorch(t, append(again, "--recipe", "--name", "3d_ln", "--force", "--patch-size", "16,48,40")...)
	require.Equal(t, 0, r.code, r.errOut)
	for _, code := range []int{0, 1} {
		r = lntorch(t, again...)
		require.Equal(t, code, r.code, r.errOut)
	}
	require.Contains(t, r.errOut, "is there already: give another --plans-name, or --force")
}

// The cases that nnU-Net preprocessed with the plans it had moved from the source are what adopted plans would give.
func TestTrainAcceptsAdoptedPlans(t *testing.T) {
	dir, r := adoptTarget(t)
	require.Equal(t, 0, r.code, r.errOut)
	from := repo(t, mini+"/preprocessed/Dataset102_PhantomTarget")
	files, err := os.ReadDir(filepath.Join(from, "nnUNetPlansSource_3d_fullres"))
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	folder := filepath.Join(dir, "Dataset102_PhantomTarget")
	copyFiles(t, filepath.Join(from, "nnUNetPlansSource_3d_fullres"), filepath.Join(folder, "nnUNetPlansAdopted_3d_phantom"), names...)
	copyFiles(t, from, folder, "splits_final.json")
	torchtest.Require(t)
	r = lntorch(t, "train", "102", "3d_phantom", "0", "-p", "nnUNetPlansAdopted", "-tr", "nnUNetTrainer_DGST", "-pretrained_weights", filepath.Join(repo(t, sourceModel), "fold_0/checkpoint_final.pth"),
		"--preprocessed", dir, "--results", t.TempDir(), "--epochs", "1", "--iterations", "1", "--val-iterations", "1", "--disable_tta")
	require.Equal(t, 0, r.code, r.errOut)
}

func TestLiveNnUNetLoadsAdoptedPlans(t *testing.T) {
	golden.Python(t)
	for _, c := range []struct {
		plans, configuration string
		args                 []string
		spacing, mean        float64
	}{
		{"nnUNetPlansAdopted", "3d_phantom", nil, 2.5, 96.31401062011719},
		{"nnUNetPlans", "3d_ln", []string{"--recipe", "--name", "3d_ln"}, 3, 103.6337661743164},
	} {
		dir, r := adoptTarget(t, c.args...)
		require.Equal(t, 0, r.code, r.errOut)
		folder := filepath.Join(dir, "Dataset102_PhantomTarget")
		var got struct {
			Patch, Transpose, Output []int
			Batch                    int
			Spacing                  []float64
			Normalisation            []string
			Mean                     float64
		}
		require.NoError(t, json.Unmarshal(golden.Run(t, "adopted.py", filepath.Join(folder, c.plans+".json"), repo(t, mini+"/raw/Dataset102_PhantomTarget/dataset.json"),
			c.configuration, filepath.Join(repo(t, sourceModel), "fold_0/checkpoint_final.pth")), &got))
		require.Equal(t, []int{16, 48, 48}, got.Patch)
		require.Equal(t, []int{1, 2, 16, 48, 48}, got.Output)
		require.Equal(t, c.spacing, got.Spacing[0])
		require.Equal(t, c.mean, got.Mean)
		require.Equal(t, []string{"CTNormalization"}, got.Normalisation)
		require.Equal(t, []int{0, 1, 2}, got.Transpose)
	}
}
