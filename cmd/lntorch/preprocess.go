package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
)

const keptHelp = `A case that is there already, made of the same files with the same settings, stays; --clean makes all anew, as nnU-Net does. Cases in the folder that
the dataset no longer has go. One bad case does not lose
the others: it is named in the end, and the exit code is 1. Ctrl-C leaves no file half-written; the same command goes on from there.`

func newPreprocess() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preprocess -d DATASET...",
		Short: "makes training data of raw datasets, as planned (nnUNetv2_preprocess)",
		Long: `preprocess crops, normalises and resamples the cases of raw datasets as the plans say, and writes .npz and .pkl files with nnU-Net's numbers, on which nnU-Net
trains, too.

` + keptHelp,
		Example: `  lntorch preprocess -d 102 -c 3d_fullres
  lntorch preprocess -d 102 -plans_name nnUNetPlansSource -c 3d_phantom -np 4`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := datasets(cmd, args)
			if err != nil {
				return err
			}
			name, _ := cmd.Flags().GetString("plans-name")
			return preprocessAll(cmd, list, func(*raw.Dataset) string { return name })
		},
	}
	f := cmd.Flags()
	f.StringSliceP("dataset", "d", nil, "datasets: numbers or names; several may follow")
	f.String("plans-name", "nnUNetPlans", "plans to follow, without .json (-plans_name)")
	preprocessFlags(cmd)
	folders(cmd, "raw", "preprocessed")
	return cmd
}

func newPlanAndPreprocess() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan-and-preprocess -d DATASET...",
		Short: "fingerprint, plan and preprocess in one (nnUNetv2_plan_and_preprocess)",
		Long: `plan-and-preprocess measures raw datasets, plans their training and makes the training data; see lntorch fingerprint, plan and preprocess.

` + keptHelp,
		Example: `  lntorch plan-and-preprocess -d 102 --verify_dataset_integrity
  lntorch plan-and-preprocess -d 2 4 -pl nnUNetPlannerResEncL -c 3d_fullres
  lntorch plan-and-preprocess -d 102 --no_pp`,
		Args: cobra.ArbitraryArgs,
		RunE: runPlanAndPreprocess,
	}
	f := cmd.Flags()
	f.StringSliceP("dataset", "d", nil, "datasets: numbers or names; several may follow")
	f.Int("npfp", defaultWorkers(), "cases at a time for the fingerprint (-npfp)")
	f.String("fpe", "DatasetFingerprintExtractor", "nnU-Net's class (-fpe); there is one")
	f.Bool("verify-dataset-integrity", false, "check the dataset first")
	f.Bool("no-pp", false, "fingerprint and plans alone")
	plannerFlags(cmd)
	preprocessFlags(cmd)
	folders(cmd, "raw", "preprocessed")
	return cmd
}

// preprocessFlags adds how the cases are made.
func preprocessFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceP("configurations", "c", []string{"2d", "3d_fullres", "3d_lowres"}, "configurations of the plans; those that are not in them are left out")
	f.IntSlice("np", nil, "cases at a time, one number or one for each configuration (-np; default: the cores, eight at most)")
	f.Int("threads", 0, "threads of all the cases together (default: all cores)")
	f.Float64("max-ram", 0, "GB for the cases at work (default: three quarters of what is free)")
	f.Bool("clean", false, "make anew what is there already")
	f.Bool("verbose", false, "accepted as nnU-Net's; see --quiet")
	f.Bool("json", false, "print JSON")
}

func runPlanAndPreprocess(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	if class, _ := f.GetString("fpe"); class != "DatasetFingerprintExtractor" {
		return usage(cmd, fmt.Errorf("-fpe %s: lntorch has DatasetFingerprintExtractor alone", class))
	}
	p, o, err := readPlanner(cmd)
	if err != nil {
		return err
	}
	preprocessed, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	workers, _ := f.GetInt("npfp")
	if verify, _ := f.GetBool("verify-dataset-integrity"); verify {
		if err := verifyAll(cmd, args, workers); err != nil {
			return err
		}
	}
	list, err := datasets(cmd, args)
	if err != nil {
		return err
	}
	clean, _ := f.GetBool("clean")
	con := newConsole(cmd)
	names := map[string]string{}
	for _, d := range list {
		to := filepath.Join(preprocessed, d.Name)
		if _, _, err := fingerprint.ExtractFolder(cmd.Context(), d, to, clean, fingerprint.Options{Workers: workers, Progress: con}); err != nil {
			return err
		}
		r, path, err := p.PlanFolder(d, to, o)
		if err != nil {
			return err
		}
		for _, n := range r.Notes {
			fmt.Fprintln(con, n)
		}
		fmt.Fprintln(con, path)
		names[d.Name] = r.Name
	}
	if none, _ := f.GetBool("no-pp"); none {
		return nil
	}
	return preprocessAll(cmd, list, func(d *raw.Dataset) string { return names[d.Name] })
}

// preprocessed is what --json prints of each configuration of a dataset.
type preprocessedSummary struct {
	Dataset       string             `json:"dataset"`
	Configuration string             `json:"configuration"`
	Folder        string             `json:"folder"`
	Made          int                `json:"made"`
	Kept          int                `json:"kept"`
	Removed       []string           `json:"removed"`
	Failed        []string           `json:"failed"`
	Seconds       map[string]float64 `json:"seconds"` // of the steps, all cases together
}

