package pipeline

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
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
		model+" has no validation of fold 5; it has folds 0, 1, 2: train them",
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

// madeUpResults writes two folds of three configurations, of which the last is a cascade on the first. Predictions are as good as
// dice says: of ten voxels, that many are found.
func madeUpResults(t *testing.T, root string, found map[string]int) FindBestConfig {
	const dataset = "Dataset042_MadeUp"
	c := bestConfig(root, "42")
	c.Configurations, c.Folds = nil, []int{0, 1}
	truth := []uint8{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}
	gt := filepath.Join(c.Preprocessed, dataset, "gt_segmentations")
	writeLabels(t, gt, map[string][]uint8{"a": truth, "b": truth})
	p, err := plans.ReadJSON(filepath.Join(gt, "plans.json"))
	require.NoError(t, err)
	configurations, _ := p.(*plans.Object).Get("configurations")
	full, _ := configurations.(*plans.Object).Get("3d_fullres")
	all := plans.NewObject("3d_lowres", full, "3d_fullres", full, "3d_cascade_fullres",
		plans.NewObject("inherits_from", "3d_fullres", "previous_stage", "3d_lowres"))
	p.(*plans.Object).Set("configurations", all)
	p.(*plans.Object).Set("dataset_name", dataset)
	require.NoError(t, plans.WriteJSON(filepath.Join(c.Preprocessed, dataset, "nnUNetPlans.json"), p, false))
	for _, name := range all.Keys() {
		n, ok := found[name]
		if !ok {
			continue
		}
		c.Configurations = append(c.Configurations, name)
		model := trained{"nnUNetTrainer", "nnUNetPlans", name}.folder(c.Results, dataset)
		writeLabels(t, model, nil)
		require.NoError(t, plans.WriteJSON(filepath.Join(model, "plans.json"), p, false))
		for fold, id := range []string{"a", "b"} {
			folder := filepath.Join(model, "fold_"+string(rune('0'+fold)), "validation")
			labels, values := make([]uint8, 12), make([]float32, 24)
			for i := range labels {
				// The cascade finds the last voxels, the others the first.
				if i < n || name == "3d_cascade_fullres" && i < 10 && i >= 10-n {
					labels[i] = 1
				}
				if name == "3d_cascade_fullres" && i < 10-n {
					labels[i] = 0
				}
				values[12+i] = 0.4
				if labels[i] == 1 {
					values[12+i] = 0.7
				}
				values[i] = 1 - values[12+i]
			}
			writeLabels(t, folder, map[string][]uint8{id: labels})
			writeProbabilities(t, filepath.Join(folder, id+".npz"), values, 2, 1, 1, 12)
			require.NoError(t, copyFile("../testdata/phantom-mini/predictions/source_notta/LN_004.pkl", filepath.Join(folder, id+".pkl")))
		}
	}
	return c
}

// Expected commands are those of nnU-Net's documentation of cascades; its own instructions forget the previous stage.
func TestInstructionsNameThePreviousStageOfACascade(t *testing.T) {
	const predict = "predict -d Dataset042_MadeUp -i INPUT_FOLDER -o "
	for _, c := range []struct {
		found map[string]int
		best  string
		want  []string // behind lntorch
	}{
		{map[string]int{"3d_fullres": 4, "3d_cascade_fullres": 10}, "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres", []string{
			predict + "OUTPUT_FOLDER_PREV_STAGE -f 0 1 -tr nnUNetTrainer -c 3d_lowres -p nnUNetPlans",
			predict + "OUTPUT_FOLDER -f 0 1 -tr nnUNetTrainer -c 3d_cascade_fullres -p nnUNetPlans -prev_stage_predictions OUTPUT_FOLDER_PREV_STAGE"}},
		{map[string]int{"3d_fullres": 7, "3d_cascade_fullres": 7},
			"ensemble___nnUNetTrainer__nnUNetPlans__3d_fullres___nnUNetTrainer__nnUNetPlans__3d_cascade_fullres___0_1", []string{
				predict + "OUTPUT_FOLDER_MODEL_1 -f 0 1 -tr nnUNetTrainer -c 3d_fullres -p nnUNetPlans --save_probabilities",
				predict + "OUTPUT_FOLDER_PREV_STAGE_MODEL_2 -f 0 1 -tr nnUNetTrainer -c 3d_lowres -p nnUNetPlans",
				predict + "OUTPUT_FOLDER_MODEL_2 -f 0 1 -tr nnUNetTrainer -c 3d_cascade_fullres -p nnUNetPlans -prev_stage_predictions OUTPUT_FOLDER_PREV_STAGE_MODEL_2 --save_probabilities",
				"ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER"}},
		{map[string]int{"3d_lowres": 7, "3d_cascade_fullres": 7},
			"ensemble___nnUNetTrainer__nnUNetPlans__3d_lowres___nnUNetTrainer__nnUNetPlans__3d_cascade_fullres___0_1", []string{
				predict + "OUTPUT_FOLDER_MODEL_1 -f 0 1 -tr nnUNetTrainer -c 3d_lowres -p nnUNetPlans --save_probabilities",
				predict + "OUTPUT_FOLDER_MODEL_2 -f 0 1 -tr nnUNetTrainer -c 3d_cascade_fullres -p nnUNetPlans -prev_stage_predictions OUTPUT_FOLDER_MODEL_1 --save_probabilities",
				"ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER"}},
	} {
		root := filepath.Join(t.TempDir(), "my results")
		b, err := FindBest(t.Context(), madeUpResults(t, root, c.found), Output{})
		require.NoError(t, err)
		require.Equal(t, c.best, b.Best)
		text := content(t, b.Instructions)
		_, ours, _ := strings.Cut(text, "***The same with lntorch:***\n\n")
		for _, line := range c.want {
			own := line
			if strings.HasPrefix(line, "predict ") {
				own += " --results " + Quoted(root+"/results")
			}
			require.Contains(t, ours, "lntorch "+own+"\n")
			require.Contains(t, text, "nnUNetv2_"+strings.Replace(line, " -f 0", " -f  0", 1))
		}
		lines := strings.Split(strings.TrimSpace(ours), "\n")
		require.Len(t, lines, len(c.want)+1)
		require.Contains(t, lines[len(c.want)], "lntorch apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_pkl_file '"+root+"/results/Dataset042_MadeUp/")
	}
}

