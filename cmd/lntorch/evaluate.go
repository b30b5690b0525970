package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newEvaluate() *cobra.Command {
	var c pipeline.EvaluateConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "evaluate REFERENCE PREDICTION",
		Aliases: []string{"evaluate_folder", "evaluate_simple", "evaluate-folder", "evaluate-simple"},
		Short:   "scores predictions: Dice, surfaces and nodes (nnUNetv2_evaluate_folder, …_simple)",
		Long: `evaluate compares label volumes of two folders by their names, or two files. It writes nnU-Net's summary.json,
and beside it scores.json (surfaces in mm, nodes found, missed and invented, by size), scores.csv (a row per case
and label), nodes.csv (a row per node) and scores.html (the same as tables that sort and filter, in one file that any
browser opens). docs/scores.md defines every number.

Either side may be of any format: NIfTI, NRRD, MetaImage, a label map as a DICOM series, an RTSTRUCT or a DICOM SEG.
The latter are drawn on the grid of the other side, or of --image; --roi says which of their names is which label.

Labels and regions come from dataset.json, which prediction leaves beside its files, or from -l. Both volumes
must lie on one grid. A number that is not defined, such as a distance to an empty mask, is left out of the mean,
whose n says how many cases are in it.`,
		Example: `  lntorch evaluate $nnUNet_raw/Dataset102_X/labelsTs predictions
  lntorch evaluate labelsTs predictions -djfile model/dataset.json -pfile model/plans.json -o scores/summary.json
  lntorch evaluate truth.nii.gz prediction.nii.gz -l 1 --tolerances 2
  lntorch evaluate rtstruct.dcm prediction.nii.gz --roi 'LN=GTVn.*'
  lntorch evaluate structures/ segs/ --image exams/ -l 1 --roi 'LN=GTVn.*|LN.*'`,
		Args: exactly("REFERENCE", "PREDICTION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Reference, c.Prediction, c.Command = args[0], args[1], true
			e, err := pipeline.Evaluate(cmd.Context(), c, output(cmd))
			if e == nil {
				return err
			}
			if asJSON {
				if printErr := printJSON(e.Scores); printErr != nil {
					return printErr
				}
				return err
			}
			if printErr := printScores(e); printErr != nil {
				return printErr
			}
			return err
		},
	}
	bind(cmd, &c)
	cmd.Flags().StringArrayVar(&c.ROIs, "roi", nil, "of RTSTRUCT and SEG: NAME=PATTERN, the label of dataset.json that all ROIs or segments "+
		"belong to whose whole name the regular expression matches, whatever its case; with -l in the order of its labels (default: the names "+
		"of the labels)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printScores prints a table of the labels and where the files are.
func printScores(e *pipeline.Evaluated) error {
	s := e.Scores
	nsd := fmt.Sprintf("NSD_%g", tolerance(s.Settings))
	rule := s.Settings.Match[0].String()
	t := report.Table{Columns: []report.Column{{Name: "label"}}}
	for _, name := range []string{"cases", "Dice", nsd, "HD95", "nodes", "recall", "precision", "F1"} {
		t.Columns = append(t.Columns, report.Column{Name: name, Right: true})
	}
	for _, key := range s.Keys() {
		mean := func(metric string) string {
			m := s.Mean[key][metric]
			if text := number(m.Mean); m.N == len(s.Cases) || m.N == 0 {
				return text
			}
			return fmt.Sprintf("%s (n=%d)", number(m.Mean), m.N)
		}
		a := s.Aggregate[key]
		d := a.Detection[rule]
		of := func(text string) string { // of the cases whose nodes were measured
			if a.N == len(s.Cases) {
				return text
			}
			if a.N == 0 {
				return "–"
			}
			return fmt.Sprintf("%s (n=%d)", text, a.N)
		}
		t.Add(s.Labels[key], fmt.Sprint(len(s.Cases)), mean("Dice"), mean(nsd), mean("HD95"),
			of(fmt.Sprint(d.TP+d.FN)), of(number(d.Recall)), of(number(d.Precision)), of(number(d.F1)))
		for _, class := range s.Settings.Classes() {
			if c := d.BySize[class]; c != nil && (a.N > 0 || len(s.Cases) == 0) {
				t.Add(s.Labels[key]+" "+class+" mm", "", "", "", "", fmt.Sprint(c.TP+c.FN), number(c.Recall),
					number(c.Precision), number(c.F1))
			}
		}
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	for _, path := range e.Files {
		fmt.Println(pipeline.Printable(path))
	}
	return nil
}

// tolerance is that of the table: 2 mm where it is scored, else the first.
func tolerance(s scores.Settings) float64 {
	if slices.Contains(s.Tolerances, 2) {
		return 2
	}
	return s.Tolerances[0]
}

// number is a score with three digits, or a dash where it is undefined.
func number(n scores.Number) string {
	if !n.Defined() {
		return "–"
	}
	return fmt.Sprintf("%.3f", n)
}
