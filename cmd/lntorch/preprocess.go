package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

const keptHelp = `A case that is there already, made of the same files with the same settings, stays; --clean makes all of them
again, as nnU-Net does. Cases in the folder that the dataset no longer has are removed and named. One bad case
does not lose the others: it is named at the end, and the exit code is 1. Ctrl-C leaves no file half-written;
the same command continues from there.`

func newPreprocess() *cobra.Command {
	var c pipeline.PreprocessConfig
	cmd := &cobra.Command{
		Use:   "preprocess -d DATASET...",
		Short: "makes training data of raw datasets, as planned (nnUNetv2_preprocess)",
		Long: `preprocess crops, normalises and resamples the cases of raw datasets as the plans say, and writes .npz and
.pkl files with nnU-Net's numbers, on which nnU-Net trains, too.

` + keptHelp,
		Example: `  lntorch preprocess -d 102 -c 3d_fullres
  lntorch preprocess -d 102 -plans_name nnUNetPlansSource -c 3d_phantom -np 4`,
		Args: cobra.ArbitraryArgs,
	}
	bind(cmd, &c)
	runPreprocessing(cmd, func(ctx context.Context, args []string, o pipeline.Output, done func(pipeline.Preprocessed) error) error {
		c.Names = append(c.Names, args...)
		return pipeline.Preprocess(ctx, c, o, done)
	})
	return cmd
}

func newPlanAndPreprocess() *cobra.Command {
	var c pipeline.PlanAndPreprocessConfig
	cmd := &cobra.Command{
		Use:   "plan-and-preprocess -d DATASET...",
		Short: "fingerprint, plan and preprocess in one (nnUNetv2_plan_and_preprocess)",
		Long: `plan-and-preprocess measures raw datasets, plans their training and makes the training data; see lntorch
fingerprint, plan and preprocess.

` + keptHelp,
		Example: `  lntorch plan-and-preprocess -d 102 --verify_dataset_integrity
  lntorch plan-and-preprocess -d 2 4 -pl nnUNetPlannerResEncL -c 3d_fullres
  lntorch plan-and-preprocess -d 102 --no_pp`,
		Args: cobra.ArbitraryArgs,
	}
	bind(cmd, &c)
	runPreprocessing(cmd, func(ctx context.Context, args []string, o pipeline.Output, done func(pipeline.Preprocessed) error) error {
		c.Names = append(c.Names, args...)
		return pipeline.PlanAndPreprocess(ctx, c, o, done)
	})
	return cmd
}

// runPreprocessing prints what was made.
func runPreprocessing(cmd *cobra.Command, road func(context.Context, []string, pipeline.Output, func(pipeline.Preprocessed) error) error) {
	var asJSON bool
	jsonFlag(cmd, &asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return printEach(asJSON, printPreprocessed, func(done func(pipeline.Preprocessed) error) error {
			return road(cmd.Context(), args, output(cmd), done)
		})
	}
}

func printPreprocessed(p pipeline.Preprocessed) {
	fmt.Println(p.Folder)
	line := fmt.Sprintf("%d cases made, %d kept", p.Made, p.Kept)
	if len(p.Removed) > 0 {
		line += ", removed as the dataset no longer has them: " + strings.Join(p.Removed, ", ")
	}
	if len(p.Failed) > 0 {
		line += ", failed: " + strings.Join(p.Failed, ", ")
	}
	fmt.Println(line)
}
