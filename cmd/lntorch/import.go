package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newImport() *cobra.Command {
	var c pipeline.ImportConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import SRC… -d ID --name NAME --label NAME=PATTERN…",
		Short: "makes an nnUNet_raw dataset of DICOM archives, or of images and labels in pairs of files",
		Long: `import makes DatasetIII_NAME in nnU-Net's folder of raw datasets: imagesTr/NAME_0001_0000.nii.gz, labelsTr/NAME_0001.nii.gz, …,
numbered in the order of the sources' paths, and dataset.json.

SRC are folders (read with all below them, but for zips, which are named), files or zips of DICOM. A case is an image stack and the RTSTRUCT or SEG that refers to its
series or, if that is not there, shares its frame of reference and study. --label NAME=PATTERN makes a label of all ROIs or segments
whose whole name the regular expression matches, case ignored; the order gives the values 1, 2, …; where labels overlap, the later one
wins. Of several labels some may be absent; a case in which none matches is left out. Of several RTSTRUCT and SEG for a series one must
match alone, or --newest takes the last by date. --dry-run shows what would become of everything, and the names of ROIs and segments
with counts: so one finds the pattern.

With --images and --labels the cases are files in pairs: paths below SRC in which {case} stands for any text without /. An image may be
any image file, or a folder or zip of DICOM with one stack; labels are label maps, for which PATTERN is a list of values (1,3), RTSTRUCT
or SEG.

A case that fails does not stop the others: it is named in the end, and the exit code is 1. The same command again does what is missing:
cases keep their names, new ones get the lowest free numbers. import.json holds for each case size, spacing, problems of the geometry,
voxels of each label and the sha256 of the image, but no name and no path; --map FILE says which case is which.`,
		Example: `  lntorch import RADCURE/ --dry-run
  lntorch import RADCURE/ -d 110 --name RADCURE --label LN='GTVn.*|LN.*'
  lntorch import exports/*.zip -d 112 --name EXPORTS --label LN='LN.*' --newest --map key.csv
  lntorch import lnq/ -d 111 --name LNQ2023 --images '{case}-ct.nrrd' --labels '{case}-seg.nrrd' --label LN=1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, errors.New("found no argument, expected SRC…"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Sources = args
			r, err := pipeline.Import(cmd.Context(), c, output(cmd))
			if r == nil {
				return err
			}
			show := func() error { return printImported(r, c.DryRun) }
			if asJSON {
				show = func() error { return printJSON(r) }
			}
			return errors.Join(show(), err)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().StringArrayVar(&c.Labels, "label", nil, "NAME=PATTERN: a label of all ROIs or segments whose whole name the regular expression "+
		"matches, case ignored; of label maps PATTERN is a list of values; may be repeated: the labels are 1, 2, …")
	return cmd
}

// printImported prints the cases, what is left out and, with dry, the names that there are.
func printImported(r *pipeline.Imported, dry bool) error {
	t := report.Table{Columns: []report.Column{{Name: "case"}, {Name: "size"}, {Name: "spacing mm"}, {Name: "labels"}, {Name: "image"}}}
	if !dry {
		t.Columns[3].Name = "voxels"
	}
	counts := map[string]int{}
	for _, c := range r.Cases {
		counts[c.Status]++
		labels := importedLabels(c, dry)
		if c.Status != pipeline.ImportPlanned && c.Status != pipeline.ImportWritten {
			labels = strings.TrimSuffix(c.Status+", "+labels, ", ")
		}
		size, spacing := make([]string, len(c.Size)), make([]string, len(c.Spacing))
		for i, n := range c.Size {
			size[i] = strconv.Itoa(n)
		}
		for i, x := range c.Spacing {
			spacing[i] = strconv.FormatFloat(x, 'g', 4, 64)
		}
		t.Add(c.Case, strings.Join(size, "×"), strings.Join(spacing, "×"), labels, oneLine(c.Image))
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	if dry {
		for _, c := range r.Cases {
			for _, text := range append(c.Warnings, c.Error) {
				if text != "" {
					fmt.Printf("%s: %s\n", oneLine(c.Image), pipeline.Printable(strings.TrimPrefix(text, c.Image+": ")))
				}
			}
		}
	}
	if len(r.LeftOut) > 0 {
		fmt.Println("\nleft out:")
		for _, l := range r.LeftOut {
			fmt.Println("  " + oneLine(strings.TrimPrefix(l.Source+": "+l.Reason, ": ")))
		}
	}
	if !dry {
		fmt.Printf("\n%s: %d cases written, %d were there, %d failed\n", r.Dataset, counts[pipeline.ImportWritten], counts[pipeline.ImportKept],
			counts[pipeline.ImportFailed])
		return nil
	}
	if len(r.Names) > 0 {
		fmt.Println("\nnames:")
		names := report.Table{Columns: []report.Column{{Name: "in", Right: true}, {Name: "kind"}, {Name: "name"}, {Name: "label"}}}
		for _, n := range r.Names {
			names.Add(strconv.Itoa(n.Count), n.Kind, oneLine(n.Name), strings.Join(n.Labels, ", "))
		}
		return names.Text(os.Stdout)
	}
	return nil
}

// importedLabels are the labels of a case: how many parts match, or how many voxels they have.
func importedLabels(c pipeline.ImportedCase, dry bool) string {
	of := c.Voxels
	switch {
	case c.Test:
		return "none, for testing"
	case dry && c.Status != pipeline.ImportKept && c.Parts == nil:
		return fmt.Sprintf("%d names", c.Found)
	case dry && c.Status != pipeline.ImportKept:
		of = c.Parts
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, of[name]))
	}
	return strings.Join(parts, ", ")
}
