package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

func newPlan() *cobra.Command {
	var c pipeline.PlanConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan -d DATASET...",
		Short: "plans training from a fingerprint: spacing, patches, networks (nnUNetv2_plan_experiment)",
		Long: `plan writes the plans file of each dataset, as nnUNetv2_plan_experiment does, and copies dataset.json and
splits_final.json beside it. Configurations of a plans file that is there already stay if the planner makes
none of their name.

Planners (-pl): ` + strings.Join(planner.Names(), ", ") + `.
To fine-tune a pretrained model, plan with its planner, then adopt its configuration: lntorch adopt.`,
		Example: `  lntorch plan -d 102
  lntorch plan -d 102 -pl nnUNetPlannerResEncL -gpu_memory_target 40 -overwrite_plans_name nnUNetResEncUNetPlans_40G
  lntorch plan -d 102 -overwrite_target_spacing 3 1 1`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Names = append(c.Names, args...)
			list := []pipeline.PlansSummary{}
			err := pipeline.Plan(c, func(s pipeline.PlansSummary) error {
				list = append(list, s)
				if asJSON {
					return nil
				}
				return printPlans(s)
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

func printPlans(s pipeline.PlansSummary) error {
	fmt.Println(s.File)
	t := report.Table{Columns: []report.Column{{Name: "configuration"}, {Name: "spacing in mm"}, {Name: "median image"}, {Name: "patch"}, {Name: "batch", Right: true},
		{Name: "stages", Right: true}, {Name: "network"}}}
	for _, c := range s.Configurations {
		if c.Error != "" {
			t.Add(c.Name, c.Error)
			continue
		}
		t.Add(c.Name, times("%.4g", c.Spacing), times("%.6g", c.Median), times("%d", c.Patch), fmt.Sprint(c.Batch), fmt.Sprint(c.Stages), c.Network)
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	for _, n := range s.Notes {
		fmt.Println("note:", n)
	}
	return nil
}

// times prints sizes along axes: 16 × 48 × 48.
func times[T any](format string, sizes []T) string {
	var parts []string
	for _, x := range sizes {
		parts = append(parts, fmt.Sprintf(format, x))
	}
	return strings.Join(parts, " × ")
}
