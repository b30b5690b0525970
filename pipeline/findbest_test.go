package pipeline

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// compareBestConfigurations runs find-best where nnU-Net's find_best_configuration ran before, and compares every file.
func compareBestConfigurations(t *testing.T, root string) {
	const merged = "crossval_results_folds_0_1_2"
	for _, c := range []struct{ dataset, best string }{
		{"Dataset778_Ensemble", "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1_2"},
		{"Dataset779_Single", "nnUNetTrainer__nnUNetPlans__3d_fullres"},
		{"Dataset780_Tie", "nnUNetTrainer__nnUNetPlans__2d"},
	} {
		log := &bytes.Buffer{}
		config := bestConfig(root, c.dataset)
		b, err := FindBest(t.Context(), config, Output{Log: log})
		require.NoError(t, err, c.dataset)
		require.Equal(t, c.best, b.Best)
		require.Len(t, b.Candidates, 3)
		require.Contains(t, log.String(), "nnUNetPlans has no configuration 3d_lowres: left out\n")
		ours, theirs := filepath.Join(config.Results, c.dataset), filepath.Join(root, "best", c.dataset)
		folders := []string{"nnUNetTrainer__nnUNetPlans__2d/" + merged, "nnUNetTrainer__nnUNetPlans__3d_fullres/" + merged,
			"ensembles/ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1_2"}
		require.Equal(t, namesIn(t, filepath.Join(theirs, "ensembles")), namesIn(t, filepath.Join(ours, "ensembles")))
		for i, folder := range folders {
			want, got := filepath.Join(theirs, folder), filepath.Join(ours, folder)
			require.Equal(t, got, b.Candidates[i].Folder)
			require.Equal(t, namesIn(t, want), namesIn(t, got), got)
			require.Positive(t, sameLabels(t, "SimpleITKIO", want, got))
			for _, file := range []string{"summary.json", "dataset.json", "plans.json"} {
				require.Equal(t, content(t, filepath.Join(want, file)), content(t, filepath.Join(got, file)), got)
			}
			if _, err := os.Stat(filepath.Join(want, "postprocessed")); err == nil {
				require.Equal(t, filepath.Dir(b.Postprocessing.File), got)
				for _, file := range []string{"postprocessing.json", "postprocessed/summary.json"} {
					require.Equal(t, content(t, filepath.Join(want, file)), content(t, filepath.Join(got, file)), got)
				}
				require.Positive(t, sameLabels(t, "SimpleITKIO", filepath.Join(want, "postprocessed"), filepath.Join(got, "postprocessed")))
			}
		}
		require.Equal(t, content(t, filepath.Join(theirs, "inference_information.json")), content(t, b.Information))
		text, instructions := content(t, b.Instructions), content(t, filepath.Join(theirs, "inference_instructions.txt"))
		require.True(t, strings.HasPrefix(text, instructions+"\n***The same with lntorch:***\n\nlntorch predict -d "+c.dataset+" "), text)
		require.NotContains(t, text[len(instructions):], "nnUNetv2_")
		entries := namesIn(t, filepath.Join(ours, "nnUNetTrainer__nnUNetPlans__2d"))
		require.Len(t, entries, 6, "%v: nothing temporary stays", entries)

		// Again, with what is there; a label volume that was changed by hand is kept.
		changed := filepath.Join(b.Candidates[0].Folder, "LN_001.nii.gz")
		require.NoError(t, copyFile(filepath.Join(config.Preprocessed, c.dataset, "gt_segmentations/LN_001.nii.gz"), changed))
		lost := filepath.Join(b.Candidates[2].Folder, "LN_002.nii.gz")
		before := content(t, filepath.Join(b.Candidates[2].Folder, "summary.json"))
		require.NoError(t, os.Remove(lost))
		require.NoError(t, os.Remove(filepath.Join(b.Candidates[0].Folder, "LN_003.nii.gz")))
		config.NoOverwrite = true
		again, err := FindBest(t.Context(), config, Output{})
		require.NoError(t, err)
		require.Greater(t, again.Candidates[0].Dice, b.Candidates[0].Dice)
		require.Equal(t, b.Candidates[1:], again.Candidates[1:])
		require.FileExists(t, lost)
		require.Equal(t, before, content(t, filepath.Join(b.Candidates[2].Folder, "summary.json")))
		config.NoOverwrite = false
		config.NoEnsembles = true
		require.NoError(t, os.RemoveAll(filepath.Join(ours, "ensembles")))
		alone, err := FindBest(t.Context(), config, Output{})
		require.NoError(t, err)
		require.Equal(t, b.Candidates[:2], alone.Candidates)
		require.NoDirExists(t, filepath.Join(ours, "ensembles"))
		require.Contains(t, content(t, b.Information), `"ensembling_allowed": false`)
	}
	refusesIncompleteModels(t, root)
}

