package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lntorch/lntorch/internal/settings"

	// Methods register themselves.
	_ "github.com/lntorch/lntorch/baselines"
	_ "github.com/lntorch/lntorch/dgst"
)

// commands are the subcommands, in the order of --help's listing by name.
var commands = []func() *cobra.Command{
	newAdapt, newAdopt, newAugment, newBench, newCompare, newConfig, newConvert, newDoctor, newExperiment, newExport, newFingerprint, newForward, newImage, newImport,
	newInspect, newMerge, newMovePlans, newPhantom, newPlan, newPlanAndPreprocess, newPreprocess, newTrace, newTrain, newValidate,
	newDeterminePostprocessing,
	newApplyPostprocessing,
	newEnsemble,
	newAccumulate,
	newEvaluate,
	newFindBest,
	newPredict,
	newView,
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lntorch",
		Short: "few-shot fine-tuning of CT lymph-node segmentation models",
		Long: `lntorch adapts CT lymph-node segmentation foundation models (nnU-Net networks) to a new hospital with a few
annotated scans, by Dynamic Gradient Sparsification Training (DGST) and the methods it is compared with. It opens the
checkpoints that PyTorch and nnU-Net wrote, and writes checkpoints that nnU-Net opens.

nnU-Net's commands keep their argument order and their single-dash flags (-tr, -p, -device, …).
Settings come from flags, then LNTORCH_… variables, then --config FILE, then defaults; ` + "`lntorch config`" + ` shows them.`,
		Example: `  lntorch train 102 3d_fullres 0 -tr nnUNetTrainer_DGST -pretrained_weights model/checkpoint_final.pth
  lntorch inspect model/checkpoint_final.pth
  lntorch doctor`,
		Version:           version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: applySettings,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().String("config", "", "file of settings (YAML, TOML or JSON): flag names and values")
	root.PersistentFlags().Bool("quiet", false, "no progress")
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-")) // nnU-Net's --val_best is --val-best
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, suggest(cmd, err)) })
	for _, add := range commands {
		root.AddCommand(add())
	}
	for _, c := range root.Commands() {
		leaveUsageToTheirCommand(c)
	}
	return root
}

func usage(cmd *cobra.Command, err error) error {
	path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "lntorch"), " ")
	if path != "" {
		path += " "
	}
	return &usageError{command: path, err: err}
}

// leaveUsageToTheirCommand makes a mistake that a road finds in its settings a mistake in the command line.
func leaveUsageToTheirCommand(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		leaveUsageToTheirCommand(c)
	}
	run := cmd.RunE
	if run == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		var mistake *settings.UsageError
		if errors.As(err, &mistake) {
			err = usage(cmd, err)
		}
		var found *usageError
		if errors.As(err, &found) {
			found.ran = true
		}
		return err
	}
}

// exactly checks the number of positional arguments and names them in the message.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return usage(cmd, fmt.Errorf("found %d arguments, expected %d: %s", len(args), len(names), strings.Join(names, " ")))
	}
}
