package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newPredict() *cobra.Command {
	var c pipeline.PredictConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "predict -i IMAGES -o OUTPUT (-m MODEL | -d DATASET -c CONFIGURATION)",
		Aliases: []string{"predict_from_modelfolder", "predict-from-modelfolder"},
		Short:   "segments images with a trained model (nnUNetv2_predict)",
		Long: `predict segments images on their own grid, as nnUNetv2_predict and nnUNetv2_predict_from_modelfolder do.
The model is a folder of nnU-Net's results, one fold of it, or a single checkpoint. Images are a folder in
nnU-Net's naming, or files of any name.

An output folder gets CASE.nii.gz, with --save_probabilities CASE.npz and CASE.pkl, and dataset.json,
plans.json, predict_from_raw_data_args.json and run.json. Files appear when they are complete. A case that
fails is named, the others are finished, and the exit code is 1. --continue_prediction leaves out what is
done.

Without -f all folds with the checkpoint are averaged. --numerics reference does nnU-Net's roundings.`,
		Example: `  lntorch predict -i ct.nii.gz -o nodes.nii.gz -m model/fold_0/checkpoint_final.pth
  lntorch predict -i imagesTs -o predictions -d 102 -c 3d_fullres -f 0 1 2 3 4
  lntorch predict_from_modelfolder -i imagesTs -o predictions -m nnUNetTrainer__nnUNetPlans__3d_fullres --save_probabilities`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printEach(asJSON, printPrediction, func(done func(pipeline.Prediction) error) error {
				return pipeline.Predict(cmd.Context(), c, output(cmd), done)
			})
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printPrediction prints one line; of a case that failed stderr tells.
func printPrediction(p pipeline.Prediction) {
	switch p.Status {
	case pipeline.PredictionFailed:
		return
	case pipeline.PredictionSkipped:
		fmt.Printf("%s  is there\n", p.Output)
		return
	}
	parts := []string{p.Output}
	for _, value := range slices.Sorted(maps.Keys(p.Labels)) {
		l := p.Labels[value]
		parts = append(parts, fmt.Sprintf("%s %d, %.2f ml", l.Name, l.Components, l.MM3/1000))
	}
	t := p.Seconds
	parts = append(parts, fmt.Sprintf("%.1f s", t.Read+t.Preprocess+t.Network+t.Export))
	fmt.Println(strings.Join(parts, "  "))
}
