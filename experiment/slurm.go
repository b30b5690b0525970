package experiment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
	"unicode"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/torch"
)

// SlurmConfig is how a grid is submitted to Slurm.
type SlurmConfig struct {
	Slurm        bool   `flag:"slurm" help:"do not work here: submit an array of workers to Slurm, and a job for the table behind it"`
	SlurmWorkers int    `flag:"slurm-workers" range:"1..10000" help:"tasks of the array (default: the runs that are missing, 16 at most)"`
	SlurmArgs    string `flag:"slurm-args" help:"options of sbatch, as in a shell: '--partition=gpu --gres=gpu:1 --time=12:00:00'"`
	SlurmDryRun  bool   `flag:"slurm-dry-run" help:"with --slurm: write the scripts, and submit nothing"`
	Wait         bool   `flag:"wait" help:"with --slurm: end when the jobs have, with the exit code of the grid"`
}

// mostTasks is how many workers Slurm is asked for unless somebody says how many.
const mostTasks = 16

// mostRequeues is how often a task may be queued again.
const mostRequeues = 100

// Submitted is what was submitted; job ids are empty after a dry run.
type Submitted struct {
	Job      string `json:"job"`
	TableJob string `json:"table_job"`
	Script   string `json:"script"`
}

// script is the job of a worker. The shell waits in the background, since it runs traps only between
// commands; and a wait that a trap ends has not waited.
var script = template.Must(template.New("job.sh").Parse(`#!/bin/bash
#SBATCH --job-name={{.Name}}
#SBATCH --array=0-{{.Last}}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output={{.Log}}
#SBATCH --cpus-per-task={{.Cores}}
#SBATCH --mem={{.Memory}}M

worker=
stopped=
stop() { stopped=yes; [ -z "$worker" ] || kill -TERM "$worker"; }
trap stop TERM
{{.Command}} --threads "${SLURM_CPUS_PER_TASK:-{{.Cores}}}" &
worker=$!
[ -z "$stopped" ] || kill -TERM "$worker" # the signal came before there was a worker to tell
code=143
while [ "$code" -gt 128 ] && kill -0 "$worker" 2>/dev/null; do
  wait "$worker"
  code=$?
done
wait "$worker" 2>/dev/null
code=$?

# 130: stopped, saved, and runs are left. A task that was cancelled is not running any more.
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
if [ "$code" = 130 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {{.Requeues}} ] && [ "$(squeue -h -j "$task" -o %T)" = RUNNING ]; then
  scontrol requeue "$task"
fi
exit "$code"
`))

// tableScript is the job behind the array.
var tableScript = template.Must(template.New("table.sh").Parse(`#!/bin/bash
#SBATCH --job-name={{.Name}}-table
#SBATCH --output={{.TableLog}}

{{.Table}}
`))

// Submit writes the scripts and submits them. With Wait it returns when the jobs have ended.
func (p *Plan) Submit(ctx context.Context, c WorkConfig, s SlurmConfig, o pipeline.Output) (*Submitted, error) {
	if err := errors.Join(settings.Check(&c), settings.Check(&s)); err != nil {
		return nil, err
	}
	runs, err := p.only(c.Only)
	if err != nil {
		return nil, err
	}
	extra, err := words(s.SlurmArgs)
	if err != nil {
		return nil, settings.Usage("--slurm-args: %w", err)
	}
	if len(c.Devices) > 0 {
		if err := p.Prefer(MeasureConfig{Device: c.Devices[0], Threads: c.Threads}); err != nil {
			return nil, err
		}
	}
	missing := len(runs) - p.count(runs).Done
	if missing == 0 {
		o.Printf("%d runs, all done: nothing is submitted", len(runs))
		return &Submitted{}, nil
	}
	tasks := s.SlurmWorkers
	if tasks == 0 {
		tasks = min(missing, mostTasks)
	}
	device := torch.CPU.String() // a task on a GPU takes less of the host's memory
	if len(c.Devices) > 0 {
		device = c.Devices[0]
	}
	memory := p.taskMemory(ctx, runs, device)
	folder, err := filepath.Abs(filepath.Join(p.Dir, "slurm"))
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(folder, unicode.IsControl) {
		return nil, fmt.Errorf("found a control character in %q, which no line of #SBATCH can have: give another -o", folder)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, err
	}
	args := append(append([]string{}, c.Args...), "--worker=task", fmt.Sprintf("--lock-timeout=%g", c.LockTimeout))
	if len(c.Only) > 0 {
		args = append(args, "--only="+strings.Join(c.Only, ","))
	}
	if len(c.Devices) > 0 {
		args = append(args, "--devices="+strings.Join(c.Devices, ","))
	}
	cores := c.Threads
	if cores == 0 {
		cores = min(system.Cores(), 8)
	}
	pattern := strings.ReplaceAll(folder, "%", "%%")
	values := map[string]any{"Name": fileName(p.File.Name), "Last": tasks - 1, "Requeues": mostRequeues, "Cores": cores,
		"Memory": max(1, memory>>20), "Log": option(filepath.Join(pattern, "%A_%a.log")),
		"TableLog": option(filepath.Join(pattern, "table-%j.log")),
		"Command":  quoted(append(append([]string{}, c.Command...), args...)),
		"Table":    quoted(append(append([]string{}, c.Command...), append(c.Args, "--worker=table")...))}
	out := &Submitted{Script: filepath.Join(folder, "job.sh")}
	table := filepath.Join(folder, "table.sh")
	for path, t := range map[string]*template.Template{out.Script: script, table: tableScript} {
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return nil, err
		}
		if err := atomicfile.Write(path, b.Bytes()); err != nil {
			return nil, err
		}
	}
	array := append(append([]string{"sbatch", "--parsable"}, extra...), out.Script)
	behind := append(append([]string{"sbatch", "--parsable"}, withoutGPUs(extra)...), "--dependency=afterany:JOB", table)
	if s.SlurmDryRun {
		o.Printf("%d workers for %d runs%s\nnot submitted: %s\nnot submitted: %s", tasks, missing, togo(runs), quoted(array),
			quoted(behind))
		return out, nil
	}
	if out.Job, err = sbatch(ctx, array); err != nil {
		return nil, err
	}
	behind[len(behind)-2] = "--dependency=afterany:" + out.Job
	if out.TableJob, err = sbatch(ctx, behind); err != nil {
		return out, fmt.Errorf("the workers are submitted (job %s), the table is not: %w", out.Job, err)
	}
	o.Printf("%d workers for %d runs%s: job %s; table: job %s; %s", tasks, missing, togo(runs), out.Job, out.TableJob, folder)
	if s.Wait {
		err = waitForJobs(ctx, out.Job, out.TableJob)
	}
	return out, err
}

