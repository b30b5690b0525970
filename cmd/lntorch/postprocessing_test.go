package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// nnU-Net's command lines work with nnUNetv2_ replaced by the program's name.
func TestCommandLinesOfNnUNetForPostprocessingAndEnsembles(t *testing.T) {
	for line, want := range map[string]map[string]any{
		"determine_postprocessing -i in -ref gt -plans_json p.json -dataset_json d.json -np 4 --remove_postprocessed": {
			"input": "in", "reference": "gt", "plans-json": "p.json", "dataset-json": "d.json", "np": 4, "remove-postprocessed": true},
		"apply_postprocessing -i in -o out -pp_pkl_file p.pkl -np 8 -plans_json p.json -dataset_json d.json": {
			"input": "in", "output": "out", "pp-pkl-file": "p.pkl", "np": 8, "plans-json": "p.json", "dataset-json": "d.json"},
		"postprocess -i in -o out -pp_pkl_file p.pkl": {"input": "in", "output": "out", "pp-pkl-file": "p.pkl", "np": 0},
		"ensemble -i A B C -o out -np 2 --save_npz": {
			"input": []string{"A", "B", "C"}, "output": "out", "np": 2, "save-npz": true, "weights": []float64(nil)},
		"ensemble -i A B -o out --weights 2 1": {"input": []string{"A", "B"}, "weights": []float64{2, 1}},
		"accumulate_crossval_results 4 -c 3d_fullres -o out -f 0 1 2 -p myPlans -tr nnUNetTrainer_DGST": {
			"configuration": "3d_fullres", "output": "out", "folds": []int{0, 1, 2}, "plans": "myPlans", "trainer": "nnUNetTrainer_DGST"},
		"accumulate Dataset004_X -c 2d": {
			"configuration": "2d", "folds": []int{0, 1, 2, 3, 4}, "plans": "nnUNetPlans", "trainer": "nnUNetTrainer"},
		"find_best_configuration 4 -p A B -c 2d 3d_fullres -tr T U -np 3 -f 0 1 --disable_ensembling --no_overwrite": {
			"plans": []string{"A", "B"}, "configuration": []string{"2d", "3d_fullres"}, "trainer": []string{"T", "U"}, "np": 3,
			"folds": []int{0, 1}, "disable-ensembling": true, "no-overwrite": true},
		"find-best-configuration 4": {"plans": []string{"nnUNetPlans"}, "trainer": []string{"nnUNetTrainer"}, "folds": []int{0, 1, 2, 3, 4},
			"configuration": []string{"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}, "disable-ensembling": false},
		"determine_postprocessing -i in -ref gt --small": {"small": true},
	} {
		cmd, err := parsed(t, strings.Fields(line)...)
		require.NoError(t, err, line)
		for flag, value := range want {
			require.Equal(t, value, cmd.Flags().Lookup(flag).Value.(*settings.Field).Value(), "%s: %s", line, flag)
		}
	}
	for _, name := range []string{"determine-postprocessing", "apply-postprocessing"} {
		cmd, _, err := newRoot().Find([]string{strings.ReplaceAll(name, "-", "_")})
		require.NoError(t, err)
		require.Equal(t, name, cmd.Name())
	}
}

func TestPostprocessingAndEnsemblesEndWithExitCodes(t *testing.T) {
	for line, want := range map[string]struct {
		code    int
		message string
	}{
		"determine-postprocessing":                            {2, "-i and -ref must be given"},
		"apply-postprocessing -i a -o b":                      {2, "-i, -o and -pp_pkl_file must be given"},
		"apply-postprocessing -i a -o b -pp_pkl_file none":    {1, "none is not there: determine-postprocessing writes it"},
		"ensemble -o b":                                       {2, "-i and -o must be given"},
		"ensemble -i a -o b --weights -1":                     {2, "--weights"},
		"accumulate":                                          {2, "expected 1: DATASET"},
		"accumulate 4":                                        {2, "-c and -f must be given"},
		"find-best":                                           {2, "expected 1: DATASET"},
		"find-best 4 --results r":                             {2, "--preprocessed is not given and nnUNet_preprocessed is not set"},
		"find-best 4 -f x":                                    {2, "-f"},
		"find-best 4 --results r --preprocessed p":            {1, "dataset 4: no folder Dataset004_… in p, r"},
		"find-best Dataset004_X --results r --preprocessed p": {1, "p/Dataset004_X/nnUNetPlans.json is not there: it says which configurations the dataset has; plan the dataset"},
		"determine-postprocessing -i none -ref b":             {1, "none: found no folder there, expected one of label volumes"},
		"ensemble -i none -o b":                               {1, "none: found no folder there, expected one of label volumes"},
		"ensemble -i none -o b --weights 1 2":                 {2, "--weights: found 2, expected one for each of the 1 folders"},
		"accumulate 4 -c 2d":                                  {2, "--results is not given and nnUNet_results is not set"},
		"accumulate Dataset004_X -c 2d --results r":           {1, "r/Dataset004_X/nnUNetTrainer__nnUNetPlans__2d is not there: train the model"},
	} {
		r := execute(t, command(t, strings.Fields(line)...))
		require.Equal(t, want.code, r.code, "%s: %s", line, r.errOut)
		require.Contains(t, r.errOut, want.message, line)
		require.Empty(t, r.out, line)
	}
}
