package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/pipeline"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/torchtest"
)

const (
	sourceSet = "Dataset101_PhantomSource"
	targetSet = "Dataset102_PhantomTarget"
)

// rawFolders copies phantom-mini's raw datasets and gives the flags that name them and an empty folder for the rest.
func rawFolders(t *testing.T, names ...string) (root string, flags []string) {
	root = t.TempDir()
	for _, n := range names {
		require.NoError(t, os.CopyFS(filepath.Join(root, "raw", n), os.DirFS(repo(t, "testdata/phantom-mini/raw/"+n))))
	}
	return root, []string{"--raw", filepath.Join(root, "raw"), "--preprocessed", filepath.Join(root, "pre")}
}

func sameArray(t *testing.T, a, b, name string) {
	t.Helper()
	var got [2]*npz.Array
	for i, path := range []string{a, b} {
		f, err := npz.OpenNpz(path)
		require.NoError(t, err)
		got[i], err = f.Read(name)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	require.Equal(t, got[0], got[1], "%s of %s and %s", name, a, b)
}

// One command from raw images to what nnUNetv2_plan_and_preprocess made of them.
func TestPlanAndPreprocessMakesNnUNetsFiles(t *testing.T) {
	root, where := rawFolders(t, sourceSet, targetSet)
	r := lntorch(t, append([]string{"plan-and-preprocess", "-d", "101", "102", "-c", "3d_fullres", "3d_cascade_fullres", "-np", "2", "1", "-npfp", "1", "--verify_dataset_integrity"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "5 cases made, 0 kept")
	require.Contains(t, r.out, "4 cases made, 0 kept")
	require.Contains(t, r.errOut, "has no configuration 3d_cascade_fullres, which is left out")
	want, got := repo(t, "testdata/phantom-mini/preprocessed/"+sourceSet+"/nnUNetPlans_3d_fullres"), filepath.Join(root, "pre", sourceSet, "nnUNetPlans_3d_fullres")
	for _, name := range []string{"LN_000.npz", "LN_004.npz"} {
		sameArray(t, filepath.Join(want, name), filepath.Join(got, name), "data")
		sameArray(t, filepath.Join(want, name), filepath.Join(got, name), "seg")
	}
	for _, name := range []string{"dataset.json", "nnUNetPlans.json", "dataset_fingerprint.json", "gt_segmentations/LN_000.nii.gz"} {
		require.FileExists(t, filepath.Join(root, "pre", sourceSet, name))
	}

	r = lntorch(t, append([]string{"preprocess", "-d", "101", "-c", "3d_fullres", "--json", "-plans_name", "nnUNetPlans"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	var s []pipeline.Preprocessed
	require.NoError(t, json.Unmarshal([]byte(r.out), &s))
	require.Len(t, s, 1)
	require.Equal(t, []int{0, 5}, []int{s[0].Made, s[0].Kept})
	r = lntorch(t, append([]string{"preprocess", "-d", "101", "-c", "3d_fullres", "--json", "--clean", "--max-ram", "0.01"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.NoError(t, json.Unmarshal([]byte(r.out), &s))
	require.Equal(t, []int{5, 0}, []int{s[0].Made, s[0].Kept})
	require.Positive(t, s[0].Seconds["image"])
}

func TestPreprocessNamesWhatIsWrong(t *testing.T) {
	root, where := rawFolders(t, sourceSet)
	run := func(args ...string) result { return lntorch(t, append(args, where...)...) }
	for _, c := range []struct {
		code    int
		message string
		args    []string
	}{
		{2, "no dataset is given", []string{"preprocess"}},
		{1, "lntorch plan -d " + sourceSet, []string{"preprocess", "-d", "101"}},
		{2, "-np has 2 numbers", []string{"plan-and-preprocess", "-d", "101", "-np", "1", "2"}},
		{1, "none of the configurations odd is in nnUNetPlans", []string{"preprocess", "-d", "101", "-c", "odd"}},
		{2, `--np: found "0", expected whole numbers of at least 1`, []string{"preprocess", "-d", "101", "-np", "0"}},
	} {
		r := run(c.args...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.message)
		if strings.HasPrefix(c.args[0], "plan-") { // the plans are there from now on
			require.FileExists(t, filepath.Join(root, "pre", sourceSet, "nnUNetPlans.json"))
		}
	}
	image := filepath.Join(root, "raw", sourceSet, "imagesTr", "LN_002_0000.nii.gz")
	whole, err := os.ReadFile(image)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(image, whole[:1000], 0o666))
	r := run("preprocess", "-d", "101", "-c", "3d_fullres")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.out, "4 cases made, 0 kept, failed: LN_002")
	require.Contains(t, r.errOut, "1 of 5 cases failed")
	require.Contains(t, r.errOut, image)
	require.NoError(t, os.WriteFile(image, whole, 0o666))
	r = run("preprocess", "-d", "101", "-c", "3d_fullres")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "1 cases made, 4 kept")
}

// train begins with raw images and a checkpoint: it adopts the model's plans and preprocesses, once.
func TestTrainPreparesARawDataset(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, targetSet)
	weights := repo(t, "testdata/phantom-mini/results/"+sourceSet+"/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth")
	args := append([]string{"train", "102", "3d_phantom", "all", "-p", "nnUNetPlansSource", "-pretrained_weights", weights, "--results", filepath.Join(root, "results"),
		"--epochs", "1", "--iterations", "1", "--val-iterations", "1", "--disable_tta"}, where...)
	r := lntorch(t, append(args, "--no-prepare")...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "is not preprocessed")
	r = lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "4 cases made, 0 kept")
	want, got := repo(t, "testdata/phantom-mini/preprocessed/"+targetSet+"/nnUNetPlansSource_3d_fullres"), filepath.Join(root, "pre", targetSet)
	folder, err := filepath.Glob(filepath.Join(got, "nnUNetPlansSource_*"))
	require.NoError(t, err)
	require.Len(t, folder, 1)
	for _, name := range []string{"LN_000.npz", "LN_003.npz"} { // as nnU-Net preprocessed them with the model's plans
		sameArray(t, filepath.Join(want, name), filepath.Join(folder[0], name), "data")
		sameArray(t, filepath.Join(want, name), filepath.Join(folder[0], name), "seg")
	}
	r = lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "0 cases made, 4 kept")
	require.NotContains(t, r.errOut, "there are no plans")

	// A label that was corrected is taken up, and nothing else.
	label := filepath.Join(root, "raw", targetSet, "labelsTr", "LN_001.nii.gz")
	other, err := os.ReadFile(filepath.Join(root, "raw", targetSet, "labelsTr", "LN_002.nii.gz"))
	require.NoError(t, err)
	before, err := os.ReadFile(label)
	require.NoError(t, err)
	require.NotEqual(t, before, other)
	image, err := os.ReadFile(filepath.Join(root, "raw", targetSet, "imagesTr", "LN_002_0000.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(label, other, 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(root, "raw", targetSet, "imagesTr", "LN_001_0000.nii.gz"), image, 0o666))
	r = lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "1 cases made, 3 kept")
}

// What nnU-Net preprocessed stays as it is.
func TestTrainLeavesNnUNetsDataAlone(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, targetSet)
	require.NoError(t, os.CopyFS(filepath.Join(root, "pre"), os.DirFS(repo(t, "testdata/phantom-mini/preprocessed"))))
	folder := filepath.Join(root, "pre", targetSet, "nnUNetPlansSource_3d_fullres")
	before, err := os.ReadFile(filepath.Join(folder, "LN_000.npz"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(folder, "LN_001.npz"))) // nor is it completed
	r := lntorch(t, append([]string{"train", "102", "3d_phantom", "all", "-p", "nnUNetPlansSource", "--results", filepath.Join(root, "results"),
		"--epochs", "1", "--iterations", "1", "--val-iterations", "1", "--disable_tta"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.NotContains(t, r.errOut, "cases made")
	after, err := os.ReadFile(filepath.Join(folder, "LN_000.npz"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoFileExists(t, filepath.Join(folder, "LN_001.npz"))
}
