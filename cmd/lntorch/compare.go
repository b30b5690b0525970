package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

func newCompare() *cobra.Command {
	var c pipeline.CompareConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare {NAME=SCORES... | DATASET CONFIGURATION NAME=FOLDER...}",
		Short: "sets models side by side: by their scores.json, or validations with a picture",
		Long: `compare NAME=SCORES… reads the scores.json of evaluate, or folders that hold one, of several models on the same
cases. It prints the means with the paired differences to the first model, every case by one --metric, and how many
nodes of the reference were found by all models, by none, or by one alone, by size. With -o it writes every case,
metric and node: all in one .json, or tables in a .csv and the .nodes.csv beside it. Scores with other settings,
cases or references are refused.

compare DATASET CONFIGURATION NAME=FOLDER… reads validation folders (of train, or of validate) and prints the Dice,
or another --metric, of every case in each of them, with the means. With -o it also draws, for every case, the CT
slice with most of the reference, the reference, and each prediction.`,
		Example: `  lntorch compare before=before/scores.json after=after/scores.json
  lntorch compare full=results/full DGST=results/DGST LoRA=results/LoRA --metric HD95 -o compared.csv
  lntorch compare 102 3d_fullres before=before after=results/…/fold_0/validation -o compare.png`,
		Args: func(cmd *cobra.Command, args []string) error {
			if ofScores(args) || len(args) >= 3 {
				return nil
			}
			return usage(cmd, errors.New("expected two NAME=SCORES or more, or DATASET CONFIGURATION and "+
				"at least one NAME=FOLDER"))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if ofScores(args) {
				return compareScores(cmd, c, args, asJSON)
			}
			if asJSON {
				return settings.Usage("--json is for scores.json: compare NAME=SCORES NAME=SCORES")
			}
			c.Dataset, c.Configuration, c.Validations = args[0], args[1], args[2:]
			err := pipeline.Compare(c, os.Stdout)
			if err == nil && c.Picture != "" {
				fmt.Println("picture:", c.Picture)
			}
			return err
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().Lookup("metric").Usage += ": " + strings.Join(pipeline.MetricNames(), ", ") +
		"; of scores.json any metric in it, or recall, precision, F1, fp of the nodes"
	return cmd
}

// ofScores reports whether the arguments are scores alone: datasets and configurations have no name.
func ofScores(args []string) bool {
	return len(args) > 0 &&
		!slices.ContainsFunc(args, func(a string) bool { return !strings.Contains(a, "=") })
}

func compareScores(cmd *cobra.Command, c pipeline.CompareConfig, args []string, asJSON bool) error {
	for _, name := range []string{"raw", "preprocessed", "plans", "cases"} {
		if cmd.Flags().Changed(name) {
			return settings.Usage("--%s is for validations of a dataset: compare DATASET CONFIGURATION "+
				"NAME=FOLDER", name)
		}
	}
	c.Validations = args
	compared, files, err := pipeline.CompareScores(c)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(compared)
	}
	if err := pipeline.PrintComparison(os.Stdout, compared, c.Metric); err != nil {
		return err
	}
	for _, path := range files {
		fmt.Println(pipeline.Printable(path))
	}
	return nil
}
