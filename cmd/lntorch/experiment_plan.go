package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/experiment"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

// openExperiment reads an experiment, and logs what its tables will warn of.
func openExperiment(cmd *cobra.Command, file string, f *experimentFolders) (*experiment.Plan, error) {
	p, err := experiment.Open(cmd.Context(), file, f.options(cmd))
	if err != nil {
		return nil, err
	}
	logWarnings(p, output(cmd))
	return p, nil
}

// logWarnings says before anything runs what the tables will say below them.
func logWarnings(p *experiment.Plan, o pipeline.Output) {
	for _, w := range p.Warnings {
		o.Print("WARNING: " + w)
	}
}

// planConfig is what `experiment plan` takes.
type planConfig struct {
	experimentFolders
	experiment.MeasureConfig
}

func newExperimentPlan() *cobra.Command {
	var c planConfig
	var asJSON, asMake bool
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "the runs of a grid with their keys and states, and what is left to do",
		Long: `plan reads FILE (YAML, TOML or JSON), checks it against datasets and checkpoints, draws the shots, refuses leaks of
test cases, and lists the runs. Nothing is run. A run has a key: of the content of its cases, the weights, every effective
setting and the seed, not of names, folders or the machine. So a changed setting runs what it touches and nothing else.

Times come from finished runs of the same settings; else from an iteration, of runs that were begun or as measured, and from
the prediction, of finished runs or as measured. --measure measures what is missing, before the list is printed: it prepares
the training data, as the first run would, trains a few iterations of each dataset, network and method on this machine, in a
temporary folder, times a pass of each network's prediction, and keeps the figures in DIR/measured, for plan, status and
--slurm. Not in them: checkpoints that are written, and scoring. What was measured nowhere is an unknown time.

Memory is a forecast of the most that a run takes, training or prediction: of the host, and of the GPU where --device is
one.

--make prints a Makefile of the runs.`,
		Example: `  lntorch experiment plan grid.yaml -o grid
  lntorch experiment plan grid.yaml -o grid --measure
  lntorch experiment plan grid.yaml -o grid --measure --device cuda:0
  lntorch experiment plan grid.yaml --json
  lntorch experiment plan grid.yaml -o grid --make > grid/Makefile; make -C grid -j4 -k`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if asMake && (asJSON || c.Measure) {
				return settings.Usage("--make prints a Makefile and nothing else: leave out --json and --measure")
			}
			p, err := openExperiment(cmd, args[0], &c.experimentFolders)
			switch {
			case err != nil:
				return err
			case asMake:
				text, err := p.Makefile(changedFolders(cmd, &c.experimentFolders))
				if err == nil {
					_, err = fmt.Print(text)
				}
				return err
			case c.Measure:
				err = p.Measure(cmd.Context(), c.MeasureConfig, output(cmd))
			default:
				err = p.Prefer(c.MeasureConfig)
			}
			if err != nil {
				return err
			}
			device, err := p.Forecast(cmd.Context())
			switch {
			case err != nil:
				return err
			case asJSON:
				return printJSON(p.Document())
			}
			return printPlan(p, device)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&asMake, "make", false, "print a Makefile")
	return cmd
}

// changedFolders are the flags of folders on the command line; others come from the environment.
func changedFolders(cmd *cobra.Command, c *experimentFolders) (args []string) {
	for _, f := range settings.Fields(c) {
		if f.Name != "output" && cmd.Flags().Changed(f.Name) {
			args = append(args, "--"+f.Name, f.String())
		}
	}
	return args
}

func printPlan(p *experiment.Plan, device string) error {
	t := report.Table{Columns: []report.Column{{Name: "key"}, {Name: "dataset"}, {Name: "network"}, {Name: "method"},
		{Name: "shots", Right: true}, {Name: "draw", Right: true}, {Name: "seed", Right: true}, {Name: "state"},
		{Name: "time", Right: true}, {Name: "memory", Right: true}}}
	onGPU := experiment.IsGPU(device)
	if onGPU {
		t.Columns = append(t.Columns, report.Column{Name: "of the GPU", Right: true})
	}
	for _, r := range p.Document().Runs {
		draw, seed := fmt.Sprint(r.Draw), fmt.Sprint(r.Seed)
		if !r.Trains() {
			draw, seed = "", ""
		}
		row := []string{r.Key, r.Dataset, r.Network, r.Method, r.Shots, draw, seed, string(r.State), experiment.Duration(r.Seconds)}
		switch m := r.Memory; {
		case m == nil:
			row = append(row, "unknown", "unknown")
		default:
			row = append(row, system.Size(m.Host), system.Size(m.Device))
		}
		t.Add(row[:len(t.Columns)]...)
	}
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	left := 0
	for _, r := range p.Runs {
		if r.State != experiment.Done {
			left++
		}
	}
	text := fmt.Sprintf("%d runs, %d left: %s one after the other", len(p.Runs), left, experiment.Duration(p.Cost.Seconds))
	if p.Cost.Covers == experiment.CoversTraining {
		text += " without the predictions, which were not timed"
	}
	if h := p.Cost.GPUHours; h != nil {
		text += fmt.Sprintf(", %.1f GPU-hours", *h)
	}
	if m := p.Cost.Memory; m != nil {
		text += fmt.Sprintf(", up to %s of memory each", system.Size(m.Host))
		if onGPU {
			text += fmt.Sprintf(" and %s of %s", system.Size(m.Device), device)
		}
	}
	if m := p.Cost.Peak; m > 0 {
		text += fmt.Sprintf(" (finished ones took up to %s where they computed)", system.Size(m))
	}
	_, err := fmt.Printf("%s, about %s on disk\n%s\n", text, system.Size(p.Cost.Bytes), pipeline.Printable(p.Dir))
	return err
}

