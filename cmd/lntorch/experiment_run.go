package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/experiment"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
)

// experimentFolders are where an experiment finds and leaves things.
type experimentFolders struct {
	Dir string `flag:"output" short:"o" path:"true" help:"folder of the experiment (default: <results>/experiments/<name>)"`
	pipeline.RawFolder
	pipeline.PreprocessedFolder
	pipeline.ResultsFolder
}

func (f *experimentFolders) options(cmd *cobra.Command) experiment.Options {
	return experiment.Options{Dir: f.Dir, RawFolder: f.RawFolder, PreprocessedFolder: f.PreprocessedFolder,
		ResultsFolder: f.ResultsFolder, Output: output(cmd)}
}

// runConfig is what `experiment run` takes.
type runConfig struct {
	experimentFolders
	experiment.WorkConfig
	experiment.SlurmConfig
}

func newExperimentRun() *cobra.Command {
	var c runConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "trains, predicts and scores what is missing of a grid, and makes its tables",
		Long: `run checks the whole file first. Then it trains, predicts and scores each run that is not done, and ends with
scores.csv and the tables. (` + "`lntorch experiment FILE`" + ` is the same.)

It may be ended at any time, by Ctrl-C or by kill -9: the next run goes on inside the training that was stopped, to the
same bits, and repeats nothing that is done. A run that fails is written down, the others go on, and a new run tries it
again. Any number of machines may run the same FILE with the same DIR on a shared folder: each takes what nobody has.

--jobs N starts N workers on this machine, a process each; --slurm submits an array of them. Exit code 0: all is done;
1: a run failed, or is left; 2: the file is wrong; 130: stopped, saved.`,
		Example: `  lntorch experiment run grid.yaml -o grid
  lntorch experiment grid.yaml --jobs 2 --devices cuda:0,cuda:1
  lntorch experiment run grid.yaml --only network=unet,method=dgst
  lntorch experiment run grid.yaml --slurm --slurm-args '--partition=gpu --gres=gpu:1 --time=12:00:00' --wait`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.Worker != "" {
				// A second SIGTERM, as Slurm and a job script may send together, does not end the saving.
				signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
			}
			ctx, o := cmd.Context(), output(cmd)
			p, err := experiment.Open(ctx, args[0], c.options(cmd))
			if err != nil {
				return err
			}
			if c.Worker == "" { // else whoever started this process has logged them
				logWarnings(p, o)
				warnOfOther(p, o, c.overwritten()...)
			}
			if c.Command, err = thisCommand(); err != nil {
				return err
			}
			if c.Args, err = experimentArgs(p, &c.experimentFolders); err != nil {
				return err
			}
			var outcome experiment.Outcome
			if c.Slurm {
				s, err := p.Submit(ctx, c.WorkConfig, c.SlurmConfig, o)
				if err != nil {
					return err
				}
				switch {
				case asJSON:
					err = printJSON(s)
				case s.Job != "":
					_, err = fmt.Println(s.Job)
				case s.Script != "":
					_, err = fmt.Println(pipeline.Printable(s.Script))
				}
				if err != nil || !c.Wait {
					return err
				}
				if outcome, err = p.Outcome(c.Only); err != nil {
					return err
				}
			} else {
				if outcome, err = p.Work(ctx, c.WorkConfig, o); err != nil {
					return err
				}
				if c.Tables() {
					t, err := p.WriteTables(ctx, o)
					if err == nil && t != nil && !asJSON {
						err = t.Markdown(os.Stdout)
					}
					if err != nil {
						return err
					}
				}
				if asJSON {
					if err := printJSON(outcome); err != nil {
						return err
					}
				}
			}
			return outcome.Error(p)
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// overwritten are the files in the experiment's folder that a run writes anew.
func (c *runConfig) overwritten() []string {
	files := []string{experiment.SettingsFile, experiment.SplitsFile}
	if c.Slurm || c.Tables() {
		files = append(files, experiment.ScoresFile, experiment.TableFiles, experiment.PictureFiles, experiment.PageFile)
	}
	return files
}

// warnOfOther says that another experiment's files are about to be overwritten.
func warnOfOther(p *experiment.Plan, o pipeline.Output, files ...string) {
	if w := p.Overwrites(files...); w != "" {
		o.Print("WARNING: " + w)
	}
}

// runOfFile makes `experiment FILE` what it is short for, `experiment run FILE`.
func runOfFile(args []string) []string {
	i := slices.Index(args, "experiment")
	if i < 0 || i+1 == len(args) || slices.ContainsFunc(args[:i], func(a string) bool { return !strings.HasPrefix(a, "-") }) {
		return args
	}
	if !slices.Contains([]string{".yaml", ".yml", ".toml", ".json"}, filepath.Ext(args[i+1])) {
		return args
	}
	return slices.Insert(slices.Clone(args), i+1, "run")
}

// thisCommand is this program as another process calls it for its experiments.
func thisCommand() ([]string, error) {
	self, err := os.Executable()
	command := []string{self}
	if slices.Contains(os.Args[1:], "--quiet") {
		command = append(command, "--quiet")
	}
	return append(command, "experiment", "run"), err
}

// experimentArgs are the arguments with which another process opens the same experiment.
func experimentArgs(p *experiment.Plan, f *experimentFolders) ([]string, error) {
	path, err := filepath.Abs(p.File.Path)
	args := []string{path, "--output", p.Dir}
	for _, folder := range []struct{ flag, path string }{{"--raw", f.Raw}, {"--preprocessed", f.Preprocessed},
		{"--results", f.Results}} {
		if folder.path != "" {
			args = append(args, folder.flag, folder.path)
		}
	}
	return args, err
}

func newExperimentPrune() *cobra.Command {
	var c experimentFolders
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune FILE",
		Short: "lists or removes runs that the file does not ask for any more",
		Long: `prune lists the runs in DIR that FILE does not ask for: of settings, cases or metrics that have changed since, or of
another file that shares the folder. With --yes it removes them. A run that a worker is at stays.`,
		Example: `  lntorch experiment prune grid.yaml -o grid
  lntorch experiment prune grid.yaml -o grid --yes`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := experiment.Open(cmd.Context(), args[0], c.options(cmd))
			if err != nil {
				return err
			}
			list, err := p.Prune(yes)
			if err != nil {
				return err
			}
			if other := p.Other(); other != "" && len(list) > 0 && !yes {
				output(cmd).Printf("WARNING: %s is the folder of experiment %q, too: runs that it asks for are among these",
					p.Dir, other)
			}
			if asJSON {
				return printJSON(list)
			}
			total := int64(0)
			for _, r := range list {
				what := ""
				switch {
				case r.Held:
					what = ", left: a worker is at it"
				case yes:
					what = ", removed"
				}
				total += r.Bytes
				fmt.Printf("%s  %9s  %s%s\n", r.Key, system.Size(r.Bytes), pipeline.Printable(r.Run), what)
			}
			text := fmt.Sprintf("%d runs, %s", len(list), system.Size(total))
			if !yes && len(list) > 0 {
				text += ": --yes removes them"
			}
			_, err = fmt.Println(text)
			return err
		},
	}
	bind(cmd, &c)
	cmd.Flags().BoolVar(&yes, "yes", false, "remove them")
	jsonFlag(cmd, &asJSON)
	return cmd
}
