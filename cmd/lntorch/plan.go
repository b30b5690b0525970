package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
)

// defaultWorkers is how many cases are read at a time. Source: nnUNet_def_n_proc, 8; more than the cores do not help.
func defaultWorkers() int { return min(8, runtime.GOMAXPROCS(0)) }

func newFingerprint() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fingerprint -d DATASET...",
		Short: "measures raw datasets: spacings, shapes, intensities (nnUNetv2_extract_fingerprint)",
		Long: `fingerprint writes dataset_fingerprint.json into the preprocessed dataset's folder, byte for byte as nnUNetv2_extract_fingerprint does. A fingerprint that is
there already stays, unless --clean asks for a new one.

--verify_dataset_integrity checks the dataset first, and reports everything that is wrong at once: missing files, shapes, spacings and channels that do not
match, labels that dataset.json does not know, NaN. Warnings (origin, direction) do not stop it.`,
		Example: `  lntorch fingerprint -d 102 --verify_dataset_integrity
  lntorch fingerprint -d 2 4 Dataset005_Prostate -np 4 --clean`,
		Args: cobra.ArbitraryArgs,
		RunE: runFingerprint,
	}
	f := cmd.Flags()
	f.StringSliceP("dataset", "d", nil, "datasets: numbers or names; several may follow")
	f.Int("np", defaultWorkers(), "cases at a time (-np)")
	f.String("fpe", "DatasetFingerprintExtractor", "nnU-Net's class (-fpe); there is one")
	f.Bool("verify-dataset-integrity", false, "check the dataset first")
	f.Bool("clean", false, "measure anew what is measured already")
	f.Bool("verbose", false, "accepted as nnU-Net's; see --quiet")
	f.Bool("json", false, "print JSON")
	folders(cmd, "raw", "preprocessed")
	return cmd
}

// datasets opens the raw datasets that -d and the arguments name.
func datasets(cmd *cobra.Command, args []string) ([]*raw.Dataset, error) {
	names, _ := cmd.Flags().GetStringSlice("dataset")
	names = append(names, args...)
	if len(names) == 0 {
		return nil, usage(cmd, errors.New("no dataset is given: -d NUMBER or NAME"))
	}
	var list []*raw.Dataset
	for _, name := range names {
		d, err := openRaw(cmd, name)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// openRaw opens a raw dataset that is named in full or by its number.
func openRaw(cmd *cobra.Command, name string) (*raw.Dataset, error) {
	root, err := folder(cmd, "raw")
	if err != nil {
		return nil, err
	}
	preprocessed, _ := cmd.Flags().GetString("preprocessed")
	name, err = raw.FindName(name, root, preprocessed)
	if err != nil {
		return nil, err
	}
	return raw.Open(root, name)
}

// fingerprintSummary is what --json prints of each dataset.
type fingerprintSummary struct {
	Dataset  string            `json:"dataset"`
	File     string            `json:"file"`
	Found    bool              `json:"found"` // it was there already
	Cases    int               `json:"cases"`
	Channels []plans.Intensity `json:"channels"`
}

func runFingerprint(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	if class, _ := f.GetString("fpe"); class != "DatasetFingerprintExtractor" {
		return usage(cmd, fmt.Errorf("-fpe %s: lntorch has DatasetFingerprintExtractor alone", class))
	}
	asJSON, _ := f.GetBool("json")
	clean, _ := f.GetBool("clean")
	verify, _ := f.GetBool("verify-dataset-integrity")
	workers, _ := f.GetInt("np")
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	if verify {
		if err := verifyAll(cmd, args, workers); err != nil {
			return err
		}
	}
	list, err := datasets(cmd, args)
	if err != nil {
		return err
	}
	con := newConsole(cmd)
	var summaries []fingerprintSummary
	for _, d := range list {
		fp, found, err := fingerprint.ExtractFolder(cmd.Context(), d, filepath.Join(preprocessed, d.Name), clean, fingerprint.Options{Workers: workers, Progress: con})
		if err != nil {
			return err
		}
		path := filepath.Join(preprocessed, d.Name, fingerprint.File)
		summaries = append(summaries, fingerprintSummary{d.Name, path, found, len(fp.Shapes), fp.Channels})
		if asJSON {
			continue
		}
		fmt.Println(path)
		if found {
			fmt.Println("was there already; --clean measures anew")
		}
		t := report.Table{Columns: []report.Column{{Name: "channel"}, {Name: "mean", Right: true}, {Name: "std", Right: true}, {Name: "0.5 %", Right: true},
			{Name: "median", Right: true}, {Name: "99.5 %", Right: true}}}
		for i, c := range fp.Channels {
			name := fmt.Sprint(i)
			if i < len(d.JSON.ChannelNames) {
				name = d.JSON.ChannelNames[i]
			}
			t.Add(name, number(c.Mean), number(c.Std), number(c.Percentile005), number(c.Median), number(c.Percentile995))
		}
		if err := t.Text(os.Stdout); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(summaries)
	}
	return nil
}

func number(x float64) string { return fmt.Sprintf("%.5g", x) }

// verifyAll checks the datasets that -d and the arguments name, prints all that is wrong, and fails if something is.
func verifyAll(cmd *cobra.Command, args []string, workers int) error {
	root, err := folder(cmd, "raw")
	if err != nil {
		return err
	}
	names, _ := cmd.Flags().GetStringSlice("dataset")
	con := newConsole(cmd)
	problems := 0
	for _, name := range append(names, args...) {
		name, err := raw.FindName(name, root)
		if err != nil {
			return err
		}
		r, err := raw.Verify(cmd.Context(), filepath.Join(root, name), workers, con)
		if err != nil {
			return err
		}
		for _, w := range r.Warnings {
			fmt.Fprintln(con, "warning:", w)
		}
		for _, p := range r.Problems {
			fmt.Fprintln(os.Stderr, "problem:", p)
		}
		fmt.Fprintf(con, "%s: %d cases, %d problems, %d warnings\n", name, r.Cases, len(r.Problems), len(r.Warnings))
		problems += len(r.Problems)
	}
	if problems > 0 {
		return fmt.Errorf("the integrity check found %d problems, listed above: repair them, and run it again", problems)
	}
	return nil
}

func newPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan -d DATASET...",
		Short: "plans training from a fingerprint: spacing, patches, networks (nnUNetv2_plan_experiment)",
		Long: `plan writes the plans file of each dataset, as nnUNetv2_plan_experiment does, and copies dataset.json and splits_final.json beside it. Configurations of a
plans file that is there already stay if the planner makes none of their name.

Planners (-pl): ` + strings.Join(planner.Names(), ", ") + `. To fine-tune a pretrained model, plan with its planner, then adopt its configuration: lntorch adopt.`,
		Example: `  lntorch plan -d 102
  lntorch plan -d 102 -pl nnUNetPlannerResEncL -gpu_memory_target 40 -overwrite_plans_name nnUNetResEncUNetPlans_40G
  lntorch plan -d 102 -overwrite_target_spacing 3 1 1`,
		Args: cobra.ArbitraryArgs,
		RunE: runPlan,
	}
	f := cmd.Flags()
	f.StringSliceP("dataset", "d", nil, "datasets: numbers or names; several may follow")
	f.Bool("json", false, "print JSON")
	plannerFlags(cmd)
	folders(cmd, "raw", "preprocessed")
	return cmd
}

