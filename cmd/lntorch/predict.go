package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/system"
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
nnU-Net's naming, or files of any name, or DICOM series: each a file, a folder or a zip. A folder without
images in nnU-Net's naming is DICOM if it holds any. --series, --fix-geometry, --to and what belongs to it
are those of image convert.

An output folder gets CASE.nii.gz, with --save_probabilities CASE.npz and CASE.pkl, and dataset.json,
plans.json, predict_from_raw_data_args.json and run.json. Files appear when they are complete. A case that
fails is named, the others are finished, and the exit code is 1. --continue_prediction leaves out what is
done.

Under torchrun, mpirun or srun rank r of n takes cases r, r+n, r+2n, …, as -num_parts n -part_id r does.

Without -f all folds with the checkpoint are averaged. --numerics reference does nnU-Net's roundings.

--dry-run lists the cases with the tiles, memory and time that they will take, and writes nothing; a run
says the same before it begins. --max-ram and --max-vram bound the memory of the sums of logits: planes
that exceed them are cut into strips, and folds whose weights exceed them are loaded in turn. A GPU that
runs out of memory continues with fewer tiles at a time, then with sums in the computer's memory, then on
the CPU; each step is said.

--skip-air leaves out tiles without tissue (CT only): faster, and usually the same labels, which
--skip-air=check counts. --reorient turns an image of another orientation than the training images'.`,
		Example: `  lntorch predict -i ct.nii.gz -o nodes.nii.gz -m model/fold_0/checkpoint_final.pth
  lntorch predict -i imagesTs -o predictions -d 102 -c 3d_fullres -f 0 1 2 3 4
  lntorch predict -i exam/ -o nodes.dcm --to seg -m model/fold_0/checkpoint_final.pth
  lntorch predict -i patients/*.zip -o predictions -d 102 -c 3d_fullres
  lntorch predict -i imagesTs -o predictions -m model/fold_0/delta.safetensors --base foundation.pth
  lntorch predict -i imagesTs -o predictions -d 102 -c 3d_fullres --dry-run --max-ram 8
  lntorch predict -i imagesTs -o predictions -d 102 -c 3d_fullres --skip-air=check --reorient=LPS
  lntorch predict_from_modelfolder -i imagesTs -o predictions -m nnUNetTrainer__nnUNetPlans__3d_fullres --save_probabilities`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usage(cmd, fmt.Errorf("%q follows no flag that takes it: several values may follow -i and -f; those of --skip-air and --reorient stand behind =, as in --skip-air=check", args[0]))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Parts share nothing, so that it does not matter where they would meet.
			w, err := launch.Config{Dist: c.Dist, Master: "localhost:1"}.World(os.Getenv)
			if err != nil {
				return err
			}
			c.World = w
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
		fmt.Println(oneLine(p.Output) + "  already there")
		return
	case pipeline.PredictionPlanned:
		printPlanned(p)
		return
	}
	parts := []string{p.Output}
	for _, value := range slices.Sorted(maps.Keys(p.Labels)) {
		l := p.Labels[value]
		parts = append(parts, fmt.Sprintf("%s %d, %.2f ml", l.Name, l.Components, l.MM3/1000))
	}
	if a := p.Air; a != nil {
		text := fmt.Sprintf("%d of %d tiles are air", a.Tiles, p.Tiles)
		if a.LabelsChanged != nil {
			text += fmt.Sprintf(", %d labels would change", *a.LabelsChanged)
		}
		parts = append(parts, text)
	}
	t := p.Seconds
	parts = append(parts, fmt.Sprintf("%.1f s", t.Read+t.Preprocess+t.Network+t.Export))
	fmt.Println(oneLine(strings.Join(parts, "  ")))
}

// printPlanned prints one line of --dry-run.
func printPlanned(p pipeline.Prediction) {
	f := p.Forecast
	tiles := fmt.Sprintf("%d tiles", p.Tiles)
	if p.Repeated > 0 {
		tiles += fmt.Sprintf(" in %d strips (%d again)", p.Strips, p.Repeated)
	}
	fmt.Printf("%s  %d×%d×%d at %.3g×%.3g×%.3g mm  %s, %d passes  %s  %.1f s\n", p.Output,
		f.Size[2], f.Size[1], f.Size[0], f.Spacing[2], f.Spacing[1], f.Spacing[0], tiles, f.Passes,
		system.Size(f.Bytes), f.Seconds)
}

// oneLine keeps what a name may hold from splitting a line or reaching the terminal as a command.
func oneLine(s string) string {
	return strings.ReplaceAll(pipeline.Printable(s), "\n", "\uFFFD")
}