// taskMemory is the host's memory of the run that takes most; what cannot be forecast counts as a small network.
func (p *Plan) taskMemory(ctx context.Context, runs []*Run, device string) int64 {
	most := int64(4 << 30)
	for _, r := range runs {
		if m := p.need(ctx, r, device); m != nil {
			most = max(most, m.Host)
		}
	}
	return most
}

// togo says how long the runs that are not done take one after the other, "" where that is not known.
func togo(runs []*Run) string {
	total := 0.0
	for _, r := range runs {
		if r.State == Done {
			continue
		}
		if r.Seconds == nil {
			return ""
		}
		total += *r.Seconds
	}
	return ", about " + Duration(&total) + " one after the other"
}

// option is a value in a line of #SBATCH, where quotes hold blanks together.
func option(text string) string {
	if strings.ContainsAny(text, " \t") {
		return `"` + text + `"`
	}
	return text
}

func quoted(args []string) string {
	list := make([]string, len(args))
	for i, a := range args {
		list[i] = pipeline.Quoted(a)
	}
	return strings.Join(list, " ")
}

// words splits a text as a shell does, quotes and backslashes obeyed, and nothing else.
func words(text string) (list []string, err error) {
	var word strings.Builder
	within, quote, escaped := false, rune(0), false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, within = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, within = r, true
		case quote == 0 && strings.ContainsRune(" \t\n", r):
			if within {
				list = append(list, word.String())
				word.Reset()
			}
			within = false
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("found %q, expected a closing quote", text)
	}
	if within {
		list = append(list, word.String())
	}
	return list, nil
}

// withoutGPUs leaves out what the job of the table, which computes next to nothing, would queue for.
func withoutGPUs(args []string) []string {
	var list []string
	for i := 0; i < len(args); i++ {
		name, _, value := strings.Cut(args[i], "=")
		switch name {
		case "--gres", "--gpus", "--gpus-per-task", "--gpus-per-node", "--cpus-per-gpu", "--mem-per-gpu", "--mem", "-c", "--cpus-per-task", "--array", "-a", "-G":
			if !value {
				i++ // the next word is its value
			}
		default:
			list = append(list, args[i])
		}
	}
	return list
}

// sbatch submits a job and returns its id.
func sbatch(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var says bytes.Buffer
	cmd.Stderr = &says
	text, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return "", errors.New("--slurm: there is no sbatch here: run it where jobs are submitted to Slurm, or without --slurm")
	case err != nil:
		return "", fmt.Errorf("%s: %w: %s", quoted(args), err, strings.TrimSpace(says.String()))
	}
	id, _, _ := strings.Cut(strings.TrimSpace(string(text)), ";") // the cluster's name may follow
	return id, nil
}

// asksSlurm is how often --wait asks whether the jobs have ended.
const asksSlurm = 10 * time.Second

// waitForJobs waits until Slurm's queue has none of the jobs. What is wrong with Slurm for a while is no end.
func waitForJobs(ctx context.Context, jobs ...string) error {
	for wait := time.Second; ; wait = min(2*wait, asksSlurm) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		cmd := exec.CommandContext(ctx, "squeue", "-h", "-o", "%A", "-j", strings.Join(jobs, ","))
		var says bytes.Buffer
		cmd.Stderr = &says
		text, err := cmd.Output()
		if err == nil && len(bytes.TrimSpace(text)) == 0 || strings.Contains(says.String(), "Invalid job id") {
			return nil
		}
	}
}
