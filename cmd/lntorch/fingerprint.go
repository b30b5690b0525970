package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newFingerprint() *cobra.Command {
	var c pipeline.FingerprintConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fingerprint -d DATASET...",
		Short: "measures raw datasets: spacings, shapes, intensities (nnUNetv2_extract_fingerprint)",
		Long: `fingerprint writes dataset_fingerprint.json into the preprocessed dataset's folder, byte for byte as
nnUNetv2_extract_fingerprint does. A fingerprint that is there already stays, unless --clean asks for a new
one.

--verify_dataset_integrity checks the dataset first, and reports everything that is wrong at once: missing
files, shapes, spacings and channels that do not match, labels that dataset.json does not know, NaN. Warnings
(origin, direction) do not stop it.`,
		Example: `  lntorch fingerprint -d 102 --verify_dataset_integrity
  lntorch fingerprint -d 2 4 Dataset005_Prostate -np 4 --clean`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Names = append(c.Names, args...)
			list := []pipeline.Fingerprinted{}
			err := pipeline.Fingerprint(cmd.Context(), c, output(cmd), func(f pipeline.Fingerprinted) error {
				list = append(list, f)
				if asJSON {
					return nil
				}
				return printFingerprint(f)
			})
			if err == nil && asJSON {
				err = printJSON(list)
			}
			return err
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printFingerprint(f pipeline.Fingerprinted) error {
	fmt.Println(f.File)
	if f.Found {
		fmt.Println("was there already; --clean measures again")
	}
	t := report.Table{Columns: []report.Column{{Name: "channel"}, {Name: "mean", Right: true}, {Name: "std", Right: true}, {Name: "0.5 %", Right: true},
		{Name: "median", Right: true}, {Name: "99.5 %", Right: true}}}
	number := func(x float64) string { return fmt.Sprintf("%.5g", x) }
	for i, c := range f.Channels {
		name := fmt.Sprint(i)
		if i < len(f.Names) {
			name = f.Names[i]
		}
		t.Add(name, number(c.Mean), number(c.Std), number(c.Percentile005), number(c.Median), number(c.Percentile995))
	}
	return t.Text(os.Stdout)
}
