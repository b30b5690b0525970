package main

import (
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newAdapt() *cobra.Command {
	var c pipeline.AdaptConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "adapt --checkpoint MODEL --cases DIR -o OUTPUT",
		Short: "fine-tunes a model on a folder of annotated CTs, and reports what that changed",
		Long: `adapt takes a foundation model and a folder of CTs with their labels, and leaves an adapted model, its scores
before and after on cases that it was not trained on, and a report.

It finds the cases by itself: nnU-Net's raw layout, a folder of images beside a folder of labels, a folder for
each case, or image and label side by side; --images and --labels say it where that is not clear. It checks
every case and prints a table; a case in which something is wrong ends it, before anything is trained.

Every fifth case is held out (--val), or those of --test. The model is scored on them as it is, fine-tuned on
the others, and scored again. With three cases or fewer none is held out.

OUTPUT gets model/ (a model folder, which nnU-Net predicts with), adapter/ or delta.safetensors where the
method leaves one, before/ and after/ (predictions and scores), cases.json, run.json, report.html, and train/
(log, checkpoints, what was made on the way). Ctrl-C saves; -o OUTPUT --c goes on.

Methods:
` + pipeline.MethodHelp(),
		Example: `  lntorch adapt --checkpoint foundation/fold_0/checkpoint_final.pth --cases annotated -o adapted --dry-run
  lntorch adapt --checkpoint foundation --cases annotated -o adapted --time 30m
  lntorch adapt -o adapted --c
  lntorch adapt --checkpoint foundation --cases annotated --test others -o adapted --method lora
  lntorch adapt --checkpoint foundation --cases archive --images '{case}/ct.nii.gz' --labels '{case}/*nodes*.mha' -o adapted
  lntorch adapt --checkpoint foundation --cases annotated --labels-map 'lymph_node=1,3' --val 2 -o adapted --refit`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.CommandLine = os.Args
			a, err := pipeline.Adapt(cmd.Context(), c, output(cmd))
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return printJSON(a)
			case c.DryRun:
				if err := a.WriteTable(os.Stdout); err != nil {
					return err
				}
				fmt.Println(a.Forecast)
				return nil
			}
			return printAdaptation(a)
		},
	}
	bind(cmd, &c)
	bindOptions(cmd, &c.Method)
	cmd.Flags().StringArrayVar(&c.ROIs, "roi", nil, "structures of RTSTRUCT and segments of SEG that are nodes: NAME=PATTERN or PATTERN; may be repeated")
	cmd.Flags().StringArrayVar(&c.LabelsMap, "labels-map", nil, "values of label maps that are one label, NAME=VALUES, such as 'lymph node=1,3'; may be repeated")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printAdaptation prints the scores of the held-out cases before and after, and where the report is.
func printAdaptation(a *pipeline.Adapted) error {
	if a.After != nil {
		if err := adaptationTable(a).Text(os.Stdout); err != nil {
			return err
		}
	}
	for _, n := range a.Notes {
		fmt.Println(n)
	}
	fmt.Println("model  ", pipeline.Printable(a.Model))
	for _, smaller := range []string{a.Adapter, a.Delta} {
		if smaller != "" {
			fmt.Println("smaller", pipeline.Printable(smaller))
		}
	}
	fmt.Println("report ", pipeline.Printable(a.Report))
	return nil
}

// adaptationTable has a row for each held-out case and label, the means over the cases, and the recall of
// the nodes of all cases together.
func adaptationTable(a *pipeline.Adapted) *report.Table {
	t := &report.Table{Columns: []report.Column{{Name: "case"}}}
	several := len(a.After.Keys()) > 1
	if several {
		t.Columns = append(t.Columns, report.Column{Name: "label"})
	}
	for _, metric := range pipeline.AdaptMetrics {
		t.Columns = append(t.Columns, report.Column{Name: metric + " before", Right: true}, report.Column{Name: "after", Right: true})
	}
	row := func(name, key string, cells func(metric string) (before, after string)) {
		list := []string{name}
		if several {
			list = append(list, a.After.Labels[key])
		}
		for _, metric := range pipeline.AdaptMetrics {
			before, after := cells(metric)
			list = append(list, before, after)
		}
		t.Add(list...)
	}
	for _, c := range a.After.Cases {
		for _, key := range a.After.Keys() {
			row(strings.ReplaceAll(pipeline.Printable(c.Case), "\n", " "), key, func(metric string) (before, after string) {
				return number(pipeline.AdaptScore(a.Before, c.Case, key, metric)),
					number(pipeline.AdaptScore(a.After, c.Case, key, metric))
			})
		}
	}
	mean := func(side map[string]scores.Mean, metric string) string {
		m, ok := side[metric]
		if !ok {
			m = scores.Mean{Mean: scores.Number(math.NaN()), N: len(a.After.Cases)}
		}
		text := number(m.Mean)
		if metric != pipeline.AdaptRecallNodes && m.N < len(a.After.Cases) {
			text += fmt.Sprintf(" (n=%d)", m.N)
		}
		return text
	}
	for _, key := range a.After.Keys() {
		m := a.Means[key]
		row("mean", key, func(metric string) (before, after string) {
			return mean(m.Before, metric), mean(m.After, metric)
		})
		row("all nodes", key, func(metric string) (before, after string) {
			if metric != pipeline.AdaptRecall {
				return "", ""
			}
			return mean(m.Before, pipeline.AdaptRecallNodes), mean(m.After, pipeline.AdaptRecallNodes)
		})
	}
	return t
}