func newExperimentSplits() *cobra.Command {
	var c experimentFolders
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "splits FILE",
		Short: "draws and leak check alone; prints splits.json",
		Long: `splits draws the shots, compares the contents of test cases with those of the pool and of the data that the networks
were trained on, and prints splits.json: which cases are in which draw, the patients, and the sha256 of each case's voxels.
It holds no voxel and no path, so it can be published, and another file takes it as splits: FILE.`,
		Example: `  lntorch experiment splits grid.yaml > splits.json`,
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := openExperiment(cmd, args[0], &c)
			if err != nil {
				return err
			}
			return printJSON(p.Splits)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().Lookup("json").Usage = "print JSON, as without it"
	return cmd
}

func newExperimentStatus() *cobra.Command {
	var c experimentFolders
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status FILE",
		Short: "how far a grid is: done, running, failed, left, time to go",
		Long: `status tells what is done, who is at which run and in which epoch, whose worker was not seen for more than a minute,
what failed and why, and how long the rest takes with as many workers as now. --watch shows it again whenever it
changes, until all is done or Ctrl-C.`,
		Example: `  lntorch experiment status grid.yaml -o grid
  lntorch experiment status grid.yaml --watch`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := openExperiment(cmd, args[0], &c)
			if err != nil {
				return err
			}
			return watchStatus(cmd.Context(), p, watch, asJSON)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until all is done")
	return cmd
}

// watchEvery is how often --watch looks.
const watchEvery = 2 * time.Second

// watchStatus prints the status; with watch again whenever it has changed.
func watchStatus(ctx context.Context, p *experiment.Plan, watch, asJSON bool) error {
	last := ""
	for {
		s := p.Status()
		text, err := statusText(s, asJSON)
		if err != nil {
			return err
		}
		if text != last {
			if last != "" && !asJSON {
				fmt.Println()
			}
			if _, err := fmt.Print(text); err != nil {
				return err
			}
			last = text
		}
		if !watch || s.Left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery):
		}
		if err := p.Refresh(); err != nil {
			return err
		}
	}
}

func statusText(s *experiment.Status, asJSON bool) (string, error) {
	var b strings.Builder
	if asJSON {
		_, err := report.JSON(&b, s)
		return b.String(), err
	}
	fmt.Fprintf(&b, "%d of %d runs done, %d left: %s to go\n", s.Done, s.Runs, s.Left, experiment.Duration(s.Seconds))
	by := func(host string, pid int) string {
		if host == "" {
			return "an unknown worker"
		}
		return pipeline.Printable(fmt.Sprintf("%s, process %d", host, pid))
	}
	for _, r := range s.Running {
		at := cmp.Or(r.Stage, "begins")
		if r.Epochs > 0 {
			at = fmt.Sprintf("epoch %d of %d", r.Epoch, r.Epochs)
		}
		fmt.Fprintf(&b, "running  %s  %s: %s (%s)\n", r.Run, pipeline.Printable(r.What), at, by(r.Host, r.PID))
	}
	for _, r := range s.Unseen {
		fmt.Fprintf(&b, "partial  %s  %s: its worker has not been seen for %s (%s)\n", r.Run, pipeline.Printable(r.What),
			experiment.Duration(&r.Seconds), by(r.Host, r.PID))
	}
	for _, r := range s.Failed {
		why, _, _ := strings.Cut(pipeline.Printable(r.Error), "\n")
		fmt.Fprintf(&b, "failed   %s  %s: %s\n", r.Run, pipeline.Printable(r.What), why)
	}
	if n := len(s.Partial) - len(s.Unseen); n > 0 {
		fmt.Fprintf(&b, "partial  %d runs, begun and stopped: the next run goes on with them\n", n)
	}
	return b.String(), nil
}

func newExperimentCommand() *cobra.Command {
	var c experimentFolders
	var folder string
	cmd := &cobra.Command{
		Use:   "command FILE KEY",
		Short: "the lntorch lines that do a run by hand, to the same bits",
		Long: `command prints the lines of lntorch adopt, train, predict and evaluate that repeat a run outside the experiment. KEY is
its key, or the beginning of it. Where the run is done, its device and number of threads are in the lines.`,
		Example: `  lntorch experiment command grid.yaml 3f2a91c05d7be846
  lntorch experiment command grid.yaml 3f2a --folder by-hand | sh -e`,
		Args: exactly("FILE", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := openExperiment(cmd, args[0], &c)
			if err != nil {
				return err
			}
			r, err := p.Find(args[1])
			if err != nil {
				return err
			}
			if folder == "" {
				folder = "run-" + r.Key
			}
			lines, err := p.Commands(r, folder)
			if err != nil {
				return err
			}
			_, err = fmt.Println(strings.Join(lines, "\n"))
			return err
		},
	}
	bind(cmd, &c)
	cmd.Flags().StringVar(&folder, "folder", "", "folder that the lines write to (default: run-KEY)")
	return cmd
}