func bestConfig(root, dataset string) FindBestConfig {
	c := FindBestConfig{Dataset: dataset, Plans: []string{"nnUNetPlans"}, Trainers: []string{"nnUNetTrainer"}, Workers: 2,
		Configurations: []string{"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}, Folds: []int{0, 1, 2}}
	c.Raw, c.Preprocessed, c.Results = filepath.Join(root, "raw"), filepath.Join(root, "preprocessed"), filepath.Join(root, "results")
	return c
}

func refusesIncompleteModels(t *testing.T, root string) {
	base := bestConfig(root, "Dataset778_Ensemble")
	results := filepath.Join(base.Results, "Dataset778_Ensemble")
	information := content(t, filepath.Join(results, "inference_information.json"))
	model := filepath.Join(results, "nnUNetTrainer__nnUNetPlans__2d")
	refused := func(change func(c *FindBestConfig), messages ...string) {
		t.Helper()
		c := base
		change(&c)
		_, err := FindBest(t.Context(), c, Output{})
		for _, m := range messages {
			require.ErrorContains(t, err, m)
		}
		require.Equal(t, information, content(t, filepath.Join(results, "inference_information.json")))
	}
	nothing := func(*FindBestConfig) {}
	refused(func(c *FindBestConfig) { c.Trainers = []string{"nnUNetTrainer", "nnUNetTrainer_DGST"} },
		results+": found no model nnUNetTrainer_DGST__nnUNetPlans__2d, nnUNetTrainer_DGST__nnUNetPlans__3d_fullres; there are "+
			"nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d_fullres: train every configuration of the plans "+
			"(lntorch train Dataset778_Ensemble CONFIGURATION FOLD --npz), or name the trained ones with -c, -tr and -p")
	refused(func(c *FindBestConfig) { c.Configurations = []string{"3d_lowres"} },
		"the plans of Dataset778_Ensemble have none of the configurations 3d_lowres; there are 2d, 3d_fullres, ")
	refused(func(c *FindBestConfig) { c.Plans = []string{"other"} },
		"preprocessed/Dataset778_Ensemble/other.json is not there", "plan the dataset with lntorch plan, or name its plans with -p")
	refused(func(c *FindBestConfig) { c.Folds = []int{0, 1, 2, 5} },
		model+" has no validation of fold 5; there is that of fold 0, 1, 2: train them",
		"3d_fullres has no validation of fold 5")
	var mistake *settings.UsageError
	_, err := FindBest(t.Context(), FindBestConfig{Dataset: "1"}, Output{})
	require.ErrorAs(t, err, &mistake)
	c := base
	c.Configurations = []string{"2d", "2d"}
	_, err = FindBest(t.Context(), c, Output{})
	require.ErrorAs(t, err, &mistake)
	require.EqualError(t, err, "-p, -c, -tr: the model nnUNetTrainer__nnUNetPlans__2d is named twice")

	// Probabilities of a case, and of a whole fold, are missing.
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(filepath.Join(model, "fold_1/validation/LN_001.npz"), moved))
	refused(nothing, "the folders hold different cases: "+model+" lacks LN_001: predict them")
	require.NoError(t, os.Rename(filepath.Join(model, "fold_1/validation/LN_004.npz"), moved+"2"))
	refused(nothing, "fold_1/validation holds no files that end in .npz; there are LN_001.nii.gz, LN_001.pkl, ",
		"lntorch train … --val --npz writes them (or compare the models alone with --disable-ensembling)")
	require.NoError(t, os.Rename(moved, filepath.Join(model, "fold_1/validation/LN_001.npz")))
	require.NoError(t, os.Rename(moved+"2", filepath.Join(model, "fold_1/validation/LN_004.npz")))
	// A case in two folds, of labels and of probabilities.
	for _, ending := range []string{".nii.gz", ".npz"} {
		twice := filepath.Join(model, "fold_0/validation/LN_001"+ending)
		require.NoError(t, copyFile(filepath.Join(model, "fold_1/validation/LN_001"+ending), twice))
		refused(nothing, "found cases more than once: LN_001"+ending+" in folds 0 and 1: the folds were trained with different splits")
		require.NoError(t, os.Remove(twice))
	}
	// A prediction without reference: nothing of an earlier run is lost.
	reference := filepath.Join(base.Raw, "Dataset778_Ensemble/labelsTr/LN_001.nii.gz")
	require.NoError(t, os.Rename(reference, moved))
	refused(nothing, "nnUNetTrainer__nnUNetPlans__2d: "+filepath.Dir(reference)+": found no reference for LN_001.nii.gz")
	require.DirExists(t, filepath.Join(model, "crossval_results_folds_0_1_2"))
	require.NoError(t, os.Rename(moved, reference))
	// The file that cannot be read is named where it lies.
	broken := filepath.Join(model, "fold_2/validation/LN_002.nii.gz")
	require.NoError(t, os.Rename(broken, moved))
	require.NoError(t, os.WriteFile(broken, []byte("no image"), 0o600))
	refused(nothing, "case LN_002.nii.gz", broken)
	require.NoError(t, os.Remove(broken))
	require.NoError(t, os.Rename(moved, broken))
	// And the one without geometry.
	geometry := filepath.Join(model, "fold_2/validation/LN_002.pkl")
	require.NoError(t, os.Rename(geometry, moved))
	refused(nothing, geometry+" is not there: prediction writes it beside the .npz")
	require.NoDirExists(t, filepath.Join(results, "ensembles", "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1_2"))
	require.Empty(t, namesIn(t, filepath.Join(results, "ensembles")), "nothing temporary stays")
	require.NoError(t, os.Rename(moved, geometry))
	refused(func(c *FindBestConfig) { c.Raw = ""; c.Preprocessed = root }, "Dataset778_Ensemble/nnUNetPlans.json is not there")
	require.NoError(t, os.Rename(filepath.Join(base.Preprocessed, "Dataset778_Ensemble/gt_segmentations"), moved))
	refused(func(c *FindBestConfig) { c.Raw = "" }, "found no references: expected the folder "+
		filepath.Join(base.Preprocessed, "Dataset778_Ensemble/gt_segmentations")+"; it holds a label volume for every case")
	b, err := FindBest(t.Context(), base, Output{}) // labelsTr serves
	require.NoError(t, err)
	require.Len(t, b.Candidates, 3)
}
