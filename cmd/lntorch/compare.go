package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newCompare() *cobra.Command {
	var c pipeline.CompareConfig
	cmd := &cobra.Command{
		Use:   "compare DATASET CONFIGURATION NAME=FOLDER...",
		Short: "sets validations of the same cases side by side: a table of scores and a picture",
		Long: `compare reads validation folders (of train, or of validate) and prints the Dice, or another --metric, of every
case in each of them, with the means. With -o it also draws, for every case, the CT slice with most of the
reference, the reference, and each prediction.`,
		Example: `  lntorch compare 102 3d_fullres before=before after=results/…/fold_0/validation -o compare.png`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 3 {
				return usage(cmd, errors.New("expected DATASET CONFIGURATION and at least one NAME=FOLDER"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c.Dataset, c.Configuration, c.Validations = args[0], args[1], args[2:]
			err := pipeline.Compare(c, os.Stdout)
			if err == nil && c.Picture != "" {
				fmt.Println("picture:", c.Picture)
			}
			return err
		},
	}
	bind(cmd, &c)
	cmd.Flags().Lookup("metric").Usage += ": " + strings.Join(pipeline.MetricNames(), ", ")
	return cmd
}