// plannerFlags adds what a planner can be told.
func plannerFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("planner", "ExperimentPlanner", "nnU-Net's planner class (-pl)")
	f.Float64("gpu-memory-target", 0, "GB to plan for; 0: the planner's own (-gpu_memory_target)")
	f.String("preprocessor-name", "DefaultPreprocessor", "class that the plans name (-preprocessor_name)")
	f.Float64Slice("overwrite-target-spacing", nil, "mm of 3d_fullres along the axes z y x of the images (-overwrite_target_spacing)")
	f.String("overwrite-plans-name", "", "name of the plans instead of the planner's (-overwrite_plans_name)")
}

// readPlanner reads them.
func readPlanner(cmd *cobra.Command) (*planner.Planner, planner.Options, error) {
	f := cmd.Flags()
	var o planner.Options
	name, _ := f.GetString("planner")
	p, err := planner.ForName(name)
	if err != nil {
		return nil, o, usage(cmd, err)
	}
	o.MemoryGB, _ = f.GetFloat64("gpu-memory-target")
	o.PreprocessorName, _ = f.GetString("preprocessor-name")
	o.PlansName, _ = f.GetString("overwrite-plans-name")
	if o.TargetSpacing, _ = f.GetFloat64Slice("overwrite-target-spacing"); len(o.TargetSpacing) == 0 {
		o.TargetSpacing = nil
	} else if len(o.TargetSpacing) != 3 {
		return nil, o, usage(cmd, fmt.Errorf("-overwrite_target_spacing: found %d numbers, expected 3", len(o.TargetSpacing)))
	}
	return p, o, nil
}

func runPlan(cmd *cobra.Command, args []string) error {
	p, o, err := readPlanner(cmd)
	if err != nil {
		return err
	}
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	list, err := datasets(cmd, args)
	if err != nil {
		return err
	}
	asJSON, _ := cmd.Flags().GetBool("json")
	var summaries []plansSummary
	for _, d := range list {
		r, path, err := p.PlanFolder(d, filepath.Join(preprocessed, d.Name), o)
		if err != nil {
			return err
		}
		s, err := summarisePlans(r.Plans, path)
		if err != nil {
			return err
		}
		s.Dataset, s.Notes = d.Name, append([]string{}, r.Notes...)
		summaries = append(summaries, s)
		if !asJSON {
			if err := s.print(); err != nil {
				return err
			}
		}
	}
	if asJSON {
		return printJSON(summaries)
	}
	return nil
}