// The Dice is known by hand: of n voxels of ten found, 2n/(n+10).
func TestTheBestIsTheFirstOfEqualsAndNeverOneWithoutScore(t *testing.T) {
	c := madeUpResults(t, t.TempDir(), map[string]int{"3d_lowres": 6, "3d_fullres": 6})
	b, err := FindBest(t.Context(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, "nnUNetTrainer__nnUNetPlans__3d_lowres", b.Best)
	for _, candidate := range b.Candidates {
		require.Equal(t, 0.75, candidate.Dice, candidate.Name)
	}
	c.NoEnsembles = true
	b, err = FindBest(t.Context(), c, Output{})
	require.NoError(t, err)
	require.Len(t, b.Candidates, 2)

	nan := math.NaN()
	best, err := bestOf([]Candidate{{Name: "a", Dice: nan}, {Name: "b", Dice: 0.2}, {Name: "c", Dice: nan}, {Name: "d", Dice: 0.2}})
	require.NoError(t, err)
	require.Equal(t, "b", best.Name)
	_, err = bestOf([]Candidate{{Name: "a", Folder: "results/a", Dice: nan}})
	require.EqualError(t, err, "the mean Dice of all 1 candidates is undefined: a label or region is in no reference and in no prediction; see results/a/summary.json")
}

func TestIncompleteModelsAreNamedAllAtOnce(t *testing.T) {
	c := madeUpResults(t, t.TempDir(), map[string]int{"3d_lowres": 6, "3d_fullres": 6})
	lowres := filepath.Join(c.Results, "Dataset042_MadeUp/nnUNetTrainer__nnUNetPlans__3d_lowres")
	fullres := filepath.Join(c.Results, "Dataset042_MadeUp/nnUNetTrainer__nnUNetPlans__3d_fullres")
	find := func() error {
		_, err := FindBest(t.Context(), c, Output{})
		return err
	}
	require.NoError(t, os.Remove(filepath.Join(lowres, "fold_0/validation/a.npz")))
	require.NoError(t, os.Rename(filepath.Join(fullres, "fold_1"), filepath.Join(fullres, "fold_2")))
	err := find()
	require.ErrorContains(t, err, lowres+"/fold_0/validation holds no files that end in .npz; there are a.nii.gz, a.pkl, dataset.json, plans.json: lntorch train … --val --npz writes them")
	require.ErrorContains(t, err, fullres+" has no validation of fold 1; it has folds 0: train them")
	require.NoError(t, os.Remove(filepath.Join(lowres, "fold_0/validation/a.nii.gz")))
	require.ErrorContains(t, find(), lowres+"/fold_0/validation holds no files that end in .nii.gz; there are a.pkl, dataset.json, plans.json: lntorch train … --val writes them")
	require.NoError(t, os.Remove(filepath.Join(fullres, "plans.json")))
	require.ErrorContains(t, find(), fullres+"/plans.json is not there: training writes it into the folder of a model")
	require.NoError(t, os.RemoveAll(fullres))
	require.ErrorContains(t, find(), "found no model nnUNetTrainer__nnUNetPlans__3d_fullres; there are nnUNetTrainer__nnUNetPlans__3d_lowres: train every configuration")
	require.NoFileExists(t, filepath.Join(c.Results, "Dataset042_MadeUp/inference_information.json"))
	require.NoDirExists(t, filepath.Join(lowres, "crossval_results_folds_0_1"))
}