// preprocessAll makes the configurations that -c names, of every dataset.
func preprocessAll(cmd *cobra.Command, list []*raw.Dataset, plansName func(*raw.Dataset) string) error {
	f := cmd.Flags()
	root, err := folder(cmd, "preprocessed")
	if err != nil {
		return err
	}
	asJSON, _ := f.GetBool("json")
	clean, _ := f.GetBool("clean")
	wanted, _ := f.GetStringSlice("configurations")
	np, _ := f.GetIntSlice("np")
	if len(np) > 1 && len(np) != len(wanted) {
		return usage(cmd, fmt.Errorf("-np has %d numbers, expected one, or one for each of the %d configurations", len(np), len(wanted)))
	}
	if len(np) > 0 && slices.Min(np) < 1 {
		return usage(cmd, errors.New("-np: expected numbers of 1 or more"))
	}
	o := preparation{console: newConsole(cmd), clean: clean}
	o.threads, _ = f.GetInt("threads")
	gb, _ := f.GetFloat64("max-ram")
	o.maxRAM = int64(gb * (1 << 30))
	var summaries []preprocessedSummary
	var failed []error
	for _, d := range list {
		name := plansName(d)
		p, err := plans.Load(filepath.Join(root, d.Name, name+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; run `lntorch plan -d %s` first", err, d.Name)
		}
		if err != nil {
			return err
		}
		made := 0
		for i, c := range wanted {
			if !slices.Contains(p.ConfigurationNames(), c) {
				fmt.Fprintf(o.console, "%s: %s has no configuration %s, which is left out\n", d.Name, name, c)
				continue
			}
			made++
			o.workers = 0
			if len(np) > 0 {
				o.workers = np[min(i, len(np)-1)]
			}
			s, err := prepare(cmd.Context(), d, p, c, filepath.Join(root, d.Name), o)
			if s != nil {
				summaries = append(summaries, *s)
				if !asJSON {
					s.print()
				}
			}
			if err != nil && cmd.Context().Err() != nil {
				return err
			}
			failed = append(failed, err)
		}
		if made == 0 {
			failed = append(failed, fmt.Errorf("%s: none of the configurations %s is in %s, which has %s", d.Name, strings.Join(wanted, ", "), name, strings.Join(p.ConfigurationNames(), ", ")))
		}
	}
	if asJSON {
		if err := printJSON(summaries); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func (s *preprocessedSummary) print() {
	fmt.Println(s.Folder)
	line := fmt.Sprintf("%d cases made, %d kept", s.Made, s.Kept)
	if len(s.Removed) > 0 {
		line += ", removed as the dataset no longer has them: " + strings.Join(s.Removed, ", ")
	}
	if len(s.Failed) > 0 {
		line += ", failed: " + strings.Join(s.Failed, ", ")
	}
	fmt.Println(line)
}

// preparation says how cases are made.
type preparation struct {
	console *console
	workers int   // 0: the cores, eight at most
	threads int   // 0: all cores
	maxRAM  int64 // bytes; 0: three quarters of what is free
	clean   bool
}

// prepare makes the data of one configuration in folder, that of the preprocessed dataset.
func prepare(ctx context.Context, d *raw.Dataset, p *plans.Plans, name, folder string, o preparation) (*preprocessedSummary, error) {
	c, err := p.Configuration(name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "dataset.json")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := planner.CopyDatasetJSON(d.Folder, folder); err != nil {
			return nil, err
		}
	}
	doc, err := plans.LoadDataset(path)
	if err != nil {
		return nil, err
	}
	settings, err := preprocess.NewSettings(p, c, doc)
	if err != nil {
		return nil, err
	}
	reader, err := images.ForName(p.ImageReaderWriter)
	if err != nil {
		return nil, err
	}
	to := filepath.Join(folder, c.DataIdentifier)
	if c.DataIdentifier == "" || c.DataIdentifier != filepath.Base(c.DataIdentifier) || c.DataIdentifier == ".." {
		return nil, fmt.Errorf("configuration %s: data_identifier %q is not the name of a folder", name, c.DataIdentifier)
	}
	cores := runtime.GOMAXPROCS(0)
	if o.threads == 0 {
		o.threads = cores
	}
	if o.workers == 0 {
		o.workers = min(cores, 8)
	}
	o.workers = max(1, min(o.workers, o.threads, len(d.Cases)))
	if o.maxRAM == 0 {
		o.maxRAM = free() / 4 * 3
	}
	if o.maxRAM > 0 {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(o.maxRAM))
	}
	job := preprocess.Job{Dataset: d, Reader: reader, Settings: settings, Folder: to, Workers: o.workers, Threads: max(1, o.threads/o.workers), MaxRAM: o.maxRAM, Clean: o.clean}
	if o.console != nil {
		job.Progress, job.Log = o.console, o.console
	}
	s, err := job.Run(ctx)
	return &preprocessedSummary{
		Dataset: d.Name, Configuration: name, Folder: to, Made: s.Made, Kept: s.Kept, Removed: append([]string{}, s.Removed...), Failed: append([]string{}, s.Failed...),
		Seconds: map[string]float64{"read": s.Times.Read.Seconds(), "crop": s.Times.Crop.Seconds(), "labels": s.Times.Labels.Seconds(), "image": s.Times.Image.Seconds(), "write": s.Times.Write.Seconds()},
	}, err
}

// free is the memory that programs can have without swapping, 0 where the system does not say.
func free() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int64
		if n, _ := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}