// plansSummary is what --json prints of plans.
type plansSummary struct {
	Dataset        string                 `json:"dataset"`
	File           string                 `json:"file"`
	Transpose      []int                  `json:"transpose_forward"`
	Configurations []configurationSummary `json:"configurations"`
	Notes          []string               `json:"notes"`
}

type configurationSummary struct {
	Name    string    `json:"name"`
	Spacing []float64 `json:"spacing"`
	Median  []float64 `json:"median_image_size"`
	Patch   []int     `json:"patch_size"`
	Batch   int       `json:"batch_size"`
	Stages  int       `json:"stages"`
	Network string    `json:"network"`
	Error   string    `json:"error,omitempty"` // a configuration of the user's that cannot be read
}

func summarisePlans(o *plans.Object, path string) (plansSummary, error) {
	s := plansSummary{File: path}
	b, err := plans.EncodeJSON(o, -1, false)
	if err != nil {
		return s, err
	}
	v, err := plans.DecodeJSON(b)
	if err != nil {
		return s, err
	}
	p, err := plans.FromObject(v.(*plans.Object), path)
	if err != nil {
		return s, err
	}
	s.Transpose = p.TransposeForward
	for _, name := range p.ConfigurationNames() {
		line := configurationSummary{Name: name}
		c, err := p.Configuration(name)
		if err == nil {
			line.Spacing, line.Median, line.Patch, line.Batch = c.Spacing, c.MedianImageSize, c.PatchSize, c.BatchSize
			var a models.Architecture
			if a, err = models.Parse(c); err == nil {
				line.Stages, line.Network = a.Stages(), a.Class()
			}
		}
		if err != nil {
			line.Error = err.Error()
		}
		s.Configurations = append(s.Configurations, line)
	}
	return s, nil
}

func (s *plansSummary) print() error {
	fmt.Println(s.File)
	t := report.Table{Columns: []report.Column{{Name: "configuration"}, {Name: "spacing in mm"}, {Name: "median image"}, {Name: "patch"}, {Name: "batch", Right: true},
		{Name: "stages", Right: true}, {Name: "network"}}}
	for _, c := range s.Configurations {
		if c.Error != "" {
			t.Add(c.Name, c.Error)
			continue
		}
		var spacing, median []string
		for _, x := range c.Spacing {
			spacing = append(spacing, fmt.Sprintf("%.4g", x))
		}
		for _, x := range c.Median {
			median = append(median, fmt.Sprintf("%.6g", x))
		}
		t.Add(c.Name, strings.Join(spacing, " × "), strings.Join(median, " × "), strings.Trim(strings.Join(strings.Fields(fmt.Sprint(c.Patch)), " × "), "[]"),
			fmt.Sprint(c.Batch), fmt.Sprint(c.Stages), c.Network)
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	for _, n := range s.Notes {
		fmt.Println("note:", n)
	}
	return nil
}

func newMovePlans() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move-plans -s SOURCE -t TARGET -sp PLANS",
		Short: "copies plans to another dataset (nnUNetv2_move_plans_between_datasets)",
		Long: `move-plans copies a plans file of a preprocessed dataset to another dataset, so that this is preprocessed as that was: the name of the dataset and the class that
reads its images change. With -tp the plans get another name, and so do the folders of the data that belong to them; without it, plans of that name of the target
are overwritten. To fine-tune a pretrained model whose dataset is not at hand, see lntorch adopt.`,
		Example: `  lntorch move-plans -s 101 -t 102 -sp nnUNetPlans -tp nnUNetPlansFrom101`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := cmd.Flags()
			from, _ := f.GetString("source")
			to, _ := f.GetString("target")
			name, _ := f.GetString("source-plans")
			newName, _ := f.GetString("target-plans")
			if from == "" || to == "" || name == "" {
				return usage(cmd, errors.New("-s, -t and -sp must be given"))
			}
			preprocessed, err := folder(cmd, "preprocessed")
			if err != nil {
				return err
			}
			rawRoot, _ := f.GetString("raw")
			source, err := raw.FindName(from, preprocessed, rawRoot)
			if err != nil {
				return err
			}
			target, err := openRaw(cmd, to)
			if err != nil {
				return err
			}
			folder := filepath.Join(preprocessed, target.Name)
			if err := os.MkdirAll(folder, 0o777); err != nil {
				return err
			}
			path, err := planner.Move(filepath.Join(preprocessed, source), name, target, folder, newName)
			if err != nil {
				return err
			}
			fmt.Println(path)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringP("source", "s", "", "dataset that has the plans: number or name")
	f.StringP("target", "t", "", "dataset that gets them")
	f.String("source-plans", "", "name of the plans, without .json (-sp)")
	f.String("target-plans", "", "their name at the target (-tp; default: the same)")
	folders(cmd, "raw", "preprocessed")
	return cmd
}
