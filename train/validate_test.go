package train_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/train"
)

// validation is the final validation of phantom-mini's source model on the case of its fold 0.
func validation(t *testing.T) train.Config {
	t.Helper()
	c := phantom(t, "full")
	c.Preprocessed = filepath.Join(filepath.Dir(c.Preprocessed), "Dataset101_PhantomSource")
	c.PlansName, c.ValidateOnly, c.Checkpoint, c.Pretrained = "nnUNetPlans", true, c.Pretrained, ""
	c.ValidationFolder = t.TempDir()
	return c
}

func readLabels(t *testing.T, path string) *labelmap.Map {
	t.Helper()
	reader, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	m, err := labelmap.Read(reader, path)
	require.NoError(t, err)
	return m
}

// nnU-Net's own final validation of the source model is in testdata: labels on the grid of the
// image, and summary.json to the byte.
func TestFinalValidationIsNnUNets(t *testing.T) {
	want := mini(t, sourceModel+"/fold_0/validation")
	text, err := os.ReadFile(filepath.Join(want, "summary.json"))
	require.NoError(t, err)
	for _, numerics := range []machine.Numerics{machine.Fast, machine.Reference} {
		if numerics == machine.Reference && testing.Short() {
			continue
		}
		c := validation(t)
		c.NoMirroring, c.Numerics = false, numerics
		r := run(t, c)
		require.False(t, r.Preprocessed)
		require.Equal(t, 0.8269370021723389, r.Dice)
		require.Equal(t, readLabels(t, filepath.Join(want, "LN_000.nii.gz")), readLabels(t, filepath.Join(c.ValidationFolder, "LN_000.nii.gz")))
		got, err := os.ReadFile(r.Validation)
		require.NoError(t, err)
		replaced := strings.NewReplacer("nnUNet_results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/validation", c.ValidationFolder,
			"nnUNet_preprocessed/Dataset101_PhantomSource", c.Preprocessed).Replace(string(text))
		require.Equal(t, replaced, string(got))
		entries, err := os.ReadDir(c.ValidationFolder)
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
		require.Equal(t, []string{"LN_000.nii.gz", "summary.json"}, names)
	}
}

func TestValidationWritesProbabilitiesWithNpz(t *testing.T) {
	c := validation(t)
	c.Npz = true
	run(t, c)
	labels := readLabels(t, filepath.Join(c.ValidationFolder, "LN_000.nii.gz"))
	f, err := npz.OpenNpz(filepath.Join(c.ValidationFolder, "LN_000.npz"))
	require.NoError(t, err)
	defer f.Close()
	shape, values := golden.Float32s(t, f, "probabilities")
	require.Equal(t, []int{2, labels.Shape[0], labels.Shape[1], labels.Shape[2]}, shape)
	for i, l := range labels.Small {
		require.Equal(t, values[len(labels.Small)+i] > values[i], l == 1, "voxel %d", i)
	}
	require.FileExists(t, filepath.Join(c.ValidationFolder, "LN_000.pkl"))
}

// A reference that is missing or of another grid costs its case the score, and no other case its files.
func TestValidationNamesBadReferences(t *testing.T) {
	c := phantom(t, "full")
	c.ValidateOnly, c.Checkpoint, c.Pretrained, c.ValidationFolder = true, c.Pretrained, "", t.TempDir()
	truth := filepath.Join(c.Preprocessed, "gt_segmentations")
	require.NoError(t, os.Remove(filepath.Join(truth, "LN_002.nii.gz")))
	other, err := os.ReadFile(mini(t, "preprocessed/Dataset101_PhantomSource/gt_segmentations/LN_000.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(truth, "LN_003.nii.gz"), other, 0o600))
	_, err = train.Run(t.Context(), c)
	require.ErrorContains(t, err, "case LN_002: "+filepath.Join(truth, "LN_002.nii.gz")+" is not there, expected the labels of the case: preprocess the dataset again")
	require.ErrorContains(t, err, "case LN_003: "+filepath.Join(truth, "LN_003.nii.gz")+": ")
	require.ErrorContains(t, err, "was the case preprocessed from another image?")
	require.FileExists(t, filepath.Join(c.ValidationFolder, "LN_002.nii.gz"))
	require.FileExists(t, filepath.Join(c.ValidationFolder, "LN_003.nii.gz"))
	require.NoFileExists(t, filepath.Join(c.ValidationFolder, "summary.json"))

	require.NoError(t, os.RemoveAll(truth))
	c = again(t, c, nil)
	c.Npz = true
	_, err = train.Run(t.Context(), c)
	require.ErrorContains(t, err, "--npz needs "+truth+", which is not there: preprocess the dataset again")
}

// A case that the next stage lacks is left out there, and said, as in nnU-Net.
func TestNextStageWithoutDataIsSaid(t *testing.T) {
	c := validation(t)
	path := filepath.Join(c.Preprocessed, c.PlansName+".json")
	doc, err := plans.ReadJSON(path)
	require.NoError(t, err)
	v, _ := doc.(*plans.Object).Get("configurations")
	own, _ := v.(*plans.Object).Get(c.Configuration)
	own.(*plans.Object).Set("next_stage", "cascade")
	v.(*plans.Object).Set("cascade", plans.NewObject("inherits_from", c.Configuration, "data_identifier", "none", "previous_stage", c.Configuration))
	require.NoError(t, plans.WriteJSON(path, doc, false))
	c.ValidationFolder = ""
	weights, err := os.ReadFile(c.Checkpoint)
	require.NoError(t, err)
	folder := filepath.Join(c.Results, "Dataset101_PhantomSource", c.Trainer+"__"+c.PlansName+"__"+c.Configuration, "fold_0")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "checkpoint_final.pth"), weights, 0o600))
	c.Checkpoint = ""
	var log strings.Builder
	c.Echo = &log
	run(t, c)
	require.Contains(t, log.String(), "Predicting next stage cascade failed for case LN_000 because the preprocessed file is missing!")
	require.FileExists(t, filepath.Join(folder, "validation", "LN_000.nii.gz"))
}
